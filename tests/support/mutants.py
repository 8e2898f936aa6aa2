"""The program broken on purpose: copies of it in which one text is replaced, for simulations that must find the fault.

A native module that is changed is built anew in the copy, without the rest of the build.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.sanitizers import sanitizers

ROOT = Path(__file__).resolve().parent.parent.parent
DIRECTIVES = ("boundscheck", "wraparound", "initializedcheck", "embedsignature")


class Mutant(NamedTuple):
    """A fault: in which file, which text, by what, and what it does."""

    path: str
    old: str
    new: str
    fault: str


def copy(to: Path, packages: Sequence[str], files: Sequence[str] = ()) -> None:
    """The packages as they are, with what was built."""
    for package in packages:
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in files:
        shutil.copy(ROOT / file, to)


def apply(mutant: Mutant, place: Path) -> None:
    """Breaks a copy."""
    source = (ROOT / mutant.path).read_text()
    assert source.count(mutant.old) == 1, f"{mutant.path} holds {mutant.old!r} {source.count(mutant.old)} times"
    is_native = mutant.path.endswith(".pyx")
    if is_native and shutil.which("gcc") is None:
        pytest.skip("no gcc: native mutants can't be built")
    (place / mutant.path).write_text(source.replace(mutant.old, mutant.new))
    if is_native:
        _build(place, mutant.path)


def _build(place: Path, path: str) -> None:
    """One native module, in place."""
    source = place / path
    directives = ",".join(f"{name}=False" for name in DIRECTIVES) + ",cdivision=True,language_level=3"
    subprocess.run([sys.executable, "-m", "cython", "-X", directives, path], cwd=place, check=True, timeout=50)
    binary = source.with_suffix(str(sysconfig.get_config_var("EXT_SUFFIX")))
    binary.unlink()
    include = sysconfig.get_paths()["include"]
    command = ["gcc", "-shared", "-fPIC", "-O1", "-fno-strict-aliasing", "-w", f"-I{include}", f"-I{place}"]
    subprocess.run([*command, str(source.with_suffix(".c")), "-o", str(binary)], check=True, timeout=50)


def run_in(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A module of a copy, as `python -m` does."""
    environment = {"PYTHONPATH": str(place), **sanitizers()}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=50, check=False, env=environment)

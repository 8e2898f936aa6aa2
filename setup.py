"""Builds the native half: every ext/*.pyx becomes the module ext.<name>, beside its source.

`python setup.py build_ext --inplace` (or `make build`) translates and compiles only what changed. What decides about
code generation (this file, flags, versions) is kept in build/flags; when it differs everything is built anew.

GONETS_SANITIZE=address,undefined  instruments the modules; run with LD_PRELOAD="$(gcc -print-file-name=libasan.so)"
GONETS_DEBUG=1                     defines GONETS_DEBUG: counters of what is allocated, read by tests at their end

No -march=native (a binary runs on any machine of its architecture; CRC32C and the like are chosen at run time) and no
-ffast-math. Warnings of Cython are errors: they are mostly a forgotten exception contract or an unsafe cast.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

BUILD = Path("build")
MARK_OF_FAILURE_BYTES_MAX = 200  # a module with errors leaves a .c file of one `#error` line
SOURCES = sorted(Path("ext").glob("*.pyx"))
SANITIZE = os.environ.get("GONETS_SANITIZE", "")
DEBUG = os.environ.get("GONETS_DEBUG", "") not in ("", "0")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": False,
}
COMPILE = [
    "-O3",
    "-std=gnu11",
    "-fno-strict-aliasing",  # records and table entries are structs read in place, over byte buffers
    "-fvisibility=hidden",
    "-Werror=implicit-function-declaration",
    "-Werror=incompatible-pointer-types",
    "-Werror=int-conversion",
    "-Wno-sign-compare",  # loops that Cython writes
    "-Wno-unused-function",  # inline functions of a .pxd that this module doesn't call
]
LINK: list[str] = []
MACROS: list[tuple[str, str | None]] = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
if SANITIZE:
    COMPILE += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-O1", "-g"]
    LINK += [f"-fsanitize={SANITIZE}"]
if DEBUG:
    MACROS += [("GONETS_DEBUG", "1")]


def flags_text() -> str:
    """All that changes the machine code of every module."""
    from Cython.Compiler.Version import version as cython_version

    parts = (cython_version, sys.version, sysconfig.get_config_var("CFLAGS"), DIRECTIVES, COMPILE, LINK, MACROS)
    return "\n".join(map(repr, parts)) + "\n" + Path(__file__).read_text(encoding="utf-8")


class Module(Extension):
    """One module of ext/. Compared by identity: cythonize() puts modules into sets, a plain Extension has no hash."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def remove_orphans() -> None:
    """A module whose source was deleted or renamed must not be importable any more."""
    names = {source.stem for source in SOURCES}
    for binary in Path("ext").glob("*.so"):
        if binary.name.split(".")[0] not in names:
            binary.unlink()


class BuildExt(build_ext):
    """Translates in parallel, then compiles in parallel; one build at a time in a checkout."""

    def run(self) -> None:
        """Runs both steps under a lock, so that two builds side by side don't write each other's files."""
        if self.editable_mode:  # `pip install -e .` brings the command, `make build` the modules
            self.extensions: list[Module] = []
            return
        BUILD.mkdir(exist_ok=True)
        with open(BUILD / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._run_locked()

    def _run_locked(self) -> None:
        stamp, flags = BUILD / "flags", flags_text()
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != flags:
            print(f"gonets: translating and compiling {len(SOURCES)} native modules: a minute or two", flush=True)
            for made in (BUILD / "cython", Path(self.build_lib), Path(self.build_temp)):
                shutil.rmtree(made, ignore_errors=True)
            stamp.write_text(flags, encoding="utf-8")
        jobs = min(len(os.sched_getaffinity(0)), 8)
        self.parallel: int = jobs
        translated = {module.name: module for module in translate(self.extensions, jobs)}
        failed = [module.name for module in self.extensions if module.name not in translated]
        self.extensions = [module for module in self.extensions if module.name in translated]
        for module in self.extensions:  # cythonize() returns copies, without what setuptools has noted on ours
            module.sources, module.depends = translated[module.name].sources, translated[module.name].depends
        super().run()
        remove_orphans()
        if failed:
            raise SystemExit(f"gonets: not built: {', '.join(failed)} (errors above); the others are")


def translate(extensions: list[Extension], jobs: int) -> list[Any]:
    """From .pyx to build/cython/ext/*.c; a module with errors is left out, so that it doesn't keep the others back."""
    from Cython.Build import cythonize
    from Cython.Compiler import Options

    for translated in BUILD.glob("cython/ext/*.c"):
        if translated.stat().st_size < MARK_OF_FAILURE_BYTES_MAX:
            translated.unlink()  # else it would look up to date, and the errors wouldn't be shown again
    Options.warning_errors = True
    multiprocessing.set_start_method("fork", force=True)  # the workers inherit the option above
    modules: list[Any] = cythonize(
        extensions,
        build_dir=str(BUILD / "cython"),
        compiler_directives=DIRECTIVES,
        exclude_failures=True,
        nthreads=jobs,
    )
    return modules


setup(
    ext_modules=[
        Module(
            f"ext.{source.stem}",
            [str(source)],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
            define_macros=MACROS,
        )
        for source in SOURCES
    ],
    cmdclass={"build_ext": BuildExt},
)

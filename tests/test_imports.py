"""Imports run one way, and through faces: bench → gateway → engine → ext; adapters know the engine only.

The direction is import-linter's (pyproject.toml). What it can't say is held here: from outside, a package is what its
`__init__.py` names in `__all__`. `gonets.py` puts everything together and may import everything.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import PACKAGES, ROOT, files, read

WITH_FACE = ("engine", "gateway", "signing", "state_services")

# Who may reach behind a face, and how deep: path or folder → modules, with what lies below them. May only shrink.
BEHIND_THE_FACE: dict[str, set[str]] = {
    "bench": {
        "gateway.auth",
        "gateway.client_codec",
        "gateway.client_types",
    },
    "bench/simulation": {"engine", "gateway"},  # a second composition root: it takes the steps of what gonets.py starts
    "bench/flips": {"engine"},  # opens, reads and checks damaged files, below what the face shows
    "bench/torture": {"engine"},  # opens, trims and backs up what the command line does
    "tests/api": {"engine", "gateway"},
    "tests/bench": {"engine", "gateway"},
    "tests/fanout": {"engine"},
    "tests/gateway": {"engine", "gateway"},
    "tests/sequencer": {"engine"},
    "tests/state": {"engine"},
    "tests/support": {"engine", "gateway"},
    "tests/ext": {"gateway"},
    "tests/log": {"engine"},
    "tests/processes": {"engine", "gateway"},
    "tests/tls": {"gateway"},
    "tests/fuzz": {"engine", "gateway"},
    "tests/overload": {"engine", "gateway"},
    "tests/subscriptions": {"engine", "gateway"},
}

Import = tuple[int, str, str]  # line, module, name ("" for `import module`)


def imports(source: str) -> Iterator[Import]:
    """Every import of a Python file, also those inside functions and TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.lineno, node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level, node.names[0].name


def face(package: str) -> set[str]:
    """The names in `__all__` of a package, read without importing it."""
    for node in ast.parse(read(Path(package) / "__init__.py")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return set(names)
    return set()


def behind(source: str, package: str, faces: dict[str, set[str]]) -> Iterator[tuple[int, str]]:
    """(line, dotted thing) of what a file of `package` imports from behind another package's face."""
    for line, module, name in imports(source):
        owner = module.split(".")[0]
        if owner == package or owner not in faces:
            continue
        if module == owner and (not name or name in faces[owner]):
            continue
        yield line, f"{module}.{name}" if module == owner else module


def allowed(path: Path, thing: str) -> str | None:
    """The entry of the list that lets a file import a thing, as `holder → module`."""
    for holder, modules in BEHIND_THE_FACE.items():
        if path == Path(holder) or Path(holder) in path.parents:
            for module in modules:
                if thing == module or thing.startswith(f"{module}."):
                    return f"{holder} → {module}"
    return None


def test_direction_of_imports() -> None:
    """The contracts of pyproject.toml."""
    command = [Path(sys.executable).parent / "lint-imports"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_package_is_what_its_face_names() -> None:
    """Nobody reaches behind a face but those listed, and the list holds nobody who doesn't."""
    faces = {package: face(package) for package in WITH_FACE}
    found, used = [], set()
    for path in files(".py"):
        if path == Path("gonets.py"):
            continue
        for line, thing in behind(read(path), path.parts[0], faces):
            if entry := allowed(path, thing):
                used.add(entry)
            else:
                found.append(f"{path}:{line}: {thing} is not on the face of {thing.split('.')[0]}")
    listed = {f"{holder} → {module}" for holder, modules in BEHIND_THE_FACE.items() for module in modules}
    assert not found
    unused = sorted(listed - used)
    assert not unused, "take these off the list"


def test_no_relative_imports() -> None:
    """One way to write an import, so that a reader can search for it."""
    assert not [
        f"{path}:{line}" for path in files(".py") for line, module, _ in imports(read(path)) if module[0] == "."
    ]


def foreign_cimports(source: str) -> list[str]:
    """Packages of ours, other than ext, that Cython source names in an import."""
    others = "|".join(package for package in (*PACKAGES, "tests", "gonets") if package != "ext")
    return re.findall(rf"^\s*(?:from|import|cimport)\s+({others})\b", source, re.M)


def test_ext_imports_nothing_of_ours() -> None:
    """import-linter doesn't read Cython."""
    assert not [path for path in files(".pyx", ".pxd", ".pyi") if foreign_cimports(read(path))]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import engine", []),
        ("from engine import Engine", []),
        ("from engine import secrets", ["engine.secrets"]),
        ("from engine.log import Log", ["engine.log"]),
        ("import engine.log", ["engine.log"]),
        ("def f():\n    from engine.log import Log", ["engine.log"]),
        ("from gateway.auth import KeySet", []),
        ("from enginery import x", []),
    ],
)
def test_reaching_behind_a_face_is_found(line: str, found: list[str]) -> None:
    """The check bites: as seen from a file of gateway, whose own modules are its own business."""
    assert [thing for _, thing in behind(line, "gateway", {"engine": {"Engine"}, "gateway": set()})] == found


def test_foreign_cimports_are_found() -> None:
    """The check bites, and knows whole words."""
    assert foreign_cimports("from engine.errors import X\n    import gateway\nfrom ext.ring cimport Ring\n") == [
        "engine",
        "gateway",
    ]
    assert not foreign_cimports("from enginery import x\nfrom libc.string cimport memcpy\n")

"""The files of this project, for tests that read them as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("bench", "engine", "ext", "gateway", "signing", "state_services")
FOLDERS = (*PACKAGES, "tests")
TOP = ("gonets.py", "setup.py", "pyproject.toml", "Makefile", "README.md", ".ci/prepare", ".ci/run", ".gitignore")
TEXT = {".py", ".pyx", ".pxd", ".pyi", ".md", ".toml", ".json", ".txt", ".yaml", ".sh"}


def files(*suffixes: str) -> Iterator[Path]:
    """Paths relative to the root, in order, of all files of these suffixes; of all text files without an argument."""
    wanted = set(suffixes) or TEXT
    for name in TOP:
        path = ROOT / name
        if path.exists() and (path.suffix in wanted or not suffixes):
            yield Path(name)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in wanted and "__pycache__" not in path.parts and path.is_file():
                yield path.relative_to(ROOT)


def read(path: Path) -> str:
    """The text of a file given relative to the root."""
    return (ROOT / path).read_text(encoding="utf-8")

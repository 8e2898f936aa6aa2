"""The native half of Gonets: Cython modules that take and give ints and bytes, and know no policy and no configuration.

Imports nothing of ours outside itself. A module that has not been built (or was built for another Python) is an
ImportError that says what to do; there is no fallback in Python.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class _NotBuilt(MetaPathFinder):
    """Asked last, when no other finder knows the module: a source without its binary has not been built."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package == __name__ and (Path(__file__).parent / f"{name}.pyx").exists():
            raise ImportError(
                f"{fullname} is not built for {sys.implementation.cache_tag}: run `make build`", name=fullname
            )
        return None


sys.meta_path.append(_NotBuilt())

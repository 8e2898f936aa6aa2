"""The face of each package: sorted, importable, and every name says what it is."""

from __future__ import annotations

import importlib
import types

import pytest

from tests.support.tree import PACKAGES

PLAIN = (int, float, str, bytes, tuple, frozenset, dict)  # constants carry no docstring of their own


def order(name: str) -> tuple[int, str]:
    """Constants, classes, functions; each by alphabet (the order that ruff keeps too)."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def problems(module: types.ModuleType) -> list[str]:
    """What is wrong with the face of a package."""
    names = list(getattr(module, "__all__", ()))
    found = []
    if names != sorted(names, key=order):
        found.append(f"{module.__name__}.__all__ is not sorted: {sorted(names, key=order)}")
    if len(names) != len(set(names)):
        found.append(f"{module.__name__}.__all__ names something twice")
    for name in names:
        try:
            value = getattr(module, name)
        except (AttributeError, ImportError) as error:
            found.append(f"{module.__name__}.{name} can't be imported: {error}")
            continue
        own = getattr(value, "__doc__", None)
        inherited = isinstance(value, type) and own == value.__mro__[1].__doc__
        if not isinstance(value, PLAIN) and (not own or inherited):
            found.append(f"{module.__name__}.{name} has no docstring")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_face(package: str) -> None:
    """`__all__` is sorted, each name is there and documented."""
    assert not problems(importlib.import_module(package))


class Documented:
    """Has one."""


class Undocumented(Documented):
    __doc__ = None


def test_each_fault_of_a_face_is_found() -> None:
    """The check bites."""
    module = types.ModuleType("made_up")
    module.__dict__.update(Documented=Documented, Undocumented=Undocumented, LIMIT=3, run=order)
    module.__dict__["__all__"] = ["LIMIT", "Documented", "run"]
    assert problems(module) == []
    module.__dict__["__all__"] = ["run", "Absent", "Undocumented", "run"]
    assert [text.split(" ", 1)[1][:12] for text in problems(module)] == [
        "is not sorte", "names someth", "can't be imp", "has no docst"]  # fmt: skip

"""Each check of tests/test_tidy.py bites: a bad snippet is found, a good one isn't."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from msgspec import Meta

from tests import test_tidy
from tests.support import tidy_cython, tidy_python

LONG_BODY = "\n    x = 1" * 70


@pytest.mark.parametrize(
    ("identifier", "found"),
    [
        ("inbox", True), ("ChatList", True), ("topics", True), ("subscriber_count", True), ("conversation_id", True),
        ("event_offset", True), ("last_seq", True), ("msg", True), ("participants", True), ("chat_members", True),
        ("offset", False), ("byte_offset", False), ("offset_table", False), ("header_offset_bytes", False),
        ("sequence", False), ("has_room", False), ("kafka_offset", False), ("MSG_NOSIGNAL", False), ("pose", False),
    ],
)  # fmt: skip
def test_synonyms(identifier: str, found: bool) -> None:
    """A synonym is found as a whole word of the identifier, in both languages."""
    assert bool(list(tidy_python.wrong_words(f"{identifier} = 1\n"))) == found
    assert bool(list(tidy_cython.wrong_words(f"cdef int {identifier} = 1\n"))) == found


def test_synonyms_in_text_are_not_identifiers() -> None:
    """Prose may say what it likes."""
    text = '"""An inbox."""\nx = "chat"  # a chat\n'
    assert not list(tidy_python.wrong_words(text))
    assert not list(tidy_cython.wrong_words(text))


def test_docstrings() -> None:
    """None, and one of 16 lines, are found in both languages."""
    assert list(tidy_python.docstring_complaints("x = 1\n"))
    assert list(tidy_python.docstring_complaints('"""A.\n' + "b\n" * 15 + '"""\n'))
    assert not list(tidy_python.docstring_complaints('"""A."""\n'))
    assert tidy_cython.docstring_lines("# cython: x=1\ncdef int x\n") == 0
    assert tidy_cython.docstring_lines('# cython: x=1\n"""A.\n\nB.\n"""\n') == 3


def test_lengths_of_functions() -> None:
    """Counted from the def to the last statement, nested ones in their outer one, also behind a wrapped signature."""
    python = f"class A:\n  def f(self):{LONG_BODY}\n\n\ndef g():\n    def h():\n        return 1\n    return h\n"
    assert [(name, lines) for name, _, lines in tidy_python.function_lengths(python)] == [
        ("A.f", 71), ("g", 4), ("g.h", 2)]  # fmt: skip
    cython = (
        f"cdef int f(int a,\n           int b) except -1:{LONG_BODY}\n\n# a comment\n\ncdef class A:\n"
        "    cdef int later(self) except -1\n    def g(self):\n        return 1\n\n    cdef void h(self) noexcept:\n"
        "        if self:\n            pass\n"
    )
    assert list(tidy_cython.function_lengths(cython)) == [("f", 1, 72), ("g", 78, 2), ("h", 81, 3)]


def test_the_lists_of_exceptions_only_shrink() -> None:
    """New, grown, shrunk and gone are each told; what is as listed isn't."""
    assert test_tidy.ratchet({"same": 510}, {"same": 510}) == []
    told = test_tidy.ratchet({"new": 501, "grown": 601, "less": 501}, {"grown": 600, "less": 502, "gone": 700})
    assert [line.split(":")[0] for line in told] == ["gone", "grown", "less", "new"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cdef int f(int a):", True),
        ("cdef int f(int a) nogil:", True),
        ("cdef Thing *f(self) nogil", True),
        ("cdef inline bint f(const uint8_t[::1] a,\n        int b=(1 + 2)):", True),
        ("cpdef uint64_t f(self):", True),
        ("cdef void f(int a) nogil:", True),
        ("cdef Shape f(self)", True),
        ("cdef int f(int a) except -1:", False),
        ("cdef int f(int a) except? -1 nogil:", False),
        ("cdef void *f(size_t n) except NULL nogil", False),
        ("cdef void f() noexcept nogil:", False),
        ("cdef f(self):", False),
        ("cdef bytes f(self):", False),
        ("cdef Thing f(self):", False),
        ("cdef class Thing(Base):", False),
        ("cdef int a = g(1)", False),
        ("cdef int (*callback)(int a) noexcept nogil", False),
        ("cdef uint8_t at[16]", False),
    ],
)
def test_exception_contracts(line: str, found: bool) -> None:
    """Functions that return C values without a contract are found; objects, variables and classes aren't."""
    assert bool(list(tidy_cython.contract_complaints(line + "\n", {"Thing"}))) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("    with nogil:\n        run()\n", True),
        ("    with nogil:  # quick\n        run()\n", True),
        ('    "no Python objects"\n    with nogil:\n        run()\n', True),
        ("    with nogil:  # no Python objects: block is pinned\n        run()\n", False),
        ("    # no Python objects: block is pinned\n    # by its view\n    with nogil:\n        run()\n", False),
        ("    with nogil:\n        # no Python objects: block is pinned\n        run()\n", False),
        ('    """Runs with nogil: fast."""\n', False),
    ],
)
def test_nogil_comments(text: str, found: bool) -> None:
    """The comment is on the line, above it or first in the block."""
    assert bool(list(tidy_cython.nogil_complaints(text))) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('include "other.pyx"', True),
        ("DEF N = 4", True),
        ("IF N:", True),
        ('cdef extern from "x.h":', True),
        ("cdef extern from *:", True),
        ("DEF_N = 4", False),
        ("from ext.c_socket cimport c_send", False),
        ('x = "cdef extern"', False),
    ],
)
def test_text_of_cython(line: str, found: bool) -> None:
    """Inclusion, compile-time conditions, foreign C."""
    assert bool(list(tidy_cython.textual_complaints(line + "\n", False))) == found


def test_foreign_c_has_its_place() -> None:
    """ext/c_*.pxd may declare it."""
    assert not list(tidy_cython.textual_complaints('cdef extern from "x.h":\n    int x\n', True))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("# return x", True),
        ("# if x > 1:", True),
        ("# self.run(x)", True),
        ("# s.position = place(x)", True),
        ("# from ext.ring cimport Ring", True),
        ("# while it lives, a row is pinned. Layouts:", False),
        ("# return of the prodigal session", False),
        ("# flags, little-endian", False),
        ('x = "# return x"', False),
    ],
)
def test_commented_out_code(line: str, found: bool) -> None:
    """Statements are found, sentences aren't."""
    assert bool(list(tidy_cython.commented_code(line + "\n"))) == found


def test_leftovers() -> None:
    """A mark needs the number of an issue."""
    assert [n for n, _ in test_tidy.leftovers("# TODO later\n# TODO(#12) later\n# FIXME #7\nTODOS = 1\n# XXX\n")] == [
        1,
        5,
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /somewhere/project/file", True),
        ('Path("/home/ann/x")', True),
        ("`/root/x`", True),
        ("/usr/bin/python3 and /proc/self/maps", False),
        ("--trace /path/to/trace", False),
        ("../shared/data and engine/log/check.py and and/or", False),
        ("https://example.org/somewhere/else", False),
        ("GET /metrics", False),
    ],
)
def test_machine_paths(text: str, found: bool) -> None:
    """Absolute paths below the system's own directories are fine, others aren't."""
    assert bool(list(test_tidy.machine_paths(text))) == found


@pytest.mark.parametrize(
    ("name", "kind", "unit", "found"),
    [
        ("drain", int, "s", True),
        ("drain_s", int, "s", False),
        ("max_bytes_frame", int, "bytes", True),
        ("frame_bytes_max", int, "bytes", False),
        ("rate", float, "1/s", True),
        ("rate_per_s", float, "1/s", False),
        ("pool", int, "threads", True),
        ("pool_threads", int, "threads", False),
        ("sessions_max", int, "sessions", False),
        ("count", int, "", True),
        ("keys", str, "path", False),
    ],
)
def test_units_of_options(name: str, kind: type, unit: str, found: bool) -> None:
    """Numbers carry their unit last."""
    annotated: Any = Annotated[kind, Meta(description="what it does", extra={"unit": unit})]
    assert bool(list(test_tidy.field_complaints("section", {name: annotated}))) == found


def test_options_need_a_meaning() -> None:
    """A bare field is found."""
    assert list(test_tidy.field_complaints("section", {"drain_s": int}))

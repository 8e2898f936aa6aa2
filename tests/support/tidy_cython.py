"""The habits of Cython files, as functions from source text to complaints. tests/test_tidy.py applies them.

Cython has no parser that could be used from outside without building, so these read logical lines: comments and
strings blanked, lines joined inside brackets. That is enough for the regular form in which ext/ is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.tidy_python import Complaint, synonym

STRING = re.compile(r'("""|\'\'\')(?:\\.|(?!\1).)*\1|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|(#[^\n]*)', re.S)
FUNCTION = re.compile(r"(?:cdef|cpdef)\s+(?P<head>[^=(]*?)(?P<name>\w+)\s*\((?!\s*\*)")
NOT_A_FUNCTION = re.compile(r"(?:cdef|cpdef)\s+(?:class|enum|struct|union|packed|extern|cppclass|fused)\b")
QUALIFIERS = {"inline", "public", "api", "readonly", "static"}
PYTHON_TYPES = {"", "object", "bytes", "str", "list", "dict", "tuple", "set", "frozenset", "bytearray", "memoryview"}
CODE_IN_COMMENT = re.compile(
    r"#\s*(?:(?:cdef|cpdef|def|class|with|for|while|elif|if|try|else)\b(?:(?!\. |, ).)*:\s*$"
    r"|(?:return|raise|yield|del|assert)\s+[\w.\[\]()<>*&]+\s*$"
    r"|(?:from\s+[\w.]+\s+c?import|c?import)\s+[\w.]+"
    r"|[\w.\[\]]+\s*[-+*|&^]?=\s*[\w.]+\(.*\)\s*$"
    r"|[\w.]+\([^)]*\);?\s*$)"
)


def blanked(source: str, comments: bool = True) -> str:
    """The source with the inside of strings (and comments) gone, line numbers kept."""

    def blank(found: re.Match[str]) -> str:
        if found[2] and not comments:
            return found[0]
        return ("" if found[2] else '""') + "\n" * found[0].count("\n")

    return STRING.sub(blank, source)


def logical_lines(source: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, text with its indentation), joined while a bracket is open."""
    start, depth = 0, 0
    parts: list[str] = []
    for number, line in enumerate(blanked(source).splitlines(), 1):
        if not parts:
            start = number
        parts.append(line.rstrip() if not parts else line.strip())
        depth += sum(line.count(c) for c in "([{") - sum(line.count(c) for c in ")]}")
        if depth <= 0:
            if text := " ".join(parts).rstrip():
                yield start, text
            parts, depth = [], 0


def classes_of(source: str) -> set[str]:
    """Names of the extension classes of a file: functions that return them return Python objects."""
    return set(re.findall(r"^\s*cdef\s+(?:final\s+)?class\s+(?:\w+\.)*(\w+)", source, re.M))


def signatures(source: str) -> Iterator[tuple[int, str, str, str]]:
    """(line, name, type it returns, what follows the parameters) of each cdef and cpdef function."""
    for number, text in logical_lines(source):
        line = text.strip()
        if NOT_A_FUNCTION.match(line) or not (found := FUNCTION.match(line)):
            continue
        depth, at = 1, found.end()
        while at < len(line) and depth:
            depth += {"(": 1, ")": -1}.get(line[at], 0)
            at += 1
        kind = " ".join(word for word in found["head"].split() if word not in QUALIFIERS)
        yield number, found["name"], kind, line[at:].strip()


def contract_complaints(source: str, classes: set[str]) -> Iterator[Complaint]:
    """Each native function says what an exception looks like, or that it raises none."""
    for number, name, kind, tail in signatures(source):
        returns_object = kind in PYTHON_TYPES or kind in classes
        if not returns_object and not re.search(r"\b(except|noexcept)\b", tail):
            yield number, f"{name} returns {kind}: add its exception contract (except -1, except NULL, noexcept)"


def nogil_complaints(source: str) -> Iterator[Complaint]:
    """Each nogil block says what is pinned while it runs."""
    lines = source.splitlines()
    code = blanked(source).splitlines()
    for i, line in enumerate(code):
        if not re.match(r"\s*with\s+nogil\b", line):
            continue
        around = [lines[i], *lines[i + 1 : i + 2]]
        for before in reversed(lines[:i]):  # a comment above may be a paragraph
            if not before.lstrip().startswith("#"):
                break
            around.append(before)
        if not any("#" in text and "no Python objects" in text.split("#", 1)[1] for text in around):
            yield i + 1, "with nogil: needs a comment `no Python objects: <what is pinned>`"


def textual_complaints(source: str, foreign_allowed: bool) -> Iterator[Complaint]:
    """No textual inclusion, no compile-time conditions, foreign C only where it belongs."""
    for number, text in logical_lines(source):
        line = text.strip()
        if re.match(r"include\s+\"", line):
            yield number, "include: use cimport and a .pxd"
        if re.match(r"(DEF|IF|ELIF|ELSE)\b", line):
            yield number, f"{line.split()[0]}: use an enum, a constant, or a C macro in ext/c_*.pxd"
        if re.match(r"cdef\s+extern\b", line) and not foreign_allowed:
            yield number, "cdef extern: declarations of foreign C live in ext/c_*.pxd"


def commented_code(source: str) -> Iterator[Complaint]:
    """Comment lines that are statements."""
    for number, line in enumerate(blanked(source, comments=False).splitlines(), 1):
        if line.lstrip().startswith("#") and CODE_IN_COMMENT.match(line.strip()):
            yield number, f"commented-out code: {line.strip()}"


def docstring_lines(source: str) -> int:
    """Lines of the module docstring of a .pyx; 0 if there is none."""
    found = re.match(r'(?:\s*#[^\n]*\n|\s*\n)*\s*"""(.*?)"""', source, re.S)
    return len(found[1].strip().splitlines()) if found else 0


def function_lengths(source: str) -> Iterator[tuple[str, int, int]]:
    """(name, first line, lines) of each function with a body, by indentation."""
    lines = list(logical_lines(source))
    end_of = [number - 1 for number, _ in lines[1:]] + [source.count("\n") + 1]
    for i, (number, text) in enumerate(lines):
        line = text.strip()
        named = re.match(r"(?:async\s+)?def\s+(\w+)", line) or (
            None if NOT_A_FUNCTION.match(line) else FUNCTION.match(line)
        )
        if not named or not line.endswith(":"):
            continue
        indent = len(text) - len(text.lstrip())
        last = i
        while last + 1 < len(lines) and len(lines[last + 1][1]) - len(lines[last + 1][1].lstrip()) > indent:
            last += 1
        body_end = lines[last][0] if last == i else _last_line(source, lines[last][0], end_of[last])
        yield named.groupdict().get("name") or named[1], number, body_end - number + 1


def _last_line(source: str, start: int, end: int) -> int:
    """The last line with anything but comments in start … end (1-based)."""
    lines = blanked(source).splitlines()
    return max((n for n in range(start, min(end, len(lines)) + 1) if lines[n - 1].strip()), default=start)


def wrong_words(source: str) -> Iterator[Complaint]:
    """Identifiers that use another word for one of DESIGN's; each once."""
    seen: set[str] = set()
    for number, line in enumerate(blanked(source).splitlines(), 1):
        for name in set(re.findall(r"[A-Za-z_]\w*", line)) - seen:
            seen.add(name)
            if complaint := synonym(name):
                yield number, complaint

"""The habits of this project that a machine can see, held for every file. What the checks are: tests/support/tidy_*.py.

The lists of exceptions may only shrink: an entry that is no longer needed, or larger than needed, is a failure too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from tests.support import tidy_cython, tidy_python
from tests.support.tidy_python import DOCSTRING_LINES_MAX, FUNCTION_LINES_MAX, Complaint
from tests.support.tree import ROOT, files, read

FILE_LINES_MAX = 500

# path → lines today; path:function → lines today; path → docstring lines today
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}
LONG_DOCSTRINGS = {"engine/errors.py": 17}
WITHOUT_PAGES: dict[str, str] = {}  # path → the page that lacks

CYTHON = (".pyx", ".pxd")


def complaints(paths: Iterable[Path], check: Callable[[str], Iterable[Complaint]]) -> list[str]:
    """What a check says about files, as path:line: words."""
    return [f"{path}:{line}: {words}" for path in paths for line, words in check(read(path))]


def ratchet(found: dict[str, int], allowed: dict[str, int]) -> list[str]:
    """What is too long and not listed, longer than listed, or listed and shorter."""
    problems = []
    for name in sorted(found.keys() | allowed.keys()):
        now, listed = found.get(name), allowed.get(name)
        if listed is None:
            problems.append(f"{name}: {now} lines are too many: divide it")
        elif now is None:
            problems.append(f"{name}: short enough now: take it off the list")
        elif now > listed:
            problems.append(f"{name}: has grown from {listed} to {now} lines: divide it")
        elif now < listed:
            problems.append(f"{name}: has shrunk from {listed} to {now} lines: lower its entry")
    return problems


def test_files_are_at_most_500_lines() -> None:
    """Habit 4: a longer file has more than one role."""
    lengths = {str(path): len(read(path).splitlines()) for path in files(".py", *CYTHON, ".pyi")}
    assert not ratchet({path: n for path, n in lengths.items() if n > FILE_LINES_MAX}, LONG_FILES)


def long_functions() -> Iterator[tuple[str, int]]:
    """path:function and lines of the functions over the limit."""
    for path in files(".py", *CYTHON):
        checker = tidy_python if path.suffix == ".py" else tidy_cython
        for name, _, lines in checker.function_lengths(read(path)):
            if lines > FUNCTION_LINES_MAX:
                yield f"{path}:{name}", lines


def test_functions_are_at_most_70_lines() -> None:
    """Habit 4: what doesn't fit on a page isn't read."""
    assert not ratchet(dict(long_functions()), LONG_FUNCTIONS)


def test_every_file_says_first_what_it_is() -> None:
    """Habit 9: a module docstring of at most 15 lines; a .pxd opens with a comment."""
    long = {}
    missing = []
    for path in files(".py", ".pyx"):
        source = read(path)
        if path.suffix == ".pyx":
            lines = tidy_cython.docstring_lines(source)
            if not lines:
                missing.append(f"{path}: no module docstring")
            elif lines > DOCSTRING_LINES_MAX:
                long[str(path)] = lines
        else:
            for _, words in tidy_python.docstring_complaints(source):
                if found := re.search(r"of (\d+) lines", words):
                    long[str(path)] = int(found[1])
                else:
                    missing.append(f"{path}: {words}")
    missing += [f"{path}: opens without a comment" for path in files(".pxd") if not read(path).startswith(("#", '"""'))]
    assert not missing
    assert not ratchet(long, LONG_DOCSTRINGS)


def test_one_word_for_one_thing() -> None:
    """Habit 8: identifiers use the words of the README's table and not their synonyms."""
    python = [path for path in files(".py", ".pyi") if "kafka" not in path.name and not path.name.startswith("tidy_")]
    found = complaints(python, tidy_python.wrong_words) + complaints(files(*CYTHON), tidy_cython.wrong_words)
    assert not found


def leftovers(source: str) -> Iterator[Complaint]:
    """Marks of unfinished work without the number of an issue."""
    for number, line in enumerate(source.splitlines(), 1):
        for mark in re.finditer(r"\b(TODO|FIXME|XXX|HACK)\b(?!\s*\(?#\d+)", line):
            yield number, f"{mark[1]} without an issue: write {mark[1]}(#12), or do it"


def test_no_unfinished_work_without_an_issue() -> None:
    """A mark that nobody has promised to come back to is noise."""
    assert not complaints((p for p in files() if not p.name.startswith("test_tidy")), leftovers)


def test_no_commented_out_code() -> None:
    """Habit 10, for Cython; ruff's ERA rules hold it for Python."""
    assert not complaints(files(*CYTHON), tidy_cython.commented_code)


def test_every_module_of_ext_has_its_pages() -> None:
    """Habit 22: .pxd is the contents page; .pyi says what Python may touch, where there is anything."""
    lacking = {}
    for path in files(".pyx"):
        if not (ROOT / path).with_suffix(".pxd").exists():
            lacking[str(path)] = ".pxd"
        source = tidy_cython.blanked(read(path))
        if (
            re.search(r"^(def|cpdef|class|cdef class)\b", source, re.M)
            and not (ROOT / path).with_suffix(".pyi").exists()
        ):
            lacking[str(path)] = ".pyi"
    assert lacking == WITHOUT_PAGES, "make the page, or take the entry off the list"


def test_no_textual_inclusion_and_foreign_c_in_its_place() -> None:
    """Habit 22: no `include`, no DEF/IF; `cdef extern` only in ext/c_*.pxd."""
    for path in files(*CYTHON):
        foreign = path.suffix == ".pxd" and path.name.startswith("c_")
        assert not complaints([path], partial(tidy_cython.textual_complaints, foreign_allowed=foreign))


def test_every_native_signature_shows_its_exception_contract() -> None:
    """Habit 23."""
    ours = [path for path in files(*CYTHON) if not path.name.startswith("c_")]
    classes = {name for path in ours for name in tidy_cython.classes_of(read(path))}
    assert not complaints(ours, lambda source: tidy_cython.contract_complaints(source, classes))


def test_every_nogil_block_says_what_is_pinned() -> None:
    """Habit 24."""
    assert not complaints(files(*CYTHON), tidy_cython.nogil_complaints)


SYSTEM = "bin|dev|etc|lib|opt|proc|run|sys|tmp|usr|var"
STAND_INS = "path|v1|api|components|channels"  # what a reader replaces, paths of URLs and inside documents
ABSOLUTE = re.compile(rf"(?<![\w.:/<>)}}\]*~$\\-])/(?!(?:{SYSTEM}|{STAND_INS})/)[A-Za-z][\w.-]*/[\w.{{-]*")


def machine_paths(source: str) -> Iterator[Complaint]:
    """Absolute paths that exist on somebody's machine only."""
    for number, line in enumerate(source.splitlines(), 1):
        for found in ABSOLUTE.finditer(line):
            yield number, f"{found[0]}: a path of one machine"


def test_no_paths_of_one_machine() -> None:
    """A file that names somebody's directories is wrong everywhere else."""
    outside = {".gitignore", "test_tidy.py", "test_tidy_checkers.py"}
    assert not complaints((path for path in files() if path.name not in outside), machine_paths)


# --- configuration ----------------------------------------------------------------------------------------------------

UNITS = {"s": "s", "ms": "ms", "us": "us", "bytes": "bytes", "1/s": "per_s"}
QUALIFIERS = ("max", "min")
PLAIN_NUMBERS = {"log.shard", "gateway.rate_burst"}  # an id; a number of commands beside rate_per_s


def field_complaints(section: str, fields: dict[str, Any]) -> Iterator[str]:
    """Names end in the unit (and max or min); each field has its meaning. `fields`: name → Annotated type."""
    for name, annotated in fields.items():
        dotted = f"{section}.{name}"
        meta = next((m for m in getattr(annotated, "__metadata__", ()) if getattr(m, "extra", None)), None)
        if meta is None or not meta.description:
            yield f"{dotted}: no meaning"
            continue
        kind = get_args(annotated)[0] if get_origin(annotated) else annotated
        if kind not in (int, float) or dotted in PLAIN_NUMBERS:
            continue
        unit = meta.extra.get("unit")
        bare = name
        for qualifier in QUALIFIERS:
            bare = bare.removesuffix(f"_{qualifier}")
        if not unit:
            yield f"{dotted}: a number without a unit"
        elif unit in UNITS and not f"_{bare}".endswith(f"_{UNITS[unit]}"):
            yield f"{dotted}: counted in {unit}, so its name ends in _{UNITS[unit]} (then _max or _min)"
        elif unit not in UNITS and bare == name and not name.endswith(f"_{unit}"):
            yield f"{dotted}: a number of {unit}: its name ends in _max, _min or _{unit}"


def test_options_are_named_by_their_unit() -> None:
    """Habit 7; and every option has a default: an empty configuration is valid."""
    from engine import Config

    Config()
    found: list[str] = []
    for section, struct in get_type_hints(Config).items():
        assert struct.__struct_config__.frozen, f"{section} can be changed after start"
        found += field_complaints(section, get_type_hints(struct, include_extras=True))
    assert not found

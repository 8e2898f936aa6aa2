"""What every command of the command line shares: one clear line for a mistake, JSON for programs, tables for people.

Used by gonets.py and by the files of commands that it mounts. Results go to stdout and nothing else does; everything
that is said on the way, progress bars too, goes to stderr.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import lmdb
import msgspec
from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine import config as configuration
from engine.lmdbfile import system_error
from engine.ports import OnProgress

ConfigFile = Annotated[Path | None, Parameter(help="TOML file; see `gonets config check` for what it may hold")]
DataDirectory = Annotated[str | None, Parameter(help="directory of log, state and cursors (default ./data)")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="print one JSON object instead")]

SHOW_S = 0.05  # between two looks of a bar
PIPE_WIDTH = 160  # of tables that no terminal shows


def fail(message: str) -> NoReturn:
    """One clear line, exit code 1."""
    print(f"gonets: {message}", file=sys.stderr)
    raise SystemExit(1)


USAGE = 2  # exit code of a command line that can't be understood


def run(app: App) -> None:
    """Runs the command that was typed; one that can't be understood is one clear line, exit code 2."""
    try:
        app(print_error=False, exit_on_error=False, help_on_error=False, verbose=False)
    except CycloptsError as error:
        print(f"gonets: {_usage(error)}", file=sys.stderr)
        raise SystemExit(USAGE) from None


def _usage(error: CycloptsError) -> str:
    """What is wrong with a command line: the command, the option or argument, and where it is explained."""
    verb = " ".join(error.command_chain or ())
    argument = error.argument
    if isinstance(error, MissingArgumentError) and argument is not None:
        about = f": {argument.parameter.help}" if argument.parameter.help else ""
        if error.keyword or argument.tokens:
            words = f"{error.keyword or argument.name} has no value{about}"
        elif argument.field_info.is_positional:
            words = f"the argument {argument.name.lstrip('-').upper()} is missing{about}"
        else:
            words = f"{argument.name} is missing{about}"
    elif isinstance(error, UnusedCliTokensError):
        words = f"{' '.join(map(repr, error.unused_tokens or ()))} can't be understood here"
    else:
        words = " ".join(str(error).split()).rstrip(".")
        words = words[:1].lower() + words[1:]
    where = f"gonets {verb} --help" if verb else "gonets --help"
    return f"{verb}: {words}; see `{where}`" if verb else f"{words}; see `{where}`"


WHAT_TO_DO: Final = {
    errno.EACCES: "run this as the user of the server, or name a place that this user may read and write",
    errno.EPERM: "name a place where this user may make directories",
    errno.EROFS: "name a place on a file system that can be written",
    errno.ENOSPC: "make room there, or name a place on another file system; run again, it goes on",
    errno.ENOENT: "name a directory that is there, or can be made",
    errno.ENOTDIR: "a file lies where a directory should be: name another place",
    errno.EEXIST: "something else lies there, a link that leads nowhere perhaps: name another place",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: "a link leads to itself: name another place",
    errno.EIO: "look at the disk and the kernel's messages",
}
WHAT_TO_DO[errno.EDQUOT] = WHAT_TO_DO[errno.ENOSPC]


def os_error(error: OSError, place: Path | None = None) -> str:
    """What the system refused, where, and what to do; `place` where the system doesn't say."""
    where = error.filename or place
    words = f"{where}: {error.strerror or error}" if where else f"{error.strerror or error}"
    advice = WHAT_TO_DO.get(error.errno or 0)
    return f"{words} ({advice})" if advice else words


def lmdb_error(error: lmdb.Error, place: Path) -> str:
    """The same where LMDB met it."""
    refused = system_error(error)
    return f"{place}: {error} (run `gonets log check`)" if refused is None else os_error(refused, place)


def load(config: Path | None, **flags: object) -> configuration.Loaded:
    """The configuration, with flags as section__field; a mistake in it is one line."""
    try:
        return configuration.load(config, os.environ, {name.replace("__", "."): value for name, value in flags.items()})
    except configuration.ConfigError as error:
        fail(str(error))


def print_json(value: object) -> None:
    """One object on one line."""
    print(json.dumps(value, ensure_ascii=False, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "__struct_fields__") or hasattr(value, "__dataclass_fields__"):
        return msgspec.to_builtins(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Rows for people."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    plain_console(PIPE_WIDTH).print(table)


def plain_console(pipe_width: int) -> Console:
    """One that prints text as it is: what stands in brackets is no style, and `:name:` no picture. A terminal has a
    width of its own."""
    return Console(width=None if sys.stdout.isatty() else pipe_width, markup=False, emoji=False)


def print_fields(found: dict[str, Any]) -> None:
    """A mapping for people: plain values as lines, lists of mappings as tables."""
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            print_table(name, value[0], (row.values() for row in value))
        else:
            print(f"{name}: {'none' if value is None or value == [] else value}")


def moment(time_us: int) -> str:
    """µs since 1970 for people; "" for 0, which is no moment."""
    try:
        return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC" if time_us else ""
    except (OverflowError, ValueError, OSError):  # of a damaged record
        return f"{time_us} µs"


@contextmanager
def progress_bars(*, is_wanted: bool = True) -> Iterator[OnProgress]:
    """What a long piece of work tells how far it is: bars on stderr where that is a terminal, else nothing."""
    if not is_wanted or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}
        shown_s = 0.0

        def on_progress(what: str, done: int, total: int) -> None:
            nonlocal shown_s
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            elif done < total and time.monotonic() - shown_s < SHOW_S:
                return  # work tells of every block
            shown_s = time.monotonic()
            progress.update(tasks[what], completed=done, total=max(total, 1))

        yield on_progress

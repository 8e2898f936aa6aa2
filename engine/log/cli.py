"""`gonets log …`: what an operator asks of a log and does with it, one command a verb, one file of engine/log each.

Mounted by gonets.py. A command is thin: it finds the data directory, calls the function of the file with its name, and
prints what comes back, for people or with --json for programs. Files are imported when their command is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, TypeVar

import lmdb
from cyclopts import App, Parameter

from engine import schema
from engine.console import (
    AsJson,
    ConfigFile,
    DataDirectory,
    fail,
    lmdb_error,
    load,
    moment,
    os_error,
    print_fields,
    print_json,
    print_table,
)
from engine.console import progress_bars as bars
from engine.errors import EngineError
from engine.log.acts import note_act
from engine.log.place import RESTORING

app = App(name="log", help="What the log holds, and what an operator does with it.")
Result = TypeVar("Result")

COLUMNS = (
    "sequence",
    "conversation",
    "conversation_sequence",
    "previous",
    "time",
    "sender",
    "device",
    "counter",
    "type",
    "payload_bytes",
)


def log_directory(config: Path | None, data: str | None) -> Path:
    """The data directory, which must hold a log."""
    path = Path(load(config, server__data=data).config.server.data)
    try:
        is_half = (path / RESTORING).exists()
        is_there = (path / "log").is_dir()
        if is_there:
            os.scandir(path / "log").close()
    except OSError as error:
        fail(os_error(error, path))
    if is_half:
        fail(f"{path} is half restored: {RESTORING} is in it (let `gonets log restore` end, or run it again)")
    if not is_there:
        what = "is a file, no directory" if path.is_file() else "holds no log" if path.is_dir() else "is not there"
        fail(f"--data {path} {what}: name the directory that `gonets serve --data` was given")
    return path


def done(call: Callable[[], Result], place: Path) -> Result:
    """Runs a function of engine/log; what it refuses is one line. `place`: what it works on."""
    try:
        return call()
    except BrokenPipeError:
        raise
    except EngineError as error:
        fail(str(error))
    except OSError as error:
        fail(os_error(error, place))
    except lmdb.Error as error:
        fail(lmdb_error(error, place))


@contextmanager
def resumable() -> Iterator[None]:
    """What ends by Ctrl-C in here has left its work to be gone on with."""
    try:
        yield
    except KeyboardInterrupt:
        print("gonets: interrupted; run the same command again, it goes on", file=sys.stderr)
        raise


def show(found: dict[str, Any], as_json: bool) -> None:
    """The result of a verb; exit code 1 if it has found something wrong."""
    print_json(found) if as_json else print_fields(found)
    if found.get("problems"):
        raise SystemExit(1)


@app.command
def stat(*, data: DataDirectory = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Segments, sequences, epochs, sizes. Can be used while the server runs."""
    from engine.log.stat import stat_log

    directory = log_directory(config, data)
    show(done(lambda: stat_log(directory), directory), as_json)


@app.command
def read(
    *,
    from_sequence: Annotated[int, Parameter(name="--from", help="first sequence")] = 1,
    limit: Annotated[int, Parameter(help="at most so many events")] = 20,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Events as they are stored. Payloads of messages are shown by their size only."""
    from engine.log.read import read_log

    directory = log_directory(config, data)
    events = done(lambda: list(read_log(directory, from_sequence, limit)), directory)
    if as_json:
        print_json({"events": events})
        return
    for event in events:
        if "time" in event:
            event["time"] = moment(event["time"])
    rows = ([event.get(name, "damaged" if name == "type" else "") for name in COLUMNS] for event in events)
    print_table(f"Events from {from_sequence}", COLUMNS, rows)


@app.command
def check(*, data: DataDirectory = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Derives every invariant again from the bytes; exit code 1 and the places if one doesn't hold."""
    from engine.log.check import check_log
    from engine.log.readers import pinned

    directory = log_directory(config, data)

    def work() -> dict[str, Any]:
        with pinned(directory, "check"), bars() as on_progress:
            return check_log(directory, None, on_progress)

    show(done(work, directory), as_json)


@app.command
def snapshot(
    *,
    only_list: Annotated[bool, Parameter(name="--list", negative="", help="take none, list what there is")] = False,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Takes a verified snapshot of the state, which a trimmed log can be opened from. Also while the server runs."""
    from engine.log.snapshot import snapshot_log

    directory = log_directory(config, data)
    with bars() as on_progress:
        found = done(lambda: snapshot_log(directory, only_list, on_progress), directory)
    show(found, as_json)


@app.command
def backup(
    target: Annotated[Path, Parameter(help="an empty directory, or one of earlier backups of this log")],
    *,
    bytes_per_s: Annotated[int, Parameter(help="read at most so much a second; 0 = as fast as it goes")] = 0,
    hold: Annotated[bool, Parameter(negative="", help="trimming keeps what is not in this backup yet")] = False,
    take_snapshot: Annotated[bool, Parameter(name="--snapshot", negative="", help="take a snapshot first")] = False,
    keep: Annotated[int, Parameter(help="how many backups to keep in the directory")] = 2,
    drop_trimmed: Annotated[
        bool, Parameter(negative="", help="leave out what the log has trimmed since; else the backup keeps it")
    ] = False,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Makes a backup, or brings one up to date, also while the server runs. Cut short, run it again: it goes on.

    Exit code 1 with `problems` where the log is damaged: the backup is made all the same, with the damage as it is.
    """
    from engine.log.backup import Options, backup_log

    directory = log_directory(config, data)
    options = Options(bytes_per_s, hold, take_snapshot, keep, drop_trimmed)
    with resumable(), bars() as on_progress:
        found = done(lambda: backup_log(directory, target, options, on_progress), target)
    show(found, as_json)


@app.command
def restore(
    source: Annotated[Path, Parameter(help="directory of a backup")],
    *,
    data: Annotated[str, Parameter(help="the new data directory; empty, or not there yet")],
    number: Annotated[int | None, Parameter(help="which backup of the directory; the newest if not said")] = None,
    bytes_per_s: Annotated[int, Parameter(help="copy at most so much a second; 0 = as fast as it goes")] = 0,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Makes a data directory from a backup, in a new epoch. Cut short, run it again: it goes on."""
    from engine.log.restore import restore_log

    loaded = load(config, server__data=data).config
    with resumable(), bars() as on_progress:
        found = done(
            lambda: restore_log(
                source,
                Path(loaded.server.data),
                number=number,
                segment_bytes=loaded.log.segment_bytes,
                bytes_per_s=bytes_per_s,
                on_progress=on_progress,
            ),
            Path(loaded.server.data),
        )
    show(found, as_json)


@app.command
def verify(
    place: Annotated[Path, Parameter(help="directory of a backup, or a data directory")],
    *,
    number: Annotated[int | None, Parameter(help="which backup of the directory; the newest if not said")] = None,
    as_json: AsJson = False,
) -> None:
    """Compares every file with its hash, then derives every invariant again; exit code 1 and where if one fails.

    Cut short, run it again within a day: it goes on.
    """
    from engine.log.verify import verify_log

    with resumable(), bars() as on_progress:
        found = done(lambda: verify_log(place, number, on_progress), place)
    show(found, as_json)


@app.command
def trim(
    *,
    below: Annotated[int | None, Parameter(help="segments with nothing from this sequence on")] = None,
    keep_bytes: Annotated[int | None, Parameter(help="the oldest, as long as so many bytes of log stay")] = None,
    keep_days: Annotated[float | None, Parameter(help="those whose newest event is older")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="only say what would go, and what holds the rest")] = False,
    force: Annotated[bool, Parameter(negative="", help="also what a durable reader still needs")] = False,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Removes whole segments at the log's beginning, below the older of two snapshots. Also beside a server."""
    from engine.log.trim import Wanted, trim_log

    for name, value in (("below", below), ("keep-bytes", keep_bytes), ("keep-days", keep_days)):
        if value is not None and value <= 0:
            fail(f"--{name} {value}: must be above 0")
    directory = log_directory(config, data)
    wanted = Wanted(below or 0, keep_bytes or 0, keep_days or 0)

    def begin(first: int, segments: int, size_bytes: int) -> None:
        note_act(directory, schema.ADMIN_TRIMMED, first=first, segments=segments, bytes=size_bytes, force=force)

    with bars() as on_progress:
        found = done(
            lambda: trim_log(directory, wanted, dry_run=dry_run, force=force, on_progress=on_progress, on_begin=begin),
            directory,
        )
    show(found, as_json)


@app.command
def dump(
    output: Annotated[Path | None, Parameter(help="file to write, or to go on with; stdout if not said")] = None,
    *,
    from_sequence: Annotated[int, Parameter(name="--from", help="first sequence")] = 1,
    to_sequence: Annotated[int | None, Parameter(name="--to", help="last sequence; the newest now if not said")] = None,
    data: DataDirectory = None,
    config: ConfigFile = None,
) -> None:
    """Every event as a line of JSON, payloads in base64. Cut short, run it again with the same file: it goes on."""
    from engine.log.dump import dump_log

    directory = log_directory(config, data)
    if to_sequence is not None and to_sequence < 1:
        fail(f"--to {to_sequence}: sequences begin at 1")
    whole = resumable() if output is not None else nullcontext()
    # On a terminal, events and a bar would be written over each other.
    with whole, bars(is_wanted=output is not None or not sys.stdout.isatty()) as on_progress:
        try:
            found = done(
                lambda: dump_log(directory, output or sys.stdout.buffer, from_sequence, to_sequence or 0, on_progress),
                output or Path("stdout"),
            )
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    if output is not None:
        print_fields(found)


@app.command
def readers(
    *,
    forget: Annotated[str | None, Parameter(help="trimming no longer asks the reader of this name")] = None,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Durable readers: who still needs which part of the log."""
    import msgspec

    from engine.log.readers import forget_reader
    from engine.log.readers import readers as listed

    directory = log_directory(config, data)
    if forget is not None:
        if any(row.name == forget for row in done(lambda: listed(directory), directory)):
            done(lambda: note_act(directory, schema.ADMIN_READER_FORGOTTEN, reader=forget), directory)
        done(lambda: forget_reader(directory, forget), directory)
    rows = done(lambda: listed(directory), directory)
    if as_json:
        print_json({"data": str(directory), "readers": msgspec.to_builtins(rows)})
        return
    print_table(
        f"Durable readers of {directory}" if rows else f"{directory} has no durable readers",
        ("name", "kind", "has everything up to", "last word", "detail"),
        ((row.name, row.kind, row.position, moment(row.time), row.detail) for row in rows),
    )

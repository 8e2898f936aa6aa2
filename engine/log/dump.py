"""`gonets log dump`: every event as a line of JSON, for whatever reads lines of JSON. Also beside a running server.

A line holds shard, epoch, sequence and the other fields of a record by name; the payload in base64 (`payload`), and of
control events and those of subscriptions, whose schema is the engine's, also as data (`data`); the key of a service's
publish, if it has one, in hex (`key`). Numbers are below 2^53. An event that can't be read has a line with `damaged`
and why. It is the whole content of the log: keep it as the log is kept.

Invariants: into a file, every line that ends is whole; cut short and run again, the dump goes on behind the last one,
and only if that is an event of this log. Cost: decoding each record, 100,000 to 200,000 events a second.
"""

from __future__ import annotations

import fcntl
import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from engine.conversations import is_system
from engine.errors import BadArgument, EngineUnable
from engine.log.acts import note_act
from engine.log.damage import events_after, last_known
from engine.log.reader import Reader
from engine.log.readers import pinned
from engine.log.verbs import opened
from engine.ports import OnProgress
from engine.private import opener
from engine.schema import ADMIN_DUMPED
from ext.record import Record, decode, record_key

SEQUENCE_MAX: Final = 2**53 - 1
READ_BYTES: Final = 4 << 20
TAIL_BYTES: Final = 1 << 20  # a line is at most some 90 KB
START: Final = b'{"shard":'
CONTROL: Final = ("conversation.", "member.")

_encode = msgspec.json.Encoder().encode


def dump_log(
    data: Path,
    out: Path | IO[bytes],
    from_sequence: int = 1,
    to_sequence: int = 0,
    on_progress: OnProgress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Writes events up to `to_sequence` (0: the last one now); what was written. A path is gone on with, or made.

    Raises BadArgument, Trimmed where the log begins later than `from_sequence`, and, behind all that can be read,
    LogDamaged at damage whose end is not known.
    """
    for name, value in (("from", from_sequence), ("to", to_sequence)):
        if not 0 <= value <= SEQUENCE_MAX or (name == "from" and value < 1):
            raise BadArgument(f"--{name} {value}: must be 1 to {SEQUENCE_MAX} (2^53-1)")
    if to_sequence and to_sequence < from_sequence:
        raise BadArgument(f"--to {to_sequence}: must not be below --from {from_sequence}")
    if isinstance(out, Path) and out.exists() and not out.is_file():  # a device may have no end to look for
        raise BadArgument(f"{out} is no regular file", hint="name a file, or none and redirect stdout")
    if isinstance(out, Path) and data.resolve() in out.resolve().parents:
        raise BadArgument(f"{out} lies in the data directory {data}", hint="name a file elsewhere")
    with pinned(data, "dump", from_sequence - 1), opened(data) as segments:
        reader = Reader(segments)
        last = min(to_sequence or SEQUENCE_MAX, last_known(reader))
        if not isinstance(out, Path):
            note_act(data, ADMIN_DUMPED, first=from_sequence, last=last)
            counts = _write(reader, out, from_sequence, last, on_progress)
            return {**counts, "first_sequence": from_sequence, "last_sequence": last, "resumed_after": 0}
        with open(out, "ab+", opener=opener) as file:
            _take(file, out)
            done = _resume(file, reader, out)
            if done and not from_sequence - 1 <= done <= last:
                raise BadArgument(
                    f"{out} ends with event {done}, this dump is to hold {from_sequence} to {last}",
                    hint="name another file, or --from and --to that fit",
                )
            note_act(data, ADMIN_DUMPED, first=from_sequence, last=last)
            counts = _write(reader, file, done + 1 if done else from_sequence, last, on_progress)
            file.flush()
            os.fsync(file.fileno())
        return {
            "file": str(out),
            **counts,
            "first_sequence": from_sequence,
            "last_sequence": last,
            "resumed_after": done,
        }


def _take(file: IO[bytes], path: Path) -> None:
    """Nobody else may write it meanwhile: the kernel lets go when the process ends, however it ends."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EngineUnable(
            f"another dump is writing {path}", hint="wait until it has ended, or name another file"
        ) from None


def _write(reader: Reader, out: IO[bytes], first: int, last: int, on_progress: OnProgress) -> dict[str, int]:
    counts = {"events": 0, "damaged": 0}
    for sequence, line, is_damaged in lines(reader, first, last):
        out.write(line)
        counts["damaged" if is_damaged else "events"] += 1
        if not sequence % 4_096:
            on_progress("dump", sequence - first + 1, last - first + 1)
    on_progress("dump", 1, 1)
    return counts


def lines(reader: Reader, first: int, last: int) -> Iterator[tuple[int, bytes, bool]]:
    """(sequence, line, False) of the events `first` to `last`, ascending; of one that can't be read, a line that says
    so, and True."""
    shard, epoch = reader.shard(), 0
    for event in events_after(reader, first - 1, last, READ_BYTES):
        if event.record is None:
            told = {"shard": shard, "sequence": event.sequence, "damaged": event.problem}
            yield event.sequence, _encode(told) + b"\n", True
            continue
        epoch = event.epoch or epoch
        yield event.sequence, _line(shard, epoch, decode(event.record), record_key(event.record)), False


def _line(shard: int, epoch: int, event: Record, key: bytes) -> bytes:
    line = {"shard": shard, "epoch": epoch, **event._asdict(), "payload": b64encode(event.payload).decode()}
    if key:
        line["key"] = key.hex()
    if event.type.startswith(CONTROL) or is_system(event.conversation):
        try:
            line["data"] = msgspec.msgpack.decode(event.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            line["data"] = None
    return _encode(line) + b"\n"


def _resume(file: IO[bytes], reader: Reader, path: Path) -> int:
    """The sequence of the last whole line, behind which a line cut short is cut off; 0 for an empty file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read()
    end = tail.rfind(b"\n") + 1
    if size and not end and (size >= TAIL_BYTES or tail[: len(START)] != START[:size]):
        raise BadArgument(f"{path} is no dump: it ends with no line of one", hint="name a file that is not there yet")
    if not end:
        file.truncate(0)
        return 0
    line = tail[tail.rfind(b"\n", 0, end - 1) + 1 : end]
    try:
        sequence = msgspec.json.decode(line)["sequence"]
        same = type(sequence) is int and next(lines(reader, sequence, sequence), (0, b"", False))[1] == line
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, BadArgument):
        same = False
    if not same:
        raise BadArgument(
            f"{path} ends with a line that is no event of this log", hint="name a file that is not there yet"
        )
    file.truncate(size - len(tail) + end)
    return int(sequence)

"""What the verbs of `gonets log` share: a data directory opened for reading, beside a running server or without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.errors import BadArgument, DataUntrusted
from engine.log import format as fmt
from engine.log.segments import Segments
from engine.state.saved import SavedState

READ_BLOCKS: Final = 16  # in one transaction, which is short


@contextmanager
def opened(data: Path) -> Iterator[Segments]:
    """The segments of a data directory. Raises BadArgument where there are none."""
    segments = Segments(data / fmt.FOLDER, shard=None, written_here=False)
    if not segments.folder.is_dir():
        raise BadArgument(f"{data} holds no log", hint="name the directory that `gonets serve --data` was given")
    segments.scan()
    try:
        if not segments.firsts:
            raise BadArgument(f"{segments.folder} holds no segment", hint="was the log ever opened by `gonets serve`?")
        yield segments
    finally:
        segments.close()


def blocks_from(segments: Segments, first: int, key: int = 0) -> Iterator[tuple[int, bytes]]:
    """(key, block) of one segment from a key on: copies as they are, checked by nobody, in short transactions."""
    more = True
    while more:
        found: list[tuple[int, bytes]] = []
        with segments.reading(first, believe=True) as txn:
            cursor = txn.cursor()
            more = cursor.set_range(fmt.key_of(key))
            while more and len(found) < READ_BLOCKS:
                found.append((int.from_bytes(cursor.key(), "big"), bytes(cursor.value())))
                more = cursor.next()
        yield from found
        if found:
            key = found[-1][0] + 1


def saved_position(data: Path, shard: int) -> int | None:
    """The sequence up to which the state was saved; None if there is no state that can be opened."""
    if not (data / "state" / "data.mdb").exists():
        return None
    try:
        saved = SavedState.open(data / "state", shard=shard, read_only=True)
    except DataUntrusted:
        return None
    try:
        return saved.position()
    finally:
        saved.close()

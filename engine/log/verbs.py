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
    """(key, block) of one segment from a key on: copies as they are, checked by nobody, in short transactions. Raises
    LogDamaged."""
    found: list[tuple[int, bytes]] = []
    while True:
        with segments.reading(first, believe=True) as txn:
            while len(found) < READ_BLOCKS and (there := _next_key(segments, first, key)) is not None:
                value = txn.get(fmt.key_of(there))
                if value is None:  # committed after this transaction began
                    break
                found.append((there, bytes(value)))
                key = there + 1
        yield from found
        if len(found) < READ_BLOCKS:
            return
        found.clear()


def _next_key(segments: Segments, first: int, key: int) -> int | None:
    """The first block's from a key on, by pages found right."""
    there, following = segments.seek(first, max(key, 1))
    while there is None or there < max(key, 1):
        if following is None:
            return None
        key = following
        there, following = segments.seek(first, key)
    return there


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

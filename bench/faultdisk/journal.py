"""The journal of shim.c as values: every write, sync and change of names below a base directory, in their order."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.faultdisk.disk import Kind

_ENTRY: Final = struct.Struct("<IiQQQII")  # struct entry


class Entry(NamedTuple):
    """One call that was carried out; `error` is set where it was told to fail after that."""

    kind: Kind
    error: int
    inode: int
    at: int  # offset of a write
    size: int  # of a truncation
    path: str  # below the base; of a rename or link both, with a newline between
    data: bytes


def entries(journal: bytes) -> Iterator[Entry]:
    """All of a journal."""
    at, end = 0, len(journal)
    while at < end:
        kind, error, inode, offset, size, path_bytes, data_bytes = _ENTRY.unpack_from(journal, at)
        at += _ENTRY.size
        path = journal[at : at + path_bytes].decode()
        at += path_bytes
        if at + data_bytes > end:
            raise ValueError(f"the journal ends inside an entry of {data_bytes} bytes at {at}")
        yield Entry(Kind(kind), error, inode, offset, size, path, journal[at : at + data_bytes])
        at += data_bytes

"""What a disk holds after a power cut: the journal up to a moment, what was synced surely, any subset of the rest.

Fed with entries in their order; `cut` writes one possible disk into a directory and changes nothing of the model.
Written by a self-syncing descriptor is durable at once. A sync that failed leaves what it was about in doubt for good:
the kernel has marked those pages clean, so a later sync that succeeds says nothing of them.
Names are durable once their directory is synced; a file whose name is lost is lost.

Cost: memory of the files' bytes, twice; a cut writes them out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from bench.faultdisk.disk import Kind
from bench.faultdisk.journal import Entry

T = TypeVar("T")
PAGE_BYTES: Final = 4_096  # what a self-syncing write takes along
SECTOR_BYTES: Final = 512  # of which a disk writes all or nothing


class Change(NamedTuple):
    """A write, or a truncation where `data` is None."""

    at: int
    data: bytes | None


@dataclass
class Media:
    """One file: its durable bytes, and what may be lost in a cut."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)
    doubtful: list[Change] = field(default_factory=list)


def apply(content: bytearray, change: Change) -> None:
    """Carries one change out."""
    if change.data is None:
        del content[change.at :]
        content.extend(bytes(change.at - len(content)))
        return
    content.extend(bytes(max(0, change.at - len(content))))
    content[change.at : change.at + len(change.data)] = change.data


def split(changes: list[Change], begin: int, end: int) -> tuple[list[Change], list[Change]]:
    """What lies in a range of bytes, and what doesn't."""
    inside: list[Change] = []
    outside: list[Change] = []
    for change in changes:
        if change.data is None:
            outside.append(change)
            continue
        low, high = min(max(begin - change.at, 0), len(change.data)), min(max(end - change.at, 0), len(change.data))
        for first, last, where in ((0, low, outside), (low, high, inside), (high, len(change.data), outside)):
            if first < last:
                where.append(Change(change.at + first, change.data[first:last]))
    return inside, outside


def keep(media: Media, change: Change) -> None:
    """Makes a change durable: what was in doubt below it matters no more."""
    apply(media.durable, change)
    if change.data is not None:
        _, media.doubtful = split(media.doubtful, change.at, change.at + len(change.data))


Names = dict[str, Media | None]  # None: a directory
NameChange = tuple[Kind, str, str, Media | None]  # kind, path, target, file


class Machine:
    """Everything below one base directory."""

    def __init__(self) -> None:
        self._files: dict[int, Media] = {}
        self._now: Names = {}  # names as running programs see them
        self._names: Names = {}  # durable ones
        self._waiting: list[NameChange] = []

    def feed(self, entry: Entry) -> None:
        """One more call of the journal."""
        kind = entry.kind
        if kind in (Kind.WRITE, Kind.META):
            self._written(entry)
        elif kind == Kind.TRUNCATE:
            self._file(entry.inode).pending.append(Change(entry.size, None))
        elif kind == Kind.SYNC:
            self._synced(self._file(entry.inode), entry.error)
        elif kind == Kind.DIRECTORY and not entry.error:
            self._directory_synced(entry.path)
        elif kind == Kind.OPEN:
            self._files[entry.inode] = media = Media()
            self._renamed((kind, entry.path, "", media))
        elif kind in (Kind.MKDIR, Kind.RMDIR, Kind.UNLINK):
            self._renamed((kind, entry.path, "", None))
        elif kind in (Kind.RENAME, Kind.LINK):
            old, new = entry.path.split("\n")
            self._renamed((kind, old, new, self._now.get(old)))

    def _file(self, inode: int) -> Media:
        return self._files.setdefault(inode, Media())

    def _written(self, entry: Entry) -> None:
        media, change = self._file(entry.inode), Change(entry.at, entry.data)
        if entry.kind != Kind.META:
            media.pending.append(change)
        elif entry.error:
            media.doubtful.append(change)
        else:
            begin = entry.at // PAGE_BYTES * PAGE_BYTES
            end = -(-(entry.at + len(entry.data)) // PAGE_BYTES) * PAGE_BYTES
            inside, media.pending = split(media.pending, begin, end)
            for earlier in [*inside, change]:
                keep(media, earlier)

    def _synced(self, media: Media, error: int) -> None:
        if error:
            media.doubtful += media.pending
        else:
            for change in media.pending:
                keep(media, change)
        media.pending = []

    def _renamed(self, change: NameChange) -> None:
        rename(self._now, change)
        self._waiting.append(change)

    def _directory_synced(self, path: str) -> None:
        left: list[NameChange] = []
        for change in self._waiting:
            if path in (parent_of(change[1]), parent_of(change[2]) if change[2] else None):
                rename(self._names, change)
            else:
                left.append(change)
        self._waiting = left

    def cut(self, chance: random.Random, target: Path) -> None:
        """Writes one disk that a cut may leave now."""
        names = dict(self._names)
        for change in chosen(chance, self._waiting):
            rename(names, change)
        for path in sorted(names, key=lambda name: name.count("/")):
            media, place = names[path], target / path
            if not place.parent.is_dir():
                continue  # its directory is lost
            if media is None:
                place.mkdir(exist_ok=True)
                continue
            content = bytearray(media.durable)
            for written in chosen(chance, media.doubtful) + chosen(chance, media.pending):
                apply(content, torn(chance, written))
            place.write_bytes(content)


def parent_of(path: str) -> str:
    """The directory of a path, "." for the base itself."""
    return path.rpartition("/")[0] or "."


def rename(names: Names, change: NameChange) -> None:
    """Carries one change of names out, as far as what it is about is there."""
    kind, path, target, media = change
    if kind in (Kind.OPEN, Kind.MKDIR):
        names[path] = media
    elif kind in (Kind.UNLINK, Kind.RMDIR):
        names.pop(path, None)
    elif kind == Kind.LINK:
        names[target] = media
    elif media is not None:
        names.pop(path, None)
        names[target] = media
    else:
        inside = [name for name in names if name == path or name.startswith(f"{path}/")]
        for name in inside:
            names[target + name[len(path) :]] = names.pop(name)


def chosen(chance: random.Random, changes: list[T]) -> list[T]:
    """All, none, a beginning, or any of them: each a way in which caches reach disks."""
    how = chance.randrange(4)
    if how < 2:
        return changes if how else []
    if how == 2:
        return changes[: chance.randint(0, len(changes))]
    return [change for change in changes if chance.random() < 0.5]


def torn(chance: random.Random, change: Change) -> Change:
    """Now and then only some sectors of a write, from its beginning."""
    if change.data is None or chance.random() < 0.7:
        return change
    sectors = len(change.data) // SECTOR_BYTES
    return Change(change.at, change.data[: chance.randint(0, sectors) * SECTOR_BYTES])

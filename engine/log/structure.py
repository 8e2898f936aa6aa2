"""LMDB 0.9's own pages judged without LMDB, which believes them and may crash, or silently show the commit before.

Blocks carry checksums, the pages around them do not. What is judged here is cross-checked instead: both meta pages with
each other and with the trees that they name, then the trees (ext/lmdbtree). `glance` looks at the meta pages and the
way to the last block, before each opening; `seek` at the way to one block, before each read; `look` at every page, for
the check and before anybody writes. LOG_FORMAT.md has the table of what two meta pages can mean.

Invariants: a number of a transaction is believed only if it is also the newest key of the free list that its commit
wrote; only `mend` writes, only such a number, and only where everything else is whole. A file that is written
meanwhile is looked at again, never called damaged.
Cost: a glance reads a page a level and the free list, a look every page but those that blocks have to themselves.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from engine.lmdbfile import UNWRITTEN_PAGES_MAX
from ext.lmdbtree import FAULTS, Trees

MAGIC: Final = 0xBEEFC0DE
DATA_VERSION: Final = 1
META_PAGE: Final = 8  # its kind
INTEGER_KEYS, NO_FOLDER = 0x8, 0x4000  # flags of the free list: its keys; that the file stands alone
PAGE_HEAD: Final = 16
NO_PAGE: Final = (1 << 64) - 1
PAGE_SIZES: Final = tuple(1 << power for power in range(9, 16))
MAP_MAX: Final = 1 << 46
TWICE: Final = 8  # of ext/lmdbtree's faults
LAST_KEY: Final = (1 << 64) - 2
TRIES: Final = 100  # at a file that is written meanwhile

_HEAD = struct.Struct("<QHHHH")
_META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
_TREE = struct.Struct("<IHHQQQQQ")
_TWO = struct.Struct("<QQ")
TREE_AT: Final = PAGE_HEAD + _META.size
TRANSACTION_AT: Final = TREE_AT + 2 * _TREE.size + 8
META_END: Final = TRANSACTION_AT + 8


class Tree(NamedTuple):
    """What a meta page says of one tree."""

    pad: int
    flags: int
    depth: int
    branches: int
    leaves: int
    values: int  # pages that blocks have to themselves
    entries: int
    root: int


class Meta(NamedTuple):
    """A meta page."""

    place: int  # 0 or 1
    map_bytes: int
    free: Tree
    main: Tree
    last_page: int
    transaction: int


class Broken(Exception):
    """What is wrong, in words."""


class Hidden(Exception):
    """Nothing is lost, but LMDB would not show the last commit, in words."""


def _hidden(meta: Meta, number: int) -> str:
    return (
        f"meta page {meta.place} says that it is of transaction {meta.transaction}, its pages were written by {number}:"
        " LMDB would hide the last commit; opening it for writing mends that number"
    )


def _expect(is_right: bool, words: str) -> None:
    if not is_right:
        raise Broken(words)


class Pages:
    """A segment's file. Any thread."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._trees = Trees(file.fileno())
        self._page_bytes = int.from_bytes(self._trees.part(TREE_AT, 4), "little")
        if self._page_bytes not in PAGE_SIZES:
            self._page_bytes = 0

    def glance(self) -> None:
        """The meta pages and the way to the last block. Raises Broken."""
        self._settled(self._glance)

    def look(self) -> None:
        """All pages that are in use, and the free list. While others write, only inside a read transaction. Raises
        Broken, Hidden."""
        self._settled(self._look)

    def seek(self, sequence: int) -> tuple[int | None, int | None]:
        """The key up to a sequence and the one that follows, by pages found right; 0 is the header's. In a read
        transaction; may show more than that does. Raises Broken."""
        fault, page, found, following = self._trees.seek(self._page_bytes, sequence)
        for _ in range(TRIES if fault else 0):
            before = self._metas()
            fault, page, found, following = self._trees.seek(self._page_bytes, sequence)
            if not fault or before == self._metas():
                break
        if fault:
            raise Broken(f"page {page}: {FAULTS[fault]}")
        return found, following

    def mended(self) -> tuple[Meta, int] | None:
        """The meta page whose number of a transaction is wrong, and the right one: None if that can't be proved or
        isn't so. Only where nobody writes. Raises Broken where a meta page is wrong in another way."""
        metas = self._read_metas()
        true = [self._transaction_of(meta) for meta in metas]
        wrong = [meta for meta, number in zip(metas, true, strict=True) if meta.transaction != number]
        if len(wrong) != 1 or None in true or abs(int(true[0] or 0) - int(true[1] or 0)) != 1:
            return None
        earlier, later = sorted(metas, key=lambda meta: int(true[meta.place] or 0))
        if earlier.main.entries > later.main.entries:  # no commit takes a block: a witness is damaged, not a number
            return None
        (meta,) = wrong
        other = metas[1 - meta.place]
        number = int(true[meta.place] or 0)
        # LMDB takes a commit back whose meta page it could not write: with the number, the last page is the old one.
        if number & 1 != meta.place or (number > other.transaction and meta.last_page < other.last_page):
            return None
        try:
            for each in metas:
                self._whole(each)
        except Broken:
            return None
        return meta, number

    def hidden(self) -> str:
        """Words, where LMDB would not show the last commit though all of it is there; "" elsewhere. Raises Broken."""
        words = ""

        def judge() -> None:
            nonlocal words
            found, words = self.mended(), ""
            if found is not None:
                words = _hidden(*found)
                raise Hidden(words)

        with suppress(Hidden):
            self._settled(judge)
        return words

    def last_value(self, meta: Meta) -> bytes:
        """The last block that a meta page names."""
        return self._trees.last_value(self._page_bytes, meta.main.root, meta.main.depth, meta.last_page)

    def is_second_ours(self) -> bool:
        """Whether the second meta page, for itself, is of the LMDB that we write with."""
        begin = self._trees.part(self._page_bytes + PAGE_HEAD, 8)
        return bool(self._page_bytes) and begin == struct.pack("<II", MAGIC, DATA_VERSION)

    def newest_transaction(self) -> int:
        """Of the meta page that LMDB believes."""
        return max(meta.transaction for meta in self._read_metas())

    # Judging.

    def _settled(self, judge: Callable[[], None]) -> None:
        for turn in range(TRIES):
            before = self._metas()
            try:
                judge()
                return
            except (Broken, Hidden):
                if before == self._metas() or turn == TRIES - 1:
                    raise

    def _glance(self) -> None:
        """Also that the way does not lead over a free page: what was there before a commit looks like what is."""
        meta = self._newest()
        tree = meta.main
        if tree.root == NO_PAGE:
            _expect(not tree.entries and not tree.depth, f"a tree has no root, but {tree.entries} entries")
            return
        fault, page, _, _ = self._trees.path(
            self._page_bytes, tree.root, tree.depth, meta.last_page, LAST_KEY, False, self._free(meta)
        )
        if fault == TWICE and self._is_as_told(meta):
            return  # then it is the free list that is wrong, which only a writer believes
        _expect(not fault, f"page {page}: {FAULTS[fault]}")

    def _is_as_told(self, meta: Meta) -> bool:
        """Whether the tree of blocks has all that its meta page says."""
        tree = meta.main
        used = bytearray(meta.last_page + 1)
        fault, _, *counts = self._trees.tree(self._page_bytes, tree.root, tree.depth, meta.last_page, False, used)
        return not fault and counts == [tree.branches, tree.leaves, tree.values, tree.entries]

    def _free(self, meta: Meta) -> bytearray | None:
        """A byte a page, set for the free ones and those of their list; None where that can't be read, which is
        nobody's trouble who only reads blocks."""
        if meta.free.root == NO_PAGE or self._pages_end(meta) != meta.last_page:
            return None
        free = bytearray(meta.last_page + 1)
        fault, *_ = self._trees.tree(self._page_bytes, meta.free.root, meta.free.depth, meta.last_page, True, free)
        return None if fault else free

    def _look(self) -> None:
        self._glance()
        self._whole(self._newest())
        found = self.mended()
        if found is not None:
            raise Hidden(_hidden(*found))

    def _metas(self) -> tuple[bytes, bytes]:
        return self._trees.part(0, META_END), self._trees.part(self._page_bytes, META_END)

    def _read_metas(self) -> tuple[Meta, Meta]:
        _expect(bool(self._page_bytes), "meta page 0: it names no page size")
        return self._read_meta(0), self._read_meta(1)

    def _read_meta(self, number: int) -> Meta:
        view, name = self._trees.part(number * self._page_bytes, META_END), f"meta page {number}"
        _expect(len(view) == META_END, f"{name} is not all there")
        page, _, kind, _, _ = _HEAD.unpack_from(view)
        magic, version, _, map_bytes = _META.unpack_from(view, PAGE_HEAD)
        free = Tree(*_TREE.unpack_from(view, TREE_AT))
        main = Tree(*_TREE.unpack_from(view, TREE_AT + _TREE.size))
        last_page, transaction = _TWO.unpack_from(view, TRANSACTION_AT - 8)
        _expect(page == number and kind == META_PAGE, f"{name}: it says that it is page {page} of kind {kind:#x}")
        _expect((magic, version) == (MAGIC, DATA_VERSION), f"{name}: magic {magic:#x}, data format {version}")
        _expect(free.pad == self._page_bytes, f"{name}: a page size of {free.pad}")
        is_flags = free.flags & ~NO_FOLDER == INTEGER_KEYS and main.flags == 0 and main.pad == 0
        _expect(is_flags, f"{name}: flags {free.flags:#x} and {main.flags:#x}, padding {main.pad:#x}")
        _expect(map_bytes <= MAP_MAX, f"{name}: a map of {map_bytes} bytes")
        return Meta(number, map_bytes, free, main, last_page, transaction)

    def _newest(self) -> Meta:
        """The meta page that LMDB believes, found right beside the other one."""
        metas = self._read_metas()
        older, newer = sorted(metas, key=lambda meta: meta.transaction)
        for meta in metas:
            _expect(
                meta.transaction & 1 == meta.place,
                f"meta page {meta.place}: it is of transaction {meta.transaction}, which belongs to the other one",
            )
        _expect(
            newer.transaction - older.transaction == 1 or self._may_be_left(older),
            f"the meta pages are of transactions {older.transaction} and {newer.transaction}, which do not follow each"
            " other: one is damaged, and the last commit may be hidden",
        )
        size, end = self._trees.size(), (newer.last_page + 1) * self._page_bytes
        is_there = end <= size + UNWRITTEN_PAGES_MAX * self._page_bytes
        _expect(is_there, f"it was cut off: it has {size} bytes, its pages end at {end}")
        number = self._transaction_of(newer)
        _expect(
            number == newer.transaction,
            f"meta page {newer.place}: it is of transaction {newer.transaction}, but its pages were written by"
            f" {number}: it is damaged, and the last commit may be hidden",
        )
        return newer

    def _may_be_left(self, older: Meta) -> bool:
        """Whether a meta page further back than one commit was left by a power cut, which took those between: a sync of
        them had failed, and writers went on. Then its number is its own, or its pages have been written over; under a
        flipped number they are whole, and tell."""
        if self._transaction_of(older) == older.transaction:
            return True
        try:
            self._whole(older)
        except Broken:
            return True
        return False

    def _transaction_of(self, meta: Meta) -> int | None:
        """The transaction that wrote what a meta page names: it has left the pages that it replaced under its own
        number, as the newest entry of the free list. The first has replaced nothing. None: that can't be read."""
        if meta.free.root == NO_PAGE:
            return int(meta.main.root != NO_PAGE)
        fault, _, found, _ = self._trees.path(
            self._page_bytes, meta.free.root, meta.free.depth, self._pages_end(meta), LAST_KEY, True
        )
        return None if fault else found

    def _pages_end(self, meta: Meta) -> int:
        return min(meta.last_page, self._trees.size() // self._page_bytes + UNWRITTEN_PAGES_MAX)

    def _whole(self, meta: Meta) -> None:
        """Each page up to the last has one use. Raises Broken."""
        end = self._pages_end(meta)
        _expect(end == meta.last_page, f"meta page {meta.place}: its last page {meta.last_page} is not in the file")
        used = bytearray(end + 1)
        used[:2] = b"\x01\x01"
        for tree, name, is_free in ((meta.main, "blocks", False), (meta.free, "free pages", True)):
            if tree.root == NO_PAGE:
                _expect(not tree.entries and not tree.depth, f"the tree of {name} has no root")
                continue
            fault, page, *counts = self._trees.tree(self._page_bytes, tree.root, tree.depth, end, is_free, used)
            _expect(not fault, f"page {page}: {FAULTS[fault]}")
            told = [tree.branches, tree.leaves, tree.values, tree.entries]
            _expect(
                counts == told,
                f"the tree of {name} has {counts} branches, leaves, pages of values and entries; its meta page says"
                f" {told}",
            )
        lost = used.find(0)
        _expect(lost < 0, f"page {lost} is neither in use nor free: the last page or the free list is damaged")


def look(path: Path, *, though_hidden: bool = False) -> str:
    """What is wrong with any page that is in use; "" nothing. Where others write, only in a read transaction that they
    respect. Raises OSError."""
    try:
        Pages(path).look()
    except Broken as found:
        return str(found)
    except Hidden as found:
        return "" if though_hidden else str(found)
    return ""


def mend(path: Path) -> tuple[str, bytes]:
    """Shows the last commit again where LMDB would hide it, as `mended` proves: writes the right number, and syncs it.
    What was done, "" if nothing. Only the writer's, before it opens the file. Raises Broken, OSError.

    While other processes have the file open, LMDB goes by a number that they share, and would write over what it does
    not know: then nothing is written, and the last block is given, to be appended once more.
    """
    pages = Pages(path)
    found = pages.mended()
    if found is None:
        return "", b""
    meta, number = found
    if number == pages.newest_transaction() + 1 and is_open_elsewhere(path):
        return _hidden(meta, number), pages.last_value(meta)
    descriptor = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, number.to_bytes(8, "little"), meta.place * meta.free.pad + TRANSACTION_AT)
    finally:
        os.close(descriptor)
    words = (
        f"meta page {meta.place} said transaction {meta.transaction}; its pages were written by {number}, so it says"
    )
    return words, b""


def is_open_elsewhere(path: Path) -> bool:
    """Whether another process has the file open with LMDB, which locks the first byte of its lock file for so long.
    Only while this process has not: closing the lock file would let go of its own locks."""
    try:
        descriptor = os.open(f"{path}-lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)

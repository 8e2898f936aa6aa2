"""Which bits of a segment's file can't matter: by what the bytes around them say, before anything is flipped.

A second reading of LMDB 0.9's format, from its description alone; nothing of engine/log/structure.py or ext/lmdbtree is
used. A bit is harmless only for a reason of `REASONS`; of every other one the check must find that it was flipped.
"""

from __future__ import annotations

import struct
from typing import Final

# The reason as it is counted, and the argument.
REASONS: Final = {
    "a page that is not in use": "nobody reads it, and it is written whole before anything names it",
    "behind the end of a meta page": "nobody reads it",
    "the older meta page's trees and last page": "the next commit writes that page whole",
    "the head's padding": "nobody reads it",
    "the bounds of nodes in a meta page": "branches and leaves have them, a meta page has no nodes",
    "the address of a fixed map": "for a flag that is not set",
    "the flag of a file without a directory": "who opens the file says so, and LMDB takes that",
    "the size of the map": "up to 2^46 it is address space alone, and LMDB takes at least what the pages need",
    "the free space of a page": "between the table of nodes and the nodes",
    "a byte that makes a node's size even": "nobody reads it",
    "the key of a branch's first node": "it stands for everything below the second",
    "a separator that separates the same": "still behind all keys to the left and not behind the first to the right",
    "what is left of a value's last page": "the value's length ends before",
    "behind a list of free pages": "its count ends before; LMDB had reserved more",
    "an older transaction of the free list": "in order and not the newest: who opens the file sees no older state, and"
    " the next commit may use any of these pages, before and after",
}

META_END: Final = 152
FREE_AT, MAIN_AT, LAST_PAGE_AT, TRANSACTION_AT = 40, 88, 136, 144
MAP_AT: Final = 32
MAP_BITS: Final = 46
ALONE_BIT: Final = 14
HEAD: Final = 16
NODE: Final = 8
NO_PAGE: Final = (1 << 64) - 1
BRANCH: Final = 1


class Proof:
    """Of one file's bytes, which are sound. `reason(bit)` is "" where there is none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._page = struct.unpack_from("<I", data, FREE_AT)[0]
        self._newest = 0  # transaction
        self._reasons: dict[int, str] = {}  # by byte
        self._bits: dict[int, str] = {}  # by bit, where a byte is harmless in part
        self._used: set[int] = {0, 1}
        self._metas()
        pages = len(data) // self._page
        for page in set(range(pages)) - self._used:
            self._harmless(page * self._page, (page + 1) * self._page, "a page that is not in use")

    def kept(self) -> list[tuple[int, int]]:
        """(begin, end) of what a commit leaves as it is: pages in use, but for the older meta page."""
        older = self._newest + 1 & 1
        return [(page * self._page, (page + 1) * self._page) for page in sorted(self._used - {older})]

    def reason(self, bit: int) -> str:
        """Why a bit can't matter."""
        return self._reasons.get(bit // 8) or self._bits.get(bit, "")

    def _harmless(self, begin: int, end: int, why: str) -> None:
        for at in range(begin, end):
            self._reasons[at] = why

    def _u64(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self._data, at)[0])

    def _u16(self, at: int) -> int:
        return int(struct.unpack_from("<H", self._data, at)[0])

    def _metas(self) -> None:
        size = self._page
        numbers = [self._u64(place * size + TRANSACTION_AT) for place in (0, 1)]
        newest = numbers.index(max(numbers))
        self._newest = max(numbers)
        for place in (0, 1):
            at = place * size
            self._harmless(at + 8, at + 10, "the head's padding")
            self._harmless(at + 12, at + 16, "the bounds of nodes in a meta page")
            self._harmless(at + 24, at + 32, "the address of a fixed map")
            for bit in range(MAP_BITS):
                self._bits[8 * (at + MAP_AT) + bit] = "the size of the map"
            self._bits[8 * (at + FREE_AT + 4) + ALONE_BIT] = "the flag of a file without a directory"
            self._harmless(at + META_END, at + size, "behind the end of a meta page")
            if place != newest:
                self._harmless(at + FREE_AT + 6, at + FREE_AT + 48, "the older meta page's trees and last page")
                self._harmless(at + MAIN_AT + 6, at + MAIN_AT + 48, "the older meta page's trees and last page")
                self._harmless(at + LAST_PAGE_AT, at + LAST_PAGE_AT + 8, "the older meta page's trees and last page")
        for tree, is_free in ((MAIN_AT, False), (FREE_AT, True)):
            root = self._u64(newest * size + tree + 40)
            if root != NO_PAGE:
                self._tree(root, is_free, 0, NO_PAGE)

    def _tree(self, page: int, is_free: bool, low: int, high: int) -> tuple[int, int]:
        """A page and all below, whose keys lie in low ≤ key < high; the first and the last key."""
        at = page * self._page
        self._used.add(page)
        flags, lower, upper = self._u16(at + 10), self._u16(at + 12), self._u16(at + 14)
        self._harmless(at + 8, at + 10, "the head's padding")
        self._harmless(at + lower, at + upper, "the free space of a page")
        nodes = [at + self._u16(at + place) for place in range(HEAD, lower, 2)]
        if not flags & BRANCH:
            for node in nodes:
                self._leaf_node(node, is_free)
            keys = [self._key(node, is_free) for node in nodes]
            if is_free:
                self._numbers(nodes, keys, low, high)
            return keys[0], keys[-1]
        spans = []
        lows = [low, *(self._key(node, is_free) for node in nodes[1:])]
        for node, begin, end in zip(nodes, lows, [*lows[1:], high], strict=True):
            self._padding(node, NODE + self._u16(node + 6))
            child = self._u16(node) | self._u16(node + 2) << 16 | self._u16(node + 4) << 32
            spans.append(self._tree(child, is_free, begin, end))
        first = nodes[0]
        self._harmless(first + NODE, first + NODE + self._u16(first + 6), "the key of a branch's first node")
        for (_, left), (right, _), node in zip(spans, spans[1:], nodes[1:], strict=False):
            self._separator(node, is_free, left, right)
        return spans[0][0], spans[-1][1]

    def _key(self, node: int, is_free: bool) -> int:
        size = self._u16(node + 6)
        return int.from_bytes(self._data[node + NODE : node + NODE + size], "little" if is_free else "big")

    def _separator(self, node: int, is_free: bool, left: int, right: int) -> None:
        size, begin = self._u16(node + 6), node + NODE
        for bit in range(8 * size):
            changed = bytearray(self._data[begin : begin + size])
            changed[bit // 8] ^= 1 << bit % 8
            if left < int.from_bytes(changed, "little" if is_free else "big") <= right:
                self._bits[8 * begin + bit] = "a separator that separates the same"

    def _numbers(self, nodes: list[int], keys: list[int], low: int, high: int) -> None:
        """Of the transactions under which pages were freed; the newest is the witness of the meta page."""
        for place, node in enumerate(nodes):
            if keys[place] == self._newest:
                continue
            before = keys[place - 1] if place else low - 1
            after = keys[place + 1] if place + 1 < len(keys) else high
            for bit in range(64):
                if max(before, 0) < keys[place] ^ 1 << bit < min(after, self._newest):
                    self._bits[8 * (node + NODE) + bit] = "an older transaction of the free list"

    def _padding(self, node: int, size: int) -> None:
        if size % 2:
            self._harmless(node + size, node + size + 1, "a byte that makes a node's size even")

    def _leaf_node(self, node: int, is_free: bool) -> None:
        size, key = self._u16(node) | self._u16(node + 2) << 16, self._u16(node + 6)
        value, end = node + NODE + key, node + NODE + key + size
        if self._u16(node + 4):
            self._padding(node, NODE + key + 8)
            page = self._u64(value)
            begin, count = page * self._page, -(-(HEAD + size) // self._page)
            self._used.update(range(page, page + count))
            self._harmless(begin + 8, begin + 10, "the head's padding")
            value, end = begin + HEAD, begin + HEAD + size
            self._harmless(end, begin + count * self._page, "what is left of a value's last page")
        else:
            self._padding(node, NODE + key + size)
        if is_free:
            self._harmless(value + 8 * (self._u64(value) + 1), end, "behind a list of free pages")

"""The log as all subscriptions read it: a bounded cache of blocks, so that what many want is read from the files once.

Behind engine/log; before live.py. `cached` gives the block that lies behind a place, on the loop; what isn't there a
thread fetches, about a megabyte at a time. Near the tail everybody finds what manager.py has just read to fold it;
those who are far behind share what they happen to read together. Level-triggered: nothing is pushed.

Invariants: nothing is given beyond `last`, which is what has been folded, so that the kind and the members of a
conversation are known of each event that is given; a stretch that is damaged is passed over and counted.
Cost: a look-up and a copy for each block read; memory up to `bytes_max`, summaries included.
"""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from engine.log.events import EventLog
from engine.log.reader import Reader
from ext.select import Selection
from ext.sift import block_span
from ext.summary import Summary

CACHE_BYTES_MAX: Final = 32 << 20
READ_BYTES: Final = 1 << 20
THREADS: Final = 2

Answer = TypeVar("Answer")


Found = Summary
"""A block, and the sequences that it stands for: more than it holds where damage lies before it."""


class Feed:
    """One loop's. `last` is moved by whoever folds."""

    def __init__(
        self, new_reader: Callable[[], Reader], last: int, *, bytes_max: int = CACHE_BYTES_MAX, threads: int = THREADS
    ) -> None:
        self.last = last
        self.read_bytes = self.read_blocks = self.damaged_events = 0
        self._new_reader = new_reader
        self._bytes_max = bytes_max
        self._bytes = 0
        self._found: OrderedDict[int, Found] = OrderedDict()  # by first, the one used last at the end
        self._firsts: list[int] = []
        self._blocks: list[Found] = []  # as `_firsts`
        self._fetching: dict[int, asyncio.Task[Found | None]] = {}
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(threads, "gonets-feed")

    @property
    def cached_bytes(self) -> int:
        """In memory now."""
        return self._bytes

    def cached(self, after: int) -> Found | None:
        """What lies behind a sequence, if it has been folded and is in memory."""
        return self._at(after) if after < self.last else None

    def _at(self, after: int) -> Found | None:
        at = bisect_right(self._firsts, after + 1)
        if at:
            found = self._found[self._firsts[at - 1]]
            if found.last > after:
                self._found.move_to_end(found.first)
                return found
        return None

    def skip(self, selection: Selection, after: int, upto: int) -> tuple[Found | None, int]:
        """The first block in memory that may have something in (after, upto] of what is wanted, and up to where there
        is nothing; None: nothing up to there, and what follows has to be asked for."""
        upto = min(upto, self.last)
        at = max(0, bisect_right(self._firsts, after + 1) - 1)
        if at >= len(self._blocks) or self._blocks[at].last <= after:
            return None, after
        at, reached = selection.skip(self._blocks, at, after, upto)
        found = self._blocks[at] if at < len(self._blocks) and reached < upto else None
        return (found if found is not None and found.first <= reached + 1 else None), reached

    async def fetch(self, after: int) -> Found | None:
        """The same, read from the log if need be, folded or not; None at the log's end. Raises Trimmed, and LogDamaged
        where nothing readable follows."""
        if (found := self._at(after)) is not None:
            return found
        task = self._fetching.get(after)
        if task is None:
            task = self._fetching[after] = asyncio.create_task(self._fetch(after))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # who asked may have gone
        return await asyncio.shield(task)

    async def _fetch(self, after: int) -> Found | None:
        try:
            blocks = await self.run(lambda reader: self._read(reader, after))
        finally:
            del self._fetching[after]
        for one in blocks:
            self.read_bytes += len(one.block)
            self.read_blocks += 1
            self._keep(one)
        return blocks[0] if blocks else None

    async def first(self) -> int:
        """The first sequence that is kept now; nobody is given what lies before it."""
        first = await self.run(lambda reader: reader.first_sequence)
        self.forget(first)
        return first

    def forget(self, first: int) -> None:
        """Lets go of blocks before a sequence: trimming has removed them."""
        while self._blocks and self._blocks[0].last < first:
            self._drop(self._firsts[0])

    async def run(self, job: Callable[[Reader], Answer]) -> Answer:
        """Something else that needs the log, in a thread that has a reader of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: job(self._own_reader()))

    def _own_reader(self) -> Reader:
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._new_reader()
        return reader

    def _read(self, reader: Reader, after: int) -> list[Found]:
        """In a thread."""
        found, held, position = [], 0, after
        for events in EventLog(reader, on_damage=self._note_damage).blocks_after(after):
            first, count = block_span(events.block)
            found.append(Found(min(first, position + 1), first + count - 1, events.block))
            position, held = first + count - 1, held + len(events.block)
            if held >= READ_BYTES:
                break
        return found

    def _note_damage(self, first: int, last: int, problem: str) -> None:
        """The log has said it where the process writes its own."""
        self.damaged_events += last - first + 1

    def _keep(self, found: Found) -> None:
        if found.first in self._found:
            return
        self._found[found.first] = found
        at = bisect_right(self._firsts, found.first)
        self._firsts.insert(at, found.first)
        self._blocks.insert(at, found)
        self._bytes += len(found.block) + found.own_bytes
        while self._bytes > self._bytes_max and len(self._found) > 1:
            self._drop(next(iter(self._found)))

    def _drop(self, first: int) -> None:
        old = self._found.pop(first)
        self._bytes -= len(old.block) + old.own_bytes
        at = bisect_right(self._firsts, first) - 1
        del self._firsts[at], self._blocks[at]

    def close(self) -> None:
        """Waits for what is being read."""
        self._threads.shutdown()

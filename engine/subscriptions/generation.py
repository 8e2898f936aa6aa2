"""One generation of a ConsumerLoop: from a join to its end, the tasks that take, handle, ack and extend.

Under loop.py, which joins again. What is taken goes into lanes (lanes.py), `concurrency` workers handle them, what
is handled is acked together, and what is held for long is extended. It ends when the consumer is fenced or can't be
reached (`over`), or when the loop has it `close`.

Invariants: no answer is given after the end; an ack that was not sent is none, the event comes again to somebody; what
is held never exceeds `held_events_max`. Cost: no task an event; a timer each for acks and extensions.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from engine.errors import EngineError
from engine.subscriptions.clock import Clock
from engine.subscriptions.definition import Definition
from engine.subscriptions.lanes import Lanes
from engine.subscriptions.ports import Consumer, NotInFlight, Paused, StoredEvent

ACKS_MAX: Final = 1_000  # sent together
PAUSED_S: Final = 1.0  # between two looks at a paused subscription
EXTENDS_A_TIMEOUT: Final = 3

Handler = Callable[[StoredEvent], Awaitable[None]]
OnTrouble = Callable[[str, BaseException], None]
"""Told of what is survived: what was being done, and what happened."""


class Retry(Exception):
    """Raised by a handler: this event again, after a delay (None: the subscription's back-off)."""

    def __init__(self, delay_s: float | None = None) -> None:
        super().__init__(delay_s)
        self.delay_s = delay_s


class Park(Exception):
    """Raised by a handler: put this event aside for people to look at, and go on."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Counters:
    """What a loop has done since it was made."""

    taken_events: int = 0
    acked_events: int = 0
    retried_events: int = 0
    """Given back by the handler, or because it failed."""
    failed_events: int = 0
    """The handler raised what is neither Retry nor Park, or took too long."""
    parked_events: int = 0
    """By the handler."""
    dropped_events: int = 0
    """Held and not begun when the loop stopped or its generation ended."""
    stale_answers: int = 0
    """Came too late: somebody may have handled these events twice."""
    extended_events: int = 0
    joins: int = 0
    fenced: int = 0
    disconnected: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What a loop was told."""

    handle: Handler
    concurrency: int
    held_events_max: int
    ack_interval_s: float
    take_wait_s: float
    handle_s_max: float
    clock: Clock
    on_trouble: OnTrouble


class Generation:
    """Use `run`; it returns after `close`, or once `over` is done, when all that was at work is finished."""

    def __init__(self, consumer: Consumer, definition: Definition, how: How, counters: Counters) -> None:
        self.lanes = Lanes(ordered=definition.kind == "ordered")
        self.over: Future[EngineError | OSError] = asyncio.get_running_loop().create_future()
        self._consumer, self._settings, self._how, self._counters = consumer, definition.settings, how, counters
        self._closed: Future[None] = asyncio.get_running_loop().create_future()
        self._acks_max = min(ACKS_MAX, max(1, how.held_events_max // 4))
        self._idle: list[Future[None]] = []  # workers without work
        self._acks: list[int] = []
        self._to_ack = asyncio.Event()
        self._fitting = asyncio.Event()

    async def run(self, stop_s_max: float) -> None:
        """Until it is over, or closed and at most so much later."""
        others = [asyncio.ensure_future(task) for task in (self._take(), self._extend(), self._ack())]
        workers = [asyncio.ensure_future(self._work()) for _ in range(self._how.concurrency)]
        try:
            await asyncio.wait((self._closed, *others, *workers), return_when=asyncio.FIRST_COMPLETED)
            self.close()
            await asyncio.wait(workers, timeout=None if self.over.done() else stop_s_max)
            for task in (*others, *workers):
                if task.done() and (error := task.exception()) is not None:  # what nobody foresaw
                    raise error
        finally:
            for task in (*others, *workers):
                task.cancel()
            await asyncio.gather(*others, *workers, return_exceptions=True)

    def close(self) -> None:
        """Begins nothing any more; what is at work is finished."""
        if not self._closed.done():
            self._closed.set_result(None)
            self._counters.dropped_events += self.lanes.drop_waiting()
            self._wake(len(self._idle))

    async def leave(self) -> None:
        """The last words: what is handled is acked, the rest given back."""
        while self._acks and not self.over.done():
            await self._flush()
        await self._say("leave", self._consumer.leave)

    # The tasks.

    async def _take(self) -> None:
        how, enough = self._how, max(1, self._how.held_events_max // 4)
        while not self._closed.done():
            fitting = how.held_events_max - len(self.lanes.held)
            if fitting < enough and self.lanes.held:
                self._fitting.clear()
                await self._fitting.wait()
                continue
            try:
                events = await self._consumer.take(events_max=fitting, wait_s=how.take_wait_s)
            except Paused:
                await how.clock.sleep(PAUSED_S)
                continue
            except (EngineError, OSError) as error:
                self._end(error, "take")
                return
            if self._closed.done():
                self._counters.dropped_events += len(events)
                return
            self._counters.taken_events += len(events)
            self._wake(self.lanes.add(events))

    async def _work(self) -> None:
        while True:
            event = self.lanes.begin()
            if event is not None:
                await self._handle(event)
            elif self._closed.done():
                return
            else:
                idle: Future[None] = asyncio.get_running_loop().create_future()
                self._idle.append(idle)
                await idle

    async def _handle(self, event: StoredEvent) -> None:
        try:
            async with asyncio.timeout(self._how.handle_s_max):
                await self._how.handle(event)
        except Park as park:
            self._counters.parked_events += 1
            reason = park.reason
            await self._say("park", lambda: self._consumer.park(event.sequence, reason=reason))
        except Retry as again:
            await self._retry(event, again.delay_s)
            return
        except Exception as error:
            self._counters.failed_events += 1
            self._how.on_trouble(f"handle event {event.sequence} ({event.type})", error)
            await self._retry(event, None)
            return
        else:
            self._acks.append(event.sequence)
            self._to_ack.set()
        self._done(event)
        if len(self._acks) >= self._acks_max:  # else the server would hand out nothing until the timer comes
            await self._flush()

    def _done(self, event: StoredEvent) -> None:
        self.lanes.done(event)
        self._fitting.set()
        self._wake(1)

    async def _retry(self, event: StoredEvent, delay_s: float | None) -> None:
        """It comes again, and its lane waits for it, unless the subscription parks it now."""
        self._counters.retried_events += 1
        most = self._settings.deliveries_max
        if most and event.deliveries >= most:
            self.lanes.drop_behind(event)
            self.lanes.done(event)
        else:
            self.lanes.bar(event)  # before it can come
        if not await self._say("retry", lambda: self._consumer.retry(event.sequence, delay_s=delay_s)):
            self.lanes.unbar(event)
        self._fitting.set()
        self._wake(1)

    async def _ack(self) -> None:
        while True:
            await self._to_ack.wait()
            await self._how.clock.sleep(self._how.ack_interval_s)
            await self._flush()

    async def _flush(self) -> None:
        acks, self._acks = self._acks[:ACKS_MAX], self._acks[ACKS_MAX:]
        if not self._acks:
            self._to_ack.clear()
        try:
            if acks and await self._say("ack", lambda: self._consumer.ack(acks)):
                self._counters.acked_events += len(acks)
        except asyncio.CancelledError:
            self._acks[:0] = acks  # nobody knows whether it was heard, and twice does no harm: said with the last words
            raise

    async def _extend(self) -> None:
        """What is held at two looks in a row gets the whole time again: a third of it has passed, or two."""
        timeout_s, before = self._settings.ack_timeout_s, set[int]()
        while True:
            await self._how.clock.sleep(timeout_s / EXTENDS_A_TIMEOUT)
            held = self.lanes.kept()
            old = sorted(held & before)
            if old and await self._say("extend", partial(self._consumer.extend, old, timeout_s)):
                self._counters.extended_events += len(old)
            before = held

    # What they share.

    async def _say(self, doing: str, call: Callable[[], Awaitable[None]]) -> bool:
        """An answer to the subscription; False if it counted for nothing."""
        if self.over.done():
            return False
        try:
            await call()
        except NotInFlight as error:
            self._counters.stale_answers += 1
            self._how.on_trouble(doing, error)
            return False
        except (EngineError, OSError) as error:
            self._end(error, doing)
            return False
        return True

    def _end(self, error: EngineError | OSError, doing: str) -> None:
        if not self.over.done():
            self.over.set_result(error)
            self._how.on_trouble(doing, error)
        self.close()

    def _wake(self, count: int) -> None:
        while count and self._idle:
            count -= 1
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)

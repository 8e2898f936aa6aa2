"""The loop of a consumer: takes events, gives them to a handler, answers for them, and survives what happens.

    loop = ConsumerLoop(subscription, handle)
    await loop.run()          # until somebody calls loop.stop()

`handle(event)` is async. It returns: acked. It raises Retry(delay_s) or Park(reason): that. It raises anything else:
again after the back-off of the subscription, which parks it in the end.

Invariants: of an ordered subscription no two events of a conversation are at work at once, and one that failed is tried
again before those behind it; what is held is extended, but for handlers beyond `handle_s_max`, which are cancelled;
fenced or disconnected, what runs is let finish, then the loop joins again. At least once: a handler may see an event
twice, and must bear it. Cost: generation.py, one at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Final

from engine.errors import BadArgument, EngineError
from engine.subscriptions.clock import Clock, SystemClock
from engine.subscriptions.generation import Counters, Generation, Handler, How, OnTrouble, Park, Retry
from engine.subscriptions.ports import Fenced, Subscription

__all__ = ["ConsumerLoop", "Counters", "Park", "Retry"]

_log = logging.getLogger(__name__)

JOIN_PAUSE_S_MIN: Final = 0.1
JOIN_PAUSE_S_MAX: Final = 15.0
LEAVE_S_MAX: Final = 10.0  # for the last words; what they don't say, the end of the time for an ack does


def _to_log(doing: str, error: BaseException) -> None:
    """The kind of a failure, never its words: they may hold what people wrote."""
    _log.warning("%s: %s", doing, error if isinstance(error, EngineError) else type(error).__name__)


class ConsumerLoop:
    """One consumer of one subscription, for one event loop."""

    def __init__(
        self,
        subscription: Subscription,
        handle: Handler,
        *,
        name: str = "",
        concurrency: int = 16,
        held_events_max: int = 1_000,
        ack_interval_s: float = 0.05,
        take_wait_s: float = 20.0,
        handle_s_max: float = 300.0,
        stop_s_max: float = 30.0,
        on_trouble: OnTrouble = _to_log,
        clock: Clock | None = None,
    ) -> None:
        """`name`: a consumer of the same name elsewhere is fenced when this one joins; "": a fresh one.

        `held_events_max` bounds what is taken and not answered: small where others should have a share of a competing
        subscription, large for throughput. `stop_s_max`: how long handlers may go on after `stop`.
        """
        if not 1 <= concurrency <= held_events_max <= 1_000_000:
            raise BadArgument(
                f"concurrency {concurrency}, held_events_max {held_events_max}: must be 1 to held_events_max, and that"
                " at most 1,000,000"
            )
        if ack_interval_s < 0 or take_wait_s <= 0 or handle_s_max <= 0 or stop_s_max < 0:
            raise BadArgument(
                "ack_interval_s and stop_s_max must not be negative, take_wait_s and handle_s_max above 0"
            )
        self.counters = Counters()
        self._subscription, self._name, self._stop_s_max = subscription, name, stop_s_max
        self._how = How(
            handle=handle,
            concurrency=concurrency,
            held_events_max=held_events_max,
            ack_interval_s=ack_interval_s,
            take_wait_s=take_wait_s,
            handle_s_max=handle_s_max,
            clock=SystemClock() if clock is None else clock,
            on_trouble=on_trouble,
        )
        self._stopping = asyncio.Event()
        self._generation: Generation | None = None

    def stop(self) -> None:
        """`run` returns soon: what is at work is finished and answered, the rest given back."""
        self._stopping.set()
        if self._generation is not None:
            self._generation.close()

    def stats(self) -> dict[str, int]:
        """Counters, and what is held and at work now."""
        lanes = None if self._generation is None else self._generation.lanes
        return {
            **asdict(self.counters),
            "held_events": 0 if lanes is None else len(lanes.held),
            "running_events": 0 if lanes is None else len(lanes.running),
        }

    async def run(self, *, stop_at: Iterable[int] = ()) -> None:
        """Until `stop`, or until one of the signals `stop_at` comes to the process (main thread only). Raises what
        joining again can't mend: no such subscription, a token without the scope."""
        on = asyncio.get_running_loop()
        with ExitStack() as handled:
            for number in stop_at:
                on.add_signal_handler(number, self.stop)
                handled.callback(on.remove_signal_handler, number)
            await self._run()

    async def _run(self) -> None:
        pause_s = JOIN_PAUSE_S_MIN
        while not self._stopping.is_set():
            taken = self.counters.taken_events
            error = await self._once()
            if error is None:
                return
            if isinstance(error, EngineError) and not error.retryable:
                raise error
            self.counters.fenced += isinstance(error, Fenced)
            self.counters.disconnected += isinstance(error, OSError)
            if self.counters.taken_events > taken:
                pause_s = JOIN_PAUSE_S_MIN
            await self._until_stop(pause_s)
            pause_s = min(pause_s * 2, JOIN_PAUSE_S_MAX)

    async def _once(self) -> EngineError | OSError | None:
        """One generation; why it ended by itself, None: it was stopped."""
        try:
            definition = (await self._subscription.standing()).definition
            consumer = await self._subscription.join(self._name, in_flight_max=self._how.held_events_max)
        except (EngineError, OSError) as error:
            self._how.on_trouble("join", error)
            return error
        self.counters.joins += 1
        generation = self._generation = Generation(consumer, definition, self._how, self.counters)
        if self._stopping.is_set():
            generation.close()
        try:
            await generation.run(self._stop_s_max)
        finally:
            self._generation = None
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S_MAX):
                    await generation.leave()
        return generation.over.result() if generation.over.done() else None

    async def _until_stop(self, delay_s: float) -> None:
        sleeping = asyncio.ensure_future(self._how.clock.sleep(delay_s))
        stopped = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((sleeping, stopped), return_when=asyncio.FIRST_COMPLETED)
        sleeping.cancel()
        stopped.cancel()

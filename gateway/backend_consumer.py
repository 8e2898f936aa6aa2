"""A consumer over the push stream of the door for backends: the connection is the consumer (gateway/api/API.md).

Under backend.py. `take` gives credit for what it asks for, so that no more is in flight here than somebody wanted;
what comes meanwhile waits in `_frames`. Answers go out as they are said and return when the server has synced them, any
number at a time. A filter with `recipient_away` needs the JSON form of the stream, all others take packed records.

    joined ─ leave(), close 4409 or 4404 ─► over: Fenced      joined ─ lost, any other close ─► over: ConnectionError
    joined ─ close 4400 or 4410 ─► over: what the problem says

Invariants: once over, every call raises what it is over for; events that came and were not taken are forgotten then,
and come again to whoever joins. Cost: packed, some 400 ns an event; no task but the one that reads.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import quote, urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from engine import EngineError, Fenced, Packed, Paused, StoredEvent, errors
from gateway import backend_wire as wire
from gateway.backend_link import Link, Problem, error_from, error_of_problem
from gateway.backend_wire import Form, Frame, PackedForm, TextForm

EVENTS_MAX: Final = 100_000  # of one take
WAIT_S_MAX: Final = 3_600.0
LOOK_S: Final = 0.15  # the shortest wait: whether there is something now is a network away
ASK_PAUSED_S: Final = 1.0  # of silence, before somebody asks whether the subscription is paused
DELAY_S_MAX: Final = 86_400.0
EXTEND_S_MAX: Final = 43_200.0
REASON_CHARACTERS_MAX: Final = 256
LEAVE_S: Final = 5.0
OVER_CODES: Final = (4404, 4409)
MENDING_CODES: Final = (4400, 4410)  # coming back would end the same way
EMPTY: Final = Frame(0, b"", [])


class RemoteConsumer:
    """Use `RemoteConsumer.join`. Fits `Consumer` of engine/subscriptions/ports.py."""

    def __init__(
        self, socket: ClientConnection, form: Form, joined: tuple[str, int], is_paused: Callable[[], Awaitable[bool]]
    ) -> None:
        self.name, self.generation = joined
        self._socket, self._form, self._is_paused = socket, form, is_paused
        self._frames: deque[Frame] = deque()
        self._held = 0  # events in them
        self._credit = 0  # given, and not used
        self._came = asyncio.Event()
        self._taking = False
        self._tags = itertools.cycle(range(1, 1 << 32))
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._reason: Problem | None = None
        self._over: EngineError | OSError | None = None
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def join(
        cls,
        link: Link,
        subscription: str,
        name: str,
        in_flight_max: int | None,
        *,
        packed: bool,
        is_paused: Callable[[], Awaitable[bool]],
    ) -> RemoteConsumer:
        """Has joined when it returns. `is_paused`: asked whether silence has that reason."""
        form: Form = PackedForm() if packed else TextForm()
        given = {"consumer": name, "in_flight_max": in_flight_max}
        query = urlencode({key: value for key, value in given.items() if value})
        url = f"ws{link.url.removeprefix('http')}/v1/subscriptions/{quote(subscription, safe='')}/stream?{query}"
        try:
            socket = await connect(
                url,
                subprotocols=[Subprotocol(form.protocol)],
                additional_headers=await link.headers(),
                ssl=(link.trust or True) if url.startswith("wss:") else None,
                compression=None,
                max_size=None,
                proxy=None,
            )
        except InvalidStatus as refused:
            raise error_from(refused.response.status_code, bytes(refused.response.body or b"")) from None
        except InvalidHandshake as error:
            raise ConnectionError(f"{url}: {error}") from error
        try:
            heard = form.read(await socket.recv())
        except ConnectionClosed as closed:
            raise ConnectionError(f"{url}: closed before it had joined: {closed}") from closed
        return cls(socket, form, heard.joined, is_paused)

    # ---- taking ----------------------------------------------------------------------------------------------------

    async def take(self, *, events_max: int = 1_000, wait_s: float = 30.0) -> list[StoredEvent]:
        """The next events, in order; [] if none came in time."""
        found: list[StoredEvent] = []
        for frame in await self._take(events_max, wait_s):
            found += wire.events_of(frame)
        return found

    async def take_packed(self, *, events_max: int = 1_000, bytes_max: int = 262_144, wait_s: float = 30.0) -> Packed:
        """As `take`, as the log holds them."""
        if isinstance(self._form, TextForm):
            raise errors.BadArgument("members who are away are not in the record: use take()")
        if bytes_max < 1:
            raise errors.BadArgument(f"bytes_max {bytes_max}: must be 1 or more")
        frames = await self._take(events_max, wait_s, one=True)
        first, rest = wire.split(frames[0], events_max, bytes_max) if frames else (EMPTY, EMPTY)
        if rest.size:
            self._frames.appendleft(rest)
            self._held += rest.size
        return wire.packed_of(first)

    async def _take(self, events_max: int, wait_s: float, *, one: bool = False) -> list[Frame]:
        if not 1 <= events_max <= EVENTS_MAX:
            raise errors.BadArgument(f"events_max {events_max}: must be 1 to {EVENTS_MAX:,}")
        if not 0 <= wait_s <= WAIT_S_MAX:
            raise errors.BadArgument(f"wait_s {wait_s:g}: must be 0 to {WAIT_S_MAX:,.0f}")
        if self._taking:
            raise errors.BadArgument(f"consumer {self.name!r}: one task at a time may take")
        self._taking = True
        try:
            self._check()
            await self._give_credit(events_max)
            if not self._frames:
                await self._wait(wait_s)
            self._check()
            return self._taken(events_max, one)
        finally:
            self._taking = False

    def _taken(self, events_max: int, one: bool) -> list[Frame]:
        """Frames of at most so many events; `one`: one of them."""
        found: list[Frame] = []
        lacking = events_max
        while self._frames and lacking and not (one and found):
            frame = self._frames.popleft()
            if frame.size > lacking:
                frame, rest = wire.split(frame, lacking)
                self._frames.appendleft(rest)
            found.append(frame)
            lacking -= frame.size
        self._held -= events_max - lacking
        return found

    async def _give_credit(self, events_max: int) -> None:
        """So that as many can come, or have; said in halves, not event by event."""
        lacking = events_max - self._credit - self._held
        if lacking > 0 and 2 * lacking >= events_max:
            self._credit += lacking
            await self._send(self._form.credit(lacking))

    async def _wait(self, wait_s: float) -> None:
        self._came.clear()
        if self._over is not None:
            return
        try:
            async with asyncio.timeout(max(wait_s, LOOK_S)):
                await self._came.wait()
        except TimeoutError:
            if wait_s >= ASK_PAUSED_S and await self._is_paused():
                raise Paused(f"consumer {self.name!r}: the subscription is paused") from None

    # ---- answers ---------------------------------------------------------------------------------------------------

    async def ack(self, sequences: Sequence[int]) -> None:
        """They are handled."""
        await self._answer_all(wire.ACK, sequences)

    async def ack_up_to(self, sequence: int) -> None:
        """Everything delivered up to a sequence."""
        await self._answer(wire.ACK_UP_TO, [sequence])

    async def retry(self, sequence: int, *, delay_s: float | None = None) -> None:
        """Deliver it again after a delay."""
        if delay_s is not None and not 0 <= delay_s <= DELAY_S_MAX:
            raise errors.BadArgument(f"delay_s {delay_s:g}: must be 0 to {DELAY_S_MAX:,.0f}")
        await self._answer(wire.RETRY, [sequence], delay_s)

    async def extend(self, sequences: Sequence[int], extend_s: float) -> None:
        """They need longer."""
        if not 0 < extend_s <= EXTEND_S_MAX:
            raise errors.BadArgument(f"extend_s {extend_s:g}: must be above 0, to {EXTEND_S_MAX:,.0f}")
        await self._answer_all(wire.EXTEND, sequences, extend_s)

    async def park(self, sequence: int, *, reason: str = "") -> None:
        """Put it aside."""
        if len(reason) > REASON_CHARACTERS_MAX:
            raise errors.BadArgument(f"a reason of {len(reason)} characters: at most {REASON_CHARACTERS_MAX}")
        await self._answer(wire.PARK, [sequence], reason=reason)

    async def leave(self) -> None:
        """Gives everything back at once."""
        if self._over is not None:
            return
        self._end(Fenced(f"consumer {self.name!r} has left"))
        try:
            await self._socket.send(self._form.leave())
            async with asyncio.timeout(LEAVE_S):
                await self._socket.wait_closed()
        except (ConnectionClosed, TimeoutError):
            pass  # the end of the connection says it too
        finally:
            await self._socket.close()
            await self._reader

    async def _answer_all(self, kind: int, sequences: Sequence[int], value: float | None = None) -> None:
        """Any number of them; none says only whether this consumer is over."""
        self._check()
        for at in range(0, len(sequences), wire.SEQUENCES_MAX):
            await self._answer(kind, sequences[at : at + wire.SEQUENCES_MAX], value)

    async def _answer(self, kind: int, sequences: Sequence[int], value: float | None = None, reason: str = "") -> None:
        """Says it, and waits until it is synced."""
        self._check()
        for sequence in sequences:
            if not 0 <= sequence <= wire.ID_MAX:
                raise errors.BadArgument(f"sequence {sequence}: must be 0 to {wire.ID_MAX} (2^53-1)")
        tag = next(self._tags)
        done = self._waiting[tag] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda one: one.cancelled() or one.exception())  # the sending may fail by the same
        try:
            await self._send(self._form.answer(kind, tag, sequences, value, reason))
            await done
        finally:
            del self._waiting[tag]

    # ---- the connection --------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._over is not None:
            raise self._over

    async def _send(self, message: bytes | str) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed:
            await self._reader  # which knows why
            self._check()

    async def _read(self) -> None:
        """Until the connection ends."""
        try:
            async for message in self._socket:
                self._hear(self._form.read(message))
        except ConnectionClosed:
            pass
        except OSError as error:
            self._end(error)
            await self._socket.close()
            return
        self._end(self._why())

    def _hear(self, heard: wire.Heard) -> None:
        if heard.frame is not None:
            self._frames.append(heard.frame)
            self._held += heard.frame.size
            self._credit -= heard.frame.size
            self._came.set()
            return
        if heard.problem is not None and not heard.tag:
            self._reason = heard.problem
            return
        done = self._waiting.get(heard.tag)
        if done is None or done.done():
            return
        if heard.problem is None:
            done.set_result(None)
        else:
            done.set_exception(error_of_problem(heard.problem))

    def _why(self) -> EngineError | OSError:
        """What an ended connection means."""
        code, words = self._socket.close_code, self._socket.close_reason or ""
        said = error_of_problem(self._reason) if self._reason is not None else None
        if code in OVER_CODES:
            return Fenced(words if said is None else said.detail)
        if code in MENDING_CODES and said is not None:
            return said
        return ConnectionError(f"the stream has ended with {code}: {words if said is None else said.detail}")

    def _end(self, error: EngineError | OSError) -> None:
        if self._over is None:
            self._over = error
            self._frames.clear()
            self._came.set()
            for done in self._waiting.values():
                if not done.done():
                    done.set_exception(error)

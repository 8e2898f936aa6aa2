"""The client's connection: connects, says hello, resumes after every break, and matches answers to what was asked.

Below client.py, which is the face. One task owns the socket and goes round: connect → hello → welcome → (events) →
live → break → wait → connect. Nothing that was asked is lost by a break: unanswered writes are sent again with the
same counter, in order of counter, and unanswered questions again as they are.

    down ──connect──► hello ──welcome──► resuming ──live──► live          any ──break──► down
    any ──close 45xx, or a token that cannot be renewed──► ended          any ──close()──► ended

Invariants: what has been received is client_stream.py's alone; reading pauses while its queue is full and nothing is
being asked: a slow application costs the server nothing. Cost: a dictionary entry an unanswered write.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from gateway import client_codec as codec
from gateway.client_stream import Stream
from gateway.client_types import (
    APPENDED,
    STATUSES,
    ClientError,
    CommandFailed,
    Event,
    Gap,
    HandshakeRefused,
    Live,
    Positions,
    Receipt,
    Reset,
    SessionEnded,
    Signal,
    Trouble,
    refusal,
)

TokenSource = Callable[[], str | Awaitable[str]]

PROTOCOL = 1
UNANSWERED_MAX = 64
MESSAGE_BYTES_MAX = 64 << 20  # a page of 100 events with 64 KiB each, as base64, fits
PAUSE_FIRST_S, PAUSE_MAX_S = 1.0, 60.0
RETRY_FIRST_S, RETRY_MAX_S = 0.05, 5.0
ANSWER_S = 15.0  # silence after a ping of ours before the connection counts as broken
REFUSED_CLOSE_S = 0.5  # a close that follows a refused hello is behind it on the same connection
FINAL_CODES = (1000, 1002, 1003, 1007, 1009)
_RETRY_AFTER = re.compile(r"retry_after_ms=(\d+)")


class Write:
    """One unanswered write."""

    __slots__ = ("command", "done", "since", "tries", "waiting")

    def __init__(self, command: dict[str, Any], done: asyncio.Future[Receipt]) -> None:
        self.command, self.done = command, done
        self.since, self.tries = time.monotonic(), 0
        self.waiting = False  # refused for a passing reason: a timer will send it again


class Link:
    """The connection of one device. Made and used by Client only."""

    def __init__(
        self,
        url: str,
        token: str | TokenSource,
        device: int,
        encoding: codec.Encoding,
        positions: Positions | None,
        *,
        name: str,
        receive: bool,
        queue_events: int,
        retry_timeout_s: float,
        open_timeout_s: float,
        on_signal: Callable[[Signal], None] | None,
        on_trouble: Callable[[Trouble], None] | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._trust: ssl.SSLContext | bool | None = True if trust is None and url.startswith("wss:") else trust
        self._url, self._token, self._device, self._encoding = url, token, device, encoding
        self._name = name
        self._retry_timeout_s, self._open_timeout_s, self._on_signal = retry_timeout_s, open_timeout_s, on_signal
        self._on_trouble = on_trouble or (lambda trouble: None)
        self._why = ""  # the last connection ended
        self.welcome: Mapping[str, Any] = {}
        self.ended: Exception | None = None
        self._space = asyncio.Event()  # the reader may go on
        self.stream = Stream(positions, receive=receive, queue_events=queue_events, on_space=self._space.set)
        # what was asked
        self._writes: dict[int, Write] = {}
        self._questions: dict[int, tuple[dict[str, Any], asyncio.Future[Any]]] = {}
        self._order = asyncio.Lock()  # writes leave in the order in which they were asked for
        self._room = asyncio.Event()
        self._counter = 0
        self._question = 0
        # the socket
        self._socket: ClientConnection | None = None
        self._heard = 0.0
        self._paused = False
        self._task: asyncio.Task[None] | None = None
        self._helpers: set[asyncio.Task[None]] = set()

    # ---- life ----------------------------------------------------------------------------------------------------

    async def open(self, attempts: int) -> None:
        """The first connection; OSError or TimeoutError if the gateway can't be reached in so many attempts."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(first, attempts))
        try:
            await first
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends everything; whoever waits for an answer gets ClientError("closed")."""
        self._end(ClientError("closed", "the client was closed"))
        own = asyncio.current_task()
        tasks = [task for task in (self._task, *self._helpers) if task is not None and task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    def _end(self, error: Exception) -> None:
        if self.ended is not None:
            return
        self.ended = error
        for write in self._writes.values():
            if not write.done.done():
                write.done.set_exception(error)
        for _, done in self._questions.values():
            if not done.done():
                done.set_exception(error)
        self.stream.end(error)
        self._space.set()
        self._room.set()

    async def _run(self, first: asyncio.Future[None], attempts: int) -> None:
        failures = 0
        while self.ended is None:
            pause: float | None = None
            try:
                pause = await self._session(first)
                failures = 0 if self.stream.live else failures + 1
            except (OSError, TimeoutError, InvalidHandshake, codec.BadPush) as error:
                failures += 1
                if not first.done() and failures >= attempts:
                    said = isinstance(error, OSError) and bool(str(error))  # TimeoutError is one, mostly without words
                    kind = TimeoutError if isinstance(error, TimeoutError) else ConnectionError
                    text = str(error) or f"no answer within {self._open_timeout_s:g} s"
                    if isinstance(error, InvalidStatus):
                        first.set_exception(_refused_handshake(self._url, error))
                        return
                    first.set_exception(error if said else kind(f"{self._url}: {text}"))
                    return
                self._why = str(error) or f"no answer within {self._open_timeout_s:g} s"
                if isinstance(error, InvalidStatus):
                    pause = _seconds(error.response.headers.get("Retry-After"))
            except ClientError as error:
                if not first.done():
                    first.set_exception(error)
                self._end(error)
            except Exception as error:  # a mistake of ours must reach the application, not die in a task
                if not first.done():
                    first.set_exception(error)
                self._end(error)
            finally:
                self.stream.live, self._socket = False, None
            if self.ended is None:
                self._on_trouble(Trouble("lost", "lost", self._why))
                ceiling = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(failures, 16))
                await asyncio.sleep(random.uniform(0, ceiling) if pause is None else pause)

    async def _session(self, first: asyncio.Future[None]) -> float | None:
        """One connection from hello to its end; the pause that the server asked for, if any."""
        async with connect(
            self._url,
            ssl=self._trust,
            subprotocols=[Subprotocol(codec.SUBPROTOCOLS[self._encoding])],
            compression=None,
            proxy=None,
            max_size=MESSAGE_BYTES_MAX,
            ping_interval=None,
            open_timeout=self._open_timeout_s,
            close_timeout=2,
        ) as socket:
            positions = (
                None
                if self.stream.positions is None
                else [
                    {"shard": shard, "epoch": epoch, "sequence": sequence}
                    for shard, (epoch, sequence) in sorted(self.stream.positions.items())
                ]
            )
            await self._say(
                socket,
                {
                    "op": "hello",
                    "token": await self._fresh_token(),
                    "device": self._device,
                    "protocol": PROTOCOL,
                    "client": self._name,
                    "positions": positions,
                },
            )
            refused: CommandFailed | None = None
            helpers: list[asyncio.Task[None]] = []
            try:
                while True:
                    name, body = codec.decode(self._encoding, await self._hear(socket, refused))
                    if name == "welcome" and self._socket is None:
                        await self._welcomed(socket, body)
                        helpers = [asyncio.create_task(self._watch(socket)), asyncio.create_task(self._renew())]
                        if not first.done():
                            first.set_result(None)
                        else:
                            self._on_trouble(Trouble("back"))
                    elif self._socket is None:
                        if name == "error":
                            refused = _failed(body)
                    else:
                        await self._take(name, body)
            except ConnectionClosed as closed:
                return self._closed(closed, refused)
            finally:
                for helper in helpers:
                    helper.cancel()

    def _closed(self, closed: ConnectionClosed, refused: CommandFailed | None) -> float | None:
        """What a close frame asks for: a pause, the usual back-off (None), or the end (raises)."""
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
        name = reason.split(";")[0].strip() or f"close {code}"
        hint = refused.message if refused is not None else ""
        if 4500 <= code <= 4999 or code in FINAL_CODES:
            raise SessionEnded(code, name, hint)
        if code == 4003 and isinstance(self._token, str):
            raise SessionEnded(code, name, "give the client a callable that fetches fresh tokens")
        self._why = name if closed.rcvd else "it ended without a word"
        asked = _RETRY_AFTER.search(reason)
        return int(asked[1]) / 1000 if asked else None

    async def _fresh_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        token = self._token()
        return await token if inspect.isawaitable(token) else token

    # ---- hello and resume ----------------------------------------------------------------------------------------

    async def _welcomed(self, socket: ClientConnection, body: Mapping[str, Any]) -> None:
        self.welcome = body
        stands = {p["shard"]: (p["epoch"], p["sequence"]) for p in body["shards"]}
        self.stream.welcomed(stands)
        self._counter = max(self._counter, body["counter"])
        self._socket = socket
        for write in [write for _, write in sorted(self._writes.items()) if not write.waiting]:
            await self._say(socket, write.command)
        for command, _ in list(self._questions.values()):
            await self._say(socket, command)
        self._room.set()

    async def _take(self, name: str, body: Any) -> None:
        """One push after welcome."""
        if isinstance(body, (Event, Gap, Reset, Live)):
            self.stream.take(body)
        elif isinstance(body, Receipt):
            await self._receipt(body)
        elif name == "error":
            await self._error(body)
        elif name in ("pong", "conversations", "members", "history", "refreshed"):
            question = self._questions.pop(body.get("id", 0), None)
            if question is not None and not question[1].done():
                question[1].set_result(body)
        elif name in ("cursor", "typing", "presence", "advice") and self._on_signal is not None:
            self._on_signal(Signal(name, body.get("conversation", 0), body.get("user", 0), body))

    async def _hear(self, socket: ClientConnection, refused: CommandFailed | None) -> bytes | str:
        """The next message; waits with reading while the application has enough and asks nothing.

        A refused hello is followed by a close, which says more than the refusal, or by nothing: then the refusal is
        the answer, and is raised (as ConnectionError where another attempt may fare better).
        """
        welcomed = self._socket is not None
        while welcomed and self.stream.full and not (self._writes or self._questions):
            self._paused = True
            self._space.clear()
            await self._space.wait()
        self._paused = False
        if not welcomed:
            try:
                async with asyncio.timeout(self._open_timeout_s if refused is None else REFUSED_CLOSE_S):
                    return await socket.recv()
            except TimeoutError:
                if refused is None:
                    raise
                raise (ConnectionError(str(refused)) if refused.retryable else refused) from None
        message = await socket.recv()
        self._heard = time.monotonic()
        return message

    # ---- asking --------------------------------------------------------------------------------------------------

    async def _say(self, socket: ClientConnection, command: dict[str, Any]) -> None:
        try:
            await socket.send(codec.encode(self._encoding, command), text=self._encoding == "json")
        except ConnectionClosed:
            pass  # the reader sees it too, and everything unanswered is sent again

    def _has_room(self) -> bool:
        """Whether one more write keeps inside the 64 counters that the server remembers."""
        oldest = min(self._writes, default=self._counter + 1)
        return bool(self.welcome) and self._counter + 1 - oldest < UNANSWERED_MAX

    async def write(self, command: dict[str, Any], counter: int | None) -> Receipt:
        """A command with a counter: its receipt, whatever happens to connections meanwhile; Refused if it says no."""
        if self.ended is not None:
            raise self.ended
        async with self._order:
            while not self._has_room() and self.ended is None:
                self._room.clear()
                await self._room.wait()
            if self.ended is not None:
                raise self.ended
            if counter is None:
                counter = self._counter + 1
            elif counter in self._writes:
                raise ValueError(f"counter {counter} is unanswered already")
            self._counter = max(self._counter, counter)
            write = Write({**command, "counter": counter}, asyncio.get_running_loop().create_future())
            self._writes[counter] = write
            self._space.set()
            if self._socket is not None:
                await self._say(self._socket, write.command)
        try:
            return await write.done
        finally:
            self._writes.pop(counter, None)
            self._room.set()

    async def _receipt(self, receipt: Receipt) -> None:
        write = self._writes.get(receipt.counter)
        if write is None or write.done.done():
            return
        if receipt.status in APPENDED:
            write.done.set_result(receipt)
        elif STATUSES.get(receipt.status, (False, ""))[0]:
            self._again(write, receipt.extra, refusal(receipt))
        else:
            write.done.set_exception(refusal(receipt))

    def _again(self, write: Write, pause_ms: int, error: ClientError) -> None:
        """Sends a write again after the pause that the server named, or a random one."""
        said = error.message if isinstance(error, CommandFailed) else ""  # of a receipt there are no words but ours
        self._on_trouble(Trouble("refused", error.code, said or error.hint))
        if time.monotonic() - write.since > self._retry_timeout_s:
            write.done.set_exception(error)
            return
        random_s = random.uniform(0, min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(write.tries, 10)))
        write.tries += 1
        write.waiting = True

        async def later() -> None:
            await asyncio.sleep(max(pause_ms / 1000, 0) + random_s)
            write.waiting = False
            if self._socket is not None and not write.done.done():
                await self._say(self._socket, write.command)

        self._help(later())

    def _help(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    async def ask(self, command: dict[str, Any]) -> Mapping[str, Any]:
        """A question: its answer, asked again after every break; CommandFailed if the server says no."""
        if self.ended is not None:
            raise self.ended
        self._question += 1
        id = self._question
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions[id] = ({**command, "id": id}, done)
        self._space.set()
        try:
            if self._socket is not None:
                await self._say(self._socket, self._questions[id][0])
            answer: Mapping[str, Any] = await done
            return answer
        finally:
            self._questions.pop(id, None)

    async def tell(self, command: dict[str, Any]) -> None:
        """A command without an answer; dropped while there is no connection, as it may be."""
        if self.ended is not None:
            raise self.ended
        if self._socket is not None:
            await self._say(self._socket, command)

    async def _error(self, body: Mapping[str, Any]) -> None:
        failed = _failed(body)
        pause_ms = body.get("retry_after_ms") or 0
        write = self._writes.get(body.get("counter") or 0)
        if write is not None and not write.done.done():
            if failed.retryable:
                self._again(write, pause_ms, failed)
            else:
                write.done.set_exception(failed)
            return
        question = self._questions.get(body.get("id") or 0)
        if question is None or question[1].done():
            return
        command, done = question
        if not failed.retryable:
            done.set_exception(failed)
            return

        async def later() -> None:
            await asyncio.sleep(pause_ms / 1000 + random.uniform(0, 0.2))
            if self._socket is not None and not done.done():
                await self._say(self._socket, command)

        self._help(later())

    # ---- beside the reader ---------------------------------------------------------------------------------------

    async def _watch(self, socket: ClientConnection) -> None:
        """Notices a connection that is dead without saying so: our ping must be heard of."""
        self._heard = time.monotonic()
        interval_s = float(self.welcome.get("ping_interval_s") or 30)
        while True:
            await asyncio.sleep(interval_s / 2)
            silent_since = self._heard
            if self._paused or time.monotonic() - silent_since < interval_s:
                continue
            await self._say(socket, {"op": "ping"})
            await asyncio.sleep(ANSWER_S)
            if self._heard == silent_since and not self._paused:
                socket.transport.abort()
                return

    async def _renew(self) -> None:
        """Fetches a fresh token before the session's runs out, if tokens come from a callable."""
        expires = float(self.welcome.get("expires") or 0)
        while expires and not isinstance(self._token, str):
            left_s = expires - time.time()
            await asyncio.sleep(max(left_s - min(60.0, left_s / 5), 1.0))
            try:
                answer = await self.ask({"op": "refresh", "token": await self._fresh_token()})
                expires = float(answer["expires"])
            except CommandFailed:
                await asyncio.sleep(5)  # the server closes with 4003 in time; hello then brings another token


def _failed(body: Mapping[str, Any]) -> CommandFailed:
    return CommandFailed(
        str(body.get("code", "error")),
        str(body.get("message", "")),
        str(body.get("hint", "")),
        bool(body.get("retryable")),
    )


def _refused_handshake(url: str, error: InvalidStatus) -> HandshakeRefused:
    return HandshakeRefused(url, error.response.status_code, _seconds(error.response.headers.get("Retry-After")))


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None

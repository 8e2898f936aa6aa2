"""The driver of a replay: sessions over real sockets, writes in the order of the trace, first looks at events.

Between replay.py (which makes waves of it and judges) and ext/replaywire (sockets and bytes). One thread, one loop:
a turn of the wire, its notes, then timers. Within a group a write waits until all before it are answered, unless the
same device made them: those it sends one behind the other, because one socket keeps their order. A session that
breaks comes back with the position of the last event it received; unanswered writes are sent again with the same
counters.

Invariants: each event is compared with what was sent once per encoding, and every delivery with those bytes; counters
of a device stay within the 64 that the server remembers; nothing is asked of the server about who should get what.
"""

from __future__ import annotations

import heapq
import itertools
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable

import jwt

from bench.replay_plan import Device, Group, Step
from ext.replaywire import BROKEN, CLOSED, DIFFERS, FIRST, MESSAGE, OPENED, ReplayWire
from gateway import client_codec as codec
from gateway.client_types import APPENDED, STATUSES, Event, Gap, Live, Receipt, Reset

TEXT, BINARY, CLOSE = 1, 2, 8
NORMAL = (1000).to_bytes(2, "big")
OPENING_MAX = 400  # connections that may be between connect and welcome; the others wait their turn
OPENING_NS = 20_000_000_000
RUN_MAX = 32  # writes of one device in a group that may be under way together
WINDOW = 60  # of the 64 counters that the server remembers
PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 2.0
SOURCE_PORTS = 20_000  # connections from one loopback address before the next is taken
TOKEN_S = 30 * 86_400
_RETRY_AFTER = re.compile(rb"retry_after_ms=(\d+)")
_BUSY = re.compile(rb"HTTP/1\.1 503 [^\r]*\r\nRetry-After: (\d+)\r\n")
_STEP = {"create": "create", "join": "add", "leave": "leave", "say": "publish"}


class ReplayError(Exception):
    """The replay can't go on; the text says what the server said or did."""


class Target:
    """Where the gateway is and how to be let in."""

    def __init__(self, host: str, port: int, path: str, sign: Callable[[dict[str, object]], str]) -> None:
        self.host, self.port, self.path, self._sign = host, port, path, sign
        self.loopback = host.startswith("127.")

    def token(self, user: int) -> str:
        """A token that outlives the replay."""
        now = int(time.time())
        return self._sign({"sub": str(user), "aud": "gonets", "nbf": now - 5, "exp": now + TOKEN_S})

    def upgrade(self, encoding: codec.Encoding) -> bytes:
        """The handshake; its key is the RFC's example, which the wire expects to be answered."""
        return (
            f"GET {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nUpgrade: websocket\r\n"
            "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {codec.SUBPROTOCOLS[encoding]}\r\n\r\n"
        ).encode()


def signer(private: object, algorithm: str) -> Callable[[dict[str, object]], str]:
    """Signs claims with a private key."""
    return lambda claims: jwt.encode(claims, private, algorithm=algorithm)  # type: ignore[arg-type]


class Driver:
    """All sessions of a replay."""

    def __init__(self, target: Target, devices: list[Device], speed: float | None, seed: int) -> None:
        self.target, self.devices, self.speed = target, devices, speed
        self.wire = ReplayWire(len(devices))
        self.random = random.Random(seed)
        # sessions
        self.live = 0
        self.durability = ""
        self.shard, self.epoch = 0, 1
        self._waiting: deque[Device] = deque()
        self._opening: set[Device] = set()
        self._connects = itertools.count()
        self._source = 127 << 24 | self.random.randrange(16, 240) << 16
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._timer = itertools.count()
        # writes
        self.in_flight = 0
        self.receipts = 0
        self.disordered = 0  # receipts that put a write before one that had been answered earlier
        self.steps: dict[tuple[int, int, int], Step] = {}  # (user, device, counter)
        self._start_ns = 0
        # events
        self.seen: dict[int, tuple[Event, Step]] = {}
        self.wrong: set[tuple[int, int]] = set()  # (slot, encoding) whose first frame is not what was sent
        self.corrupted = 0
        self.first_wrong = ""

    # ---- the loop ------------------------------------------------------------------------------------------------

    def turn(self, wait_us: int = 5_000) -> None:
        """One round."""
        now = time.monotonic_ns()
        if self._timers:
            wait_us = max(0, min(wait_us, (self._timers[0][0] - now) // 1_000))
        for kind, index, slot, data in self.wire.poll(wait_us):
            device = self.devices[index]
            if kind == FIRST:
                self._first(device, slot)
            elif kind == MESSAGE:
                self._message(device, data)
            elif kind == DIFFERS:
                self._differs(device, data)
            elif device.state == "down":
                continue  # it was cut in this very turn
            elif kind == OPENED:
                self._opened(device)
            elif kind == CLOSED:
                self._closed(device, data)
            elif kind == BROKEN and (busy := _BUSY.match(data)):
                self._again(device, int(1_000 * int(busy[1]) * self.random.uniform(0.5, 1)))
            elif kind == BROKEN:
                raise ReplayError(f"user {device.user} device {device.device}: the server sent {data!r}")
        now = time.monotonic_ns()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        self._open_more(now)

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        """Does something later."""
        heapq.heappush(self._timers, (time.monotonic_ns() + int(seconds * 1e9), next(self._timer), work))

    @property
    def timers_only(self) -> bool:
        """Nothing is under way but the trace's own pauses."""
        return self.speed is not None and self.in_flight == 0 and not self._waiting and not self._opening

    def forget(self) -> None:
        """Drops what was received and found in a wave; sessions and their positions stay."""
        self.wire.forget()
        self.seen.clear()
        self.wrong.clear()
        self.corrupted = self.disordered = 0
        self.first_wrong = ""

    # ---- sessions ------------------------------------------------------------------------------------------------

    def connect(self, devices: Iterable[Device]) -> None:
        """Opens sessions of those that have none; live ones are counted in `live`."""
        self._waiting.extend(device for device in devices if device.state == "down")

    def disconnect(self, devices: Iterable[Device]) -> None:
        """Ends sessions in order: they are not needed any more."""
        for device in devices:
            if self.wire.is_open(device.index):
                self.wire.send(device.index, CLOSE, NORMAL)
            self._down(device)
            self.wire.close(device.index)

    def cut(self, device: Device, how: str) -> None:
        """Ends a session as the world does: reset, half-open, or in the middle of a frame; it comes back at once."""
        if how == "half_open":
            self.wire.abandon(device.index)
        else:
            if how == "half_frame" and self.wire.is_open(device.index):
                self.wire.raw(device.index, b"\x82\xfe\x10\x00\x01\x02\x03\x04half of a fra")
            self.wire.close(device.index, reset=how == "reset")
        self._down(device)
        self._waiting.append(device)

    def _down(self, device: Device) -> None:
        if device.state == "live":
            self.live -= 1
        device.state = "down"
        self._opening.discard(device)

    def _open_more(self, now: int) -> None:
        while self._waiting and len(self._opening) < OPENING_MAX:
            device = self._waiting.popleft()
            if device.state != "down":
                continue
            number = next(self._connects)
            source = self._source + (number // SOURCE_PORTS << 8) + 1 if self.target.loopback else 0
            if not device.token:
                device.token = self.target.token(device.user)
            try:
                self.wire.connect(
                    device.index,
                    int(device.encoding == "json"),
                    self.target.host,
                    self.target.port,
                    source,
                    self.target.upgrade(device.encoding),
                )
            except ConnectionRefusedError:
                self._again(device, 0)
                continue
            except OSError as error:
                raise ReplayError(f"{error}; {self.live} sessions are live") from None
            device.state, device.opened_ns = "connecting", now
            self._opening.add(device)
        for device in [d for d in self._opening if now - d.opened_ns > OPENING_NS] if self._opening else ():
            self.wire.close(device.index, reset=True)
            self._again(device, 0)

    def _opened(self, device: Device) -> None:
        device.state = "hello"
        positions = None
        if device.base is not None:
            at = device.held if device.held is not None else max(device.base, self.wire.position(device.index))
            positions = [{"shard": self.shard, "epoch": self.epoch, "sequence": at}]
        self._say(
            device,
            {
                "op": "hello",
                "token": device.token,
                "device": device.device,
                "protocol": 1,
                "client": "gonets-replay",
                "positions": positions,
            },
        )

    def _welcomed(self, device: Device, body: dict[str, object]) -> None:
        device.state = "resuming"
        self._opening.discard(device)
        if device.base is None:
            shards = body["shards"]
            assert isinstance(shards, list) and isinstance(body["counter"], int)
            device.base, device.counter = shards[0]["sequence"], body["counter"]
            self.shard, self.epoch = shards[0]["shard"], shards[0]["epoch"]
            self.durability = str(body["durability"])
        for step in device.unanswered.values():
            if step.refused == 0:
                self._say(device, self._command(step))

    def _became_live(self, device: Device, body: Live) -> None:
        device.base = max(device.base or 0, *(sequence for _, _, sequence in body.positions))
        device.held = None
        device.failures = 0
        if device.state != "live":
            device.state = "live"
            self.live += 1

    def _closed(self, device: Device, data: bytes) -> None:
        code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1006
        if code >= 4500 or code in (1002, 1003, 1007, 1009):
            raise ReplayError(f"user {device.user} device {device.device}: the server closed with {code} {data[2:]!r}")
        asked = _RETRY_AFTER.search(data)
        self._again(device, int(asked[1]) if asked else 0)

    def _again(self, device: Device, pause_ms: int) -> None:
        """Back after what the server asked for, or after a random time (full jitter)."""
        self._down(device)
        ceiling = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(device.failures, 10))
        device.failures += 1
        self.after(pause_ms / 1000 or self.random.uniform(0, ceiling), lambda: self._waiting.append(device))

    def _say(self, device: Device, command: dict[str, object]) -> None:
        if self.wire.is_open(device.index):  # else its end is on its way to us, and the next welcome says it again
            self.wire.send(
                device.index, TEXT if device.encoding == "json" else BINARY, codec.encode(device.encoding, command)
            )

    # ---- what comes ----------------------------------------------------------------------------------------------

    def _message(self, device: Device, data: bytes) -> None:
        try:
            name, body = codec.decode(device.encoding, data)
        except codec.BadPush as error:
            self.note_wrong(f"a message that can't be read: {error}")
            self.corrupted += 1
            return
        if isinstance(body, Receipt):
            self._receipt(device, body)
        elif isinstance(body, Event):  # in another form than the wire knows
            self.wire.event(device.index, body.sequence, data)
            self.corrupted += not self._is_right(body)
        elif device.state == "down":
            return  # cut in this very turn: what was still on its way is not asked for
        elif name == "welcome":
            self._welcomed(device, body)
        elif isinstance(body, Live):
            self._became_live(device, body)
        elif isinstance(body, Gap):
            self._gap(device, body)
        elif name == "history":
            self._page(device, body)
        elif isinstance(body, Reset):
            raise ReplayError(f"user {device.user}: the server says that history was replaced: {body}")
        elif name == "error":
            self._error(device, body)

    def _first(self, device: Device, slot: int) -> None:
        """The first frame of an event in this encoding: is it what was sent?"""
        encoding = int(device.encoding == "json")
        try:
            _, event = codec.decode(device.encoding, self.wire.frame(slot, encoding))
            right = isinstance(event, Event) and self._is_right(event)
        except codec.BadPush as error:
            self.note_wrong(f"an event that can't be read: {error}")
            right = False
        if not right:
            self.wrong.add((slot, encoding))

    def _differs(self, device: Device, data: bytes) -> None:
        try:
            _, event = codec.decode(device.encoding, data)
            right = isinstance(event, Event) and self._is_right(event)
        except codec.BadPush as error:
            self.note_wrong(f"an event that can't be read: {error}")
            right = False
        self.corrupted += not right

    def _is_right(self, event: Event) -> bool:
        """Whether it is a write of ours, and the same as every other time it was looked at."""
        known = self.seen.get(event.sequence)
        if known is not None:
            if known[0] == event:
                return True
            self.note_wrong(f"two events under one sequence: {known[0]} and {event}")
            return False
        step = self.steps.get((event.sender, event.device, event.counter))
        if step is None or not step.matches(event):
            self.note_wrong(f"not what was sent: {event}")
            return False
        self.seen[event.sequence] = (event, step)
        return True

    def note_wrong(self, what: str) -> None:
        self.first_wrong = self.first_wrong or what

    def _gap(self, device: Device, gap: Gap) -> None:
        """Too much was missed: the rest is fetched by pages."""
        if device.held is None and device.state == "resuming":
            device.held = gap.after
        device.gaps[gap.conversation] = (gap.after, gap.before)
        self._take_filled(device, gap.conversation, gap.newest)
        self._next_page(device, gap.conversation, gap.next)

    def _page(self, device: Device, body: dict[str, object]) -> None:
        page = codec.history_page(device.encoding, body)
        self._take_filled(device, page.conversation, page.events)
        done = bool(page.events) and page.events[-1].sequence <= device.gaps[page.conversation][0]
        self._next_page(device, page.conversation, None if done else page.next)

    def _next_page(self, device: Device, conversation: int, before: int | None) -> None:
        after = device.gaps[conversation][0]
        if before is not None and before > after + 1:
            self._say(device, {"op": "history", "conversation": conversation, "before": before, "limit": 100, "id": 1})

    def _take_filled(self, device: Device, conversation: int, events: Iterable[Event]) -> None:
        after, before = device.gaps[conversation]
        for event in events:
            if after < event.sequence < before:
                device.filled.append(event.sequence)
                self.corrupted += not self._is_right(event)

    # ---- writes --------------------------------------------------------------------------------------------------

    def begin(self, groups: Iterable[Group]) -> None:
        """Starts the clock and the first write of each group."""
        self._start_ns = time.monotonic_ns()
        for group in groups:
            self._advance(group)

    def _advance(self, group: Group) -> None:
        """Sends what the order of the group, the device's window and the clock allow."""
        while group.next < len(group.steps):
            step = group.steps[group.next]
            device = step.publisher
            others = group.turn_of is not device or not group.conversation
            if group.outstanding and (others or group.outstanding >= RUN_MAX):
                return
            if device.unanswered and device.counter + 1 - next(iter(device.unanswered)) >= WINDOW:
                device.blocked.append(group)
                return
            if self.speed is not None:
                early_s = step.due_s / self.speed - (time.monotonic_ns() - self._start_ns) / 1e9
                if early_s > 0:
                    self.after(early_s, lambda: self._advance(group))
                    return
            step.floor = group.steps[group.next - 1].floor if group.outstanding else group.floor
            group.turn_of = device
            group.next += 1
            group.outstanding += 1
            self._publish(step)

    def _publish(self, step: Step) -> None:
        device = step.publisher
        device.counter += 1
        step.counter, step.sent_ns = device.counter, time.monotonic_ns()
        device.unanswered[step.counter] = step
        self.steps[(device.user, device.device, step.counter)] = step
        self.in_flight += 1
        if device.state in ("resuming", "live"):
            self._say(device, self._command(step))

    def _command(self, step: Step) -> dict[str, object]:
        command: dict[str, object] = {"op": _STEP[step.kind], "counter": step.counter}
        if step.kind == "create":
            return {
                **command,
                "kind": "group",
                "title": step.group.title,
                "members": step.group.start,
                "history": False,
            }
        command["conversation"] = step.group.conversation
        if step.kind == "say":
            command["payload"] = step.payload
        elif step.kind == "join":
            command["user"] = step.subject
        return command

    def _receipt(self, device: Device, receipt: Receipt) -> None:
        step = device.unanswered.get(receipt.counter)
        if step is None:
            known = self.steps.get((device.user, device.device, receipt.counter))
            if known is None or known.receipt is None or known.receipt.sequence != receipt.sequence:
                raise ReplayError(f"user {device.user}: a receipt that contradicts an earlier one: {receipt}")
            return
        if receipt.status not in APPENDED:
            self._refused(step, receipt.status, receipt.extra)
            return
        del device.unanswered[receipt.counter]
        step.receipt = receipt
        group = step.group
        group.conversation = group.conversation or receipt.conversation
        if receipt.conversation != group.conversation or receipt.sequence < 1:
            raise ReplayError(f"{group.title}: a receipt for conversation {group.conversation} says {receipt}")
        if receipt.conversation_sequence <= step.floor:
            self.disordered += 1
        group.floor = max(group.floor, receipt.conversation_sequence)
        group.outstanding -= 1
        self.in_flight -= 1
        self.receipts += 1
        self._advance(group)
        blocked, device.blocked = device.blocked, []
        for other in blocked:
            self._advance(other)

    def _refused(self, step: Step, status: str, pause_ms: int) -> None:
        """Passing refusals are tried again with the same counter; others mean that the replay can't be true."""
        if not STATUSES.get(status, (False, ""))[0]:
            raise ReplayError(
                f"{step.group.title}: {step.kind} of user {step.publisher.user}, counter {step.counter}"
                f" was refused: {status} ({pause_ms})"
            )
        step.refused += 1
        again = step.refused

        def retry() -> None:
            if step.receipt is None and step.refused == again:
                step.refused = 0
                if step.publisher.state in ("resuming", "live"):
                    self._say(step.publisher, self._command(step))

        self.after(max(pause_ms, 20) / 1000 * self.random.uniform(1, 1.5), retry)

    def _error(self, device: Device, body: dict[str, object]) -> None:
        counter, pause_ms = body.get("counter"), body.get("retry_after_ms")
        step = device.unanswered.get(counter) if isinstance(counter, int) else None
        if step is not None and body.get("retryable"):
            self._refused(step, "overloaded", pause_ms if isinstance(pause_ms, int) else 0)
        elif device.state in ("resuming", "live") or not body.get("retryable"):
            raise ReplayError(f"user {device.user} device {device.device}: the server answered {body}")

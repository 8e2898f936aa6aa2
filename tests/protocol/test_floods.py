"""Too much, and too little: floods of frames that cost nothing to send, readers that take nothing, single bytes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest

from tests.support.gateway import Device, GatewayProcess, running
from tests.support.hostile import (
    UPGRADE,
    Foe,
    command,
    connect,
    frame,
    hello,
    one_by_one,
    play,
    reset,
    resident_bytes,
    settled,
)
from tests.support.poller_rig import BINARY, CLOSE, JSON, PING, PONG, TEXT, frames_of, head
from tests.support.sanitizers import needs_plain_memory

FLOOD_S = 0.8
SERVED_WITHIN_S = 5.0  # not a measurement: far from it
MIB = 1 << 20


@contextmanager
def flooding(flooder: socket.socket, chunk: bytes, reads: bool) -> Iterator[list[int]]:
    """Sends the chunk as quickly as the kernel takes it, in a thread; what it yields is the number of bytes so far."""
    sent, stop = [0], threading.Event()

    def flood() -> None:
        flooder.settimeout(0.05)
        while not stop.is_set():
            try:
                sent[0] += flooder.send(chunk)
                if reads:
                    flooder.recv(1 << 20)
            except TimeoutError:
                continue
            except OSError:
                return

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def talk(one: Device, two: Device, seconds: float) -> int:
    """One dialog for so long; the number of its messages."""
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until or number < 3:
        began = time.monotonic()
        receipt = one.write("publish", user=2, text=f"{number}")
        assert receipt["status"] == "appended"
        assert two.expect("event", sequence=receipt["sequence"])["payload"] == f"{number}".encode()
        assert time.monotonic() - began < SERVED_WITHIN_S
        number += 1
        time.sleep(0.02)  # within its own rate
    return number


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads nothing"])
@pytest.mark.parametrize("kind", ["pings", "long pings", "pongs", "empty fragments", "commands", "pings before hello"])
def test_a_flood_starves_nobody_and_is_held_in_no_memory(gateway: GatewayProcess, kind: str, reads: bool) -> None:
    chunk = {
        "pings": frame(b"", PING) * 4_000,
        "long pings": frame(b"x" * 125, PING) * 400,
        "pongs": frame(b"", PONG) * 4_000,
        "empty fragments": frame(b"", 0, fin=False) * 4_000,
        "commands": command("ping", id="x") * 1_000,
        "pings before hello": frame(b"", PING) * 4_000,
    }[kind]
    one, two = gateway.device(1), gateway.device(2, encoding="json")
    with connect(gateway) as flooder:
        flooder.sendall(UPGRADE + (b"" if kind == "pings before hello" else hello(gateway, 3)))
        if kind == "empty fragments":
            flooder.sendall(frame(b"x", fin=False))
        before = gateway.metric("gonets_session_bytes")
        with flooding(flooder, chunk, reads) as sent:
            assert talk(one, two, FLOOD_S) >= 3
            assert gateway.metric("gonets_session_bytes") - before < MIB
        assert sent[0] > len(chunk) // 2
    settled(gateway, sessions=2)
    for device in (one, two):
        device.settled()
        device.close()
    settled(gateway, sessions=0)


def test_pongs_come_back_in_order_whatever_is_between(gateway: GatewayProcess) -> None:
    """A flood that is read: each ping that is answered is answered with its own bytes, in order, the last one too."""
    pings = [f"{number}".encode() for number in range(200)]
    data = b"".join(frame(ping, PING) for ping in pings)
    foe = Foe("pings", [UPGRADE + hello(gateway, 1), data, frame(b"\x03\xe8", CLOSE)], connect(gateway))
    play([foe], 5)
    frames = frames_of(foe.received.partition(b"\r\n\r\n")[2])[0]
    assert [body for kind, body in frames if kind == PONG] == pings and foe.outcome() == 1000


def test_a_byte_at_a_time_in_both_directions(gateway: GatewayProcess) -> None:
    """Handshake, hello, a publish and its receipt, every byte alone, through the smallest window, a byte a call."""
    slow = connect(gateway, receive_bytes=1)
    text = "по одному байту, byte by byte " * 40
    user = 11
    body = {"op": "publish", "counter": 1, "user": 12, "text": text}
    greeting = {"op": "hello", "token": gateway.token(user), "device": 1, "protocol": 1}
    sent = head(JSON)
    for message in (greeting, body):
        sent += frame(json_of(message), TEXT, fin=False) + frame(b"", PING) + frame(b"", 0)
    sent += frame(b"\x03\xe8bye", CLOSE)
    received = bytearray()

    def read() -> None:
        while byte := slow.recv(1):
            received.extend(byte)

    reader = threading.Thread(target=read)
    reader.start()
    for data in one_by_one(sent[: -len(frame(b"\x03\xe8bye", CLOSE))]):
        slow.send(data)
    deadline = time.monotonic() + 10
    while b'"receipt"' not in received or b'"event"' not in received:
        assert time.monotonic() < deadline, bytes(received)[-300:]
        time.sleep(0.01)
    for data in one_by_one(frame(b"\x03\xe8bye", CLOSE)):
        slow.send(data)
    reader.join()
    slow.close()
    frames, left = frames_of(bytes(received).partition(b"\r\n\r\n")[2])
    assert not left and [kind for kind, _ in frames if kind != TEXT] == [PONG, PONG, CLOSE]
    (event,) = [push for kind, data in frames if kind == TEXT and (push := decoded(data))["op"] == "event"][-1:]
    assert event["payload"] == base64_of(text)
    settled(gateway, sessions=0)


def test_readers_that_take_nothing_cost_little_and_are_ended(data: Path) -> None:
    """Zero windows in a group that gets 6 MB, and before answers to questions: memory stays, a deadline ends them."""
    needs_plain_memory()
    limits = {"gateway.slow_timeout_s": 2, "gateway.rate_per_s": 10_000, "gateway.rate_burst": 10_000}
    with running(data, **limits) as gateway:
        sender, quick = gateway.device(1), gateway.device(2, encoding="json")
        deaf_users = list(range(10, 40))
        group = sender.group(2, *deaf_users)
        deaf = [connect(gateway, receive_bytes=1) for _ in deaf_users]
        for user, connection in zip(deaf_users, deaf, strict=True):
            connection.sendall(UPGRADE + hello(gateway, user))
        settled(gateway, sessions=32)
        before = resident_bytes(gateway)
        for number in range(100):
            sender.send("publish", counter=sender.counter + 1, conversation=group, payload=b"%08d" % number * 7_500)
            sender.counter += 1
            assert quick.expect("event", counter=sender.counter)["payload"][:8] == b"%08d" % number
            assert sender.expect("receipt", counter=sender.counter)["status"] == "appended"
        # What one has begun to be sent is at most an event; the log, the ring and their maps are not theirs.
        assert gateway.metric("gonets_session_bytes") < 34 * (1.5 * 60_400 + 500) + 64_000
        settled(gateway, sessions=2, seconds=15)
        assert gateway.metric("gonets_session_bytes") < MIB
        assert resident_bytes(gateway) - before < 80 * MIB
        for connection in deaf:
            connection.close()
        questions(gateway, sender, group)


def questions(gateway: GatewayProcess, sender: Device, group: int) -> None:
    """Short questions with long answers, thousands of them, and not one answer read."""
    asked = (
        command("history", conversation=group, limit=100),
        command("members", conversation=group, limit=500),
        command("conversations", limit=100),
    )
    curious = [connect(gateway, receive_bytes=1) for _ in range(8)]
    for device, connection in enumerate(curious, 1):
        connection.sendall(UPGRADE + hello(gateway, 50, device))
    welcomed = sender.write("add", conversation=group, user=50)
    assert welcomed["status"] == "appended"
    highest = 0.0
    for _ in range(20):
        for place, connection in enumerate(curious):
            connection.setblocking(False)
            try:
                connection.send(asked[place % 3] * 500)
            except OSError:
                pass
        time.sleep(0.05)
        highest = max(highest, gateway.metric("gonets_session_bytes"))
    assert highest < len(curious) * 5 * MIB
    settled(gateway, sessions=2, seconds=15)
    for connection in curious:
        reset(connection)
    assert gateway.metric("gonets_session_bytes") < MIB
    assert sender.write("publish", conversation=group, text="still here")["status"] == "appended"


def test_questions_beyond_what_is_taken_are_told_to_come_again(data: Path) -> None:
    """Nothing is lost by it: whoever begins to read gets every answer or that error, and then answers again."""
    titles = {"gateway.rate_per_s": 10_000, "gateway.rate_burst": 10_000}
    with running(data, **titles) as gateway:
        one = gateway.device(1)
        for number in range(60):
            one.group(title=f"{number:03} " + "т" * 250)
        late = connect(gateway, receive_bytes=1)
        late.sendall(UPGRADE + hello(gateway, 1, 2))
        asked = 400
        late.sendall(b"".join(command("conversations", id=number) for number in range(asked)))
        time.sleep(0.3)
        assert gateway.metric("gonets_session_bytes") < 4 * MIB
        received = b""
        found: dict[int, str] = {}
        while len(found) < asked:
            received += late.recv(1 << 20)
            frames, received = frames_of(received.rpartition(b"\r\n\r\n")[2] if b"HTTP/1.1" in received else received)
            for kind, body in frames:
                if kind == BINARY:
                    number, fields = msgpack.unpackb(body)
                    if "id" in fields:
                        found[fields["id"]] = fields.get("code", f"push {number}")
        assert list(found) == list(range(asked)) and set(found.values()) == {"push 12", "overloaded"}
        late.sendall(command("conversations", id="again"))
        while b"again" not in received:
            received += late.recv(1 << 20)
        late.close()


def json_of(message: dict[str, object]) -> bytes:
    """As a client encodes it."""
    import json

    return json.dumps(message).encode()


def decoded(data: bytes) -> dict[str, object]:
    """A push in JSON."""
    import json

    found = json.loads(data)
    assert isinstance(found, dict)
    return found


def base64_of(text: str) -> str:
    """A payload as JSON shows it."""
    import base64

    return base64.b64encode(text.encode()).decode()

"""What the clients of other servers write, taken apart again by naive readers: commands, packets, batches."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.peers import drive, jetstream, mosquitto, redis
from bench.peers.centrifugo import frame
from bench.peers.jobs import EVENT_BYTES
from bench.peers.kafka_wire import Batch, batches_of, varint
from bench.peers.system import Places, on_path
from ext.crc32c import crc32c_portable
from ext.peerload import STAMP
from tests.support.naive_peers import Json, Mqtt, Resp

quick = settings(max_examples=60, deadline=None, derandomize=True)


@quick
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_commands_of_redis(words: list[bytes]) -> None:
    """Counts and lengths are those of the words."""
    data, found = redis.command(*words), []
    head, rest = data.split(b"\r\n", 1)
    for _ in range(int(head[1:])):
        size, rest = rest.split(b"\r\n", 1)
        found.append(rest[: int(size[1:])])
        rest = rest[int(size[1:]) + 2 :]
    assert found == words and rest == b"" and head[:1] == b"*"


def test_a_transaction_of_redis() -> None:
    """MULTI, the events, EXEC; each payload is where the pack says, each command has its answer."""
    pack = redis.StreamSpeech().pack(3)
    parts = pack.data.split(b"*")[1:]
    assert parts[0] == b"1\r\n$5\r\nMULTI\r\n" and parts[-1] == b"1\r\n$4\r\nEXEC\r\n"
    assert pack.answers == 5 and len(pack.payloads) == 3
    for at in pack.payloads:
        assert pack.data[at : at + EVENT_BYTES] == STAMP + drive.fill_of(EVENT_BYTES)
    asked = redis.command(b"XREAD", b"STREAMS", b"events", b"0")
    assert redis.without_last(asked) + b"$3\r\n5-0\r\n" == redis.command(b"XREAD", b"STREAMS", b"events", b"5-0")
    assert Resp().take(redis.PubSubSpeech().message("all", b"x\r\ny")) == ([("publish", "all", b"x\r\ny")], b"")


@quick
@given(st.integers(0, 70_000))
def test_lengths_of_mqtt(size: int) -> None:
    """One to three bytes of length."""
    body = mosquitto.text("n") + bytes(size)
    assert Mqtt().take(mosquitto.packet(0x30, body) + b"!") == ([("publish", "n", bytes(size))], b"!")


@quick
@given(st.text(st.characters(codec="ascii"), max_size=300))
def test_frames_of_centrifugo(channel: str) -> None:
    """A naive WebSocket reader understands them."""
    said = frame({"id": 4, "subscribe": {"channel": channel}})
    assert Json().take(said) == ([("subscribed", channel), ("answer", 4)], b"")


def test_an_atomic_batch_of_jetstream() -> None:
    """Lengths, ascending numbers, one name for all; the last one commits and wants the answer."""
    pack = jetstream.batch(b"r.7", 12)
    rest, sizes = pack.data, []
    for number in range(1, 13):
        at = len(pack.data) - len(rest)
        line, rest = rest.split(b"\r\n", 1)
        words = line.split(b" ")
        assert words[:2] == [b"HPUB", b"s.events"] and (words[2:-2] == [b"r.7"]) == (number == 12)
        head, body = rest[: int(words[-2])], rest[int(words[-2]) : int(words[-1])]
        assert head.startswith(b"NATS/1.0\r\n") and head.endswith(b"\r\n\r\n")
        assert b"Nats-Batch-Sequence: %d\r\n" % number in head
        assert (b"Nats-Batch-Commit: 1\r\n" in head) == (number == 12)
        assert pack.data[pack.numbers[number - 1] :].startswith(b"0" * 16 + b"\r\n")
        assert pack.payloads[number - 1] == at + len(line) + 2 + len(head) and len(body) == EVENT_BYTES
        rest = rest[int(words[-1]) + 2 :]
        sizes.append(len(body))
    assert rest == b"" and pack.answers == 1


def naive_varint(data: bytes) -> tuple[int, bytes]:
    """Zigzag of groups of seven bits."""
    value = shift = 0
    for at, byte in enumerate(data):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), data[at + 1 :]
    raise AssertionError("not whole")


@quick
@given(st.integers(-(2**31), 2**31 - 1), st.binary(max_size=3))
def test_varints_of_kafka(value: int, behind: bytes) -> None:
    """Any value comes back, and nothing else is taken."""
    assert naive_varint(varint(value) + behind) == (value, behind)


@quick
@given(st.integers(1, 40), st.integers(16, 300), st.integers(0, 2**64 - 1))
def test_batches_of_kafka(count: int, size: int, number: int) -> None:
    """Head, checksum and records as the format has them; the number stands at the front of the first value."""
    value = bytes(97 + i % 26 for i in range(size))
    data = Batch(value, count).numbered(number)
    base, length, leader, magic, crc = struct.unpack_from(">qiibI", data)
    assert (base, length, leader, magic) == (0, len(data) - 12, -1, 2)
    assert crc == crc32c_portable(data[21:])
    attributes, last, _, _, producer, epoch, sequence, records = struct.unpack_from(">hiqqqhii", data, 21)
    assert (attributes, last, producer, epoch, sequence, records) == (0, count - 1, -1, -1, -1, count)
    rest, values = data[61:], []
    for offset in range(count):
        whole, rest = naive_varint(rest)
        record, rest = rest[:whole], rest[whole:]
        assert record[0] == 0
        time, record = naive_varint(record[1:])
        delta, record = naive_varint(record)
        key, record = naive_varint(record)
        value_size, record = naive_varint(record)
        values.append(record[:value_size])
        assert (time, delta, key, record[value_size:]) == (0, offset, -1, b"\x00")
    assert rest == b"" and values == [b"%016x" % number + value[16:]] + [value] * (count - 1)


@quick
@given(st.lists(st.integers(1, 5), max_size=6), st.integers(0, 200), st.integers(0, 3_000))
def test_fetched_batches_are_compared_whole(counts: list[int], cut: int, changed: int) -> None:
    """The broker sets offset and epoch; any other byte that differs is seen, a cut batch is left for the next fetch."""
    made = [Batch(b"v" * 30, count) for count in counts]
    stored = bytearray()
    for number, batch in enumerate(made):
        kept = bytearray(batch.numbered(number))
        struct.pack_into(">q", kept, 0, 7 * number)
        struct.pack_into(">i", kept, 12, 3)
        stored += kept
    found = list(batches_of(memoryview(bytes(stored[: len(stored) - cut] if cut else stored))))
    assert [count for _, count in found] == counts[: len(found)] and (cut > 0 or len(found) == len(counts))
    for number, (data, _) in enumerate(found):
        assert made[number].same(data, number)
        other = bytearray(data)
        place = 17 + changed % (len(other) - 17)
        other[place] ^= 1
        assert not made[number].same(memoryview(other), number)
        assert not made[number].same(data, number + 1)


def test_where_programs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option before the environment before the search path; what isn't a program is none."""
    program, text = tmp_path / "thing", tmp_path / "text"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text.write_text("no program")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BENCH_MOSQUITTO", str(text))
    assert Places.named(mosquitto=None, umadb=None) == Places(mosquitto=text)
    assert Places.named(mosquitto=program) == Places(mosquitto=program)
    assert on_path(program) == program and on_path(text, "thing") is None
    assert on_path(None, "nothing", "thing") == program and on_path(None, "text") is None

"""The ring against a list of frames: laps, eviction, entry numbers that wrap, encodings that are missing."""

from __future__ import annotations

import random

import pytest

from ext.jsonevent import json_event
from ext.ring import Ring
from tests.support.naive_log import record_bytes


def frame(encoding: int, record: bytes) -> bytes:
    """A WebSocket frame made the plain way."""
    body = b"\x92\x01" + record if encoding == 0 else json_event(record)
    opcode = b"\x82" if encoding == 0 else b"\x81"
    if len(body) < 126:
        return opcode + bytes([len(body)]) + body
    if len(body) < 65536:
        return opcode + b"\x7e" + len(body).to_bytes(2, "big") + body
    return opcode + b"\x7f" + len(body).to_bytes(8, "big") + body


@pytest.mark.parametrize(("seed", "first"), [(1, 0), (2, 0xFFFFFF00), (3, 0xFFFFFFFF)])
def test_equals_a_list_of_frames(seed: int, first: int) -> None:
    draw = random.Random(seed)
    ring = Ring(1 << 20, first)
    frames: list[tuple[bytes | None, bytes | None]] = []
    for sequence in range(1, 1500):
        size = draw.choice([0, 1, 30, 120, 3000, 65_536]) if draw.random() < 0.5 else draw.randrange(400)
        record = record_bytes(sequence, 5, sequence, 0, 1, 2, 3, 4, "message", draw.randbytes(size))
        encodings = draw.choice([1, 2, 3])
        number = ring.add(record, encodings)
        assert number == (first + len(frames)) % (1 << 32)
        frames.append((frame(0, record) if encodings & 1 else None, frame(1, record) if encodings & 2 else None))
        if sequence % 50 == 0:
            check(ring, first, frames, draw)


def check(ring: Ring, first: int, frames: list[tuple[bytes | None, bytes | None]], draw: random.Random) -> None:
    for encoding in (0, 1):
        held = 0
        for place in reversed(range(len(frames))):
            wanted = frames[place][encoding]
            got = ring.frames_copy((first + place) % (1 << 32), 1, encoding)
            if wanted is None:
                assert got is None
                continue
            held += len(wanted)
            if held <= ring.bytes_room - 100_000:  # the lap's filler is at most one frame
                assert got == wanted
            elif held > ring.bytes_room:
                assert got is None
            else:
                assert got is None or got == wanted
        start = draw.randrange(max(0, len(frames) - 60), len(frames))
        count = 0
        while start + count < len(frames) and frames[start + count][encoding] is not None:
            count += 1
        if count:
            whole = b"".join(pair[encoding] or b"" for pair in frames[start : start + count])
            got = ring.frames_copy((first + start) % (1 << 32), count, encoding)
            assert got is None or got == whole


def test_where_a_send_was_cut() -> None:
    ring = Ring(1 << 20)
    records = [record_bytes(k + 1, 5, 1, 0, 1, 2, 3, 4, "message", bytes(10 * k)) for k in range(5)]
    for record in records:
        ring.add(record, 1)
    ends, end = [], 0
    for record in records:
        end += len(frame(0, record))
        ends.append(end)
    for sent in range(1, end + 1):
        begun, rest = ring.begun_copy(0, 5, 0, sent)
        assert begun == sum(1 for start in [0, *ends[:-1]] if start < sent)
        assert rest == ends[begun - 1] - sent


def test_numbers_never_given_are_not_there() -> None:
    ring = Ring(1 << 20, 100)
    assert ring.frames_copy(100) is None
    assert ring.frames_copy(99) is None
    ring.add(record_bytes(1, 5, 1, 0, 1, 2, 3, 4, "message", b""))
    assert ring.frames_copy(100) is not None
    assert ring.frames_copy(99) is None
    assert ring.frames_copy(101) is None


def test_a_ring_too_small_for_the_largest_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="ring_bytes = 1000"):
        Ring(1000)

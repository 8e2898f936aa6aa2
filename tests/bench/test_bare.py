"""The bare limits do what the comparison says they do: read all, store all, answer all; send all."""

from __future__ import annotations

import struct
from pathlib import Path

import lmdb
import pytest

from bench.bare_server import server_frame
from bench.clients import fill_of, publish_template
from bench.harness import bare
from ext.bare import BareServer
from ext.loadgen import LoadGenerator


def stored_frames(folder: Path) -> int:
    """Client frames in all groups; the groups must be frames without a rest, numbered without a hole."""
    frames, keys = 0, []
    for path in sorted(folder.glob("bare*.lmdb")):
        with lmdb.open(str(path), subdir=False, readonly=True, lib_version=0) as env, env.begin() as transaction:
            for key, group in transaction.cursor():
                keys.append(struct.unpack(">Q", key)[0])
                at = 0
                while at < len(group):
                    assert group[at] == 0x82 and group[at + 1] == 0x80 | 126
                    at += 8 + struct.unpack_from(">H", group, at + 2)[0]
                    frames += 1
                assert at == len(group)
    assert keys == list(range(len(keys)))
    return frames


@pytest.mark.parametrize(("clients", "in_flight", "per_send"), [(1, 1, 1), (30, 8, 8), (30, 8, 1)])
def test_publishes_are_stored_before_they_are_answered(
    tmp_path: Path, clients: int, in_flight: int, per_send: int
) -> None:
    """As many frames on disk as receipts, whatever the grouping."""
    with bare("publish", tmp_path, 97) as server:
        generator = LoadGenerator(clients)
        for _ in range(clients):
            generator.add(b"\xc0")
        generator.connect(server.host, server.port)
        limit = 200 * clients
        stream = generator.stream(fill_of(97), in_flight=in_flight, per_send=per_send, recipients=0, limit=limit)
        for one in range(clients):
            generator.publisher(stream, one, *publish_template("user", one + 1, 97))
        assert generator.run(20.0)
        counts, stats = generator.stream_stats(stream), generator.stats()
        generator.close()
    assert counts["receipts"] == counts["sent"] == limit and counts["refused"] == stats["unmatched"] == 0
    assert stored_frames(tmp_path) == limit


@pytest.mark.parametrize("in_flight", [1, 64])
def test_fan_out_reaches_everybody_whole_and_in_order(tmp_path: Path, in_flight: int) -> None:
    """Verified as ours is: bytes, order, number."""
    sessions = 40
    with bare("fanout", tmp_path, 128) as server:
        generator = LoadGenerator(sessions)
        for _ in range(sessions):
            generator.add(b"\xc0")
        generator.connect(server.host, server.port)
        stream = generator.stream(
            fill_of(128), in_flight=in_flight, per_send=in_flight, recipients=sessions, broadcast=True, limit=1_280
        )
        generator.publisher(stream, 0, *publish_template("conversation", 1, 128))
        assert generator.run(20.0)
        counts, stats = generator.stream_stats(stream), generator.stats()
        generator.close()
    assert counts["completed"] == counts["receipts"] == 1_280 and counts["deliveries"] == 1_280 * sessions
    assert counts["corrupted"] == stats["broken"] == stats["disordered"] == 0


def test_server_frames_have_the_shortest_length() -> None:
    """As RFC 6455 wants it."""
    assert server_frame(16, {})[:2] == b"\x82\x03"
    assert server_frame(3, {"x": "y" * 200})[:2] == b"\x82\x7e"


def test_a_payload_too_small_for_a_long_frame_is_refused() -> None:
    """The event template has the two-byte length; a shorter one would not be RFC 6455."""
    with pytest.raises(ValueError, match="payload_bytes is 32"):
        BareServer(0, b"", payload_bytes=32)

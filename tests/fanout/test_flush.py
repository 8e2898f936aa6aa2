"""Flushing by itself: who comes first, where a frame is cut, what a broken connection does, signals that are shed."""

from __future__ import annotations

import msgspec
import pytest

from engine.fanout import Fanout
from ext.session_table import SessionTable
from tests.support.naive_log import NaiveLog
from tests.support.outlet import JSON, MSGPACK, Outlet


def fanout_with(
    count: int, buffer_bytes: int = 4096, **limits: int
) -> tuple[SessionTable, Fanout, NaiveLog, list[Outlet]]:
    table = SessionTable(count + 20)
    fanout = Fanout(table, sequence=0, ring_bytes=4 << 20, **limits)
    outlets = [Outlet(table, 1 + k, k % 2, buffer_bytes) for k in range(count)]
    return table, fanout, NaiveLog(), outlets


def test_small_conversations_go_before_broadcasts_and_slices_end() -> None:
    _table, fanout, log, outlets = fanout_with(12, priority_recipients_max=2)
    for outlet in outlets:
        fanout.follow(1, outlet.origin)
    fanout.follow(2, outlets[11].origin)
    fanout.route(log.append([(1, "message", 1, b"broadcast")] * 3), 0)
    assert fanout.flush(0)
    fanout.route(log.append([(2, "message", 1, b"dialog")]), 0)
    assert fanout.flush(0)
    outlets[11].read()
    assert outlets[11].sequences() == [1, 2, 3, 4], "the dialog's session is served in the next slice, in order"
    waiting = [outlet for outlet in outlets if not outlet.read()]
    assert waiting, "the broadcast's rest waits for later slices"
    while fanout.flush(0):
        pass
    for outlet in outlets[:11]:
        outlet.read()
        assert outlet.sequences() == [1, 2, 3]


def test_broadcasts_go_on_while_small_conversations_never_pause() -> None:
    _table, fanout, log, outlets = fanout_with(8, priority_recipients_max=2, buffer_bytes=1 << 16)
    for outlet in outlets[4:]:
        fanout.follow(1, outlet.origin)
    for number, outlet in enumerate(outlets[:4]):
        fanout.follow(10 + number, outlet.origin)
    fanout.route(log.append([(1, "message", 1, b"broadcast")]), 0)
    for _ in range(12):
        fanout.route(log.append([(10 + number, "message", 1, b"dialog") for number in range(4)]), 0)
        fanout.flush(0)
    for outlet in outlets[4:]:
        outlet.read()
        assert outlet.sequences() == [1]


def test_a_burst_is_one_range_and_one_send() -> None:
    _table, fanout, log, outlets = fanout_with(4)
    for outlet in outlets:
        fanout.follow(1, outlet.origin)
    for _ in range(4):
        fanout.route(log.append([(1, "message", 1, b"x")] * 4), 0)
    assert outlets[0].inside()["ranges"] == 1
    assert not fanout.flush(10_000)
    assert fanout.counters()["sends"] == 4
    for outlet in outlets:
        outlet.read()
        assert outlet.sequences() == list(range(1, 17))
        assert outlet.inside()["ranges"] == 0


@pytest.mark.parametrize("encoding", [MSGPACK, JSON])
@pytest.mark.parametrize("size", [10, 900, 5000, 60_000])
def test_a_full_socket_keeps_the_rest_of_one_frame_and_becomes_a_reader(encoding: int, size: int) -> None:
    _table, fanout, log, outlets = fanout_with(2)
    outlet = outlets[encoding]
    fanout.follow(1, outlet.origin)
    largest = 0
    for _ in range(400):
        fanout.route(log.append([(1, "message", 1, bytes(size))]), 0)
        fanout.flush(10_000)
        info = outlet.inside()
        largest = max(largest, info["out_bytes"])
        if info["reader"]:
            break
    else:
        raise AssertionError("never full")
    assert largest <= size * 4 // 3 + 600
    assert fanout.take_behind() == [outlet.origin]
    position = fanout.pages.position_of(outlet.origin)
    assert position is not None
    fanout.route(log.append([(1, "message", 1, b"not for readers")]), 0)
    assert outlet.inside()["ranges"] == 0
    for _ in range(100):
        outlet.read()
        outlet.writable()
        if not outlet.inside()["out_bytes"]:
            break
    outlet.read()
    assert outlet.sequences() == list(range(1, position + 1))
    assert outlet.rest == 0, "the frame begun was finished"


def test_control_frames_leave_with_the_events_in_one_send() -> None:
    _table, fanout, log, outlets = fanout_with(1)
    fanout.follow(1, outlets[0].origin)
    assert fanout.signal_to([outlets[0].origin], msgspec.msgpack.encode([9, {}]), b"{}") == 1
    fanout.route(log.append([(1, "message", 1, b"x"), (2, "message", 1, b"other"), (1, "message", 1, b"y")]), 0)
    fanout.flush(10_000)
    assert fanout.counters()["sends"] == 1
    outlets[0].read()
    assert [name for name, _body in outlets[0].pushes()] == ["9", "event", "event"]


def test_a_broken_connection_is_reported_once_and_left_alone() -> None:
    _table, fanout, log, outlets = fanout_with(2)
    for outlet in outlets:
        fanout.follow(1, outlet.origin)
    outlets[0].client.close()
    for _ in range(3):
        fanout.route(log.append([(1, "message", 1, b"x")]), 0)
        fanout.flush(10_000)
    assert fanout.take_lost() == [outlets[0].origin]
    assert fanout.take_lost() == []
    outlets[1].read()
    assert outlets[1].sequences() == [1, 2, 3]
    assert fanout.send_records(outlets[0].origin, [log.events[0].record]) == 0


def test_route_to_serves_only_those_named() -> None:
    _table, fanout, log, outlets = fanout_with(3)
    for outlet in outlets:
        fanout.follow(1, outlet.origin)
    block = log.append([(1, "member.added", 1, {"user": 2}), (1, "message", 1, b"x")])
    fanout.route_to(block, 0, [outlets[1].origin])
    assert fanout.sequence == 1
    fanout.route(block, 1)
    fanout.flush(10_000)
    for outlet in outlets:
        outlet.read()
    assert [outlet.sequences() for outlet in outlets] == [[2], [1, 2], [2]]


def test_signals_are_shed_for_the_blocked_and_the_busy() -> None:
    _table, fanout, _log, outlets = fanout_with(3, signal_bytes_max=100)
    for outlet in outlets:
        fanout.follow(1, outlet.origin)
    assert fanout.signal(1, b"\x92\x09\x80", b"{}", except_session=outlets[0].origin) == 2
    assert fanout.signal(1, b"\x92\x09\x80" + bytes(200), b"{}" + b" " * 200) == 0
    fanout.pages.read_on(outlets[1].origin, 0)
    assert fanout.signal(1, b"\x92\x09\x80", b"{}") == 2
    fanout.flush(10_000)
    got = [outlet.read() for outlet in outlets]
    assert got == [5, 4, 10]
    assert fanout.counters()["signals_shed"] == 4


def test_what_a_session_has_is_not_sent_again() -> None:
    _table, fanout, log, outlets = fanout_with(1)
    origin = outlets[0].origin
    log.append([(1, "message", 1, b"x")] * 5)
    records = [event.record for event in log.events]
    assert fanout.pages.read_on(origin, 2)
    assert fanout.send_records(origin, records) == 5
    outlets[0].read()
    assert outlets[0].sequences() == [3, 4, 5]
    assert not fanout.pages.go_live(origin), "nothing was routed yet"


def test_records_outside_the_block_are_refused() -> None:
    _table, fanout, log, _outlets = fanout_with(1)
    block = log.append([(1, "message", 1, b"x")])
    with pytest.raises(IndexError):
        fanout.route(block, 0, 2)
    with pytest.raises(IndexError):
        fanout.route_to(block, 1, [])


def test_a_broadcast_half_a_ring_behind_is_congestion() -> None:
    _table, fanout, log, outlets = fanout_with(4, priority_recipients_max=1)
    for outlet in outlets:
        fanout.follow(1, outlet.origin)
    for _ in range(16):
        assert not fanout.congested
        fanout.route(log.append([(1, "message", 1, bytes(60_000))]), 0)
    for _ in range(4):
        fanout.route(log.append([(1, "message", 1, bytes(60_000))]), 0)
    assert fanout.congested
    fanout.flush(100_000)
    assert not fanout.congested

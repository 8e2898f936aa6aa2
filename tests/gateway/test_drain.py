"""The end of a gateway as those outside see it: load balancers, clients that are connected, clients that come."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from gateway.reading import HALF_WINDOW_S, SlowestSlice
from gateway.session import Counters
from tests.support.gateway import Device, GatewayProcess, running


def tell(gateway: GatewayProcess) -> float:
    """SIGTERM; when it was sent."""
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGTERM)
    return time.monotonic()


def test_advice_comes_a_second_before_the_close_and_the_port_answers_meanwhile(data: Path) -> None:
    with running(data, **{"server.drain_s": 2}) as gateway:
        device, other = gateway.device(1), gateway.device(2, 1, "json")
        began = tell(gateway)
        advice = device.expect("advice")
        assert advice["kind"] == "drain"
        assert device.write("publish", user=2, text="last words")["status"] == "appended"
        for admin in (False, True):
            status, text = gateway.http("/readyz", admin)
            assert status == 503 and "draining" in text
            assert gateway.http("/healthz", admin)[0] == 200
        with pytest.raises(InvalidStatus) as refused:
            Device(gateway.url)
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) > 0
        assert device.closed() == (4001, f"drain; retry_after_ms={advice['retry_after_ms']}")
        assert time.monotonic() - began > 0.8
        assert other.closed()[0] == 4001
        assert other.expect("event", type="message")["payload"] == b"last words"
        assert gateway.wait() == 0
        assert time.monotonic() - began < 10


def test_nobody_waits_when_all_have_followed_the_advice_or_drain_is_zero(data: Path) -> None:
    with running(data, **{"server.drain_s": 60}) as gateway:
        device = gateway.device(1)
        began = tell(gateway)
        device.expect("advice")
        device.close()
        assert gateway.wait() == 0 and time.monotonic() - began < 20  # not 60
    with running(data, **{"server.drain_s": 0}) as gateway:
        device = gateway.device(1)
        began = tell(gateway)
        assert device.closed()[0] == 4001 and time.monotonic() - began < 5
        assert gateway.wait() == 0


def test_damaged_cursors_are_one_line_and_the_data_directory_is_let_go(data: Path) -> None:
    with running(data) as gateway:
        gateway.device(1).write("publish", user=2, text="x")
    stored = data / "cursors" / "data.mdb"
    whole = stored.read_bytes()
    stored.write_bytes(b"\xff" * len(whole))
    with pytest.raises(AssertionError) as failed:
        GatewayProcess(data).start()
    said = failed.value.args[0]
    assert "Traceback" not in said and "cursors" in said and "ended with 1" in said
    stored.write_bytes(whole)
    with running(data) as gateway:
        assert gateway.device(1).welcome["counter"] == 1
        assert gateway.metric("gonets_log_sync_seconds_total") == 0
        gateway.device(1).write("publish", user=2, text="y", counter=2)
        assert gateway.metric("gonets_log_sync_seconds_total") > 0
        assert gateway.metric("gonets_data_free_bytes") > 1 << 20


def test_the_longest_slice_outlives_its_readings_but_not_a_minute() -> None:
    counters = Counters()
    slowest = SlowestSlice(counters)
    slowest.second(1_000.0)
    counters.loop_slice_max_seconds = 0.5
    assert (slowest.seconds, slowest.seconds) == (0.5, 0.5)
    slowest.second(1_000.0 + HALF_WINDOW_S)
    counters.loop_slice_max_seconds = 0.1
    assert slowest.seconds == 0.5
    slowest.second(1_001.0 + HALF_WINDOW_S)
    assert slowest.seconds == 0.5
    slowest.second(1_000.0 + 2 * HALF_WINDOW_S)
    assert slowest.seconds == 0.1

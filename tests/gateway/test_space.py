"""A disk that is nearly full: publishes are refused before the writer would stop, and taken again by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.log.space import LOOK_S, Space
from tests.support.gateway import GatewayProcess, running
from tests.support.small_disk import mounted

MIB = 1 << 20


def test_the_limit_has_a_margin_and_looks_are_few() -> None:
    now, looks = 0.0, 0
    free = [1_000]

    def free_bytes(_: Path) -> int:
        nonlocal looks
        looks += 1
        return free[0]

    space = Space(Path("/somewhere"), 800, free_bytes, lambda: now)
    for free[0], short in ((1_000, False), (800, False), (799, True), (899, True), (900, False), (799, True)):
        now += LOOK_S + 0.001
        assert [space.look() for _ in range(5)] == [short] * 5
    assert looks == 6
    assert "log.free_bytes_min = 800" in space.words(799) and "799" in space.words(799)
    assert not Space(Path("/somewhere"), 0, lambda _: 0).look()


def test_a_place_that_cannot_be_asked_changes_nothing(tmp_path: Path) -> None:
    assert not Space(tmp_path / "none", 1 << 60).look()


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB."""
    with mounted(tmp_path / "disk", 96) as point:
        yield point


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_ready(gateway: GatewayProcess) -> bool:
    return gateway.http("/readyz")[0] == 200


def test_publishes_end_before_the_space_does(small_disk: Path) -> None:
    options = {"log.free_bytes_min": 48 * MIB, "log.segment_bytes": 8 * MIB}
    with running(small_disk / "data", **options) as gateway:
        one, two = gateway.device(1), gateway.device(2)
        kept = one.write("publish", user=2, text="kept")["sequence"]
        filler = small_disk / "filler"
        filler.write_bytes(bytes(60 * MIB))
        until(lambda: not is_ready(gateway))
        assert "log.free_bytes_min = 50331648" in gateway.http("/readyz")[1]
        assert gateway.metric("gonets_disk_short") == 1
        refused = one.write("publish", user=2, text="later")
        assert refused["status"] == "overloaded" and refused["extra"] > 0
        one.send("history", conversation=two.expect("event", sequence=kept)["conversation"], id="page")
        assert one.expect("history")["events"][0]["sequence"] == kept
        filler.unlink()
        until(lambda: is_ready(gateway))
        again = one.write("publish", counter=one.counter, user=2, text="later")
        assert (again["status"], again["sequence"]) == ("appended", kept + 1)
        assert two.expect("event", sequence=kept + 1)["payload"] == b"later"
        assert gateway.metric("gonets_writer_fenced") == 0

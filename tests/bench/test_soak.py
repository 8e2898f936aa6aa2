"""The soak against a model of a server that leaks or doesn't; what is watched from outside, with a real server page."""

from __future__ import annotations

import http.server
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.schema import Process, Run, Sample
from bench.soak_watch import DELIVERED, LOGGED, RING, STORED, Look, Watch, values_of
from bench.soaking import Soak
from bench.workload import Workload, load
from gateway.metrics import TABLE
from tests.bench.test_search import a_run, latency

MIB = 1 << 20


class Model:
    """A server and its clock: windows of a minute, with what it leaks an hour."""

    def __init__(self, *, seed: int = 1, hours: float = 2.0, **per_hour: float) -> None:
        self.now, self.hours, self.per_hour = 100.0, hours, per_hour
        self.chance = random.Random(seed)
        self.looks: list[Look] = []
        self.saved = 0
        self.soak = Soak(load("dialogs"), hours * 3_600, self.window, self, self.after, lambda: self.now)

    def grown(self, name: str) -> float:
        return self.per_hour.get(name, 0.0) * (self.now - 100.0) / 3_600

    def window(self, workload: Workload) -> Run:
        self.now += 5.0  # connecting
        samples = []
        for second in range(60):
            self.now += 1.0
            samples.append(
                Sample(
                    at_s=float(second),
                    cpu_cores=0.5,
                    resident_bytes=round(500 * MIB + self.grown("resident") * MIB),
                    anonymous_bytes=round((300 + self.chance.random() * 20 + self.grown("memory")) * MIB),
                    descriptors=round(1_000 + self.grown("descriptors")),
                    threads=12,
                )
            )
        stored = 2_000 * (self.now - 100.0)
        self.looks.append(
            Look(self.now, round(stored * (300 + self.grown("disk"))), stored, self.chance.randrange(0, 60))
        )
        p99_ms = 8.0 + self.chance.random() * 3 + self.grown("latency")
        fields: dict[str, Any] = dict.fromkeys(("cpu_cores_mean", "cpu_cores_max"), 0.5)
        server = Process(role="worker", name="0", pid=1, samples=samples, resident_bytes_max=1, **fields)
        steady = [sample for sample in samples[:1] for _ in range(60)]
        clients = Process(role="generator", name="0", pid=2, samples=steady, resident_bytes_max=1, **fields)
        self.now += 1.0
        return a_run(
            2_000, p99_ms, window_s=60.0, drain_s=1.0, processes=[server, clients],
            latencies={"deliver": latency(p99_ms / 4, p99_ms)},
        )  # fmt: skip

    def after(self) -> None:
        self.saved += 1


@pytest.mark.parametrize("seed", range(5))
def test_a_server_that_leaks_nothing(seed: int) -> None:
    model = Model(seed=seed)
    model.soak.run()
    judged = model.soak.judged()
    assert {one.growth.name for one in judged if one.verdict != "shown"} == {
        "memory of its own", "descriptors", "threads", "p99 of deliveries", "lag of the tail", "disk for each event"
    }  # fmt: skip
    assert {one.verdict for one in judged} == {"steady", "shown"}, [one.sentence for one in judged]
    assert model.saved == len(model.soak.runs) > 100
    text = list(model.soak.conclusions(judged))
    assert text[0].endswith("nothing was found to grow.") and text[1] == "Faults in all windows: none."


@pytest.mark.parametrize(
    ("leak", "name"),
    [
        ({"memory": 40.0}, "memory of its own"),
        ({"descriptors": 60.0}, "descriptors"),
        ({"latency": 6.0}, "p99 of deliveries"),
        ({"disk": 60.0}, "disk for each event"),
    ],
)
def test_what_grows_is_named_and_nothing_else(leak: dict[str, float], name: str) -> None:
    model = Model()
    model.per_hour = leak
    model.soak.run()
    judged = model.soak.judged()
    assert [one.growth.name for one in judged if one.growth.grows] == [name], [one.sentence for one in judged]
    text = list(model.soak.conclusions(judged))
    assert text[0].endswith(f"something grew: {name}.")
    if "memory" in leak:
        assert any(line.startswith("Most memory came to worker 0: ") for line in text)
    (growth,) = [one.growth for one in judged if one.growth.grows]
    scale = MIB if "memory" in leak else 1.0
    assert growth.per_hour == pytest.approx(next(iter(leak.values())) * scale, rel=0.35)


def test_resident_pages_of_files_may_grow() -> None:
    model = Model(resident=500.0)
    model.soak.run()
    judged = model.soak.judged()
    assert not any(one.growth.grows for one in judged)
    (resident,) = [one for one in judged if one.growth.name.startswith("resident")]
    assert resident.verdict == "shown" and resident.growth.per_hour == pytest.approx(500 * MIB, rel=0.1)


def test_processes_are_summed_look_by_look() -> None:
    """Three are sampled one after the other, about the turn of a second; one of them is started anew meanwhile."""

    def one(name: str, first_s: float, last_s: float, bytes_each: int) -> Process:
        moments = [n + first_s for n in range(20) if n + first_s <= last_s]
        rest: dict[str, Any] = {"cpu_cores": 0.0, "resident_bytes": 0, "descriptors": 1}
        samples = [Sample(at_s=at_s, anonymous_bytes=bytes_each, **rest) for at_s in moments]
        return Process(
            role="worker", name=name, pid=1, samples=samples, cpu_cores_mean=0, cpu_cores_max=0, resident_bytes_max=1
        )

    processes = [one("0", 0.999, 30.0, 100), one("1", 1.0005, 10.5, 20), one("1", 11.0005, 30.0, 30)]
    run = a_run(1, 1.0, window_s=20.0, drain_s=0.0, processes=processes)
    model, now = Model(), iter([0.0, 0.0, 20.0, 60.0, 60.0])
    soak = Soak(load("dialogs"), 50.0, lambda workload: run, model, lambda: None, lambda: next(now))
    soak.run()
    (memory,) = [one.growth for one in soak.judged() if one.growth.name == "memory of its own"]
    values = [value for _, value in memory.samples]
    assert set(values) <= {120.0, 130.0} and values == sorted(values) and len(values) >= 18


@pytest.mark.parametrize(("workers", "settled_s"), [(1, 3_200.0), (2, 1_600.0)])
def test_a_ring_that_fills_is_no_leak(workers: int, settled_s: float) -> None:
    """64 MiB come to it at 20 KiB a second; a verdict on memory begins when it is full."""
    model = Model()
    model.per_hour = {"memory": 70.0}
    whole = model.window

    def filling(workload: Workload) -> Run:
        if model.now - 100.0 > settled_s:
            model.per_hour = {}
        run = whole(workload)
        logged = 20.0 * 1024 * (model.now - 100.0)
        model.looks[-1] = model.looks[-1]._replace(logged_bytes=logged, ring_bytes=float(64 * MIB))
        return run

    model.soak = Soak(
        load("dialogs"), 7_200.0, filling, model, model.after, lambda: model.now, workers=workers
    )  # fmt: skip
    model.soak.run()
    assert model.soak.ring_filled_s() == pytest.approx(64 * MIB / workers / 20_480, abs=70)
    assert "memory of its own" not in [one.growth.name for one in model.soak.judged() if one.growth.grows]
    model.looks[:] = [look for look in model.looks if (look.logged_bytes or 0) < 20 * MIB]
    assert model.soak.ring_filled_s() is None
    judged = model.soak.judged()
    assert [one.verdict for one in judged if one.growth.name == "memory of its own"] == ["can't tell"]
    assert any("ring of frames was not full yet" in line for line in model.soak.conclusions(judged))


@pytest.mark.parametrize("after", [0, 1, 30])
def test_hours_are_not_lost_when_it_ends_early(after: int) -> None:
    model = Model()
    whole = model.window

    def dies(workload: Workload) -> Run:
        if len(model.soak.runs) == after:
            raise ConnectionError("the target is gone")
        return whole(workload)

    model.soak = Soak(load("dialogs"), 7_200.0, dies, model, model.after, lambda: model.now)
    with pytest.raises(ConnectionError):
        model.soak.run()
    assert len(model.soak.runs) == model.saved == after
    judged = model.soak.judged()
    text = " ".join(model.soak.conclusions(judged))
    if after == 30:
        assert "nothing was found to grow" in text
        assert [one.verdict for one in judged if one.growth.name.startswith("memory")] == ["steady"]
    elif after:
        assert "too little was seen for a verdict" in text and "(1 window)" in text
    else:
        assert text == "No window was finished: nothing is known." and judged == []


def test_faults_of_all_windows_are_summed() -> None:
    runs = iter([a_run(1, 1.0, faults={"lost": 2, "doubled": 0}), a_run(1, 1.0, faults={"lost": 1, "disordered": 4})])
    now = iter(range(0, 10_000, 10))
    model = Model()
    soak = Soak(load("dialogs"), 200.0, lambda workload: next(runs), model, lambda: None, lambda: float(next(now)))
    with pytest.raises(StopIteration):
        soak.run()
    assert soak.faults() == {"lost": 3, "disordered": 4}
    assert "Faults in all windows: 3 lost, 4 disordered." in list(soak.conclusions([]))


@contextmanager
def page(text: str) -> Iterator[str]:
    """An address that answers /metrics with a text; empty: with 500."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if text and self.path == "/metrics" else 500)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def looked(data: Path | None, admin: str) -> Watch:
    """A few looks."""
    with Watch(data, admin, 0.05) as watch:
        until = time.monotonic() + 10
        while len(watch.looks) < 3 and time.monotonic() < until:
            time.sleep(0.02)
    assert len(watch.looks) >= 3
    return watch


def test_disk_and_lag_are_read_from_directory_and_page(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 100_000)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    with page(f'# HELP x y\n{STORED} 1200.0\n{DELIVERED} 1150.0\nother{{a="b"}} 7\nbad\n') as admin:
        watch = looked(tmp_path, admin)
    look = watch.looks[1]
    assert (look.stored_events, look.lag_events) == (1_200.0, 50.0)
    assert look.disk_bytes is not None and 100_000 <= look.disk_bytes < 1 << 20
    assert watch.remarks == []


def test_what_cant_be_read_is_missing_and_said(tmp_path: Path) -> None:
    with page("") as admin:
        watch = looked(None, admin)
    assert set(watch.looks[0][1:]) == {None}
    assert len(watch.remarks) == 2 and "did not answer at least once: HTTP Error 500" in watch.remarks[1]
    assert looked(tmp_path / "gone", "").looks[0].disk_bytes is None
    assert looked(tmp_path, "").remarks == ["The lag of the tail was not watched: no admin address is known."]


def test_the_metrics_that_are_read_exist() -> None:
    assert {STORED, DELIVERED, LOGGED, RING} <= {row.name for row in TABLE}
    assert values_of('a 1\nb{x="y"} 2\n# c 3\nd\ne nan\nf 1e3 123\n').keys() == {"a", "e", "f"}

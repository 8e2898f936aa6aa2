"""The sampler against real processes that compute, write and grow; the verdict on what was the limit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import procfs, sampling
from bench.report import IN_MEMORY, filesystem_of
from bench.sampling import Sampler, Watched, saturated
from bench.schema import Generator, Process, Run
from tests.support.tree import ROOT

HALF_A_CORE = """
import time, threading
def burn():
    while True:
        end = time.thread_time() + 0.02
        while time.thread_time() < end: pass
        time.sleep(0.02)
threading.Thread(target=burn, daemon=True).start()
time.sleep(60)
"""
WRITER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
while True:
    os.pwrite(descriptor, bytes(1 << 20), 0)
    os.fsync(descriptor)
"""
GROWING = """
import time
kept = []
while True:
    kept.append(b"x" * 4_000_000)
    time.sleep(0.05)
"""


@contextmanager
def child(source: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that is killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", source, *arguments])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """On the disk of the checkout: the folder of pytest may be memory."""
    place = ROOT / "build" / f"sampling-{os.getpid()}"
    place.mkdir(parents=True)
    yield place
    for file in place.iterdir():
        file.unlink()
    place.rmdir()


def test_processes_that_compute_write_and_grow(folder: Path) -> None:
    """Within a window that lies inside of the samples; one process is started again meanwhile."""
    with child(HALF_A_CORE) as burner, child(WRITER, str(folder / "file")) as writer, child(GROWING) as growing:
        pids = {"burner": burner.pid, "writer": writer.pid, "growing": growing.pid, "again": 2**22 + 1}

        def watched() -> list[Watched]:
            return [Watched("worker", name, pid) for name, pid in pids.items()]

        with Sampler(watched, folder, interval_s=0.2) as sampler:
            time.sleep(0.5)
            began = time.monotonic()
            time.sleep(0.8)
            with child(HALF_A_CORE) as second:
                pids["again"] = second.pid
                time.sleep(0.8)
            ended = time.monotonic()
            time.sleep(0.3)
    found = {process.name: process for process in sampler.processes(began, ended)}
    assert set(found) == set(pids)
    assert all(found[name].pid == pid for name, pid in pids.items())
    burns = found["burner"]
    assert 0 < burns.cpu_cores_mean < 0.8 and burns.cpu_cores_max >= burns.cpu_cores_mean
    (thread, cores), *others = burns.threads_cpu_cores.items()
    assert thread != "main" and cores == pytest.approx(burns.cpu_cores_mean, abs=0.05) and not others
    moments = [sample.at_s for sample in burns.samples]
    assert moments == sorted(moments) and moments[0] < 0 and moments[-1] > ended - began - 0.1
    assert found["writer"].samples[-1].descriptors > 100 > burns.samples[-1].descriptors
    memory = [sample.anonymous_bytes for sample in found["growing"].samples]
    assert memory[-1] - memory[0] > 20_000_000 and found["growing"].resident_bytes_max > memory[-1]
    assert len(found["again"].samples) < len(burns.samples) and found["again"].samples[0].at_s > 0.5
    threads = {name: {sample.threads for sample in one.samples[1:]} for name, one in found.items()}
    assert threads == {"burner": {2}, "writer": {1}, "growing": {1}, "again": {2}}
    resources = sampler.resources(began, ended)
    busy = sum(process.cpu_cores_mean for process in found.values() if process.name != "again")
    assert busy * 0.5 < resources["machine_cpu_cores"] <= resources["machine_cpu_max_cores"] + 1e-9
    if filesystem_of(folder) in IN_MEMORY or procfs.device_of(folder) is None:
        assert "disk_busy_share" not in resources and any("no disk was watched" in words for words in sampler.remarks)
    else:
        assert resources["disk_write_bytes_per_s"] > 100_000 and 0 < resources["disk_busy_share"] <= 1
        assert sampler.remarks == []
    assert resources["sampler_cpu_cores"] < 0.1


def test_what_moved_over_the_loopback_is_counted(tmp_path: Path) -> None:
    source = """
import socket, time
a = socket.create_server(("127.0.0.1", 0)); b = socket.create_connection(a.getsockname()); c, _ = a.accept()
while True:
    b.sendall(bytes(100_000)); got = 0
    while got < 100_000: got += len(c.recv(1 << 20))
    time.sleep(0.01)
"""
    with child(source) as process, Sampler([Watched("worker", "0", process.pid)], tmp_path, 0.2) as sampler:
        time.sleep(0.5)
        began = time.monotonic()
        time.sleep(0.8)
        ended = time.monotonic()
    assert sampler.resources(began, ended)["network_loopback_bytes_per_s"] > 1_000_000


def test_anonymous_memory_is_what_smaps_says() -> None:
    ballast = bytearray(os.urandom(1 << 16)) * 512
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.count(":") == 1 and "kB" in line}
    found = procfs.memory(os.getpid())
    assert found is not None and len(ballast) == 32 << 20
    assert found.anonymous_bytes == pytest.approx((kib["Anonymous"] + kib["Swap"]) * 1024, rel=0.05)


def test_who_is_gone_or_never_was_is_left_out(tmp_path: Path) -> None:
    with child(GROWING) as process:
        with Sampler(
            [Watched("worker", "x", process.pid), Watched("worker", "y", 2**22 + 1)], tmp_path, 0.1
        ) as sampler:
            time.sleep(0.3)
            process.kill()
            time.sleep(0.3)  # a zombie: its parent has not waited
            samples = len(sampler.processes(0.0, 1.0)[0].samples)
            time.sleep(0.3)
    (found,) = sampler.processes(0.0, 1.0)
    assert found.name == "x" and len(found.samples) == samples


def test_memory_is_no_disk() -> None:
    place = Path("/dev/shm")
    if not place.is_dir() or filesystem_of(place) not in IN_MEMORY:
        pytest.skip("no file system in memory here")
    with Sampler([], place, 0.1) as sampler:
        time.sleep(0.3)
    assert sampler.disk == "" and "disk_busy_share" not in sampler.resources(0.0, time.monotonic())
    assert sampler.remarks == ["no disk was watched: /dev/shm is on tmpfs, not on one of this machine"]


def test_a_long_run_is_thinned_and_keeps_its_cpu() -> None:
    """An hour of one core: every sample that is left says one core."""
    life = [sampling._Seen(float(n), float(n), 1, 1, 1, 1, {1: ("x", float(n))}) for n in range(3_600)]
    found = sampling._process("worker", "0", 1, life, 0.0, 3_600.0)
    assert 300 < len(found.samples) <= sampling.SAMPLES_SHOWN_MAX
    assert all(sample.cpu_cores == pytest.approx(1.0) for sample in found.samples[1:])
    assert found.cpu_cores_mean == pytest.approx(1.0) and found.threads_cpu_cores == {"main": pytest.approx(1.0)}


# --- the verdict ------------------------------------------------------------------------------------------------------


def process(role: str, cores: float, *, name: str = "0", most: float = 0.0, **threads: float) -> Process:
    """One that used so much."""
    return Process(
        role=role,
        name=name,
        pid=1,
        samples=[],
        cpu_cores_mean=cores,
        cpu_cores_max=max(most, cores),
        resident_bytes_max=1,
        threads_cpu_cores=threads,
    )


def a_run(*processes: Process, is_limit: bool = False, **resources: float) -> Run:
    """A run of which only this is known."""
    figures: dict[str, Any] = dict.fromkeys(("connect_s", "warmup_s", "window_s", "drain_s"), 1.0)
    return Run(
        started="2026-01-01T00:00:00Z",
        **figures,
        sessions=1,
        offered_per_s=1.0,
        counts={},
        faults={},
        rates_per_s={},
        latencies={},
        ticks=[],
        processes=list(processes),
        generator=Generator(
            processes=1,
            cpu_cores_max=0.5,
            late_p99_ms=0.1,
            is_limit=is_limit,
            reason="its busiest thread used 0.99 core",
        ),
        resources=resources,
    )


NOTHING = (
    "nothing was: latency came from elsewhere (busiest: CPU of worker 0: its thread main used 0.30 of one core; "
    "CPU of the machine: 0.40 of 2 cores (worker 0.30, kernel and others 0.10); disk: busy 10% of the time)"
)
NOT_WATCHED = (
    "not known: the server's processes were not watched (busiest: CPU of the machine: 0.40 of 2 cores"
    " (generator 0.30, kernel and others 0.10))"
)
STOLEN = "CPU of worker-3: its thread main used 0.95 of one core; the host of this machine took 0.50 cores away (steal)"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            a_run(process("worker", 1.1, main=0.97), machine_cores=4, machine_cpu_cores=1.5),
            "CPU of worker 0: its thread main used 0.97 of one core",
        ),
        (
            a_run(process("worker", 1.1, main=0.97), is_limit=True, machine_cores=4, machine_cpu_cores=4),
            "generator: its busiest thread used 0.99 core",
        ),
        (
            a_run(process("server", 1.0, main=0.8), process("generator", 0.8, main=0.8), machine_cores=2,
                  machine_cpu_cores=1.96),
            "CPU of the machine: 1.96 of 2 cores (server 1.00, generator 0.80, kernel and others 0.16)",
        ),
        (
            a_run(process("worker", 0.3, main=0.3), disk_busy_share=0.97, disk_write_bytes_per_s=4e6,
                  disk_flushes_per_s=410.0, disk_flush_mean_ms=2.31),
            "disk: busy 97% of the time, 4.0 MB/s written, 410 flushes/s of 2.31 ms",
        ),
        (
            a_run(process("worker", 0.3), network_link_bytes_per_s=125e6, network_sent_bytes_per_s=120e6),
            "network: 120 of 125 MB/s of the link",
        ),
        (
            a_run(process("worker", 0.95, main=0.91), disk_busy_share=1.0),
            "disk: busy 100% of the time; CPU of worker 0: its thread main used 0.91 of one core",
        ),
        (
            a_run(process("worker", 0.3, main=0.3), machine_cores=2, machine_cpu_cores=0.4, disk_busy_share=0.1),
            NOTHING,
        ),
        (
            a_run(process("worker", 0.3, most=0.99)),
            "nothing in the mean of the window; for a second CPU of worker 0: 0.99 cores with all of its threads",
        ),
        (
            a_run(process("generator", 0.3), machine_cores=2, machine_cpu_cores=0.4),
            NOT_WATCHED,
        ),
        (
            a_run(process("worker", 0.3, name="worker-3", main=0.95), machine_cores=2, machine_steal_cores=0.5,
                  machine_cpu_cores=1.0),
            STOLEN,
        ),
    ],
)  # fmt: skip
def test_what_was_the_limit(run: Run, words: str) -> None:
    assert saturated(run) == words

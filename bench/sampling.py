"""The sampler: what processes, machine, disk and network did in each second of a run; and what of it was the limit.

A thread beside a run, in the process that conducts it. Who is watched is asked anew each time, so that a worker that
was started again goes on under its name with another pid. Nobody needs to say beforehand when the measured window
begins: samples carry their moments, and what a process used within the window is interpolated between two of them.

Invariants: a process that can't be read is left out and said in `remarks`, never shown as 0; a mean is over the part of
the window in which the process lived. Cost: some 0.4 ms a process and sample, reported as `sampler_cpu_cores`.
"""

from __future__ import annotations

import itertools
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from bench import procfs
from bench.report import filesystem_of
from bench.saturation import saturated
from bench.schema import Process, Sample

__all__ = ["Sampler", "Watched", "saturated"]

INTERVAL_S: Final = 1.0
SAMPLES_SHOWN_MAX: Final = 600  # of a process in a report; of longer runs every second, third, …
THREADS_SHOWN: Final = 5
THREAD_CPU_CORES_MIN: Final = 0.01  # below it a thread is not named


class Watched(NamedTuple):
    """Somebody to look at."""

    role: str  # server, supervisor, sequencer, worker, generator, peer
    name: str
    pid: int


class _Seen(NamedTuple):
    at: float
    cpu_s: float
    resident_bytes: int
    anonymous_bytes: int
    descriptors: int
    threads_count: int
    threads: dict[int, tuple[str, float]]  # those that have run since the sample before; name, CPU since their start


class _Life:
    """One process, from its first sample on."""

    def __init__(self) -> None:
        self.samples: list[_Seen] = []
        self.threads: dict[int, float] = {}  # CPU of each when it was last seen


class _Machine(NamedTuple):
    at: float
    cpu: procfs.Cpu
    disk: procfs.Disk | None
    network: procfs.Network


class Sampler:
    """`with Sampler(…) as sampler:` around a run; then ask."""

    def __init__(
        self,
        watched: Callable[[], Iterable[Watched]] | Iterable[Watched],
        folder: Path,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`folder`: whose disk is looked at."""
        given = None if callable(watched) else list(watched)
        self._watched: Callable[[], Iterable[Watched]] = watched if callable(watched) else lambda: given or []
        self._interval_s = interval_s
        self._folder = folder
        self._device = procfs.device_of(folder)
        self._seen: dict[tuple[str, str, int, int], _Life] = {}  # role, name, pid, when it was started
        self._machine: list[_Machine] = []
        self._unread: dict[Watched, str] = {}
        self._failure = ""
        self._cpu_s = 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """One more look, if the last isn't quite new, then no more."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join()
            if time.monotonic() - self._machine[-1].at >= self._interval_s / 2:  # ticks of 10 ms make no rate of less
                self._look()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._interval_s, time.monotonic())  # what was missed is not made up for
            if self._over.wait(due - time.monotonic()):
                return
            try:
                self._look()
            except (OSError, ValueError, IndexError) as error:
                self._failure = f"not sampled any more: {error!r}"
                return

    def _look(self) -> None:
        """One sample of everything, now."""
        began = time.thread_time()
        with self._lock:
            for one in self._watched():
                self._look_at(one)
            disk = procfs.disk(self._device) if self._device else None
            self._machine.append(_Machine(time.monotonic(), procfs.cpu(), disk, procfs.network()))
            self._cpu_s += time.thread_time() - began

    def _look_at(self, one: Watched) -> None:
        at, used, memory = time.monotonic(), procfs.times(one.pid), procfs.memory(one.pid)
        if used is None or memory is None:
            return  # it is over, or has not begun
        descriptors = procfs.descriptors(one.pid)
        if descriptors is None:
            self._unread[one] = "its descriptors can't be read: it belongs to another user"
            return
        life = self._seen.setdefault((one.role, one.name, one.pid, used.started_ticks), _Life())
        running = {
            thread: (seen.name, seen.cpu_s)
            for thread, seen in procfs.threads(one.pid)
            if seen.cpu_s > life.threads.get(thread, -1.0)
        }
        life.threads |= {thread: cpu_s for thread, (_, cpu_s) in running.items()}
        life.samples.append(
            _Seen(at, used.cpu_s, memory.resident_bytes, memory.anonymous_bytes, descriptors, used.threads, running)
        )

    @property
    def remarks(self) -> list[str]:
        """What could not be measured, and why; for the conclusions of a report."""
        with self._lock:
            found = [f"{one.role} {one.name} (pid {one.pid}): {why}" for one, why in self._unread.items()]
        if self._device is None:
            found.append(
                f"no disk was watched: {self._folder} is on {filesystem_of(self._folder)}, not on one of this machine"
            )
        return found + ([self._failure] if self._failure else [])

    def processes(self, began: float, ended: float) -> list[Process]:
        """Everybody who was seen. The window is of `time.monotonic()`."""
        with self._lock:
            return [
                _process(role, name, pid, life.samples, began, ended)
                for (role, name, pid, _), life in self._seen.items()
            ]

    def resources(self, began: float, ended: float) -> dict[str, float]:
        """Machine, disk and network within the window; names end in their unit. Empty if it was never looked at."""
        with self._lock:
            seen = list(self._machine)
            own = self._cpu_s / max(seen[-1].at - seen[0].at, self._interval_s) if seen else 0.0
        within = _around([one.at for one in seen], began, ended)
        if within is None:
            return {}
        first, last = seen[within[0]], seen[within[1]]
        found = {"machine_cores": procfs.cores(), "sampler_cpu_cores": own} | _rates(first, last)
        pairs = itertools.pairwise(seen[within[0] : within[1] + 1])
        found["machine_cpu_max_cores"] = max((b.cpu.busy_s - a.cpu.busy_s) / max(b.at - a.at, 1e-3) for a, b in pairs)
        if (link := procfs.link_bytes_per_s()) is not None:
            found["network_link_bytes_per_s"] = link
        return found

    @property
    def disk(self) -> str:
        """The name of the device that is watched; empty: none."""
        return procfs.device_name(self._device) if self._device else ""


def _around(moments: Sequence[float], began: float, ended: float) -> tuple[int, int] | None:
    """The samples that the window lies between, as nearly as there are any; two at least."""
    if len(moments) < 2:
        return None
    first = max(bisect_left(moments, began) - 1, 0)
    if first + 1 < len(moments) - 1 and moments[first + 1] - began < began - moments[first]:
        first += 1
    last = min(bisect_left(moments, ended), len(moments) - 1)
    if last - 1 > first and ended - moments[last - 1] < moments[last] - ended:
        last -= 1
    first = min(first, len(moments) - 2)
    return first, max(last, first + 1)


def _rates(first: _Machine, last: _Machine) -> dict[str, float]:
    seconds = max(last.at - first.at, 1e-9)
    found = {
        "machine_cpu_cores": (last.cpu.busy_s - first.cpu.busy_s) / seconds,
        "machine_steal_cores": (last.cpu.steal_s - first.cpu.steal_s) / seconds,
        "machine_iowait_cores": (last.cpu.iowait_s - first.cpu.iowait_s) / seconds,
        "network_loopback_bytes_per_s": (last.network.loopback_bytes - first.network.loopback_bytes) / seconds,
        "network_received_bytes_per_s": (last.network.received_bytes - first.network.received_bytes) / seconds,
        "network_sent_bytes_per_s": (last.network.sent_bytes - first.network.sent_bytes) / seconds,
        "network_dropped_per_s": (last.network.dropped - first.network.dropped) / seconds,
        "network_retransmitted_per_s": (last.network.retransmitted - first.network.retransmitted) / seconds,
    }
    if first.disk is None or last.disk is None:
        return found
    a, b = first.disk, last.disk
    found |= {
        "disk_read_bytes_per_s": (b.read_bytes - a.read_bytes) / seconds,
        "disk_write_bytes_per_s": (b.written_bytes - a.written_bytes) / seconds,
        "disk_writes_per_s": (b.writes - a.writes) / seconds,
        "disk_busy_share": min((b.busy_s - a.busy_s) / seconds, 1.0),
    }
    if a.flushes is not None and b.flushes is not None and a.flush_s is not None and b.flush_s is not None:
        count = b.flushes - a.flushes
        found["disk_flushes_per_s"] = count / seconds
        if count:
            found["disk_flush_mean_ms"] = (b.flush_s - a.flush_s) / count * 1_000
    return found


def _process(role: str, name: str, pid: int, samples: list[_Seen], began: float, ended: float) -> Process:
    steps = [0.0] + [
        (b.cpu_s - a.cpu_s) / (b.at - a.at) if b.at > a.at else 0.0 for a, b in itertools.pairwise(samples)
    ]
    within = [core for seen, core in zip(samples, steps, strict=True) if began < seen.at <= ended + INTERVAL_S / 2]
    moments = [seen.at for seen in samples]
    return Process(
        role=role,
        name=name,
        pid=pid,
        samples=_thinned(samples, began),
        cpu_cores_mean=_mean(moments, [seen.cpu_s for seen in samples], began, ended),
        cpu_cores_max=max(within, default=0.0),
        resident_bytes_max=max(seen.resident_bytes for seen in samples),
        threads_cpu_cores=_busiest(pid, samples, began, ended),
    )


def _thinned(samples: list[_Seen], began: float) -> list[Sample]:
    kept = samples[:: -(-len(samples) // SAMPLES_SHOWN_MAX)]
    found = []
    for number, seen in enumerate(kept):
        before = kept[number - 1] if number else seen
        seconds = seen.at - before.at
        found.append(
            Sample(
                at_s=seen.at - began,
                cpu_cores=(seen.cpu_s - before.cpu_s) / seconds if seconds > 0 else 0.0,
                resident_bytes=seen.resident_bytes,
                descriptors=seen.descriptors,
                anonymous_bytes=seen.anonymous_bytes,
                threads=seen.threads_count,
            )
        )
    return found


def _at(moments: Sequence[float], totals: Sequence[float], moment: float) -> float:
    """A total at a moment, linear between two samples."""
    place = bisect_left(moments, moment)
    if place == 0 or place == len(moments):
        return totals[max(place - 1, 0)]
    t0, t1, v0, v1 = moments[place - 1], moments[place], totals[place - 1], totals[place]
    return v0 + (v1 - v0) * (moment - t0) / (t1 - t0) if t1 > t0 else v1


def _mean(moments: Sequence[float], totals: Sequence[float], began: float, ended: float) -> float:
    """Rate of a total within the window, over the part of it in which it was seen."""
    first, last = max(began, moments[0]), min(ended, moments[-1])
    if last <= first:
        return 0.0
    return (_at(moments, totals, last) - _at(moments, totals, first)) / (last - first)


def _busiest(pid: int, samples: list[_Seen], began: float, ended: float) -> dict[str, float]:
    """The busiest threads within the window, by name and number; the first thread is `main`."""
    moments = [seen.at for seen in samples]
    names: dict[int, str] = {}
    for seen in samples:
        names |= {thread: name for thread, (name, _) in seen.threads.items()}
    found = {}
    for thread, name in names.items():
        total, totals = 0.0, []
        for seen in samples:
            total = seen.threads.get(thread, ("", total))[1]
            totals.append(total)
        cores = _mean(moments, totals, began, ended)
        if cores >= THREAD_CPU_CORES_MIN:
            found["main" if thread == pid else f"{name} {thread}"] = cores
    return dict(sorted(found.items(), key=lambda item: -item[1])[:THREADS_SHOWN])

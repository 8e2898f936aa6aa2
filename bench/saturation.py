"""What was the limit of a run: CPU of which process, all cores, the disk, the network, the clients; or none of them.

Used by sampling.py's users: run, capacity, soak, peers. Works on what a report holds, so that an old report can be
judged again. A limit is what was busy nearly all of the window: a thread of a core (one thread can't use two), all
cores of the machine, a disk with a request always under way, a card at the speed of its link.

A disk that is always busy may still take more at once; one log with one writer can't offer it more, so here it is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.schema import Process, Run

THREAD_CORES: Final = 0.9
MACHINE_SHARE: Final = 0.95
DISK_SHARE: Final = 0.9
NETWORK_SHARE: Final = 0.9
STEAL_SHARE: Final = 0.05  # of all cores; more is said
CLIENT: Final = "generator"


class _Use(NamedTuple):
    """Of one thing, beside what makes it a limit."""

    share: float  # of its limit
    words: str


def saturated(run: Run) -> str:
    """One line with figures."""
    stolen = _stolen(run)
    if run.generator.is_limit:
        return f"generator: {run.generator.reason or 'the clients were late'}{stolen}"
    uses = sorted(_uses(run), reverse=True)
    over = [use.words for use in uses if use.share >= 1]
    if over:
        return "; ".join(over) + stolen
    if not any(process.role != CLIENT for process in run.processes):
        return f"not known: the server's processes were not watched{_busiest(uses)}{stolen}"
    peaks = [use.words for use in sorted(_peaks(run), reverse=True) if use.share >= 1]
    if peaks:
        return f"nothing in the mean of the window; for a second {'; '.join(peaks)}{_busiest(uses)}{stolen}"
    return f"nothing was: latency came from elsewhere{_busiest(uses)}{stolen}"


def name_of(process: Process) -> str:
    """Role and name, once each."""
    return process.name if process.name.startswith(process.role) else f"{process.role} {process.name}"


def _busiest(uses: list[_Use]) -> str:
    return f" (busiest: {'; '.join(use.words for use in uses[:3])})" if uses else ""


def _stolen(run: Run) -> str:
    stolen = run.resources.get("machine_steal_cores", 0.0)
    if stolen < STEAL_SHARE * run.resources.get("machine_cores", 1.0):
        return ""
    return f"; the host of this machine took {stolen:.2f} cores away (steal)"


def _uses(run: Run) -> Iterator[_Use]:
    for process in run.processes:
        if process.role == CLIENT:
            continue  # its own verdict is run.generator
        for thread, cores in process.threads_cpu_cores.items():
            yield _Use(
                cores / THREAD_CORES, f"CPU of {name_of(process)}: its thread {thread} used {cores:.2f} of one core"
            )
    found = run.resources
    all_cores, busy = found.get("machine_cores"), found.get("machine_cpu_cores")
    if all_cores is not None and busy is not None:
        words = f"CPU of the machine: {busy:.2f} of {all_cores:g} cores{_by_role(run)}"
        yield _Use(busy / (MACHINE_SHARE * all_cores), words)
    if (share := found.get("disk_busy_share")) is not None:
        yield _Use(share / DISK_SHARE, f"disk: busy {share:.0%} of the time{_flushes(found)}")
    link = found.get("network_link_bytes_per_s")
    if link is not None:
        most = max(found.get("network_received_bytes_per_s", 0.0), found.get("network_sent_bytes_per_s", 0.0))
        words = f"network: {most / 1e6:.0f} of {link / 1e6:.0f} MB/s of the link"
        yield _Use(most / (NETWORK_SHARE * link), words)


def _peaks(run: Run) -> Iterator[_Use]:
    """Of single seconds: a load with a profile is over before the mean shows it."""
    cores, most = run.resources.get("machine_cores"), run.resources.get("machine_cpu_max_cores")
    if cores is not None and most is not None:
        yield _Use(most / (MACHINE_SHARE * cores), f"CPU of the machine: {most:.2f} of {cores:g} cores")
    for process in run.processes:
        if process.role != CLIENT:
            used = process.cpu_cores_max
            yield _Use(used / THREAD_CORES, f"CPU of {name_of(process)}: {used:.2f} cores with all of its threads")


def _by_role(run: Run) -> str:
    """Who used it; what is left was of others on the machine."""
    sums: dict[str, float] = {}
    for process in run.processes:
        sums[process.role] = sums.get(process.role, 0.0) + process.cpu_cores_mean
    rest = run.resources["machine_cpu_cores"] - sum(sums.values())
    parts = [f"{role} {cores:.2f}" for role, cores in sorted(sums.items(), key=lambda item: -item[1])]
    return f" ({', '.join(parts)}, kernel and others {max(rest, 0.0):.2f})" if parts else ""


def _flushes(found: dict[str, float]) -> str:
    text = f", {found['disk_write_bytes_per_s'] / 1e6:.1f} MB/s written" if "disk_write_bytes_per_s" in found else ""
    if "disk_flush_mean_ms" in found:
        text += f", {found['disk_flushes_per_s']:.0f} flushes/s of {found['disk_flush_mean_ms']:.2f} ms"
    return text

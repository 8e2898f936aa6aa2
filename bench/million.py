"""What would stop a million sessions on this machine: figures of a run of idle sessions against each limit there is.

Used by run.py for its conclusions. Each line names the limit, its value here, and what a million sessions would need,
computed from what one session was measured to take; clients on the same machine double sockets, ports and the kernel's
memory, and are told apart from what the server alone would need.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

from bench.schema import Run

GOAL: Final = 1_000_000
ENDS: Final = 2
WORKERS_PER_CORE: Final = 8  # that still make sense: more wait for each other
SPARE_DESCRIPTORS: Final = 1_000  # of a worker, for its log and links
PORTS_PER_ADDRESS: Final = 512


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii").split()[-1])
    except (OSError, ValueError, IndexError):
        return None


def _size(value: float) -> str:
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"


def would_stop(run: Run, goal: int = GOAL) -> list[str]:
    """One line a limit, those that would be reached first. Empty where memory of sessions was not measured."""
    if "session_user_bytes" not in run.values:
        return []
    found = [_memory(run, goal), _descriptors(goal), *_kernel(run, goal), _time(run, goal)]
    found.sort(key=lambda line: not line.startswith("reached"))
    return [f"{goal:,} sessions: {line}" for line in found if line]


def _memory(run: Run, goal: int) -> str:
    values = run.values
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    server = goal * (values["session_user_bytes"] + values["session_kernel_bytes"]) + values["server_user_before_bytes"]
    clients = goal * (values["session_kernel_bytes"] + values.get("client_user_bytes", 0.0))
    word = "reached" if server + clients > total else "enough"
    return (
        f"{word}: memory, the server needs {_size(server)} ({values['session_user_bytes']:,.0f} bytes of its own and"
        f" {values['session_kernel_bytes']:,.0f} of the kernel's a session), clients on the same machine"
        f" {_size(clients)} more; there are {_size(total)}"
    )


def _descriptors(goal: int) -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return "enough: descriptors of a process are not limited"
    workers = -(-goal // max(hard - SPARE_DESCRIPTORS, 1))
    cores = len(os.sched_getaffinity(0))
    word = "enough" if workers <= WORKERS_PER_CORE * cores else "reached"
    nr_open = _number("/proc/sys/fs/nr_open")
    return (
        f"{word}: descriptors, {hard:,} a process (ulimit -Hn; the kernel allows {nr_open:,}) make {workers} workers,"
        f" and as many processes of clients, on {cores} cores"
    )


def _kernel(run: Run, goal: int) -> list[str]:
    limits = [
        ("fs.file-max", "/proc/sys/fs/file-max", ENDS * goal),
        ("fs.epoll.max_user_watches", "/proc/sys/fs/epoll/max_user_watches", ENDS * goal),
    ]
    if run.values.get("tracked_connections", 0.0) > run.sessions / 2:  # the firewall remembers each of them
        limits.append(("net.netfilter.nf_conntrack_max", "/proc/sys/net/netfilter/nf_conntrack_max", goal))
    found = []
    for name, path, needed in limits:
        value = _number(path)
        if value is None:
            continue
        word = "enough" if value >= needed else "reached"
        found.append(f"{word}: {name} is {value:,}, {needed:,} would be needed with clients on the same machine")
    addresses = -(-goal // PORTS_PER_ADDRESS)
    found.append(f"enough: ports, {addresses:,} source addresses of 127.0.0.0/8 with {PORTS_PER_ADDRESS} each")
    return found


def _time(run: Run, goal: int) -> str:
    rate = run.values.get("connects_per_s", 0.0)
    if not rate:
        return ""
    return f"enough: time, at the measured {rate:,.0f} connects/s they would be there after {goal / rate:,.0f} s"

"""What Linux counts, read from /proc and /sys: of one process, of the machine, of the disk under a folder, of networks.

Used by sampling.py, which makes rates of two readings. Everything is a total since boot or start; who wants a rate
subtracts. CPU is in seconds, memory in bytes.

A process's own memory (heaps, stacks, tables) is its anonymous pages and what of them is swapped: taken from `status`,
under 0.1 ms whatever the size. `smaps_rollup` says the same to a few pages, but walks all pages of the process with its
map locked: of one with 1 GiB that is 20 ms in which it can't map memory.

Invariants: nothing here is kept open; a process that is gone is None; what this kernel doesn't count is None, never 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
SECTOR_BYTES: Final = 512
PROC: Final = Path("/proc")
DEVICES: Final = Path("/sys/dev/block")
NETWORKS: Final = Path("/sys/class/net")
LOOPBACK: Final = "lo"


class Times(NamedTuple):
    """Of a process or a thread."""

    name: str
    cpu_s: float  # user and system, since its start
    started_ticks: int  # since boot; with the pid it names one process for good
    threads: int  # of the whole process


class Memory(NamedTuple):
    """Of a process."""

    resident_bytes: int
    anonymous_bytes: int  # swapped ones too


class Cpu(NamedTuple):
    """Of the machine, all cores together."""

    busy_s: float
    steal_s: float  # taken by the host while we had work
    iowait_s: float


class Disk(NamedTuple):
    """Of one block device."""

    read_bytes: int
    written_bytes: int
    writes: int
    busy_s: float  # with at least one request under way
    flushes: int | None
    flush_s: float | None


class Network(NamedTuple):
    """Sums over the interfaces that are loopback, or that aren't."""

    loopback_bytes: int  # each byte once
    received_bytes: int
    sent_bytes: int
    dropped: int  # packets, on any interface
    retransmitted: int  # segments of TCP


def times(pid: int, thread: int | None = None) -> Times | None:
    """CPU of a process, or of one of its threads."""
    text = _text(PROC / str(pid) / (f"task/{thread}/stat" if thread is not None else "stat"))
    if text is None:
        return None
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    if fields[0] in ("Z", "X"):
        return None  # over; only its parent has not asked yet
    cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return Times(head.partition("(")[2], cpu_s, int(fields[19]), int(fields[17]))


def threads(pid: int) -> Iterator[tuple[int, Times]]:
    """The threads of a process and their CPU."""
    try:
        found = [int(name) for name in os.listdir(PROC / str(pid) / "task")]
    except OSError:
        return
    for thread in found:
        if (seen := times(pid, thread)) is not None:
            yield thread, seen


def memory(pid: int) -> Memory | None:
    """Memory of a process; None also of one that has none any more."""
    fields = _fields(PROC / str(pid) / "status")
    if "VmRSS" not in fields:
        return None
    kib = {name: int(fields[name].split()[0]) for name in ("VmRSS", "RssAnon", "VmSwap") if name in fields}
    return Memory(kib["VmRSS"] * 1024, (kib.get("RssAnon", 0) + kib.get("VmSwap", 0)) * 1024)


def descriptors(pid: int) -> int | None:
    """How many it has open; None where they belong to somebody else."""
    path = PROC / str(pid) / "fd"
    try:
        return os.stat(path).st_size or len(os.listdir(path))  # Linux says it in the size since 6.2
    except OSError:
        return None


def cpu() -> Cpu:
    """Of the machine."""
    line = (PROC / "stat").read_text(encoding="ascii").split("\n", 1)[0]
    user, nice, system, _, iowait, irq, softirq, steal = (int(field) / TICKS_PER_S for field in line.split()[1:9])
    return Cpu(user + nice + system + irq + softirq, steal, iowait)


def device_of(folder: Path) -> str | None:
    """`major:minor` of the block device under a folder; None where there is none (memory, overlays, network)."""
    number = os.stat(folder).st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    if (DEVICES / name).exists():
        return name
    for line in (PROC / "self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        source = rest.split()[1] if len(rest.split()) > 1 else ""
        if fields.split()[2] == name and source.startswith("/dev/"):  # btrfs numbers its volumes itself
            return _number_of(Path(source))
    return None


def _number_of(source: Path) -> str | None:
    try:
        number = source.stat().st_rdev
    except OSError:
        return None
    name = f"{os.major(number)}:{os.minor(number)}"
    return name if (DEVICES / name).exists() else None


def device_name(device: str) -> str:
    """As the kernel calls it: vda, nvme0n1p2."""
    return (DEVICES / device).resolve().name


def disk(device: str) -> Disk | None:
    """Of the device of this `major:minor`."""
    text = _text(DEVICES / device / "stat")
    if text is None:
        return None
    fields = [int(field) for field in text.split()]
    flushes = (fields[15], fields[16] / 1_000) if len(fields) > 16 else (None, None)
    return Disk(
        read_bytes=fields[2] * SECTOR_BYTES,
        written_bytes=fields[6] * SECTOR_BYTES,
        writes=fields[4],
        busy_s=fields[9] / 1_000,
        flushes=flushes[0],
        flush_s=flushes[1],
    )


def network() -> Network:
    """Of this network namespace."""
    loopback = received = sent = dropped = 0
    for line in (PROC / "net/dev").read_text(encoding="ascii").splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = [int(field) for field in rest.split()]
        dropped += fields[3] + fields[11]
        if name.strip() == LOOPBACK:
            loopback += fields[8]
        else:
            received, sent = received + fields[0], sent + fields[8]
    return Network(loopback, received, sent, dropped, _retransmitted())


def _retransmitted() -> int:
    names, values = (
        line.split() for line in (PROC / "net/snmp").read_text(encoding="ascii").splitlines() if line.startswith("Tcp:")
    )
    return int(values[names.index("RetransSegs")])


def link_bytes_per_s() -> float | None:
    """What the fastest network card that says so can carry one way; None where none does, as in most clouds."""
    speeds = [_text(path / "speed") for path in NETWORKS.iterdir()] if NETWORKS.is_dir() else []
    known = [int(speed) for speed in speeds if speed is not None and int(speed) > 0]
    return max(known) * 1e6 / 8 if known else None


def cores() -> float:
    """That this process may use: its affinity, and what its control group is allowed."""
    count = float(len(os.sched_getaffinity(0)))
    for line in (_text(PROC / "self/cgroup") or "").splitlines():
        if not line.startswith("0::"):
            continue
        group = Path("/sys/fs/cgroup") / line[3:].strip().lstrip("/")
        for folder in (group, *group.parents):
            quota = (_text(folder / "cpu.max") or "max").split()
            if quota[0] != "max":
                count = min(count, int(quota[0]) / int(quota[1]))
    return count


def folder_bytes(folder: Path) -> int:
    """Disk space of the files below a folder, as it is allocated: a log's files have holes."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * SECTOR_BYTES
            except OSError:
                continue  # removed meanwhile
    return total


def _fields(path: Path) -> dict[str, str]:
    return dict(line.split(":", 1) for line in (_text(path) or "").splitlines() if ":" in line)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None

"""What sessions cost that are only there: memory, the process's own and the kernel's; and a broadcast to all of them.

Used by drive.py for workloads with `sessions.idle`. Of a server that was started here, user memory is anonymous memory
of all its processes, after minus before, by sessions; before is on the same data, when each process has served a few
sessions that left: what is loaded at the first one is no session's. Kernel memory is what the machine's slabs, page
tables and socket buffers have grown by. Clients are on the same machine, so each session is two sockets there: half of
it is counted as the server's, which is right to a few percent, for both ends are alike. Somebody else's server shows
neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import procfs
from bench.driven import Driven, Started
from bench.fleet import Moment

PAGE_BYTES: Final = 4_096
ENDS: Final = 2  # sockets of a session, on one machine


class Memory(NamedTuple):
    """At one moment."""

    user_bytes: int
    slab_bytes: int
    tables_bytes: int
    buffers_bytes: int


def _meminfo(name: str) -> int:
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)


def _socket_buffers() -> int:
    words = Path("/proc/net/sockstat").read_text(encoding="ascii").split()
    return int(words[words.index("mem") + 1]) * PAGE_BYTES


def _tracked() -> int:
    """Connections that the firewall remembers; none where it tracks none."""
    try:
        return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def memory(driven: Driven) -> Memory:
    """Now."""
    user = driven.anonymous_bytes() if isinstance(driven, Started) else 0
    return Memory(user, _meminfo("Slab"), _meminfo("PageTables"), _socket_buffers())


class Watch:
    """Memory from before the first session on."""

    def __init__(self, driven: Driven) -> None:
        self._driven = driven
        self._before, self._tracked = memory(driven), _tracked()

    def sessions(self, count: int, clients: Sequence[int]) -> dict[str, float]:
        """Per session, now that all are there. `clients`: processes of the generator."""
        now = memory(self._driven)
        if not now.user_bytes:
            return {}
        before = self._before
        slab = (now.slab_bytes - before.slab_bytes) / ENDS / count
        buffers = (now.buffers_bytes - before.buffers_bytes) / ENDS / count
        return {
            "session_user_bytes": (now.user_bytes - before.user_bytes) / count,
            "session_kernel_bytes": slab + buffers,
            "session_kernel_slab_bytes": slab,
            "session_kernel_buffers_bytes": buffers,
            "client_user_bytes": sum(found.anonymous_bytes for pid in clients if (found := procfs.memory(pid))) / count,
            "tracked_connections": float(_tracked() - self._tracked),
            "server_user_bytes": float(now.user_bytes),
            "server_user_before_bytes": float(before.user_bytes),
        }


def broadcast(moments: Sequence[Moment]) -> dict[str, float]:
    """When the first and the last session had it, from the moment at which it was published."""
    deliver: dict[int, int] = {}
    for moment in moments:
        for ns, count in moment.deliver.items():
            deliver[ns] = deliver.get(ns, 0) + count
    total = sum(deliver.values())
    if not total:
        return {}
    half, seen = 0.0, 0
    for ns in sorted(deliver):
        seen += deliver[ns]
        if seen * 2 >= total:
            half = ns / 1e6
            break
    return {
        "broadcast_sessions": float(total),
        "broadcast_p50_ms": half,
        "broadcast_last_ms": max(moment.max_ns for moment in moments) / 1e6,
    }

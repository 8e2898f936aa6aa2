"""`gonets bench costs`: what a connection, a publish, a delivery, a ping and a block cost, counted as CPU and memory.

Feeds the plan. Rates of a benchmark tell what a whole machine reached while the clients shared it; this counts the
nanoseconds that the kernel has charged to the worker's and the sequencer's process (/proc/PID/task/*/schedstat) while
so many operations were done, far below saturation. So it hardly minds others on the machine, and knows no waiting.

Sessions are quiet for half a second between deliveries, as those of people are: a send to such a socket costs more
than to one that is always busy. Every receipt is matched and every event verified by the clients (ext/loadgen).
"""

from __future__ import annotations

import http.client
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from cyclopts import Parameter

from bench import report as machines
from bench.clients import Issuer, SetupError, fill_of, publish_template
from bench.connections import CONVERSATIONS, FOUNDER, GROUP, Founder
from bench.fanout import PAYLOAD_BYTES as BROADCAST_BYTES
from bench.fanout import Audience
from bench.harness import FULL, SHORT, SMOKE, BenchError, Child, Size, gateway, raise_descriptor_limit, workplace
from bench.plan.leave import PlaceError, leave, place
from bench.publish import PAYLOAD_BYTES, Clients, Load, check, hellos_of
from bench.schema import Machine, Measure, Report, Target
from ext.loadgen import LoadGenerator

RECORD_BYTES: Final = 80 + 7 + PAYLOAD_BYTES  # engine/LOG_FORMAT.md, type "message"
DESCRIPTORS: Final = 17_000
COALESCED: Final = 64
RECOVERY_S: Final = 60.0


class Scale(NamedTuple):
    """How much of each."""

    sessions: int
    idle_s: float
    ping_interval_s: float
    broadcasts_per_s: float
    publishers: int


SCALES: Final = {
    "smoke": Scale(200, 0.5, 0.25, 8.0, 20),
    "short": Scale(10_000, 6.0, 5.0, 2.0, 400),
    "full": Scale(15_000, 10.0, 5.0, 2.0, 400),
}

MEANING: Final = {
    "publish_us": "CPU of a worker for a publish, many clients that wait: read, check, hand over, receipt, own event",
    "sequence_us": "CPU of the sequencer's process for an event, many clients that wait for their receipts",
    "wake_us": "CPU of a worker without sessions for a block of one event, less the event",
    "read_us": f"CPU of a worker without sessions for each further event of a block of {COALESCED}",
    "delivery_us": "CPU of a worker for an event to a session that was quiet, one an outbox",
    "delivery_more_us": f"CPU of a worker for an event of {COALESCED} that leave in one send",
    "hello_us": "CPU of a worker for a connection: TCP, handshake, signature, interest in each conversation",
    "ping_us": "CPU of a worker for a ping and its answer",
    "session_user_bytes": "anonymous memory of all processes, after less before, by sessions",
    "session_kernel_bytes": "half of what TCP buffers and unreclaimable slab grew by, by sessions: both ends are here",
    "session_conversations": "of each of those sessions",
    "log_growth_ratio": "blocks on the disk over bytes of records, 16 clients that wait: at most 16 events a block",
    "log_write_ratio": "bytes that the sequencer's process had written over bytes of records, in the same run",
    "recovery_s": "from the kill of the sequencer's process to /readyz",
}
UNITS: Final = {"us": "µs", "bytes": "bytes", "ratio": "ratio", "s": "s", "conversations": "conversations"}


class Found(dict[str, list[float]]):
    """Runs by name of the figure."""

    def take(self, name: str, value: float) -> None:
        """One run."""
        self.setdefault(name, []).append(value)


def cpu_s(pid: int) -> float:
    """Time that the kernel has charged to a process's living threads, by its nanosecond clock."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def parts(server: Child) -> dict[str, int]:
    """Name of each process of the server → pid: "sequencer", "worker 1" …"""
    found = {}
    for pid in server.processes():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        name = words[-2].decode(errors="replace") if len(words) > 1 else ""
        if name == "sequencer" or name.startswith("worker"):
            found[name] = pid
    if "sequencer" not in found or len(found) < 2:
        raise BenchError(f"the server shows no sequencer and worker among its processes: {found}")
    return found


def kernel_bytes() -> int:
    """Memory of the machine's TCP buffers and of unreclaimable slab."""
    fields = Path("/proc/net/sockstat").read_text().split("TCP: ", 1)[1].split("\n", 1)[0].split()
    pages = int(fields[fields.index("mem") + 1])
    slab = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("SUnreclaim:"))
    return pages * os.sysconf("SC_PAGE_SIZE") + int(slab.split()[1]) * 1024


def written_bytes(pid: int) -> int:
    """What a process has caused to be written to a disk."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def used_bytes(folder: Path) -> int:
    """Blocks on the disk under a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


class Meter:
    """CPU of one part of the server over a stretch."""

    def __init__(self, server: Child, name: str) -> None:
        self._pid, self.spent_s = parts(server)[name], 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What happens inside."""
        before = cpu_s(self._pid)
        yield
        self.spent_s += cpu_s(self._pid) - before


def _people(found: Found, folder: Path, issuer: Issuer, founder: Founder, crowd: Audience, scale: Scale) -> None:
    """One freshly started server: everybody connects, is quiet, pings, and is written to."""
    with gateway(folder, issuer, GONETS_SERVER_GATEWAY_WORKERS="1") as server:
        crowd.server = server
        founder.write(server)  # everything that loads on first use is in `before`
        time.sleep(0.3)
        memory, kernel, hello = server.anonymous_bytes(), kernel_bytes(), Meter(server, "worker 1")
        with hello.counted():
            generator = crowd.connect()
        count = len(crowd.hellos)
        found.take("hello_us", hello.spent_s / count * 1e6)
        try:
            generator.run(1.0, drain_s=0.0)
            found.take("session_user_bytes", (server.anonymous_bytes() - memory) / count)
            found.take("session_kernel_bytes", (kernel_bytes() - kernel) / 2 / count)
            quiet, pinging = Meter(server, "worker 1"), Meter(server, "worker 1")
            with quiet.counted():
                generator.run(scale.idle_s, drain_s=0.0)
            with pinging.counted():
                generator.run(scale.idle_s, ping_interval_s=scale.ping_interval_s, drain_s=0.0)
            pings = count * scale.idle_s / scale.ping_interval_s
            found.take("ping_us", max(pinging.spent_s - quiet.spent_s, 0.0) / pings * 1e6)
            _broadcast(found, server, generator, crowd, scale, 1)
        finally:
            crowd.leave(generator)
        generator = crowd.connect()
        try:
            _broadcast(found, server, generator, crowd, scale, COALESCED)
        finally:
            crowd.leave(generator)


def _broadcast(found: Found, server: Child, generator: LoadGenerator, crowd: Audience, scale: Scale, each: int) -> None:
    """A message, or so many in one send, to everybody, again and again with pauses."""
    rate = scale.broadcasts_per_s * each
    stream = generator.stream(
        fill_of(BROADCAST_BYTES),
        in_flight=each,
        per_send=each,
        rate_per_s=rate,
        recipients=len(crowd.hellos),
        broadcast=True,
    )
    generator.publisher(stream, 0, *publish_template("conversation", crowd.channel, BROADCAST_BYTES))
    meter = Meter(server, "worker 1")
    with meter.counted():
        drained = generator.run(scale.idle_s, drain_s=30.0)
    check(generator, drained, f"{each} to everybody")
    delivered = generator.stream_stats(stream)["deliveries"]
    if not delivered:
        raise BenchError(f"nothing was delivered in {scale.idle_s} s")
    found.take("delivery_us" if each == 1 else "delivery_more_us", meter.spent_s / delivered * 1e6)


def _publishing(found: Found, folder: Path, issuer: Issuer, scale: Scale, size: Size) -> None:
    """Publishes, as many as waiting clients make; and of few of them, for the disk."""
    with gateway(folder, issuer, GONETS_SERVER_GATEWAY_WORKERS="1") as server:
        worker, sequencer = Meter(server, "worker 1"), Meter(server, "sequencer")
        load = Load(f"{scale.publishers} × 1", scale.publishers)
        clients = Clients(server, load, hellos_of(issuer, load, 1), 1, 1)
        try:
            clients.rate(size)
            before = clients.generator.stream_stats(clients.stream)["receipts"]
            with sequencer.counted(), worker.counted():
                clients.rate(size)
            many = clients.generator.stream_stats(clients.stream)["receipts"] - before
            found.take("sequence_us", sequencer.spent_s / many * 1e6)
            found.take("publish_us", worker.spent_s / many * 1e6)
        finally:
            clients.generator.close()
        load = Load("16 × 1", 16)
        clients = Clients(server, load, hellos_of(issuer, load, 10_000_000), 10_000_000, 1)
        try:
            log, pid = folder / "data", parts(server)["sequencer"]
            disk, written = used_bytes(log), written_bytes(pid)
            clients.rate(size)
            events = clients.generator.stream_stats(clients.stream)["receipts"] + load.clients  # dialogs being made
            os.sync()
            found.take("log_growth_ratio", (used_bytes(log) - disk) / events / RECORD_BYTES)
            found.take("log_write_ratio", (written_bytes(pid) - written) / events / RECORD_BYTES)
        finally:
            clients.generator.close()


def _waking(found: Found, folder: Path, issuer: Issuer, size: Size) -> None:
    """One client, three workers: two of them have nobody, and wake for each block. Then the sequencer is killed."""
    with gateway(folder, issuer, GONETS_SERVER_GATEWAY_WORKERS="3") as server:
        alone = _of_a_block(server, issuer, Load("1 × 1", 1), 20_000_000, size)
        packed = _of_a_block(server, issuer, Load("packed", 1, COALESCED, COALESCED), 30_000_000, size)
        read = max(packed - alone, 0.0) / (COALESCED - 1)
        found.take("read_us", read * 1e6)
        found.take("wake_us", (alone - read) * 1e6)
        os.kill(parts(server)["sequencer"], signal.SIGKILL)
        found.take("recovery_s", _until_ready(server))


def _of_a_block(server: Child, issuer: Issuer, load: Load, users: int, size: Size) -> float:
    """Seconds of the least busy worker for each send of one client that waits for its receipts: a block each."""
    clients = Clients(server, load, hellos_of(issuer, load, users), users, 1)
    pids = [pid for name, pid in parts(server).items() if name.startswith("worker")]
    try:
        before = [cpu_s(pid) for pid in pids]
        clients.rate(size)
        spent = min(cpu_s(pid) - at for pid, at in zip(pids, before, strict=True))
        return spent / clients.generator.stream_stats(clients.stream)["receipts"] * load.per_send
    finally:
        clients.generator.close()


def _until_ready(server: Child) -> float:
    """Seconds until /readyz has said no and then yes."""
    began, refused = time.monotonic(), False
    while (passed := time.monotonic() - began) < RECOVERY_S:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            ready = connection.getresponse().status == 200
        except OSError:
            ready = False
        finally:
            connection.close()
        if ready and refused:
            return passed
        refused |= not ready
        time.sleep(0.005)
    raise BenchError(
        f"the server was not ready {RECOVERY_S:.0f} s after its sequencer was killed: {server.last_words()}"
    )


def run(size: Size, folder: Path) -> tuple[list[Measure], str]:
    """All figures, and the durability."""
    raise_descriptor_limit(DESCRIPTORS)
    scale, issuer, found = SCALES[size.name], Issuer(), Found()
    users = list(range(FOUNDER + 1, FOUNDER + 1 + scale.sessions))
    founder = Founder(issuer)
    with gateway(folder / "people", issuer, GONETS_ADMISSION_MEMBERS_PER_S_MAX="1000000") as server:
        durability = str(server.ready["durability"])
        founder.found(server, users)
        crowd = Audience(server, issuer, users[0], len(users), follows=True)
    for number in range(size.runs):
        _people(found, folder / "people", issuer, founder, crowd, scale)
        _publishing(found, folder / f"publishing{number}", issuer, scale, size)
        _waking(found, folder / f"waking{number}", issuer, size)
    found.take("session_conversations", CONVERSATIONS + 1)
    return [
        Measure(
            name=name,
            unit=UNITS[name.rsplit("_", 1)[1]],
            value=statistics.median(runs),
            runs=runs,
            durability=durability,
            note=MEANING[name] + (f" ({scale.sessions:,} sessions, groups of {GROUP})" if "session" in name else ""),
        )
        for name, runs in found.items()
    ], durability


def costs(
    *,
    short: Annotated[bool, Parameter(negative="", help="fewer runs: a look")] = False,
    smoke: Annotated[bool, Parameter(negative="", help="seconds: shows that it works, no figure to plan by")] = False,
    report: Annotated[Path | None, Parameter(help="where to write it, for gonets bench plan")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="the report on stdout, no table")] = False,
    folder: Annotated[Path | None, Parameter(help="where to write while measuring; the disk that is judged")] = None,
) -> None:
    """What a connection, a publish, a delivery, a ping and a block cost: what gonets bench plan needs of a machine."""
    size = SMOKE if smoke else SHORT if short else FULL
    started, began = datetime.now(UTC), time.monotonic()
    about = Machine(**machines.machine(folder or Path.cwd()))
    try:
        where = place("costs", report)
        with workplace("costs", folder) as inside:
            measures, durability = run(size, inside)
        found = Report(
            kind="measure",
            name="costs",
            title="What operations cost" + (" (smoke: no figure to plan by)" if smoke else ""),
            command=["gonets", *sys.argv[1:]],
            started=started.isoformat(timespec="seconds"),
            seconds=time.monotonic() - began,
            seed=0,
            machine=about,
            target=Target(workers=1, durability=durability),
            measures=measures,
        )
        leave(found, where)
    except (PlaceError, BenchError, SetupError, OSError, RuntimeError, ValueError) as error:
        print(f"gonets: bench: costs: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    for one in measures:
        spread = f"{min(one.runs):.4g} to {max(one.runs):.4g}, {len(one.runs)} runs"
        print(f"{one.name:24} {one.value:10.4g} {one.unit:14} {spread:36} {one.note}")
    print(f"gonets: bench: costs: {where}, {where.with_suffix('.html')}", file=sys.stderr)

"""What a server does with more than it can carry: what it accepts keeps its time, the rest is refused at once.

The capacity is found first: so many clients that wait for their receipts that a queue is always there, and never so
long that the server would shed; several short runs, of which the median counts. Then dialogs in an open loop: packs of
publishes are due at random times (Poisson) of a fixed mean rate, from half of the capacity to three times as much,
whatever the server answers; every latency counts from when the publish was due. Refused publishes are not sent again
here: a client that comes back after its hint is one of the next arrivals.

Server and clients have one core each (where there are two): else the clients, who must say three times what the server
can carry, would take its time. So the capacity is that of a server with one core. Both go before what else the machine
does, where that is allowed (root): what neighbours take would be missing here and there. Nothing is lifted but the rate
of one session. Everything that was accepted must arrive at both people of its dialog, verified, as in all benchmarks.
How late the clients themselves were is part of the result: it is in every latency, and no fault of the server.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from bench import report
from bench.clients import Issuer, create, fill_of, publish_template
from bench.harness import BenchError, Child, Size, gateway, raise_descriptor_limit, workplace
from bench.publish import PAYLOAD_BYTES
from engine import Config
from ext.loadgen import LoadGenerator

FACTORS: Final = {
    "smoke": (0.5, 3.0),
    "short": (0.5, 1.0, 3.0),
    "full": (0.5, 0.8, 1.0, 1.5, 2.0, 3.0),
}
PACK: Final = 32  # publishes of a device at once: else the clients' own system calls are the limit
GROUPS: Final = {"smoke": 4, "short": 32, "full": 32}
MEMBERS: Final = 32  # of each group, all connected and writing
WAITING: Final = 4  # of them who wait for their receipts, while the capacity is looked for
DEPTHS: Final = (32, 64)  # publishes that each of those has in flight
CAPACITY_RUNS: Final = {"smoke": 1, "short": 3, "full": 5}
IN_FLIGHT_MAX: Final = 64
PRIORITY: Final = -19
ACCEPTED_P99_MS_MAX: Final = 50.0
REFUSED_P99_MS_MAX: Final = 20.0
CARRIED_SHARE_MIN: Final = 0.8  # of what is accepted at once the capacity
SETTLE_S: Final = 1.0  # after a rate begins, before anything counts: what the first moment did is not the curve
WHAT_IS_WRONG: Final = ("dead", "broken", "disordered", "unmatched")


@contextmanager
def one_core_each(server: Child) -> Iterator[bool]:
    """The first core for the server, another one for us; False where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield False
        return
    for pid in server.processes():
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cores[0]})
    os.sched_setaffinity(0, {cores[1]})
    try:
        yield True
    finally:
        os.sched_setaffinity(0, cores)


def go_first(server: Child) -> bool:
    """Server and clients before all others; False where that isn't allowed. The kernel weighs whole sessions of
    processes first (autogroup), and the server is one of its own."""
    try:
        for pid in (os.getpid(), *server.processes()):
            group = Path(f"/proc/{pid}/autogroup")
            if group.exists():
                group.write_text(str(PRIORITY))
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(task.name), PRIORITY)
    except OSError:
        return False
    return True


class Groups:
    """Groups of connected people who all write. They connect once; one of each waits for receipts, the others never."""

    def __init__(self, server: Child, issuer: Issuer, size: Size) -> None:
        self.server, self.size = server, size
        people = GROUPS[size.name] * MEMBERS
        self.generator = LoadGenerator(people)
        for user in range(1, people + 1):
            self.generator.add(issuer.hello(user))
        self.generator.connect(server.host, server.port, pending_max=16)
        fill = fill_of(PAYLOAD_BYTES)
        self.closed, self.open = (
            self.generator.stream(fill, in_flight=PACK, per_send=PACK, recipients=MEMBERS) for _ in range(2)
        )
        for first in range(0, people, MEMBERS):
            others = [user for user in range(first + 1, first + MEMBERS + 1) if user != first + 1]
            group = create(self.generator, first, "group", "all", others)
            for number in range(first, first + MEMBERS):
                template = publish_template("conversation", group, PAYLOAD_BYTES)
                waits = number - first < WAITING
                self.generator.publisher(self.closed if waits else self.open, number, *template)

    def capacities_per_s(self, runs: int) -> list[float]:
        """What clients that wait are answered a second, at the depth at which that is most. Runs in which the server
        refused are left out: where that is most of them, they wait too deep."""
        self.generator.pace(self.open, in_flight=PACK, idle=True)
        best: list[float] = []
        for depth in DEPTHS:
            self.generator.pace(self.closed, in_flight=depth)
            found = [self._run(self.closed, self.size.warmup_s) for _ in range(runs)]
            rates = [float(one["accepted_per_s"]) for one in found if not one["refused_per_s"]]
            if len(rates) <= len(found) // 2:
                break
            if not best or statistics.median(rates) > statistics.median(best):
                best = rates
        if not best:
            raise BenchError("overload: refused while the capacity was looked for: the machine does too much else")
        return best

    def offer(self, rate_per_s: float) -> dict[str, Any]:
        """One run of the open loop."""
        self.generator.pace(self.closed, in_flight=PACK, idle=True)
        self.generator.pace(self.open, in_flight=IN_FLIGHT_MAX, rate_per_s=rate_per_s)
        return self._run(self.open, self.size.warmup_s + SETTLE_S)

    def _run(self, stream: int, warmup_s: float) -> dict[str, Any]:
        """BenchError if anything that was accepted is missing, or anything came that should not."""
        generator = self.generator
        before = {name: generator.stats()[name] for name in WHAT_IS_WRONG}
        cpu_s, began_s = self.server.cpu_s(), time.monotonic()
        drained = generator.run(self.size.seconds, warmup_s=warmup_s, drain_s=30.0)
        share = (self.server.cpu_s() - cpu_s) / (time.monotonic() - began_s)
        stats, counts = generator.stats(), generator.stream_stats(stream)
        wrong = {name: stats[name] for name in WHAT_IS_WRONG if stats[name] != before[name]}
        if wrong or counts["corrupted"] or not drained:
            raise BenchError(f"overload: {wrong or 'not all was answered and delivered'}; {stats}; {counts}")
        return {
            "accepted_per_s": counts["receipts_in_window"] / stats["window_s"],
            "refused_per_s": counts["refused_in_window"] / stats["window_s"],
            "generator_core_share": stats["cpu_share"],
            "server_core_share": share,
            **{which: generator.histogram(stream, which) for which in ("receipt", "deliver", "refused", "late")},
            "last_words": stats["last_words"],
        }


def _case(factor: float, capacity: float, runs: list[dict[str, Any]], more: dict[str, Any]) -> report.Case:
    def middle(name: str) -> float:
        return float(statistics.median(run[name] for run in runs))

    def quantile(name: str, share: float) -> float:
        return float(statistics.median(report.quantile_ms(run[name], share) for run in runs))

    refused = [report.quantile_ms(run["refused"], 0.99) for run in runs]
    return report.valued(
        f"{factor:g} × capacity: p99 of what is accepted",
        [report.quantile_ms(run["receipt"], 0.99) for run in runs],
        "ms",
        target=ACCEPTED_P99_MS_MAX,
        factor=factor,
        offered_per_s=round(capacity * factor),
        accepted_per_s=round(middle("accepted_per_s")),
        accepted_share_of_capacity=round(middle("accepted_per_s") / capacity, 3),
        refused_per_s=round(middle("refused_per_s")),
        accepted_p50_ms=quantile("receipt", 0.5),
        accepted_p99_ms=quantile("receipt", 0.99),
        delivered_p99_ms=quantile("deliver", 0.99),
        refused_p50_ms=quantile("refused", 0.5),
        refused_p99_ms=quantile("refused", 0.99),
        refused_p99_spread_ms=[min(refused), max(refused)],
        generator_late_p99_ms=quantile("late", 0.99),
        generator_core_share=round(max(run["generator_core_share"] for run in runs), 2),
        server_core_share=round(middle("server_core_share"), 2),
        refused_with=sorted({run["last_words"].rsplit("'", 2)[-2] for run in runs if run["refused_per_s"]}),
        **more,
    )


def run(size: Size, folder: Path | None = None) -> list[report.Case]:
    """The curve: one case a factor."""
    issuer, wait_ms = Issuer(), Config().admission.publish_wait_ms_max
    raise_descriptor_limit(GROUPS[size.name] * MEMBERS + 256)
    with (
        workplace("overload", folder) as place,
        gateway(place / "ours", issuer, GONETS_ADMISSION_PUBLISH_WAIT_MS_MAX=str(wait_ms)) as server,
        one_core_each(server) as apart,
    ):
        first = size.name != "smoke" and go_first(server)
        groups = Groups(server, issuer, size)
        try:
            found = groups.capacities_per_s(CAPACITY_RUNS[size.name])
            capacity = statistics.median(found)
            more = {
                "durability": server.ready["durability"],
                "filesystem": report.filesystem_of(place),
                "capacity_per_s": round(capacity),
                "capacity_spread": [round(min(found)), round(max(found))],
                "one_core_each": apart,
                "before_others": first,
            }
            return [
                _case(factor, capacity, [groups.offer(capacity * factor) for _ in range(size.runs)], more)
                for factor in FACTORS[size.name]
            ]
        finally:
            groups.generator.close()


def show(cases: list[report.Case]) -> None:
    """The curve as a table, with a bar for what of the offered load was accepted (█) and refused (░)."""
    first, most = cases[0]["capacity_spread"]
    title = f"capacity {cases[0]['capacity_per_s']:,}/s ({first:,} to {most:,})"
    table = Table(show_edge=False, header_style="bold", title=title)
    columns = ("load", "offered/s", "accepted/s", "refused/s", "accepted p50", "p99", "spread", "delivered p99")
    for name in (*columns, "refused p99", "clients late p99", ""):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    widest = max(case["offered_per_s"] for case in cases)
    for case in cases:
        accepted = round(24 * case["accepted_per_s"] / widest)
        refused = round(24 * (case["accepted_per_s"] + case["refused_per_s"]) / widest) - accepted
        table.add_row(
            f"{case['factor']:g} ×",
            *(f"{case[name]:,}" for name in ("offered_per_s", "accepted_per_s", "refused_per_s")),
            *(f"{case[name]:,.1f} ms" for name in ("accepted_p50_ms", "accepted_p99_ms")),
            f"{case['spread'][0]:,.0f}–{case['spread'][1]:,.0f}",
            *(f"{case[name]:,.1f} ms" for name in ("delivered_p99_ms", "refused_p99_ms", "generator_late_p99_ms")),
            "█" * accepted + "░" * refused,
        )
    report.plain_console().print(table)

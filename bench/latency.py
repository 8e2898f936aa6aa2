"""How long from a publish to its delivery, synced: in dialogs at half of the highest rate, and beside broadcasts.

Open loop: publishes are due at random times (Poisson) of a fixed mean rate, whatever the server does; each latency
counts from when the publish was due, so a server or generator that falls behind shows. The highest rate is found first,
by the same dialogs in a closed loop of clients that wait for each receipt: like arrivals of an open loop, they send
each publish alone. With 8 in flight several travel together and the rate is higher; half of that is looked at too.

The second case keeps a broadcast to thousands of sessions under way all the time and looks at the dialogs only; the two
kinds of clients are native threads of their own, lest the reading of the broadcasts delay the clocks of the dialogs.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

from bench import report
from bench.clients import Issuer, fill_of, publish_template
from bench.fanout import PAYLOAD_BYTES as BROADCAST_BYTES
from bench.fanout import Audience
from bench.harness import Child, Size, gateway, raise_descriptor_limit, workplace
from bench.publish import PAYLOAD_BYTES, check
from ext.loadgen import LoadGenerator

Targets = dict[str, float | None]  # quantile → ms, None: only looked at

DIALOGS: Final = {"smoke": 20, "short": 500, "full": 500}
BROADCAST_SESSIONS: Final = {"smoke": 100, "short": 15_000, "full": 15_000}
BROADCAST_DIALOGS: Final = {"smoke": 10, "short": 100, "full": 100}
BROADCAST_DIALOG_RATE_PER_S: Final = 1_000.0
DEPTHS: Final = (1, 8)  # publishes in flight of each dialog while the highest rates are sought
IN_FLIGHT_MAX: Final = 64
DESCRIPTORS: Final = 17_000
LATENCY_TARGET: Final[Targets] = {"p50_ms": 1.5, "p99_ms": 10.0}
NO_TARGET: Final[Targets] = {"p50_ms": None, "p99_ms": None}
BROADCAST_TARGET: Final[Targets] = {"p99_ms": 20.0}


class Dialogs:
    """Pairs of connected people; in each, one writes."""

    def __init__(self, server: Child, issuer: Issuer, users: int, pairs: int) -> None:
        self.server, self.users, self.pairs = server, users, pairs
        people = [users + i for i in range(2 * pairs)]
        self.hellos = [issuer.hello(user) for user in people]
        self.counters = [0] * pairs

    def run(self, size: Size, *, in_flight: int, rate_per_s: float, broadcasting: bool = False) -> dict[str, Any]:
        """One run; rate, histogram of deliveries, and the generator's share of a core."""
        generator = LoadGenerator(2 * self.pairs)
        for number, hello in enumerate(self.hellos):
            generator.add(hello, self.counters[number] if number < self.pairs else 0)
        generator.connect(self.server.host, self.server.port)
        try:
            stream = generator.stream(fill_of(PAYLOAD_BYTES), in_flight=in_flight, rate_per_s=rate_per_s, recipients=2)
            for number in range(self.pairs):
                other = self.users + self.pairs + number
                generator.publisher(stream, number, *publish_template("user", other, PAYLOAD_BYTES))
            drained = generator.run(size.seconds, warmup_s=size.warmup_s)
            check(generator, drained, "dialogs beside broadcasts" if broadcasting else "dialogs")
            stats, counts = generator.stats(), generator.stream_stats(stream)
            return {
                "rate": counts["receipts_in_window"] / stats["window_s"],
                "core_share": stats["cpu_share"],
                "deliver": generator.histogram(stream, "deliver"),
            }
        finally:
            self.counters = [generator.next_counter(number) - 1 for number in range(self.pairs)]
            generator.close()


def _half_rate(place: Path, server: Child, issuer: Issuer, size: Size) -> list[report.Case]:
    """At half of what clients reach that wait for each receipt; and, without a target, of those that send 8 ahead."""
    dialogs = Dialogs(server, issuer, 1, DIALOGS[size.name])
    cases = []
    for depth in DEPTHS:
        highest = dialogs.run(size, in_flight=depth, rate_per_s=0.0)["rate"]
        runs = [dialogs.run(size, in_flight=IN_FLIGHT_MAX, rate_per_s=highest / 2) for _ in range(size.runs)]
        more = {
            "durability": server.ready["durability"],
            "filesystem": report.filesystem_of(place),
            "rate_per_s": round(highest / 2),
            "highest_rate_per_s": round(highest),
            "achieved_per_s": round(sum(run["rate"] for run in runs) / len(runs)),
            "dialogs": dialogs.pairs,
            "generator_core_share": round(max(run["core_share"] for run in runs), 2),
        }
        title = "latency at half of the highest rate" + (f" of {depth} in flight" if depth > 1 else "")
        cases += _quantiles(title, [run["deliver"] for run in runs], LATENCY_TARGET if depth == 1 else NO_TARGET, more)
    return cases


def _beside_broadcasts(place: Path, server: Child, issuer: Issuer, size: Size) -> list[report.Case]:
    audience = Audience(server, issuer, 1_000_000, BROADCAST_SESSIONS[size.name], follows=True)
    dialogs = Dialogs(server, issuer, 2_000_000, BROADCAST_DIALOGS[size.name])
    quiet = dialogs.run(size, in_flight=IN_FLIGHT_MAX, rate_per_s=BROADCAST_DIALOG_RATE_PER_S)
    runs, broadcasts = [], []
    for _ in range(size.runs):
        listeners = audience.connect()
        stream = listeners.stream(
            fill_of(BROADCAST_BYTES), in_flight=1, recipients=len(audience.hellos), broadcast=True
        )
        listeners.publisher(stream, 0, *publish_template("conversation", audience.channel, BROADCAST_BYTES))
        drained: list[bool] = []
        # Longer than the dialogs' run, which connects, warms up, measures and drains inside of it.
        seconds = size.seconds + size.warmup_s + 1.0
        thread = threading.Thread(target=lambda to=drained, of=listeners, s=seconds: to.append(of.run(s, drain_s=30.0)))
        thread.start()
        try:
            runs.append(
                dialogs.run(size, in_flight=IN_FLIGHT_MAX, rate_per_s=BROADCAST_DIALOG_RATE_PER_S, broadcasting=True)
            )
        finally:
            thread.join()
            audience.counter = listeners.next_counter(0) - 1
        check(listeners, drained == [True], "broadcasts")
        counts = listeners.stream_stats(stream)
        broadcasts.append(counts["deliveries_in_window"] / listeners.stats()["window_s"])
        listeners.close()
    more = {
        "durability": server.ready["durability"],
        "filesystem": report.filesystem_of(place),
        "rate_per_s": round(BROADCAST_DIALOG_RATE_PER_S),
        "sessions": len(audience.hellos),
        "broadcast_deliveries_per_s": round(sum(broadcasts) / len(broadcasts)),
        "without_broadcasts_p99_ms": report.quantile_ms(quiet["deliver"], 0.99),
    }
    title = f"dialogs beside broadcasts to {len(audience.hellos):,}"
    return _quantiles(title, [run["deliver"] for run in runs], BROADCAST_TARGET, more)


def _quantiles(
    title: str, histograms: list[report.Histogram], targets: Targets, more: dict[str, Any]
) -> list[report.Case]:
    """One case a quantile that has a target; the higher quantiles of all runs together ride along."""
    every = report.added(histograms)
    beyond: dict[str, Any] = {"p999_ms": report.quantile_ms(every, 0.999), "max_ms": report.quantile_ms(every, 1.0)}
    shares = {"p50_ms": 0.5, "p99_ms": 0.99}
    return [
        report.valued(
            f"{title}, {name.removesuffix('_ms')}",
            [report.quantile_ms(one, shares[name]) for one in histograms],
            "ms",
            target=target,
            **(more | beyond if name == "p99_ms" else more),
        )
        for name, target in targets.items()
    ]


def run(size: Size, folder: Path | None = None) -> list[report.Case]:
    """Both measurements on one server."""
    raise_descriptor_limit(DESCRIPTORS)
    issuer = Issuer()
    with workplace("latency", folder) as place, gateway(place / "ours", issuer) as server:
        return _half_rate(place, server, issuer, size) + _beside_broadcasts(place, server, issuer, size)

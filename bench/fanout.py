"""How fast one publisher's events reach thousands of sessions, against a bare C loop of one `send` a socket.

Payload 128 bytes, a frame of 221. The publisher (a session among them) sends the next message, or the next 64 in one
send, when every session has the last ones: the time of a message runs from its publish, through the synced commit, to
the last socket having been read. The limit is sent the same frames, stores nothing, and sends frames of the same size.
Each event is compared byte for byte with its first copy; gaps, doubles and disorder fail the run.

With TLS the limit is the same server without it. Sessions connect anew for each run and leave after it, so that both
sides never hold sockets at the same time.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Final, NamedTuple

from bench import report
from bench.clients import Issuer, SetupError, answered, command, create, fill_of, publish_template
from bench.harness import Child, Size, alternated, bare, gateway, raise_descriptor_limit, workplace
from bench.publish import check
from ext.loadgen import LoadGenerator

PAYLOAD_BYTES: Final = 128
COMMANDS_AT_ONCE: Final = 2_000
DESCRIPTORS: Final = 12_000


class Load(NamedTuple):
    """One case."""

    sessions: int
    in_flight: int

    @property
    def title(self) -> str:
        """As it is reported."""
        how = "one at a time" if self.in_flight == 1 else f"{self.in_flight} in flight"
        return f"fanout to {self.sessions:,}, {how}"


LOADS: Final = (Load(1_000, 1), Load(1_000, 64), Load(10_000, 1), Load(10_000, 64))
TLS_LOADS: Final = LOADS[:2]
SMOKE_LOADS: Final = (Load(50, 1), Load(50, 64))


class Audience:
    """Users who follow one channel; the first of them owns it and publishes."""

    def __init__(self, server: Child, issuer: Issuer, users: int, sessions: int, *, follows: bool) -> None:
        self.server, self.follows = server, follows
        self.hellos = [issuer.hello(users + i) if follows else b"\xc0" for i in range(sessions)]
        self.channel, self.counter = 1, 0
        if follows:
            self._follow()

    def connect(self) -> LoadGenerator:
        """Everybody, live."""
        generator = LoadGenerator(len(self.hellos))
        for number, hello in enumerate(self.hellos):
            generator.add(hello, 0 if number else self.counter)
        self.server.connect(generator)
        return generator

    def leave(self, generator: LoadGenerator) -> None:
        """Everybody goes; the publisher's counter goes on in the next run."""
        self.counter = generator.next_counter(0) - 1
        generator.close()

    def _follow(self) -> None:
        generator = self.connect()
        self.channel = create(generator, 0, "channel", "all", [])
        body = {"counter": 1, "conversation": self.channel}
        for first in range(1, len(self.hellos), COMMANDS_AT_ONCE):
            some = range(first, min(first + COMMANDS_AT_ONCE, len(self.hellos)))
            for one in some:
                generator.command(one, command("follow", **body))
            answered(generator, len(some))
        self.leave(generator)


class Side:
    """Ours or the limit: a run is connect, broadcast, leave."""

    def __init__(self, audience: Audience, load: Load, size: Size) -> None:
        self.audience, self.load, self.size = audience, load, size
        self.deliveries: list[report.Histogram] = []
        self.cpu_shares: list[float] = []

    def rate(self) -> float:
        """Deliveries a second of one run, from whole messages: a message counts when everybody has it."""
        sessions, in_flight = self.load
        # The publisher of a limit counts from 1 after each connect, ours goes on from where its device was.
        generator = self.audience.connect()
        try:
            stream = generator.stream(
                fill_of(PAYLOAD_BYTES), in_flight=in_flight, per_send=in_flight, recipients=sessions, broadcast=True
            )
            generator.publisher(stream, 0, *publish_template("conversation", self.audience.channel, PAYLOAD_BYTES))
            drained = generator.run(self.size.seconds, warmup_s=self.size.warmup_s)
            check(generator, drained, self.load.title)
            counts, stats = generator.stream_stats(stream), generator.stats()
            self.deliveries.append(generator.histogram(stream, "deliver"))
            self.cpu_shares.append(stats["cpu_share"])
            if not counts["deliveries_in_window"]:
                raise SetupError(f"{self.load.title}: nothing was delivered in {self.size.seconds} s")
            return float(counts["deliveries_in_window"] / stats["window_s"])
        finally:
            self.audience.leave(generator)


def _case(place: Path, ours: Audience, limit: Audience, load: Load, size: Size) -> report.Case:
    own, other = Side(ours, load, size), Side(limit, load, size)

    def limit_rate() -> float:
        if not limit.follows:
            limit.counter = 0  # a bare server numbers each connection from 1
        return other.rate()

    rates, limits = alternated(size.runs, own.rate, limit_rate)
    latencies = report.added(own.deliveries)
    median = statistics.median(rates)
    return report.rated(
        f"{load.title}, TLS against plain" if size.tls else load.title,
        rates,
        limits,
        durability=ours.server.ready["durability"],
        filesystem=report.filesystem_of(place),
        limit_durability=ours.server.ready["durability"] if size.tls else "none (nothing is stored)",
        us_per_session_and_flush=round(1e6 * load.in_flight / median, 2),
        deliver_p50_ms=report.quantile_ms(latencies, 0.5),
        deliver_p99_ms=report.quantile_ms(latencies, 0.99),
        generator_core_share=round(max(own.cpu_shares), 2),
        limit_generator_core_share=round(max(other.cpu_shares), 2),
    )


def run(size: Size, folder: Path | None = None) -> list[report.Case]:
    """All cases of a size."""
    raise_descriptor_limit(DESCRIPTORS)
    tls = size.tls
    loads = SMOKE_LOADS if size.name == "smoke" else TLS_LOADS if tls else LOADS
    issuer, results = Issuer(), []
    with (
        workplace("fanout", folder) as place,
        gateway(place / "plain", issuer) if tls else bare("fanout", place / "bare", PAYLOAD_BYTES) as limit,
    ):
        with gateway(place / "ours", issuer, tls=tls) as ours:
            audiences: dict[int, tuple[Audience, Audience]] = {}
            for load in loads:
                if load.sessions not in audiences:
                    audiences[load.sessions] = (
                        Audience(ours, issuer, 1_000_000 * len(audiences) + 1, load.sessions, follows=True),
                        Audience(
                            limit, issuer, 1_000_000 * len(audiences) + 1 if tls else 0, load.sessions, follows=tls
                        ),
                    )
                results.append(_case(place, *audiences[load.sessions], load, size))
    return results

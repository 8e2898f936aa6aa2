"""How many publishes a second are answered after the sync, over WebSocket, against a bare native server.

One event a frame of 158 bytes; closed loop: a receipt brings the next publish. Each client writes to one dialog whose
other person is away (their own event comes back to them, as to all of a user's devices) or, in the cases that say so,
connected. The limit reads the same frames, syncs them in groups through LMDB and answers with receipts of the same
size; it does not unmask, check, number or deliver. With TLS it is the same server without it. Every receipt is
matched, every event compared with what was sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from bench import report
from bench.clients import Issuer, fill_of, publish_template
from bench.harness import BenchError, Child, Size, alternated, bare, gateway, raise_descriptor_limit, workplace
from ext.loadgen import LoadGenerator

PAYLOAD_BYTES: Final = 97  # a frame of 158 bytes
USERS_A_CASE: Final = 100_000


class Load(NamedTuple):
    """One case."""

    name: str
    clients: int
    in_flight: int = 1
    per_send: int = 1
    live: bool = False  # the other person of each dialog is connected
    computing: bool = False  # a Python thread beside the server

    @property
    def title(self) -> str:
        """As it is reported."""
        return f"publish {self.name}"


LOADS: Final = (
    Load("100 × 1", 100),
    Load("1,000 × 1", 1_000),
    Load("1,000 × 8 packed", 1_000, 8, 8),
    Load("1,000 × 8", 1_000, 8, 1),
    Load("100 × 1, recipients live", 100, live=True),
    Load("1,000 × 1, recipients live", 1_000, live=True),
    Load("1,000 × 8 packed, recipients live", 1_000, 8, 8, live=True),
    Load("1,000 × 1, Python computing beside", 1_000, computing=True),
)
SHORT_LOADS: Final = LOADS[:3]
TLS_LOADS: Final = LOADS[:4]
SMOKE_LOADS: Final = (Load("20 × 1", 20), Load("20 × 8 packed, recipients live", 20, 8, 8, live=True))


class Clients:
    """The connected clients of one side of a case, ready to run again and again."""

    def __init__(self, server: Child, load: Load, hellos: list[bytes], users: int, recipients: int) -> None:
        self.load = load
        self.generator = LoadGenerator(len(hellos))
        for hello in hellos:
            self.generator.add(hello)
        server.connect(self.generator)
        self.stream = self.generator.stream(
            fill_of(PAYLOAD_BYTES), in_flight=load.in_flight, per_send=load.per_send, recipients=recipients
        )
        for client in range(load.clients):
            template = publish_template("user", users + USERS_A_CASE // 2 + client, PAYLOAD_BYTES)
            self.generator.publisher(self.stream, client, *template)
        self.cpu_shares: list[float] = []

    def rate(self, size: Size) -> float:
        """Receipts a second of one run; BenchError if anything came back wrong."""
        drained = self.generator.run(size.seconds, warmup_s=size.warmup_s)
        check(self.generator, drained, self.load.title)
        self.cpu_shares.append(self.generator.stats()["cpu_share"])
        return float(
            self.generator.stream_stats(self.stream)["receipts_in_window"] / self.generator.stats()["window_s"]
        )


def check(generator: LoadGenerator, drained: bool, what: str) -> None:
    """A rate counts only if all was answered, delivered, whole and in order."""
    stats = generator.stats()
    streams = [generator.stream_stats(i) for i in range(stats["streams"])]
    wrong = {
        name: stats[name] for name in ("dead", "broken", "disordered", "doubled", "missing", "unmatched") if stats[name]
    }
    for counts in streams:
        wrong |= {name: counts[name] for name in ("refused", "corrupted") if counts[name]}
    if wrong or not drained:
        raise BenchError(f"{what}: {wrong or 'not all was answered and delivered'}; {stats}; {streams}")


def hellos_of(issuer: Issuer, load: Load, users: int) -> list[bytes]:
    """Publishers first, then the other person of each dialog."""
    people = [users + client for client in range(load.clients)]
    if load.live:
        people += [users + USERS_A_CASE // 2 + client for client in range(load.clients)]
    return [issuer.hello(user) for user in people]


def _case(place: Path, issuer: Issuer, ours: Child, limit: Child, load: Load, users: int, size: Size) -> report.Case:
    tls, recipients = size.tls, 2 if load.live else 1
    own = Clients(ours, load, hellos_of(issuer, load, users), users, recipients)
    if tls:
        other = Clients(limit, load, hellos_of(issuer, load, users), users, recipients)
    else:
        other = Clients(limit, load, [b"\xc0"] * load.clients, users, 0)
    try:
        rates, limits = alternated(size.runs, lambda: own.rate(size), lambda: other.rate(size))
        receipts = own.generator.histogram(own.stream, "receipt")
        found = report.rated(
            f"{load.title}, TLS against plain" if tls else load.title,
            rates,
            limits,
            durability=ours.ready["durability"],
            filesystem=report.filesystem_of(place),
            receipt_p50_ms=report.quantile_ms(receipts, 0.5),
            receipt_p99_ms=report.quantile_ms(receipts, 0.99),
            generator_core_share=round(max(own.cpu_shares), 2),
            limit_durability=report.durability_of(place),
            limit_generator_core_share=round(max(other.cpu_shares), 2),
        )
        if load.live:
            deliveries = own.generator.histogram(own.stream, "deliver")
            found["deliver_p50_ms"] = report.quantile_ms(deliveries, 0.5)
            found["deliver_p99_ms"] = report.quantile_ms(deliveries, 0.99)
        return found
    finally:
        own.generator.close()
        other.generator.close()


def run(size: Size, folder: Path | None = None) -> list[report.Case]:
    """All cases of a size; a server of its own for those with a computing thread."""
    raise_descriptor_limit(8_192)
    tls = size.tls
    loads = {"smoke": SMOKE_LOADS, "short": SHORT_LOADS}.get(size.name, TLS_LOADS if tls else LOADS)
    issuer = Issuer()
    results = []
    with (
        workplace("publish", folder) as place,
        gateway(place / "plain", issuer) if tls else bare("publish", place / "bare", PAYLOAD_BYTES) as limit,
    ):
        for computing in (False, True):
            chosen = [load for load in loads if load.computing is computing]
            if not chosen:
                continue
            with gateway(place / f"ours{computing:d}", issuer, computing=computing, tls=tls) as ours:
                for number, load in enumerate(chosen, 1):
                    results.append(_case(place, issuer, ours, limit, load, number * USERS_A_CASE, size))
    return results

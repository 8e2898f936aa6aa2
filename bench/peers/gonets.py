"""Gonets itself, and the bare limit of the machine, at the same jobs as the others.

Driven by ext/loadgen, over WebSocket, with every receipt matched and every event compared. The bare limit (ext/bare)
answers the same clients: a C loop of one send a socket for a fan-out, a synced group commit through LMDB for an append.
A device may have 64 publishes unanswered, so a batch of 1,000 is 20 devices with 50 in one send each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import ClassVar, Final

from bench import report
from bench.clients import Issuer, SetupError, fill_of, publish_template
from bench.fanout import Audience
from bench.harness import Child, bare, gateway
from bench.open import fill
from bench.peers.child import PeerError
from bench.peers.drive import BUSY_SHARE, DRAIN_S, IDLE_S, Watch
from bench.peers.jobs import EVENT_BYTES, MESSAGE_BYTES, Job, Outcome, Scale, faults
from bench.peers.system import Found, Places, System
from bench.proposals import record_bytes_of
from bench.schema import PEER_LIMIT
from engine import EventLog
from ext.loadgen import LoadGenerator

BATCH_DEVICES: Final = 20
IN_FLIGHT_MAX: Final = 64
USERS: Final = 1
OTHERS: Final = 500_000  # the other person of each dialog


@cache
def this_program() -> Found:
    """Of this checkout."""
    return Found(Path(sys.executable), str(report.machine(Path.cwd())["commit"]))


@contextmanager
def told(what: str) -> Iterator[None]:
    """What goes wrong between us and our own server, as a line of the row."""
    try:
        yield
    except (SetupError, ConnectionError) as error:
        raise PeerError(f"{what}: {error}") from None


class _Run:
    """Clients that publish in one stream; what they found."""

    def __init__(self, server: Child, generator: LoadGenerator, recipients: int) -> None:
        self.server, self.generator, self.recipients = server, generator, recipients

    def outcome(self, scale: Scale, stream: int, of: str, expected_each: int, **values: float) -> Outcome:
        """Runs, and counts what was `deliveries` or `receipts`."""
        watch = Watch(self.server)
        self.generator.run(scale.seconds, warmup_s=scale.warmup_s, drain_s=DRAIN_S)
        stats, counts = self.generator.stats(), self.generator.stream_stats(stream)
        found = counts[f"{of}_in_window"] / stats["window_s"]
        if not found:
            raise PeerError(f"nothing came in the measured {stats['window_s']:.1f} s; {stats['last_words']}")
        expected = counts["sent"] * expected_each
        wrong = faults(stats, "broken", "disordered", "unmatched") | faults(counts, "refused", "corrupted")
        wrong |= {"disconnected": int(stats["dead"])} if stats["dead"] else {}
        if lost := expected - counts[of] - (counts["corrupted"] if of == "deliveries" else counts["refused"]):
            wrong = {"lost": lost} | wrong
        note = "the client was the limit" if stats["cpu_share"] > BUSY_SHARE else ""
        values |= {"generator_cpu_cores": round(stats["cpu_share"], 3), "server_cpu_cores": watch.cores()}
        return Outcome(found, values, wrong, expected, note)

    def waits(self, stream: int, which: str) -> dict[str, float]:
        """Quantiles of a histogram whose buckets are a sixteenth of their value wide."""
        histogram = self.generator.histogram(stream, which)
        shares = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
        return {name: report.quantile_ms(histogram, share) for name, share in shares.items()}


def broadcast(audience: Audience, job: Job, scale: Scale) -> Outcome:
    """The fan-out of ours and of the limit."""
    sessions = len(audience.hellos)
    generator = audience.connect()
    try:
        stream = generator.stream(
            fill_of(MESSAGE_BYTES), in_flight=job.at_once, per_send=job.at_once, recipients=sessions, broadcast=True
        )
        generator.publisher(stream, 0, *publish_template("conversation", audience.channel, MESSAGE_BYTES))
        return _Run(audience.server, generator, sessions).outcome(scale, stream, "deliveries", sessions)
    finally:
        audience.leave(generator)


def appending(server: Child, hellos: list[bytes], at_once: int, scale: Scale, recipients: int) -> Outcome:
    """Publishes of clients that wait for their receipts."""
    generator = LoadGenerator(len(hellos))
    for hello in hellos:
        generator.add(hello)
    server.connect(generator)
    try:
        stream = generator.stream(fill_of(EVENT_BYTES), in_flight=at_once, per_send=at_once, recipients=recipients)
        for number in range(len(hellos)):
            generator.publisher(stream, number, *publish_template("user", OTHERS + number, EVENT_BYTES))
        run = _Run(server, generator, recipients)
        found = run.outcome(scale, stream, "receipts", 1)
        return Outcome(
            found.value, found.values | run.waits(stream, "receipt"), found.faults, found.expected, found.note
        )
    finally:
        generator.close()


def _devices(job: Job, scale: Scale) -> tuple[int, int]:
    """Clients, and publishes of one send of each."""
    if job.at_once > IN_FLIGHT_MAX:
        return BATCH_DEVICES, job.at_once // BATCH_DEVICES
    return scale.clients(job), job.at_once


class Gonets(System):
    """What is to be compared."""

    name = family = "gonets"
    title = "Gonets"
    get_it = "part of this checkout"
    note = (
        "defaults, limits against one client lifted; a batch of 1,000 is 20 devices with 50 a send; read in"
        " process (EventLog, each event with a copy of its payload), the others over their sockets"
    )
    durabilities: ClassVar = dict.fromkeys(("fanout", "append", "latency", "read", "memory"), "fsync")

    def find(self, places: Places) -> Found | None:
        """This very program."""
        return this_program()

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run on new data."""
        if job.kind == "read":
            return self._read(job, scale, place)
        issuer = Issuer()
        with told("gonets"), gateway(place, issuer) as server:
            if job.kind == "fanout":
                return broadcast(Audience(server, issuer, USERS, scale.clients(job), follows=True), job, scale)
            if job.kind == "append":
                clients, at_once = _devices(job, scale)
                hellos = [issuer.hello(USERS + number) for number in range(clients)]
                return appending(server, hellos, at_once, scale, recipients=1)
            if job.kind == "latency":
                return self._latency(server, issuer, job, scale)
            Audience(server, issuer, USERS, scale.clients(job), follows=True)
        return self._memory(issuer, job, scale, place)

    def _read(self, job: Job, scale: Scale, place: Path) -> Outcome:
        """A log that was filled through the sequencer, so many a commit; count, order and sizes are compared."""
        record_bytes = record_bytes_of(EVENT_BYTES)
        dialogs = max(scale.stored // 50, 50)
        engine = fill(place, scale.stored, dialogs, scale.stored, record_bytes, events_per_commit=job.at_once)
        stored = engine.log.last_sequence
        engine.close()
        count = wrong = last = 0
        cpu, began = time.process_time(), time.perf_counter()
        with EventLog.open(place) as log:
            for block in log.blocks_after(0):
                for event in block.decoded():
                    count += 1
                    wrong += event.sequence != count
                    last = event.sequence
        seconds = time.perf_counter() - began
        values = {"generator_cpu_cores": round((time.process_time() - cpu) / seconds, 3), "server_cpu_cores": 0.0}
        found = {"lost": stored - count, "disordered": wrong + (last != stored)}
        return Outcome(count / seconds, values, {name: n for name, n in found.items() if n}, stored)

    def _latency(self, server: Child, issuer: Issuer, job: Job, scale: Scale) -> Outcome:
        """Dialogs of people who are both connected; the author's own device gets each event too."""
        pairs = scale.clients(job)
        generator = LoadGenerator(2 * pairs)
        for number in range(pairs):
            generator.add(issuer.hello(USERS + number))
        for number in range(pairs):
            generator.add(issuer.hello(OTHERS + number))
        server.connect(generator)
        try:
            stream = generator.stream(
                fill_of(MESSAGE_BYTES), in_flight=IN_FLIGHT_MAX, rate_per_s=scale.rate_per_s, recipients=2
            )
            for number in range(pairs):
                generator.publisher(stream, number, *publish_template("user", OTHERS + number, MESSAGE_BYTES))
            run = _Run(server, generator, 2)
            found = run.outcome(scale, stream, "deliveries", 2)
            waits, late = run.waits(stream, "deliver"), run.waits(stream, "late")
            values = found.values | waits | {"rate_per_s": round(found.value / 2), "late_p99_ms": late["p99_ms"]}
            return Outcome(waits["p50_ms"], values, found.faults, found.expected, found.note)
        finally:
            generator.close()

    def _memory(self, issuer: Issuer, job: Job, scale: Scale, place: Path) -> Outcome:
        """A freshly started server takes everybody; what loads on first use is in `before`."""
        sessions = scale.clients(job)
        with told("gonets"), gateway(place, issuer) as server:
            first = LoadGenerator(1)
            first.add(issuer.hello(USERS))
            server.connect(first)
            first.run(0.1, drain_s=0.0)
            before = server.anonymous_bytes()
            generator = LoadGenerator(sessions)
            for number in range(sessions):
                generator.add(issuer.hello(USERS + number, 2))
            server.connect(generator)
            generator.run(min(IDLE_S, scale.seconds), drain_s=0.0)
            grown, dead = server.anonymous_bytes() - before, generator.stats()["dead"]
            generator.close()
            first.close()
        return Outcome(grown / sessions, {"sessions": sessions}, {"disconnected": dead} if dead else {}, sessions)


class Bare(System):
    """The machine without a messenger: no handshakes, tokens, members, numbers or checks."""

    name = family = PEER_LIMIT
    title = "bare limit"
    get_it = "part of this checkout"
    note = "ext/bare, the same clients as Gonets"
    durabilities: ClassVar = {"fanout": "none", "append": "fsync"}
    not_its_job: ClassVar = {
        "latency": "a limit of rates",
        "memory": "a limit of rates",
        "read": "a limit of rates",
    }

    def find(self, places: Places) -> Found | None:
        """This very program."""
        return this_program()

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run."""
        if job.kind == "fanout":
            with told("bare"), bare("fanout", place, MESSAGE_BYTES) as server:
                audience = Audience(server, Issuer(), 0, scale.clients(job), follows=False)
                return broadcast(audience, job, scale)
        clients, at_once = _devices(job, scale)
        with told("bare"), bare("publish", place, EVENT_BYTES) as server:
            return appending(server, [b"\xc0"] * clients, at_once, scale, recipients=0)

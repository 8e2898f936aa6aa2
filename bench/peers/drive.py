"""The jobs as ext/peerload does them, for every system that speaks one of its protocols.

A system gives a Speech: how a listener and a publisher open their connections, and what one message looks like. Here
that becomes connections and packs, a run, and an Outcome with what went wrong counted. The client is one native thread
of this process; when it was busy all the time the outcome says that it was the limit.

Cost: a run with N sessions needs N descriptors here and N in the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from bench.peers.child import PeerError, PeerServer
from bench.peers.jobs import MESSAGE_BYTES, Job, Outcome, Scale, faults
from ext.peerload import PROTOCOLS, STAMP, PeerLoad

BUSY_SHARE: Final = 0.95
COUNTED: Final = ("corrupted", "disordered", "strays", "broken", "refused")
CONNECT_S: Final = 120.0
DRAIN_S: Final = 20.0
IDLE_S: Final = 1.0
DYING_S: Final = 0.3
STORE_S: Final = 120.0


class Opening(NamedTuple):
    """What a connection sends first, and how many answers make it live; the first part alone, where there is one. What
    it asks again (behind the name that came last, if `named`) when a reply is whole or so `many` messages have come."""

    data: bytes
    answers: int = 0
    first_bytes: int = 0
    first_answers: int = 0
    again: bytes = b""
    named: bool = False
    many: int = 0


class Pack(NamedTuple):
    """What a publisher sends at once."""

    data: bytes
    payloads: list[int]
    numbers: list[int]
    answers: int


class Speech(Protocol):
    """How a system is spoken to. A name is what one publishes to and listens on."""

    protocol: str

    def listening(self, name: str) -> Opening:
        """A listener's connection."""

    def publishing(self) -> Opening:
        """A publisher's."""

    def message(self, name: str, payload: bytes) -> bytes:
        """One message of the publisher that was opened last, on its way to the server."""

    @property
    def answers(self) -> int:
        """That a publisher gets to each."""


def fill_of(payload_bytes: int) -> bytes:
    """What stands behind the stamp: letters, so that it is a string in every protocol."""
    return bytes(97 + (7 * i + 3) % 26 for i in range(payload_bytes - len(STAMP)))


def load(protocol: str, payload_bytes: int, connections: int) -> PeerLoad:
    """The native clients, none yet added."""
    return PeerLoad(PROTOCOLS[protocol], payload_bytes, connections, fill_of(payload_bytes))


def packed(message: Callable[[bytes], bytes], payload_bytes: int, count: int, answers: int) -> Pack:
    """So many equal messages, one behind the other."""
    payload = STAMP + fill_of(payload_bytes)
    one = message(payload)
    at = one.index(payload)
    return Pack(one * count, [at + i * len(one) for i in range(count)], [], answers * count)


def add(clients: PeerLoad, opening: Opening, follows: int | None = None) -> int:
    """One more connection."""
    data, answers, first, first_answers, again, named, many = opening
    number = clients.add(data, answers, first_bytes=first, first_answers=first_answers, follows=follows)
    if again:
        clients.follow_up(number, again, every=many, named=named)
    return number


def add_publisher(clients: PeerLoad, opening: Opening, pack: Pack) -> int:
    """One more that publishes."""
    number = add(clients, opening)
    clients.publisher(number, pack.data, pack.payloads, numbers=pack.numbers, answers=pack.answers)
    return number


@contextmanager
def connected(clients: PeerLoad, server: PeerServer) -> Any:
    """All of them live; closed in the end. What breaks because the server has died is told as that."""
    try:
        clients.connect(server.host, server.port, deadline_s=CONNECT_S)
        yield clients
    except ConnectionError as error:
        server.check()
        raise PeerError(str(error)) from None
    finally:
        clients.close()


class Watched(Protocol):
    """A server whose CPU is looked at."""

    def cpu_s(self) -> float:
        """User and system time so far."""

    def check(self) -> None:
        """Raises if it has ended."""


class Watch:
    """CPU of the server while something runs."""

    def __init__(self, server: Watched) -> None:
        self._server, self._cpu, self._began = server, server.cpu_s(), time.monotonic()

    def cores(self) -> float:
        """Since it was made; PeerError if the server is gone."""
        self._server.check()
        return round((self._server.cpu_s() - self._cpu) / (time.monotonic() - self._began), 3)


def finished(clients: PeerLoad, watch: Watch, value: float, expected: int, lost: int, **values: float) -> Outcome:
    """The outcome of a run: what was counted wrong, and who was busy."""
    counts = clients.stats()
    if counts["dead"]:
        time.sleep(DYING_S)  # the end of a server is seen by its connections first
    cores = watch.cores()
    found = faults(counts, *COUNTED, lost=lost) | ({"disconnected": int(counts["dead"])} if counts["dead"] else {})
    notes = [f"said {clients.last_words()!r}"] if found and clients.last_words() else []
    if counts["cpu_share"] > BUSY_SHARE:
        notes.append("the client was the limit")
    values |= {"generator_cpu_cores": round(counts["cpu_share"], 3), "server_cpu_cores": cores}
    return Outcome(value, values, found, expected, ", ".join(notes))


def rate(clients: PeerLoad, of: str) -> float:
    """Of the window; PeerError if there was nothing in it."""
    counts = clients.stats()
    if not counts[f"{of}_in_window"] or not counts["window_s"]:
        raise PeerError(f"nothing came in the measured {counts['window_s']:.1f} s; last words {clients.last_words()!r}")
    return counts[f"{of}_in_window"] / counts["window_s"]


def fanout(speech: Speech, server: PeerServer, job: Job, scale: Scale) -> Outcome:
    """One publisher, everybody listens; the next pack when everybody has the last."""
    sessions = scale.clients(job)
    clients = load(speech.protocol, MESSAGE_BYTES, sessions + 1)
    for _ in range(sessions):
        add(clients, speech.listening("all"))
    opening = speech.publishing()
    pack = packed(partial(speech.message, "all"), MESSAGE_BYTES, job.at_once, speech.answers)
    add_publisher(clients, opening, pack)
    with connected(clients, server):
        watch = Watch(server)
        clients.run(scale.seconds, warmup_s=scale.warmup_s, drain_s=DRAIN_S, recipients=sessions)
        return fanned_out(clients, watch, sessions)


def fanned_out(clients: PeerLoad, watch: Watch, recipients: int) -> Outcome:
    """The outcome of deliveries."""
    counts = clients.stats()
    expected = int(counts["sent"]) * recipients
    lost = expected - int(counts["deliveries"] + counts["corrupted"] + counts["disordered"] + counts["strays"])
    return finished(clients, watch, rate(clients, "deliveries"), expected, lost)


def quantiles(ns: bytes) -> dict[str, float]:
    """Exact, in milliseconds."""
    values = np.frombuffer(ns, "<u8") / 1e6
    if not len(values):
        return {}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4), "max_ms": round(float(values.max()), 4)}


def latency(speech: Speech, server: PeerServer, job: Job, scale: Scale) -> Outcome:
    """Pairs, one writes to the other; Poisson arrivals at a fixed rate, measured from when each was due."""
    pairs = scale.clients(job)
    clients = load(speech.protocol, MESSAGE_BYTES, 2 * pairs)
    for number in range(pairs):
        add(clients, speech.listening(f"to{number}"), follows=pairs + number)
    for number in range(pairs):
        opening = speech.publishing()
        pack = packed(partial(speech.message, f"to{number}"), MESSAGE_BYTES, 1, speech.answers)
        add_publisher(clients, opening, pack)
    with connected(clients, server):
        return paced(clients, server, scale)


def paced(clients: PeerLoad, server: PeerServer, scale: Scale) -> Outcome:
    """The open loop of the latency job."""
    watch = Watch(server)
    clients.run(scale.seconds, warmup_s=scale.warmup_s, drain_s=DRAIN_S, recipients=1, rate_per_s=scale.rate_per_s)
    found = fanned_out(clients, watch, 1)
    waits, late = quantiles(clients.waits_ns()), quantiles(clients.late_ns())
    values = found.values | waits | {"rate_per_s": round(found.value), "late_p99_ms": late.get("p99_ms", 0.0)}
    return Outcome(waits["p50_ms"], values, found.faults, found.expected, found.note)


def memory(speech: Speech, server: PeerServer, job: Job, scale: Scale) -> Outcome:
    """What the server's processes grow by when so many connect and subscribe, each to a name of its own."""
    sessions = scale.clients(job)
    first = load(speech.protocol, MESSAGE_BYTES, 1)
    add(first, speech.listening("first"))  # what loads on first use is in `before`
    with connected(first, server):
        first.idle(0.1)
    before = server.anonymous_bytes()
    clients = load(speech.protocol, MESSAGE_BYTES, sessions)
    for number in range(sessions):
        add(clients, speech.listening(f"own{number}"))
    with connected(clients, server):
        clients.idle(min(IDLE_S, scale.seconds))
        server.check()
        grown = server.anonymous_bytes() - before
        counts = clients.stats()
        lost = {"disconnected": int(counts["dead"])} if counts["dead"] else {}
        return Outcome(grown / sessions, {"sessions": sessions}, lost, sessions)


def speak(speech: Speech, server: PeerServer, job: Job, scale: Scale) -> Outcome:
    """A job of those that need nothing but a speech."""
    return {"fanout": fanout, "latency": latency, "memory": memory}[job.kind](speech, server, job, scale)


def appended(
    clients: PeerLoad, server: PeerServer, publishers: Sequence[tuple[Opening, Pack]], scale: Scale
) -> Outcome:
    """Each publisher's next pack when its last one is answered."""
    for opening, pack in publishers:
        add_publisher(clients, opening, pack)
    with connected(clients, server):
        watch = Watch(server)
        clients.run(scale.seconds, warmup_s=scale.warmup_s, drain_s=DRAIN_S)
        counts = clients.stats()
        lost = int(counts["sent"] - counts["answered"])
        waits = quantiles(clients.waits_ns())
        return finished(clients, watch, rate(clients, "answered"), int(counts["sent"]), lost, **waits)


def stored(clients: PeerLoad, server: PeerServer, opening: Opening, pack: Pack, scale: Scale) -> int:
    """Appends what is to be read back; how many there are then."""
    add_publisher(clients, opening, pack)
    with connected(clients, server):
        clients.run(STORE_S, drain_s=DRAIN_S, limit=scale.stored // len(pack.payloads) * len(pack.payloads))
        counts = clients.stats()
        if not counts["answered"] == counts["sent"] > 0 or counts["refused"]:
            server.check()
            raise PeerError(f"{counts['answered']:,.0f} of {counts['sent']:,.0f} events stored; {clients.last_words()}")
        return int(counts["sent"])


def collected(clients: PeerLoad, server: PeerServer, opening: Opening, asked: bytes, stored: int) -> Outcome:
    """A client that asks, and whose follow-ups ask on, until all that is stored has come in its order."""
    add(clients, opening)
    with connected(clients, server):
        watch = Watch(server)
        seconds = clients.collect(stored, asked)
        counts = clients.stats()
        lost = stored - int(counts["deliveries"] + counts["corrupted"] + counts["disordered"])
        return finished(clients, watch, counts["deliveries"] / seconds, stored, max(lost, 0))

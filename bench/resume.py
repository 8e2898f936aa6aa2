"""What coming back costs: one user of 2,000 conversations, and everybody at once.

*One user*: half dialogs, half groups. The second device writes into few of them, or into all, while the first is away;
then that connects and names its position. Measured from the connect to `live`, all missed events read: handshake,
token, 2,000 memberships, the walk, the sending. The CPU time is all that the server has spent meanwhile. The first
resume after a start of the server, which finds nothing in memory, is a case of its own. Nothing else happens then.

*Everybody*: thousands of sessions of 20 conversations come back at once to a server that has just started, each with
one event missed. Each run counts only if every session has received exactly what it missed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import report
from bench.clients import Issuer, answered, command
from bench.connections import CONVERSATIONS, FOUNDER, Founder
from bench.harness import BenchError, Child, Size, gateway, raise_descriptor_limit, workplace
from engine import EventLog
from ext.loadgen import LoadGenerator

USER: Final = 7
AWAY, WRITER = 1, 2  # the user's devices
GROUP_MEMBERS: Final = 5
COMMANDS_AT_ONCE: Final = 50
FEW: Final = 10
PAYLOAD_BYTES: Final = 128
DESCRIPTORS: Final = 17_000
TARGET_MS, TARGET_PER_CORE_S = 5.0, 5_000


class Scale(NamedTuple):
    """How many."""

    conversations: int
    resumes: int  # of the one user, a run
    sessions: int  # of everybody


SCALES: Final = {"smoke": Scale(60, 2, 100), "short": Scale(2_000, 10, 15_000), "full": Scale(2_000, 20, 15_000)}


def _last_sequence(folder: Path) -> int:
    with EventLog.open(folder / "data") as log:
        return log.last_sequence()


class Person:
    """The user of many conversations; the writing device is connected."""

    def __init__(self, issuer: Issuer, count: int) -> None:
        self._issuer, self._count, self._counter = issuer, count, 0
        self._conversations: list[int] = []
        self._writer: LoadGenerator | None = None

    def connect(self, server: Child) -> None:
        """The device that writes; makes the conversations, the first time."""
        self._writer = LoadGenerator(1)
        self._writer.add(self._issuer.hello(USER, WRITER), self._counter)
        server.connect(self._writer)
        if not self._conversations:
            half = self._count // 2
            groups = [
                {"op": "create", "kind": "group", "title": f"group {n}", "members": self._others(n), "history": False}
                for n in range(self._count - half)
            ]
            dialogs = [{"op": "publish", "user": 1_000 + n, "payload": bytes(PAYLOAD_BYTES)} for n in range(half)]
            self._conversations = self._say(groups + dialogs)

    def _others(self, number: int) -> list[int]:
        return [10_000 + GROUP_MEMBERS * number + member for member in range(GROUP_MEMBERS - 1)]

    def _say(self, bodies: list[dict[str, Any]]) -> list[int]:
        """Commands that change something; the conversations of their receipts."""
        assert self._writer is not None
        found: list[int] = []
        for first in range(0, len(bodies), COMMANDS_AT_ONCE):
            some = bodies[first : first + COMMANDS_AT_ONCE]
            for body in some:
                fields = {**body, "counter": self._writer.next_counter(0)}
                self._writer.command(0, command(**fields))
            found += answered(self._writer, len(some))
        return found

    def write(self, count: int) -> None:
        """One message into each of so many conversations, spread over all."""
        chosen = self._conversations[:: max(len(self._conversations) // count, 1)][:count]
        self._say([{"op": "publish", "conversation": one, "payload": bytes(PAYLOAD_BYTES)} for one in chosen])

    def leave(self) -> None:
        """The writing device goes."""
        assert self._writer is not None
        self._counter = self._writer.next_counter(0) - 1
        self._writer.close()


class Resumes(NamedTuple):
    """Of one run."""

    seconds: list[float]
    server_cpu_s: float  # each


def _resume(server: Child, issuer: Issuer, after: int, missed: int) -> float:
    """Seconds from the connect to `live`; BenchError unless what was missed has come."""
    generator = LoadGenerator(1)
    generator.add(issuer.hello(USER, AWAY, after))
    seconds = generator.connect(server.host, server.port)
    stats = generator.stats()
    came = generator.events_of(0)
    generator.close()
    if came != missed or stats["broken"] or stats["disordered"]:
        raise BenchError(f"a resume brought {came} events of {missed}: {stats}")
    return seconds


def _one_user(folder: Path, issuer: Issuer, person: Person, missed: int, scale: Scale) -> tuple[float, Resumes]:
    """On a server that has just started: the first resume, then the others."""
    with gateway(folder, issuer) as server:
        person.connect(server)
        after = _last_sequence(folder)
        person.write(missed)
        first = _resume(server, issuer, after, missed)
        before = server.cpu_s()
        seconds = [_resume(server, issuer, after, missed) for _ in range(scale.resumes)]
        cpu_s = (server.cpu_s() - before) / scale.resumes
        person.leave()
        return first, Resumes(seconds, cpu_s)


def _one_user_cases(place: Path, size: Size, scale: Scale) -> list[report.Case]:
    issuer, folder = Issuer(), place / "one"
    person = Person(issuer, scale.conversations)
    with gateway(folder, issuer) as server:
        person.connect(server)
        person.leave()
        more = {"durability": server.ready["durability"], "filesystem": report.filesystem_of(place)}
    cases = []
    for missed, words in ((FEW, f"{FEW} of them changed"), (scale.conversations, "all of them changed")):
        found = [_one_user(folder, issuer, person, missed, scale) for _ in range(size.runs)]
        title = f"resume over {scale.conversations:,} conversations, {words}"
        every = sorted(seconds for _, run in found for seconds in run.seconds)
        cases.append(
            report.valued(
                title,
                [1_000 * sorted(run.seconds)[len(run.seconds) // 2] for _, run in found],
                "ms",
                target=TARGET_MS,
                p99_ms=round(1_000 * every[min(round(0.99 * len(every)), len(every) - 1)], 3),
                max_ms=round(1_000 * every[-1], 3),
                server_cpu_ms=round(1_000 * sum(run.server_cpu_s for _, run in found) / len(found), 3),
                events=missed,
                **more,
            )
        )
        cases.append(
            report.valued(f"{title}, the first after a start", [1_000 * one for one, _ in found], "ms", **more)
        )
    return cases


def _storm(folder: Path, issuer: Issuer, founder: Founder, scale: Scale) -> tuple[float, float, float]:
    """Resumes a second, resumes a second of a core of the server, p99 in ms."""
    with gateway(folder, issuer) as server:
        after = _last_sequence(folder)
        founder.write(server)
        generator = LoadGenerator(scale.sessions)
        for number in range(scale.sessions):
            generator.add(issuer.hello(FOUNDER + 1 + number, AWAY, after))
        before = server.cpu_s()
        seconds = generator.connect(server.host, server.port, deadline_s=120.0)
        cpu_s = server.cpu_s() - before
        wrong = [number for number in range(scale.sessions) if generator.events_of(number) != 1]
        stats, waited = generator.stats(), generator.histogram(0, "hello")
        generator.close()
        if wrong or stats["broken"] or stats["disordered"]:
            raise BenchError(
                f"{len(wrong)} of {scale.sessions} sessions did not get the one event they missed: {stats}"
            )
        return scale.sessions / seconds, scale.sessions / cpu_s, report.quantile_ms(waited, 0.99)


def _storm_case(place: Path, size: Size, scale: Scale) -> report.Case:
    issuer, folder = Issuer(), place / "all"
    founder = Founder(issuer)
    with gateway(folder, issuer) as server:
        founder.found(server, list(range(FOUNDER + 1, FOUNDER + 1 + scale.sessions)))
        durability = server.ready["durability"]
    found = [_storm(folder, issuer, founder, scale) for _ in range(size.runs)]
    return report.rated(
        f"resumes of {scale.sessions:,} sessions at once",
        [rate for rate, _, _ in found],
        target=TARGET_PER_CORE_S,
        per_server_core_s=round(sorted(per_core for _, per_core, _ in found)[len(found) // 2]),
        hello_p99_ms=max(p99 for _, _, p99 in found),
        conversations_each=CONVERSATIONS,
        durability=durability,
        filesystem=report.filesystem_of(place),
    )


def run(size: Size, folder: Path | None = None) -> list[report.Case]:
    """All cases."""
    raise_descriptor_limit(DESCRIPTORS)
    scale = SCALES[size.name]
    with workplace("resume", folder) as place:
        return [*_one_user_cases(place, size, scale), _storm_case(place, size, scale)]

"""What connected sessions cost: memory, hellos a second, idle CPU.

Each session is a user of 20 conversations (groups of 100) who has said hello with a signed token and received one
event. Memory is anonymous memory of all the server's processes (heaps, tables, Python objects; neither mapped files,
which the kernel can drop, nor its socket buffers, which no server avoids), after minus before, divided by sessions;
before is a server restarted on the same data that has served one session. Idle CPU is measured while every client
pings every 30 s. Hellos a second run from the first connect to the last session being live, handshakes included.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import report
from bench.clients import Issuer, answered, command
from bench.harness import BenchError, Child, Size, gateway, raise_descriptor_limit, workplace
from ext.loadgen import LoadGenerator

CONVERSATIONS: Final = 20
GROUP: Final = 100
FOUNDER: Final = 1
PAYLOAD_BYTES: Final = 128
PING_INTERVAL_S: Final = 30.0
COMMANDS_AT_ONCE: Final = 50
RECEIVE_S: Final = 30.0
DESCRIPTORS: Final = 17_000
TARGET_BYTES, TARGET_HELLOS_PER_S, TARGET_IDLE_PERCENT = 1_228, 5_000, 5.0


class Scale(NamedTuple):
    """How many, and for how long idle CPU is watched."""

    sessions: int
    idle_s: float


SCALES: Final = {"smoke": Scale(200, 1.0), "short": Scale(15_000, 5.0), "full": Scale(15_000, 30.0)}


class Founder:
    """The one who makes the groups, and writes in them."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer, self._counter = issuer, 0
        self.groups: list[int] = []

    def _connect(self, server: Child) -> LoadGenerator:
        generator = LoadGenerator(1)
        generator.add(self._issuer.hello(FOUNDER), self._counter)
        generator.connect(server.host, server.port)
        return generator

    def _leave(self, generator: LoadGenerator) -> None:
        self._counter = generator.next_counter(0) - 1
        generator.close()

    def found(self, server: Child, users: list[int]) -> None:
        """Each user into 20 groups: every round deals all users out anew."""
        generator = self._connect(server)
        for turn in range(CONVERSATIONS):
            dealt = random.Random(turn).sample(users, len(users))
            made: list[int] = []
            for number, first in enumerate(range(0, len(users), GROUP), 1):
                members = dealt[first : first + GROUP]
                generator.command(
                    0,
                    command(
                        "create",
                        counter=generator.next_counter(0),
                        kind="group",
                        title=f"group {turn}.{number}",
                        members=members,
                        history=False,
                    ),
                )
                if number % COMMANDS_AT_ONCE == 0:
                    made += answered(generator, COMMANDS_AT_ONCE)
            made += answered(generator, -(-len(users) // GROUP) - len(made))
            self.groups = self.groups or made
        self._leave(generator)

    def write(self, server: Child) -> None:
        """One message into each group of the first round, which together hold everybody once."""
        generator = self._connect(server)
        for number, group in enumerate(self.groups, 1):
            counter = generator.next_counter(0)
            generator.command(0, command("publish", counter=counter, conversation=group, payload=bytes(PAYLOAD_BYTES)))
            if number % COMMANDS_AT_ONCE == 0:
                answered(generator, COMMANDS_AT_ONCE)
        answered(generator, len(self.groups) % COMMANDS_AT_ONCE)
        self._leave(generator)


class Found(NamedTuple):
    """Of one run."""

    bytes_per_session: float
    hellos_per_s: float
    idle_percent: float
    hello_p99_ms: float


def _one_run(folder: Path, issuer: Issuer, founder: Founder, hellos: list[bytes], scale: Scale) -> Found:
    """A freshly started server takes everybody."""
    with gateway(folder, issuer) as server:
        founder.write(server)  # everything that loads on first use is in `before`
        time.sleep(0.2)
        before = server.anonymous_bytes()
        generator = LoadGenerator(len(hellos))
        for hello in hellos:
            generator.add(hello)
        seconds = generator.connect(server.host, server.port, deadline_s=120.0)
        founder.write(server)
        until = time.monotonic() + RECEIVE_S
        while not (everybody := min(map(generator.events_of, range(len(hellos))))) and time.monotonic() < until:
            generator.run(0.2, drain_s=0.0)
        if not everybody:
            raise BenchError(f"not every session received its event: {generator.stats()}")
        generator.run(scale.idle_s / 2, ping_interval_s=PING_INTERVAL_S, drain_s=0.0)
        after, cpu, began = server.anonymous_bytes(), server.cpu_s(), time.monotonic()
        generator.run(scale.idle_s, ping_interval_s=PING_INTERVAL_S, drain_s=0.0)
        idle = (server.cpu_s() - cpu) / (time.monotonic() - began)
        waited = generator.histogram(0, "hello")
        if generator.stats()["live"] != len(hellos):
            raise BenchError(f"sessions were lost while idle: {generator.stats()}")
        generator.close()
        return Found(
            (after - before) / len(hellos), len(hellos) / seconds, 100 * idle, report.quantile_ms(waited, 0.99)
        )


def run(size: Size, folder: Path | None = None) -> list[report.Case]:
    """Three cases from the same runs."""
    raise_descriptor_limit(DESCRIPTORS)
    scale, issuer = SCALES[size.name], Issuer()
    users = list(range(FOUNDER + 1, FOUNDER + 1 + scale.sessions))
    founder = Founder(issuer)
    with workplace("connections", folder) as place:
        with gateway(place / "ours", issuer) as server:
            founder.found(server, users)
            more: dict[str, Any] = {
                "durability": server.ready["durability"],
                "filesystem": report.filesystem_of(place),
                "sessions": scale.sessions,
                "conversations_each": CONVERSATIONS,
            }
        hellos = [issuer.hello(user) for user in users]
        found = [_one_run(place / "ours", issuer, founder, hellos, scale) for _ in range(size.runs)]
    memory, rates, idle, slowest = zip(*found, strict=True)
    return [
        report.valued("memory of a session", memory, "bytes", 0, target=TARGET_BYTES, **more),
        report.rated("hellos", rates, target=TARGET_HELLOS_PER_S, hello_p99_ms=max(slowest), **more),
        report.valued("idle CPU", idle, "% of a core", 2, target=TARGET_IDLE_PERCENT, watched_s=scale.idle_s, **more),
    ]

"""Conversations of a workload, made by real commands before anything is measured.

Used by drive.py. A few founders, users beyond those who are connected later, create the groups, several at a time; they
stay away afterwards. A group that is as large as groups may be, and a channel, is created by its own first member, who
writes there. Followers come later, when everybody is connected: only they can follow for themselves.

Invariant: every conversation has its number afterwards, or a BenchError says what the server answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgpack

from bench.clients import DEVICE, command, context_for
from bench.harness import BenchError
from bench.population import Conversation, Population, user_of
from bench.tokens import Signer
from engine import Config
from ext.loadgen import LoadGenerator

FOUNDERS: Final = 16
IN_FLIGHT: Final = 16  # creates of one founder
AGAIN: Final = ("overloaded", "unavailable")  # statuses after which the same is said again
AGAIN_S: Final = 0.2
SETTLE_S: Final = 0.05
ERROR: Final = 7  # the number of that push


class Founding:
    """One founding of all conversations."""

    def __init__(self, population: Population, connect: Callable[[LoadGenerator], None], signer: Signer) -> None:
        self._population, self._connect, self._signer = population, connect, signer
        self._most = Config().conversations.group_members_max

    def found(self, deadline: float, progress: Callable[[int, int], None]) -> None:
        """All of them. `deadline`: of time.monotonic(); `progress`: (made, of all)."""
        wanted = list(self._population.founded())
        own = [one for one in wanted if self._owned(one)]
        rest = [one for one in wanted if not self._owned(one)]
        made = 0

        def more(count: int) -> None:
            nonlocal made
            made += count
            progress(made, len(wanted))

        first = user_of(self._population.sessions)
        self._create(rest, [first + number for number in range(FOUNDERS)], deadline, more)
        owners = sorted({user_of(one.members[0]) for one in own})
        self._create(own, owners, deadline, more)

    def _owned(self, one: Conversation) -> bool:
        return one.shape == "channel" or len(one.members) >= self._most

    def _create(
        self, wanted: Sequence[Conversation], users: Sequence[int], deadline: float, more: Callable[[int], None]
    ) -> None:
        if not wanted:
            return
        generator = _present(users, self._connect, self._signer)
        try:
            self._say(generator, list(wanted), {user: number for number, user in enumerate(users)}, deadline, more)
        finally:
            generator.close()

    def _say(
        self,
        generator: LoadGenerator,
        wanted: list[Conversation],
        connections: dict[int, int],
        deadline: float,
        more: Callable[[int], None],
    ) -> None:
        under_way: dict[tuple[int, int], Conversation] = {}
        load = [0] * len(connections)
        turn = 0
        held: list[Conversation] = []  # whose own creator has enough under way
        while wanted or held or under_way:
            wanted, held = wanted + held[::-1], []
            while wanted and len(under_way) < IN_FLIGHT * len(connections):
                one = wanted.pop()
                if self._owned(one):
                    connection = connections[user_of(one.members[0])]
                else:
                    turn = connection = (turn + 1) % len(connections)
                if load[connection] >= IN_FLIGHT:
                    held.append(one)
                    continue
                under_way[connection, self._ask(generator, connection, one)] = one
                load[connection] += 1
            if time.monotonic() > deadline:
                raise BenchError(
                    f"conversations were still being made when the deadline was over: {len(under_way)} unanswered;"
                    " raise run.deadline_s"
                )
            generator.settle(SETTLE_S)
            done = 0
            for connection, counter, status, number, _ in generator.take_receipts():
                one = under_way.pop((connection, counter))
                load[connection] -= 1
                if status in AGAIN:
                    wanted.append(one)
                elif status != "appended":
                    raise BenchError(f"the server refuses a {one.shape} of {len(one.members):,} members: {status}")
                else:
                    one.number = number
                    done += 1
            if done:
                more(done)
            elif wanted and not under_way:
                time.sleep(AGAIN_S)
            stats = generator.stats()
            if stats["dead"] or stats["frames"].get(ERROR):
                raise BenchError(f"the server ends a founder's session, or its command: {stats['last_words']}")

    def _ask(self, generator: LoadGenerator, connection: int, one: Conversation) -> int:
        counter = generator.next_counter(connection)
        members: list[int] = []
        if one.shape == "group":
            members = [user_of(member) for member in (one.members[1:] if self._owned(one) else one.members)]
        body = command("create", counter=counter, kind=one.shape, title="bench", members=members, history=False)
        generator.command(connection, body)
        return counter


def visit(users: Sequence[int], connect: Callable[[LoadGenerator], None], signer: Signer) -> None:
    """They are live for a moment: whatever a server's processes load at their first sessions is loaded then."""
    _present(users, connect, signer).close()


def _present(users: Sequence[int], connect: Callable[[LoadGenerator], None], signer: Signer) -> LoadGenerator:
    generator = LoadGenerator(len(users))
    for user in users:
        hello = {"op": "hello", "token": signer.token(user), "device": DEVICE, "protocol": 1}
        generator.add(msgpack.packb(hello))
    connect(generator)
    return generator


def connector(host: str, port: int, path: str, tls: bool, deadline_s: float) -> Callable[[LoadGenerator], None]:
    """What connects a generator of this process to the server."""

    def connect(generator: LoadGenerator) -> None:
        try:
            generator.connect(host, port, path=path, tls=context_for(host) if tls else None, deadline_s=deadline_s)
        except ConnectionError as error:
            raise BenchError(f"{'wss' if tls else 'ws'}://{host}:{port}{path}: {error}") from None

    return connect

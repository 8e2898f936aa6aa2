"""One worker in a test: naive log and state, real natives and sockets, every step and every answer under control."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from engine.catchup import CatchUp
from engine.fanout import Fanout
from engine.ports import Gap
from engine.readers import ReaderPool
from engine.router import Router
from engine.tail import Tail
from ext.session_table import SessionTable
from tests.support.naive_log import Event, NaiveLog
from tests.support.naive_view import NaiveView
from tests.support.outlet import Outlet


class SameThreadPool(ReaderPool):
    """Jobs wait until the test runs them: any order of completion, no threads."""

    def __init__(self, log: NaiveLog) -> None:
        self.log = log
        self.waiting: list[Callable[[], None]] = []  # type: ignore[assignment]

    def submit(self, job, done, key=None) -> None:  # type: ignore[no-untyped-def]
        def run() -> None:
            try:
                outcome = job(self.log)
            except Exception as error:
                outcome = error
            done(outcome)

        self.waiting.append(run)


class World:
    """One worker with its sessions, driven step by step."""

    def __init__(self, seed: int, ring_bytes: int = 1 << 20, **limits: int) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.log = NaiveLog()
        self.view = NaiveView(self.log)
        self.committed = NaiveView(self.log)  # what admission knows: ahead of the tail
        self.table = SessionTable(64)
        self.fanout = Fanout(
            self.table,
            sequence=0,
            ring_bytes=ring_bytes,
            ranges_max=limits.pop("ranges_max", 4096),
            interest_entries_max=limits.pop("interest_entries_max", 1_000_000),
        )
        self.router = Router(self.view, self.fanout, self)
        self.tail = Tail(self.log, self.router, 0)
        self.pool = SameThreadPool(self.log)
        self.catchup = CatchUp(
            self.view,
            self.fanout,
            self.log,
            self.pool,
            self,
            page_bytes=limits.pop("page_bytes", 2000),
            **limits,
        )
        self.sessions: list[Outlet] = []
        self.gaps: dict[int, list[Gap]] = {}
        self.lived: list[int] = []
        self.conversations: list[int] = []

    # ports

    def of_user(self, user: int) -> list[int]:
        return [outlet.origin for outlet in self.sessions if outlet.user == user]

    def gap(self, session: int, gap: Gap) -> None:
        self.gaps.setdefault(session, []).append(gap)

    def live(self, session: int, resumed: bool) -> None:
        self.lived.append(session)

    def failed(self, session: int, error: Exception) -> None:
        raise AssertionError(f"session {session}: {error}") from error

    # what happens

    def connect(self, user: int, encoding: int, position: int | None = None, buffer_bytes: int = 4096) -> Outlet:
        outlet = Outlet(self.table, user, encoding, buffer_bytes, self.fanout.sequence, live=position is None)
        self.sessions.append(outlet)
        self.fanout.follow_all(outlet.origin, self.view.memberships(user))
        if position is not None:
            outlet.start = position
            assert self.catchup.begin(outlet.origin, position)
        return outlet

    def cut(self, outlet: Outlet) -> int:
        """Cuts a session as the client sees it: the position is that of the last whole frame it read."""
        outlet.read()
        got = outlet.sequences()
        position = max([outlet.start, *got])
        self.check(outlet, position)
        self.fanout.forget(outlet.origin)
        self.catchup.forget(outlet.origin)
        self.sessions.remove(outlet)
        outlet.close()
        return position

    def commit(self, events: Sequence[tuple[int, str, int, dict[str, Any] | bytes]]) -> None:
        block = self.log.append(events)
        self.committed.apply(block)

    def step(self, answers: bool = True) -> None:
        """One step of the loop with small budgets; the pool may answer meanwhile."""
        if self.tail.advance(0):
            pass
        self.catchup.tail_moved()
        self.fanout.flush(self.random.choice([0, 0, 20, 1000]))
        self.catchup.fell_behind(self.fanout.take_behind())
        self.catchup.run(self.random.choice([0, 100, 1000]))
        if answers and self.pool.waiting and self.random.random() < 0.7:
            self.pool.waiting.pop(self.random.randrange(len(self.pool.waiting)))()

    def writable(self) -> None:
        self.catchup.writable([outlet.origin for outlet in self.sessions if outlet.writable()])

    def settle(self) -> None:
        """Everybody reads until nothing comes any more."""
        for _ in range(5000):
            self.step()
            got = sum(outlet.read() for outlet in self.sessions)
            self.writable()
            if (
                not got
                and self.tail.sequence == len(self.log.events)
                and not self.pool.waiting
                and not self.catchup.reading()
                and not self.fanout.flush(1000)
            ):
                break
        else:
            raise AssertionError(f"seed {self.seed}: never settled")
        for outlet in self.sessions:
            outlet.read()

    def check(self, outlet: Outlet, upto: int) -> None:
        """What came is what the user may see after the start, up to `upto`, once and in order."""
        got = outlet.sequences()
        gapped = {gap.conversation: gap for gap in self.gaps.get(outlet.origin, [])}

        def told(event: Event) -> bool:
            gap = gapped.get(event.conversation)
            return gap is not None and gap.after < event.sequence < gap.before

        expected = [
            event.sequence
            for event in self.log.events
            if outlet.start < event.sequence <= upto and self.view.sees(outlet.user, event) and not told(event)
        ]
        assert got == expected, f"seed {self.seed}: user {outlet.user} from {outlet.start} to {upto}"
        assert all(later > earlier for earlier, later in pairwise(got))

    # random events

    def random_events(
        self, users: int, payload_max: int, events_max: int
    ) -> list[tuple[int, str, int, dict[str, Any] | bytes]]:
        events: list[tuple[int, str, int, dict[str, Any] | bytes]] = []
        draw = self.random
        members = {key: self.committed.is_member(*key) for key in self.committed.members}
        for _ in range(draw.randrange(1, events_max)):
            conversation = draw.choice(self.conversations) if self.conversations else 0
            user = draw.randrange(1, users + 1)
            roll = draw.random()
            if not conversation or roll < 0.03:
                conversation = len(self.conversations) + 1
                self.conversations.append(conversation)
                chosen = sorted({user, *(draw.randrange(1, users + 1) for _ in range(draw.randrange(4)))})
                kind = draw.choice(["group", "group", "channel", "dialog"])
                events.append(
                    (
                        conversation,
                        "conversation.created",
                        user,
                        {"kind": kind, "title": 'ж"', "history": False, "members": [[one, "member"] for one in chosen]},
                    )
                )
                members.update({(one, conversation): True for one in chosen})
            elif roll < 0.20:
                if members.get((user, conversation)):
                    members[user, conversation] = False
                    name = draw.choice(["member.left", "member.removed"])
                else:
                    members[user, conversation] = True
                    name = "member.added"
                payload = {"user": user, "role": "member"} if name == "member.added" else {"user": user}
                events.append((conversation, name, draw.randrange(1, users + 1), payload))
            else:
                size = draw.randrange(payload_max) if draw.random() < 0.2 else draw.randrange(200)
                name = draw.choice(["message", "message", "education.homework.set"])
                events.append((conversation, name, user, draw.randbytes(size)))
        return events

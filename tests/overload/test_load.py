"""What load.py decides from what it measures: the order of shedding, and how many publishes are let in."""

from __future__ import annotations

from typing import Any

from gateway.load import CONNECTIONS, NAMES, PUBLISHES, TICK_S, UNLIMITED, WINDOW_MIN, Load, Progress

WAIT_S = 0.06


class Server:
    """What a load measures, ticked by hand. Its writer carries so many publishes a tick; reading takes time as well."""

    def __init__(self) -> None:
        self.read_wait_s = 0.0
        self.told: list[tuple[bool, bool]] = []
        self.come = self.answered = self.refused = 0
        self.commits, self.commit_s = 0, 0.0
        self.now_s = 1.0
        poller: Any = self
        self.load = Load(poller, self.progress, WAIT_S, 1_000)

    def waited_us(self) -> int:
        """Of the poller."""
        return int(self.read_wait_s * 1e6)

    def shed(self, pressed: bool, connections: bool) -> None:
        """Of the poller."""
        self.told.append((pressed, connections))

    def shed_publishes(self) -> int:
        """Of the poller."""
        return self.refused

    def progress(self) -> Progress:
        """What has been done."""
        return Progress(self.come, self.answered, 0, 0, self.commits, self.commit_s)

    def tick(self, count: int = 1, late_s: float = 0.0) -> None:
        """So many ticks, each late by as much."""
        for _ in range(count):
            self.now_s += TICK_S + late_s
            self.load.room(self.come - self.answered)
            self.load.tick(self.now_s)

    def commit(self, seconds: float) -> None:
        """One commit that took so long."""
        self.commits += 1
        self.commit_s += seconds

    def carry(self, offered: int, capacity: int, ticks: int, refusal: float = 0.0) -> list[int]:
        """What is answered in each tick; a refusal costs the server so much of what an answer does."""
        done, unread = [], 0.0
        for _ in range(ticks):
            taken = min(offered, max(0, self.load.room(self.come - self.answered)))
            self.come += taken
            self.refused += offered - taken
            left = capacity - refusal * (offered - taken)
            unread = max(0.0, unread - left)
            answers = min(self.come - self.answered, max(0, int(left)))
            unread += max(0.0, -left)
            self.answered += answers
            self.read_wait_s = unread / capacity * TICK_S
            self.commit(0.001)
            done.append(answers)
            self.tick()
        return done


def test_levels_rise_in_the_stated_order_and_fall_one_by_one() -> None:
    """Typing first, new connections before publishes."""
    server = Server()
    seen: list[int] = []
    for wait_us in range(0, 60_000, 200):
        server.read_wait_s = wait_us / 1e6
        server.tick()
        if not seen or seen[-1] != server.load.level:
            seen.append(server.load.level)
        assert (server.load.room(0) == UNLIMITED) == (server.load.level < CONNECTIONS)
    assert seen == list(range(len(NAMES))), seen
    assert server.told[-1] == (True, True)
    server.read_wait_s, fallen = 0.0, [PUBLISHES]
    for _ in range(500):
        server.tick()
        if server.load.level != fallen[-1]:
            fallen.append(server.load.level)
    assert fallen == list(range(PUBLISHES, -1, -1)) and server.told[-1] == (False, False)
    assert server.load.room(1 << 20) == UNLIMITED


def test_one_stall_of_the_machine_refuses_nobody() -> None:
    """However long: what waited is served at once, and refusing the next would not have helped."""
    server = Server()
    server.carry(1_000, 4_000, 50)
    server.tick(late_s=5.0)
    assert server.load.level < CONNECTIONS


def test_a_process_that_gets_too_little_of_the_processor_is_seen() -> None:
    """Late at every second tick by what may pass in all: no two ticks agree, their mean does."""
    server = Server()
    server.carry(1_000, 4_000, 50)
    for _ in range(20):
        server.tick(late_s=WAIT_S)
        server.tick()
    assert server.load.level >= CONNECTIONS


def test_a_writer_that_is_behind_is_seen_though_its_commits_became_slow_with_it() -> None:
    """Commits that wait for the processor take longer: that is no slow disk. One that has always been slow is none."""
    starved, slow = Server(), Server()
    for server, before_s in ((starved, 0.001), (slow, 0.05)):
        server.come = server.answered = 1_000
        for _ in range(100):
            server.commit(before_s)
            server.tick()
        for _ in range(30):  # what comes is answered four ticks later
            server.come += 10
            server.answered = max(server.answered, server.come - 40)
            server.commit(0.05)
            server.tick()
    assert starved.load.level >= CONNECTIONS and slow.load.level == 0


def test_three_times_the_load_keeps_what_can_be_carried_and_its_time() -> None:
    """In the end most of the capacity is used, nobody waits longer than they may, and it ends with the load."""
    server = Server()
    server.carry(3_200, 4_000, 100)
    assert server.load.level == 0
    done = server.carry(12_000, 4_000, 500)
    assert sum(done[-250:]) >= 0.9 * 4_000 * 250 and server.load.level == PUBLISHES
    assert (server.come - server.answered) / 4_000 * TICK_S < WAIT_S
    server.carry(3_200, 4_000, 400)
    assert server.load.level == 0


def test_a_wait_that_shedding_does_not_shorten_does_not_end_all_carrying() -> None:
    """Refusing alone takes all of the time: part of what was carried goes on, or nobody would get through."""
    server = Server()
    server.carry(16_000, 16_000, 100)
    before = server.load.window
    server.read_wait_s = 1.0
    server.tick(200)
    assert WINDOW_MIN < before * 0.25 < server.load.window < before


def test_some_are_let_in_by_a_server_that_never_carried_any() -> None:
    """Or it would not learn that it can."""
    server = Server()
    server.read_wait_s = 1.0
    server.tick(100)
    assert server.load.level == PUBLISHES and server.load.room(0) == WINDOW_MIN

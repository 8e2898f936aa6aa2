"""The fleet: several processes of native clients that act as one, and the parent that conducts and judges them.

Used by drive.py. Each process has its own connections, and source addresses of its own in 127.0.0.0/8; all share
CLOCK_MONOTONIC, so that a publish of one is timed by another that receives it. A child counts; only the parent knows
whether all that was published has arrived everywhere, because writers and recipients live in different processes.

Invariants: a child that dies or fails ends the run with its own words, and what was counted until then is kept; no
child outlives the `with`. Cost: one message a second and process.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from bench.fleet_wire import (
    Channel,
    ChannelError,
    Done,
    Drain,
    Failed,
    Finish,
    Follow,
    FromChild,
    Message,
    Open,
    Plan,
    Publish,
    Result,
    Start,
    Storm,
    Tick,
)
from bench.harness import BenchError

DESCRIPTORS_MAX: Final = 19_000  # connections of a process: below the usual limit of 20,000
ADDRESS_FIRST: Final = 16  # second octet of 127.0.0.0/8; one for each process
ADDRESSES: Final = 220
PREPARE_S: Final = 600.0
FINISH_S: Final = 30.0
STOP_S: Final = 5.0
LOOK_S: Final = 0.1


class FleetError(BenchError):
    """A process of the fleet failed, or time is over."""


class Moment(NamedTuple):
    """One second of the whole fleet."""

    at_ns: int
    counts: dict[str, int]
    deliver: dict[int, int]  # nanoseconds → deliveries since the last moment
    max_ns: int


class _Child:
    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.stderr = folder / f"generator-{number}.stderr"
        with self.stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.fleet_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                cwd=Path(__file__).resolve().parent.parent,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.channel = Channel(self.process.stdout.fileno(), self.process.stdin.fileno(), FromChild)
        self.counts: dict[str, int] = {}
        self.draining = False
        self.ticks: list[Tick] = []
        self.done: dict[str, Done] = {}
        self.result: Result | None = None

    @property
    def name(self) -> str:
        return f"generator {self.number + 1}"

    def last_words(self) -> str:
        try:
            return self.stderr.read_bytes()[-800:].decode("utf-8", "replace").strip() or "it said nothing"
        except OSError:
            return "it said nothing"


def source_of(number: int, block: int) -> str:
    """The first source address of a process: disjoint from those of all others, and of the last runs' probably."""
    return f"127.{ADDRESS_FIRST + (block + number) % ADDRESSES}.0.{1 + block % 250}"


class Fleet:
    """`with Fleet(plans, folder) as fleet:` then connect, start, drain, finish."""

    def __init__(self, plans: Sequence[Plan], folder: Path, deadline: float) -> None:
        """`deadline`: of time.monotonic(), for all of it."""
        self.plans, self._folder, self._deadline = plans, folder, deadline
        self.sessions = sum(len(plan.users) for plan in plans)
        self._children: list[_Child] = []
        self.watch: Callable[[], None] = lambda: None  # raises when the server is gone
        self.last_words = ""
        self.on_moment: Callable[[Moment], None] = lambda moment: None

    def __enter__(self) -> Self:
        try:
            for number, plan in enumerate(self.plans):
                child = _Child(number, self._folder)
                self._children.append(child)
                self._say(child, plan)
            self._await("prepared", PREPARE_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes: their input ends, and SIGKILL where that does not help."""
        for child in self._children:
            assert child.process.stdin is not None
            try:
                child.process.stdin.close()
            except OSError:
                pass
        until = time.monotonic() + STOP_S
        for child in self._children:
            try:
                child.process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            if child.process.stdout is not None and not child.process.stdout.closed:
                child.process.stdout.close()

    @property
    def pids(self) -> list[tuple[str, int]]:
        """(name, pid) of each process."""
        return [(child.name, child.process.pid) for child in self._children]

    # ---- phases ---------------------------------------------------------------------------------------------------

    def connect(self, per_second: float) -> float:
        """All sessions live; seconds from the first connect to the last hello's end."""
        share = per_second / len(self.plans)
        began = time.monotonic()
        self._say_all(Open(share, max(self._deadline - began, 0.1)))
        self._await("connected")
        return max(child.done["connected"].seconds for child in self._children)

    def follow(self, pairs: Sequence[Sequence[tuple[int, int]]]) -> float:
        """(connection, channel) for each process; seconds until all are answered."""
        began = time.monotonic()
        for child, some in zip(self._children, pairs, strict=True):
            self._say(child, Follow(list(some)))
        self._await("followed")
        return time.monotonic() - began

    def start(self, start: Start) -> None:
        """Publishing begins at its moment; moments are counted from here on."""
        for child in self._children:
            child.ticks.clear()
        self._say_all(start)

    def storm(self, at_ns: int, connections: Sequence[Sequence[int]], away_s: float) -> None:
        """Some of each process drop at a moment; all empty: the server will break some."""
        for child, some in zip(self._children, connections, strict=True):
            if some or not any(connections):
                self._say(child, Storm(at_ns, list(some), away_s))

    def publish(self, number: int, stream: int) -> None:
        """One publish by the first writer of a stream in this process."""
        self._say(self._children[number], Publish(stream, 0))

    def run_until(self, moment_ns: int) -> None:
        """Takes in what comes, until this moment of the clock."""
        while (left := moment_ns - time.monotonic_ns()) > 0:
            self._take(min(left / 1e9, LOOK_S))

    def drain(self, seconds: float) -> bool:
        """Nothing new is published; True as soon as everything has arrived, False if it hasn't in time."""
        self._say_all(Drain())
        until = time.monotonic() + seconds
        while not self._settled():
            if time.monotonic() >= until:
                return False
            self._take(LOOK_S)
        return True

    def _settled(self) -> bool:
        if not all(child.draining for child in self._children):
            return False  # what they said before they heard of it: they may have published since
        counts = self.counts()
        return (
            counts["receipts"] + counts["refused"] >= counts["sent"]
            and counts["deliveries"] + counts["corrupted"] + counts["gapped"] >= counts["expected"]
            and not counts["away"]
            and not counts["pending"]
        )

    def finish(self) -> list[Result]:
        """What each process has counted. They end."""
        self._say_all(Finish())
        until = time.monotonic() + FINISH_S
        while not all(child.result for child in self._children):
            if time.monotonic() >= until:
                missing = [child.name for child in self._children if not child.result]
                raise FleetError(f"{', '.join(missing)} did not say what it has counted in {FINISH_S:.0f} s")
            self._take(LOOK_S, ends=True)
        return [child.result for child in self._children if child.result]

    def salvage(self) -> list[Result]:
        """The same after something has gone wrong: of those processes that still can say it."""
        for child in self._children:
            try:
                child.channel.send(Finish())
            except ChannelError:
                continue
        until = time.monotonic() + STOP_S
        waiting = [child for child in self._children if child.result is None]
        while waiting and time.monotonic() < until:
            ready, _, _ = select.select([child.channel for child in waiting], [], [], LOOK_S)
            for child in [child for child in waiting if child.channel in ready]:
                try:
                    self._hear(child)
                except FleetError:
                    waiting.remove(child)
            waiting = [child for child in waiting if child.result is None]
        return [child.result for child in self._children if child.result]

    def counts(self) -> dict[str, int]:
        """Sums over all processes."""
        found: dict[str, int] = {}
        for child in self._children:
            for name, count in child.counts.items():
                found[name] = found.get(name, 0) + count
        return found

    # ---- words ----------------------------------------------------------------------------------------------------

    def _say(self, child: _Child, message: Message) -> None:
        try:
            child.channel.send(message)
        except ChannelError:
            self._failed(child)

    def _say_all(self, message: Message) -> None:
        for child in self._children:
            self._say(child, message)

    def _await(self, phase: str, seconds: float | None = None) -> None:
        until = min(self._deadline, time.monotonic() + (seconds or self._deadline))
        while not all(phase in child.done for child in self._children):
            if time.monotonic() >= until:
                raise FleetError(f"not all generators were {phase} when the deadline was over; raise run.deadline_s")
            self._take(LOOK_S)

    def _take(self, seconds: float, ends: bool = False) -> None:
        """What has come; waits at most so long for something."""
        if time.monotonic() >= self._deadline and not ends:
            raise FleetError("the run's deadline is over (run.deadline_s)")
        self.watch()
        waiting = [child for child in self._children if child.result is None]
        ready, _, _ = select.select([child.channel for child in waiting], [], [], seconds)
        for child in waiting:
            if child.channel in ready:
                self._hear(child)
        self._gather()

    def _hear(self, child: _Child) -> None:
        try:
            said = child.channel.receive(0.0)
            while said is not None:
                if isinstance(said, Tick):
                    child.counts, child.draining = said.counts, said.draining
                    child.ticks.append(said)
                    self.last_words = said.last_words or self.last_words
                elif isinstance(said, Done):
                    child.done[said.phase] = said
                elif isinstance(said, Result):
                    child.result, child.counts = said, said.counts
                    return
                elif isinstance(said, Failed):
                    raise FleetError(f"{child.name}: {said.reason}")
                said = child.channel.receive(0.0)
        except ChannelError:
            self._failed(child)

    def _failed(self, child: _Child) -> None:
        try:
            code: int | None = child.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            code = None
        raise FleetError(f"{child.name} died (exit {code}): {child.last_words()}") from None

    def _gather(self) -> None:
        """Ticks of all processes of the same second, as one moment."""
        while self._children and all(child.ticks for child in self._children):
            ticks = [child.ticks.pop(0) for child in self._children]
            counts: dict[str, int] = {}
            deliver: dict[int, int] = {}
            for tick in ticks:
                for name, count in tick.counts.items():
                    counts[name] = counts.get(name, 0) + count
                for ns, count in tick.deliver:
                    deliver[ns] = deliver.get(ns, 0) + count
            longest = max(tick.max_ns for tick in ticks)
            self.on_moment(Moment(max(tick.at_ns for tick in ticks), counts, deliver, longest))
            if counts["dead"] == self.sessions:
                raise FleetError(self._all_ended())

    def _all_ended(self) -> str:
        if self.last_words:
            return f"the server has ended all {self.sessions:,} sessions: {self.last_words}"
        return (
            f"all {self.sessions:,} connections broke without a close frame: the server died or the network cut it off"
        )


def children_needed(sessions: int, descriptors: int = DESCRIPTORS_MAX) -> int:
    """Processes that so many sessions need, for their descriptors."""
    return max(-(-sessions // descriptors), 1)


def processors() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))

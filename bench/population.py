"""Who is in which conversation, who writes there, and which process of the fleet has them: drawn from a workload.

Used by drive.py: `drawn` before the server is asked for anything, `plans` when founding.py has made the conversations.
Session i is user i + 1 and belongs to process i modulo processes, so that a conversation spans all of them. Of each
group the same number of people write, so that each is written in equally often; where conversations have pauses of
their own it is one; a channel's owner; both people of a dialog. Sessions that read slowly don't write.

Invariant: the same workload and seed give the same population, whatever the number of processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.fleet_wire import StreamPlan, TargetPlan
from bench.workload import Stream, Workload

GROUP_WRITERS: Final = 3
IDLE_GROUP: Final = 100  # members of the groups in which nobody writes
BROADCAST: Final = "broadcast"


@dataclass
class Conversation:
    """One that has to be made, or a dialog, which makes itself."""

    shape: str  # dialog, group, channel
    members: Sequence[int]  # sessions; of a channel the owner first
    writers: Sequence[int] = ()
    number: int = 0  # its id, once it is there


@dataclass
class Load:
    """A stream and its conversations."""

    stream: Stream
    conversations: list[Conversation]
    never: bool = False  # nobody writes by schedule


@dataclass
class Population:
    """All of it."""

    sessions: int
    loads: list[Load] = field(default_factory=list)
    idle: list[Conversation] = field(default_factory=list)
    slow: set[int] = field(default_factory=set)

    def founded(self) -> Iterator[Conversation]:
        """Those that commands must make."""
        yield from self.idle
        for load in self.loads:
            yield from (one for one in load.conversations if one.shape != "dialog")


def user_of(session: int) -> int:
    """Its user."""
    return session + 1


def drawn(workload: Workload) -> Population:
    """Everybody's place."""
    count = workload.sessions.count
    found = Population(count)
    for stream in workload.streams:
        rng = random.Random(f"{workload.seed}/{stream.name}")
        found.loads.append(Load(stream, list(_conversations(stream, count, workload.seed, rng))))
    if workload.sessions.idle and count > 1:
        stream = Stream(name=BROADCAST, shape="channel", conversations=1)
        everybody = Conversation("channel", range(count), (0,))
        found.loads.append(Load(stream, [everybody], never=True))
    found.idle = list(_idle(count, workload.sessions.conversations, workload.seed))
    _slow(found, workload)
    return found


def _conversations(stream: Stream, count: int, seed: int, rng: random.Random) -> Iterator[Conversation]:
    lone = stream.arrivals == "pauses"
    if stream.shape == "dialog":
        order = rng.sample(range(count), count)
        for number in range(stream.conversations):
            if 2 * number + 1 < count:
                pair = order[2 * number : 2 * number + 2]
            else:
                pair = rng.sample(range(count), 2)
            yield Conversation("dialog", pair, rng.sample(pair, 1) if lone else pair)
        return
    sizes = stream.members.counts(stream.conversations, seed)
    writers = 1 if lone or stream.shape == "channel" else min(GROUP_WRITERS, *sizes, sizes[0])
    for size in sizes:
        members = rng.sample(range(count), min(size, count))
        yield Conversation(stream.shape, members, members[:writers])


def _idle(count: int, each: int, seed: int) -> Iterator[Conversation]:
    """Each session into so many groups: every round deals all of them out anew."""
    for turn in range(each):
        dealt = random.Random(f"{seed}/idle/{turn}").sample(range(count), count)
        for first in range(0, count, IDLE_GROUP):
            yield Conversation("group", dealt[first : first + IDLE_GROUP])


def _slow(found: Population, workload: Workload) -> None:
    """Those who write least likely first; whoever reads slowly doesn't write."""
    wanted = round(workload.sessions.slow_share * found.sessions)
    if not wanted:
        return
    owners = {one.members[0] for load in found.loads for one in load.conversations if one.shape == "channel"}
    writing = {writer for load in found.loads for one in load.conversations for writer in one.writers}
    rng = random.Random(f"{workload.seed}/slow")
    others = [session for session in range(found.sessions) if session not in owners]
    rng.shuffle(others)
    others.sort(key=lambda session: session in writing)
    found.slow = set(others[:wanted])
    for load in found.loads:
        for one in load.conversations:
            one.writers = [writer for writer in one.writers if writer not in found.slow]


def of_process(session: int, processes: int) -> tuple[int, int]:
    """(process, connection there)."""
    return session % processes, session // processes


def streams_of(population: Population, processes: int) -> list[list[StreamPlan]]:
    """The streams of each process."""
    found: list[list[StreamPlan]] = [[] for _ in range(processes)]
    for load in population.loads:
        for plans, plan in zip(found, _stream(load, processes), strict=True):
            plans.append(plan)
    return found


def _stream(load: Load, processes: int) -> list[StreamPlan]:
    stream = load.stream
    targets: list[list[TargetPlan]] = [[] for _ in range(processes)]
    writers = [0] * processes
    for one in load.conversations:
        for process, target in _targets(one, processes):
            targets[process].append(target)
            writers[process] += len(target.writers)
    everybody = sum(writers)
    sizes = stream.sizes()
    pauses: tuple[tuple[float, float], ...] = ()
    if stream.arrivals == "pauses" and everybody:
        stretched = everybody / stream.rate_per_s / stream.pause_mean_ms()
        pauses = tuple((quantile, ms * stretched) for quantile, ms in stream.pauses_ms)
    return [
        StreamPlan(
            payload_bytes_max=max(size for size, _ in sizes),
            in_flight=stream.in_flight,
            per_send=stream.per_send,
            rate_per_s=1.0 if load.never else stream.rate_per_s * writers[process] / max(everybody, 1),
            arrivals="never" if load.never or not writers[process] else stream.arrivals,
            sizes=tuple(sizes),
            pauses=pauses if writers[process] else (),
            profile=tuple(stream.profile),
            targets=targets[process],
        )
        for process in range(processes)
    ]


def _targets(one: Conversation, processes: int) -> Iterator[tuple[int, TargetPlan]]:
    """Where its writers publish, by process."""
    if one.shape == "dialog":
        for writer in one.writers:
            other = one.members[1] if writer == one.members[0] else one.members[0]
            process, connection = of_process(writer, processes)
            yield process, TargetPlan("user", user_of(other), len(one.members), [connection])
        return
    by_process: dict[int, list[int]] = {}
    for writer in one.writers:
        process, connection = of_process(writer, processes)
        by_process.setdefault(process, []).append(connection)
    for process, connections in by_process.items():
        yield process, TargetPlan("conversation", one.number, len(one.members), connections)

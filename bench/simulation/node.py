"""The real thing in the simulation: an engine without threads and one worker; every step is somebody else's to take.

What gateway/server.py does in a round is here as single steps, so that run.py can take them in any order that threads
and sockets could bring about. Three ports are ours: the clock, the disk (the real log, whose commits can be made to
fail before or after the block is in; what was not appended is lost in a crash), and the network (Unix sockets with
small buffers: one thread, nothing asynchronous between the two ends, so that the same steps give the same bytes).

Invariants: no step waits, none looks at a real clock for a decision: budgets are "one" or "all", time limits are
hours.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine import OVERLOADED, CatchUp, Config, Engine, EngineError, Fanout, Log, ReaderPool, Router, Tail
from engine.admitter import Cut
from engine.answers import Answer, pack_answer, unpack_answers
from engine.log.format import SegmentHeader
from engine.log.snapshot import snapshot_log
from engine.log.trim import Wanted, trim_log
from ext.poller import Poller
from ext.session_table import SessionTable
from gateway import commands, proposals
from gateway.auth import Identity
from gateway.cursors import Cursors
from gateway.load import Load, Progress
from gateway.revocation import Revoked
from gateway.session import CLOSING, Door
from gateway.signals import Signals

ALL_US, ONE_US = 1 << 30, 0
HOURS_MS = 1 << 30
INTAKE_BYTES = 6_000  # the smallest: some writes find it full, most don't
SERVICE_ORIGIN = 1 << 52  # above those of sessions
SESSIONS = 64
FOREVER_S = 4_102_444_800


class Settings(NamedTuple):
    """What differs between seeds: how tight everything is."""

    ring_bytes: int = 1 << 20
    ranges_max: int = 4096
    page_bytes: int = 4_000
    resume_events_max: int = 1_000
    resume_hops_max: int = 20_000
    gap_newest_events: int = 5
    inline_hops_max: int = 48
    slow_hops_min: int = 512
    block_events_max: int = 1 << 16
    tables_bytes_max: int = 1 << 28
    view_bytes_max: int = 1 << 26
    segment_bytes: int = 1 << 30
    intake_bytes_max: int = 32 << 20
    save_events_max: int = 1_000_000
    group_members_max: int = 5_000
    send_bytes: int = 4_608


def settings_of(draw: random.Random) -> Settings:
    """How tight this seed's world is."""
    return Settings(
        ring_bytes=draw.choice([1 << 20, 1 << 22]),
        ranges_max=draw.choice([2, 16, 4096]),
        page_bytes=draw.choice([300, 4_000, 65_536]),
        resume_events_max=draw.choice([4, 30, 1_000, 1_000]),
        resume_hops_max=draw.choice([10, 20_000, 20_000]),
        gap_newest_events=draw.choice([0, 1, 5, 30]),
        inline_hops_max=draw.choice([0, 3, 48]),
        slow_hops_min=draw.choice([0, 4, 512]),
        block_events_max=draw.choice([2, 5, 1 << 16]),
        view_bytes_max=draw.choice([0, 1 << 26]),
        segment_bytes=draw.choice([1 << 14, 1 << 15, 1 << 16, 1 << 30]),
        intake_bytes_max=draw.choice([INTAKE_BYTES, 32 << 20, 32 << 20, 32 << 20]),
        save_events_max=draw.choice([4, 1_000_000]),
        group_members_max=draw.choice([3, 5_000]),
        send_bytes=draw.choice([4_608, 4_608, 8_192, 1 << 17]),
    )


NOTHING_DONE = Progress(0, 0, 0, 0, 0, 0.0)
MEMBERS_PER_S = 1_000_000_000  # groups are never made too fast


class DiskFault(OSError):
    """What a failing disk says."""


class Disk(Log):
    """The real log on a disk that fails when told: "before" the block is in, or "after"."""

    fault = ""

    def _commit(self, block: bytes) -> None:
        if self.fault == "before":
            raise DiskFault("the disk failed before the block was written")
        super()._commit(block)
        if self.fault == "after":
            raise DiskFault("the disk failed after the block was written")


class Tokens:
    """In the verifier's place: the token is the user's number. Signatures have tests of their own."""

    def verify(self, token: str) -> Identity:
        """Who it is, for a long time."""
        return Identity(user=int(token), device=None, expires_s=FOREVER_S)


class Trusting:
    """In the place of what judges tokens by keys and revocations, whose tests are of their own: nothing is revoked."""

    is_blind = False
    revoked = Revoked()


class Marks:
    """In the cursor store's place: marks live as long as the process."""

    def __init__(self) -> None:
        self._marks: dict[tuple[int, int], tuple[int, int]] = {}

    def get(self, conversation: int, user: int) -> tuple[int, int]:
        """(delivered, read)."""
        return self._marks.get((conversation, user), (0, 0))

    def put(self, conversation: int, user: int, delivered: int, read: int) -> bool:
        """Remembers them."""
        self._marks[conversation, user] = (delivered, read)
        return True

    def hear(self, conversation: int, user: int, delivered: int, read: int) -> None:
        """There is one worker."""


class Jobs(Executor):
    """In the pool's threads' place: jobs wait until they are run, in any order."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """One more."""
        future: Future[Any] = Future()
        self.waiting.append((future, partial(fn, *args, **kwargs)))
        return future

    def run(self, at: int) -> None:
        """One of them."""
        future, job = self.waiting.pop(at)
        try:
            future.set_result(job())
        except Exception as error:
            future.set_exception(error)


class Node:
    """One process: open, steps, then `crash` (or nothing) and another one over the same folder."""

    numbers = itertools.count(1)

    def __init__(self, folder: Path, settings: Settings, clock: Callable[[], int]) -> None:
        self.folder, self.settings = folder, settings
        self._heard: deque[bytes] = deque()
        self.service_answers: deque[Answer] = deque()
        self.woken = True
        self.cuts: list[Cut] = []  # written and not told
        self.engine = Engine.open(
            folder,
            on_answers=self._hear,
            on_committed=lambda _: self._hear(b""),
            segment_bytes=settings.segment_bytes,
            intake_bytes_max=settings.intake_bytes_max,
            tables_bytes_max=settings.tables_bytes_max,
            block_events_max=settings.block_events_max,
            save_events_max=settings.save_events_max,
            group_members_max=settings.group_members_max,
            clock=clock,
            open_log=self._open_disk,
            threads=False,
        )
        self.observer = self.engine.log.reader()
        self._compose()
        self._listen()

    def _open_disk(self, path: Path, *, shard: int, segment_bytes: int) -> Log:
        opened = Disk.open(path, shard=shard, segment_bytes=segment_bytes)
        assert isinstance(opened, Disk)
        self.disk = opened
        return opened

    def _hear(self, answers: bytes) -> None:
        of_devices = []
        for answer in unpack_answers(answers):
            if answer.origin >= SERVICE_ORIGIN:
                self.service_answers.append(answer)
            else:
                of_devices.append(pack_answer(answer))
        if of_devices:
            self._heard.append(b"".join(of_devices))
        self.woken = True

    def _compose(self) -> None:
        settings, engine = self.settings, self.engine
        config = msgspec.structs.replace(
            Config(),
            conversations=msgspec.structs.replace(Config().conversations, group_members_max=settings.group_members_max),
        )
        self.sessions = SessionTable(SESSIONS)
        self.poller = Poller(
            self.sessions,
            connects_per_s_max=1_000_000,
            rate_per_s=1_000_000,
            rate_burst=1_000_000,
            hello_timeout_ms=HOURS_MS,
            ping_interval_ms=HOURS_MS,
            idle_timeout_ms=2 * HOURS_MS,
            slow_timeout_ms=HOURS_MS,
            close_timeout_ms=HOURS_MS,
        )
        self.view = view = engine.view(bytes_max=settings.view_bytes_max)
        self.fanout = Fanout(
            self.sessions, sequence=view.sequence, ring_bytes=settings.ring_bytes, ranges_max=settings.ranges_max
        )
        reader = engine.log.reader()
        self.tail = Tail(reader, Router(view, self.fanout, self.sessions), view.sequence)
        self.jobs, self.posted = Jobs(), deque[Callable[[], None]]()
        self.pool = ReaderPool(engine.log.reader, self.posted.append, 1, self.jobs)
        self.door = door = Door(config, engine, view, self.sessions, self.poller, self.fanout)
        door.reader, door.pool = reader, self.pool
        door.verifier = Tokens()  # type: ignore[assignment]
        door.trust = Trusting()  # type: ignore[assignment]
        door.load = Load(self.poller, lambda: NOTHING_DONE, 1.0, MEMBERS_PER_S)  # without ticks: it never sheds
        door.cursors = Cursors(door, Marks())
        door.signals = Signals(door)
        self.catchup = door.catchup = CatchUp(
            view,
            self.fanout,
            reader,
            self.pool,
            door,
            page_bytes=settings.page_bytes,
            resume_events_max=settings.resume_events_max,
            resume_hops_max=settings.resume_hops_max,
            gap_newest_events=settings.gap_newest_events,
            inline_hops_max=settings.inline_hops_max,
            slow_hops_min=settings.slow_hops_min,
        )
        self.cold: deque[tuple[int, bytes]] = deque()

    def _listen(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.address = f"\0gonets-simulation-{os.getpid()}-{next(self.numbers)}"
        self.listener.bind(self.address)
        self.listener.listen(SESSIONS)
        self.poller.listen(self.listener.fileno())
        self._connecting = 0

    # The client's end.

    def connect(self) -> socket.socket:
        """A connection that the poller will find."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.address)
        client.setblocking(False)
        self._connecting += 1
        return client

    def _narrow(self, descriptors: list[int]) -> None:
        """Gives accepted sockets their small buffer: without it no session here would ever be slow."""
        for descriptor in descriptors:
            try:
                accepted = socket.socket(fileno=os.dup(descriptor))
            except OSError:
                continue
            with accepted:
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.settings.send_bytes // 2)

    # Steps of the loop.

    def take_sockets(self) -> None:
        """A round of the poller."""
        free = [os.dup(self.listener.fileno()) for _ in range(self._connecting)]
        for descriptor in free:
            os.close(descriptor)
        self._connecting = 0
        batch = self.poller.run(ALL_US)
        self._narrow(free)
        if batch.proposals:
            self._submit(batch.proposals)
        for session, origin in batch.closed:
            self.door.closed(session, origin)
        if batch.signals:
            self.door.signals.take(batch.signals)
        for session, message in batch.commands:
            self.cold.append((self.sessions.origin(session), message))
        if batch.writable:
            self.catchup.writable(batch.writable)

    def _submit(self, batch: bytes) -> None:
        if not self.engine.sequencer.submit(batch):
            self.poller.answer(proposals.refuse(batch, OVERLOADED))

    def take_answers(self) -> None:
        """The wake-up: answers to their sessions. The log is looked at by `route`."""
        while self._heard:
            self.poller.answer(self._heard.popleft())

    def handle(self, count: int) -> None:
        """Some cold commands, and what they propose."""
        done = size_bytes = 0
        while self.cold and done < count:
            origin, message = self.cold.popleft()
            done += 1
            size_bytes += len(message)
            session = self.sessions.resolve(origin)
            if session and (self.sessions.state(session) != CLOSING or self.sessions.user(session)):
                commands.handle(self.door, session, message)
        self.poller.handled(done, size_bytes)
        if self.door.pending:
            batch = bytes(self.door.pending)
            self.door.pending.clear()
            self._submit(batch)

    def route(self, budget_us: int) -> bool:
        """Looks at the log; True if there may be more."""
        before = self.fanout.sequence
        more = self.tail.advance(budget_us)
        if self.fanout.sequence != before:
            self.catchup.tail_moved()
        return more

    def catch_up(self, budget_us: int) -> bool:
        """Steps for sessions that are behind."""
        return self.catchup.run(budget_us)

    def flush(self, budget_us: int) -> bool:
        """Sends."""
        more = self.fanout.flush(budget_us)
        self.catchup.fell_behind(self.fanout.take_behind())
        for session in self.fanout.take_lost():
            self.poller.abort(session)
        return more

    def take_posted(self) -> None:
        """What the pool's threads have posted to the loop."""
        while self.posted:
            self.posted.popleft()()

    # Steps of the sequencer's threads.

    def write(self) -> bool:
        """The committer writes the next block; it tells later."""
        cut = self.engine.sequencer.take_cut()
        if cut is None:
            return False
        self.engine.sequencer.write(cut)
        self.cuts.append(cut)
        return True

    def tell(self) -> bool:
        """The committer tells what it has written; in its thread that comes before the next write."""
        for cut in self.cuts:
            self.engine.sequencer.tell(cut)
        told, self.cuts = bool(self.cuts), []
        return told

    def save(self) -> None:
        """The saver saves what it has folded."""
        self.engine.saver.save()

    @property
    def failed(self) -> bool:
        """Whether the writer is fenced."""
        return self.engine.sequencer.failure is not None

    # Ends.

    def crash(self) -> None:
        """Everything in memory is gone, connections end, files stay as they are."""
        self.poller.shut()
        self.listener.close()
        self.engine.release()


def back_up(folder: Path, to: Path) -> None:
    """A copy of a closed data directory."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)


def trim(folder: Path) -> int:
    """One more snapshot of a closed data directory, and all that may go goes; the first sequence that is kept."""
    snapshot_log(folder, only_list=False)
    return int(trim_log(folder, Wanted(keep_bytes=1), dry_run=False, force=False)["first_sequence"])


def restore(backup: Path, folder: Path, epoch: int) -> int:
    """Puts a copy in the directory's place, as a restore does: a new epoch begins behind it; its last sequence."""
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    log = Log.open(folder)
    try:
        last = log.last_sequence
        if not last:
            raise EngineError("an empty log is no backup")
        epochs = (*log.epochs, (epoch, last + 1))
        log._create(SegmentHeader(log.shard, last + 1, log.last_hash, epochs))
    finally:
        log.close()
    return last

"""The gateway of a process: puts engine, native sockets and fan-out together, and turns the loop.

The composition of the data path: poller → proposals → sequencer → (sync) → answers and tail → router → outboxes →
flush. Two descriptors wake the loop: the poller's epoll set, and an event counter that the committer's thread writes
after a sync. A wake-up means "look again": both sides may be merged or early without loss.

Invariants: everything here runs on the loop's thread, except `_from_engine`, which only stores and wakes; a slice of
Python is bounded (cold commands, routing and flushing each end when their time is over and go on in the next round).
A worker among others (gateway/processes) is the same gateway in other surroundings: what is committed may then be ahead
of what its tail has seen, and a hello waits until the tail is where the log was when it came.
Cost: a few calls a round, whatever the number of sessions in it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from engine import (
    OVERLOADED,
    CatchUp,
    Config,
    CursorStore,
    EngineError,
    Fanout,
    ReaderPool,
    Router,
    Tail,
    config_changes,
    private,
)
from ext.poller import Batch
from ext.session_table import SessionTable
from gateway import close_codes, commands, listener, logs, proposals
from gateway.admin import Admin
from gateway.cursors import TELL_INTERVAL_S, Cursors
from gateway.drain import Drain
from gateway.hello import IssuerAsked
from gateway.listener import StartError
from gateway.load import TICK_S, Progress
from gateway.metrics import exposition, process_values
from gateway.parts import Alone, Surroundings, make_load, make_poller, merged, sessions_room, verifier_of
from gateway.reading import SlowestSlice, readiness, readings
from gateway.session import CLOSING, OPEN, Door, log
from gateway.signals import Signals
from gateway.trust import Trust, TrustError
from gateway.waiting import Waiting

if TYPE_CHECKING:
    from gateway.api.thread import ApiThread

COLD_SLICE_S = 0.001
ROUTE_SLICE_US = 1_000
READ_SLICE_US = 1_000
UNAVAILABLE_RETRY_MS = 5_000
AHEAD_RETRY_MS = 500
BROADCAST_S = 0.004
AT_THE_DOOR_S = 3.0  # how long those who have come to us may take for handshake and hello, when a successor accepts
LOOK_S = 0.02
SECOND_S = 1.0
SHARE_SLACK = 4  # sessions above the average of the workers that are nobody's trouble; of many, a thirty-second


class Gateway:
    """One worker: made, started, drained and stopped once."""

    def __init__(self, config: Config, surroundings: Surroundings | None = None) -> None:
        self._config = config
        self._surroundings = surroundings or Alone(config)
        self._answers: deque[bytes] = deque()
        self._answered = 0  # by the writer, ever
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False
        # Whether to look at the log. Rounds of sockets don't by themselves: a block found before its answers are here
        # would send event and receipt of a publish apart, a system call more for each. Where a broadcast is being sent
        # they do: then every core is busy, and the wake-up may come milliseconds after the block.
        self._behind = True
        self._sending_since = 0.0  # since when no round has sent all there was; 0 = the last one has
        self._cold: deque[tuple[int, bytes]] = deque()  # (origin, message)
        self._waiting = Waiting()  # for the issuer of their tokens
        self._ahead = Waiting()  # hellos that know, or may know, of events that the tail has not seen
        self._targets: dict[int, int] = {}  # origin of each -> where the tail must come; ascending
        self._cold_handled = 0
        self._ahead_is_over = False  # while those who waited are heard
        self._scheduled = False
        self._bound: list[socket.socket] = []
        self._telling = False
        self.draining = False  # new sessions are refused; those that are open are served until their turn
        self.stopping = False
        self.api: ApiThread | None = None  # beside it in this process

    @property
    def config(self) -> Config:
        """As it is now."""
        return self._config

    # ---- start -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Binds the ports, opens the log; StartError with one line if either can't be."""
        server = self._config.server
        self._clients, self._operators = self._surroundings.sockets()
        self._bound = [bound for bound in (self._clients, self._operators) if bound is not None]
        self.data = data = Path(server.data)
        try:
            private.make_folder(data)
            self.trust = Trust(self._config, data)
            self.trust.open()
            with ExitStack() as undo:
                self.engine = self._surroundings.engine(data, self._from_engine)
                undo.callback(self.engine.close)
                self.cursor_store = CursorStore.open(data / "cursors", interval_s=self._config.log.cursors_interval_s)
                undo.callback(self.cursor_store.close)
                self._compose()
                undo.pop_all()
        except (TrustError, EngineError) as error:
            raise StartError(str(error)) from None
        except OSError as error:
            raise listener.data_refused(server.data, error) from None

    def _compose(self) -> None:
        config, engine = self._config, self.engine
        self.room_sessions = sessions_room(config)
        self.sessions = SessionTable(self.room_sessions, config.gateway.buffers_bytes_max)
        self.poller = make_poller(self.sessions, config)
        view = engine.view()
        self.fanout = Fanout(
            self.sessions,
            sequence=view.sequence,
            ring_bytes=config.fanout.ring_bytes,
            interest_entries_max=config.fanout.interest_entries_max,
        )
        reader = engine.log.reader()
        self.tail = Tail(reader, Router(view, self.fanout, self.sessions), view.sequence)
        self.door = Door(config, engine, view, self.sessions, self.poller, self.fanout)
        self.door.reader = reader
        self.door.trust = self.trust
        self.door.verifier = verifier_of(self.trust.keys, config)
        self.door.cursors = Cursors(self.door, self.cursor_store)
        self.door.signals = Signals(self.door)
        self.door.bus = self._surroundings.bus(self.door)
        self.slowest = SlowestSlice(self.door.counters)
        self.load = self.door.load = make_load(self.poller, self._progress, config)

    async def start(self) -> dict[str, str]:
        """Serves from now on; the addresses."""
        loop = asyncio.get_running_loop()
        config, engine, door = self._config, self.engine, self.door

        def post(job: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(self._from_pool, job)

        self.pool = ReaderPool(engine.log.reader, post, config.fanout.pool_threads)
        self.catchup = door.catchup = CatchUp(
            door.view,
            self.fanout,
            door.reader,
            self.pool,
            door,
            resume_events_max=config.fanout.resume_events_max,
            resume_hops_max=config.fanout.resume_hops_max,
            gap_newest_events=config.fanout.gap_newest_events,
        )
        door.pool = self.pool
        self.tail.advance(ROUTE_SLICE_US)
        loop.add_reader(self._wake, self._on_engine)
        loop.add_reader(self.poller.fileno(), self._on_sockets)
        self.trust.begin(door, self._issuer_answered)
        self.poller.listen(self._clients.fileno())
        self._second()
        self._tick()
        self.admin = Admin(exposition(lambda: {**readings(self), **process_values()}), lambda: readiness(self))
        if self._operators is not None:
            await self.admin.start(self._operators)
        return {
            "url": f"{'wss' if self.trust.certificate else 'ws'}://{listener.address_of(self._clients)}/v1",
            "admin": f"http://{listener.address_of(self._operators)}" if self._operators is not None else "",
            "data": str(Path(config.server.data).resolve()),
            "durability": engine.durability,
        }

    def _close_engine(self) -> None:
        self.cursor_store.close()
        self.engine.close()

    # ---- the two wake-ups ------------------------------------------------------------------------------------------

    def _from_engine(self, answers: bytes | None) -> None:
        """Any thread: stores what the engine said and wakes the loop."""
        if answers:
            self._answered += len(answers) // proposals.ANSWER.size
            self._answers.append(answers)
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake, 1)

    def _on_engine(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        # Between the two: earlier, and a wake-up could be read away while `_woken` says that one is on its way; later,
        # and answers could be stored behind the look below without one.
        self._woken = False
        self._behind = True
        while self._answers:
            answers = self._answers.popleft()
            self.door.counters.answers += len(answers) // proposals.ANSWER.size
            self.poller.answer(answers)
        self._advance()

    def _from_pool(self, job: Callable[[], None]) -> None:
        """On the loop: an answer of a thread that reads; it is sent, and the next page asked for, without a wait."""
        job()
        self._soon()

    def _soon(self) -> None:
        if not self._scheduled and not self.stopping:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._advance)

    def _on_sockets(self) -> None:
        began = time.perf_counter()
        counters = self.door.counters
        room = self.load.room(counters.publishes - self._answered)
        self._take(self.poller.run(self.load.slice_us(self._config.gateway.poll_budget_us), room))
        self._advance()
        counters.loop_slice_max_seconds = max(counters.loop_slice_max_seconds, time.perf_counter() - began)

    # ---- one round -------------------------------------------------------------------------------------------------

    def _take(self, batch: Batch) -> None:
        """Everything that one round of the poller brought."""
        door = self.door
        if batch.proposals:
            self._submit(batch.proposals)
        for session, origin in batch.closed:
            door.closed(session, origin)
            self._waiting.forget(origin)
            self._ahead.forget(origin)
            self._targets.pop(origin, None)
        if batch.signals:
            door.signals.take(batch.signals)
        for session, message in batch.commands:
            self._cold.append((self.sessions.origin(session), message))
        if batch.writable:
            self.catchup.writable(batch.writable)
        for session, head in batch.requests:
            self.poller.respond(session, listener.answer(head, *readiness(self)))

    def _submit(self, batch: bytes) -> None:
        count = proposals.count(batch)
        if self.engine.sequencer.submit(batch):
            self.door.counters.publishes += count
            return
        self.door.counters.overloaded_publishes += count
        self.poller.answer(proposals.refuse(batch, OVERLOADED))

    def _advance(self) -> None:
        """Cold commands, committed events, sending; each for a slice, the rest in the next round."""
        self._scheduled = False
        more = self._run_cold()
        if self.door.pending:
            batch = bytes(self.door.pending)
            self.door.pending.clear()
            self._submit(batch)
        before = self.fanout.sequence
        if self._behind:
            self._behind = self.tail.advance(ROUTE_SLICE_US)
            more |= self._behind
        if self.fanout.sequence != before:
            self.door.counters.events_routed += self.fanout.sequence - before
            self.catchup.tail_moved()
            if self._targets:
                self._tail_arrived()
        more |= self.catchup.run(READ_SLICE_US)
        sending = self.fanout.flush(self.load.slice_us(self._config.fanout.flush_budget_us))
        self._behind |= self._is_broadcasting(sending)
        more |= sending
        self.catchup.fell_behind(self.fanout.take_behind())
        for session in self.fanout.take_lost():
            self.poller.abort(session)
        if self.door.cursors.waiting and not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(TELL_INTERVAL_S, self._tell)
        if more:
            self._soon()

    def _is_broadcasting(self, sending: bool) -> bool:
        """Whether rounds have had something left to send for so long that it is more than answers and dialogs."""
        if not sending:
            self._sending_since = 0.0
            return False
        now = time.perf_counter()
        self._sending_since = self._sending_since or now
        return now - self._sending_since > BROADCAST_S

    def _run_cold(self) -> bool:
        """Cold commands for one slice; True if some are left."""
        if not self._cold:
            return False
        until = time.perf_counter() + COLD_SLICE_S
        count = size_bytes = 0
        while self._cold:
            origin, message = self._cold.popleft()
            count += 1
            size_bytes += len(message)
            session = self.sessions.resolve(origin)
            # Whoever we have sent away is not heard any more; who closes has sent this before, and has still its user.
            if session and (self.sessions.state(session) != CLOSING or self.sessions.user(session)):
                self._hear(session, origin, message)
            if time.perf_counter() >= until:
                break
        self.poller.handled(count, size_bytes)  # what their sessions send from now on may be hot again
        self._cold_handled += count
        return bool(self._cold)

    def _hear(self, session: int, origin: int, message: bytes) -> None:
        """One message, unless its session's hello waits for the tail or the issuer: then it waits behind that."""
        if self._surroundings.follows and self._is_ahead(session, origin):
            if not self._ahead.add(origin, message):
                self.door.end(session, close_codes.UNAVAILABLE, AHEAD_RETRY_MS)
            return
        if origin not in self._waiting:
            try:
                self._command(session, message)
                return
            except IssuerAsked:
                pass
        if not self._waiting.add(origin, message):
            self.door.end(session, close_codes.UNAVAILABLE, UNAVAILABLE_RETRY_MS)

    def _is_ahead(self, session: int, origin: int) -> bool:
        """Whether this session must wait for the tail: its device may have come from a worker that was further."""
        if origin in self._ahead:
            return True
        if self.sessions.state(session) != OPEN or origin in self._waiting or self._ahead_is_over:
            return False
        try:
            last = self.engine.log.last_sequence
        except EngineError:  # of a damaged end, which whoever reads there names
            return False
        if last <= self.fanout.sequence:
            return False
        self._targets[origin] = last
        self._behind = True
        return True

    def _tail_arrived(self) -> None:
        """Those are heard whose hello waited for no more than this."""
        here = self.fanout.sequence
        while self._targets and (first := next(iter(self._targets.items())))[1] <= here:
            del self._targets[first[0]]
            self._hear_all([(first[0], self._ahead.take_of(first[0]))])

    def _issuer_answered(self) -> None:
        """Those who waited for it are heard, in their order."""
        self._hear_all(self._waiting.take())
        self._advance()

    def _hear_all(self, waited: list[tuple[int, list[bytes]]]) -> None:
        """What waited, in its order; it waits for the tail no more."""
        self._ahead_is_over = True
        try:
            for origin, messages in waited:
                for message in messages:
                    session = self.sessions.resolve(origin)
                    if session and self.sessions.state(session) != CLOSING:
                        self._hear(session, origin, message)
        finally:
            self._ahead_is_over = False

    def _command(self, session: int, message: bytes) -> None:
        try:
            commands.handle(self.door, session, message)
        except IssuerAsked:
            raise
        except EngineError as error:
            log.error("command failed", error=type(error).__name__, code=error.code)
            self.door.refuse(session, "internal", "the engine could not answer this")
        except Exception as error:  # a mistake of ours in one command must not end the others' sessions
            log.error("command failed", error=type(error).__name__, exc_info=True)
            self.door.refuse(session, "internal", "the server made a mistake with this command")

    def _tell(self) -> None:
        self._telling = False
        self.door.cursors.tell()
        self._advance()

    # ---- now and then ---------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        """What load.py judges by."""
        counters, sequencer = self.door.counters, self.engine.sequencer
        come = self._cold_handled + len(self._cold)
        commit_s = sequencer.sync_ns / 1e9
        return Progress(counters.publishes, self._answered, come, self._cold_handled, sequencer.commits, commit_s)

    def _tick(self) -> None:
        if self.stopping:
            return
        self.load.tick(time.monotonic())
        asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _second(self) -> None:
        """Housekeeping; also turns the poller's wheel when nothing else does."""
        if self.stopping:
            return
        self.door.signals.second()
        self.slowest.second(time.monotonic())
        self.trust.second()
        self._surroundings.second()
        asyncio.get_running_loop().call_later(SECOND_S, self._second)

    def reload(self, config: Config) -> None:
        """Takes what may change while running; says what needs a restart."""
        taken, restart = config_changes(self._config, config)
        self._config = self.door.config = merged(self._config, config, taken)
        self.door.verifier = verifier_of(self.door.verifier.keys, self._config)
        self.load.wait_s_max = self._config.admission.publish_wait_ms_max / 1_000
        self.load.members.per_s = self._config.admission.members_per_s_max
        logs.configure(self._config.logging.level, self._config.logging.format)
        self.trust.reload()
        log.info("configuration read again", taken=taken, needs_restart=restart)

    # ---- the end ---------------------------------------------------------------------------------------------------

    def unlisten(self) -> None:
        """Takes no more connections; those that wait in the kernel's queue are whoever else's that has the socket."""
        if self._clients.fileno() >= 0:
            self.poller.unlisten()
            self._clients.close()

    def share(self, sessions: int) -> None:
        """How many sessions a worker beside others has on average: with a few more than that it lets them go first."""
        some_more = max(SHARE_SLACK, sessions // 32)
        self.poller.share(min(sessions + some_more, self._config.gateway.sessions_max))

    async def drain(self, *, handed_over: bool = False) -> None:
        """No new sessions; the others are sent away spread over the configured time.

        The port is open to the end: a load balancer must hear from /readyz that this server goes, not find it gone.
        Unless it was handed over to a successor, who takes the new ones.
        """
        self.draining = True
        if handed_over:  # whoever is at the door has come to us: it gets in, and is sent on with the others
            self.unlisten()
            for _ in range(int(AT_THE_DOOR_S / LOOK_S)):
                if not self.poller.counters()["doorway_connections"]:
                    break
                await asyncio.sleep(LOOK_S)
        self.poller.refuse()
        await Drain(self.door, self._config.server.drain_s, self._advance).run()
        self.unlisten()

    async def stop(self) -> None:
        """Ends what is left, commits what was taken in, saves."""
        loop = asyncio.get_running_loop()
        self.stopping = True
        self.trust.close()
        loop.remove_reader(self.poller.fileno())
        loop.remove_reader(self._wake)
        await self.admin.stop()
        self.pool.close()
        await loop.run_in_executor(None, self._close_engine)
        self.poller.shut()
        os.close(self._wake)

    def release(self) -> None:
        """Lets go of the ports, whatever state the start has reached."""
        for bound in self._bound:
            bound.close()

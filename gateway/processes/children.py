"""The children in their places: a sequencer, N workers, the api; each started, linked, heard, started again if it dies.

Owned by supervisor.py, which says when. A place keeps what outlives a process: its number, its deaths, what its last
process said. Whoever reads the log (workers, the api) and the sequencer are connected by one stream, made here and
given to both as `Link`; whenever either is new, so is the stream. While a predecessor's sequencer still serves, streams
of workers come from there (takeover.py).

Invariants: nobody who reads is started before a sequencer was ready; a child that ended though nobody told it is
started again as restarts.py says or ends everything, but for the api, which nobody's chat waits for: it rests and is
tried again; a child that waits for a lock which a dying process holds is no death.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, Protocol

import msgspec

from engine import Config
from gateway.processes import control
from gateway.processes.control import Message
from gateway.processes.merged import Merged
from gateway.processes.restarts import DEATHS_MAX, WINDOW_S, Restarts
from gateway.processes.started import Started
from gateway.session import log

IN_USE: Final = "in use"  # in the line of engine.errors.LogInUse
IN_ORDER: Final = "exit code 0"
IN_USE_LOOK_S: Final = 0.2
API_REST_S: Final = 30.0  # after it died in a loop
KILLED_S: Final = 5.0  # the kernel ends a killed process at once, unless a disk holds it


class Patience(NamedTuple):
    """How long things may take before the supervisor acts."""

    # Of a child that is ready and reports each second. Its loop turns in milliseconds, so 30 s are no load but a
    # deadlock or a stopped process; shorter, and a machine that swaps would lose all its workers at once.
    silence_s: float = 30.0
    # A worker's end beyond server.drain_s: last receipts and close frames, 2 s as measured, on a loaded machine.
    worker_end_s: float = 5.0
    # The api's: answers under way, the last acks and positions, synced; consumers that hold a connection are cut off.
    api_end_s: float = 15.0
    sequencer_end_s: float = 60.0  # it saves the state, up to a million events behind
    in_use_s: float = 15.0  # the log is still locked by a sequencer that is on its way out
    lock_s: float = 15.0  # the data directory, by orphans
    give_up_drain_s: float = 10.0  # at most, when a child dies in a loop


PATIENCE: Final = Patience()


class LinkSource(Protocol):
    """Who has the other ends of links: the predecessor, as long as its sequencer serves."""

    def want_link(self, worker: int, give: Callable[[int], bool]) -> None:
        """`give` gets a descriptor when there is one, which stays the caller's."""


@dataclass(slots=True)
class Place:
    """One of the roles, and who fills it."""

    role: str
    number: int
    child: Started | None = None
    ready: bool = False
    words: str = "not started"  # of the last report, or why it isn't ready
    well: bool = False  # what the last report said
    reason: str = ""  # of its last Failed
    durability: str = ""
    sessions: int = 0  # of a worker, by its last report
    in_use_since_s: float | None = None
    restarts: Restarts = field(default_factory=Restarts)
    timer: asyncio.TimerHandle | None = None

    @property
    def reads(self) -> bool:
        """The log, beside the sequencer that writes it; with a listening socket and a link."""
        return self.role != "sequencer"

    @property
    def name(self) -> str:
        """For people and as the key of its readings."""
        return f"worker {self.number}" if self.number else self.role


class Children:
    """All places."""

    def __init__(
        self,
        config: Config,
        command: list[str],
        patience: Patience,
        merged: Merged,
        changed: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self.config, self._command, self._patience, self._merged = config, command, patience, merged
        self._changed, self._failed = changed, failed
        self.sequencer = Place("sequencer", 0)
        self.workers = [Place("worker", number) for number in range(1, config.server.gateway_workers + 1)]
        self.api = [Place("api", 0)] if config.server.api else []
        self.lock = -1  # a descriptor; set before the first start, as the listening sockets are
        self.listening = {"worker": -1, "api": -1}  # by role
        self.predecessor: LinkSource | None = None
        self.is_serving = False  # from then on a Failed is a death, not the reason why nothing starts
        self.restarted = 0
        self._ending: set[str] = set()  # roles that aren't filled again

    def places(self) -> Iterable[Place]:
        """All of them."""
        return (self.sequencer, *self.workers, *self.api)

    @property
    def readers(self) -> list[Place]:
        """Those with a link to the sequencer."""
        return [*self.workers, *self.api]

    # ---- start -----------------------------------------------------------------------------------------------------

    def start(self, places: Iterable[Place]) -> None:
        """Fills empty places."""
        for place in places:
            self._ending.discard(place.role)
            self._start(place)

    def _start(self, place: Place) -> None:
        place.timer = None
        place.ready, place.well, place.reason, place.words, place.sessions = False, False, "", "starts", 0
        heard, ended = partial(self._heard, place), partial(self._ended, place)
        try:
            child = Started(place.name, self._command, (self.lock,), self._patience.silence_s, heard, ended)
        except OSError as error:
            place.reason = f"{place.name} can't be started: {error.strerror or error}"
            self._died(place, "no process", 0.0)
            return
        place.child = child
        start = control.Start(role=place.role, number=place.number, config=msgspec.msgpack.encode(self.config))
        child.tell(start, (self.listening[place.role],) if place.reads else ())
        log.info("child started", child=place.name, pid=child.pid)
        if place.reads:
            self.link(place)

    def link(self, reader: Place) -> None:
        """Connects a worker or the api to the sequencer that there is; if there is none, its Ready will."""
        child = reader.child
        if child is None:
            return
        if self.predecessor is not None:
            self.predecessor.want_link(reader.number, lambda descriptor: child.tell(control.Link(), (descriptor,)))
            return
        if (far := self.link_end()) is not None:
            with far:
                child.tell(control.Link(), (far.fileno(),))

    def link_end(self) -> socket.socket | None:
        """One end of a new link; the sequencer has the other. None while there is no sequencer."""
        sequencer = self.sequencer.child
        if sequencer is None or not self.sequencer.ready:
            return None
        far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with near:
            sequencer.tell(control.Link(), (near.fileno(),))
        return far

    def link_all(self) -> None:
        """New links for all who read."""
        for reader in self.readers:
            self.link(reader)

    # ---- what they say ---------------------------------------------------------------------------------------------

    def _heard(self, place: Place, child: Started, message: Message) -> None:
        match message:
            case control.Ready():
                place.ready = place.well = True
                place.words, place.in_use_since_s = "ok", None
                place.durability = message.durability
                log.info("child ready", child=place.name, pid=child.pid, after_s=round(child.lived_s(), 3))
                if not place.reads:
                    self.link_all()
                self._changed()
            case control.Failed():
                place.reason = place.words = message.reason
            case control.Report():
                place.well, place.words = message.ready, message.words
                self._merged.take(place.name, message.values)
                if place.number:
                    place.sessions = int(message.values.get("sessions", 0))
                    counts = [worker.sessions for worker in self.workers if worker.ready]
                    child.tell(control.Share(sessions=sum(counts) // max(len(counts), 1)))
            case _:
                log.error("a child says what only its supervisor may", child=place.name, kind=type(message).__name__)

    def _ended(self, place: Place, child: Started) -> None:
        place.child, place.ready, place.well = None, False, False
        self._merged.ended(place.name)
        if child.is_told:
            place.words = "has ended"
            log.info("child ended", child=place.name, pid=child.pid, fate=child.fate)
            self._changed()
            return
        self._died(place, child.fate, child.lived_s(), child.pid)

    def _died(self, place: Place, fate: str, lived_s: float, pid: int = 0) -> None:
        """It ended and nobody had told it to."""
        if self._waits_for_lock(place):
            place.timer = asyncio.get_running_loop().call_later(IN_USE_LOOK_S, self._start, place)
            return
        say = log.warning if fate == IN_ORDER else log.error  # an operator may end a worker by SIGTERM
        say("child died", child=place.name, pid=pid, fate=fate, lived_s=round(lived_s, 3), reason=place.reason or None)
        place.words = place.reason or f"died ({fate})"
        if place.role in self._ending:
            self._changed()
        elif place.reason and not self.is_serving:
            self._failed(place.reason)
        elif (wait_s := self._pause_s(place, place.reason or fate)) is not None:
            self.restarted += 1
            place.timer = asyncio.get_running_loop().call_later(wait_s, self._start, place)
            self._changed()

    def _pause_s(self, place: Place, last: str) -> float | None:
        """Until it is started again; None: this ends everything."""
        wait_s = place.restarts.died(asyncio.get_running_loop().time())
        if wait_s is not None:
            return wait_s
        words = f"{place.name} died {DEATHS_MAX} times within {WINDOW_S:.0f} s, at last: {last}"
        if place.role != "api":
            self._failed(words)
            return None
        log.critical("the api rests; clients are served on", reason=words, again_s=API_REST_S)
        place.words = f"{words}; it is tried again every {API_REST_S:.0f} s"
        return API_REST_S

    def _waits_for_lock(self, place: Place) -> bool:
        """Whether the sequencer, or the api, only has to try again: its predecessor is still on its way out."""
        if place.number or not self.is_serving or IN_USE not in place.reason or place.role in self._ending:
            return False
        now_s = asyncio.get_running_loop().time()
        if place.in_use_since_s is None:
            place.in_use_since_s = now_s
            log.info("what it writes is still locked: it tries again", child=place.name, reason=place.reason)
        return now_s - place.in_use_since_s < self._patience.in_use_s

    def tell_all(self, message: Message) -> None:
        """To every living child."""
        for place in self.places():
            if place.child is not None:
                place.child.tell(message)

    # ---- the end ---------------------------------------------------------------------------------------------------

    async def end(self, places: list[Place], message: Message, within_s: float, hurry: asyncio.Event) -> None:
        """Tells them to end and waits; those who don't are killed. `hurry`: told to stop at once."""
        for place in places:
            self._ending.add(place.role)
            if place.timer is not None:
                place.timer.cancel()
            if place.child is not None:
                place.child.tell(message)
        living = [place.child for place in places if place.child is not None]
        await _until_gone(living, within_s, hurry)
        left = [child for child in living if not child.gone.is_set()]
        if left and hurry.is_set() and isinstance(message, control.Drain):
            for child in left:
                child.tell(control.Stop())
            await _until_gone(left, self._patience.worker_end_s, None)
            left = [child for child in left if not child.gone.is_set()]
        for child in left:
            log.error("a child doesn't end: killed", child=child.name, pid=child.pid, after_s=round(within_s, 1))
            child.kill()
        await _until_gone(left, KILLED_S, None)

    def abandon(self) -> None:
        """Looks away from whoever is left: the end of their channels tells them."""
        for place in self.places():
            if place.timer is not None:
                place.timer.cancel()
            if place.child is not None:
                place.child.abandon()
                place.child = None


async def _until_gone(children: list[Started], within_s: float, hurry: asyncio.Event | None) -> None:
    """Returns when all have ended, time is over, or somebody is in a hurry."""

    async def all_gone() -> None:
        for child in children:
            await child.gone.wait()

    waits = {asyncio.ensure_future(all_gone())}
    if hurry is not None:
        waits.add(asyncio.ensure_future(_set(hurry)))
    await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _set(event: asyncio.Event) -> None:
    await event.wait()

"""The engine as a gateway worker has it: log and state read from the files, publishes sent to the sequencer's process.

Has the shape of engine.py's Engine as far as the gateway uses it, and takes its place there; delivering is the same
reading of the log. A link leads to the sequencer; the supervisor gives another when that was started anew. Whatever
was sent and not answered when a link ends is answered `unavailable` with a pause: it may be in the log, and the same
publish with the same counter finds out.

States: away (no link: each publish is answered `unavailable`) ↔ linked.
Invariants: each proposal that `submit` has taken is answered once; notes, which have one order for all workers, are
given to `on_note` in that order, one's own included, and said again on a new link until they came back.
Cost: a system call a batch; 16 bytes for each unanswered proposal. One thread, the loop's.
"""

from __future__ import annotations

import logging
import random
import struct
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import Final

import lmdb
import msgspec

from engine.answers import refuse_batch
from engine.errors import UNAVAILABLE, EngineClosed, StateDamaged
from engine.link import (
    ANSWERS,
    COMMITTED,
    COMMITTED_BODY,
    NOTE,
    PROPOSALS,
    SIGNAL,
    STATUS,
    Link,
    LinkBroken,
)
from engine.log.followed import FollowedLog
from engine.state.saved import SavedState
from engine.state.view import View
from ext.relay import Unanswered

AWAY_RETRY_MS: Final = 500  # from half to one and a half of it: the sequencer is back within two seconds
PROPOSALS_BYTES_MAX: Final = 32 << 20  # that wait to be sent; the sequencer reads on while its intake has room
SIGNALS_BYTES_MAX: Final = 1 << 20  # that wait to be sent, above which signals are dropped
NOTES_MAX: Final = 100_000

_log = logging.getLogger(__name__)


class Status(msgspec.Struct, frozen=True):
    """What the sequencer says of itself, whenever it changes: why it refuses publishes, "" = it doesn't."""

    failure: str = ""  # the writer is fenced
    shortage: str = ""  # of disk space


class SequencerAway(Exception):
    """There is no link to the sequencer."""


class Shortage:
    """What the gateway asks about the disk; the sequencer looks."""

    def __init__(self) -> None:
        self.said = ""

    def look(self) -> bool:
        """Whether publishes are refused for want of space."""
        return bool(self.said)

    def words(self) -> str:
        """Why, for the operator."""
        return self.said


class Follower:
    """Use `Follower.open`."""

    def __init__(self, log: FollowedLog, saved: SavedState, wake: Callable[[bytes | None], None]) -> None:
        self.log = log
        self.sequencer = self  # the part of it that the gateway knows
        self.space = Shortage()
        self.commits = self.sync_ns = 0
        self.on_note: Callable[[bytes, bool], None] = lambda body, ours: None
        self.on_signal: Callable[[bytes], None] = lambda body: None
        self._saved = saved
        self._wake = wake
        self._loop: AbstractEventLoop | None = None
        self._link: Link | None = None
        self._writing = False
        self._unanswered = Unanswered()
        self._notes: dict[bytes, int] = {}  # said, and not come back: how often
        self._failure = ""
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, shard: int, wake: Callable[[bytes | None], None]) -> Follower:
        """Follows the log of a data directory; `wake` gets answers, or None when there is more to read."""
        log = FollowedLog(path, shard=shard)
        try:
            saved = SavedState.open(path / "state", shard=shard, read_only=True)
        except BaseException:
            log.close()
            raise
        if (position := saved.position()) > (last := log.last_sequence):
            saved.close()
            log.close()
            raise StateDamaged(f"the state was saved at {position}, but the log ends at {last}")
        return cls(log, saved, wake)

    # ---- what the gateway asks -------------------------------------------------------------------------------------

    @property
    def durability(self) -> str:
        """What a receipt means here."""
        return self.log.durability

    @property
    def failure(self) -> BaseException | None:
        """Why no publish is taken: the writer is fenced, or away."""
        if self._link is None:
            return SequencerAway("the sequencer is being started; publishes are answered `unavailable` until then")
        return EngineClosed(self._failure) if self._failure else None

    def view(self, *, bytes_max: int = 64 << 20) -> View:
        """A view for one owner thread, at the saved position."""
        if self._closed:
            raise EngineClosed("the follower is closed")
        return View(self._saved, bytes_max=bytes_max)

    def stats(self) -> dict[str, int]:
        """Counters for the metrics: what the sequencer's process can't say of this one."""
        return {"unanswered_publishes": self._unanswered.count, "link_waiting_bytes": self._waiting_bytes()}

    def second(self) -> None:
        """Now and then: gives back what trimming has removed, and the reader slots of workers that were killed."""
        self.log.drop_trimmed()
        with suppress(lmdb.Error):
            self._saved.env.reader_check()

    # ---- to the sequencer ------------------------------------------------------------------------------------------

    def submit(self, proposals: bytes) -> bool:
        """Takes a batch and answers all of it; False if too much waits: the caller answers `overloaded`."""
        link = self._link
        if link is None:
            self._wake(refuse_batch(proposals, 0, UNAVAILABLE, _pause_ms()))
            return True
        if link.waiting_bytes + len(proposals) > PROPOSALS_BYTES_MAX:
            return False
        self._unanswered.add(proposals)
        self._send(link, PROPOSALS, proposals)
        return True

    def signal(self, body: bytes) -> None:
        """To all other workers; lost if there is no link, or it is busy."""
        link = self._link
        if link is not None and link.waiting_bytes < SIGNALS_BYTES_MAX:
            self._send(link, SIGNAL, body)

    def note(self, body: bytes) -> None:
        """To all workers, this one included, in one order for all; kept until it has come back."""
        if len(self._notes) >= NOTES_MAX:
            self._notes.pop(next(iter(self._notes)))  # the sequencer has been away for long
        self._notes[body] = self._notes.get(body, 0) + 1
        if self._link is not None:
            self._send(self._link, NOTE, body)

    def _send(self, link: Link, kind: int, body: bytes) -> None:
        if link.send(kind, body) and not self._writing and self._loop is not None:
            self._writing = True
            self._loop.add_writer(link.fileno(), self._on_writable, link)

    def _on_writable(self, link: Link) -> None:
        if link is self._link and not link.flush() and self._loop is not None:
            self._writing = False
            self._loop.remove_writer(link.fileno())

    def _waiting_bytes(self) -> int:
        return self._link.waiting_bytes if self._link is not None else 0

    # ---- from the sequencer ----------------------------------------------------------------------------------------

    def join(self, loop: AbstractEventLoop, end: socket) -> None:
        """A new link takes the place of the one there was."""
        self._part()
        if self._closed:
            end.close()
            return
        self._loop, self._link = loop, Link(end)
        loop.add_reader(self._link.fileno(), self._on_readable, self._link)
        for body in self._notes:
            self._notes[body] = 1
            self._send(self._link, NOTE, body)
        self._wake(None)  # whatever was committed meanwhile

    def _on_readable(self, link: Link) -> None:
        if link is not self._link:
            return
        try:
            frames = link.receive()
            if frames is not None:
                for kind, body in frames:
                    self._take(kind, body)
                return
        except (LinkBroken, ValueError, struct.error, msgspec.DecodeError) as error:
            _log.error("the link to the sequencer is given up: %s", error)
        self._part()

    def _take(self, kind: int, body: bytes) -> None:
        if kind == ANSWERS:
            answers = self._unanswered.take(body)
            if answers:
                self._wake(answers)
        elif kind == COMMITTED:
            _, self.commits, self.sync_ns = COMMITTED_BODY.unpack(body)
            self._wake(None)
        elif kind == SIGNAL:
            self.on_signal(body)
        elif kind == NOTE:
            self._take_note(body)
        elif kind == STATUS:
            status = msgspec.msgpack.decode(body, type=Status)
            self._failure, self.space.said = status.failure, status.shortage
        else:
            raise LinkBroken(f"the sequencer sent a frame of kind {kind}")

    def _take_note(self, body: bytes) -> None:
        ours, body = body[:1] == b"\1", body[1:]
        if ours:
            left = self._notes.get(body, 0) - 1
            if left > 0:
                self._notes[body] = left
            else:
                self._notes.pop(body, None)
        self.on_note(body, ours)

    def _part(self) -> None:
        """The link is over: nobody waits in vain."""
        link, self._link = self._link, None
        if link is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(link.fileno())
            self._loop.remove_writer(link.fileno())
        self._writing = False
        link.close()
        if self._unanswered.count:
            self._wake(self._unanswered.refuse_all(UNAVAILABLE, _pause_ms()))

    def close(self) -> None:
        """Lets go of link and files. No view may be used after it."""
        if self._closed:
            return
        self._closed = True
        self._part()
        self._saved.close()
        self.log.close()


def _pause_ms() -> int:
    return AWAY_RETRY_MS // 2 + random.randrange(AWAY_RETRY_MS + 1)

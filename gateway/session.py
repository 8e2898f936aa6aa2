"""Sessions as Python sees them: an index, a few fields of the native table, and what may be done to one.

Between the native poller (sockets, frames, hot commands) and the handlers of cold commands; `Door` is what a handler
may use. No Python object belongs to a session; the only books kept here are of jobs under way, few at a time.

States, and what moves them (the numbers are the table's):
    HANDSHAKE --upgrade--> OPEN --hello with positions--> READER --has reached the router--> LIVE
                           OPEN --hello of a new device--> LIVE <--slow-- / --caught up--> READER
    any --close, error, timeout, replaced, drain--> CLOSING --> FREE
Ignored: commands of a session that is CLOSING; answers whose origin names an earlier tenant of the slot.

Invariants: interest and catch-up of a session end in the same step as the session; nothing is pushed before hello
but errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from ext.jsonevent import json_event
from gateway import close_codes, errors, pushes
from gateway.bus import Alone

if TYPE_CHECKING:
    from engine import CatchUp, Config, Engine, Fanout, Follower, Gap, LogReader, ReaderPool, View
    from ext.poller import Poller
    from ext.session_table import SessionTable
    from gateway.auth import Verifier
    from gateway.bus import Bus
    from gateway.cursors import Cursors
    from gateway.load import Load
    from gateway.signals import Signals
    from gateway.trust import Trust

UNREADABLE_RETRY_MS = 5_000
HANDSHAKE, OPEN, READER, LIVE, CLOSING = 1, 2, 3, 4, 5

log = structlog.get_logger()


@dataclass(slots=True)
class Counters:
    """Counts of what Python handles: whole batches and cold commands, never single events."""

    answers: int = 0
    cold_commands: int = 0
    cursor_moves: int = 0
    events_routed: int = 0
    gaps: int = 0
    hellos: int = 0
    loop_slice_max_seconds: float = 0.0
    overloaded_publishes: int = 0
    publishes: int = 0
    refused_commands: int = 0
    refused_hellos: int = 0
    shed_presence_signals: int = 0
    shed_question_commands: int = 0
    shed_typing_signals: int = 0
    signals_shed: int = 0


class Door:
    """Everything that a handler of commands may use; made by server.py, lives as long as the gateway."""

    def __init__(
        self,
        config: Config,
        engine: Engine | Follower,
        view: View,
        sessions: SessionTable,
        poller: Poller,
        fanout: Fanout,
    ) -> None:
        self.config, self.engine, self.view = config, engine, view
        self.sessions, self.poller, self.fanout = sessions, poller, fanout
        self.counters = Counters()
        self.verifier: Verifier
        self.trust: Trust
        self.cursors: Cursors
        self.signals: Signals
        self.catchup: CatchUp
        self.pool: ReaderPool
        self.reader: LogReader  # the loop's own
        self.jobs: dict[int, int] = {}  # origin -> history jobs under way; only while there are any
        self.pending = bytearray()  # proposals of cold commands, submitted at the end of the step
        self.load: Load
        self.bus: Bus = Alone()

    # ---- talking to one session ------------------------------------------------------------------------------------

    def push(self, session: int, number: int, body: Mapping[str, Any]) -> None:
        """One push to one session; nothing happens if it is gone."""
        encoding = self.sessions.encoding(session)
        self.poller.push(session, pushes.encode(encoding, number, body))

    def refuse(
        self,
        session: int,
        code: str,
        message: str,
        *,
        id: str | int | None = None,
        counter: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        """An error push, and the end of the session if the code's row says so."""
        row = errors.TABLE[code]
        self.counters.refused_commands += 1
        body: dict[str, Any] = {"code": code, "message": message, "hint": row.hint, "retryable": row.retryable}
        for name, value in (("id", id), ("counter", counter), ("retry_after_ms", retry_after_ms)):
            if value is not None:
                body[name] = value
        self.push(session, pushes.ERROR, body)
        if row.closes:
            self.end(session, row.closes, retry_after_ms)

    def end(self, session: int, code: int, retry_after_ms: int | None = None) -> None:
        """Closes a session; the poller reports it as closed like any other."""
        self.poller.close(session, code, close_codes.reason(code, retry_after_ms))

    # ---- lifecycle -------------------------------------------------------------------------------------------------

    def closed(self, session: int, origin: int) -> None:
        """The poller says that a session has ended: whatever belongs to it goes with it."""
        self.catchup.forget(session)
        self.fanout.forget(session)
        self.jobs.pop(origin, None)

    # ---- what catch-up tells a session (engine/ports.py: Door) -----------------------------------------------------

    def positions(self) -> list[dict[str, int]]:
        """Where live sessions stand: one position a shard."""
        log_of = self.engine.log
        return [{"shard": log_of.shard, "epoch": log_of.epoch, "sequence": self.fanout.sequence}]

    def gap(self, session: int, gap: Gap) -> None:
        """A conversation of which too much was missed."""
        newest = pushes.records(self.sessions.encoding(session), gap.newest, json_event)
        self.counters.gaps += 1
        self.push(
            session,
            pushes.GAP,
            {
                "conversation": gap.conversation,
                "after": gap.after,
                "before": gap.before,
                "newest": newest,
                "next": gap.next,
            },
        )

    def live(self, session: int, resumed: bool) -> None:
        """What follows comes as it happens."""
        if resumed:
            self.push(session, pushes.LIVE, {"positions": self.positions()})
        else:
            self.push(session, pushes.ADVICE, {"kind": "slow", "retry_after_ms": 0})

    def failed(self, session: int, error: Exception) -> None:
        """What the session is owed can't be read here: it may try again, the operator must look."""
        log.error("a session's backlog can't be read", error=type(error).__name__, detail=str(error))
        self.end(session, close_codes.UNAVAILABLE, UNREADABLE_RETRY_MS)

    # ---- jobs ------------------------------------------------------------------------------------------------------

    def begin_job(self, origin: int) -> bool:
        """True if the session may have one more job under way."""
        count = self.jobs.get(origin, 0)
        if count >= self.config.gateway.jobs_per_session_max:
            return False
        self.jobs[origin] = count + 1
        return True

    def end_job(self, origin: int) -> None:
        """A job has been answered, or its session is gone."""
        count = self.jobs.get(origin, 0)
        if count > 1:
            self.jobs[origin] = count - 1
        else:
            self.jobs.pop(origin, None)

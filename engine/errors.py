"""Everything the engine can refuse or fail with: exceptions for callers in the process, statuses for proposals.

    EngineError
    ├── CallerError          the caller asked wrongly; another call may succeed
    │   ├── BadArgument      a value outside its limits
    │   └── Trimmed          the position is below the first kept sequence
    ├── EngineUnable         the engine can't just now; the data is not in doubt
    │   ├── LogInUse         another process holds the log's lock
    │   ├── LogFenced        the writer stopped after a failure: stop, reopen, verify
    │   └── EngineClosed     close() was called
    └── DataUntrusted        what lies on the disk can't be believed; nothing is repaired by deletion
        ├── LogVersion       written by another version, engine or shard
        ├── LogDamaged       a block, a segment or the chain between them
        │   └── RecordDamaged    one record; the others are still served
        └── StateDamaged     the saved state contradicts the log

A status is the fate of one proposal: a number on the wire, a name for clients, and its policy, in one table.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class EngineError(Exception):
    """`code` names the kind for tables, `retryable` says whether the same call may succeed later."""

    code = "engine"
    retryable = False
    hint = ""

    def __init__(self, detail: str, *, hint: str = "") -> None:
        self.detail = detail
        if hint:
            self.hint = hint
        super().__init__(f"{detail} ({self.hint})" if self.hint else detail)


class CallerError(EngineError):
    """The caller asked wrongly."""

    code = "caller"


class BadArgument(CallerError):
    """A value outside its limits."""

    code = "bad_argument"


class Trimmed(CallerError):
    """The position is below what the log still keeps."""

    code = "trimmed"
    hint = "read from a snapshot, or begin at the first kept sequence"

    def __init__(self, detail: str, *, hint: str = "", first_available: int = 0) -> None:
        """`first_available`: the first sequence that is kept; 0 where whoever raises doesn't know."""
        super().__init__(detail, hint=hint)
        self.first_available = first_available


class EngineUnable(EngineError):
    """The engine can't just now."""

    code = "unable"
    retryable = True


class LogInUse(EngineUnable):
    """Another process holds the log."""

    code = "log_in_use"
    hint = "stop the other process or choose another data directory"


class LogFenced(EngineUnable):
    """The writer stopped after a failure and stays stopped."""

    code = "log_fenced"
    retryable = False
    hint = "restart the process: it reopens and verifies the log; look at the disk first"


class EngineClosed(EngineUnable):
    """The engine has been closed."""

    code = "closed"
    retryable = False


class DataUntrusted(EngineError):
    """What lies on the disk can't be believed."""

    code = "untrusted"
    hint = "keep the files as they are; run `gonets log check`"


class LogVersion(DataUntrusted):
    """Written by another version, storage engine or shard."""

    code = "log_version"
    hint = "open it with the version that wrote it"


class LogDamaged(DataUntrusted):
    """A block, a segment or the chain between them is damaged."""

    code = "log_damaged"


class RecordDamaged(LogDamaged):
    """One record is damaged; the rest is served."""

    code = "record_damaged"


class StateDamaged(DataUntrusted):
    """The saved state contradicts the log."""

    code = "state_damaged"
    hint = "keep the log; move the state directory away and it is folded again from the log"


class StatusRow(NamedTuple):
    """One fate of a proposal."""

    number: int
    name: str
    retryable: bool
    hint: str


APPENDED: Final = 0
REPEAT: Final = 1
TOO_OLD: Final = 10
COUNTER_JUMP: Final = 11
CONFLICT: Final = 12
UNKNOWN_CONVERSATION: Final = 13
FORBIDDEN: Final = 14
CLOSED: Final = 15
BAD_TYPE: Final = 16
PAYLOAD_TOO_LARGE: Final = 17
BAD_TARGET: Final = 18
BAD_PAYLOAD: Final = 19
MEMBER_LIMIT: Final = 20
UNCHANGED: Final = 21
BAD_ID: Final = 22
TOO_MANY_UNANSWERED: Final = 23
RATE_LIMITED: Final = 24
OVERLOADED: Final = 25
UNAVAILABLE: Final = 26
BAD_COUNTER: Final = 27

_ROWS = (
    StatusRow(APPENDED, "appended", False, "the event is in the log and synced"),
    StatusRow(REPEAT, "repeat", False, "the event is in the log since an earlier publish with this counter"),
    StatusRow(TOO_OLD, "too_old", False, "the counter is 64 or more behind the device's highest; use a new one"),
    StatusRow(
        COUNTER_JUMP, "counter_jump", False, "counters go on from the highest used; `extra` is the farthest step"
    ),
    StatusRow(CONFLICT, "conflict", False, "look at what came in between, then publish with the sequence given here"),
    StatusRow(UNKNOWN_CONVERSATION, "unknown_conversation", False, "check the id; what one may not see looks the same"),
    StatusRow(FORBIDDEN, "forbidden", False, "the role in this conversation does not allow it"),
    StatusRow(CLOSED, "closed", False, "the conversation takes no more events"),
    StatusRow(BAD_TYPE, "bad_type", False, "a dotted lower-case name of at most 64 bytes that is not the engine's own"),
    StatusRow(PAYLOAD_TOO_LARGE, "payload_too_large", False, "at most 65,536 bytes; send larger things by reference"),
    StatusRow(BAD_TARGET, "bad_target", False, "the target must be a message of this conversation that you may see"),
    StatusRow(BAD_PAYLOAD, "bad_payload", False, "the payload does not follow the schema of this type"),
    StatusRow(MEMBER_LIMIT, "member_limit", False, "the conversation is full; `extra` is the limit"),
    StatusRow(UNCHANGED, "unchanged", False, "it is so already; nothing was appended"),
    StatusRow(BAD_ID, "bad_id", False, "ids are integers from 1 to 2^53-1, and `user` is another person"),
    StatusRow(TOO_MANY_UNANSWERED, "too_many_unanswered", True, "wait for receipts: 64 may be open at a time"),
    StatusRow(RATE_LIMITED, "rate_limited", True, "slow down; `extra` is the time to wait in ms"),
    StatusRow(OVERLOADED, "overloaded", True, "the same publish with the same counter after `extra` ms"),
    StatusRow(UNAVAILABLE, "unavailable", True, "the writer has stopped; the same publish with the same counter later"),
    StatusRow(BAD_COUNTER, "bad_counter", False, "counters are integers from 1 to 2^53-1"),
)

STATUSES: Final[dict[int, StatusRow]] = {row.number: row for row in _ROWS}
STATUS_BY_NAME: Final[dict[str, StatusRow]] = {row.name: row for row in _ROWS}

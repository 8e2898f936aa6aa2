"""Revocation: tokens that are void before they expire, and the end of the sessions that they opened.

A document (PROTOCOL.md) lists tokens by `jti`, users and devices by a time before which their tokens were issued.
hello.py asks `covers` for each token; when the document changes, trust.py lets `Sweep` end the sessions concerned. A
session's token is remembered natively: its `iat`, and a mark of its `jti` (64 bits of a keyed hash): 12 bytes each.

Invariants: what a document adds is asked for at hello before the sweep begins, so that no session slips in between; a
sweep looks at what was added only, in slices; a document that can't be read changes nothing.
Cost: a look-up in a set at hello; a sweep reads one field of each session, users are found by the table's index.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec

from engine import limits
from gateway.auth import TOKEN_ID_CHARACTERS_MAX, Identity

if TYPE_CHECKING:
    from ext.session_table import SessionTable

DOCUMENT_BYTES_MAX = limits.REVOKED_DOCUMENT_BYTES_MAX
SLICE_S = 0.001
PLACES = 4_096  # sessions looked at between two looks at the clock
USERS = 64
_USER = re.compile(r"([1-9][0-9]{0,15})\Z")
_DEVICE = re.compile(r"([1-9][0-9]{0,15})/([1-9][0-9]{0,15})\Z")
_KEY = secrets.token_bytes(16)  # nobody outside can make two ids share a mark

Second = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
TokenId = Annotated[str, msgspec.Meta(min_length=1, max_length=TOKEN_ID_CHARACTERS_MAX)]


class RevokedError(Exception):
    """A document that can't serve; the text says what is wrong with it."""


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[TokenId] = []
    users: dict[str, Second] = {}
    devices: dict[str, Second] = {}


class Revoked(msgspec.Struct, frozen=True):
    """What is void: ids of tokens; users, and (user, device) pairs, up to a time of issue; the document's SHA-256."""

    tokens: frozenset[str] = frozenset()
    users: dict[int, int] = {}
    devices: dict[tuple[int, int], int] = {}
    sha256: str = ""

    def covers(self, identity: Identity, device: int) -> bool:
        """Whether a token is void, for a session of this device."""
        return (bool(identity.token_id) and identity.token_id in self.tokens) or self.covers_time(
            identity.user, device, identity.issued_s
        )

    def covers_time(self, user: int, device: int, issued_s: int) -> bool:
        """The same by user and device alone. A token that doesn't say when it was issued is older than any time."""
        before = max(self.users.get(user, 0), self.devices.get((user, device), 0) if self.devices else 0)
        return issued_s < before

    @property
    def entries(self) -> int:
        """How many there are."""
        return len(self.tokens) + len(self.users) + len(self.devices)


def parse_revoked(data: bytes) -> Revoked:
    """The document, or RevokedError."""
    if len(data) > DOCUMENT_BYTES_MAX:
        raise RevokedError(f"has {len(data):,} bytes; at most {DOCUMENT_BYTES_MAX:,}: drop what has expired anyway")
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RevokedError(f"is no list of revocations: {error}") from None
    users: dict[int, int] = {}
    devices: dict[tuple[int, int], int] = {}
    for name, before in document.users.items():
        if _USER.match(name) is None:
            raise RevokedError(f"users: {name[:40]!r} must be a decimal user id")
        users[int(name)] = before
    for name, before in document.devices.items():
        if (found := _DEVICE.match(name)) is None:
            raise RevokedError(f"devices: {name[:40]!r} must be user/device, both decimal ids")
        devices[int(found[1]), int(found[2])] = before
    return Revoked(frozenset(document.tokens), users, devices, hashlib.sha256(data).hexdigest())


def mark_of(token_id: str) -> int:
    """What a session remembers of its token's id; 0 for none."""
    if not token_id:
        return 0
    digest = hashlib.blake2b(token_id.encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY).digest()
    return int.from_bytes(digest, "little") or 1


class Sweep:
    """Ends sessions whose tokens a change has made void; turned by slices until it is through."""

    def __init__(self, sessions: SessionTable, end: Callable[[int], None]) -> None:
        self._sessions, self._end = sessions, end
        self._work: list[Iterator[None]] = []
        self.ended = 0

    def add(self, old: Revoked, new: Revoked) -> None:
        """What `new` has beyond `old` is looked for."""
        tokens = new.tokens - old.tokens
        if tokens:
            marks = array("Q", sorted({mark_of(token_id) for token_id in tokens}))
            self._work.append(self._of_tokens(marks))
        users = {user for user, before in new.users.items() if before > old.users.get(user, 0)}
        users |= {user for (user, device), before in new.devices.items() if before > old.devices.get((user, device), 0)}
        if users:
            self._work.append(self._of_users(sorted(users), new))

    def run(self) -> bool:
        """One slice; True if more is left."""
        until = time.perf_counter() + SLICE_S
        while self._work:
            for _ in self._work[0]:
                if time.perf_counter() >= until:
                    return True
            self._work.pop(0)
        return False

    def _of_tokens(self, marks: array[int]) -> Iterator[None]:
        place = 1
        while place:
            found, place = self._sessions.marked(place, PLACES, marks)
            for session in found:
                self._close(session)
            yield

    def _of_users(self, users: list[int], revoked: Revoked) -> Iterator[None]:
        sessions = self._sessions
        for number, user in enumerate(users):
            for session in sessions.of_user(user):
                if revoked.covers_time(user, sessions.device(session), sessions.issued_s(session)):
                    self._close(session)
            if number % USERS == 0:
                yield

    def _close(self, session: int) -> None:
        self.ended += 1
        self._end(session)

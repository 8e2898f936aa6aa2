"""Keys of an issuer by URL: rotation without a restart, and without a refusal in between.

A KeySet of auth.py whose file is a document of remote.py. A token that names a key which isn't there yet is not
refused: the issuer is asked at once (one request for all who wait, and one in UNKNOWN_S at most, so that made-up
names cost it nothing), and the hello waits for the answer (waiting.py), without holding up anybody else's.

Invariants: keys older than auth.keys_age_s_max open nothing (told to come again, not refused for good); a key that
the issuer has withdrawn opens nothing from the next fetch on; sessions that it has opened stay until their token ends.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from engine import limits
from gateway.auth import Key, KeysError, TokenUnjudged, choose, parse_jwks
from gateway.remote import Remote

UNKNOWN_S = 30.0
ABSENT_MAX = 1_000  # names that are remembered as asked for in vain
LATER_JITTER_MS = 2_000
COPY = "issuer-keys.copy"


class IssuerKeys:
    """The keys at a URL; looks like a KeySet."""

    development = False

    def __init__(self, url: str, data: Path, *, ca: str, refresh_s_min: int, refresh_s_max: int, age_s_max: int):
        self.remote: Remote[list[Key]] = Remote(
            url,
            data / COPY,
            lambda data: parse_jwks(data, url, foreign=True),
            KeysError,
            ca=ca,
            bytes_max=limits.ISSUER_DOCUMENT_BYTES_MAX,
            refresh_s_min=refresh_s_min,
            refresh_s_max=refresh_s_max,
            age_s_max=age_s_max,
        )
        self._asked_s = -UNKNOWN_S
        self._wanted: set[str] = set()
        self._absent: dict[str, float] = {}

    @property
    def keys(self) -> list[Key]:
        """Those in force."""
        return [] if self.remote.is_too_old else self.remote.value

    def choose(self, kid: object, algorithm: object) -> Key:
        """The key that a token's header asks for."""
        if self.remote.is_too_old:
            raise TokenUnjudged("the issuer's keys are too old to judge by", _later_ms(self.remote_pause_s))
        return choose(self.remote.value, kid, algorithm)

    @property
    def remote_pause_s(self) -> float:
        """Until the issuer may be asked for an unknown key again."""
        return max(0.0, self._asked_s + UNKNOWN_S - time.monotonic())

    def ask(self, kid: str, done: Callable[[bool], None]) -> int | None:
        """About a key that isn't here. 0: wait for the answer; more: come again after so many ms; None: no such key."""
        if self.remote.busy:
            self._wanted.add(kid)
            return 0
        if self.is_absent(kid):
            return None
        if self.remote_pause_s:
            return _later_ms(self.remote_pause_s)
        self._asked_s = time.monotonic()
        self._wanted.add(kid)
        self.remote.refresh(done)
        return 0

    def is_absent(self, kid: str) -> bool:
        """Whether the issuer was asked for it lately and had no such key. Any thread."""
        absent = self._absent.get(kid)
        return absent is not None and time.monotonic() - absent < UNKNOWN_S

    def answered(self) -> None:
        """A fetch is over: what was wanted and is not there is remembered."""
        if not self.remote.failing:
            now = time.monotonic()
            self._absent = {kid: at for kid, at in self._absent.items() if now - at < UNKNOWN_S}
            known = {key.kid for key in self.remote.value}
            for kid in self._wanted - known:
                if len(self._absent) < ABSENT_MAX:
                    self._absent[kid] = now
        self._wanted.clear()


def _later_ms(pause_s: float) -> int:
    return int(max(pause_s, 1.0) * 1_000) + random.randrange(LATER_JITTER_MS)

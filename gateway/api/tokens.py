"""Who may, as a server knows it: service tokens checked by the gateway's keys and revocations.

The `WhoMay` of ports.py that a server gives to the door. A service's token is a token as a client's (auth.py), with
the claims `team` and `scope`. Keys and revocations may change at any time, so both are asked for anew each time.

Invariants: a token without a team opens nothing here; one that can't be judged now is 503, never a refusal for good.
Cost: one signature check a request, 30–110 µs; a look into two tables a second for each open connection.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from engine import ENGINE_ITSELF
from gateway.api.ports import Service
from gateway.api.problems import Refusal
from gateway.api.scopes import parse_scope
from gateway.auth import TokenRefused, TokenUnjudged, UnknownKey, Verifier
from gateway.revocation import Revoked

TEAM = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
UNKNOWN_RETRY_S = 1.0


class Tokens:
    """Judges service tokens. `ask_issuer`: as Trust's; 0 or more means that the key may be known soon."""

    def __init__(
        self,
        verifier: Callable[[], Verifier],
        revoked: Callable[[], Revoked],
        *,
        ask_issuer: Callable[[str | None], int | None] = lambda _kid: None,
        is_blind: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._verifier, self._revoked, self._ask_issuer = verifier, revoked, ask_issuer
        self._is_blind, self._now = is_blind, now

    def admit(self, token: str) -> Service:
        """The service of a good token."""
        try:
            identity = self._verifier().verify(token)
        except UnknownKey as unknown:
            pause_ms = self._ask_issuer(unknown.kid)
            if pause_ms is None:
                raise _bad(unknown.message) from None
            raise _later("the token's key is not known yet", max(pause_ms / 1_000, UNKNOWN_RETRY_S)) from None
        except TokenUnjudged as unjudged:
            raise _later(unjudged.message, unjudged.retry_after_ms / 1_000) from None
        except TokenRefused as refusal:
            raise _bad(refusal.message, "token_expired" if refusal.expired else "bad_token") from None
        if not identity.team:
            raise _bad("the token has no team: it is a person's, not a service's")
        if not TEAM.match(identity.team):
            raise _bad("team must be 1 to 64 of a-z, 0-9, '.', '_', '-', a letter or digit first")
        if identity.user == ENGINE_ITSELF:
            raise _bad(f"sub {identity.user} is the engine itself, in the record of what was done to subscriptions")
        if self._is_blind():
            raise _later("what is revoked is not known now", UNKNOWN_RETRY_S)
        if self._revoked().covers(identity, 0):
            raise _bad("the token was revoked", "token_revoked")
        return Service(identity.user, identity.team, parse_scope(identity.scope), identity)

    def still(self, service: Service) -> str:
        """Why a service may not go on."""
        if self._now() > service.identity.expires_s:
            return "the token has expired"
        if self._revoked().covers(service.identity, 0):
            return "the token was revoked"
        return ""


def _bad(words: str, code: str = "bad_token") -> Refusal:
    return Refusal(code, words, hint="send a service token as `Authorization: Bearer …`")


def _later(words: str, retry_after_s: float) -> Refusal:
    return Refusal("unavailable", words, retryable=True, retry_after_s=retry_after_s)

"""Tokens of the development key for the command line: of a person, or of a service with its team and scope.

Used by gonets.py and api/cli.py, never by a server that judges tokens. The key is the one that a server has made in its
data directory: one made here would be of no server, every one would refuse its tokens, and the mistake would be hidden.

Invariants: refused where [auth] keys is set; whatever is wrong is one ValueError that says what to change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jwt

from engine import Config
from gateway.auth import (
    DEVELOPMENT_KEY,
    ID_MAX,
    SCOPE_CHARACTERS_MAX,
    TEAM_CHARACTERS_MAX,
    KeysError,
    development_token,
)

TOKEN_MAX_S: Final = 3_650 * 86_400
DAY_S: Final = 86_400
TEAM: Final = "development"
SERVICE: Final = 1_000_000  # the user that a service of the command line writes as, unless another is named
EVERYTHING: Final = ("read:*", "publish:*", "subscriptions", "audit")
_TEAM: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{TEAM_CHARACTERS_MAX - 1}}}")
_WORD: Final = re.compile(r"[!-~]+")


class NoToken(ValueError):
    """Why none is made; one line."""


def check_ids(**given: int | None) -> None:
    """Ids outside their limits, before anything is done with them. Raises NoToken."""
    for name, value in given.items():
        if value is not None and not 1 <= value <= ID_MAX:
            raise NoToken(f"--{name} {value}: must be 1 to {ID_MAX}")


def persons_token(
    config: Config, user: int, device: int | None = None, lifetime_s: int = DAY_S, *, otherwise: str = ""
) -> str:
    """Of a client. `otherwise` says what else would do. Raises NoToken, OSError."""
    check_ids(user=user, device=device)
    return _token(config, user, device, lifetime_s, otherwise, "", "")


def services_token(
    config: Config,
    service: int = SERVICE,
    team: str = TEAM,
    scope: Sequence[str] = EVERYTHING,
    lifetime_s: int = DAY_S,
    *,
    otherwise: str = "",
) -> str:
    """Of a service. Raises NoToken, OSError."""
    check_ids(service=service)
    if not _TEAM.fullmatch(team):
        raise NoToken(
            f"--team {team!r}: 1 to {TEAM_CHARACTERS_MAX} of a-z, 0-9, '.', '_', '-', a letter or digit first"
        )
    words = [word for part in scope for word in part.split()]
    if wrong := [word for word in words if not _WORD.fullmatch(word)]:
        raise NoToken(f"--scope {wrong[0]!r}: words of visible ASCII, such as read:message, publish:*, subscriptions")
    text = " ".join(words)
    if not 1 <= len(text) <= SCOPE_CHARACTERS_MAX:
        raise NoToken(f"--scope: {len(text)} characters; must be 1 to {SCOPE_CHARACTERS_MAX}, such as read:message")
    return _token(config, service, None, lifetime_s, otherwise, text, team)


def jti_of(token: str) -> str:
    """The name by which a token may be revoked."""
    return str(jwt.decode(token, options={"verify_signature": False})["jti"])


def _token(
    config: Config, user: int, device: int | None, lifetime_s: int, otherwise: str, scope: str, team: str
) -> str:
    auth = config.auth
    if auth.keys:
        raise NoToken(
            f"auth.keys = {auth.keys!r} is set: tokens come from your issuer; unset it for development tokens"
        )
    if not 1 <= lifetime_s <= TOKEN_MAX_S:
        raise NoToken(f"--lifetime-s {lifetime_s}: must be 1 to {TOKEN_MAX_S} (10 years)")
    data = Path(config.server.data)
    if not (data / DEVELOPMENT_KEY).is_file():
        why = f"holds no {DEVELOPMENT_KEY}" if data.is_dir() else "is not a directory"
        if not data.exists():
            why = f"is not there, and so holds no {DEVELOPMENT_KEY}"
        raise NoToken(
            f"--data {config.server.data!r} {why}: name the directory of a `gonets serve` that has run{otherwise}"
        )
    try:
        return development_token(data, user, lifetime_s, auth.audience, auth.issuer, device, scope=scope, team=team)
    except KeysError as error:
        raise NoToken(str(error)) from None

"""By what a server judges and works, as the record of what operators did asks for it (engine/audit.py).

Asked once a second by part.py, on the loop of the api part: keys and revocations may be replaced meanwhile by the
gateway's loop, each as a whole. What was asked for last is remembered, so that a second costs two comparisons.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from engine import Config, InForce, Revocations, not_default
from gateway.auth import Key
from gateway.fetch import is_url
from gateway.trust import Trust

QUERY_DIGITS: Final = 16


class Judging:
    """Of one server. Any thread may call it, one at a time."""

    def __init__(self, trust: Trust, config: Callable[[], Config]) -> None:
        self._trust, self._config = trust, config
        self._keys: tuple[list[Key], list[tuple[str, str, str]]] | None = None
        self._options: tuple[Config, dict[str, str]] | None = None

    def __call__(self) -> InForce:
        """As of now."""
        revoked, keys, config = self._trust.revoked, self._trust.keys.keys, self._config()
        if self._keys is None or self._keys[0] is not keys:
            self._keys = keys, sorted(_row(key) for key in keys)
        if self._options is None or self._options[0] is not config:
            options = {name: _shown(value) for name, value in not_default(config).items()}
            self._options = config, options
        return InForce(
            keys=self._keys[1] or None,  # an issuer's that are too old judge nothing, and are nobody's act
            revocations=Revocations(revoked.sha256, len(revoked.tokens), len(revoked.users), len(revoked.devices)),
            options=self._options[1],
        )


def _shown(value: object) -> str:
    """As JSON. What follows the ? of a URL may be what lets one in: of that a hash is told, so that a change is."""
    if isinstance(value, str) and is_url(value):
        address, mark, query = value.partition("?")
        value = f"{address}?sha256={hashlib.sha256(query.encode()).hexdigest()[:QUERY_DIGITS]}" if mark else address
    return json.dumps(value)


def _row(key: Key) -> tuple[str, str, str]:
    public = key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.kid or "", key.algorithm, hashlib.sha256(public).hexdigest()

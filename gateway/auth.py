"""Tokens: who a session is, told by a JWT that somebody else issued.

Used by hello.py (connect) and commands.py (refresh); keys come from a JWKS file, or, with none configured, from the
development key in the data directory. Accepted are EdDSA (Ed25519), ES256 and RS256. The algorithm is a property of
the *key*, never of the token: a token's own `alg` must equal its key's, so "none" and HMAC-with-a-public-key have
nothing to hold on to.

Invariants: user is 1..2^53-1; no token, claim or key ever reaches a log line or a metric; a file that can't be read
keeps the keys that were good. Cost: one signature check, 30–110 µs; nothing is remembered about a token.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.types import Options

from engine import private

ID_MAX = 2**53 - 1
TOKEN_BYTES_MAX = 8_192
RSA_BITS_MIN = 2_048
EXPIRES_MAX_S = 2**32 - 1
TOKEN_ID_CHARACTERS_MAX = 256
SCOPE_CHARACTERS_MAX = 4_096
TEAM_CHARACTERS_MAX = 64
DEVELOPMENT_KEY = "development-key.pem"

_SUBJECT = re.compile(r"[1-9][0-9]{0,15}\Z")
_HEADER = msgspec.json.Decoder(type=dict[str, Any])


class TokenRefused(Exception):
    """Why a token doesn't open a session; `expired` means that a fresh one from the same issuer would."""

    def __init__(self, message: str, expired: bool = False) -> None:
        super().__init__(message)
        self.message, self.expired = message, expired


class UnknownKey(TokenRefused):
    """No key of that name is here; where keys come from an issuer by URL, it may have made a new one."""

    def __init__(self, message: str, kid: str | None) -> None:
        super().__init__(message)
        self.kid = kid


class TokenUnjudged(Exception):
    """Nothing can be said of a token now; the same token again after retry_after_ms."""

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.message, self.retry_after_ms = message, retry_after_ms


class KeysError(Exception):
    """A key file that can't serve; the text names the file, the key and what to change."""


class Identity(NamedTuple):
    """What a good token says."""

    user: int
    expires_s: int  # UNIX time after which the session must have refreshed
    device: int | None  # the only device it is good for, if its issuer said so
    issued_s: int = 0  # UNIX time of `iat`; 0 if the token doesn't say
    token_id: str = ""  # `jti`; what a revocation may name
    scope: str = ""  # words between spaces, as RFC 9068 has it; only the backends' door looks at them
    team: str = ""  # whose service it is; "" = the token of a person


class Key(NamedTuple):
    """A public key and the only algorithm it is used with."""

    kid: str | None
    algorithm: str
    public: Any


class KeySet:
    """The public keys of one JWKS file (or the development key), read again when the file changes."""

    def __init__(self, path: Path, development: bool = False) -> None:
        self.path, self.development = path, development
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self.keys: list[Key] = []
        self.load()

    def load(self) -> None:
        """Reads the file; on any trouble the keys stay as they were and KeysError is raised."""
        try:
            stamp = _stamp(self.path)
            data = self.path.read_bytes()
        except OSError as error:
            raise KeysError(f"auth.keys = {str(self.path)!r} can't be read: {error.strerror}") from None
        self.keys = [_development_public(data, self.path)] if self.development else parse_jwks(data, self.path)
        self._stamp = stamp

    def reload_if_changed(self) -> bool:
        """True if the file was another and has been read; called on a timer, costs one stat."""
        try:
            stamp = _stamp(self.path)
        except OSError:
            return False  # in the middle of being replaced: the next look will see it
        if stamp == self._stamp:
            return False
        self._stamp = stamp  # a broken file is complained about once, not every second
        self.load()
        return True

    def choose(self, kid: object, algorithm: object) -> Key:
        """The key that a token's header asks for."""
        return choose(self.keys, kid, algorithm)


def choose(keys: list[Key], kid: object, algorithm: object) -> Key:
    """The key that a token's header asks for. Without a kid only a single candidate will do."""
    candidates = [key for key in keys if key.algorithm == algorithm and (kid is None or key.kid == kid)]
    if len(candidates) != 1:
        name = kid if isinstance(kid, str) and all(key.kid != kid for key in keys) else None
        raise UnknownKey("the token is signed with no key of this server (check kid, alg and [auth] keys)", name)
    return candidates[0]


class KeySource(Protocol):
    """Where keys come from: a KeySet, or issuer.py's IssuerKeys."""

    @property
    def keys(self) -> list[Key]:
        """Those in force."""

    def choose(self, kid: object, algorithm: object) -> Key:
        """UnknownKey, or TokenUnjudged, if there is none."""


class Verifier:
    """Checks tokens against keys; settings are plain values so that a reload swaps the whole object."""

    def __init__(self, keys: KeySource, audience: str, issuer: str, leeway_s: int) -> None:
        self.keys = keys
        self._audience = audience
        self._issuer = issuer or None
        self._leeway_s = leeway_s
        # nbf and exp are checked by PyJWT with the leeway; iat says nothing about validity.
        self._options: Options = {"require": ["exp", "sub", "aud"], "verify_iat": False}

    def verify(self, token: str) -> Identity:
        """The identity in a good token; TokenRefused for every other string."""
        header = _header(token)
        key = self.keys.choose(header.get("kid"), header.get("alg"))
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
                options=self._options,
            )
        except jwt.ExpiredSignatureError:
            raise TokenRefused("the token has expired", expired=True) from None
        except jwt.ImmatureSignatureError:
            raise TokenRefused("the token is not valid yet (nbf)") from None
        except jwt.InvalidAudienceError:
            raise TokenRefused("the token is for another audience (aud)") from None
        except jwt.InvalidIssuerError:
            raise TokenRefused("the token is of another issuer (iss)") from None
        except jwt.MissingRequiredClaimError as error:
            raise TokenRefused(f"the token has no {error.claim}") from None
        except jwt.InvalidSignatureError:
            raise TokenRefused("the signature is not of this server's key") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise TokenRefused("the token is malformed") from None
        subject = claims["sub"]
        if not isinstance(subject, str) or not _SUBJECT.match(subject) or int(subject) > ID_MAX:
            raise TokenRefused("sub must be a decimal user id of 1 to 2^53-1")
        device = claims.get("device")
        if device is not None and (type(device) is not int or not 1 <= device <= ID_MAX):
            raise TokenRefused("device must be a device id of 1 to 2^53-1")
        return Identity(
            int(subject),
            min(int(claims["exp"]) + self._leeway_s, EXPIRES_MAX_S),
            device,
            _issued_s(claims.get("iat")),
            _token_id(claims.get("jti")),
            _text(claims, "scope", SCOPE_CHARACTERS_MAX),
            _text(claims, "team", TEAM_CHARACTERS_MAX),
        )


def _issued_s(issued: object) -> int:
    if issued is None:
        return 0
    if isinstance(issued, bool) or not isinstance(issued, (int, float)) or not 0 <= issued < float("inf"):
        raise TokenRefused("iat must be a time in seconds")
    return min(int(issued), EXPIRES_MAX_S)


def _token_id(token_id: object) -> str:
    if token_id is None:
        return ""
    if not isinstance(token_id, str) or len(token_id) > TOKEN_ID_CHARACTERS_MAX:
        raise TokenRefused(f"jti must be a text of at most {TOKEN_ID_CHARACTERS_MAX} characters")
    return token_id


def _text(claims: dict[str, Any], name: str, characters_max: int) -> str:
    text = claims.get(name, "")
    if not isinstance(text, str) or len(text) > characters_max:
        raise TokenRefused(f"{name} must be a text of at most {characters_max} characters")
    return text


def _header(token: str) -> dict[str, Any]:
    if len(token) > TOKEN_BYTES_MAX or token.count(".") != 2:
        raise TokenRefused("the token is malformed")
    head = token[: token.index(".")]
    try:
        return _HEADER.decode(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise TokenRefused("the token is malformed") from None


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def parse_jwks(data: bytes, path: Path | str, foreign: bool = False) -> list[Key]:
    """The signature keys of a JWKS; keys for other uses are passed over, unusable ones are errors.

    A `foreign` set is an issuer's, who may have keys of kinds that are not ours: those are passed over too.
    """
    try:
        document = msgspec.json.decode(data)
        entries = document["keys"]
        if not isinstance(entries, list):
            raise TypeError
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        raise KeysError(f"auth.keys = {str(path)!r} is not a JWKS: expected an object with a list `keys`") from None
    keys: list[Key] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise KeysError(f"auth.keys = {str(path)!r}: key {number} is not an object")
        if entry.get("use", "sig") == "sig":
            try:
                keys.append(_public_key(entry, f"auth.keys = {str(path)!r}: key {number}"))
            except KeysError:
                if not foreign or "d" in entry or "k" in entry:  # a secret that is public is no matter of taste
                    raise
    if not keys:
        raise KeysError(f"auth.keys = {str(path)!r} holds no key for signatures")
    seen = [(key.kid, key.algorithm) for key in keys]
    if len(set(seen)) != len(seen):
        raise KeysError(f"auth.keys = {str(path)!r}: two keys share a kid and an algorithm; give each its own kid")
    return keys


def _public_key(entry: dict[str, Any], where: str) -> Key:
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise KeysError(f"{where}: kid must be a string")
    if "d" in entry:
        raise KeysError(f"{where} is a private key; leave only its public members in this file")
    if entry.get("kty") == "oct":
        raise KeysError(f"{where} is symmetric; only Ed25519, P-256 and RSA keys are taken")
    try:
        public = jwt.PyJWK(entry, algorithm=entry.get("alg") or _algorithm_of(entry)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        raise KeysError(f"{where} can't be read: {type(error).__name__}") from None
    algorithm = key_algorithm(public, where)
    if entry.get("alg", algorithm) != algorithm:
        raise KeysError(f"{where} says alg {entry['alg']!r}, but such a key is used with {algorithm} here")
    return Key(kid, algorithm, public)


def _algorithm_of(entry: dict[str, Any]) -> str:
    return {"OKP": "EdDSA", "EC": "ES256", "RSA": "RS256"}[entry["kty"]]


def key_algorithm(public: object, where: str) -> str:
    """The one algorithm a key is good for; everything else is refused when the file is read."""
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "EdDSA"
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return "ES256"
    if isinstance(public, rsa.RSAPublicKey) and public.key_size >= RSA_BITS_MIN:
        return "RS256"
    raise KeysError(f"{where} must be Ed25519, P-256 or RSA of at least {RSA_BITS_MIN} bits")


def development_key(data: Path) -> ed25519.Ed25519PrivateKey:
    """The private key for development tokens; made at first use, readable by its owner only."""
    path = data / DEVELOPMENT_KEY
    if not path.exists():
        private.make_folder(data)
        pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # Written aside and linked: two processes that start together agree on whichever came first, whole.
        aside = data / f"{DEVELOPMENT_KEY}.{os.getpid()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, private.FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(aside, path)
            except FileExistsError:
                pass
        finally:
            os.unlink(aside)
    return _development_private(path.read_bytes(), path)


def _development_private(data: bytes, path: Path) -> ed25519.Ed25519PrivateKey:
    try:
        private = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise KeysError(f"{path} is not an Ed25519 private key in PEM; remove it and a new one will be made")
    return private


def _development_public(data: bytes, path: Path) -> Key:
    return Key(None, "EdDSA", _development_private(data, path).public_key())


def development_token(
    data: Path,
    user: int,
    lifetime_s: int,
    audience: str,
    issuer: str = "",
    device: int | None = None,
    *,
    scope: str = "",
    team: str = "",
) -> str:
    """A token for trying things out, signed with the development key; with scope and team one for a service."""
    now = int(time.time())
    claims: dict[str, Any] = {"sub": str(user), "aud": audience, "nbf": now, "iat": now, "exp": now + lifetime_s}
    claims["jti"] = secrets.token_hex(8)
    if device is not None:
        claims["device"] = device
    if issuer:
        claims["iss"] = issuer
    if scope:
        claims["scope"] = scope
    if team:
        claims["team"] = team
    return jwt.encode(claims, development_key(data), algorithm="EdDSA")


def open_keys(keys: str, data: Path) -> KeySet:
    """The configured JWKS file, or the development key when there is none."""
    if keys:
        return KeySet(Path(keys))
    development_key(data)
    return KeySet(data / DEVELOPMENT_KEY, development=True)

"""Tokens of very many users: signed by a private key that is passed between processes, as fast as the key allows.

Used by drive.py and fleet_child.py; clients.py's Issuer is for measurements of one process. The header is encoded once,
and the claims by formatting: with Ed25519 a token costs little more than its signature. Other keys go through PyJWT.
"""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Final

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from bench.harness import BenchError

TOKEN_S: Final = 86_400
KEY_BYTES_MAX: Final = 65_536


def key_of(path: Path) -> bytes:
    """The PEM of a private key that tokens are signed with. BenchError if it is none of a kind that is known."""
    try:
        with path.open("rb") as file:
            pem = file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise BenchError(f"--token-key {str(path)!r}: {error.strerror}; it must be a private key as PEM") from None
    Signer(pem, "", "gonets")
    return pem


def new_key() -> bytes:
    """A fresh Ed25519 key."""
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return ed25519.Ed25519PrivateKey.generate().private_bytes(*form)


def write_public(pem: bytes, name: str, path: Path) -> Path:
    """The JWKS file for `[auth] keys`."""
    signer = Signer(pem, name, "")
    algorithm = jwt.get_algorithm_by_name(signer.algorithm)
    key = algorithm.to_jwk(signer.private.public_key(), as_dict=True)
    path.write_bytes(msgspec.json.encode({"keys": [{**key, "kid": name, "alg": signer.algorithm, "use": "sig"}]}))
    return path


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class Signer:
    """Signs tokens of users."""

    def __init__(self, pem: bytes, name: str, audience: str) -> None:
        try:
            self.private = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            raise BenchError(
                "--token-key: it holds no private key that can be read; it must be PEM, without a password"
            ) from None
        self.algorithm = _algorithm(self.private)
        self._name, self._audience = name, audience
        self._until_s = int(time.time()) + TOKEN_S
        header = {"alg": self.algorithm, "typ": "JWT"} | ({"kid": name} if name else {})
        self._header = _base64(msgspec.json.encode(header)) + b"."

    def token(self, user: int) -> str:
        """One that lasts a day."""
        claims = {"sub": str(user), "aud": self._audience, "exp": self._until_s}
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            said = self._header + _base64(msgspec.json.encode(claims))
            return (said + b"." + _base64(self.private.sign(said))).decode("ascii")
        headers = {"kid": self._name} if self._name else None
        return jwt.encode(claims, self.private, algorithm=self.algorithm, headers=headers)  # type: ignore[arg-type]


def _algorithm(private: object) -> str:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "EdDSA"
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name == "secp256r1":
        return "ES256"
    if isinstance(private, rsa.RSAPrivateKey):
        return "RS256"
    raise BenchError(f"--token-key: a key of {type(private).__name__}; it must be Ed25519, P-256 or RSA")

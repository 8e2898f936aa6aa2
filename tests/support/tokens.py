"""Keys and tokens of tests: a JWKS with one key of each kind, and whatever claims a test wants to sign."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "gonets"


class Issuer:
    """Private keys by kid, and the public file that a server reads."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {
            "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
            "ec": ("ES256", ec.generate_private_key(ec.SECP256R1())),
            "rsa": ("RS256", rsa.generate_private_key(65_537, 2_048)),
        }

    def public(self, kid: str) -> dict[str, Any]:
        """One key as a JWK without its private members."""
        algorithm, private = self.keys[kid]
        jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
        return {**jwk, "kid": kid, "alg": algorithm, "use": "sig"}

    def write(self, path: Path, *kids: str) -> Path:
        """The JWKS file with these keys (default: all)."""
        path.write_text(json.dumps({"keys": [self.public(kid) for kid in kids or self.keys]}))
        return path

    def token(self, user: object, kid: str = "ed", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token; a claim given as None is left out."""
        now = int(time.time())
        every = {"sub": str(user), "aud": AUDIENCE, "nbf": now - 5, "exp": now + 3_600, **claims}
        algorithm, private = self.keys[kid]
        return jwt.encode(
            {name: value for name, value in every.items() if value is not None},
            private,
            algorithm=algorithm,
            headers={"kid": kid} if headers is None else headers,
        )

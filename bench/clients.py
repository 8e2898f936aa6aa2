"""Frames and tokens that the benchmarks' native clients send: made by Python before the clock starts.

Used by the benchmarks over sockets; ext/loadgen only stamps counters and payloads. Users and conversations are plain
numbers of the caller. A template's integers are eight bytes wide, so that the generator can write them in place.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from ext.loadgen import LoadGenerator
from ext.tls import ClientContext

STAMP_BYTES = 32  # front of a payload that the generator writes
TOKEN_S = 86_400
DEVICE = 1


class Template(NamedTuple):
    """A publish command and its places to write into."""

    body: bytes
    counter_at: int
    payload_at: int


def context_for(host: str) -> ClientContext:
    """The client's half of TLS towards a host: by its name, where it has one (an address is not asked for)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return ClientContext(host)
    return ClientContext()


class Issuer:
    """An Ed25519 key pair: the public half goes into the server's key file, the private one signs tokens."""

    def __init__(self) -> None:
        self._private = ed25519.Ed25519PrivateKey.generate()

    def write(self, path: Path) -> Path:
        """The JWKS file for `[auth] keys`."""
        algorithm = jwt.get_algorithm_by_name("EdDSA")
        key: dict[str, Any] = algorithm.to_jwk(self._private.public_key(), as_dict=True)
        path.write_text(json.dumps({"keys": [{**key, "kid": "bench", "alg": "EdDSA", "use": "sig"}]}))
        return path

    def token(self, user: int) -> str:
        """A token that lasts a day."""
        claims = {"sub": str(user), "aud": "gonets", "exp": int(time.time()) + TOKEN_S}
        return jwt.encode(claims, self._private, algorithm="EdDSA", headers={"kid": "bench"})

    def service(self, user: int, team: str, scope: str) -> str:
        """A token of a service that lasts a day."""
        claims = {"sub": str(user), "aud": "gonets", "exp": int(time.time()) + TOKEN_S, "team": team, "scope": scope}
        return jwt.encode(claims, self._private, algorithm="EdDSA", headers={"kid": "bench"})

    def hello(self, user: int, device: int = DEVICE, sequence: int | None = None) -> bytes:
        """The body of a first command; with a sequence of shard 0 it resumes from there."""
        body: dict[str, Any] = {"op": "hello", "token": self.token(user), "device": device, "protocol": 1}
        if sequence is not None:
            body["positions"] = [{"shard": 0, "epoch": 1, "sequence": sequence}]
        packed: bytes = msgpack.packb(body)
        return packed


def certificate(folder: Path) -> dict[str, str]:
    """A certificate that signs itself (P-256, as an operator would take) and its key; the settings that name them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    files = {"GONETS_TLS_CERTIFICATE": folder / "certificate.pem", "GONETS_TLS_KEY": folder / "key.pem"}
    files["GONETS_TLS_CERTIFICATE"].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files["GONETS_TLS_KEY"].touch(0o600)
    files["GONETS_TLS_KEY"].write_bytes(key.private_bytes(*form))
    return {option: str(path) for option, path in files.items()}


def wide(value: int) -> bytes:
    """An integer as MessagePack's eight bytes, whatever its size."""
    return b"\xcf" + struct.pack(">Q", value)


def publish_template(target: str, number: int, payload_bytes: int) -> Template:
    """A publish to a `user` or `conversation`."""
    fill = fill_of(payload_bytes)
    head = b"\x84" + msgpack.packb("op") + msgpack.packb("publish") + msgpack.packb("counter") + wide(0)
    payload: bytes = msgpack.packb(bytes(STAMP_BYTES) + fill)
    body = head + msgpack.packb(target) + wide(number) + msgpack.packb("payload") + payload
    return Template(body, len(head) - 8, len(body) - payload_bytes)


def fill_of(payload_bytes: int) -> bytes:
    """What stands behind the stamp: the same for all, so that receivers can compare."""
    return bytes((7 * i + 3) & 0xFF for i in range(payload_bytes - STAMP_BYTES))


def command(op: str, **fields: object) -> bytes:
    """The body of any other command."""
    packed: bytes = msgpack.packb({"op": op, **fields})
    return packed


class SetupError(Exception):
    """The server did not do what a benchmark needs before it can start."""


def create(generator: LoadGenerator, connection: int, kind: str, title: str, members: list[int]) -> int:
    """A conversation of the connection's user and these members; its id. Few enough members for one event."""
    generator.command(
        connection,
        command(
            "create", counter=generator.next_counter(connection), kind=kind, title=title, members=members, history=False
        ),
    )
    return answered(generator, 1)[0]


def answered(generator: LoadGenerator, count: int, deadline_s: float = 60.0) -> list[int]:
    """Conversations of the receipts of what was just commanded, in the order in which they came."""
    settled = generator.settle(deadline_s)
    receipts = generator.take_receipts()
    refused = [receipt for receipt in receipts if receipt[2] != "appended"]
    if not settled or len(receipts) != count or refused:
        raise SetupError(f"{len(receipts)} of {count} commands answered, refused {refused[:3]}; {generator.stats()}")
    return [receipt[3] for receipt in receipts]

"""A client that seals records of TLS 1.3 by its own hand, so that a test may send what no library would.

After the handshake the traffic secret is taken from the key log (RFC 8446, 7.1 to 7.3); reading stays the library's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.support.poller_rig import MSGPACK, Peer
from tests.support.tls_peer import SecurePeer, SecureRig, authority

ALERT, HANDSHAKE, DATA = 21, 22, 23
KEY_UPDATE = b"\x18\x00\x00\x01\x00"
KEY_UPDATE_AND_ASK = b"\x18\x00\x00\x01\x01"


class Sealer:
    """The client's half of the record layer."""

    def __init__(self, secret: bytes, cipher: str) -> None:
        self._hash = hashes.SHA384() if cipher.endswith("SHA384") else hashes.SHA256()
        self._key_size = 16 if "AES_128" in cipher else 32
        self._kind = ChaCha20Poly1305 if "CHACHA20" in cipher else AESGCM
        self._use(secret)

    def _expand(self, secret: bytes, label: str, size: int) -> bytes:
        name = b"tls13 " + label.encode()
        info = size.to_bytes(2) + bytes((len(name),)) + name + b"\x00"
        return HKDFExpand(self._hash, size, info).derive(secret)

    def _use(self, secret: bytes) -> None:
        self._secret, self._count = secret, 0
        self._box = self._kind(self._expand(secret, "key", self._key_size))
        self._start = int.from_bytes(self._expand(secret, "iv", 12))

    def seal(self, body: bytes, kind: int = DATA, padding: int = 0) -> bytes:
        """One record."""
        inner = body + bytes((kind,)) + bytes(padding)
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2)
        nonce = (self._start ^ self._count).to_bytes(12)
        self._count += 1
        return head + self._box.encrypt(nonce, inner, head)

    def key_update(self, ask: bool = False) -> bytes:
        """A record that says: from the next one on, another key."""
        made = self.seal(KEY_UPDATE_AND_ASK if ask else KEY_UPDATE, HANDSHAKE)
        self._use(self._expand(self._secret, "traffic upd", self._hash.digest_size))
        return made


class Forger(SecurePeer):
    """A peer that writes by a `Sealer` once it has shaken hands."""

    def __init__(self, rig: SecureRig, encoding: str = MSGPACK, receive_bytes: int = 0) -> None:
        with tempfile.NamedTemporaryFile(prefix="gonets-keys-") as file:
            rig.trust = authority().client()
            rig.trust.keylog_filename = file.name
            super().__init__(rig, encoding, receive_bytes)
            self.shake()
            lines = [line.split() for line in Path(file.name).read_text().splitlines()]
        secret = next(words[2] for words in lines if words[0] == "CLIENT_TRAFFIC_SECRET_0")
        cipher = self.tls.cipher()
        assert cipher is not None
        self.sealer = Sealer(bytes.fromhex(secret), cipher[0])

    def send(self, data: bytes) -> int:
        """Plain bytes, as one record."""
        return Peer.send(self, self.sealer.seal(data)) and len(data)

    def raw(self, data: bytes) -> None:
        """Records, as they are."""
        sent = Peer.send(self, data)
        assert sent == len(data), f"{sent} of {len(data)} bytes taken"

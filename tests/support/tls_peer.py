"""A client's end of a connection that speaks TLS, for the poller's rig: each byte of ciphertext is the test's to send.

`SecureRig` is a rig whose poller has a certificate; its devices are `SecurePeer`s, which look like plain ones.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import tempfile
from pathlib import Path
from typing import Any

from ext.tls import Context
from tests.support.certificates import Authority
from tests.support.poller_rig import MSGPACK, Peer, Rig

TURNED_AWAY = "TLSV1_ALERT_INTERNAL_ERROR"  # OpenSSL's name for the alert of a server that takes nobody in


@functools.cache
def authority() -> Authority:
    """One for all tests of a process."""
    return Authority(Path(tempfile.mkdtemp(prefix="gonets-tls-")))


@functools.cache
def server_context(minimum: str = "1.3") -> Context:
    """A certificate for the rigs of a process."""
    return Context(*authority().pair("rig"), minimum)


class SecureRig(Rig):
    """A rig whose port speaks TLS."""

    def __init__(self, sessions_max: int = 64, send_bytes: int = 0, **options: Any) -> None:
        super().__init__(sessions_max, send_bytes, **options)
        self.poller.use_tls(server_context())
        self.trust = authority().client()

    def use_only(self, version: ssl.TLSVersion) -> None:
        """From now on the port takes 1.2 as well, and devices speak only this one."""
        self.poller.use_tls(server_context("1.2"))
        self.trust = authority().client(version)

    def peer(self, encoding: str = MSGPACK, **more: int) -> Peer:
        """A connection after the handshake of TLS."""
        made = SecurePeer(self, encoding, **more)
        made.shake()
        return made


class SecurePeer(Peer):
    """The client's half of TLS between two buffers; `pieces` is how many bytes of ciphertext go into one send."""

    def __init__(self, rig: SecureRig, encoding: str = MSGPACK, receive_bytes: int = 0, pieces: int = 1 << 30) -> None:
        super().__init__(rig, encoding, receive_bytes)
        self.rig, self.pieces = rig, pieces
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = rig.trust.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.kept = b""  # ciphertext that the kernel has not taken
        self.said_end = False  # close_notify has come
        self.shaken = False

    def shake(self) -> None:
        """The handshake, the rig turning meanwhile."""

        def shaken() -> bool:
            try:
                self._fetch(1 << 18)
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.pump()
                return bool(self.ended)  # by a deadline of the server, say
            except ssl.SSLError as error:
                if error.reason != TURNED_AWAY:
                    raise
                self.ended = "alert"
            self.pump()
            return True

        self.shaken = True
        self.rig.until(shaken)

    def pump(self) -> bool:
        """Sends ciphertext; True if all of it is gone."""
        self.kept += self.outgoing.read()
        while self.kept:
            sent = super().send(self.kept[: self.pieces])
            if sent == 0:
                return False
            self.kept = self.kept[sent:]
            if self.pieces < 1 << 20:
                self.rig.turn()
        return True

    def send(self, data: bytes) -> int:
        """All of it or, while the kernel is full, nothing."""
        if not self.shaken:
            self.shake()
        if self.ended or not self.pump():
            return 0
        self.tls.write(data)
        self.pump()
        return len(data)

    def command(self, op: str, **fields: Any) -> None:
        """One command, whole; behind what the kernel had no room for."""
        self.rig.until(self.pump)
        super().command(op, **fields)

    def _fetch(self, most: int) -> int:
        try:
            chunk = self.socket.recv(most)
        except BlockingIOError:
            return -1
        except ConnectionError:
            self.ended = "reset"
            return 0
        if chunk:
            self.incoming.write(chunk)
        else:
            self.ended = "end"
        return len(chunk)

    def read(self, most: int = 1 << 30) -> Any:
        """Takes up to so many bytes of ciphertext, and what they say."""
        while most > 0 and not self.ended:
            got = self._fetch(min(most, 1 << 18))
            if got <= 0:
                break
            most -= got
            self._plain()
        self._plain()
        return self

    def _plain(self) -> None:
        while not self.said_end:
            try:
                plain = self.tls.read(1 << 18)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                plain = b""
            self.data += plain
            self.said_end = not plain


def client_hello() -> bytes:
    """The first record of an ordinary client."""
    outgoing = ssl.MemoryBIO()
    tls = authority().client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()

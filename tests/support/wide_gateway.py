"""The fake gateway as native clients need it: integers of receipts have eight bytes, as PROTOCOL.md says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec
import pytest

from tests.support import fake_gateway
from tests.support.fake_gateway import FakeGateway


class Closes(Protocol):
    """A generator."""

    def close(self) -> None:
        """Its connections end."""


OPEN: list[Closes] = []  # generators of a test: they leave before the server, which would complain


@contextmanager
def gateway_of_generators() -> Iterator[FakeGateway]:
    """One that listens until whoever is in OPEN has left."""
    with wide_gateway() as server:
        yield server
        for generator in OPEN:
            generator.close()
        OPEN.clear()
        until = time.monotonic() + 5
        while server.sessions and time.monotonic() < until:
            time.sleep(0.005)


def port_of(server: FakeGateway) -> int:
    """Where it listens on 127.0.0.1."""
    return int(server.url.split(":")[2].split("/")[0])


@contextmanager
def wide_gateway() -> Iterator[FakeGateway]:
    """One that listens."""
    encode = fake_gateway.Session.encode

    def wide(session: fake_gateway.Session, name: str, body: Any) -> bytes:
        if name != "receipt":
            return encode(session, name, body)
        values = [
            msgspec.msgpack.encode(value) if isinstance(value, str) else b"\xcf" + value.to_bytes(8, "big")
            for value in body.values()
        ]
        return b"\x92\x02\x97" + b"".join(values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_gateway.Session, "encode", wide)
        with FakeGateway() as server:
            yield server

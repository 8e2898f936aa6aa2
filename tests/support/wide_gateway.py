"""The fake gateway as native clients need it: integers of receipts have eight bytes, as PROTOCOL.md says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from tests.support import fake_gateway
from tests.support.fake_gateway import FakeGateway


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

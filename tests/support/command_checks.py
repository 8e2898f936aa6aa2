"""Messages with commands, and the check of what native code makes of them against both models.

The models are tests/support/naive_commands.py (exactly what is hot) and gateway/requests.py (what a command is).
"""

from __future__ import annotations

import base64
import json
from typing import Any

import msgpack

from ext.commands import read_command
from gateway import requests
from tests.support import naive_commands
from tests.support.naive_commands import COLD, DELIVERED, HELLO, MSGPACK, PING, PUBLISH, READ, REFUSED, TYPING, Hot

MAX = 2**53 - 1


def read(encoding: int, message: bytes) -> Hot:
    """What native code makes of a message."""
    return Hot(*read_command(encoding, message))


def message(encoding: int, **fields: Any) -> bytes:
    """A message as a library writes it; in JSON bytes are base64, and only what must be is escaped."""
    if encoding == MSGPACK:
        packed: bytes = msgpack.packb(fields)
        return packed
    return json.dumps(fields, ensure_ascii=False, default=lambda data: base64.b64encode(data).decode()).encode()


def publish(encoding: int, **changed: Any) -> Hot:
    """A good publish but for some fields; None leaves one out."""
    fields = {"op": "publish", "counter": 3, "conversation": 77, "payload": b"hello", **changed}
    return read(encoding, message(encoding, **{name: value for name, value in fields.items() if value is not None}))


def check_against_python(encoding: int, data: bytes, found: Hot) -> None:
    """What is hot is a command in Python's eyes too, with the same values."""
    if found.kind in (COLD, REFUSED, HELLO):
        return
    request = requests.decode(encoding, data)
    if isinstance(request, requests.Publish):
        target = request.conversation if request.user is None else request.user
        body = request.payload if request.text is None else request.text.encode()
        flags = (request.user is not None) | (request.expected is not None) << 1
        seen = (request.counter, target, flags, request.expected or 0, 0, 0, request.type.encode(), body)
        assert (request.conversation is None) != (request.user is None) and request.target is None
        assert found == (PUBLISH, *seen)
    elif isinstance(request, requests.Delivered | requests.Read):
        kind = DELIVERED if isinstance(request, requests.Delivered) else READ
        assert found == Hot(kind, target=request.conversation, value=request.conversation_sequence)
    elif isinstance(request, requests.Typing):
        assert found == Hot(TYPING, target=request.conversation)
    else:
        assert isinstance(request, requests.Ping) and found == Hot(PING)


def check(encoding: int, data: bytes, exact: bool = True) -> Hot:
    """Compares with both models; not `exact`: COLD is an answer as well."""
    found = read(encoding, data)
    try:
        expected = naive_commands.read(encoding, data)
    except naive_commands.Undecided:
        return found
    assert found == expected or (not exact and found == Hot(COLD)), data
    check_against_python(encoding, data, found)
    return found

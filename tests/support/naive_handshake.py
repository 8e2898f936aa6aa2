"""The opening handshake, written down once more with regular expressions, base64 and hashlib.

A second implementation beside ext/handshake: a verdict from all that has come of a head, without remembering anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import NamedTuple

MORE, UPGRADE, REQUEST, REFUSED = 0, 1, 2, 3
MSGPACK, JSON = 0, 1
ENCODINGS = {b"gonets.v1.msgpack": MSGPACK, b"gonets.v1.json": JSON}
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
IMPOSSIBLE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n")
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20]+) HTTP/1\.1")
HEADER = re.compile(rb"(" + TOKEN + rb"):([^\r\n]*)")
KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
TARGET = re.compile(rb"(?:[hH][tT][tT][pP][sS]?://[^/?]*)?([^?]*).*", re.S)


class Verdict(NamedTuple):
    """What a head comes to; `accept` and `subprotocol` are those of the answer."""

    kind: int
    status: int = 0
    head_size: int = 0
    accept: bytes = b""
    subprotocol: bytes = b""


class Refused(Exception):
    """With the status of HTTP."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def accept_of(key: bytes) -> bytes:
    """RFC 6455, 4.2.2."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def need(good: object, status: int = 400) -> None:
    """Refuses where a rule is broken."""
    if not good:
        raise Refused(status)


def listed(values: list[bytes]) -> list[bytes]:
    """The entries of headers that hold lists."""
    items = [item.strip(b" \t") for value in values for item in value.split(b",")]
    return [item for item in items if item]


def judge(head: bytes, path: bytes, any_client: bool) -> Verdict:
    """A whole head; raises Refused."""
    first, *lines = head[:-4].split(b"\r\n")
    request = REQUEST_LINE.fullmatch(first)
    need(request)
    assert request
    need(request[1] in (b"GET", b"HEAD"), 405)
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        header = HEADER.fullmatch(line)
        need(header)
        assert header
        headers.setdefault(header[1].lower(), []).append(header[2].strip(b" \t"))
    need(len(headers.get(b"host", [])) == 1)
    need(b"transfer-encoding" not in headers and set(headers.get(b"content-length", [])) <= {b"0"})
    need(len(headers.get(b"sec-websocket-version", [])) <= 1 and len(headers.get(b"sec-websocket-key", [])) <= 1)
    if b"websocket" not in [item.lower() for item in listed(headers.get(b"upgrade", []))]:
        return Verdict(REQUEST, 0, len(head))
    need(request[1] == b"GET", 405)
    target = TARGET.fullmatch(request[2])
    assert target
    need(any_client or target[1] == path, 404)
    need(b"upgrade" in [item.lower() for item in listed(headers.get(b"connection", []))])
    need(headers.get(b"sec-websocket-version") == [b"13"], 426)
    key = headers.get(b"sec-websocket-key", [b""])[0]
    need(KEY.fullmatch(key))
    offered = [item for item in listed(headers.get(b"sec-websocket-protocol", [])) if item in ENCODINGS]
    need(any_client or offered)
    return Verdict(UPGRADE, 101, len(head), accept_of(key), offered[0] if offered else b"")


def read(data: bytes, head_bytes_max: int = 8_192, path: bytes = b"/v1", any_client: bool = False) -> Verdict:
    """What has come of a head."""
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[: end + 4]
    try:
        need(not IMPOSSIBLE.search(head))
        need(len(head) <= head_bytes_max, 431)
        if end < 0:
            need(not data or re.match(TOKEN, data))
            need(len(data) < head_bytes_max, 431)
            return Verdict(MORE)
        return judge(head, path, any_client)
    except Refused as refused:
        return Verdict(REFUSED, refused.status)

"""RFC 6455's server side, written down once more: from all bytes of a stream so far to what they say.

A second implementation beside ext/frames, without state: it begins at the first byte each time, so that it can't depend
on how a stream was cut. What it finds is compared with what the native reader has found by then.
"""

from __future__ import annotations

import codecs
import struct
from dataclasses import dataclass, field

TEXT, BINARY, CLOSE, PING, PONG, BROKEN = 1, 2, 8, 9, 10, 16
PROTOCOL_ERROR, BAD_UTF8, TOO_BIG, NO_CODE = 1002, 1007, 1009, 1005

# Section 7.4 and the register of IANA; 1004, 1005, 1006 and 1015 never travel.
CLOSE_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000)}

Result = tuple[int, bytes | int]


@dataclass
class Story:
    """What a stream has said, and how many bytes of an unfinished message or frame it has brought."""

    results: list[Result] = field(default_factory=list)
    message_bytes: int = 0
    idle: bool = True  # between messages, and between frames

    def broken(self, code: int) -> Story:
        """The end of it."""
        self.results.append((BROKEN, code))
        return self


def masked(data: bytes, mask: bytes) -> bytes:
    """Both directions."""
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x01\x82\x40\xff",
    length_form: int = 0,
) -> bytes:
    """A frame of a client; `length_form` 126 or 127 writes the size in more bytes than it needs."""
    size = len(payload)
    form = max(length_form, size if size < 126 else 126 if size < 65_536 else 127)
    head = bytes([fin << 7 | reserved << 4 | opcode, (mask is not None) << 7 | form])
    if form >= 126:
        head += struct.pack("!H" if form == 126 else "!Q", size)
    return head + (mask + masked(payload, mask) if mask is not None else payload)


def is_text_so_far(data: bytes) -> bool:
    """Whether more bytes could make it UTF-8."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return not (data[-2:-1] == b"\xed" and data[-1] >= 0xA0)  # Python waits for a surrogate's third byte


def is_text(data: bytes) -> bool:
    """Whether it is UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def control(opcode: int, payload: bytes) -> Result:
    """A whole control frame."""
    if opcode != CLOSE:
        return opcode, payload
    if not payload:
        return CLOSE, NO_CODE
    code = int.from_bytes(payload[:2]) if len(payload) >= 2 else 0
    if code not in CLOSE_CODES:
        return BROKEN, PROTOCOL_ERROR
    return (CLOSE, code) if is_text(payload[2:]) else (BROKEN, BAD_UTF8)


def head_allowed(first: int, second: int, inside: bool) -> bool:
    """Whether a frame may begin with these two bytes; `inside` a message that is not finished."""
    fin, reserved, opcode = first >> 7, first >> 4 & 7, first & 15
    is_masked, form = second >> 7, second & 127
    if reserved or not is_masked:
        return False
    if opcode in (CLOSE, PING, PONG):
        return bool(fin) and form <= 125
    return inside if opcode == 0 else opcode in (TEXT, BINARY) and not inside


def read(stream: bytes, message_bytes_max: int = 131_072) -> Story:
    """What the stream says."""
    story = Story()
    message, body = 0, b""
    while True:
        story.idle, story.message_bytes = not stream and not message, len(body)
        if len(stream) < 2:
            return story
        if not head_allowed(stream[0], stream[1], message != 0):
            return story.broken(PROTOCOL_ERROR)
        fin, opcode, size = stream[0] >> 7, stream[0] & 15, stream[1] & 127
        more = {126: 2, 127: 8}.get(size, 0)
        head_size = 6 + more
        if len(stream) < head_size:
            return story
        if more:
            size = int.from_bytes(stream[2 : 2 + more])
            if size < (126 if more == 2 else 65_536) or size >= 2**63:
                return story.broken(PROTOCOL_ERROR)
        payload = masked(stream[head_size : head_size + size], stream[head_size - 4 : head_size])
        whole = len(payload) == size
        stream = stream[head_size + size :]
        if opcode >= 8:
            if not whole:
                return story
            story.results.append(control(opcode, payload))
            if story.results[-1][0] == BROKEN:
                return story
            continue
        if len(body) + size > message_bytes_max:
            return story.broken(TOO_BIG)
        message, body = opcode or message, body + payload
        story.message_bytes = len(body)
        if message == TEXT and not is_text_so_far(body):
            return story.broken(BAD_UTF8)
        if not whole:
            return story
        if fin:
            if message == TEXT and not is_text(body):
                return story.broken(BAD_UTF8)
            story.results.append((message, body))
            message, body = 0, b""

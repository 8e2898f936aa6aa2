"""What may come in the clear from a TLS client, read the slow way: the judge of ext/tlsheaders."""

from __future__ import annotations

MORE, WHOLE, UNEXPECTED, OVERFLOW, TOO_LARGE, VERSION = 0, 1, 10, 22, 47, 70
HANDSHAKE, CLIENT_HELLO, KEY_EXCHANGE = 22, 1, 16
HELLO_MOST = 16_384
RECORDS_MOST = 256


def read(data: bytes) -> int:
    """MORE or WHOLE as a record is open at the end or not; else the alert for the first thing that is wrong."""
    at, count, messages = 0, 0, b""
    while at < len(data):
        head = data[at : at + 5]
        _, hellos, exchanged = _messages(messages)
        if not 20 <= head[0] <= 23 or (not hellos and head[0] != HANDSHAKE):
            return UNEXPECTED
        if len(head) > 1 and head[1] != 3:
            return VERSION
        if len(head) < 5:
            return MORE
        count += 1
        size = int.from_bytes(head[3:])
        in_the_clear = head[0] == HANDSHAKE and not exchanged
        if count > RECORDS_MOST or (in_the_clear and size == 0):
            return OVERFLOW if count <= RECORDS_MOST and size > 16_384 else UNEXPECTED
        if size > (16_384 if in_the_clear else 18_432):
            return OVERFLOW
        body = data[at + 5 : at + 5 + size]
        if in_the_clear:
            messages += body
            if verdict := _messages(messages)[0]:
                return verdict
        at += 5 + size
        if at > len(data):
            return MORE
    return WHOLE if data else MORE


def _messages(data: bytes) -> tuple[int, int, bool]:
    """(what is wrong or 0, ClientHellos whose header is whole, whether the key exchange of TLS 1.2 has begun)."""
    hellos = at = 0
    while at < len(data):
        head = data[at : at + 4]
        if head[0] == KEY_EXCHANGE and hellos:
            return 0, hellos, True
        if head[0] != CLIENT_HELLO or hellos == 2:
            return UNEXPECTED, hellos, False
        if int.from_bytes(head[1:].ljust(3, b"\0")) > HELLO_MOST and (len(head) == 4 or head[1:2] > b"\0"):
            return TOO_LARGE, hellos, False
        if len(head) < 4:
            break
        hellos += 1
        at += 4 + int.from_bytes(head[1:])
    return 0, hellos, False

"""The PROXY protocol's headers read the slow way, from the specification."""

from __future__ import annotations

import ipaddress
import re

MORE, DONE, BAD = 0, 1, 2
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MOST = 4_096
TEXT = re.compile(r"PROXY (?:UNKNOWN(?: [ -~]*)?|(TCP[46]) ([^ ]+) ([^ ]+) ([0-9]+) ([0-9]+))\r\n")
NEEDED = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}


def read(data: bytes) -> tuple[int, int, int, bytes]:
    """(verdict, size, family, address) of what is certainly whole or certainly wrong when all of it is there."""
    if data.startswith(SIGNATURE):
        return _binary(data)
    if SIGNATURE.startswith(data):
        return MORE, 0, 0, bytes(16)
    return _text(data)


def _binary(data: bytes) -> tuple[int, int, int, bytes]:
    bad = (BAD, 0, 0, bytes(16))
    if len(data) < 16:
        return MORE, 0, 0, bytes(16)
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command not in (0x20, 0x21) or family not in NEEDED or 16 + length > MOST:
        return bad
    if command == 0x21 and length < NEEDED[family]:
        return bad
    if len(data) < 16 + length:
        return MORE, 0, 0, bytes(16)
    if command == 0x21 and family == 0x11:
        return DONE, 16 + length, 4, _mapped(data[16:20])
    if command == 0x21 and family == 0x21:
        return DONE, 16 + length, 6, data[16:32]
    return DONE, 16 + length, 0, bytes(16)


def _text(data: bytes) -> tuple[int, int, int, bytes]:
    bad = (BAD, 0, 0, bytes(16))
    end = data.find(b"\r\n")
    if end < 0 or end + 2 > 107:
        return bad if len(data) >= 107 or end >= 0 else (MORE, 0, 0, bytes(16))
    found = TEXT.fullmatch(data[: end + 2].decode("latin-1"))
    if found is None:
        return bad
    if found.group(1) is None:
        return DONE, end + 2, 0, bytes(16)
    version = int(found.group(1)[3])
    try:
        addresses = [ipaddress.ip_address(found.group(place)) for place in (2, 3)]
    except ValueError:
        return bad
    for place in (4, 5):
        port = found.group(place)
        if str(int(port)) != port or int(port) > 65_535:
            return bad
    if any(address.version != version or "%" in str(address) for address in addresses):
        return bad
    packed = addresses[0].packed
    return DONE, end + 2, version, _mapped(packed) if version == 4 else packed


def _mapped(address: bytes) -> bytes:
    return bytes(10) + b"\xff\xff" + address

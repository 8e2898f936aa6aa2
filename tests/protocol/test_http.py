"""The handshake as an attacker writes it: every request gets one plain answer, and the end."""

from __future__ import annotations

import re

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.hostile import UPGRADE, Foe, connect, frame, hello, play, settled
from tests.support.poller_rig import CLOSE

HEAD = UPGRADE.decode()


def changed(old: str, new: str) -> bytes:
    """The good request with something else in it."""
    assert HEAD.count(old) >= 1
    return HEAD.replace(old, new, 1).encode()


def also(*lines: str) -> bytes:
    """The good request with more headers."""
    return changed("Host: x\r\n", "Host: x\r\n" + "".join(line + "\r\n" for line in lines))


SMUGGLED = "GET /v1 HTTP/1.1\r\nHost: y\r\n\r\n"
REQUESTS: dict[str, tuple[bytes, int]] = {
    "the good one": (UPGRADE, 101),
    "absolute target": (changed("/v1", "http://elsewhere.example/v1"), 101),
    "absolute target of another scheme": (changed("/v1", "ftp://x/v1"), 404),
    "a query": (changed("/v1", "/v1?token=x"), 101),
    "an encoded path": (changed("/v1", "/%76%31"), 404),
    "a path with dots": (changed("/v1", "/api/../v1"), 404),
    "two slashes": (changed("/v1", "//v1"), 404),
    "asterisk": (changed("/v1", "*"), 404),
    "authority": (changed("GET /v1", "CONNECT x:80"), 405),
    "1.0": (changed("HTTP/1.1", "HTTP/1.0"), 400),
    "2.0": (changed("HTTP/1.1", "HTTP/2.0"), 400),
    "1.10": (changed("HTTP/1.1", "HTTP/1.10"), 400),
    "0.9": (b"GET /v1\r\n\r\n", 400),
    "lower case version": (changed("HTTP/1.1", "http/1.1"), 400),
    "lower case method": (changed("GET", "get"), 405),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "upgrade to h2c": (changed("Upgrade: websocket", "Upgrade: h2c"), 426),
    "h2c beside websocket": (changed("Upgrade: websocket", "Upgrade: h2c, websocket"), 101),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
    "PROXY": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + UPGRADE, 400),
    "an empty line first": (b"\r\n" + UPGRADE, 400),
    "a space first": (b" " + UPGRADE, 400),
    "two spaces": (changed("GET /v1", "GET  /v1"), 400),
    "a tab for a space": (changed("GET /v1", "GET\t/v1"), 400),
    "a space behind": (changed("HTTP/1.1", "HTTP/1.1 "), 400),
    "line feeds alone": (UPGRADE.replace(b"\r\n", b"\n"), 400),
    "one line feed alone": (changed("Host: x\r\n", "Host: x\n"), 400),
    "carriage return inside": (also("X: a\rb"), 400),
    "NUL in the target": (changed("/v1", "/v1\0"), 400),
    "NUL in a value": (also("X: \0"), 400),
    "NUL at the end": (UPGRADE[:-2] + b"\0\r\n", 400),
    "folded line": (also("X: a", " b"), 400),
    "folded first line": (changed("Host", " Host"), 400),
    "space before the colon": (also("X : a"), 400),
    "no colon": (also("X"), 400),
    "no name": (also(": a"), 400),
    "a name of other letters": (also("Xé: a"), 400),
    "no host": (changed("Host: x\r\n", ""), 400),
    "two hosts": (also("Host: y"), 400),
    "two keys": (also("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 400),
    "two versions": (also("Sec-WebSocket-Version: 13"), 400),
    "version 8": (changed("Version: 13", "Version: 8"), 426),
    "version 13, 8": (changed("Version: 13", "Version: 13, 8"), 426),
    "version 013": (changed("Version: 13", "Version: 013"), 426),
    "no version": (changed("Sec-WebSocket-Version: 13\r\n", ""), 426),
    "no key": (changed("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", ""), 400),
    "a key with spaces": (changed("AAAAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAA AAAAAAAAAAA=="), 400),
    "an empty key": (changed("AAAAAAAAAAAAAAAAAAAAAA==", ""), 400),
    "no subprotocol": (changed("Sec-WebSocket-Protocol: gonets.v1.msgpack\r\n", ""), 400),
    "another subprotocol": (changed("gonets.v1.msgpack", "gonets.v2.msgpack"), 400),
    "many headers": (also(*(f"X-{n}: y" for n in range(500))), 101),
    "too many headers": (also(*(f"X-{n}: y" for n in range(5_000))), 431),
    "a huge header": (also("X: " + "y" * 100_000), 431),
    "a huge name": (also("X" * 100_000 + ": y"), 431),
    "a huge target": (changed("/v1", "/v1?" + "x" * 100_000), 431),
    "commas": (also("Connection: " + "," * 8_000, "Sec-WebSocket-Protocol: " + "," * 4_000), 101),
    "length and chunks": (also("Content-Length: 40", "Transfer-Encoding: chunked") + SMUGGLED.encode(), 400),
    "a length": (also(f"Content-Length: {len(SMUGGLED)}") + SMUGGLED.encode(), 400),
    "two lengths": (also("Content-Length: 0", "Content-Length: 5") + b"GET /", 400),
    "a negative length": (also("Content-Length: -1"), 400),
    "chunks": (also("Transfer-Encoding: chunked") + b"0\r\n\r\n" + SMUGGLED.encode(), 400),
    "chunks in disguise": (also("Transfer-Encoding:\tchunked ;x"), 400),
    "two requests": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2, 200),
    "a request before the upgrade": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + UPGRADE, 200),
    "HEAD": (changed("GET", "HEAD"), 405),
    "POST": (changed("GET", "POST"), 405),
    "a response": (b"HTTP/1.1 200 OK\r\n\r\n", 400),
}


@pytest.mark.parametrize("cut", ["at once", "byte by byte"])
def test_every_request_gets_one_answer(gateway: GatewayProcess, cut: str) -> None:
    """In one piece, or (the short ones) in as many as there are bytes: the answer is the same."""
    chosen = {name: row for name, row in REQUESTS.items() if cut == "at once" or len(row[0]) < 800}
    foes = []
    for name, (data, status) in chosen.items():
        sent = data + frame(b"", CLOSE) if status == 101 else data
        script = [sent] if cut == "at once" else [bytes((byte,)) for byte in sent]
        foes.append(Foe(name, script, connect(gateway)))
    play(foes, 8, turn_s=0 if cut == "byte by byte" else 0.02)
    answers = {foe.name: int(foe.received.split(b" ", 2)[1]) if foe.received else 0 for foe in foes}
    assert answers == {name: status for name, (_, status) in chosen.items()}
    for foe in foes:
        assert foe.ended_s, f"{foe.name}: the connection goes on"
        assert len(re.findall(rb"HTTP/1\.1 \d\d\d ", foe.received)) == 1, f"{foe.name}: {foe.received!r}"
        if answers[foe.name] not in (101, 405):  # HEAD has no body
            head, _, body = foe.received.partition(b"\r\n\r\n")
            (size,) = re.findall(rb"Content-Length: (\d+)", head)
            assert len(body) == int(size) and re.search(rb"\r\nConnection: (Upgrade, )?close", head)
        foe.connection.close()
    settled(gateway, sessions=0)


def test_what_lies_behind_the_upgrade_is_frames_and_nothing_else(gateway: GatewayProcess) -> None:
    """Sent with the request, before its answer: a hello is heard, a second request is a broken frame."""
    greeted, smuggler = connect(gateway), connect(gateway)
    foes = [
        Foe("hello", [UPGRADE + hello(gateway, 1) + frame(b"\x03\xe8", CLOSE)], greeted),
        Foe("request", [UPGRADE + SMUGGLED.encode() + hello(gateway, 2)], smuggler),
    ]
    play(foes, 5)
    assert {foe.name: foe.outcome() for foe in foes} == {"hello": 1000, "request": 1002}
    assert b"welcome" in foes[0].received or b"\x92\x03" in foes[0].received
    assert foes[1].received.count(b"HTTP/1.1") == 1 and b"\x92\x03" not in foes[1].received
    settled(gateway, sessions=0)

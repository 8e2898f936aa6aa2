"""The opening handshake: what browsers and proxies send is taken, the rest refused by name, and the model agrees."""

from __future__ import annotations

import base64
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.handshake import read_head
from tests.support import naive_handshake
from tests.support.naive_handshake import ENCODINGS, JSON, MORE, MSGPACK, REFUSED, REQUEST, UPGRADE, Verdict

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
REASONS = {
    400: b"400 Bad Request",
    404: b"404 Not Found",
    405: b"405 Method Not Allowed",
    426: b"426 Upgrade Required",
    431: b"431 Request Header Fields Too Large",
}
GOOD: dict[str, str] = {
    "Host": "chat.example:8443",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY.decode(),
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "gonets.v1.msgpack",
}


def head(*more: str, line: str = "GET /v1 HTTP/1.1", **changed: str | None) -> bytes:
    """A good head but for headers changed (by name, `_` for `-`), left out (None) or added."""
    headers = {name.lower(): f"{name}: {value}" for name, value in GOOD.items()}
    for name, value in changed.items():
        name = name.replace("_", "-")
        if value is None:
            del headers[name]
        else:
            headers[name] = f"{name}: {value}"
    return "\r\n".join([line, *headers.values(), *more, "", ""]).encode("latin-1")


def fields_of(answer: bytes) -> tuple[bytes, dict[bytes, list[bytes]], bytes]:
    """Status line, headers and body of an answer of HTTP."""
    top, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = top.split(b"\r\n")
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, _, value = line.partition(b": ")
        headers.setdefault(name, []).append(value)
    return first, headers, body


def check_refusal(status: int, answer: bytes) -> bytes:
    """A refusal says its status, closes, and has a body of exactly the size it names: its reason."""
    first, headers, body = fields_of(answer)
    assert first == b"HTTP/1.1 " + REASONS[status]
    assert headers[b"Connection"][-1] == b"close"
    assert headers[b"Content-Length"] == [b"%d" % len(body)] and body.endswith(b"\n")
    assert headers.get(b"Allow") == ([b"GET, HEAD"] if status == 405 else None)
    if status == 426:
        assert headers[b"Sec-WebSocket-Version"] == [b"13"] and headers[b"Upgrade"] == [b"websocket"]
        assert headers[b"Connection"] == [b"Upgrade", b"close"]
    return body[:-1]


def verdict(
    data: bytes, looked: int = 0, limit: int = 8_192, path: bytes = b"/v1", any_client: bool = False
) -> Verdict:
    """The native verdict in the model's words; its answer is looked at whole."""
    kind, status, encoding, head_size, answer = read_head(data, looked, limit, path, any_client)
    if kind == REFUSED:
        check_refusal(status, answer)
        return Verdict(kind, status)
    if kind != UPGRADE:
        assert answer == b"" and encoding == 0
        return Verdict(kind, status, head_size)
    first, headers, body = fields_of(answer)
    assert first == b"HTTP/1.1 101 Switching Protocols" and body == b""
    (accept,) = headers.pop(b"Sec-WebSocket-Accept")
    (subprotocol,) = headers.pop(b"Sec-WebSocket-Protocol", [b""])
    assert encoding == ENCODINGS.get(subprotocol, 0)
    assert headers == {b"Upgrade": [b"websocket"], b"Connection": [b"Upgrade"]}  # and no extension
    return Verdict(kind, status, head_size, accept, subprotocol)


def check(data: bytes, kind: int, status: int = 0, subprotocol: bytes = b"gonets.v1.msgpack") -> None:
    """What is expected, and what the model says."""
    found = verdict(data)
    assert found == naive_handshake.read(data)
    assert found[:2] == (kind, status), read_head(data)
    if kind == UPGRADE:
        assert found.subprotocol == subprotocol and found.head_size == data.index(b"\r\n\r\n") + 4


def refused(data: bytes, status: int, reason: bytes) -> None:
    """A refusal that says why."""
    check(data, REFUSED, status)
    assert reason in check_refusal(status, read_head(data)[4])


# ---- what is taken ---------------------------------------------------------------------------------------------------


def test_the_example_of_the_rfc() -> None:
    data = head(sec_websocket_protocol="chat, superchat, gonets.v1.json", line="GET /v1 HTTP/1.1")
    assert read_head(data) == (
        UPGRADE,
        101,
        JSON,
        len(data),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + ACCEPT
        + b"\r\nSec-WebSocket-Protocol: gonets.v1.json\r\n\r\n",
    )


CHROME = (
    "GET /v1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\r\n"
    "Upgrade: websocket\r\nOrigin: http://127.0.0.1:8080\r\nSec-WebSocket-Version: 13\r\n"
    'Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: ru-RU,ru;q=0.9\r\nCookie: a=b; c="d"\r\n'
    f"Sec-WebSocket-Key: {KEY.decode()}\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    "Sec-WebSocket-Protocol: gonets.v1.json, gonets.v1.msgpack\r\n\r\n"
)
FIREFOX = (
    "GET /v1?since=3 HTTP/1.1\r\nHost: chat.example\r\nUser-Agent: Mozilla/5.0 (X11; rv:127.0) Gecko/20100101\r\n"
    "Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    "Sec-WebSocket-Version: 13\r\nOrigin: https://chat.example\r\nSec-WebSocket-Protocol: gonets.v1.json\r\n"
    f"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: {KEY.decode()}\r\nDNT: 1\r\n"
    "Connection: keep-alive, Upgrade\r\nSec-Fetch-Mode: websocket\r\nPragma: no-cache\r\nUpgrade: websocket\r\n\r\n"
)
PROXY = (
    "GET /v1 HTTP/1.1\r\nhost:x\r\nupgrade:WebSocket\r\nconnection:upgrade\r\nsec-websocket-version:13\r\n"
    f"sec-websocket-key:{KEY.decode()}\r\nsec-websocket-protocol:gonets.v1.json\r\nx-forwarded-for:1.2.3.4\r\n"
    "content-length:0\r\nx-empty:\r\n\r\n"
)


@pytest.mark.parametrize("text", [CHROME, FIREFOX, PROXY])
def test_browsers_and_proxies(text: str) -> None:
    check(text.encode(), UPGRADE, 101, b"gonets.v1.json")


@pytest.mark.parametrize(
    "changed",
    [
        {"connection": "keep-alive, Upgrade"},
        {"connection": "UPGRADE"},
        {"connection": ",, keep-alive ,\t upgrade ,"},
        {"upgrade": "WebSocket"},
        {"upgrade": "h2c, websocket"},
        {"sec_websocket_version": " \t 13 \t"},
        {"host": ""},
        {"content_length": "0"},
        {"user_agent": "Caf\xe9"},
        {"sec_websocket_protocol": "gonets.v1.msgpack,gonets.v1.json"},
    ],
)
def test_case_lists_and_white_space(changed: dict[str, str]) -> None:
    check(head(**changed), UPGRADE, 101)


def test_lists_over_several_headers() -> None:
    check(head("Connection: upgrade", connection="keep-alive"), UPGRADE, 101)
    check(head("Upgrade: websocket", upgrade="h2c"), UPGRADE, 101)
    check(
        head("Sec-WebSocket-Protocol: gonets.v1.json", sec_websocket_protocol="a, b"), UPGRADE, 101, b"gonets.v1.json"
    )
    both = head("Sec-WebSocket-Protocol: gonets.v1.json", sec_websocket_protocol="x, gonets.v1.msgpack")
    check(both, UPGRADE, 101, b"gonets.v1.msgpack")


@pytest.mark.parametrize(
    "target", ["/v1", "/v1?", "/v1?a=b&c=/v2?x", "http://chat.example/v1", "HTTPS://chat.example:8443/v1?x=1"]
)
def test_targets_that_name_the_path(target: str) -> None:
    check(head(line=f"GET {target} HTTP/1.1"), UPGRADE, 101)


def test_frames_behind_the_head_stay() -> None:
    data = head()
    check(data + b"\x81\x80\0\0\0\0", UPGRADE, 101)
    assert read_head(data + b"\0\n\r\xff")[3] == len(data)


def test_any_client_takes_every_path_and_needs_no_subprotocol() -> None:
    for data in (
        head(line="GET /elsewhere HTTP/1.1", sec_websocket_protocol=None),
        head(line="GET * HTTP/1.1", sec_websocket_protocol="chat"),
        head(line="GET / HTTP/1.1", sec_websocket_protocol="gonets.v1.json"),
    ):
        found = verdict(data, any_client=True)
        assert found == naive_handshake.read(data, any_client=True)
        assert found.kind == UPGRADE
    assert verdict(head(sec_websocket_key="short"), any_client=True).status == 400


def test_plain_requests_are_for_others() -> None:
    for method in ("GET", "HEAD"):
        line = f"{method} /healthz HTTP/1.1"
        check(head(line=line, upgrade=None), REQUEST)
        check(head(line=line, upgrade="h2c"), REQUEST)
        check(f"{method} /readyz HTTP/1.1\r\nHost: x\r\n\r\n".encode(), REQUEST)
    assert read_head(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nmore") == (REQUEST, 0, 0, 27, b"")


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "",
        "=",
        KEY.decode()[:-1],
        KEY.decode() + "=",
        KEY.decode()[:-2],
        "dGhlIHNhbXBsZSBub25jZQ=a",
        "dGhl IHNhbXBsZSBub25jZ==",
        "dGhlIHNhbXBsZSBub25jZ===",
        "dGhlIHNhbXBsZSBub25j-_==",
        "A" * 24,
        "A" * 200,
        "\xff" * 22 + "==",
    ],
)
def test_bad_keys(key: str) -> None:
    refused(head(sec_websocket_key=key), 400, b"Sec-WebSocket-Key must be 16 bytes")


@pytest.mark.parametrize(
    ("changed", "status", "reason"),
    [
        ({"host": None}, 400, b"Host"),
        ({"connection": None}, 400, b"Connection: Upgrade"),
        ({"connection": "keep-alive"}, 400, b"Connection: Upgrade"),
        ({"connection": "upgraded"}, 400, b"Connection: Upgrade"),
        ({"sec_websocket_version": None}, 426, b"13"),
        ({"sec_websocket_version": "8"}, 426, b"13"),
        ({"sec_websocket_version": "13, 8"}, 426, b"13"),
        ({"sec_websocket_version": "013"}, 426, b"13"),
        ({"sec_websocket_key": None}, 400, b"Sec-WebSocket-Key"),
        ({"sec_websocket_protocol": None}, 400, b"gonets.v1.msgpack or gonets.v1.json"),
        ({"sec_websocket_protocol": "GONETS.V1.JSON"}, 400, b"gonets.v1.msgpack or gonets.v1.json"),
        ({"sec_websocket_protocol": "gonets.v1.json2, gonets"}, 400, b"gonets.v1.msgpack or gonets.v1.json"),
        ({"content_length": "5"}, 400, b"no body"),
        ({"content_length": "00"}, 400, b"no body"),
        ({"transfer_encoding": "chunked"}, 400, b"no body"),
        ({"line": "HEAD /v1 HTTP/1.1"}, 405, b"begins with GET"),
        ({"line": "POST /v1 HTTP/1.1"}, 405, b"only GET"),
        ({"line": "get /v1 HTTP/1.1"}, 405, b"only GET"),
        ({"line": "CONNECT x:443 HTTP/1.1"}, 405, b"only GET"),
    ],
)
def test_what_a_head_lacks(changed: dict[str, str], status: int, reason: bytes) -> None:
    refused(head(**changed), status, reason)


@pytest.mark.parametrize(
    "target",
    ["/", "/v2", "/v1/", "/v", "/v11", "/V1", "/v1#x", "/%761", "v1", "*", "http://x", "http://x?/v1", "ws://x/v1"],
)
def test_other_paths(target: str) -> None:
    refused(head(line=f"GET {target} HTTP/1.1"), 404, b"not served at this path")


def test_two_lengths_are_two_headers() -> None:
    for first, second in (("5", "0"), ("0", "5")):
        refused(head(f"Content-Length: {second}", content_length=first), 400, b"no body")
    check(head("Content-Length: 0", content_length="0"), UPGRADE, 101)


@pytest.mark.parametrize("name", ["Host", "Sec-WebSocket-Key", "Sec-WebSocket-Version"])
def test_a_header_that_may_come_once(name: str) -> None:
    refused(head(f"{name}: {GOOD[name]}"), 400, b"came twice")
    refused(head(f"{name.upper()}:"), 400, b"came twice")


@pytest.mark.parametrize(
    "line",
    [
        "GET /v1 HTTP/1.0",
        "GET /v1 HTTP/2.0",
        "GET /v1",
        "GET  /v1 HTTP/1.1",
        "GET /v1  HTTP/1.1",
        "GET /v1 HTTP/1.1 ",
        " GET /v1 HTTP/1.1",
        "GET\t/v1\tHTTP/1.1",
        "GET /v1 http/1.1",
        "GET /v1 a HTTP/1.1",
        "G:T /v1 HTTP/1.1",
        "GET",
        "",
        "GET /v1 HTTP/1.1\r",
        "GET /v1\r HTTP/1.1",
    ],
)
def test_request_lines_that_are_none(line: str) -> None:
    refused(head(line=line), 400, b"request line")


@pytest.mark.parametrize(
    "line",
    [
        " folded",
        "\tfolded",
        ": empty",
        "no colon",
        "Name : space",
        "Na(me: x",
        "N\xe4me: x",
        "Na me: x",
        "X: a\rb",
        "X: a\r",
        "\rX: a",
    ],
)
def test_malformed_headers(line: str) -> None:
    refused(head(line), 400, b"a header is malformed")


@pytest.mark.parametrize("byte", [*range(9), 11, 12, *range(14, 32), 127])
def test_control_characters_are_no_http(byte: int) -> None:
    for data in (b"GE" + bytes([byte]), b"GET /v1" + bytes([byte]), head("X: " + chr(byte))):
        refused(data, 400, b"this is not HTTP")


def test_every_byte_in_the_name_of_a_header_and_in_a_key() -> None:
    for byte in range(256):
        if chr(byte) not in "\r\n":
            for data in (head(f"Na{chr(byte)}me: x"), head(sec_websocket_key="A" * 21 + chr(byte) + "==")):
                assert verdict(data) == naive_handshake.read(data), byte


def test_what_is_no_http_is_refused_before_its_head_ends() -> None:
    refused(b"\x16\x03\x01\x02\x00\x01", 400, b"not HTTP")  # TLS
    refused(b"\r\n", 400, b"not HTTP")
    refused(b" GET", 400, b"not HTTP")
    refused(b"\xff", 400, b"not HTTP")
    refused(b"GET /v1 HTTP/1.1\nHost: x\n", 400, b"CR LF")
    refused(b"GET /v1 HTTP/1.1\r\nHost: x\n\n", 400, b"CR LF")
    refused(b"\n", 400, b"CR LF")
    refused(b"\r\n\r\n", 400, b"request line")
    refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b"request line")


def test_the_limit_of_a_head() -> None:
    good = head()
    assert verdict(good, limit=len(good)).kind == UPGRADE
    for data in (good, good + b"\x81", good[:-1], good[:-1] + b"x" * 9):
        assert verdict(data, limit=len(good) - 1) == naive_handshake.read(data, len(good) - 1) == Verdict(REFUSED, 431)
    assert verdict(good[:-2], limit=len(good) - 1).kind == MORE
    endless = head("X: " + "y" * 9_000)
    refused(endless, 431, b"too large")
    refused(endless[:8_192], 431, b"too large")
    check(endless[:8_191], MORE)
    assert verdict(endless, limit=10_000).kind == UPGRADE


# ---- arriving in pieces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [CHROME.encode(), head(), head(sec_websocket_key="x"), head(upgrade=None), head("a:\nb")]
)
def test_byte_by_byte_it_is_the_same(data: bytes) -> None:
    final = verdict(data)
    for size in range(len(data) + 1):
        found = verdict(data[:size], looked=max(size - 1, 0))
        assert found == verdict(data[:size]) == naive_handshake.read(data[:size])
        if found.kind != MORE:
            assert found == final
            return
    raise AssertionError("never a verdict")


def test_looked_at_bytes_are_not_looked_at_again() -> None:
    data = head()
    spoilt = b"\0" + data[1:]
    assert verdict(spoilt, looked=len(data) - 1).status == 400  # found when the line is judged
    for end in range(1, 5):
        assert verdict(data, looked=len(data) - end).kind == UPGRADE
    assert verdict(data, looked=len(data)).kind == UPGRADE


# ---- at random -------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16))
def test_the_accept_of_any_key(nonce: bytes) -> None:
    key = base64.b64encode(nonce)
    found = verdict(head(sec_websocket_key=key.decode()))
    assert (found.kind, found.accept) == (UPGRADE, naive_handshake.accept_of(key))


def test_sha1_over_many_keys() -> None:
    rng = random.Random(180_4)
    parts = head().split(KEY)
    for _ in range(5_000):
        key = base64.b64encode(rng.randbytes(16))
        data = parts[0] + key + parts[1]
        assert read_head(data)[4][97:125] == naive_handshake.accept_of(key), key


spaces = st.sampled_from(["", " ", " \t"])
names = st.sampled_from([*GOOD, "content-length", "transfer-encoding", "origin", "X-Y"]).flatmap(
    lambda name: st.sampled_from([name, name.lower(), name.upper()])
)
values = st.sampled_from(
    [
        *GOOD.values(),
        "keep-alive, Upgrade",
        "h2c",
        "gonets.v1.json, x",
        "x,,gonets.v1.json",
        "0",
        "12",
        "",
        " ",
        "WebSocket",
    ]
)
lines = st.sampled_from(
    [
        "GET /v1 HTTP/1.1",
        "GET /v1?q HTTP/1.1",
        "GET http://x/v1 HTTP/1.1",
        "HEAD /v1 HTTP/1.1",
        "GET / HTTP/1.1",
        "PUT /v1 HTTP/1.1",
        "GET /v1 HTTP/1.0",
    ]
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Good ones and near misses: headers in any order, some lost, some more, perhaps a changed byte."""
    rows = [f"{name}: {value}" for name, value in GOOD.items()]
    if draw(st.integers(0, 2)) == 0:
        del rows[draw(st.integers(0, len(rows) - 1))]
    for name, value in draw(st.lists(st.tuples(names, values), max_size=2)):
        rows.append(f"{name}:{draw(spaces)}{value}")
    first = draw(st.just("GET /v1 HTTP/1.1") | lines)
    data = bytearray("\r\n".join([first, *draw(st.permutations(rows)), "", ""]).encode())
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(data) - 1))
        data[place : place + draw(st.integers(0, 2))] = draw(
            st.binary(max_size=2) | st.sampled_from([b"\r", b"\n", b"\r\n"])
        )
    return bytes(data)


@settings(max_examples=500)
@given(heads(), st.lists(st.integers(0, 400), max_size=4), st.sampled_from([8_192, 200]), st.booleans())
def test_any_head_cut_anywhere_comes_to_what_the_model_says(
    data: bytes, cuts: list[int], limit: int, any_client: bool
) -> None:
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    for looked, end in pairwise(edges):
        found = verdict(data[:end], looked, limit, any_client=any_client)
        assert found == naive_handshake.read(data[:end], limit, any_client=any_client)
        if found.kind != MORE:
            return


def test_changed_bytes_never_change_more_than_the_model() -> None:
    rng = random.Random(6455)
    sources = [CHROME.encode(), FIREFOX.encode(), PROXY.encode()]
    for _ in range(4_000):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), 10, 13, 32, 44, 58))
        assert verdict(bytes(data)) == naive_handshake.read(bytes(data)), bytes(data)


def test_both_encodings_are_told_apart() -> None:
    assert read_head(head())[2] == MSGPACK
    assert read_head(head(sec_websocket_protocol="gonets.v1.json"))[2] == JSON

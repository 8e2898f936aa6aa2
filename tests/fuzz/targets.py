"""What is fuzzed: every parser of foreign bytes, each a function of bytes that fails when two implementations differ.

Where a naive model exists it is the judge; else the promises of the parser are: no crash, a named error, nothing
invented. `run.py` drives one target with coverage from native code; `test_corpus.py` runs what has been found so far
through all of them. The first bytes of an input choose options, so that one corpus entry is one whole case.
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from bench.flips import made as flips
from engine.config import ConfigError, load
from engine.errors import EngineError
from engine.log.format import pack_header, unpack_header
from engine.log.structure import Broken, Pages, look
from ext import block as blocks
from ext.events import BlockEvents
from ext.frames import FrameReader
from ext.handshake import read_head
from ext.jsonevent import json_event
from ext.proxied import read_header
from ext.record import decode, encode
from ext.tlsheaders import read_clear
from gateway import requests
from gateway.auth import KeysError, TokenRefused, Verifier, open_keys, parse_jwks
from tests.support import (
    naive_block,
    naive_commands,
    naive_frames,
    naive_handshake,
    naive_proxied,
    naive_tls,
    poller_rig,
    tls_peer,
)
from tests.support.command_checks import check as check_command
from tests.support.naive_block import crc32c, mended
from tests.support.naive_handshake import REFUSED, REQUEST, UPGRADE

PAGE_BYTES = 4_096
TEN_FIELDS = 0x9A  # an array of ten
Target = Callable[[bytes], None]


def pieces(data: bytes, seed: int) -> list[bytes]:
    """Cut at places that the seed chooses; 0 = not at all."""
    if not seed:
        return [data]
    found, at = [], 0
    while at < len(data):
        size = 1 + (seed * (at + 7) >> 3) % 61
        found.append(data[at : at + size])
        at += size
    return found


def frames(data: bytes) -> None:
    """A client's WebSocket frames, in pieces: the same as the model finds in the whole, and no more kept than came."""
    if len(data) < 2:
        return
    limit = (64, 1_000, 70_000, 131_072)[data[0] & 3]
    reader = FrameReader(limit)
    found = [result for piece in pieces(data[2:], data[1]) for result in reader.feed(piece)]
    assert found == naive_frames.read(data[2:], limit).results
    assert reader.pending_bytes() <= len(data) + limit + 512


def handshake(data: bytes) -> None:
    """The head of an HTTP request: the model's verdict, whole and as it comes."""
    if len(data) < 2:
        return
    limit, any_client, body = (64, 1_024, 8_192)[data[0] % 3], bool(data[0] & 128), data[2:]
    looked = 0
    for end in (*range(1, len(body), 1 + data[1]), len(body)):
        kind, status, _, size, answer = read_head(
            body[:end], looked, head_bytes_max=limit, path=b"/v1", any_client=any_client
        )
        expected = naive_handshake.read(body[:end], limit, b"/v1", any_client)
        assert kind == expected.kind, (kind, status, expected)
        if kind == REFUSED:
            assert answer.startswith(b"HTTP/1.1 %d " % expected.status)
        elif kind in (UPGRADE, REQUEST):
            assert size == expected.head_size
        if kind:
            break
        looked = end


def commands(data: bytes) -> None:
    """A message of a client, hot or cold: native code, the model and the schema of requests agree."""
    if not data:
        return
    encoding, message = data[0] & 1, data[1:]
    if encoding != naive_commands.MSGPACK and not naive_frames.is_text(message):
        return  # frames.pyx lets no such text through
    # Names with escapes are not decoded by the model: COLD is an answer to them as well.
    check_command(encoding, message, exact=encoding == naive_commands.MSGPACK or b"\\" not in message)
    try:
        requests.decode(encoding, message)
    except requests.Malformed as refusal:
        assert str(refusal)
    except requests.BadRequest as refusal:
        assert refusal.code


@cache
def _verifier() -> Verifier:
    return Verifier(open_keys("", Path(tempfile.mkdtemp(prefix="gonets-fuzz-"))), "gonets", "", 30)


def tokens(data: bytes) -> None:
    """A token and a key set of strangers: refused by name; nobody is let in."""
    text = data.decode("latin-1")
    try:
        identity = _verifier().verify(text)
    except TokenRefused as refused:
        assert refused.message
        part = re.sub(r"[^\w-]", "", text)[:40]
        assert len(part) < 20 or part not in refused.message, "a token must not be shown"
    else:
        raise AssertionError(f"{identity} from a token that nobody has signed")
    try:
        keys = parse_jwks(data, Path("keys.json"))
    except KeysError as error:
        assert "keys.json" in str(error)
    else:
        assert all(key.algorithm in ("EdDSA", "ES256", "RS256") for key in keys)


def proxied(data: bytes) -> None:
    """What a load balancer, or somebody who pretends, says first: the model's verdict, whole and cut."""
    for end in (len(data) // 2, len(data)):
        found, expected = read_header(data[:end]), naive_proxied.read(data[:end])
        if expected[0] == naive_proxied.MORE:  # the naive one never gives up early
            assert found[0] in (naive_proxied.MORE, naive_proxied.BAD)
        elif expected[0] == naive_proxied.BAD:
            assert found[0] == naive_proxied.BAD
        else:
            assert found == expected


def tls(data: bytes) -> None:
    """What comes before TLS is spoken: the model's verdict in any pieces; then a real port, which holds no more for it
    than is written, and what the model refuses has no handshake begun for it."""
    if len(data) < 2:
        return
    verdict = naive_tls.read(data[1:])
    assert read_clear(pieces(data[1:], data[0]))[0] == verdict
    rig = _secure_rig()
    before = rig.poller.counters()["tls_handshakes"]
    peer = poller_rig.Peer(rig)
    _feed(rig, peer, pieces(data[1:], data[0]))
    rig.quiet(0)
    assert rig.table.memory_bytes() < 90_000 and rig.poller.counters()["tls_handshakes"] == before
    if verdict > naive_tls.WHOLE and data[1] == naive_tls.HANDSHAKE:
        rig.until(lambda: rig.table.open_count == 0 or rig.turn() is None)
    _leave(rig, peer)


def block(data: bytes) -> None:
    """A value of the log, as it is and with its checksums made right: what passes the check is read without harm."""
    _block(data)
    if len(data) >= blocks.HEADER_SIZE:
        count = int.from_bytes(data[8:12], "little")
        if blocks.HEADER_SIZE + 8 * count <= len(data) and count < 64:
            _block(_with_right_sums(data, count))


def _with_right_sums(data: bytes, count: int) -> bytes:
    """With magic, version, size and checksums repaired, so that the checks behind those are reached."""
    size = len(data) - blocks.HEADER_SIZE - 8 * count
    data = b"GNB1" + struct.pack("<H", 1) + data[6:12] + struct.pack("<I", size) + data[16:]
    try:
        return mended(data)
    except (struct.error, ValueError):
        return data


def _block(data: bytes) -> None:
    copied, fault, index = blocks.copy_checked(data)
    whole, place = blocks.check(data)
    assert (copied is None) == bool(fault) == bool(whole)
    assert fault == whole and (index == place or not fault)
    if copied is None:
        assert fault < len(blocks.FAULTS) and blocks.FAULTS[fault]
        if not blocks.check_header(data):
            _find_all(data, blocks.header(data))
        return
    head = blocks.header(copied)
    records = list(blocks.records(copied))
    assert copied == data and len(records) == head.count
    events = list(BlockEvents(copied))
    assert [event.record for event in events] == records and [event.decoded() for event in events] == [
        decode(raw) for raw in records
    ]
    assert naive_block.crc32c(data[:76] + data[80 : 80 + 8 * head.count]) == int.from_bytes(data[76:80], "little")
    for number, raw in enumerate(records):
        one = decode(raw)
        assert one.sequence == head.first_sequence + number
        assert blocks.find(data, one.sequence) == (raw, 0)
        if raw[0] == TEN_FIELDS and "\ufffd" not in one.type:  # else there is more than a writer of today writes
            assert encode(*one) == raw
        json_event(raw)


def _find_all(data: bytes, head: blocks.Header) -> None:
    """Single records of a block whose header is right: each is whole, or at fault by itself."""
    for sequence in range(head.first_sequence, min(head.first_sequence + min(head.count, 64), 1 << 64)):
        found, fault = blocks.find(data, sequence)
        assert (found is None) == bool(fault)
        if found is not None:
            assert decode(found).sequence == sequence and crc32c(found) in _sums(data, head.count)


def _sums(data: bytes, count: int) -> set[int]:
    return {int.from_bytes(data[84 + 8 * i : 88 + 8 * i], "little") for i in range(count)}


def record(data: bytes) -> None:
    """Bytes as a record: what decodes is a record that encodes to the same bytes, and JSON clients can be shown it."""
    try:
        one = decode(data)
    except (EngineError, ValueError):
        return
    try:
        again = encode(*one)
    except (EngineError, ValueError):
        return  # fields beyond what a writer may write, which readers ignore
    if len(again) == len(data) and data[0] == TEN_FIELDS and "\ufffd" not in one.type:
        assert again == data
    json_event(again)


@cache
def _segment() -> tuple[bytes, int]:
    """A small segment as it was written, and the last sequence in it."""
    with tempfile.TemporaryDirectory(prefix="gonets-fuzz-") as folder:
        made = flips.small(Path(folder), 1)
        return made.files[0].read_bytes(), len(made.records)


def tree(data: bytes) -> None:
    """LMDB's pages, damaged in some places or strange from the first byte on: found right, or named; never followed
    out of the file. Damage: page, place in it (2 bytes), how much, the bytes; where they would reach beyond its end,
    the file ends."""
    if not data:
        return
    segment, last = _segment()
    if data[0] & 1:
        damaged = bytearray(data[1:])
    else:
        damaged, at = bytearray(segment), 1
        while at + 4 <= len(data):
            place = data[at] * PAGE_BYTES + int.from_bytes(data[at + 1 : at + 3], "little") % PAGE_BYTES
            part = data[at + 4 : at + 5 + data[at + 3] % 16]
            damaged[place : place + len(part)] = part if place + len(part) <= len(segment) else b""
            at += 4 + len(part)
    with tempfile.NamedTemporaryFile(suffix=".seg") as file:
        file.write(damaged)
        file.flush()
        words = look(Path(file.name))
        assert not words or damaged != segment
        pages = Pages(Path(file.name))
        seeks: list[Callable[[], object]] = [partial(pages.seek, key) for key in (0, 1, last // 2, last, 1 << 63)]
        for judge in (pages.glance, pages.hidden, *seeks):
            try:
                judge()
            except Broken as found:
                assert str(found)


def segment_header(data: bytes) -> None:
    """The header of a segment."""
    try:
        found = unpack_header(data, Path("1.seg"), None)
    except EngineError as error:
        assert "1.seg" in str(error)
        return
    assert unpack_header(pack_header(found), Path("1.seg"), None) == found


def configuration(data: bytes) -> None:
    """A configuration file of anybody: taken, or one line that names the option."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        try:
            load(Path(file.name), {}, {})
        except ConfigError as error:
            assert "\n" not in str(error).strip() and str(error)


@cache
def _rig() -> poller_rig.Rig:
    return poller_rig.Rig(64, connects_per_s_max=1_000_000, rate_per_s=1_000_000, rate_burst=1_000_000)


@cache
def _secure_rig() -> poller_rig.Rig:
    return tls_peer.SecureRig(64, connects_per_s_max=1_000_000, close_timeout_ms=1)


def _feed(rig: poller_rig.Rig, peer: poller_rig.Peer, parts: list[bytes]) -> None:
    """One piece a turn, until the server has ended it."""
    for piece in parts:
        try:
            peer.send(piece)
        except OSError:
            break
        if rig.ready(0):
            rig.turn()


def _leave(rig: poller_rig.Rig, peer: poller_rig.Peer) -> None:
    """Gone at once, and the rig as it was."""
    peer.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0
    peer.socket.close()
    rig.peers.clear()
    for _ in range(20):
        if rig.table.open_count == 0:
            break
        if rig.ready(1):
            rig.turn()
    rig.commands.clear()
    rig.requests.clear()
    rig.closed.clear()
    rig.proposals = rig.signals = b""


def session(data: bytes) -> None:
    """A whole connection, from its first byte on, in pieces and through a real socket: it ends, or is served on."""
    if len(data) < 2:
        return
    rig = _rig()
    upgraded = data[0] & 1
    peer = rig.upgraded(poller_rig.JSON if data[0] & 2 else poller_rig.MSGPACK) if upgraded else poller_rig.Peer(rig)
    _feed(rig, peer, pieces(data[2:], data[1]))
    for _ in range(3):
        if rig.ready(0):
            rig.turn()
    peer.read()
    if upgraded:
        poller_rig.frames_of(peer.data)
    for number, head in rig.requests:
        assert head
        rig.poller.respond(number, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    _leave(rig, peer)


TARGETS: dict[str, Target] = {
    "frames": frames,
    "handshake": handshake,
    "commands": commands,
    "tokens": tokens,
    "proxied": proxied,
    "tls": tls,
    "block": block,
    "record": record,
    "tree": tree,
    "segment_header": segment_header,
    "configuration": configuration,
    "session": session,
}

"""Frames of clients: the naive reader finds the same in any stream, however cut; what breaks the rules is named.

The explicit cases follow the sections of the Autobahn suite; the random ones compare every prefix with the model.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext.frames import FrameReader
from tests.support import naive_frames
from tests.support.naive_frames import (
    BAD_UTF8,
    BINARY,
    BROKEN,
    CLOSE,
    CLOSE_CODES,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    Result,
    client_frame,
    masked,
)

STATE_BYTES_MAX = 512  # what a head cut in two may cost, generously
LIMIT = 131_072


def pieces(stream: bytes, size: int) -> Iterator[bytes]:
    """In chops of one size."""
    for at in range(0, len(stream), size):
        yield stream[at : at + size]


def heard(chunks: Iterable[bytes], message_bytes_max: int = LIMIT) -> list[Result]:
    """What one reader finds in chunks."""
    reader = FrameReader(message_bytes_max)
    return [result for chunk in chunks for result in reader.feed(chunk)]


def check(stream: bytes, expected: list[Result], message_bytes_max: int = LIMIT) -> None:
    """Whole, byte by byte and in odd chops; the model agrees."""
    assert heard([stream], message_bytes_max) == expected
    sizes = (1, 3, 997) if len(stream) < 2_000 else (997, 4_099)
    for size in sizes:
        assert heard(pieces(stream, size), message_bytes_max) == expected, size
    if len(stream) < 2_000:
        assert naive_frames.read(stream, message_bytes_max).results == expected


# ---- 1: messages of all sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 127, 128, 65_535, 65_536, 131_072])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_size(opcode: int, size: int) -> None:
    payload = b"*" * size if opcode == TEXT else random.Random(size).randbytes(size)
    stream = client_frame(opcode, payload)
    check(stream, [(opcode, payload)])
    check(stream * 2, [(opcode, payload)] * 2)


def test_many_messages_in_one_read() -> None:
    payloads = [bytes([index]) * index for index in range(200)]
    stream = b"".join(client_frame(BINARY, payload) for payload in payloads)
    check(stream, [(BINARY, payload) for payload in payloads])


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\2\3\4"])
def test_every_mask(mask: bytes) -> None:
    for size in range(40):
        payload = bytes(range(size))
        check(client_frame(BINARY, payload, mask=mask), [(BINARY, payload)])


# ---- 2: pings and pongs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"Hello", b"\0\xff\xfe\xfd\xfc\xfb\0\xff", b"\xfe" * 125])
@pytest.mark.parametrize("opcode", [PING, PONG])
def test_pings_and_pongs_carry_up_to_125_bytes(opcode: int, payload: bytes) -> None:
    check(client_frame(opcode, payload) * 10, [(opcode, payload)] * 10)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("size", [126, 65_536])
def test_a_longer_control_frame_breaks_at_its_second_byte(opcode: int, size: int) -> None:
    stream = client_frame(opcode, b"\xfe" * size)
    check(stream, [(BROKEN, PROTOCOL_ERROR)])
    check(stream[:2], [(BROKEN, PROTOCOL_ERROR)])


# ---- 3, 4: reserved bits and opcodes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("opcode", [0, TEXT, BINARY, CLOSE, PING, PONG])
def test_reserved_bits(opcode: int, reserved: int) -> None:
    hello = client_frame(TEXT, b"Hello")
    bad = client_frame(opcode, b"", reserved=reserved)
    check(hello + bad + client_frame(PING), [(TEXT, b"Hello"), (BROKEN, PROTOCOL_ERROR)])


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"Hello"])
def test_reserved_opcodes(opcode: int, payload: bytes) -> None:
    hello = client_frame(TEXT, b"Hello")
    bad = client_frame(opcode, payload)
    check(bad, [(BROKEN, PROTOCOL_ERROR)])
    check(hello + bad + hello, [(TEXT, b"Hello"), (BROKEN, PROTOCOL_ERROR)])
    check(client_frame(TEXT, b"", fin=False) + bad, [(BROKEN, PROTOCOL_ERROR)])


@pytest.mark.parametrize("opcode", [0, TEXT, BINARY, CLOSE, PING, PONG])
def test_a_frame_without_a_mask(opcode: int) -> None:
    check(client_frame(opcode, b"", mask=None), [(BROKEN, PROTOCOL_ERROR)])


# ---- 5: fragments ----------------------------------------------------------------------------------------------------


def fragments(opcode: int, *parts: bytes, between: bytes = b"") -> bytes:
    """A message in frames, with something after each but the last."""
    last = len(parts) - 1
    return b"".join(
        client_frame(0 if index else opcode, part, fin=index == last) + (b"" if index == last else between)
        for index, part in enumerate(parts)
    )


def test_a_message_in_fragments() -> None:
    check(fragments(TEXT, b"frag", b"ment"), [(TEXT, b"fragment")])
    check(fragments(BINARY, b"", b"", b"x", b""), [(BINARY, b"x")])
    check(fragments(TEXT, b"", b"", b""), [(TEXT, b"")])
    check(fragments(BINARY, *[b"abcdefgh"] * 100), [(BINARY, b"abcdefgh" * 100)])


def test_control_frames_between_fragments_come_first() -> None:
    ping = client_frame(PING, b"p")
    check(fragments(TEXT, b"a", b"b", between=ping), [(PING, b"p"), (TEXT, b"ab")])
    check(fragments(TEXT, b"a", b"b", b"c", between=ping), [(PING, b"p"), (PING, b"p"), (TEXT, b"abc")])
    shut = client_frame(CLOSE, b"\x03\xe8bye")
    check(fragments(TEXT, b"a", b"b", between=shut), [(CLOSE, 1000), (TEXT, b"ab")])


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_is_never_a_fragment(opcode: int) -> None:
    check(client_frame(opcode, b"", fin=False), [(BROKEN, PROTOCOL_ERROR)])
    check(client_frame(TEXT, b"a", fin=False) + client_frame(opcode, b"", fin=False), [(BROKEN, PROTOCOL_ERROR)])


@pytest.mark.parametrize("fin", [False, True])
def test_a_continuation_of_nothing(fin: bool) -> None:
    orphan = client_frame(0, b"x", fin=fin)
    check(orphan, [(BROKEN, PROTOCOL_ERROR)])
    check(fragments(TEXT, b"a", b"b") + orphan, [(TEXT, b"ab"), (BROKEN, PROTOCOL_ERROR)])
    check(client_frame(PING) + orphan, [(PING, b""), (BROKEN, PROTOCOL_ERROR)])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [False, True])
def test_a_new_message_inside_a_message(opcode: int, fin: bool) -> None:
    check(client_frame(TEXT, b"a", fin=False) + client_frame(opcode, b"b", fin=fin), [(BROKEN, PROTOCOL_ERROR)])


# ---- 6: UTF-8 --------------------------------------------------------------------------------------------------------

GOOD_TEXT = [text.encode() for text in ("Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "a" * 15 + "я", "🎉" * 9)]
GOOD_TEXT += map(
    bytes.fromhex,
    ["00", "7f", "c280", "dfbf", "e0a080", "ed9fbf", "ee8080", "efbfbd", "efbfbf", "f0908080", "f09fbfbf", "f48fbfbf"],
)
HOPELESS = (  # bad text in hex, and the number of bytes after which nothing can mend it
    "80:1 bf:1 c0af:1 c1bf:1 e080af:2 e09fbf:2 f08080af:2 f08fbfbf:2 eda080:2 edbfbf:2 f4908080:2 f5808080:1 "
    "f888808080:1 fc8480808080:1 fe:1 ff:1 c328:2 e28228:3 f09f8e28:4 3132333435363738a0:9 31323334353637c3c3:9 "
    "cebae1bdb9cf83cebcceb5eda080656469746564:13"
)
BAD_TEXT = [(bytes.fromhex(text), int(count)) for text, count in (row.split(":") for row in HOPELESS.split())]


@pytest.mark.parametrize("text", GOOD_TEXT)
def test_text_cut_anywhere(text: bytes) -> None:
    check(client_frame(TEXT, text), [(TEXT, text)])
    check(fragments(TEXT, *pieces(text, 1)), [(TEXT, text)])
    expected: list[Result] = [(PING, b"")] * (len(text) - 1)
    check(fragments(TEXT, *pieces(text, 1), between=client_frame(PING)), [*expected, (TEXT, text)])


@pytest.mark.parametrize("text", [text[:cut] for text in GOOD_TEXT for cut in (-1, -2) if text[:cut]])
def test_text_that_ends_within_a_character(text: bytes) -> None:
    expected: Result = (TEXT, text) if naive_frames.is_text(text) else (BROKEN, BAD_UTF8)
    check(client_frame(TEXT, text), [expected])
    check(client_frame(TEXT, text, fin=False), [])
    check(fragments(TEXT, text, b""), [expected])


@pytest.mark.parametrize(("text", "hopeless"), BAD_TEXT)
def test_bad_text_fails_at_its_first_impossible_byte(text: bytes, hopeless: int) -> None:
    check(client_frame(TEXT, text), [(BROKEN, BAD_UTF8)])
    check(fragments(TEXT, *pieces(text, 1)), [(BROKEN, BAD_UTF8)])
    stream = client_frame(TEXT, text + b"*" * 100)  # more is announced, but nobody waits for it
    at = len(stream) - len(text) - 100 + hopeless
    check(stream[: at - 1], [])
    check(stream[:at], [(BROKEN, BAD_UTF8)])
    check(client_frame(BINARY, text), [(BINARY, text)])


def test_text_agrees_with_python_on_two_bytes_and_all_around_the_limits() -> None:
    edges = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xFF)
    texts = [bytes([a, b]) for a in range(0x80, 256) for b in range(256)]
    texts += [bytes([a, b, c]) for a in range(0xDF, 256) for b in edges for c in edges]
    texts += [bytes([a, b, c, d]) for a in range(0xEE, 0xF6) for b in edges for c in edges for d in edges]
    for text in texts:
        expected = (TEXT, text) if naive_frames.is_text(text) else (BROKEN, BAD_UTF8)
        assert FrameReader().feed(b"\x81" + bytes([0x80 | len(text)]) + b"\0\0\0\0" + text) == [expected], text


# ---- 7: close frames -------------------------------------------------------------------------------------------------


def test_the_shapes_of_a_close_frame() -> None:
    check(client_frame(CLOSE), [(CLOSE, 1005)])
    check(client_frame(CLOSE, b"\x03"), [(BROKEN, PROTOCOL_ERROR)])
    check(client_frame(CLOSE, b"\x03\xe8"), [(CLOSE, 1000)])
    check(client_frame(CLOSE, b"\x03\xe8" + "ня".encode()), [(CLOSE, 1000)])
    check(client_frame(CLOSE, b"\x03\xe8" + b"*" * 123), [(CLOSE, 1000)])
    check(client_frame(CLOSE, b"\x03\xe8" + b"*" * 124), [(BROKEN, PROTOCOL_ERROR)])
    for text, _ in BAD_TEXT:
        check(client_frame(CLOSE, b"\x03\xe8" + text), [(BROKEN, BAD_UTF8)])
    check(client_frame(CLOSE, b"\x03\xe8\xd1"), [(BROKEN, BAD_UTF8)])  # ends within a character


def test_every_close_code() -> None:
    for code in range(65_536):
        expected = (CLOSE, code) if code in CLOSE_CODES else (BROKEN, PROTOCOL_ERROR)
        frame = b"\x88\x82\0\0\0\0" + code.to_bytes(2)
        assert FrameReader().feed(frame) == [expected], code


def test_nothing_is_read_after_a_broken_rule() -> None:
    reader = FrameReader()
    assert reader.feed(client_frame(3) + client_frame(PING)) == [(BROKEN, PROTOCOL_ERROR)]
    assert reader.feed(client_frame(PING)) == []


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "form"), [(0, 126), (125, 126), (0, 127), (125, 127), (126, 127), (65_535, 127)])
def test_a_size_is_written_in_its_shortest_form(size: int, form: int) -> None:
    check(client_frame(BINARY, b"*" * size, length_form=form), [(BROKEN, PROTOCOL_ERROR)])


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**63 + 5])
def test_a_size_has_63_bits(size: int) -> None:
    head = b"\x82\xff" + size.to_bytes(8) + b"\0\0\0\0"
    check(head, [(BROKEN, PROTOCOL_ERROR)])
    check(head[:-1], [])  # judged when the head is whole


@pytest.mark.parametrize("limit", [0, 1, 125, 126, 1_000, 65_535, 65_536])
def test_the_limit_of_a_message(limit: int) -> None:
    fits = b"*" * limit
    check(client_frame(TEXT, fits), [(TEXT, fits)], limit)
    head = client_frame(TEXT, fits + b"*")[: -limit - 1]
    check(head, [(BROKEN, TOO_BIG)], limit)
    check(client_frame(TEXT, fits, fin=False), [], limit)
    check(fragments(TEXT, fits, b""), [(TEXT, fits)], limit)
    check(fragments(TEXT, fits, b"*"), [(BROKEN, TOO_BIG)], limit)
    check(client_frame(PING, b"*" * 125), [(PING, b"*" * 125)], limit)  # no part of a message


@pytest.mark.parametrize("size", [LIMIT + 1, 2**31, 2**32, 2**32 + 1, 2**40, 2**63 - 1])
def test_a_huge_announcement_is_refused_and_costs_nothing(size: int) -> None:
    head = b"\x82\xff" + size.to_bytes(8) + b"\0\0\0\0"
    reader = FrameReader()
    assert reader.feed(head[:-1]) == [] and reader.pending_bytes() <= STATE_BYTES_MAX
    assert reader.feed(head[-1:]) == [(BROKEN, TOO_BIG)]
    check(client_frame(BINARY, b"x", fin=False) + b"\x80" + head[1:], [(BROKEN, TOO_BIG)])


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_memory_follows_what_has_come_and_goes_with_the_message() -> None:
    reader = FrameReader()
    stream = client_frame(BINARY, b"*" * LIMIT)
    came = 0
    for chunk in pieces(stream[:-1], 1_024):
        assert reader.feed(chunk) == []
        came += len(chunk)
        assert reader.pending_bytes() <= STATE_BYTES_MAX + came * 3 // 2
    assert reader.feed(stream[-1:]) == [(BINARY, b"*" * LIMIT)]
    assert reader.pending_bytes() == 0


def test_fragments_that_never_end_are_bounded() -> None:
    reader = FrameReader(1_000)
    assert reader.feed(client_frame(TEXT, b"", fin=False)) == []
    for _ in range(10_000):
        assert reader.feed(client_frame(0, b"", fin=False)) == []
    assert reader.pending_bytes() <= STATE_BYTES_MAX
    for _ in range(1_000):
        assert reader.feed(client_frame(0, b"*", fin=False)) == []
        assert reader.feed(client_frame(PING, b"p" * 125)[:50]) == []
        assert reader.feed(client_frame(PING, b"p" * 125)[50:]) == [(PING, b"p" * 125)]
    assert reader.pending_bytes() <= STATE_BYTES_MAX + 1_500
    assert reader.feed(client_frame(0, b"*", fin=False)) == [(BROKEN, TOO_BIG)]


def test_an_idle_reader_holds_nothing() -> None:
    reader = FrameReader()
    for stream in (client_frame(PING, b"p"), client_frame(TEXT, b"t"), fragments(TEXT, b"a", b"b")):
        for chunk in pieces(stream, 2):
            reader.feed(chunk)
        assert reader.pending_bytes() == 0
        reader.feed(stream)
        assert reader.pending_bytes() == 0
    assert reader.feed(b"") == [] and reader.pending_bytes() == 0


# ---- all of it, at random --------------------------------------------------------------------------------------------

texts = st.text(max_size=40).map(lambda text: text.encode(errors="surrogatepass"))  # sometimes no UTF-8
payloads = st.one_of(st.binary(max_size=20), texts, st.integers(120, 130).map(lambda size: b"*" * size))
masks = st.binary(min_size=4, max_size=4)


@st.composite
def plausible_frames(draw: st.DrawFn) -> list[bytes]:
    """Messages as a client sends them: whole or in fragments, with control frames in between."""
    frames = []
    for _ in range(draw(st.integers(1, 4))):
        opcode = draw(st.sampled_from([TEXT, BINARY, PING, PONG, CLOSE]))
        if opcode >= 8:
            body = draw(st.sampled_from([b"", b"\x03\xe8", b"\x0f\xa0bye"]))
            frames.append(client_frame(opcode, body, mask=draw(masks)))
            continue
        parts = list(pieces(draw(payloads), draw(st.sampled_from([1_000, 50, 7, 3])))) or [b""]
        for index, part in enumerate(parts):
            frames.append(client_frame(0 if index else opcode, part, fin=index == len(parts) - 1, mask=draw(masks)))
            if draw(st.integers(0, 4)) == 0:
                frames.append(client_frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=9))))
    return frames


@st.composite
def odd_frame(draw: st.DrawFn) -> bytes:
    """Any frame at all."""
    return client_frame(
        draw(st.integers(0, 15)),
        draw(payloads),
        fin=draw(st.booleans()),
        reserved=draw(st.sampled_from([0, 0, 0, 1, 4])),
        mask=draw(st.none() | masks),
        length_form=draw(st.sampled_from([0, 0, 0, 126, 127])),
    )


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Plausible streams, some of them with an odd frame, a changed byte, a lost frame or a cut end."""
    frames = draw(plausible_frames())
    harm = draw(st.sampled_from(["none", "none", "odd", "byte", "lost", "doubled", "cut"]))
    place = draw(st.integers(0, len(frames) - 1))
    if harm == "odd":
        frames.insert(place, draw(odd_frame()))
    if harm == "lost":
        del frames[place]
    if harm == "doubled":
        frames.insert(place, frames[place])
    stream = bytearray(b"".join(frames))
    if harm == "byte":
        stream[draw(st.integers(0, len(stream) - 1))] ^= 1 << draw(st.integers(0, 7))
    if harm == "cut":
        del stream[draw(st.integers(0, len(stream) - 1)) :]
    return bytes(stream)


@settings(max_examples=400)
@given(streams(), st.lists(st.integers(0, 1_000), max_size=8), st.sampled_from([LIMIT, 60]))
def test_any_stream_cut_anywhere_says_what_the_model_says(stream: bytes, cuts: list[int], limit: int) -> None:
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    reader = FrameReader(limit)
    found: list[Result] = []
    for start, end in pairwise(edges):
        found += reader.feed(stream[start:end])
        story = naive_frames.read(stream[:end], limit)
        assert found == story.results
        if found and found[-1][0] == BROKEN:
            return
        if story.idle:
            assert reader.pending_bytes() == 0
        assert reader.pending_bytes() <= STATE_BYTES_MAX + story.message_bytes * 3 // 2


@settings(max_examples=60)
@given(streams())
def test_byte_by_byte_it_breaks_at_the_same_byte(stream: bytes) -> None:
    reader = FrameReader()
    found: list[Result] = []
    for end in range(1, len(stream) + 1):
        found += reader.feed(stream[end - 1 : end])
        assert found == naive_frames.read(stream[:end]).results


def test_noise_never_finds_what_the_model_does_not() -> None:
    rng = random.Random(6455)
    for _ in range(3_000):
        noise = bytearray(rng.randbytes(rng.randrange(1, 40)))
        noise[0] &= 0x8F  # else the reserved bits end nearly all of it
        if len(noise) > 1:
            noise[1] |= 0x80
        at = rng.randrange(len(noise) + 1)
        reader = FrameReader()
        found = reader.feed(bytes(noise[:at])) + reader.feed(bytes(noise[at:]))
        assert found == naive_frames.read(bytes(noise)).results, bytes(noise).hex()


def test_masking_is_its_own_inverse_at_every_phase() -> None:
    payload = bytes(range(256)) * 3
    mask = b"\x9d\x02\x71\xe4"
    stream = client_frame(BINARY, payload, mask=mask)
    assert masked(stream[-len(payload) :], mask) == payload
    for cut in range(8, 40):
        assert heard([stream[:cut], stream[cut:]]) == [(BINARY, payload)]

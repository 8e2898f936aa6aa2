"""Hot commands in JSON: numbers, base64, escapes, and what only looks like JSON."""

from __future__ import annotations

import base64
import random

import pytest

from tests.support.command_checks import check
from tests.support.naive_commands import BAD_COUNTER, BAD_ID, COLD, JSON, PING, Hot

# ---- numbers ---------------------------------------------------------------------------------------------------------

ODD_NUMBERS = "00 01 -0 -1 +1 1. .5 1.0 1e0 1E+2 1e 1e+ 0x1 - 1_0 1e400 NaN true"
WRAPPING = [2**64, 2**64 + 1, 2**65 + 1, 10 * 2**64 + 1, 2**64 + 9, 10**30 + 1]  # a 64-bit sum of digits would be small


@pytest.mark.parametrize("number", [*ODD_NUMBERS.split(), *map(str, WRAPPING)])
def test_numbers_that_are_no_ids(number: str) -> None:
    assert check(JSON, f'{{"op":"typing","conversation":{number}}}'.encode()) == Hot(COLD)
    check(JSON, f'{{"op":"ping","other":{number}}}'.encode())
    found = check(JSON, f'{{"op":"publish","counter":1,"text":"","user":{number}}}'.encode())
    assert found.kind == COLD or (found.status == BAD_ID and found.target == 0)


# ---- base64 and escapes ----------------------------------------------------------------------------------------------


def json_payload(text: str) -> Hot:
    """A publish with these characters between the quotes of its payload."""
    return check(JSON, f'{{"op":"publish","counter":1,"user":2,"payload":"{text}"}}'.encode(), exact="\\" not in text)


def test_base64_of_all_sizes() -> None:
    rng = random.Random(4648)
    for size in range(200):
        data = rng.randbytes(size)
        assert json_payload(base64.b64encode(data).decode()).payload == data


ODD_BASE64 = r"A AA AAA A=== ==== = == AA=A A=AA =AAA AAAAA AB== AAB= AAAA==== AA==AAAA AA-_ AAAé AA\u003d= A\/A= AAA\n"


@pytest.mark.parametrize("text", [*ODD_BASE64.split(), "AA =", "AAA ", "AA\t=", "AAAAAAA\0"])
def test_base64_that_is_none_or_not_canonical_is_for_python(text: str) -> None:
    assert json_payload(text) == Hot(COLD)


@pytest.mark.parametrize("character", [*range(32, 128), 0xE9, 0x439, 0x1F389])
def test_every_character_in_every_place_of_base64(character: int) -> None:
    if chr(character) not in '"\\':
        for text in ("AAAA", "AAA=", "AA=="):
            for place in range(4):
                json_payload("AAAA" + text[:place] + chr(character) + text[place + 1 :])


@pytest.mark.parametrize("text", ["A", "AA", "AAA", "AAAAAA"])
def test_a_payload_of_no_known_size_is_not_even_refused(text: str) -> None:
    data = f'{{"op":"publish","counter":0,"user":2,"payload":"{text}"}}'
    assert check(JSON, data.encode()) == Hot(COLD)
    assert check(JSON, data.replace(text, "AAAA").encode()).status == BAD_COUNTER


def json_content(text: str) -> Hot:
    """A publish with these characters between the quotes of its text."""
    return check(JSON, f'{{"op":"publish","counter":1,"user":2,"text":"{text}"}}'.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"\"\\\/\b\f\n\r\t", b'"\\/\b\f\n\r\t'),
        (r"\u0000", b"\0"),
        (r"a\u0000b", b"a\0b"),
        (r"\u007f\u0080\u07ff\u0800\uffff", "\x7f\x80\u07ff\u0800\uffff".encode()),
        (r"\uD83C\udF89!", "🎉!".encode()),
        (r"\ud800\udc00\udbff\udfff", "\U00010000\U0010ffff".encode()),
        (r"\u0041\u00E9\u00e9é", "Aééé".encode()),
        (r"\\u0041", rb"\u0041"),
        ("\x7f", b"\x7f"),
    ],
)
def test_escapes_of_json(text: str, plain: bytes) -> None:
    assert json_content(text).payload == plain


NO_TEXT = r"\u \u12 \u123 \u123g \u+123 \x41 \a \U0041 \0 \'"
LONE = r"\ud83c \udf89 \ud83c\u0041 \ud83c\ud83c \ud83c\n \ud83cx \udf89\ud83c \ud83c\udf8 \udf89\udf89"


@pytest.mark.parametrize("text", [*NO_TEXT.split(), *LONE.split(), r"\u 123", *"\0\n\t\x1f\\", "\\\n"])
def test_what_is_no_text(text: str) -> None:
    assert json_content(text) == Hot(COLD)
    assert check(JSON, f'{{"op":"ping","other":[{{"{text}":1}}]}}'.encode()) == Hot(COLD)


def test_escapes_in_names_are_for_python() -> None:
    for data in (
        rb'{"\u006fp":"ping"}',
        rb'{"op":"pin\u0067"}',
        rb'{"op":"ping","id":"\n"}',
        rb'{"op":"ping","\u0069d":1}',
        rb'{"op":"publish","counter":1,"user":2,"text":"","type":"\u0061"}',
    ):
        assert check(JSON, data, exact=False) == Hot(COLD)
    assert check(JSON, rb'{"op":"ping","other":{"\u006fp":"\"}"}}') == Hot(PING)


# ---- syntax ----------------------------------------------------------------------------------------------------------

NO_VALUES = 'nul nulll True [1,] [1,2 [ { [}} {"a"} {"a":} {1:2} " Infinity [1&2] {"a":1,}'  # & is a space
NO_OBJECTS = """
    {"op":"ping",} {,"op":"ping"} {"op":"ping" {"op"&"ping"} {"op":"ping"&"x":1} {'op':'ping'} {op:"ping"}
    {"op":"ping"}} [{"op":"ping"}] {"op":"ping"//x} {"":} {"op":ping} {"op":"ping","x":} {"op":"ping";"x":1}
"""


@pytest.mark.parametrize(
    "text", [*NO_OBJECTS.split(), *(f'{{"op":"ping","x":{value}}}' for value in NO_VALUES.split())]
)
def test_what_is_no_json(text: str) -> None:
    assert check(JSON, text.replace("&", " ").encode()) == Hot(COLD)

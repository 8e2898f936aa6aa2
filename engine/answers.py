"""Proposals and answers as bytes: the one interface between the gateway and the sequencer.

A batch is a concatenation of proposals; answers come as a concatenation of 56-byte structs. The hot paths build and
read them natively (layouts in ext/admission.pxd); here is what Python needs: for cold commands, the client side of
tests and tools, and for what becomes of answers when the writer fails.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from engine.errors import REPEAT, UNAVAILABLE, BadArgument, DataUntrusted, Trimmed
from ext.record import decode

PERSON: Final = 1  # target is the other person of a dialog
EXPECTED: Final = 2  # the proposal names the conversation sequence that it expects
SYSTEM: Final = 4  # an event of the engine's own, which no client may propose
KEYED: Final = 8  # of a service, without device and counter; a key lies before the type
KEY_BYTES: Final = 16
NO_KEY: Final = bytes(KEY_BYTES)  # a repeat of it is another event

_PROPOSAL = struct.Struct("<IIQQQQQQHHI")
_ANSWER = struct.Struct("<QQQQQQHHI")
ANSWER_BYTES: Final = _ANSWER.size
_STATUS_AT: Final = 48


class Answer(NamedTuple):
    """The fate of one proposal; `sequence` 0 = refused."""

    origin: int
    counter: int
    conversation: int
    sequence: int
    conversation_sequence: int
    time: int
    status: int
    extra: int


def pack_proposal(
    user: int,
    device: int,
    counter: int,
    target: int,
    type_name: str,
    payload: bytes,
    *,
    origin: int = 0,
    person: bool = False,
    expected: int | None = None,
    key: bytes | None = None,
    system: bool = False,
) -> bytes:
    """One proposal; target is a conversation, a person, or 0 for create. With `key` (key_of, or NO_KEY) it is a
    service's, whose device and counter are 0. `system`: a type of engine.schema.SYSTEM, into the system conversation;
    device, counter and target are 0."""
    name = type_name.encode()
    flags = (PERSON if person else 0) | (EXPECTED if expected is not None else 0) | (SYSTEM if system else 0)
    if key is not None:
        if len(key) != KEY_BYTES:
            raise BadArgument(f"a key of {len(key)} bytes: it must have {KEY_BYTES}", hint="make it with key_of")
        flags |= KEYED
        name = key + name
    head = _PROPOSAL.pack(
        _PROPOSAL.size + len(name) + len(payload),
        flags,
        origin,
        user,
        device,
        counter,
        target,
        expected or 0,
        len(name) - len(key or b""),
        0,
        len(payload),
    )
    return head + name + payload


def key_of(user: int, text: str) -> bytes:
    """The key of a publish of this service whose key is `text`: the text itself isn't in the log."""
    return hashlib.sha256(b"gonets key" + user.to_bytes(8, "big") + text.encode()).digest()[:KEY_BYTES]


def pack_answer(answer: Answer) -> bytes:
    """One answer."""
    return _ANSWER.pack(*answer[:7], 0, answer.extra)


def unpack_answers(answers: bytes) -> list[Answer]:
    """All answers of a batch."""
    return [_answer(fields) for fields in _ANSWER.iter_unpack(answers)]


def _answer(fields: tuple[int, ...]) -> Answer:
    return Answer._make((*fields[:7], fields[8]))


def fail_answers(answers: bytes) -> bytes:
    """The same proposals, all answered `unavailable`: what was admitted has been discarded."""
    return b"".join(
        pack_answer(Answer(answer.origin, answer.counter, 0, 0, 0, 0, UNAVAILABLE, 0))
        for answer in unpack_answers(answers)
    )


def refuse_batch(batch: bytes, position: int, status: int = UNAVAILABLE, extra: int = 0) -> bytes:
    """Answers for proposals that are not judged any more."""
    answers = []
    while position < len(batch):
        fields = _PROPOSAL.unpack_from(batch, position)
        answers.append(pack_answer(Answer(fields[2], fields[5], 0, 0, 0, 0, status, extra)))
        position += fields[0]
    return b"".join(answers)


def fill_repeats(answers: bytes, record: Callable[[int], bytes | None]) -> bytes:
    """Completes answers to repeats, of which admission knows only the sequence, from the log."""
    filled = bytearray(answers)
    for at in range(0, len(answers), ANSWER_BYTES):
        if answers[at + _STATUS_AT] != REPEAT:
            continue
        answer = _answer(_ANSWER.unpack_from(answers, at))
        try:
            data = record(answer.sequence)
        except (Trimmed, DataUntrusted):  # the receipt stands without the particulars
            continue
        if data is not None:
            first = decode(data)
            filled[at : at + ANSWER_BYTES] = pack_answer(
                answer._replace(
                    conversation=first.conversation, conversation_sequence=first.conversation_sequence, time=first.time
                )
            )
    return bytes(filled)

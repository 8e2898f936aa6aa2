"""Publishes of services: proposals out, answers in, one future each; the `Publisher` of engine/subscriptions/ports.py.

Between the backends' door, with the keeper of subscriptions, and the sequencer. Everything that services publish has
device 0 and counter 0, so answers find their caller by the origin, a number that rises with each proposal; a repeat is
known by its key (ext/admission). What is proposed in one turn of the loop leaves as one batch, as the gateway's does.

Invariants: each proposal is answered once, by the engine or, at the end, by `close`; a receipt comes after the sync
(P1); what waits is bounded in number and bytes, beyond it a publish is refused as `overloaded` before it is taken.
Cost: a future and a dictionary entry a publish, a call of `submit` a turn. One thread, the loop's.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable
from typing import Any, Final

import msgspec

from engine import schema
from engine.answers import NO_KEY, Answer, key_of, pack_proposal, refuse_batch, unpack_answers
from engine.errors import (
    APPENDED,
    BAD_ID,
    BAD_TYPE,
    CONFLICT,
    OVERLOADED,
    PAYLOAD_TOO_LARGE,
    REPEAT,
    STATUSES,
    UNAVAILABLE,
    BadArgument,
)
from engine.schema import BadPayload
from engine.subscriptions.ports import Receipt
from engine.subscriptions.refusals import check_plain, check_repeat, check_target, conflict_words, refusal

WAITING_MAX: Final = 65_536  # publishes without an answer
WAITING_BYTES_MAX: Final = 64 << 20  # of their proposals
ORIGIN_MAX: Final = (1 << 53) - 1  # above it lie the tags of links, see ext/relay
KEY_CHARACTERS_MAX: Final = 256
OVERLOADED_PAUSE_MS: Final = 250


class Publishing:
    """All publishes of one process's services. `submit`: the sequencer's or a follower's."""

    def __init__(self, submit: Callable[[bytes], bool]) -> None:
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[Future[Answer], int]] = {}  # by origin, with the bytes of the proposal
        self._waiting_bytes = 0
        self._batch = bytearray()  # of this turn
        self._last_origin = 0
        self._is_closed = False
        self.taken = self.refused = 0  # ever: answered by a receipt, by anything else

    @property
    def waiting(self) -> int:
        """Publishes without an answer."""
        return len(self._waiting)

    def publisher(self, user: int) -> ServicePublisher:
        """Writes as this service."""
        return ServicePublisher(self, user)

    async def propose(
        self,
        user: int,
        target: int,
        type_name: str,
        payload: bytes,
        *,
        person: bool = False,
        expected: int | None = None,
        key: bytes | None = NO_KEY,
        system: bool = False,
    ) -> Answer:
        """The answer to one proposal, whatever it says. Once taken, it goes on even if the caller is cancelled."""
        if self._is_closed:
            return _refused(UNAVAILABLE)
        self._last_origin = self._last_origin % ORIGIN_MAX + 1
        origin = self._last_origin
        proposal = pack_proposal(
            user,
            0,
            0,
            target,
            type_name,
            payload,
            origin=origin,
            person=person,
            expected=expected,
            key=key,
            system=system,
        )
        if len(self._waiting) >= WAITING_MAX or self._waiting_bytes + len(proposal) > WAITING_BYTES_MAX:
            return _refused(OVERLOADED, OVERLOADED_PAUSE_MS)
        future: Future[Answer] = self._loop.create_future()
        self._waiting[origin] = future, len(proposal)
        self._waiting_bytes += len(proposal)
        if not self._batch:
            self._loop.call_soon(self._flush)
        self._batch += proposal
        return await future

    async def post(self, user: int, type_name: str, fields: dict[str, Any], *, key: str = "") -> int:
        """An event of the engine's own, asked for by this service; its sequence, once it is synced. Raises what
        `Publisher.publish` raises. The same `key` again: the sequence of then."""
        payload = schema.pack(msgspec.convert(fields, type=schema.SCHEMA[type_name]))
        answer = await self.propose(user, 0, type_name, payload, key=_key(user, key) if key else None, system=True)
        return receipt_of(answer, type_name, 0).sequence

    def _flush(self) -> None:
        batch = bytes(self._batch)
        self._batch.clear()
        if batch and not self._submit(batch):
            self.answer(refuse_batch(batch, 0, OVERLOADED, OVERLOADED_PAUSE_MS))

    def answer(self, answers: bytes) -> None:
        """What the engine said. Answers that nobody waits for are passed over."""
        for answer in unpack_answers(answers):
            future, size = self._waiting.pop(answer.origin, (None, 0))
            self._waiting_bytes -= size
            if future is not None and not future.done():
                future.set_result(answer)
                if answer.status in (APPENDED, REPEAT):
                    self.taken += 1
                else:
                    self.refused += 1

    def close(self) -> None:
        """Nobody waits in vain: what has no answer may be in the log, and its key finds out."""
        self._is_closed = True
        self._batch.clear()
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_result(_refused(UNAVAILABLE))
        self._waiting.clear()
        self._waiting_bytes = 0


class ServicePublisher:
    """`Publisher` of one service."""

    def __init__(self, publishing: Publishing, user: int) -> None:
        self._publishing, self._user = publishing, user

    async def publish(
        self,
        type: str,
        payload: bytes,
        *,
        conversation: int = 0,
        person: int = 0,
        key: str = "",
        expected: int | None = None,
    ) -> Receipt:
        """One event, in a conversation or to a person."""
        check_target(conversation, person)
        check_plain(type)
        return await self._send(type, payload, conversation or person, bool(person), key, expected)

    async def command(self, type: str, conversation: int, fields: dict[str, Any], *, key: str = "") -> Receipt:
        """A control event, its payload given as fields."""
        struct_type = schema.SCHEMA.get(type)
        if struct_type is None or type not in schema.CONTROL:
            known = ", ".join(sorted(schema.CONTROL))
            raise refusal(BAD_TYPE, f"type {type!r} is no command; there are {known}")
        unknown = sorted(set(fields) - set(struct_type.__struct_fields__))
        if unknown:
            raise BadPayload(f"{type}: unknown field {unknown[0]!r}")
        try:
            payload = schema.pack(msgspec.convert(fields, type=struct_type))
        except msgspec.ValidationError as error:
            raise BadPayload(f"{type}: {error}") from None
        if (conversation == 0) != (type == schema.CREATED):
            raise refusal(BAD_ID, f"conversation {conversation}: 0 for {schema.CREATED}, else one that there is")
        return await self._send(type, payload, conversation, False, key, None)

    async def _send(
        self, type_name: str, payload: bytes, target: int, person: bool, key: str, expected: int | None
    ) -> Receipt:
        _check(type_name, payload, target, expected)
        answer = await self._publishing.propose(
            self._user,
            target,
            type_name,
            payload,
            person=person,
            expected=expected,
            key=_key(self._user, key),
        )
        receipt = receipt_of(answer, type_name, target, person=person, expected=expected)
        if not person:
            check_repeat(receipt, target, key)
        return receipt


def receipt_of(
    answer: Answer, type_name: str, target: int, *, person: bool = False, expected: int | None = None
) -> Receipt:
    """The receipt, or the refusal raised."""
    if answer.status in (APPENDED, REPEAT):
        return Receipt(
            answer.sequence, answer.conversation, answer.conversation_sequence, answer.time, answer.status == REPEAT
        )
    where = (f" to person {target}" if person else f" in conversation {target}") if target else ""
    actual = answer.conversation_sequence if answer.status == CONFLICT else 0
    why = conflict_words(expected or 0, actual) if answer.status == CONFLICT else STATUSES[answer.status].name
    raise refusal(
        answer.status,
        f"{type_name}{where}: {why}",
        actual=actual,
        extra=answer.extra,
    )


def _key(user: int, text: str) -> bytes:
    if len(text) > KEY_CHARACTERS_MAX:
        raise BadArgument(f"key: {len(text)} characters; at most {KEY_CHARACTERS_MAX}")
    try:
        return key_of(user, text) if text else NO_KEY
    except UnicodeEncodeError:
        raise BadArgument("key: holds half a character (a lone surrogate); send whole ones") from None


def _check(type_name: str, payload: bytes, target: int, expected: int | None) -> None:
    """What does not fit into a proposal is refused here, in the words that admission would use."""
    size = len(type_name.encode(errors="replace"))
    if not 1 <= size <= schema.TYPE_BYTES_MAX or not type_name.isascii():
        raise refusal(BAD_TYPE, f"type {type_name[:80]!r}: 1 to {schema.TYPE_BYTES_MAX} bytes of a dotted name")
    if len(payload) > schema.PAYLOAD_BYTES_MAX:
        raise refusal(
            PAYLOAD_TOO_LARGE,
            f"payload: {len(payload)} bytes; at most {schema.PAYLOAD_BYTES_MAX}",
            extra=schema.PAYLOAD_BYTES_MAX,
        )
    for name, number in (("conversation or person", target), ("expected", expected or 0)):
        if not 0 <= number <= schema.ID_MAX:
            raise refusal(BAD_ID, f"{name} {number}: must be at most {schema.ID_MAX}")


def _refused(status: int, extra: int = 0) -> Answer:
    return Answer(0, 0, 0, 0, 0, 0, status, extra)

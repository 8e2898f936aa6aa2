"""What clients may say: one struct a command, decoded and checked by msgspec in one pass, for both encodings.

Between session.py (which has the bytes of a message that native code did not decode) and commands.py (which acts).
Unknown fields are passed over, so that newer clients live with older servers; an unknown `op` or a wrong field is an
error that names it and the session goes on; what is no map with `op` at all ends the session (4503).

Invariants: an id that leaves here is 1..2^53-1; `payload` is bytes whatever the encoding was.
Cost: one decode; a second, lenient one only when something was wrong, to echo `id` and `counter`.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from gateway import pushes

Id = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Limit = Annotated[int, Meta(ge=1, le=1_000_000)]
Title = Annotated[str, Meta(min_length=1, max_length=256)]
Role = Annotated[str, Meta(min_length=1, max_length=16)]
Text = Annotated[str, Meta(max_length=65_536)]


class Request(Struct, tag_field="op", kw_only=True, gc=False):
    """What all commands share: an `id` to find the answer by."""

    id: Annotated[str, Meta(max_length=64)] | Annotated[int, Meta(ge=0, le=2**53 - 1)] | None = None


class Position(Struct, frozen=True, gc=False):
    """Where a client stands in one shard."""

    shard: Annotated[int, Meta(ge=0, le=8_191)]
    epoch: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    sequence: Number


class Hello(Request, tag="hello"):
    token: str
    device: Id
    protocol: Annotated[int, Meta(ge=0, le=65_535)]
    client: Annotated[str, Meta(max_length=128)] = ""
    positions: Annotated[list[Position], Meta(max_length=8_192)] = []


class Refresh(Request, tag="refresh"):
    token: str


class Write(Request):
    """Every command that becomes a proposal carries the device's own counter and is answered by a receipt."""

    counter: Id


class Publish(Write, tag="publish"):
    conversation: Id | None = None
    user: Id | None = None
    payload: bytes | None = None
    text: Text | None = None
    type: Annotated[str, Meta(min_length=1, max_length=256)] = "message"
    expected: Number | None = None
    target: Id | None = None


class Create(Write, tag="create"):
    kind: Literal["group", "channel"]
    title: Title
    members: Annotated[list[Id], Meta(max_length=5_000)] = []
    history: bool = True


class Add(Write, tag="add"):
    conversation: Id
    user: Id
    role: Role | None = None


class Remove(Write, tag="remove"):
    conversation: Id
    user: Id


class Leave(Write, tag="leave"):
    conversation: Id


class SetRole(Write, tag="role"):
    conversation: Id
    user: Id
    role: Role


class Rename(Write, tag="rename"):
    conversation: Id
    title: Title


class Close(Write, tag="close"):
    conversation: Id


class Follow(Write, tag="follow"):
    conversation: Id


class Unfollow(Write, tag="unfollow"):
    conversation: Id


class Members(Request, tag="members"):
    conversation: Id
    after: Number = 0
    limit: Limit = 1_000_000


class Conversations(Request, tag="conversations"):
    after: Number = 0
    limit: Limit = 1_000_000
    former: bool = False


class History(Request, tag="history"):
    conversation: Id
    before: Id | None = None
    limit: Limit = 50


class Delivered(Request, tag="delivered"):
    conversation: Id
    conversation_sequence: Id


class Read(Request, tag="read"):
    conversation: Id
    conversation_sequence: Id


class Typing(Request, tag="typing"):
    conversation: Id


class Presence(Request, tag="presence"):
    conversation: Id
    status: Annotated[str, Meta(min_length=1, max_length=32)]


class Ping(Request, tag="ping"):
    pass


AnyRequest = (
    Hello
    | Refresh
    | Publish
    | Create
    | Add
    | Remove
    | Leave
    | SetRole
    | Rename
    | Close
    | Follow
    | Unfollow
    | Members
    | Conversations
    | History
    | Delivered
    | Read
    | Typing
    | Presence
    | Ping
)

HELLO = "hello"
_BY_OP: dict[str, type[Struct]] = {cls.__struct_config__.tag: cls for cls in AnyRequest.__args__}
OPS: tuple[str, ...] = tuple(sorted(_BY_OP))

_decoders: dict[int, Any] = {
    pushes.MSGPACK: msgspec.msgpack.Decoder(AnyRequest),
    pushes.JSON: msgspec.json.Decoder(AnyRequest),
}
_lenient: dict[int, Any] = {pushes.MSGPACK: msgspec.msgpack.Decoder(), pushes.JSON: msgspec.json.Decoder()}
_PATH = re.compile(r" - at `\$\.?(.*?)`$")


def _allowed(op: str, field: str) -> tuple[Any, ...]:
    """The values of a field that takes only some; () for others."""
    hint = get_type_hints(_BY_OP[op]).get(field)
    return get_args(hint) if get_origin(hint) is Literal else ()


class Malformed(Exception):
    """Not a map with `op` at all: the session can't go on."""


class BadRequest(Exception):
    """A command that can be named and answered: `code` is unknown_op or bad_field; `op` as it was sent."""

    def __init__(self, code: str, message: str, id: str | int | None, counter: int | None, op: str) -> None:
        super().__init__(message)
        self.code, self.message, self.id, self.counter, self.op = code, message, id, counter, op


def decode(encoding: int, message: bytes) -> AnyRequest:
    """The command in a message; Malformed or BadRequest for everything else."""
    try:
        request: AnyRequest = _decoders[encoding].decode(message)
        return request
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        reason = error
    raise _judge(encoding, message, reason) from None


def _with_half_characters(message: bytes) -> Exception | None:
    """JSON that is whole but for halves of surrogate pairs, as browsers write a text that was cut inside an emoji: a
    mistake in a text, not a client that can't speak."""
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("op"), str):
        return None
    id, counter = fields.get("id"), fields.get("counter")
    id = id if type(id) is int and 0 <= id < 2**53 else None
    counter = counter if type(counter) is int and 0 <= counter < 2**64 else None
    words = "a text holds half of a surrogate pair (\\ud800 to \\udfff alone): cut texts between characters"
    return BadRequest("bad_field", words, id, counter, fields["op"][:64].encode("ascii", "replace").decode())


def _judge(encoding: int, message: bytes, error: Exception) -> Exception:
    """Finds out what was wrong, and what of `id` and `counter` can be given back."""
    if not isinstance(error, msgspec.ValidationError):
        if encoding == pushes.JSON and (half := _with_half_characters(message)) is not None:
            return half
        expected = "MessagePack map" if encoding == pushes.MSGPACK else "JSON object"
        return Malformed(f"the message is not one {expected}")
    try:
        fields = _lenient[encoding].decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Malformed("the message can't be decoded")
    if not isinstance(fields, dict) or not isinstance(fields.get("op"), str):
        return Malformed("a message must be a map with a string `op`")
    given, counter = fields.get("id"), fields.get("counter")
    id = given if (isinstance(given, str) and len(given) <= 64) or (type(given) is int and 0 <= given < 2**53) else None
    counter = counter if type(counter) is int and 0 <= counter < 2**64 else None
    if fields["op"] not in OPS:
        return BadRequest("unknown_op", f"no command {fields['op'][:32]!r}", id, counter, fields["op"])
    text = str(error)
    place = _PATH.search(text)
    field = place.group(1) if place else ""
    message_text = _PATH.sub("", text)
    if message_text.startswith("Invalid enum value") and (allowed := _allowed(fields["op"], field)):
        message_text += f"; it is one of {', '.join(map(str, allowed))}"
    return BadRequest("bad_field", f"{field}: {message_text}" if field else message_text, id, counter, fields["op"])

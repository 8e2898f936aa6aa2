"""The two-minute tour: receive in one terminal, publish from another, through the same client that teams use.

Called by gonets.py (`gonets listen`, `gonets send`). `listen` keeps its position in the data directory, so that
`--resume` shows what came while it was away, once. Whatever a person can mend is a TourError, or made one line of by
`explained`: both name what was given and what to change. Nothing here is on the path of a message.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine import private
from gateway.client import (
    ID_MAX,
    PAYLOAD_BYTES_MAX,
    Client,
    ClientError,
    Event,
    HistoryReplaced,
    Incomplete,
    SessionEnded,
)

Print = Callable[[str], None]


class TourError(Exception):
    """What was given can't be used; the text is one line that says what to change."""


def check_url(url: str) -> None:
    """Refuses what no gateway can be reached at; the path is the server's to judge."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
        url.encode()
    except ValueError:  # of a port that is no number, or above 65535
        good = False
    if not good:
        raise TourError(f"--url {url!r}: must be ws://host:port/v1 (or wss://) with a port of 1 to 65535")


def check_text(text: str) -> None:
    """Refuses what can't be a payload, before a connection is made for it."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:  # the shell's bytes, kept by Python as lone surrogates
        given = os.fsencode(text[error.start : error.start + 1]).hex()
        raise TourError(f"the message has byte 0x{given} at character {error.start}: must be UTF-8") from None
    if size > PAYLOAD_BYTES_MAX:
        raise TourError(
            f"the message has {size:,} bytes: at most {PAYLOAD_BYTES_MAX:,}; send larger things by reference"
        )


def explained(error: Exception, what: str, url: str, data: Path, own_token: bool) -> str:
    """One line for what went wrong with a session; `what` names what was asked for. Never the token itself."""
    if isinstance(error, SessionEnded) and error.code in ("bad_token", "token_expired"):
        if own_token:
            change = "leave --token (GONETS_TOKEN) out, or take one of the server's issuer or of `gonets token`"
            return f"--token was refused by {url}: {error.hint or error.code}; {change}"
        return (
            f"the development key in --data {str(data)!r} is not of the gateway at {url} ({error.hint or error.code});"
            " name the server's directory with --data, or give a token of its issuer with --token"
        )
    if isinstance(error, SessionEnded) and error.code == "replaced":
        return f"{what}: another session of this user and device took over; give each its own --device"
    if isinstance(error, ClientError) and error.code == "bad_position":
        return f"{what}: the position stored in {data / 'tour'} is of another server; leave --resume out"
    if isinstance(error, ClientError):
        return f"{what}: {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {url} is not believed: {error.verify_message}; name the file of the authority that"
            " signed it with --ca"
        )
    if isinstance(error, ssl.SSLError):
        return f"{url} does not speak TLS as it should ({error.reason or error}); is it a ws:// gateway?"
    if isinstance(error, OSError):  # TimeoutError is one
        return f"can't reach the gateway: {str(error) or type(error).__name__}; is `gonets serve` running at {url}?"
    return f"{what}: {str(error) or type(error).__name__}"


def position_file(data: Path, user: int, device: int) -> Path:
    """Where `listen` remembers how far it has got."""
    return data / "tour" / f"user-{user}-device-{device}.json"


def event_fields(event: Event) -> dict[str, Any]:
    """An event as plain data, its payload as text where it is text."""
    fields: dict[str, Any] = {
        "sequence": event.sequence,
        "conversation": event.conversation,
        "conversation_sequence": event.conversation_sequence,
        "time": event.time,
        "sender": event.sender,
        "type": event.type,
    }
    payload = bytes(event.payload or b"")
    if event.data:
        fields["data"] = {
            key: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for key, value in event.data.items()
        }
    else:
        fields["text"] = payload.decode("utf-8", "replace")
    return fields


def event_line(event: Event) -> str:
    """One line for a person."""
    fields = event_fields(event)
    clock = time.strftime("%H:%M:%S", time.localtime(event.time / 1_000_000))
    what = fields["text"] if "text" in fields else json.dumps(fields["data"], ensure_ascii=False)
    body = what if event.type == "message" else f"[{event.type}] {what}"
    safe = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in body)
    return f"{clock}  {event.conversation}/{event.conversation_sequence}  user {event.sender}: {safe}"


def trust_of(ca: Path | None, url: str) -> ssl.SSLContext | None:
    """Whose certificates are believed: --ca, or (None) the system's authorities."""
    if ca is None:
        return None
    if not url.startswith("wss://"):
        raise TourError(f"--ca {str(ca)!r} is for wss:// only, and --url is {url!r}")
    try:
        return ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError:
        raise TourError(f"--ca {str(ca)!r}: holds no certificate in PEM") from None
    except OSError as error:
        raise TourError(f"--ca {str(ca)!r}: {error.strerror}") from None


async def listen(
    url: str,
    token: str,
    user: int,
    device: int,
    data: Path,
    resume: bool,
    as_json: bool,
    count: int | None,
    trust: ssl.SSLContext | None = None,
) -> None:
    """Prints events until interrupted, or until `count` have come."""
    path = position_file(data, user, device)
    positions = _stored(path) if resume else None
    seen = 0
    async with Client(url, token, device, positions=positions, trust=trust) as client:
        print(f"listening as user {user} on {url}; Ctrl-C ends", file=sys.stderr, flush=True)
        _save(path, client)
        try:
            async for event in _events(client):
                print(json.dumps(event_fields(event), ensure_ascii=False) if as_json else event_line(event), flush=True)
                seen += 1
                _save(path, client)
                if seen == count:
                    return
        except asyncio.CancelledError:
            _save(path, client)
            raise


async def _events(client: Client) -> AsyncIterator[Event]:
    """All events; what the client raises once and goes on after is told to the person instead."""
    while True:
        try:
            yield await anext(client)
        except StopAsyncIteration:
            return
        except HistoryReplaced as replaced:
            print(
                f"gonets: the log was replaced after sequence {replaced.reset.sequence}, by a restore or another data"
                " directory: what was shown after it is no longer there",
                file=sys.stderr,
                flush=True,
            )
        except Incomplete as gap:
            print(f"gonets: some events are not shown: {gap.message} ({gap.code})", file=sys.stderr, flush=True)


def _stored(path: Path) -> list[dict[str, int]] | None:
    """The positions that an earlier `listen` left; None if there was none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TourError(f"--resume can't read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        found = None
    names = {"shard", "epoch", "sequence"}
    if not isinstance(found, list) or not all(
        isinstance(one, dict)
        and one.keys() == names
        and all(type(number) is int and 0 <= number <= ID_MAX for number in one.values())
        for one in found
    ):
        raise TourError(f"{path} holds no position of `gonets listen`: remove it, or leave --resume out")
    return found


def _save(path: Path, client: Client) -> None:
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        private.make_folder(path.parent)
        private.write_file(aside, json.dumps(client.positions).encode())
        aside.replace(path)
    except OSError as error:
        raise TourError(f"listen keeps its position in {path}: {error.strerror}; name another --data") from None


async def send(
    url: str,
    token: str,
    device: int,
    to: int | None,
    conversation: int | None,
    text: str,
    trust: ssl.SSLContext | None = None,
) -> dict[str, Any]:
    """Publishes one message and gives its receipt, which comes after the sync."""
    async with Client(url, token, device, trust=trust) as client:
        receipt = await client.publish(text=text, user=to, conversation=conversation)
        return {
            "status": receipt.status,
            "conversation": receipt.conversation,
            "sequence": receipt.sequence,
            "conversation_sequence": receipt.conversation_sequence,
            "time": receipt.time,
            "counter": receipt.counter,
        }

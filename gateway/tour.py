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
from collections.abc import AsyncIterator
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
    HandshakeRefused,
    HistoryReplaced,
    Incomplete,
    SessionEnded,
    Trouble,
)

SILENCE_S = 2.0  # a person wonders
SEND_S = 60.0  # a message is tried for so long


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
    if isinstance(error, ssl.SSLError) and "ALERT_INTERNAL_ERROR" in (error.reason or ""):
        return f"{url} takes no new connection now: it is full, or under load; try again later"
    if isinstance(error, ssl.SSLError):
        return f"{url} does not speak TLS as it should ({error.reason or error}); is it a ws:// gateway?"
    if isinstance(error, HandshakeRefused):
        return _explained_status(error, url)
    if "did not receive a valid HTTP response" in str(error):
        return f"{url} does not answer by HTTP; {IS_TLS if url.startswith('ws:') else 'is it a port of gonets?'}"
    if isinstance(error, OSError):  # TimeoutError is one
        return f"can't reach the gateway: {str(error) or type(error).__name__}; is `gonets serve` running at {url}?"
    return f"{what}: {str(error) or type(error).__name__}"


IS_TLS = "it may speak TLS: use wss://, and --ca FILE if its authority is not one of the system's"


def _explained_status(error: HandshakeRefused, url: str) -> str:
    if error.status == 503:
        pause = "later" if error.retry_after_s is None else f"in {error.retry_after_s:g} s"
        return f"{url} takes no new session now (HTTP 503): it is full, or going down; try again {pause}"
    if error.status == 400 and url.startswith("ws:"):
        return f"{url} refused the connection (HTTP 400); {IS_TLS}"
    if error.status == 404:
        return f"{url} is no clients' door (HTTP 404): the path must be /v1, and the port the clients', not the admin's"
    return f"{url} refused the connection (HTTP {error.status}): is it the clients' port of `gonets serve`?"


class Told:
    """What a person is told on stderr while the client tries again: each state once, results never."""

    def __init__(self) -> None:
        self._lost, self._warned = False, False
        self.last: Trouble | None = None  # why a message is not stored yet
        self.until = ""

    def sending(self) -> None:
        """From now on refusals are told of."""
        self.until = time.strftime("%H:%M:%S", time.localtime(time.time() + SEND_S))

    def trouble(self, trouble: Trouble) -> None:
        """Called by the client."""
        if trouble.kind == "refused" or (self.until and trouble.kind == "lost"):
            self.last = trouble
        if trouble.kind == "refused":
            self.not_stored(trouble.code, trouble.words)
        elif trouble.kind == "lost" and not self._lost:
            self._lost = True
            _say(f"connection lost ({trouble.words}), trying again …")
        elif trouble.kind == "back" and self._lost:
            self._lost = False
            _say("connected again")

    def not_stored(self, code: str, words: str) -> None:
        """Once, whatever comes after."""
        if not self._warned:
            self._warned = True
            _say(f"not stored yet: {code}: {words}, trying again until {self.until}")


def _say(words: str) -> None:
    print(f"gonets: {words}", file=sys.stderr, flush=True)


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
    if resume and positions is None:
        _say(f"no position of user {user}, device {device} in {path}: nothing to go on from, listening from now on")
    seen = 0
    async with Client(url, token, device, positions=positions, trust=trust, on_trouble=Told().trouble) as client:
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
    told = Told()
    told.sending()
    warning = asyncio.get_running_loop().call_later(
        SILENCE_S, told.not_stored, "no_answer", f"{url} has not answered so far"
    )
    client = Client(url, token, device, trust=trust, retry_timeout_s=SEND_S, on_trouble=told.trouble)
    try:
        await client.connect()
        async with asyncio.timeout(SEND_S) as limit:
            receipt = await client.publish(text=text, user=to, conversation=conversation)
    except TimeoutError:
        if client.welcome and limit.expired():
            raise _unanswered(told.last) from None
        raise
    finally:
        warning.cancel()
        await client.close()
    return {
        "status": receipt.status,
        "conversation": receipt.conversation,
        "sequence": receipt.sequence,
        "conversation_sequence": receipt.conversation_sequence,
        "time": receipt.time,
        "counter": receipt.counter,
    }


def _unanswered(last: Trouble | None) -> ClientError:
    """What to say of a message that has neither been stored nor refused for good in time."""
    if last is not None and last.kind == "refused":
        return ClientError(last.code, f"the message was not stored within {SEND_S:g} s", last.words)
    return ClientError(
        "no_answer" if last is None else f"connection lost ({last.words})",
        f"no receipt within {SEND_S:g} s",
        "it may have been stored: look into the conversation before sending it again",
    )

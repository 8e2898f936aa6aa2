"""`gonets publish` and `gonets subscribe`: write an event as a service; print and ack what a subscription brings.

Mounted by gonets.py, loaded when one of them is typed. Results go to stdout, for people or as JSON.

Invariants: `subscribe` acks what it has printed and flushed, nothing else; a server that is restarted is waited for,
and a generation that is over is followed by another, unless a consumer of the same name has taken its place.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import Awaitable
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from engine import ENGINE_ITSELF, console, schema
from gateway.api.caller import Away, Caller, Refused
from gateway.api.cli_common import HERE_AS_SERVICE, AsService, Many, Name, run, start_of

PAYLOAD_BYTES_MAX: Final = schema.PAYLOAD_BYTES_MAX
PULL_EVENTS: Final = 500
PULL_WAIT_S: Final = 20
RETRY_MIN_S, RETRY_MAX_S = 0.2, 5.0
LEAVE_S: Final = 2.0
LEFT: Final = frozenset({"unknown_consumer", "fenced"})  # the server has begun anew, took us for gone, or knows another


# ---- publish ---------------------------------------------------------------------------------------------------------


def publish(
    text: Annotated[
        str,
        Parameter(
            help="the payload, at most 65,536 bytes; - reads it from stdin to its end", allow_leading_hyphen=True
        ),
    ],
    *,
    conversation: Annotated[int | None, Parameter(help="into this conversation")] = None,
    to: Annotated[int | None, Parameter(help="or to this person")] = None,
    type: Annotated[str, Parameter(help="a dotted lower-case name")] = "message",
    key: Annotated[str, Parameter(help="makes a repeat harmless for at least 24 hours")] = "",
    expected: Annotated[int | None, Parameter(help="only if this is the conversation's last sequence")] = None,
    where: AsService = HERE_AS_SERVICE,
    as_json: console.AsJson = False,
) -> None:
    """Publishes one event as a service, and prints its receipt, which comes after the sync."""
    if (to is None) == (conversation is None):
        console.fail("say either --to USER or --conversation ID")
    if text.startswith("-") and text != "-":  # a lone hyphen can only be had with all others
        console.fail(f"{text[:80]!r} is no option of publish; as the payload it comes from stdin: publish -")
    payload = sys.stdin.buffer.read(PAYLOAD_BYTES_MAX + 1) if text == "-" else os.fsencode(text)
    if len(payload) > PAYLOAD_BYTES_MAX:
        console.fail(f"the payload has more than {PAYLOAD_BYTES_MAX:,} bytes; send larger things by reference")
    body: dict[str, Any] = {"type": type, "data_base64": base64.b64encode(payload).decode(), "key": key}
    for name, value in (("conversation", conversation), ("person", to), ("expected", expected)):
        if value is not None:
            body[name] = value

    async def work(caller: Caller) -> dict[str, Any]:
        return await caller.call("POST", "events", body=body)

    receipt = run(work, where)
    if as_json:
        console.print_json(receipt)
    else:
        word = "repeat" if receipt["repeat"] else "appended"
        print(
            f"{word}: conversation {receipt['conversation']}, its event {receipt['conversation_sequence']},"
            f" sequence {receipt['sequence']} in the log"
        )


# ---- subscribe -------------------------------------------------------------------------------------------------------


def subscribe(
    name: Name,
    *,
    kind: Annotated[
        Literal["ordered", "competing"], Parameter(help="ordered: each conversation to one consumer at a time")
    ] = "ordered",
    start: Annotated[
        str, Parameter(help="of a new one: first, last, a sequence, or a time such as 2026-11-25T10:00Z")
    ] = "last",
    type: Annotated[list[str], Many, Parameter(help="only these types, and what is below them")] = [],  # noqa: B006
    conversation: Annotated[list[int], Many, Parameter(help="only these conversations")] = [],  # noqa: B006
    conversation_kind: Annotated[list[str], Many, Parameter(help="dialog, group, channel, system")] = [],  # noqa: B006
    sender: Annotated[list[int], Many, Parameter(help="only of these senders")] = [],  # noqa: B006
    recipient_away: Annotated[
        bool, Parameter(negative="", help="only where a member has no live session: what a push needs")
    ] = False,
    consumer: Annotated[str, Parameter(help="name of this consumer; empty = a fresh one")] = "",
    count: Annotated[int | None, Parameter(help="end after so many events")] = None,
    where: AsService = HERE_AS_SERVICE,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="one CloudEvent a line")] = False,
) -> None:
    """Prints the events of a subscription, made if there is none of the name, and acks what it has printed.

    A subscription that there is goes on where it stood, with the filter that it was made with.
    """
    if count is not None and count < 1:
        console.fail(f"--count {count}: must be at least 1")
    wanted: dict[str, Any] = {
        "types": type,
        "conversations": conversation,
        "kinds": conversation_kind,
        "senders": sender,
        "recipient_away": recipient_away,
    }
    created = {"name": name, "kind": kind, "start": start_of(start), "filter": wanted}
    consuming = _Consuming(name, consumer, created, any(wanted.values()), count, as_json)
    try:
        run(consuming.run, where)
    except (KeyboardInterrupt, asyncio.CancelledError):  # the ways to end it
        raise SystemExit(0) from None


class _Consuming:
    """One consumer, from join to leave, through restarts of the server."""

    def __init__(
        self,
        name: str,
        consumer: str,
        created: dict[str, Any],
        is_filtered: bool,
        count: int | None,
        as_json: bool,
    ) -> None:
        self._name, self._consumer, self._created, self._is_filtered = name, consumer, created, is_filtered
        self._left, self._as_json = count, as_json
        self._generation = 0
        self._is_known = False  # the subscription

    async def run(self, caller: Caller) -> None:
        """Until so many are printed, Ctrl-C or SIGTERM; then it leaves, so that others have its share at once."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        pause_s, is_told, was_there = RETRY_MIN_S, False, False
        while True:
            try:
                await self._begin(caller)
                was_there = True
                if is_told:
                    _say("connected again")
                pause_s, is_told = RETRY_MIN_S, False
                await self._consume(caller)
                return
            except Refused as error:
                if error.code not in LEFT or not self._generation or await self._is_replaced(caller):
                    raise
                _say(f"{error}; joining again …")
                self._generation = 0
            except Away as error:
                if not was_there:
                    raise
                if not is_told:
                    is_told = True
                    _say(f"{error}; trying again …")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)

    async def _is_replaced(self, caller: Caller) -> bool:
        """Whether one of our name is there: after the end of our own generation, that is another process."""
        try:
            found = await caller.call("GET", "subscriptions", self._name)
        except Away:  # joining waits until somebody answers
            return False
        return bool(self._consumer) and self._me in found["consumers"]

    async def _begin(self, caller: Caller) -> None:
        if not self._is_known:
            if not self._is_filtered:
                try:
                    await caller.call("GET", "subscriptions", self._name)
                    self._is_known = True
                except Refused as error:
                    if error.code != "unknown_subscription":
                        raise
            if not self._is_known:
                await caller.call("POST", "subscriptions", body=self._created)
                self._is_known = True
        joined = await caller.call("POST", "subscriptions", self._name, "consumers", body={"name": self._consumer})
        self._me, self._generation = str(joined["name"]), int(joined["generation"])

    async def _consume(self, caller: Caller) -> None:
        here = ("subscriptions", self._name, "consumers", self._me)
        try:
            while self._left is None or self._left > 0:
                most = PULL_EVENTS if self._left is None else min(self._left, PULL_EVENTS)
                body = {"generation": self._generation, "events_max": most, "wait_s": PULL_WAIT_S}
                events = (await caller.call("POST", *here, "pull", body=body))["events"]
                if not events:
                    continue
                for event in events:
                    print(json.dumps(event, ensure_ascii=False) if self._as_json else _words(event))
                sys.stdout.flush()
                numbers = [int(event["sequence"]) for event in events]
                await caller.call("POST", *here, "ack", body={"generation": self._generation, "sequences": numbers})
                if self._left is not None:
                    self._left -= len(events)
        finally:
            await _quietly(caller.call("DELETE", *here, query={"generation": str(self._generation)}))


async def _quietly(call: Awaitable[object]) -> None:
    """A leave that nobody hears is none that matters: the server notices the silence."""
    try:
        await asyncio.wait_for(call, LEAVE_S)
    except (Refused, Away, TimeoutError):
        pass


def _words(event: dict[str, Any]) -> str:
    """One event for people."""
    if "data_base64" in event:
        payload = base64.b64decode(event["data_base64"])
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            text = f"{len(payload)} bytes"
    else:
        text = json.dumps(event.get("data"), ensure_ascii=False)
    again = f" (delivery {event['deliveries']})" if event.get("deliveries", 1) > 1 else ""
    shown = "".join(one if one.isprintable() else " " for one in text)
    sender = "the engine" if event["sender"] == str(ENGINE_ITSELF) else event["sender"]
    return f"{event['sequence']} {event['type']} in {event['subject']} of {sender}{again}: {shown}"


def _say(words: str) -> None:
    print(f"gonets: {words}", file=sys.stderr, flush=True)

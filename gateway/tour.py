"""The two-minute tour: receive in one terminal, publish from another, through the same client that teams use.

Called by gonets.py (`gonets listen`, `gonets send`). `listen` keeps its position in the data directory, so that
`--resume` shows what came while it was away, once. Nothing here is on the path of a message.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.client import Client, Event

Print = Callable[[str], None]


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


async def listen(
    url: str, token: str, user: int, device: int, data: Path, resume: bool, as_json: bool, count: int | None
) -> None:
    """Prints events until interrupted, or until `count` have come."""
    path = position_file(data, user, device)
    positions = json.loads(path.read_text()) if resume and path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    seen = 0
    async with Client(url, token, device, positions=positions) as client:
        print(f"listening as user {user} on {url}; Ctrl-C ends", file=sys.stderr, flush=True)
        _save(path, client)
        try:
            async for event in client:
                print(json.dumps(event_fields(event), ensure_ascii=False) if as_json else event_line(event), flush=True)
                seen += 1
                _save(path, client)
                if seen == count:
                    return
        except asyncio.CancelledError:
            _save(path, client)
            raise


def _save(path: Path, client: Client) -> None:
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(client.positions))
    aside.replace(path)


async def send(
    url: str, token: str, device: int, to: int | None, conversation: int | None, text: str
) -> dict[str, Any]:
    """Publishes one message and gives its receipt, which comes after the sync."""
    async with Client(url, token, device) as client:
        receipt = await client.publish(text=text, user=to, conversation=conversation)
        return {
            "status": receipt.status,
            "conversation": receipt.conversation,
            "sequence": receipt.sequence,
            "conversation_sequence": receipt.conversation_sequence,
            "time": receipt.time,
            "counter": receipt.counter,
        }

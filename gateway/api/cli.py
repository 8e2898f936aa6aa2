"""`gonets subscriptions …`: what a team, or an operator, looks at and changes of durable subscriptions.

Mounted by gonets.py, loaded when it is typed. Each verb is a request or a few to the backends' door; results go to
stdout, for people or as JSON.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from engine import console
from gateway.api.caller import Caller
from gateway.api.cli_common import HERE, Many, Name, Where, run, start_of

PARKED_PAGE: Final = 1_000

app = App(name="subscriptions", help="Durable subscriptions to the event stream.")


@app.command(name="list")
def list_all(
    *,
    where: Where = HERE,
    as_json: console.AsJson = False,
) -> None:
    """All subscriptions of the team: where they stand and how they do."""
    found = run(lambda caller: caller.call("GET", "subscriptions"), where)
    if as_json:
        console.print_json(found)
        return
    columns = ("name", "kind", "cursor", "behind", "in flight", "oldest s", "parked", "consumers", "state")
    rows = [
        (
            row["name"],
            row["kind"],
            row["cursor"],
            row["lag_events"],
            row["in_flight"],
            f"{row['oldest_unacked_s']:.1f}",
            row["parked"],
            len(row["consumers"]),
            "paused" if row["paused"] else "running",
        )
        for row in found["subscriptions"]
    ]
    console.print_table(f"Subscriptions of {where.team if where.token is None else 'the team'}", columns, rows)


def _verb(
    method: str,
    path: tuple[str, ...],
    where: Where,
    body: Any = None,
    query: dict[str, str] | None = None,
) -> dict[str, Any]:
    """One request, with what all verbs share."""
    return run(lambda caller: caller.call(method, "subscriptions", *path, body=body, query=query), where)


def _show(found: dict[str, Any], as_json: bool, words: str = "") -> None:
    if as_json:
        console.print_json(found)
    elif words:
        print(words)
    else:
        console.print_fields({name: value for name, value in found.items() if name not in ("filter", "settings")})
        for name in ("filter", "settings"):
            shown = {key: value for key, value in found[name].items() if value not in ([], False)}
            print(f"{name}: {json.dumps(shown, ensure_ascii=False) if shown else 'everything'}")


@app.command
def show(
    name: Name,
    *,
    where: Where = HERE,
    as_json: console.AsJson = False,
) -> None:
    """One subscription: definition, cursor, lag, consumers."""
    _show(_verb("GET", (name,), where), as_json)


@app.command
def pause(
    name: Name,
    *,
    where: Where = HERE,
    as_json: console.AsJson = False,
) -> None:
    """Hands nothing out until `resume`; what is in flight may be acked."""
    found = _verb("POST", (name, "pause"), where)
    _show(found, as_json, f"{name} is paused at {found['cursor']}")


@app.command
def resume(
    name: Name,
    *,
    where: Where = HERE,
    as_json: console.AsJson = False,
) -> None:
    """Goes on where it was paused."""
    found = _verb("POST", (name, "resume"), where)
    _show(found, as_json, f"{name} goes on behind {found['cursor']}, {found['lag_events']} events behind the log")


@app.command
def reset(
    name: Name,
    *,
    to: Annotated[
        str, Parameter(help="first, last, a sequence (goes on behind it), or a time such as 2026-11-25T10:00Z")
    ],
    where: Where = HERE,
    as_json: console.AsJson = False,
) -> None:
    """Moves the cursor, forward or back; what is in flight is fenced."""
    found = _verb("POST", (name, "reset"), where, {"start": start_of(to, "--to")})
    _show(found, as_json, f"{name} goes on behind {found['cursor']}, {found['lag_events']} events behind the log")


@app.command
def delete(
    name: Name,
    *,
    where: Where = HERE,
    as_json: console.AsJson = False,
) -> None:
    """Ends a subscription: its cursor and its parked events are gone, and trimming waits for it no more."""
    _verb("DELETE", (name,), where)
    _show({"name": name, "deleted": True}, as_json, f"{name} is deleted")


@app.command
def parked(
    name: Name,
    *,
    replay: Annotated[list[int], Many, Parameter(help="deliver these again, by sequence")] = [],  # noqa: B006
    drop: Annotated[list[int], Many, Parameter(help="forget these, by sequence")] = [],  # noqa: B006
    everything: Annotated[
        Literal["replay", "drop"] | None, Parameter(name="--all", help="replay or drop all of them")
    ] = None,
    where: Where = HERE,
    as_json: console.AsJson = False,
) -> None:
    """Lists what was put aside; with --replay or --drop lets it go on, or forgets it."""
    if sum((bool(replay), bool(drop), everything is not None)) > 1:
        console.fail("say one of --replay, --drop and --all")
    if replay or drop or everything:
        verb = everything or ("replay" if replay else "drop")
        count = run(lambda caller: _answered(caller, name, verb, replay or drop), where)
        word = "replayed" if verb == "replay" else "dropped"
        _show({"name": name, word: count}, as_json, f"{count} parked events of {name} {word}")
        return
    found = run(lambda caller: _parked(caller, name), where)
    if as_json:
        console.print_json({"parked": found})
        return
    columns = ("sequence", "type", "conversation", "deliveries", "parked", "reason")
    rows = [
        (row["sequence"], row["type"], row["conversation"], row["deliveries"], row["time"], row["reason"])
        for row in found
    ]
    console.print_table(f"Parked events of {name}", columns, rows)


async def _parked(caller: Caller, name: str) -> list[dict[str, Any]]:
    """All pages."""
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        query = {"after": str(after), "limit": str(PARKED_PAGE)}
        page = await caller.call("GET", "subscriptions", name, "parked", query=query)
        found += page["parked"]
        after = page["next"]
    return found


async def _answered(caller: Caller, name: str, verb: str, sequences: list[int]) -> int:
    """How many of them were parked; without any, all are meant."""
    wanted = sequences or [int(row["sequence"]) for row in await _parked(caller, name)]
    count = 0
    for first in range(0, len(wanted), PARKED_PAGE):
        body = {"sequences": wanted[first : first + PARKED_PAGE]}
        count += int((await caller.call("POST", "subscriptions", name, "parked", verb, body=body))["count"])
    return count

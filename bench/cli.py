"""`gonets bench …`: one command a measurement, each prints a table or, with --json, one object.

Mounted by gonets.py. A command is thin: it chooses a size, calls `run` of the file with its name, and prints. Files are
imported when their command is called, so that `gonets serve` does not pay for them. `short` is what `make bench` runs.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from bench import report
from bench.clients import SetupError
from bench.harness import FULL, SHORT, SMOKE, BenchError, Size, workplace

app = App(name="bench", help="Measurements, each beside the bare limit of the machine; and the replay of real chats.")
app.command(
    "bench.replay:replay",
    name="replay",
    help="Replays chat logs through real sockets and verifies every delivery.\n\n"
    "A chat log has lines of the forms `[HH:MM] <nick> text`, `[HH:MM]  * nick text`, `=== nick has joined #x`,"
    " `=== nick has left #x`, `=== nick is now known as other`; other lines are passed over, and counted.",
)
app.command(
    "bench.simulate:simulate", name="simulate", help="The engine against a naive model, in one thread, under seeds."
)
app.command("bench.torture.run:torture", name="torture", help="Power cuts and kill -9, and what is left of the log.")
app.command(
    "bench.peers.command:peers", name="peers", help="The same jobs on Redis, NATS, Mosquitto, Kafka and others."
)
app.command("bench.micro.run:micro", name="micro", help="Nanoseconds an operation of the native parts.")
app.command("bench.flips.run:flips", name="flips", help="Bits of a log flipped: harmless by proof, or found.")
app.command("bench.capacity:capacity", name="capacity", help="The highest rate of a load that meets an objective.")
app.command("bench.soak:soak", name="soak", help="A load for hours, and what of the server grows.")
app.command("bench.run:run", name="run", help="A workload against a server, by native clients in several processes.")
app.command("bench.plan.costs:costs", name="costs", help="CPU and memory of each operation, for the plan.")
app.command("bench.plan.run:plan", name="plan", help="From measured figures to the machines of a nation.")
app.command("bench.workload_list:workloads", name="workloads", help="The named loads; one of them as TOML.")
app.command("bench.compare:compare", name="compare", help="Two reports or two git refs: faster, slower, can't tell.")
app.command("bench.redraw:report", name="report", help="A report that was written before: shown, and its page drawn.")

Smoke = Annotated[bool, Parameter(negative="", help="a few seconds: shows that it works, says nothing about speed")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="one JSON object instead of a table")]
Folder = Annotated[
    Path | None, Parameter(help="where to write while measuring; it should be on the disk that is judged")
]

Tls = Annotated[
    bool, Parameter(negative="", help="the server over TLS 1.3, against the same one without it, in one run")
]

WITHOUT_SOCKETS = ("append", "open", "read", "interest")
WITH_WORKLOAD = ("append", "read")  # whose `run` takes a workload

NAMES = ("append", "open", "publish", "fanout", "latency", "connections", "overload")


def measurement(name: str) -> Callable[[Size, Path | None], list[report.Case]]:
    """The function behind a command."""
    module = importlib.import_module(f"bench.{name}")
    found: Callable[..., list[report.Case]] = module.cases if name in WITH_WORKLOAD else module.run
    if name not in WITHOUT_SOCKETS:
        return found

    def sized(size: Size, folder: Path | None) -> list[report.Case]:
        """Those without sockets know two sizes only; a short look is their smoke size."""
        with workplace(name, folder) as place:
            return found(size is not FULL, place)

    return sized


def _measure(names: tuple[str, ...], size: Size, folder: Path | None, as_json: bool) -> list[report.Case]:
    results: list[report.Case] = []
    where = folder or Path.cwd()
    if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
        why = "can't be written to" if folder.is_dir() else "no such directory"
        print(f"gonets: bench: --folder {str(folder)!r}: {why}; make it, or name another", file=sys.stderr)
        raise SystemExit(1)
    try:
        for name in names:
            if not as_json:
                print(f"gonets: bench: {name} ({size.name}) …", file=sys.stderr, flush=True)
            results += measurement(name)(size, folder)
    except (BenchError, SetupError, ConnectionError, OSError, RuntimeError, ValueError) as error:
        print(f"gonets: bench: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    found: dict[str, Any] = report.report(results, where)
    if as_json:
        print(json.dumps(found))
    else:
        report.show(found)
    return results


@app.command
def append(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """Durable appends of 300-byte records through the sequencer's path, against bare LMDB."""
    _measure(("append",), SMOKE if smoke else FULL, folder, as_json)


@app.command(name="open")
def open_(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """How long a log of millions of events takes to open after kill -9."""
    _measure(("open",), SMOKE if smoke else FULL, folder, as_json)


@app.command
def publish(*, smoke: Smoke = False, tls: Tls = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """Answered durable publishes over WebSocket, against a bare native server."""
    _measure(("publish",), replace(SMOKE if smoke else FULL, tls=tls), folder, as_json)


@app.command
def fanout(*, smoke: Smoke = False, tls: Tls = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """One publisher's events to thousands of sessions, against a bare C send loop."""
    _measure(("fanout",), replace(SMOKE if smoke else FULL, tls=tls), folder, as_json)


@app.command
def latency(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """Publish to deliver at half of the highest rate, and of dialogs beside broadcasts."""
    _measure(("latency",), SMOKE if smoke else FULL, folder, as_json)


@app.command
def connections(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """Memory, hellos a second and idle CPU of thousands of sessions."""
    _measure(("connections",), SMOKE if smoke else FULL, folder, as_json)


@app.command
def overload(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """Half of what the server can carry to three times as much: what is accepted, how fast, what is refused."""
    cases = _measure(("overload",), SMOKE if smoke else FULL, folder, as_json)
    if not as_json:
        importlib.import_module("bench.overload").show(cases)


@app.command
def read(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """One reader in process goes through a log of 5 million events, the page cache warm and cold."""
    _measure(("read",), SMOKE if smoke else FULL, folder, as_json)


@app.command
def interest(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """Memory and look-ups of an interest table of 10 million entries."""
    _measure(("interest",), SMOKE if smoke else FULL, folder, as_json)


@app.command
def resume(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """How long a user of 2,000 conversations, back after being away, waits until live."""
    _measure(("resume",), SMOKE if smoke else FULL, folder, as_json)


@app.command
def subscribe(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """One consumer that reads a log through the socket, and a hundred subscriptions that share the reading."""
    _measure(("subscribe",), SMOKE if smoke else FULL, folder, as_json)


@app.command
def short(*, smoke: Smoke = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """All of them with fewer and shorter runs: a look in a few minutes, no verdict."""
    _measure(NAMES, SMOKE if smoke else SHORT, folder, as_json)

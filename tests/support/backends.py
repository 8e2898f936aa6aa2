"""A backend team's side in tests of whole servers: publishes until there is a receipt, and consumers as processes.

`Feeder` publishes from a thread through the backends' door, each event with a key of its own, again and again until
the receipt comes: what it lists was promised to be in the log. `Consumer` is `gonets subscribe --json` in a process
that may be killed; what it has written to its file is what it may have acked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from gateway.api.caller import Away, Caller, Refused
from tests.support.gateway import ROOT, GatewayProcess

DEADLINE_S: Final = 60.0
PAUSE_S: Final = 0.02
PASSING: Final = frozenset({"unavailable", "overloaded", "rate_limited", "limit_reached"})


async def publish(caller: Caller, key: str, conversation: int, text: str) -> dict[str, Any]:
    """One message until it has its receipt."""
    body = {"type": "message", "conversation": conversation, "data": {"text": text}, "key": key}
    until_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await caller.call("POST", "events", body=body)
        except (Away, Refused) as error:
            if (isinstance(error, Refused) and error.code not in PASSING) or time.monotonic() > until_s:
                raise
            await asyncio.sleep(PAUSE_S)


async def create_group(caller: Caller, title: str) -> int:
    """A conversation that the service owns."""
    body = {"kind": "group", "title": title, "members": [], "key": f"group {title}"}
    return int((await caller.call("POST", "conversations", body=body))["conversation"])


class Feeder:
    """Publishes into some conversations until told to end."""

    def __init__(self, server: GatewayProcess, conversations: list[int], *, lanes: int = 4, keys: str = "") -> None:
        self._url, self._token = server.api, server.service_token()
        self._conversations, self._lanes, self._keys = conversations, lanes, keys
        self.sequences: list[int] = []
        self.failure: BaseException | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._life)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _life(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self.failure = error

    async def _run(self) -> None:
        async with Caller(self._url, self._token) as caller:
            await asyncio.gather(*(self._lane(caller, lane) for lane in range(self._lanes)))

    async def _lane(self, caller: Caller, lane: int) -> None:
        number = 0
        while not self._end.is_set():
            conversation = self._conversations[number % len(self._conversations)]
            receipt = await publish(
                caller, f"{self._keys} lane {lane} event {number}", conversation, f"{lane}/{number}"
            )
            self.sequences.append(int(receipt["sequence"]))
            number += 1
            await asyncio.sleep(PAUSE_S)


class Consumer:
    """`gonets subscribe NAME --json`, writing to a file."""

    def __init__(self, server: GatewayProcess, name: str, folder: Path, *options: str) -> None:
        self.path = folder / f"{name}.{time.monotonic_ns()}.events"
        command = [sys.executable, str(ROOT / "gonets.py"), "subscribe", name, "--json", "--url", server.api, *options]
        environment = {**os.environ, "GONETS_SERVICE_TOKEN": server.service_token()}
        with self.path.open("wb") as out, self.path.with_suffix(".stderr").open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=ROOT)

    def seen(self) -> list[int]:
        """The sequences that it has written whole, in order."""
        whole = self.path.read_bytes().rpartition(b"\n")[0]
        return [int(json.loads(line)["sequence"]) for line in whole.splitlines()]

    def said(self) -> str:
        """On stderr."""
        return self.path.with_suffix(".stderr").read_text()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ctrl-C, or another signal; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


def doubles(consumers: list[Consumer]) -> int:
    """How many events were written more than once, counted each time."""
    counted = Counter(sequence for consumer in consumers for sequence in consumer.seen())
    return sum(count - 1 for count in counted.values())


def wait_until_seen(consumers: list[Consumer], wanted: set[int]) -> None:
    """Until every wanted event was written by somebody; what was skipped is named."""
    until_s = time.monotonic() + DEADLINE_S
    while True:
        lacking = wanted.difference(*(consumer.seen() for consumer in consumers))
        if not lacking:
            return
        words = [consumer.said() for consumer in consumers]
        assert time.monotonic() < until_s, f"skipped, or not within {DEADLINE_S} s: {sorted(lacking)[:20]}; {words}"
        time.sleep(0.1)

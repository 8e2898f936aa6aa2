"""The door's end: whoever waits is told so in words that say what to do, whatever has ended before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import InForce, Revocations
from engine.engine import Engine
from engine.options import Config, Server
from gateway.api.caller import Away, Caller
from gateway.api.part import Part
from gateway.listener import bind
from tests.subscriptions.engine_worlds import Sessions
from tests.subscriptions.worlds import AnyTeam, nothing_in_force

EVENT = {"type": "message", "person": 7, "data": "hello", "key": "once"}


@asynccontextmanager
async def served(
    data: Path, submit: Callable[[bytes], bool] | None = None, in_force: Callable[[], InForce] = nothing_in_force
) -> AsyncIterator[tuple[Part, Caller]]:
    """A door on an engine, and somebody who knocks; the door is the test's to close."""
    parts: list[Part] = []

    def woken(answers: bytes | None) -> None:
        for part in parts:
            part.woken(answers)

    engine = Engine.open(data, on_answers=woken, on_committed=lambda _: woken(None))
    try:
        config = Config(server=Server(data=str(data)))
        part = Part(config, engine, submit or engine.sequencer.submit, AnyTeam(), in_force)
        parts.append(part)
        await part.open(Sessions())
        bound = bind("server.api", "127.0.0.1:0")
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        await part.serve(bound)
        async with Caller(address, "team") as caller:
            yield part, caller
    finally:
        await asyncio.to_thread(engine.close)


def test_a_publish_that_nobody_answers_any_more_may_be_said_again(tmp_path: Path) -> None:
    """Its sequencer has died, and whoever would start another: `unavailable`, which is no failure of the door."""

    async def story() -> None:
        async with served(tmp_path, submit=lambda batch: True) as (part, caller):
            publishing = asyncio.ensure_future(caller.call("POST", "events", body=EVENT))
            while not part.publishing.waiting:
                await asyncio.sleep(0.01)
            await part.close()
            with pytest.raises(Away, match=r"unavailable.*the same publish with the same key later"):
                await publishing

    asyncio.run(story())


def test_the_record_of_what_operators_do_outlives_any_mistake(tmp_path: Path) -> None:
    """What is in force can't be said for a moment: it is counted, and told when it can."""
    asks = 0

    def in_force() -> InForce:
        nonlocal asks
        asks += 1
        if asks == 2:
            raise KeyError("a mistake of ours")
        return InForce(keys=None, revocations=Revocations(str(asks > 2)), options={})

    async def story() -> None:
        async with served(tmp_path, in_force=in_force) as (part, _):
            async with asyncio.timeout(20):
                while not part.figures.untold_acts:
                    await asyncio.sleep(0.01)
                while part.figures.untold_acts or not part.place().sequence:
                    await asyncio.sleep(0.01)
            await part.close()

    asyncio.run(story())


def test_consumers_hear_that_the_server_ends_and_not_that_they_were_fenced(tmp_path: Path) -> None:
    """One whose pull waits; so that it joins again, and doesn't look for another of its name."""

    async def story() -> None:
        async with served(tmp_path) as (part, caller):
            here = ("subscriptions", "mail", "consumers")
            made = {"name": "mail", "kind": "ordered", "filter": {"types": ["message"]}}
            await caller.call("POST", "subscriptions", body=made)
            joined = await caller.call("POST", *here, body={"name": "me"})
            body: dict[str, Any] = {"generation": joined["generation"], "wait_s": 20}
            pulling = asyncio.ensure_future(caller.call("POST", *here, "me", "pull", body=body))
            await asyncio.sleep(0.3)  # it waits by then; where it doesn't yet, the answer must be the same
            await part.close()
            with pytest.raises(Away, match="this server is ending"):
                await pulling

    asyncio.run(story())

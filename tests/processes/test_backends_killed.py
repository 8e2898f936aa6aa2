"""kill -9 of the api, of the sequencer, of consumers, of everything: whatever had a receipt reaches a consumer.

Real processes throughout: `gonets serve`, and `gonets subscribe` as the consumer. Events may come twice (at least
once), never not at all.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.api.caller import Away, Caller, Refused
from tests.support.backends import Consumer, Feeder, create_group, doubles, wait_until_seen
from tests.support.gateway import GatewayProcess
from tests.support.supervised import until

pytestmark = pytest.mark.timeout(240)  # processes of Python that start one after the other, on a busy machine

ANY = "127.0.0.1:0"
SOME = 12  # events between two blows


def groups_of(server: GatewayProcess, count: int = 3) -> list[int]:
    """Conversations to publish into."""

    async def make() -> list[int]:
        async with Caller(server.api, server.service_token()) as caller:
            return [await create_group(caller, f"group {number}") for number in range(count)]

    return asyncio.run(make())


def joined(server: GatewayProcess) -> list[str]:
    """The consumers of the subscription."""

    async def ask() -> list[str]:
        async with Caller(server.api, server.service_token()) as caller:
            found = await caller.call("GET", "subscriptions", "mail")
            return [str(name) for name in found["consumers"]]

    try:
        return asyncio.run(ask())
    except (Away, Refused):  # it is not there yet
        return []


def more(feeder: Feeder) -> None:
    """Some more receipts."""
    there = len(feeder.sequences)
    until(lambda: feeder.failure is not None or len(feeder.sequences) >= there + SOME, "receipts", 60)
    assert feeder.failure is None, feeder.failure


def strike(server: GatewayProcess, child: str) -> Callable[[], None]:
    """A blow: kill -9 of a child, and the wait for the next one."""

    def blow() -> None:
        before = server.pids(child)
        os.kill(before[-1], signal.SIGKILL)
        until(lambda: len(server.pids(child)) > len(before), f"another {child}", 30)

    return blow


@pytest.mark.parametrize("kind", ["ordered", "competing"])
def test_nothing_is_skipped_whoever_is_killed(tmp_path: Path, kind: str) -> None:
    """The api twice, the sequencer, and a consumer, one after the other, while events are published."""
    options = {"server.gateway_workers": 1, "server.api": ANY}
    with GatewayProcess(tmp_path / "data", **options) as server:
        groups = groups_of(server)
        arguments = ("--kind", kind, "--start", "first", "--type", "message")
        consumers: list[Consumer] = []

        def another() -> None:
            """One more, from when it has joined."""
            name = f"c{len(consumers)}"
            consumers.append(Consumer(server, "mail", tmp_path, *arguments, "--consumer", name))
            until(lambda: name in joined(server), f"the join of {name}", 30)

        def another_for_the_first() -> None:
            consumers[0].kill()
            another()

        another()
        another()
        blows = [strike(server, "api"), another_for_the_first, strike(server, "sequencer"), strike(server, "api")]
        with Feeder(server, groups) as feeder:
            more(feeder)
            for blow in blows:
                blow()
                more(feeder)
        assert feeder.failure is None, feeder.failure
        assert len(set(feeder.sequences)) == len(feeder.sequences), "a repeat was stored again"
        wait_until_seen(consumers, set(feeder.sequences))
        print(f"{len(feeder.sequences)} events, {doubles(consumers)} doubles after {len(blows)} blows")
        assert doubles(consumers) <= len(blows) * 2 * 500  # what two consumers may hold when a blow comes
        assert [consumer.stop() for consumer in consumers[1:]] == [0, 0]
        status, words = server.http("/readyz", admin=True)
        assert (status, words) == (200, "ok\n")


def test_nothing_is_skipped_when_the_one_process_is_killed(tmp_path: Path) -> None:
    """Without workers the api is a thread: kill -9 takes all of it, and the next start goes on where acks ended."""
    data = tmp_path / "data"
    with GatewayProcess(data, **{"server.api": ANY}) as server:
        groups = groups_of(server, 1)
        first = Consumer(server, "mail", tmp_path, "--start", "first", "--type", "message")
        with Feeder(server, groups) as feeder:
            more(feeder)
            until(first.seen, "the first events")
            more(feeder)
        server.kill()
        wanted, before = set(feeder.sequences), set(first.seen())
        first.kill()
    address = server.api.removeprefix("http://")
    with GatewayProcess(data, **{"server.api": address}) as server:
        second = Consumer(server, "mail", tmp_path)
        with Feeder(server, groups) as feeder:
            wait_until_seen([first, second], wanted)
            until(second.seen, "what is new")
        assert feeder.failure is None
        repeats = set(feeder.sequences) & wanted
        assert repeats, "keys are remembered over a kill -9"
        again = before & set(second.seen())
        print(f"{len(wanted)} events before the kill, {len(again)} of them again")
        assert second.stop() == 0, second.said()


def test_a_server_that_ends_in_order_delivers_nothing_twice(tmp_path: Path) -> None:
    data = tmp_path / "data"
    seen: list[int] = []
    for workers in (0, 1, 0):
        with GatewayProcess(data, **{"server.api": ANY, "server.gateway_workers": workers}) as server:
            groups = groups_of(server, 1)
            consumer = Consumer(server, "mail", tmp_path, "--start", "first", "--type", "message")
            with Feeder(server, groups, lanes=1, keys=f"{len(seen)}") as feeder:
                more(feeder)
            wait_until_seen([consumer], set(feeder.sequences))
            assert consumer.stop() == 0, consumer.said()
            assert server.terminate() == 0, server.log()[-2_000:]
            assert "Traceback" not in server.log()
            seen += consumer.seen()
    assert len(set(seen)) == len(seen)


def scraped(server: GatewayProcess) -> str:
    """All of /metrics."""
    return server.http("/metrics", admin=True)[1]


def test_metrics_of_subscriptions_are_those_of_the_api(tmp_path: Path) -> None:
    for workers in (0, 1):
        options = {"server.api": ANY, "server.gateway_workers": workers}
        with GatewayProcess(tmp_path / f"data{workers}", **options) as server:
            groups = groups_of(server, 1)
            consumer = Consumer(server, "mail", tmp_path, "--start", "first", "--type", "message")
            with Feeder(server, groups) as feeder:
                more(feeder)
            wait_until_seen([consumer], set(feeder.sequences))
            until(lambda: 'gonets_subscription_consumers{subscription="mail"} 1.0' in scraped(server), "a report")
            until(
                lambda: 'gonets_subscription_in_flight_events{subscription="mail"} 0.0' in scraped(server), "the acks"
            )
            assert server.metric("gonets_subscriptions") == 1
            assert server.metric("gonets_subscription_deliveries_total") >= len(feeder.sequences)
            assert server.metric("gonets_service_publishes_total") >= len(feeder.sequences)
            assert server.metric("gonets_service_keys") == len(feeder.sequences) + len(groups)
            consumer.stop()

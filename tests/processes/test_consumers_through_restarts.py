"""A server ends under its consumers, in order, by kill -9, or because another takes its place: they go on alone.

Real servers; `ConsumerLoop` over `BackendClient` as a backend team runs it, and `gonets subscribe`. Nothing is skipped;
what comes twice was in flight when the server went.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from engine import ConsumerLoop, Filter, Start, StoredEvent
from gateway import BackendClient
from tests.processes.test_backends_killed import groups_of, more
from tests.support.backends import Consumer, Feeder, doubles, wait_until_seen
from tests.support.gateway import GatewayProcess, Successor
from tests.support.supervised import until

pytestmark = pytest.mark.timeout(120)  # several servers, one after the other

ANY: Final = "127.0.0.1:0"
HELD_MAX: Final = 50
ENDS: Final = ("killed", "in order", "taken over")


class LoopThread:
    """A `ConsumerLoop` of one subscription, on a loop of its own, from the first server to the last."""

    def __init__(self, server: GatewayProcess, kind: str) -> None:
        self._url, self._token, self._kind = server.api, server.service_token(), kind
        self.seen: list[int] = []
        self.stats: dict[str, int] = {}
        self.failure: BaseException | None = None
        self.complaints: list[str] = []
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._life)

    def __enter__(self) -> LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join()

    def _life(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self.failure = error

    async def _handle(self, event: StoredEvent) -> None:
        self.seen.append(event.sequence)

    async def _run(self) -> None:
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, about: self.complaints.append(str(about)))
        async with BackendClient(self._url, self._token) as gonets:
            subscription = await gonets.create(
                "mail", self._kind, start=Start(first=True), filter=Filter(types=("message",))
            )
            loop = ConsumerLoop(subscription, self._handle, name="me", held_events_max=HELD_MAX)
            self._stop = lambda: running.call_soon_threadsafe(loop.stop)
            await loop.run()
            self.stats = loop.stats()


class Servers:
    """One server after the other on the same data and the same door."""

    def __init__(self, data: Path, workers: int) -> None:
        self._data, self._workers = data, workers
        self._stack = ExitStack()
        self.now = self._start(ANY)

    def _start(self, api: str, kind: type[GatewayProcess] = GatewayProcess) -> GatewayProcess:
        options = {"server.api": api, "server.gateway_workers": self._workers}
        return self._stack.enter_context(kind(self._data, **options))

    def replace(self, end: str) -> None:
        """The next one is there when this returns."""
        old, door = self.now, self.now.api.removeprefix("http://")
        if end == "taken over":
            self.now = self._start(door, Successor)
            assert old.wait() == 0, old.log()[-2_000:]
            return
        if end == "killed":
            old.kill()
        else:
            assert old.terminate() == 0, old.log()[-2_000:]
        self.now = self._start(door)

    def close(self) -> None:
        """The last one ends in order."""
        self._stack.close()
        assert "Traceback" not in self.now.log(), self.now.log()[-4_000:]


@pytest.fixture(name="servers", params=[0, 1], ids=["one process", "workers"])
def _servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    servers = Servers(tmp_path / "data", request.param)
    yield servers
    servers.close()


def ends_of(servers: Servers) -> tuple[str, ...]:
    """A process without workers hands nothing over."""
    return ENDS if servers.now.options["server.gateway_workers"] else ENDS[:2]


@pytest.mark.parametrize("kind", ["ordered", "competing"])
def test_a_consumer_loop_goes_on_at_the_next_server(servers: Servers, kind: str) -> None:
    """Fed all the while, through each way to end."""
    groups, ends = groups_of(servers.now), ends_of(servers)
    with LoopThread(servers.now, kind) as loop, Feeder(servers.now, groups) as feeder:
        more(feeder)
        for end in ends:
            servers.replace(end)
            more(feeder)
            count = len(loop.seen)
            until(lambda count=count: len(loop.seen) > count, f"events after the server was {end}", 30)  # type: ignore[misc]
        feeder.__exit__()
        until(lambda: set(feeder.sequences) <= set(loop.seen) or loop.failure is not None, "the last events", 30)
    assert feeder.failure is None and loop.failure is None and not loop.complaints
    again = sum(Counter(loop.seen).values()) - len(set(loop.seen))
    print(f"{kind}: {len(feeder.sequences)} events through {', '.join(ends)}: {again} doubles, {loop.stats}")
    assert again <= len(ends) * HELD_MAX
    assert loop.stats["joins"] == 1 + len(ends)
    unheard = len(feeder.sequences) - loop.stats["acked_events"]  # acks whose answer the server's end cut off
    assert unheard <= len(ends) * HELD_MAX


def test_subscribe_goes_on_at_the_next_server(servers: Servers, tmp_path: Path) -> None:
    """Under its own name, with a line of warning each time; another process of the name ends it."""
    groups, ends = groups_of(servers.now), ends_of(servers)
    options = ("--start", "first", "--type", "message", "--consumer", "me")
    consumer = Consumer(servers.now, "mail", tmp_path, *options)
    with Feeder(servers.now, groups) as feeder:
        until(lambda: len(consumer.seen()) > 5, "the first events", 30)
        for number, end in enumerate(ends):
            servers.replace(end)
            until(lambda n=number: consumer.said().count("connected again") > n, "the next join", 30)  # type: ignore[misc]
            more(feeder)
    assert feeder.failure is None
    wait_until_seen([consumer], set(feeder.sequences))
    said = consumer.said()
    assert said.count("; trying again …") == said.count("connected again") == len(ends), said
    again = doubles([consumer])
    print(f"{len(feeder.sequences)} events through {', '.join(ends)}: {again} doubles")
    assert again <= len(ends) * 500  # what it may hold
    other = Consumer(servers.now, "mail", tmp_path, *options)
    assert consumer.process.wait(30) == 1
    assert "fenced" in consumer.said().splitlines()[-1] and "Traceback" not in consumer.said()
    with Feeder(servers.now, groups, keys="other") as feeder:
        more(feeder)
    wait_until_seen([other], set(feeder.sequences))
    assert other.stop() == 0, other.said()


def test_a_consumer_that_was_silent_for_too_long_joins_again(tmp_path: Path) -> None:
    """Stopped like a laptop that sleeps, it comes back under its name, and nobody else had it meanwhile."""
    options = {"server.api": ANY, "api.consumer_idle_s": 1}
    with GatewayProcess(tmp_path / "data", **options) as server:
        groups = groups_of(server, 1)
        consumer = Consumer(server, "mail", tmp_path, "--start", "first", "--type", "message", "--consumer", "me")
        with Feeder(server, groups, lanes=1) as feeder:
            until(consumer.seen, "the first events", 30)
            consumer.process.send_signal(signal.SIGSTOP)
            until(lambda: consumers_of(server) == [], "the end of its silence", 30)
            consumer.process.send_signal(signal.SIGCONT)
            until(lambda: consumers_of(server) == ["me"], "its return", 30)
        assert feeder.failure is None
        wait_until_seen([consumer], set(feeder.sequences))
        assert "unknown_consumer" in consumer.said() and "joining again" in consumer.said()
        assert consumer.stop() == 0, consumer.said()


def consumers_of(server: GatewayProcess) -> list[str]:
    """Of the subscription."""

    async def ask() -> list[str]:
        async with BackendClient(server.api, server.service_token()) as gonets:
            return list((await (await gonets.subscription("mail")).standing()).consumers)

    return asyncio.run(ask())

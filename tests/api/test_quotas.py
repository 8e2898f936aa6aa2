"""Quotas of a team: rates both ways, and what lasts; each refusal names its limit and when to come back."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Api, limits
from gateway.api import operation
from gateway.api.bodies import BoundedBodies
from gateway.api.patience import PatientProtocol, end_stalled
from gateway.api.problems import Refusal
from gateway.api.quotas import TEAMS_MAX, Bucket, Quotas
from tests.api.test_publishing import problem
from tests.support.api_site import ApiSite


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50)), min_size=1, max_size=60))
def test_a_bucket_lets_through_its_rate_and_a_second_s_worth(steps: list[tuple[float, int]]) -> None:
    """Over any time: what was taken is at most rate × time + one second's worth + the one that went below zero."""
    bucket, now, taken = Bucket(10, 0.0), 0.0, 0
    for step, amount in steps:
        now += step
        pause_s = bucket.pause_s(now)
        if not pause_s:
            bucket.take(amount)
            taken += amount
            assert taken <= 10 * now + 10 + 50
        else:
            assert Bucket.pause_s(bucket, now + pause_s) == 0, "who waits as long as it was told gets in"
            now += pause_s


def test_a_team_over_its_rate_is_told_which_limit_and_when(tmp_path: Path) -> None:
    with ApiSite(tmp_path, Api(publishes_per_s_max=5)) as site:
        conversation = site.group(7)
        body = [{"type": "x", "conversation": conversation}] * 50
        assert site.ask("POST", "/v1/events", body).status == 200
        refused = site.ask("POST", "/v1/events", body)
        assert refused.status == 429 and problem(refused) == "limit_reached"
        assert refused.json["limit"] == "api.publishes_per_s_max" and refused.json["retryable"]
        assert 1 <= int(refused.headers["retry-after"]) <= 12
        other = site.ask("POST", "/v1/events", body, token=site.token(team="other"))
        assert other.status == 200, "another team has its own"


def test_what_a_request_takes_beyond_a_second_s_worth_is_owed() -> None:
    """Even one event that is larger than that is taken, or it never could be; then the rate pays for it first."""
    now_s = 100.0
    quotas = Quotas(Api(publish_bytes_per_s_max=1_024), now=lambda: now_s)
    quotas.charge_publishes("push", 1, 2_000)
    with pytest.raises(Refusal, match=r"team 'push' has had .* api.publish_bytes_per_s_max = 1,024 a second; .* 0.95"):
        quotas.charge_publishes("push", 1, 1)
    now_s += (2_000 - 1_024) / 1_024 - 0.01
    with pytest.raises(Refusal):
        quotas.charge_publishes("push", 1, 1)
    now_s += 0.02
    quotas.charge_publishes("push", 1, 65_536)
    with pytest.raises(Refusal) as refused:
        quotas.charge_publishes("push", 1, 1)
    assert refused.value.problem.limit == "api.publish_bytes_per_s_max"
    assert 63 < float(refused.value.problem.retry_after_s or 0) < 64.1, "it is owed until it is paid"


def test_bytes_that_are_published_are_refused_over_http(tmp_path: Path) -> None:
    with ApiSite(tmp_path, Api(publish_bytes_per_s_max=1_024)) as site:
        body = {"type": "x", "conversation": site.group(7), "data": "y" * 20_000}
        assert site.ask("POST", "/v1/events", body).status == 201
        refused = site.ask("POST", "/v1/events", {**body, "data": 1})
        assert refused.status == 429 and refused.json["limit"] == "api.publish_bytes_per_s_max"
        assert 1 <= int(refused.headers["retry-after"]) <= 20 and "push" in refused.json["detail"]


def test_reading_has_its_rate_too(tmp_path: Path) -> None:
    with ApiSite(tmp_path, Api(read_bytes_per_s_max=65_536)) as site:
        site.publish(site.group(7), 1_000)
        assert site.ask("GET", "/v1/events?limit=1000").status == 200
        refused = site.ask("GET", "/v1/events")
        assert refused.status == 429 and refused.json["limit"] == "api.read_bytes_per_s_max"


def test_what_lasts_is_counted(tmp_path: Path) -> None:
    with ApiSite(tmp_path, Api(subscriptions_max=2, consumers_max=2, streams_max=1)) as site:
        for name in ("one", "two"):
            site.subscribe(name)
            assert site.ask("POST", f"/v1/subscriptions/{name}/consumers", {"name": "a"}).status == 201
        body = {"name": "three", "kind": "ordered", "filter": {"types": ["order"]}}
        refused = site.ask("POST", "/v1/subscriptions", body)
        assert refused.status == 429 and refused.json["limit"] == "api.subscriptions_max"
        site.subscribe("two")  # one that is there already needs no place
        refused = site.ask("POST", "/v1/subscriptions/two/consumers", {"name": "b"})
        assert refused.status == 429 and refused.json["limit"] == "api.consumers_max"
        assert site.ask("DELETE", "/v1/subscriptions/two").status == 204
        assert site.ask("POST", "/v1/subscriptions", body).status == 201


def test_subscriptions_that_are_being_created_count_too() -> None:
    quotas = Quotas(Api(subscriptions_max=2), now=lambda: 0.0)
    with quotas.creation("a", "two", {"one"}), quotas.creation("a", "two", {"one"}), quotas.creation("b", "x", set()):
        with quotas.creation("a", "one", {"one"}):
            pass
        with pytest.raises(Refusal, match="subscriptions_max"), quotas.creation("a", "three", {"one"}):
            pass
    with quotas.creation("a", "three", {"one"}):
        pass


def test_what_is_done_to_subscriptions_counts_for_the_rate_of_publishing(tmp_path: Path) -> None:
    """Each is an event in the log."""
    with ApiSite(tmp_path, Api(publishes_per_s_max=5)) as site:
        site.subscribe()
        answers = [site.ask("POST", "/v1/subscriptions/mail/pause") for _ in range(30)]
        refused = answers[-1]
        assert answers[0].status == 200 and refused.status == 429
        assert refused.json["limit"] == "api.publishes_per_s_max"


def test_teams_that_are_quiet_are_forgotten_and_open_ones_are_not() -> None:
    quotas = Quotas(Api(), now=lambda: 0.0)
    with quotas.stream("busy"):
        for number in range(TEAMS_MAX + 10):
            quotas.team(f"t{number}")
        assert len(quotas._teams) == TEAMS_MAX and quotas.team("busy").streams == 1
    assert quotas.team("busy").streams == 0


def test_bodies_of_all_requests_share_their_room() -> None:
    """What is counted is given back, however a request ends; a refusal comes as a Refusal to the application."""
    refused: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive())["more_body"]:
                await asyncio.sleep(0)
        except Refusal as refusal:
            refused.append(refusal.problem.code)

    async def bring(bounded: BoundedBodies, pieces: list[int], method: str = "POST") -> None:
        messages = iter([{"type": "http.request", "body": b"x" * size, "more_body": True} for size in pieces])

        async def receive() -> Any:
            return next(messages, {"type": "http.request", "body": b"", "more_body": False})

        async def send(_message: Any) -> None:
            pass

        await bounded({"type": "http", "method": method}, receive, send)

    async def play() -> None:
        bounded = BoundedBodies(app, 100)
        await bring(bounded, [60, 40])
        assert not refused and bounded.held_bytes == 0
        await asyncio.gather(bring(bounded, [60, 1]), bring(bounded, [40, 1]))
        assert refused and bounded.held_bytes == 0
        refused.clear()
        await bring(bounded, [60, 60], "GET")
        assert not refused, "nobody reads it"

    asyncio.run(play())


def test_a_head_or_a_body_that_does_not_come_is_not_waited_for(site: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_s", 0.3)
    monkeypatch.setattr(operation, "BODY_S", 0.3)
    head = f"POST /v1/conversations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token()}\r\n"
    rest = "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    for sent, answered in (("", False), (head, False), (head + rest, True)):
        with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
            connection.sendall(sent.encode())
            found = b""
            while data := connection.recv(65_536):
                found += data
                if b"too_slow" in found:
                    break
            assert (b"HTTP/1.1 408" in found) is answered
    assert site.ask("GET", "/v1/subscriptions").status == 200


def test_streams_are_counted_while_they_last() -> None:
    quotas = Quotas(Api(streams_max=1), now=lambda: 0.0)
    with quotas.stream("a"):
        with pytest.raises(Refusal, match="streams_max"):
            quotas.check_streams("a")
        quotas.check_streams("b")
    quotas.check_streams("a")


def answered(site: ApiSite, *pieces: bytes) -> bytes:
    """What comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        found = b""
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
            while data := connection.recv(65_536):
                found += data
        return found


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /", b"a" * 60_000],
        [b"GET / HTTP/1.1\r\nx: ", b"a" * 60_000],
        [b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 103],
        [b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: ", b"a" * 60_000],
        [b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a" * 60_000],
    ],
)
def test_what_is_neither_head_nor_body_does_not_grow(site: ApiSite, pieces: list[bytes]) -> None:
    """Nobody has shown a token yet: each connection could hold as much as it sends in ten seconds."""
    found = answered(site, *pieces)
    if pieces[0].startswith(b"GET"):
        assert found.startswith(b"HTTP/1.1 431 ") and b'"code":"head_too_large"' in found
    assert site.ask("GET", "/v1/subscriptions").status == 200


def test_what_is_no_http_is_a_problem_too(site: ApiSite) -> None:
    found = answered(site, b"\x16\x03\x01\x02\x00\x01\x00")
    assert found.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in found


def test_a_body_that_goes_on_behind_its_answer_does_not_keep_the_place(
    site: ApiSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then: uvicorn would take each for a sign of life."""
    monkeypatch.setattr(PatientProtocol, "head_s", 0.5)
    with socket.create_connection(("127.0.0.1", site.port), timeout=0.1) as connection:
        connection.sendall(b"POST /v1/events HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
        found, until_s = b"", time.monotonic() + 10
        with pytest.raises(ConnectionError):
            while time.monotonic() < until_s:
                with suppress(TimeoutError):
                    data = connection.recv(65_536)
                    found += data
                    if not data:
                        raise ConnectionError
                connection.sendall(b"x")
        assert b"HTTP/1.1 401" in found


def test_connections_beyond_those_that_are_told_so_are_cut(tmp_path: Path) -> None:
    """Each has a descriptor of the process that writes the log."""
    with ApiSite(tmp_path, Api(connections_max=8)) as site, ExitStack() as held:
        for _ in range(8 + limits.SPARE_CONNECTIONS):
            held.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=10))
        assert answered(site) == b""
        held.close()


def test_who_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    """An answer that nobody reads, on a connection that has been closed on this side."""

    async def play() -> None:
        lost = asyncio.get_running_loop().create_future()

        class Sending(asyncio.Protocol):
            transport: asyncio.Transport

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                self.transport = transport
                transport.write(b"x" * (32 << 20))
                transport.close()

            def connection_lost(self, exc: Exception | None) -> None:
                lost.set_result(None)

        path = tmp_path / "socket"
        sending = Sending()
        server = await asyncio.get_running_loop().create_unix_server(lambda: sending, path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            while not hasattr(sending, "transport"):
                await asyncio.sleep(0.001)
            looking = asyncio.create_task(end_stalled([sending], 0.05))
            await asyncio.wait_for(lost, 10)
            looking.cancel()
        server.close()

    asyncio.run(play())

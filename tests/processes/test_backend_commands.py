"""`gonets publish`, `subscribe`, `subscriptions …`, `token --service` over a real server, with workers and without."""

from __future__ import annotations

import json
import signal
import subprocess
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.test_serve import gonets, one_line
from tests.support.backends import Consumer
from tests.support.gateway import GatewayProcess
from tests.support.supervised import until

pytestmark = pytest.mark.timeout(120)  # each command is a process of Python

ANY = "127.0.0.1:0"


@pytest.fixture(scope="module", params=[0, 1], ids=["one process", "workers"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One for all tests of a kind; each makes subscriptions of its own."""
    options = {"server.api": ANY, "server.gateway_workers": request.param}
    with GatewayProcess(tmp_path_factory.mktemp("served") / "data", **options) as running:
        yield running
        assert "Traceback" not in running.log(), running.log()[-4_000:]


def run(server: GatewayProcess, *words: object) -> subprocess.CompletedProcess[str]:
    """A verb, at this server."""
    return gonets(*words, "--url", server.api, "--data", server.data)


def found(server: GatewayProcess, *words: object) -> Any:
    """What a verb prints as JSON."""
    done = run(server, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def events(server: GatewayProcess, name: str, count: int, *options: object) -> list[dict[str, Any]]:
    """So many events of a subscription, acked."""
    done = run(server, "subscribe", name, "--json", "--count", count, *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_published_event_comes_to_its_subscription_once(server: GatewayProcess) -> None:
    receipt = found(server, "publish", "hello", "--to", 71, "--key", "first")
    assert found(server, "publish", "hello", "--to", 71, "--key", "first") == {**receipt, "repeat": True}
    about = ["--start", "first", "--type", "message", "--conversation", receipt["conversation"]]
    (event,) = events(server, "once", 1, *about)
    assert int(event["sequence"]) == receipt["sequence"] and event["subject"] == str(receipt["conversation"])
    second = found(server, "publish", "again", "--conversation", receipt["conversation"])
    (event,) = events(server, "once", 1)
    assert int(event["sequence"]) == second["sequence"], "it goes on where it was acked"
    piped = gonets("publish", "-", "--to", 71, "--url", server.api, "--data", server.data, stdin="piped in\n")
    assert piped.returncode == 0, piped.stderr
    (event,) = events(server, "once", 1)
    assert b64decode(event["data_base64"]) == b"piped in\n"
    line = run(server, "publish", "for people", "--to", 71).stdout
    assert line.startswith("appended: conversation ") and " in the log" in line


def test_a_subscription_from_its_beginning_to_its_end(server: GatewayProcess) -> None:
    name = "life"
    receipts = [found(server, "publish", f"event {number}", "--to", 72) for number in range(3)]
    events(server, name, 1, "--start", "first", "--type", "message", "--conversation", receipts[0]["conversation"])
    assert name in [row["name"] for row in found(server, "subscriptions", "list")["subscriptions"]]
    shown = found(server, "subscriptions", "show", name)
    assert shown["kind"] == "ordered" and shown["filter"]["types"] == ["message"] and not shown["paused"]
    assert shown["cursor"] >= receipts[0]["sequence"] and shown["team"] == "development"
    assert found(server, "subscriptions", "pause", name)["paused"]
    done = run(server, "subscribe", name, "--count", 1)
    assert done.returncode == 1 and "paused" in done.stderr
    assert not found(server, "subscriptions", "resume", name)["paused"]
    assert len(events(server, name, 2)) == 2
    found(server, "subscriptions", "reset", name, "--to", "first")
    assert [int(event["sequence"]) for event in events(server, name, 3)] == [row["sequence"] for row in receipts]
    listed = run(server, "subscriptions", "list").stdout
    assert "state" in listed and "running" in listed
    assert "cursor: " in run(server, "subscriptions", "show", name).stdout
    assert found(server, "subscriptions", "parked", name) == {"parked": []}
    assert found(server, "subscriptions", "delete", name) == {"name": name, "deleted": True}
    one_line(run(server, "subscriptions", "show", name), name, "no subscription")
    record = events(server, "record", 5, "--start", "first", "--type", "subscription.")
    assert {event["sender"] for event in record} == {"1000000"}, "the service that did it"


def test_subscriptions_are_a_teams(server: GatewayProcess) -> None:
    found(server, "publish", "hello", "--to", 73)
    events(server, "ours", 1, "--start", "first", "--type", "message")
    other = run(server, "subscriptions", "show", "ours", "--team", "other")
    one_line(other, "unknown_subscription", "ours")
    names = [row["name"] for row in found(server, "subscriptions", "list", "--team", "other")["subscriptions"]]
    assert "ours" not in names


def test_a_token_of_a_service_says_what_it_may(server: GatewayProcess) -> None:
    made = gonets(
        "token", "--service", 5, "--team", "mail", "--scope", "read:message", "publish:message", "--data", server.data
    )
    token = made.stdout.strip()
    assert made.returncode == 0 and token.count(".") == 2
    found(server, "publish", "hello", "--to", 74, "--token", token)
    refused = run(server, "publish", "x", "--type", "other.type", "--to", 74, "--token", token)
    one_line(refused, "forbidden", "publish:other.type")
    one_line(run(server, "subscribe", "mine", "--token", token), "forbidden", "subscriptions", "gonets token")
    plain = ["token", "--service", 5, "--team", "mail", "--scope", "read:*", "subscriptions", "--data", server.data]
    made = json.loads(gonets(*plain, "--json").stdout)
    claims = made["token"].split(".")[1]
    assert made["jti"] == json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"], "to revoke it by"
    refused = run(server, "subscribe", "mine", "--token", made["token"])
    one_line(refused, "forbidden", "`audit`", "--type", "--scope read:* audit")


@pytest.mark.parametrize(
    ("words", "found_words"),
    [
        (["publish", "x"], ["--to USER", "--conversation"]),
        (["publish", "x", "--conversation", 999_999], ["unknown_conversation"]),
        (["publish", "x", "--to", 1, "--type", "Not A Type"], ["bad_argument", "type"]),
        (["publish", "x", "--to", 1, "--token", "bad"], ["bad_token"]),
        (["subscribe", "Bad Name"], ["name"]),
        (["subscribe", "x", "--start", "yesterday"], ["--start 'yesterday'", "first, last"]),
        (
            ["subscriptions", "reset", "x", "--to", "yesterday"],
            ["--to 'yesterday'", "first, last", "2026-11-25T10:00Z"],
        ),
        (["subscriptions", "reset", "x", "--to", "1960-01-01"], ["--to '1960-01-01'", "1970"]),
        (["subscribe", "x", "--start", "2200-01-01"], ["bad_argument", "2200-01-01", "at most 60 s ahead"]),
        (["subscribe", "x", "--start", 10**9], ["beyond_end", "start sequence 1000000000", "the log ends at"]),
        (["publish", "--tto", "--to", 1], ["'--tto' is no option", "publish -"]),
        (["publish", "x" * 65_537, "--to", 1], ["65,536 bytes", "by reference"]),
        (["subscribe", "x", "--count", 0], ["--count 0", "at least 1"]),
        (["subscriptions", "show", "nowhere"], ["unknown_subscription", "nowhere"]),
        (["subscriptions", "parked", "x", "--replay", 1, "--drop", 1], ["one of --replay"]),
    ],
)
def test_each_mistake_is_one_line(server: GatewayProcess, words: list[object], found_words: list[str]) -> None:
    one_line(run(server, *words), *found_words)


@pytest.mark.parametrize(
    ("words", "found_words"),
    [
        (["--service", 0], ["--service 0"]),
        (["--service", 5, "--user", 5], ["--user", "--service"]),
        (["--user", 5, "--team", "mail"], ["--team", "--service"]),
        (["--service", 5, "--team", "Mail"], ["--team 'Mail'"]),
        (["--service", 5, "--scope", "read:é"], ["--scope 'read:é'"]),
        ([], ["--user", "--service"]),
    ],
)
def test_a_token_that_can_not_be_is_one_line(
    server: GatewayProcess, words: list[object], found_words: list[str]
) -> None:
    one_line(gonets("token", *words, "--data", server.data), *found_words)


def test_a_url_that_is_none_and_a_door_that_is_not_there(server: GatewayProcess) -> None:
    one_line(
        gonets("publish", "x", "--to", 1, "--url", "ws://127.0.0.1:1/v1", "--data", server.data), "--url", "http://"
    )
    away = gonets("publish", "x", "--to", 1, "--url", "http://127.0.0.1:1", "--data", server.data)
    one_line(away, "can't reach http://127.0.0.1:1", "[server] api")


def test_who_is_away_is_asked_of_whoever_holds_the_sessions(server: GatewayProcess, tmp_path: Path) -> None:
    """recipient_away: one person is connected, the other isn't."""
    here, away, sender = 81, 82, 83
    device = server.device(here)
    consumer = Consumer(server, "push", tmp_path, "--start", "first", "--type", "message", "--recipient-away")
    until(lambda: "push" in [row["name"] for row in listed(server)], "the subscription")
    for person in (here, away, here, away):
        found(server, "publish", "ring", "--to", person, "--service", sender)
    until(lambda: len(consumer.seen()) >= 2, "the events of who is away")
    lines = [json.loads(line) for line in consumer.path.read_text().splitlines()]
    assert {line["away"] for line in lines if line["sender"] == str(sender)} == {str(away)}
    assert consumer.stop() == 0
    device.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_consumer_that_is_told_to_end_leaves_its_share(
    server: GatewayProcess, tmp_path: Path, number: signal.Signals
) -> None:
    """While it waits for events: nobody has to wait until it counts as gone."""
    name = f"ends-{number.name.lower()}"
    consumer = Consumer(server, name, tmp_path, "--start", "first", "--type", "message")

    def consumers() -> list[str]:
        return [one for row in listed(server) if row["name"] == name for one in row["consumers"]]

    until(lambda: len(consumers()) == 1, "the consumer")
    assert consumer.stop(number) == 0, consumer.said()
    assert consumers() == [] and "Traceback" not in consumer.said()


def listed(server: GatewayProcess) -> list[dict[str, Any]]:
    """Subscriptions of the team of the consumers."""
    rows: list[dict[str, Any]] = found(server, "subscriptions", "list", "--team", "tests")["subscriptions"]
    return rows

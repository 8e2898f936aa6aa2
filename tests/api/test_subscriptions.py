"""Subscriptions over HTTP: their life, consumers that pull, every way of answering an event, and who is too late."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from engine import Api
from tests.api.test_publishing import problem
from tests.support.api_site import Answer, ApiSite

AT = "/v1/subscriptions/mail"


class Puller:
    """A consumer of `mail`."""

    def __init__(self, site: ApiSite, name: str = "one") -> None:
        joined = site.ask("POST", f"{AT}/consumers", {"name": name})
        assert joined.status == 201, joined.body
        self.site, self.name, self.generation = site, joined.json["name"], joined.json["generation"]

    def say(self, what: str, **fields: object) -> Answer:
        """One request of it."""
        body = {"generation": self.generation, **fields}
        return self.site.ask("POST", f"{AT}/consumers/{self.name}/{what}", body)

    def pull(self, **fields: object) -> list[tuple[int, int]]:
        """(sequence, deliveries) of what it is given."""
        answer = self.say("pull", **fields)
        assert answer.status == 200, answer.body
        return [(int(event["sequence"]), event.get("deliveries", 1)) for event in answer.json["events"]]


def test_a_subscription_is_made_shown_paused_reset_and_deleted(site: ApiSite) -> None:
    sequences = site.publish(site.group(7), 4)
    body = {"name": "mail", "kind": "ordered", "start": {"first": True}, "filter": {"types": ["order"]}}
    made = site.ask("POST", "/v1/subscriptions", body)
    assert made.status == 201 and made.json["kind"] == "ordered" and made.json["filter"]["types"] == ["order"]
    assert site.ask("POST", "/v1/subscriptions", body).status == 201, "alike: nothing changes"
    other = site.ask("POST", "/v1/subscriptions", {**body, "kind": "competing"})
    assert other.status == 409 and problem(other) == "subscription_exists"
    assert "delete it first" in other.json["hint"]
    foreign = site.ask("POST", "/v1/subscriptions", body, token=site.token(team="other"))
    assert foreign.status == 409 and foreign.json["hint"] == "take another name", "it isn't theirs to delete"
    assert [one["name"] for one in site.ask("GET", "/v1/subscriptions").json["subscriptions"]] == ["mail"]
    assert site.ask("POST", f"{AT}/pause").json["paused"] is True
    puller = Puller(site)
    assert problem(puller.say("pull")) == "paused"
    assert site.ask("POST", f"{AT}/resume").json["paused"] is False
    assert [sequence for sequence, _ in puller.pull()] == sequences
    assert site.ask("POST", f"{AT}/reset", {"start": {"sequence": sequences[1]}}).status == 200
    assert problem(puller.say("ack", sequences=sequences[:1])) == "fenced"
    assert [sequence for sequence, _ in Puller(site).pull()] == sequences[2:]
    assert site.ask("DELETE", AT).status == 204
    assert problem(site.ask("GET", AT)) == "unknown_subscription"


def test_a_pull_waits_for_the_first_event(site: ApiSite) -> None:
    conversation = site.group(7)
    site.subscribe()
    puller = Puller(site)
    assert puller.pull() == []
    timer = threading.Timer(0.2, site.publish, (conversation,))
    timer.start()
    begun = time.monotonic()
    assert len(puller.pull(wait_s=10)) == 1 and 0.1 < time.monotonic() - begun < 5
    timer.join()


def test_each_answer_does_what_it_says(site: ApiSite) -> None:
    one, two, three, four = site.publish(site.group(7), 4)
    site.subscribe()
    puller = Puller(site)
    assert [sequence for sequence, _ in puller.pull()] == [one, two, three, four]
    assert puller.say("ack", sequences=[one]).status == 204
    assert puller.say("retry", sequences=[two], delay_s=0).status == 204
    assert puller.say("park", sequences=[three], reason="no address").status == 204
    assert puller.say("extend", sequences=[four], extend_s=60).status == 204
    assert puller.pull() == [(two, 2)]
    assert puller.say("ack", up_to=four).status == 204
    assert puller.pull() == []
    page = site.ask("GET", f"{AT}/parked").json
    assert [(one["sequence"], one["reason"], one["type"]) for one in page["parked"]] == [
        (three, "no address", "order.paid")
    ]
    assert site.ask("POST", f"{AT}/parked/replay", {"sequences": [three, 4_711]}).json == {"count": 1}
    assert [sequence for sequence, _ in puller.pull()] == [three]
    assert puller.say("park", sequences=[three]).status == 204
    assert site.ask("POST", f"{AT}/parked/drop", {"sequences": [three]}).json == {"count": 1}
    assert site.ask("GET", f"{AT}/parked").json == {"parked": [], "next": None}
    refused = puller.say("ack", sequences=[4_711])
    assert refused.status == 409 and problem(refused) == "not_in_flight"
    assert problem(puller.say("ack", sequences=[one], up_to=two)) == "bad_argument"


def test_one_pull_at_a_time(site: ApiSite) -> None:
    site.subscribe()
    puller = Puller(site)

    def wait() -> None:
        """Until it is the one that waits: the look below may be in its way."""
        while problem_or_none(puller.say("pull", wait_s=2)) == "busy":
            time.sleep(0.05)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while problem_or_none(busy := puller.say("pull")) is None:
        time.sleep(0.01)
    assert busy.status == 409 and problem(busy) == "busy"
    waiting.join()


def problem_or_none(answer: Answer) -> str | None:
    """The code of what is no success."""
    return None if answer.status == 200 else problem(answer)


def test_a_pull_whose_client_goes_takes_nothing(site: ApiSite) -> None:
    """What is handed to nobody would be away until its ack_timeout_s."""
    import socket

    conversation = site.group(7)
    site.subscribe()
    puller = Puller(site)
    body = b'{"generation": %d, "wait_s": 30}' % puller.generation
    with socket.create_connection(("127.0.0.1", site.port)) as connection:
        connection.sendall(
            b"POST %b/consumers/one/pull HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (AT.encode(), site.token().encode(), len(body), body)
        )
        time.sleep(0.5)  # it shall wait before anybody looks: a look is a pull too, and would be in its way
        while problem_or_none(puller.say("pull")) != "busy":
            time.sleep(0.01)
    deadline = time.monotonic() + 5
    while problem_or_none(puller.say("pull")) == "busy":
        assert time.monotonic() < deadline, "the pull still waits for a client that has gone"
        time.sleep(0.01)
    assert [(sequence, 1) for sequence in site.publish(conversation)] == puller.pull(wait_s=5)


def test_a_later_consumer_of_the_same_name_fences_the_earlier(site: ApiSite) -> None:
    site.publish(site.group(7))
    site.subscribe()
    earlier = Puller(site)
    ((sequence, _),) = earlier.pull()
    later = Puller(site)
    assert problem(earlier.say("ack", sequences=[sequence])) == "fenced"
    assert [found for found, _ in later.pull()] == [sequence]


def test_who_leaves_or_falls_silent_gives_back_what_it_has(tmp_path: Path) -> None:
    with ApiSite(tmp_path, Api(consumer_idle_s=1)) as site:
        site.publish(site.group(7), 2)
        site.subscribe()
        quitter, other = Puller(site), Puller(site, "two")
        taken = quitter.pull(events_max=1)
        assert site.ask("DELETE", f"{AT}/consumers/one?generation={quitter.generation}").status == 204
        assert problem(quitter.say("pull")) == "unknown_consumer"
        given = {sequence for sequence, _ in other.pull(wait_s=5)}
        assert taken[0][0] in given
        deadline = time.monotonic() + 10
        while "two" in site.ask("GET", AT).json["consumers"]:
            assert time.monotonic() < deadline, "silence did not end it"
            time.sleep(0.1)
        assert {sequence for sequence, _ in Puller(site, "three").pull(wait_s=5)} >= given


def test_the_join_says_how_long_a_consumer_may_be_silent(site: ApiSite) -> None:
    """What ends it first: the option of pulling, or the subscription's own time, before the first pull too."""
    site.publish(site.group(7))
    for name, ack_timeout_s, idle_s_max in (("short", 1, 1.0), ("long", 3_600, float(site.options.consumer_idle_s))):
        site.subscribe(name, settings={"ack_timeout_s": ack_timeout_s})
        joined = site.ask("POST", f"/v1/subscriptions/{name}/consumers", {"name": "one"}).json
        assert joined["idle_s_max"] == idle_s_max
    deadline = time.monotonic() + 10
    while "one" in site.ask("GET", "/v1/subscriptions/short").json["consumers"]:
        assert time.monotonic() < deadline, "silence did not end it"
        time.sleep(0.1)
    assert site.ask("GET", "/v1/subscriptions/long").json["consumers"] == ["one"]


@pytest.mark.parametrize("kind", ["ordered", "competing"])
def test_events_of_one_conversation_are_retried_together(site: ApiSite, kind: str) -> None:
    """Where order counts, the first one's retry takes the others along."""
    sequences = site.publish(site.group(7), 4)
    site.subscribe(kind=kind)
    puller = Puller(site)
    assert [sequence for sequence, _ in puller.pull()] == sequences
    assert puller.say("retry", sequences=[*sequences, sequences[0]], delay_s=0).status == 204
    again: list[tuple[int, int]] = []
    while len(again) < 4:
        again += puller.pull(wait_s=5)
    assert again == [(sequence, 2) for sequence in sequences]


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("ack", {"sequences": []}),
        ("ack", {"sequences": [0]}),
        ("retry", {"sequences": [1], "delay_s": -1}),
        ("extend", {"sequences": [1], "extend_s": 0}),
        ("pull", {"events_max": 0}),
        ("pull", {"wait_s": 10_000}),
        ("park", {"sequences": [1], "reason": "x" * 257}),
    ],
)
def test_values_outside_their_limits_are_named(site: ApiSite, what: str, fields: dict[str, object]) -> None:
    site.subscribe()
    answer = Puller(site).say(what, **fields)
    assert answer.status == 400 and problem(answer) == "bad_argument"

"""Publishing over HTTP: one event, batches, CloudEvents in each mode, repeats, expected sequences, refusals."""

from __future__ import annotations

import base64
import json

import pytest

from tests.support.api_site import Answer, ApiSite


def problem(answer: Answer) -> str:
    """The code of a problem, whose form is checked on the way."""
    assert answer.headers["content-type"] == "application/problem+json", answer.body
    found = answer.json
    assert found["status"] == answer.status and found["type"] == f"/v1/docs#{found['code']}" and found["title"]
    assert isinstance(found["retryable"], bool) and found["detail"]
    code: str = found["code"]
    return code


def test_one_event_is_in_the_log_when_it_is_answered(site: ApiSite) -> None:
    conversation = site.group(7)
    body = b'{"type": "order.paid", "conversation": %d, "data": {"sum": 1.50, "to": [1,  2]}}' % conversation
    answer = site.ask("POST", "/v1/events", body, headers={"Content-Type": "application/json"})
    assert answer.status == 201
    receipt = answer.json
    event = next(site.memory.log.after(receipt["sequence"] - 1))
    assert event.type == "order.paid" and event.conversation == conversation and event.sender == 900
    assert event.payload == b'{"sum": 1.50, "to": [1,  2]}', "the payload is what was sent, byte by byte"
    assert receipt["id"] == f"0-1:{event.sequence}" and receipt["conversation_sequence"] == 2 and not receipt["repeat"]


def test_a_repeat_with_the_same_key_appends_nothing(site: ApiSite) -> None:
    body = {"type": "order.paid", "conversation": site.group(7), "data": 1}
    first = site.ask("POST", "/v1/events", body, headers={"Idempotency-Key": '"a1"'}).json
    again = site.ask("POST", "/v1/events", {**body, "key": "a1"}).json
    assert again["repeat"] and again["sequence"] == first["sequence"]
    batch = [body, body]
    one = site.ask("POST", "/v1/events", batch, headers={"Idempotency-Key": "b"}).json["outcomes"]
    two = site.ask("POST", "/v1/events", batch, headers={"Idempotency-Key": "b"}).json["outcomes"]
    assert [outcome["published"]["repeat"] for outcome in one + two] == [False, False, True, True]
    assert [outcome["published"]["sequence"] for outcome in one] == [o["published"]["sequence"] for o in two]


def test_an_expected_sequence_that_is_not_so_is_refused_with_the_actual_one(site: ApiSite) -> None:
    body = {"type": "order.paid", "conversation": site.group(7), "data": 1}
    assert site.ask("POST", "/v1/events", {**body, "expected": 1}).status == 201
    refused = site.ask("POST", "/v1/events", {**body, "expected": 1})
    assert refused.status == 409 and problem(refused) == "conflict" and refused.json["actual"] == 2
    assert "expected was 1, the last conversation sequence is 2" in refused.json["detail"]
    empty = site.ask("POST", "/v1/events", {"type": "order.paid", "person": 8, "data": 1, "expected": 3})
    assert problem(empty) == "conflict" and empty.json["actual"] == 0


def test_events_of_a_batch_have_each_their_own_fate_in_their_order(site: ApiSite) -> None:
    good = {"type": "order.paid", "conversation": site.group(7), "data": 1}
    answer = site.ask("POST", "/v1/events", [good, {**good, "conversation": 4_711}, good])
    outcomes = answer.json["outcomes"]
    assert answer.status == 200 and [outcome["status"] for outcome in outcomes] == [201, 404, 201]
    named = site.ask("POST", "/v1/events", {"events": [good, {**good, "conversation": 4_711}]})
    assert named.status == 200 and [outcome["status"] for outcome in named.json["outcomes"]] == [201, 404]
    assert outcomes[1]["problem"]["code"] == "unknown_conversation"
    assert outcomes[0]["published"]["sequence"] + 1 == outcomes[2]["published"]["sequence"]


def test_a_cloudevent_is_published_in_each_mode_and_its_id_is_its_key(site: ApiSite) -> None:
    conversation = site.group(7)
    event = {
        "specversion": "1.0", "id": "o-1", "source": "/shop", "type": "order.paid", "subject": str(conversation),
        "traceparent": "00-abc", "data": {"sum": 1},
    }  # fmt: skip
    structured = site.ask(
        "POST", "/v1/events", json.dumps(event).encode(), headers={"Content-Type": "application/cloudevents+json"}
    )
    headers = {f"ce-{name}": str(event[name]) for name in ("specversion", "id", "source", "type", "subject")}
    binary = site.ask("POST", "/v1/events", b"\x00raw", headers={**headers, "Content-Type": "image/png"})
    assert structured.status == binary.status == 201
    assert binary.json["repeat"] and binary.json["sequence"] == structured.json["sequence"]
    headers["ce-id"] = "o-2"
    other = site.ask("POST", "/v1/events", b"\x00raw", headers={**headers, "Content-Type": "image/png"})
    assert next(site.memory.log.after(other.json["sequence"] - 1)).payload == b"\x00raw"
    plain = {name: value for name, value in event.items() if name != "data"}
    batch = [{**event, "id": "o-3"}, {**plain, "id": "o-4", "data_base64": "AAE="}]
    answer = site.ask(
        "POST", "/v1/events", json.dumps(batch).encode(), headers={"Content-Type": "application/cloudevents-batch+json"}
    )
    assert [outcome["status"] for outcome in answer.json["outcomes"]] == [201, 201]
    assert [event.payload for event in site.memory.log.after(other.json["sequence"])] == [b'{"sum": 1}', b"\x00\x01"]


def test_the_first_event_to_a_person_makes_the_dialog(site: ApiSite) -> None:
    body = {"type": "greeting", "person": 7, "data_base64": base64.b64encode(b"hi").decode()}
    first, second = site.ask("POST", "/v1/events", body).json, site.ask("POST", "/v1/events", body).json
    assert first["conversation"] == second["conversation"] and second["conversation_sequence"] == 3
    shown = site.ask("GET", f"/v1/conversations/{first['conversation']}").json
    assert shown["kind"] == "dialog" and shown["members"] == 2


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"type": "x"}, 400, "bad_argument", "exactly one"),
        ({"type": "x", "conversation": 1, "person": 2}, 400, "bad_argument", "exactly one"),
        ({"type": "x", "conversation": 4_711}, 404, "unknown_conversation", ""),
        ({"type": "x", "conversation": 2**53}, 400, "bad_argument", "$.conversation"),
        ({"type": "X", "conversation": 1}, 400, "bad_argument", "$.type"),
        ({"type": "x", "conversation": 1, "dat": 1}, 400, "bad_argument", "dat"),
        ({"type": "x", "conversation": 1, "data_base64": "%"}, 400, "bad_argument", "base64"),
        ({"type": "x", "conversation": 1, "data": "y" * 65_600}, 413, "payload_too_large", "65,536"),
        ({"type": "member.added", "conversation": 1, "data": {}}, 400, "bad_payload", ""),
        ({"type": "subscription.paused", "conversation": 1, "data": {"name": "x"}}, 400, "bad_type", ""),
        ({"events": [{"type": "x", "conversation": 2**53}]}, 400, "bad_argument", "$.events[0].conversation"),
        ({"events": [], "type": "x"}, 400, "bad_argument", "type"),
        (b"{", 400, "bad_request", "JSON"),
        (b"\xff\xff", 400, "bad_request", "JSON"),
        (b'{"type": "x", "data": ' + b"[" * 100_000, 400, "bad_request", "JSON"),
    ],
)
def test_what_can_not_be_published_is_refused_and_named(
    site: ApiSite, body: object, status: int, code: str, words: str
) -> None:
    answer = site.ask("POST", "/v1/events", body, headers={"Content-Type": "application/json"})
    assert (answer.status, problem(answer)) == (status, code), answer.body
    assert words in answer.json["detail"]


def test_other_content_and_too_much_of_it_are_refused(site: ApiSite) -> None:
    answer = site.ask("POST", "/v1/events", b"a=1", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 415 and problem(answer) == "unsupported_media_type"
    assert "application/cloudevents+json" in answer.headers["accept"]
    large = site.ask(
        "POST", "/v1/events", b" " * (site.options.body_bytes_max + 1), headers={"Content-Type": "application/json"}
    )
    assert large.status == 413 and problem(large) == "body_too_large"
    assert f"api.body_bytes_max = {site.options.body_bytes_max:,}" in large.json["detail"] and large.json["hint"]
    many = site.ask("POST", "/v1/events", [{"type": "x", "conversation": 1}] * 1_001)
    assert many.status == 400 and "batch_events_max" in many.json["detail"]


def test_members_are_added_listed_and_removed(site: ApiSite) -> None:
    conversation = site.group(7, 8)
    at = f"/v1/conversations/{conversation}/members"
    assert site.ask("PUT", f"{at}/9", {"role": "admin"}).status == 200
    assert site.ask("DELETE", f"{at}/7").status == 200
    again = site.ask("PUT", f"{at}/9", {"role": "admin"})
    assert again.status == 409 and problem(again) == "unchanged"
    page = site.ask("GET", f"{at}?limit=2").json
    assert page == {"members": [{"user": 8, "role": "member"}, {"user": 9, "role": "admin"}], "next": 9}
    assert site.ask("GET", f"{at}?after=9").json == {"members": [{"user": 900, "role": "owner"}], "next": None}
    shown = site.ask("GET", f"/v1/conversations/{conversation}").json
    assert (shown["kind"], shown["title"], shown["members"]) == ("group", "Team", 3)
    assert problem(site.ask("GET", "/v1/conversations/4711")) == "unknown_conversation"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("PATCH", "/v1/events", 405, "method_not_allowed"),
        ("GET", "/v1/conversations/x", 400, "bad_argument"),
        ("GET", "/v1/events?after=-1", 400, "bad_argument"),
        ("GET", "/v1/events?after=0&after=1", 400, "bad_argument"),
        ("GET", "/v1/events?afterr=0", 400, "bad_argument"),
        ("GET", "/v1/subscriptions?x=1", 400, "bad_argument"),
        ("GET", "/v1/subscriptions/Bad%20Name", 400, "bad_argument"),
        ("GET", "/v1/subscriptions/none", 404, "unknown_subscription"),
    ],
)
def test_whatever_goes_wrong_is_a_problem(site: ApiSite, method: str, path: str, status: int, code: str) -> None:
    answer = site.ask(method, path)
    assert (answer.status, problem(answer)) == (status, code), answer.body
    if status == 405:
        assert "POST" in answer.headers["allow"]
        assert "PATCH '/v1/events': the address takes " in answer.json["detail"] and "POST" in answer.json["detail"]
    if code == "not_found":
        assert "GET '/v1/nothing'" in answer.json["detail"] and "/v1/docs" in answer.json["hint"]


def test_what_would_not_be_looked_at_is_refused(site: ApiSite) -> None:
    """A condition that is passed over in silence is worse than none."""
    conversation = site.group(7)
    added = {"type": "member.added", "conversation": conversation, "data": {"user": 8, "role": ""}, "expected": 99}
    created = {"type": "conversation.created", "person": 5, "data": {"kind": "group", "title": "x", "members": []}}
    for body in (added, created):
        answer = site.ask("POST", "/v1/events", body)
        assert answer.status == 400 and problem(answer) == "bad_argument"
    assert site.memory.log.last == 1


def test_source_and_id_of_a_cloudevent_can_t_be_taken_for_those_of_another(site: ApiSite) -> None:
    """Its key is `source|id`."""
    conversation = site.group(7)
    event = {"specversion": "1.0", "type": "order.paid", "subject": str(conversation), "data": 1}
    headers = {"Content-Type": "application/cloudevents+json"}
    for source, id, status in (("a|b", "c", 400), ("a", "b|c", 201)):
        body = json.dumps({**event, "source": source, "id": id}).encode()
        assert site.ask("POST", "/v1/events", body, headers=headers).status == status


def test_a_value_that_fits_no_shape_is_answered_with_what_would_fit(site: ApiSite) -> None:
    new = {"name": "mail", "kind": "ordered"}
    for method, path, body, detail, hint in (
        ("GET", "/v1/events?after=zzz", None, "'zzz'", "behind this id"),
        ("GET", "/v1/events?kinds=dialog&kinds=chat", None, "'chat'", "dialog, group"),
        ("GET", "/v1/events?type=message", None, "`type`", "types"),
        ("POST", "/v1/subscriptions", {**new, "start": "last"}, "$.start", "first, sequence, time"),
        ("POST", "/v1/subscriptions", {**new, "kind": "fifo"}, "$.kind", "ordered"),
        ("POST", "/v1/events", {"type": "Bad", "person": 1}, "$.type", "lower-case"),
    ):
        answer = site.ask(method, path, body)
        assert answer.status == 400, answer.json
        assert detail in answer.json["detail"] and hint in answer.json["hint"], answer.json

"""Who may: tokens, the words of their scope, and what becomes of open connections when they end."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Filter
from engine.conversations import ENGINE_ITSELF
from gateway.api.scopes import covers, may_read, parse_scope
from gateway.revocation import Revoked
from tests.api.test_publishing import problem
from tests.support.api_site import ApiSite

NAMES = st.lists(st.sampled_from(["message", "member", "a", "edited", "subscription"]), min_size=1, max_size=3).map(
    ".".join
)
PREFIXES = st.one_of(NAMES, NAMES.map(lambda name: name + "."), st.just("*"))


def naively_allows(prefix: str, type: str) -> bool:
    """By the words of API.md: a prefix ends at a dot."""
    if prefix == "*":
        return True
    wanted, found = prefix.removesuffix(".").split("."), type.split(".")
    return found[: len(wanted)] == wanted and (len(found) > len(wanted) or not prefix.endswith("."))


@given(PREFIXES, NAMES)
def test_a_prefix_allows_what_lies_at_or_below_it(prefix: str, type: str) -> None:
    assert covers(prefix, type) == naively_allows(prefix, type)


@given(PREFIXES, PREFIXES, NAMES)
def test_a_prefix_that_covers_another_allows_all_that_the_other_does(prefix: str, other: str, type: str) -> None:
    if covers(prefix, other) and naively_allows(other, type):
        assert naively_allows(prefix, type)


@given(st.text(max_size=40), st.sampled_from(["", "conversation:x", "conversation:0", "read:", "publish: "]))
def test_a_scope_of_any_words_allows_nothing_by_mistake(words: str, more: str) -> None:
    scope = parse_scope(f"{words.replace('read', '').replace('audit', '')} {more}")
    assert may_read(scope, Filter(types=("message",), kinds=("group",)))
    limited = parse_scope(f"read:* {more} conversation:nonsense")
    assert may_read(limited, Filter(types=("message",), kinds=("group",), conversations=(5,)))


@pytest.mark.parametrize(
    ("scope", "filter", "allowed"),
    [
        ("read:message", Filter(types=("message",)), True),
        ("read:message", Filter(types=("message.edited",)), True),
        ("read:message", Filter(types=("message", "member")), False),
        ("read:message", Filter(), False),
        ("read:*", Filter(), False),
        ("read:* audit", Filter(), True),
        ("read:*", Filter(kinds=("group", "dialog")), True),
        ("read:*", Filter(types=("subscription.",)), False),
        ("audit", Filter(types=("subscription.",)), True),
        ("audit", Filter(types=("admin.", "subscription.parked")), True),
        ("audit", Filter(kinds=("system",)), True),
        ("audit", Filter(kinds=("system", "group")), False),
        ("audit", Filter(types=("admin.", "message"), kinds=("system",)), False),
        ("read:*", Filter(types=("admin.",)), False),
        ("read:*", Filter(kinds=("system",)), False),
        ("read:*", Filter(conversations=(5,)), True),
        ("read:*", Filter(conversations=((1 << 40) - 1,)), False),
        ("read:* conversation:5", Filter(kinds=("group",)), False),
        ("read:* conversation:5", Filter(conversations=(5,)), True),
        ("read:* conversation:5", Filter(conversations=(5, 6)), False),
    ],
)
def test_a_filter_is_allowed_whole_or_not_at_all(scope: str, filter: Filter, allowed: bool) -> None:
    assert (may_read(parse_scope(scope), filter) == "") is allowed


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"team": None}, "bad_token"),
        ({"team": "Bad Team"}, "bad_token"),
        ({"aud": "other"}, "bad_token"),
        ({"sub": str(ENGINE_ITSELF)}, "bad_token"),
        ({"exp": 1_000}, "token_expired"),
        ({"scope": ["read:*"]}, "bad_token"),
    ],
)
def test_a_token_that_is_no_service_s_opens_nothing(site: ApiSite, claims: dict[str, Any], code: str) -> None:
    token = site.issuer.token(900, **{"team": "push", "scope": "read:*", **claims})
    answer = site.ask("GET", "/v1/subscriptions", token=token)
    assert answer.status == 401 and problem(answer) == code
    assert answer.headers["www-authenticate"].startswith("Bearer ") and token not in answer.body.decode()


def test_without_a_token_there_are_only_the_documents(site: ApiSite) -> None:
    assert problem(site.ask("GET", "/v1/events", token="")) == "bad_token"
    assert problem(site.ask("GET", "/v1/events", token="", headers={"Authorization": "Basic x"})) == "bad_token"
    for path in ("/v1/openapi.json", "/v1/asyncapi.json", "/v1/docs", "/"):
        assert site.ask("GET", path, token="").status == 200


def test_each_word_of_a_scope_is_needed(site: ApiSite) -> None:
    conversation = site.group(7)
    site.publish(conversation)
    site.subscribe()
    event = {"type": "order.paid", "conversation": conversation, "data": 1}
    asked = [
        ("POST", "/v1/events", event, "publish:order"),
        ("GET", "/v1/events?types=order", None, "read:order"),
        ("POST", "/v1/conversations", {"kind": "group", "title": "x"}, "publish:conversation."),
        ("PUT", f"/v1/conversations/{conversation}/members/8", {}, "publish:member."),
        ("GET", f"/v1/conversations/{conversation}", None, "read:conversation."),
        ("POST", "/v1/subscriptions/mail/pause", None, "subscriptions"),
        ("POST", "/v1/subscriptions/mail/consumers", {}, "read:order"),
        ("GET", "/v1/subscriptions/mail/parked", None, "read:order"),
    ]
    every = {word for *_, word in asked}
    for method, path, body, word in asked:
        without = site.ask(method, path, body, token=site.token(" ".join(every - {word})))
        assert without.status == 403 and problem(without) == "forbidden", path
        assert site.ask(method, path, body, token=site.token(word)).status in (200, 201), path
    limited = site.token(f"publish:order read:order conversation:{conversation + 1}")
    assert site.ask("POST", "/v1/events", event, token=limited).status == 403
    assert site.ask("GET", f"/v1/events?types=order&conversations={conversation}", token=limited).status == 403


def test_another_team_s_subscriptions_are_not_there(site: ApiSite) -> None:
    site.subscribe()
    token = site.token(team="other")
    assert site.ask("GET", "/v1/subscriptions", token=token).json == {"subscriptions": []}
    assert site.ask("GET", "/v1/subscriptions/mail", token=token).status == 404
    assert site.ask("DELETE", "/v1/subscriptions/mail", token=token).status == 404


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_an_open_stream_of_events_ends_with_its_token(site: ApiSite, how: str) -> None:
    token = site.token("read:order", jti="t1", exp=int(time.time()) + (2 if how == "expired" else 600))
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request(
        "GET", "/v1/events?types=order", headers={"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    )
    answer = connection.getresponse()
    assert answer.status == 200
    if how == "revoked":
        site.revoked = Revoked(tokens=frozenset({"t1"}))
    data = answer.read().decode()
    connection.close()
    assert "event: problem" in data
    found = json.loads(data.partition("event: problem\ndata: ")[2].strip())
    assert found["status"] == 401 and found["code"] == f"token_{how}"

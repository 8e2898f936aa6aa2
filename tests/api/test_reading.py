"""Reading the stream without a subscription: pages, one event, server-sent events, positions that are no more."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
from collections.abc import AsyncIterator, Generator
from contextlib import closing

import pytest

from engine import StoredEvent
from gateway.api.cloudevents import binary
from gateway.api.events import PageRead
from tests.api.test_publishing import problem
from tests.support.api_site import ApiSite


def lines(site: ApiSite, path: str, **headers: str) -> Generator[str, None, None]:
    """Lines of an endless answer."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    sent = {"Authorization": f"Bearer {site.token()}", "Accept": "text/event-stream", **headers}
    connection.request("GET", path, headers=sent)
    with closing(connection):
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        while line := answer.readline():
            yield line.decode().rstrip("\n")


def events(found: Generator[str, None, None]) -> Generator[tuple[str, str, dict[str, object]], None, None]:
    """(id, event, data) of server-sent events, by the rules of the specification that we use."""
    fields: dict[str, str] = {}
    for line in found:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields.pop("id", ""), fields.pop("event", ""), json.loads(fields.pop("data"))


def test_pages_give_every_event_once_and_end_where_the_log_does(site: ApiSite) -> None:
    conversation = site.group(7)
    wanted = site.publish(conversation, 25)
    site.publish(conversation, 5, "other.thing")
    after, found, pages = "0", [], 0
    while True:
        page = site.ask("GET", f"/v1/events?after={after}&limit=10&types=order").json
        found += [int(event["sequence"]) for event in page["events"]]
        after, pages = page["next"], pages + 1
        if page["at_end"]:
            break
    assert found == wanted and pages == 3
    assert after == f"0-1:{site.memory.log.last}", "what the filter passes over is not looked at again"
    more = site.publish(conversation)
    page = site.ask("GET", f"/v1/events?after={after}&types=order").json
    assert [int(event["sequence"]) for event in page["events"]] == more


def test_a_page_ends_when_its_time_is_over_and_the_next_goes_on_there() -> None:
    """A filter that wants little of a long log: without a place to go on from each page would begin anew."""

    async def read(page: PageRead, one: StoredEvent) -> AsyncIterator[StoredEvent]:
        yield one
        page.reached(4_000)
        await asyncio.sleep(60)

    async def story() -> None:
        event = StoredEvent(9, 1, 1, 0, 0, 900, 0, 0, "order", b"")
        page = PageRead(5)
        await page.fill(read(page, event), 100, page_s=0.05)
        assert (page.events, page.position, page.at_end) == ([event], 4_000, False)
        page = PageRead(5)
        await page.fill(read(page, event), 1, page_s=30)
        assert (page.events, page.position, page.at_end) == ([event], 9, False), "the limit came first"

    asyncio.run(story())


def test_a_page_that_ends_early_is_answered_with_its_place(site: ApiSite, monkeypatch: pytest.MonkeyPatch) -> None:
    published = site.publish(site.group(7), 3)

    async def fill(page: PageRead, events: AsyncIterator[StoredEvent], limit: int) -> None:
        page.reached(published[1])

    monkeypatch.setattr(PageRead, "fill", fill)
    page = site.ask("GET", "/v1/events?types=rare").json
    assert page == {"events": [], "next": f"0-1:{published[1]}", "at_end": False}


def test_an_event_leaves_as_a_cloudevent(site: ApiSite) -> None:
    conversation = site.group(7)
    (sequence,) = site.publish(conversation)
    stored = next(site.memory.log.after(sequence - 1))
    event = site.ask("GET", f"/v1/events/{sequence}").json
    assert event["specversion"] == "1.0" and event["id"] == f"0-1:{sequence}" and event["source"] == "/v1/shards/0"
    assert event["type"] == "order.paid" and event["subject"] == str(conversation) and event["sender"] == "900"
    assert event["time"].endswith("Z") and "deliveries" not in event and "data" not in event
    assert base64.b64decode(event["data_base64"]) == stored.payload == b'{"n": 0}'
    created = site.ask("GET", f"/v1/events/0-1:{stored.previous}").json
    assert created["type"] == "conversation.created" and created["data"]["title"] == "Team"
    raw = site.ask("GET", f"/v1/events/{sequence}", headers={"Accept": "application/octet-stream"})
    assert raw.body == stored.payload and raw.headers["ce-id"] == event["id"] and raw.headers["ce-type"] == "order.paid"
    assert problem(site.ask("GET", f"/v1/events/{sequence + 10}")) == "unknown_event"
    hidden = site.ask("GET", f"/v1/events/{sequence}", token=site.token("read:message"))
    assert problem(hidden) == "unknown_event", "what one may not see looks the same"


def test_text_in_headers_is_percent_encoded(site: ApiSite) -> None:
    event = StoredEvent(5, 7, 1, 0, 1_700_000_000_000_000, 9, 0, 0, "тип %", b"x")
    headers, body = binary(site.app.state.door, event)
    assert headers["ce-type"] == "%D1%82%D0%B8%D0%BF %25" and headers["ce-time"] == "2023-11-14T22:13:20.000000Z"
    assert body == b"x" and headers["content-type"] == "application/octet-stream"


def test_a_stream_gives_what_is_there_then_what_comes_and_goes_on_behind_its_last_id(site: ApiSite) -> None:
    conversation = site.group(7)
    first = site.publish(conversation, 3)
    found = events(lines(site, "/v1/events?types=order"))
    got = [next(found) for _ in first]
    later = site.publish(conversation, 2)
    got += [next(found) for _ in later]
    found.close()
    assert [id for id, _, _ in got] == [f"0-1:{sequence}" for sequence in first + later]
    assert all(kind == data["type"] == "order.paid" and data["id"] == id for id, kind, data in got)
    again = events(lines(site, "/v1/events?types=order", **{"Last-Event-ID": got[2][0]}))
    assert [next(again)[0] for _ in later] == [f"0-1:{sequence}" for sequence in later]
    again.close()


def test_a_position_that_is_not_kept_is_said_with_the_first_that_is(site: ApiSite) -> None:
    site.publish(site.group(7), 10)

    async def trim() -> None:
        site.memory.trim(6)

    site.run(trim())
    for accept in ("application/json", "text/event-stream"):
        answer = site.ask("GET", "/v1/events?after=2", headers={"Accept": accept})
        assert answer.status == 410 and problem(answer) == "trimmed" and answer.json["first_available"] == 6
    assert site.ask("GET", "/v1/events?after=5").json["events"][0]["sequence"] == "6"


def test_a_position_that_the_log_has_not_reached_is_refused_with_where_it_ends(site: ApiSite) -> None:
    """Of a reader that goes on after the data directory was begun anew: it would lose all that comes below."""
    last = site.publish(site.group(7), 3)[-1]
    for path, headers in (
        (f"/v1/events?after={last + 1}", {}),
        (f"/v1/events?after={last + 1}", {"Accept": "text/event-stream"}),
        ("/v1/events", {"Accept": "text/event-stream", "Last-Event-ID": f"0-1:{last + 1}"}),
    ):
        answer = site.ask("GET", path, headers=headers)
        assert answer.status == 409 and problem(answer) == "beyond_end"
        assert f"position {last + 1}: the log ends at {last};" in answer.json["detail"] and answer.json["hint"]
    assert site.ask("GET", f"/v1/events?after={last}").json["events"] == []
    assert problem(site.ask("GET", f"/v1/events/{last + 5}")) == "unknown_event"
    start = {"sequence": last + 1}
    body = {"name": "mail", "kind": "ordered", "start": start, "filter": {"types": ["order"]}}
    assert problem(site.ask("POST", "/v1/subscriptions", body)) == "beyond_end"


def test_a_position_of_a_replaced_history_is_said_with_where_it_ends(site: ApiSite) -> None:
    site.publish(site.group(7), 10)
    site.backend.epochs = [(1, 1), (4, 7)]
    ids = [event["id"] for event in site.ask("GET", "/v1/events?after=0").json["events"]]
    assert ids[5] == "0-1:6" and ids[6] == "0-4:7", "events of before keep their ids"
    assert site.ask("GET", "/v1/events?after=0-1:6").status == 200
    for wrong in ("0-1:7", "0-1:9"):
        answer = site.ask("GET", f"/v1/events?after={wrong}")
        assert problem(answer) == "history_replaced" and answer.json["first_available"] == 7
    assert problem(site.ask("GET", "/v1/events?after=0-9:1")) == "history_replaced"
    assert problem(site.ask("GET", "/v1/events?after=5-1:1")) == "bad_argument"


def test_a_page_comes_as_what_is_accepted(site: ApiSite) -> None:
    site.publish(site.group(7))
    batch = site.ask("GET", "/v1/events", headers={"Accept": "application/cloudevents-batch+json"})
    assert batch.headers["content-type"] == "application/cloudevents-batch+json" and len(batch.json) == 2
    assert 'rel="next"' in batch.headers["link"]
    answer = site.ask("GET", "/v1/events", headers={"Accept": "text/csv"})
    assert answer.status == 406 and problem(answer) == "not_acceptable"

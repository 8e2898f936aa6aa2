"""The door tried by programs that others wrote: the CloudEvents SDK, an SSE library, curl, a generated client."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from cloudevents.core.bindings import http as binding
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from httpx_sse import connect_sse

from tests.support.api_site import ApiSite


def test_the_sdk_reads_every_mode_that_we_give(site: ApiSite) -> None:
    conversation = site.group(7)
    (sequence,) = site.publish(conversation)
    at = f"/v1/events/{sequence}"
    for accept in ("application/cloudevents+json", "application/octet-stream"):
        answer = site.ask("GET", at, headers={"Accept": accept})
        message = binding.HTTPMessage(headers=answer.headers, body=answer.body)
        event = binding.from_http(message, JSONFormat(), CloudEvent)
        assert event.get_id() == f"0-1:{sequence}" and event.get_type() == "order.paid"
        assert event.get_subject() == str(conversation) and event.get_source() == "/v1/shards/0"
        assert event.get_data() in (b'{"n": 0}', '{"n": 0}')  # it makes text of what is UTF-8
        assert event.get_extension("sender") == "900"
    batch = site.ask("GET", "/v1/events", headers={"Accept": "application/cloudevents-batch+json"}).json
    for one in batch:
        JSONFormat().read(CloudEvent, json.dumps(one))


def test_what_the_sdk_makes_is_published(site: ApiSite) -> None:
    conversation = site.group(7)
    event = CloudEvent(
        {"id": "s-1", "source": "/shop", "type": "order.paid", "subject": str(conversation), "specversion": "1.0"},
        {"sum": 5},
    )
    sequences = set()
    for message in (binding.to_structured(event, JSONFormat()), binding.to_binary(event, JSONFormat())):
        body = message.body if isinstance(message.body, bytes) else message.body.encode()
        answer = site.ask("POST", "/v1/events", body, headers=dict(message.headers))
        assert answer.status == 201, answer.body
        sequences.add(answer.json["sequence"])
    assert len(sequences) == 1, "source and id are the key"
    (stored,) = [one for one in site.memory.log.after(0) if one.sequence in sequences]
    assert json.loads(stored.payload) == {"sum": 5}


def test_a_library_for_server_sent_events_follows_the_stream(site: ApiSite) -> None:
    wanted = site.publish(site.group(7), 5)
    headers = {"Authorization": f"Bearer {site.token()}"}
    got: list[str] = []
    with httpx.Client(timeout=10) as client:
        for _ in range(2):  # comes back once, behind its last id
            last = {"Last-Event-ID": got[-1]} if got else {}
            with connect_sse(client, "GET", f"{site.url}/v1/events?types=order", headers=headers | last) as source:
                source.response.raise_for_status()
                for event in source.iter_sse():
                    assert event.json()["id"] == event.id and event.event == "order.paid"
                    got.append(event.id)
                    if len(got) in (3, 5):
                        break
    assert got == [f"0-1:{sequence}" for sequence in wanted]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl isn't installed")
def test_the_command_of_the_page_works_in_a_shell(site: ApiSite) -> None:
    conversation = site.group(7)
    event = json.dumps({"type": "order.paid", "conversation": conversation, "data": 1})
    command = (
        'curl -sS -X POST $GONETS/v1/events -H "Authorization: Bearer $TOKEN" '
        f"-H 'Content-Type: application/json' -d '{event}'"
        ' && curl -sS -N --max-time 1 $GONETS/v1/events?types=order -H "Authorization: Bearer $TOKEN"'
        ' -H "Accept: text/event-stream"; true'
    )
    environment = {"GONETS": site.url, "TOKEN": site.token(), "PATH": "/usr/bin:/bin"}
    run = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, timeout=20, check=False)
    receipt, _, stream = run.stdout.partition("}")
    sequence = json.loads(receipt + "}")["sequence"]
    assert f"id: 0-1:{sequence}\n" in stream, run


def generated(folder: Path, document: bytes) -> ModuleType:
    """A client that openapi-python-client makes of the document."""
    (folder / "openapi.json").write_bytes(document)
    (folder / "config.yml").write_text("project_name_override: made\npackage_name_override: made\npost_hooks: []\n")
    command = [
        str(Path(sys.executable).parent / "openapi-python-client"), "generate", "--path", "openapi.json",
        "--config", "config.yml", "--meta", "none", "--output-path", "made", "--fail-on-warning",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=50, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    spec = importlib.util.spec_from_file_location("made", folder / "made" / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["made"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def made(site: ApiSite, tmp_path: Path) -> Iterator[ModuleType]:
    """The client of the running door's document."""
    yield generated(tmp_path, site.ask("GET", "/v1/openapi.json", token="").body)
    for name in [name for name in sys.modules if name == "made" or name.startswith("made.")]:
        del sys.modules[name]


def test_a_client_made_from_the_document_publishes(site: ApiSite, made: ModuleType) -> None:
    from made import models  # type: ignore[import-not-found]
    from made.api.events import publish_events, read_events, show_event  # type: ignore[import-not-found]

    conversation = site.group(7)
    client = made.AuthenticatedClient(base_url=site.url, token=site.token())
    event = models.NewEvent(type_="order.paid", conversation=conversation, data={"sum": 1})
    receipt = publish_events.sync(client=client, body=event, idempotency_key="one")
    assert receipt.conversation_sequence == 2 and not receipt.repeat
    assert publish_events.sync(client=client, body=event, idempotency_key="one").repeat
    batch = models.NewEvents(events=[event, models.NewEvent(type_="order.paid", conversation=4_711)])
    paid, lost = publish_events.sync(client=client, body=batch).outcomes
    assert paid.published.sequence == receipt.sequence + 1 and lost.problem.code == "unknown_conversation"
    foreign = models.NewCloudEvent.from_dict(
        {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid", "subject": str(conversation)}
    )
    last = publish_events.sync(client=client, body=foreign)
    page = read_events.sync(client=client, types=["order"])
    assert [one.id for one in page.events] == [receipt.id, paid.published.id, last.id] and page.at_end
    assert read_events.sync(client=client, types=["order"], after=page.next_).events == []
    assert show_event.sync(last.id, client=client).id == last.id
    refused = publish_events.sync(client=client, body=models.NewEvent(type_="order.paid"))
    assert refused.code == "bad_argument"


def test_a_client_made_from_the_document_consumes(site: ApiSite, made: ModuleType) -> None:
    from made import models
    from made.api.consumers import ack, join, pull  # type: ignore[import-not-found]
    from made.api.subscriptions import (  # type: ignore[import-not-found]
        create_subscription,
        show_subscription,
    )

    wanted = site.publish(site.group(7), 3)
    client = made.AuthenticatedClient(base_url=site.url, token=site.token())
    body = models.NewSubscription.from_dict(
        {"name": "mail", "kind": "competing", "start": {"first": True}, "filter": {"types": ["order"]}}
    )
    assert create_subscription.sync(client=client, body=body).name == "mail"
    me = join.sync("mail", client=client, body=models.NewConsumer(name="one"))
    taken = pull.sync("mail", me.name, client=client, body=models.Pull(generation=me.generation))
    assert [int(event.sequence) for event in taken.events] == wanted
    answer = ack.sync_detailed(
        "mail", me.name, client=client, body=models.Ack(generation=me.generation, sequences=wanted)
    )
    assert answer.status_code == 204
    assert show_subscription.sync("mail", client=client).in_flight == 0

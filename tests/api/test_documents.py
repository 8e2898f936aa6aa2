"""The documents of the door: complete, true to what is served, and readable without the internet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from engine import Filter, Settings, Start
from engine.errors import STATUSES
from gateway.api import asyncapi, openapi, page, problems, shapes
from gateway.api.openapi import PARTS
from gateway.api.operation import OPERATIONS
from tests.support.api_site import ApiSite
from tests.support.tree import ROOT


def refs(value: Any) -> Iterator[str]:
    """All references of a document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            yield from refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def found(document: dict[str, Any], ref: str) -> Any:
    """What a reference leads to."""
    value: Any = document
    for step in ref.removeprefix("#/").split("/"):
        value = value[step.replace("~1", "/").replace("~0", "~")]
    return value


def test_every_reference_leads_somewhere() -> None:
    for document in (openapi.document("1"), asyncapi.document("1")):
        several = list(refs(document))
        assert len(several) > 20
        for ref in several:
            assert isinstance(found(document, ref), dict), ref


def test_every_route_is_described_and_every_description_is_a_route(site: ApiSite) -> None:
    assert len(PARTS) == 4
    routes = {
        (method, re.sub(r":str}", "}", path))
        for path, method in (
            (route.path, method) for route in site.app.routes for method in getattr(route, "methods", ())
        )
        if method != "OPTIONS"
    }
    described = {
        (method.upper(), path) for path, methods in openapi.document("1")["paths"].items() for method in methods
    }
    unlisted = {("GET", path) for path in ("/", "/v1/docs", "/v1/openapi.json", "/v1/asyncapi.json")}
    assert routes == described | unlisted
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS) == len(described)


def test_what_is_served_is_the_document(site: ApiSite) -> None:
    served = site.ask("GET", "/v1/openapi.json", token="").json
    assert served == openapi.document(served["info"]["version"]) and served["openapi"] == "3.1.0"
    served = site.ask("GET", "/v1/asyncapi.json", token="").json
    assert served == asyncapi.document(served["info"]["version"]) and served["asyncapi"] == "3.0.0"


def test_every_operation_says_what_may_go_wrong() -> None:
    for path, methods in openapi.document("1")["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"] and operation["operationId"], path
            answers = operation["responses"]
            assert {"400", "401", "403", "429", "500", "503"} <= set(answers), path
            assert "Retry-After" in answers["429"]["headers"]
            if "{" in path and path != "/v1/events/{event}" and method != "put":
                assert "404" in answers, path


def test_every_status_of_a_publish_and_every_error_of_the_engine_has_its_row() -> None:
    """`too_old` and the like can't come to a service: it has no counters."""
    counters = {"too_old", "counter_jump", "bad_counter", "appended", "repeat"}
    assert {row.name for row in STATUSES.values()} - counters <= set(problems.ROWS)
    assert all(400 <= row.status < 600 and row.title for row in problems.ROWS.values())


def test_the_shapes_of_http_are_those_of_the_engine() -> None:
    for shape, kind in (
        (shapes.FilterShape, Filter),
        (shapes.SettingsShape, Settings),
        (shapes.StartShape, Start),
    ):
        assert shape.__struct_fields__ == kind.__struct_fields__
        for one, other in zip(shape.__struct_defaults__, kind.__struct_defaults__, strict=True):
            assert one == other or (not other and not one) or callable(getattr(one, "factory", None))


def test_the_page_needs_nothing_from_elsewhere(site: ApiSite) -> None:
    answer = site.ask("GET", "/v1/docs", token="")
    text = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in text and not re.search(r"(src|href)=['\"]?(https?:)?//", text)
    for code in problems.ROWS:
        assert f"<tr id='{code}'>" in text, "the type of a problem leads here"
    for operation in OPERATIONS:
        assert f"<details id='{operation.name}'>" in text
    anchors = set(re.findall(r"href='#([^']+)'", text))
    assert anchors <= set(re.findall(r"id='?([\w.-]+)'?", text)), "no link leads nowhere"
    assert page.page(openapi.document("1"), asyncapi.document("1")).startswith(b"<!doctype html>")


def test_the_page_for_developers_names_every_close_code_and_address() -> None:
    text = (ROOT / "gateway" / "api" / "API.md").read_text()
    for path in ("/v1/docs", "/v1/openapi.json", "/v1/asyncapi.json", "POST /v1/events", "GET /v1/events"):
        assert path in text
    for word in ("read:", "publish:", "conversation:", "subscriptions", "audit"):
        assert f"`{word}" in text

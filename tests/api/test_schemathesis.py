"""Schemathesis against the running door: whatever it makes from the document, answers are as the document says."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gateway.api import openapi
from gateway.api.operation import OPERATIONS
from tests.support.api_site import ApiSite

EXAMPLES = 20


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=[operation.name for operation in OPERATIONS])
def test_answers_are_as_the_document_says(site: ApiSite, number: int, mode: GenerationMode) -> None:
    """No failure of the server, no status, media type or shape that isn't described, nothing bad taken as good."""
    chosen = OPERATIONS[number]
    if mode is GenerationMode.NEGATIVE and not (chosen.path_type or chosen.query_type or chosen.body_type):
        pytest.skip("it takes nothing that could be wrong")
    schema = schemathesis.openapi.from_dict(openapi.document("1"))
    schema.config.update(base_url=site.url)
    site.publish(site.group(7), 3)
    site.subscribe("a")
    site.ask("POST", "/v1/subscriptions/a/consumers", {"name": "a"})
    token = site.token()
    asked = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[chosen.path][chosen.method].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        nonlocal asked
        asked += 1
        case.call_and_validate(
            headers={"Authorization": f"Bearer {token}"},
            timeout=20,
            # What fields mean for each other, or where the log ends, no schema says: that is 400 or 410, as described.
            excluded_checks=[positive_data_acceptance],
        )

    ask()
    assert asked

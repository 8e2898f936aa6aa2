"""The parser against Autobahn's cases (kosoku), strictly; an echo application stands where commands do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import autobahn, echo


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An echo application of the module."""
    with echo.running() as found:
        yield found


@pytest.mark.parametrize("section", [section for section in autobahn.SECTIONS if section != "9"])
def test_every_case_of_a_section_passes_strictly(url: str, section: str) -> None:
    results = autobahn.run(url, f"{section}.*")
    assert len(results) == autobahn.SECTIONS[section]
    assert not autobahn.complaints(results)


def test_limits_and_speed_at_their_smallest(url: str) -> None:
    """Section 9 grows to 16 MiB a message; all of it is `make autobahn`."""
    results = autobahn.run(url, "9.*.1")
    assert len(results) == 8
    assert not autobahn.complaints(results)


def test_a_server_that_is_not_strict_is_found_out(url: str) -> None:
    """What judges, judged: the same cases with verdicts that only fail."""
    (right,) = autobahn.run(url, "7.1.6")
    assert right.behavior.value == "INFORMATIONAL" and not autobahn.complaints([right])
    with echo.running(text_as_binary=True) as wrong:
        results = autobahn.run(wrong, "3.2", "4.1.3")
    assert len(autobahn.complaints(results)) == len(results) == 2

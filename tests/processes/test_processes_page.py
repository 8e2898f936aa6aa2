"""The figures of gateway/PROCESSES.md are those of the code."""

from __future__ import annotations

import re

from gateway.processes import api, child, children, lock, restarts, takeover
from tests.support.tree import ROOT

PAGE = (ROOT / "gateway" / "PROCESSES.md").read_text()


def figures() -> dict[str, list[float]]:
    """The numbers of each row of the table of restarts, by the row's first words."""
    section = PAGE.split("## Restart\n\n", 1)[1].split("\n\n", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines()[2:]]
    return {what: [float(number) for number in re.findall(r"[\d.]+", figure)] for what, figure in rows}


def test_figures_are_those_of_the_code() -> None:
    patience = children.PATIENCE
    expected: list[list[float]] = [
        list(restarts.DELAYS_S),
        [restarts.DEATHS_MAX, restarts.WINDOW_S],
        [patience.silence_s],
        [patience.worker_end_s],
        [patience.api_end_s],
        [patience.sequencer_end_s],
        [patience.give_up_drain_s],
        [patience.in_use_s],
        [children.API_REST_S],
        [patience.lock_s],
    ]
    assert list(figures().values()) == expected


def test_names_are_those_of_the_code() -> None:
    assert f"gone within {child.ORPHAN_S:.0f} s" in PAGE
    assert patience_covers_orphans()
    assert f"data/{lock.LOCK_NAME}" in PAGE and f"data/{takeover.SOCKET_NAME}" in PAGE
    assert f"data/{api.LOCK_NAME}" in PAGE


def patience_covers_orphans() -> bool:
    """Whoever waits for an orphan waits longer than that may live."""
    return min(children.PATIENCE.in_use_s, children.PATIENCE.lock_s) > child.ORPHAN_S

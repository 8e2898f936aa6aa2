"""The simulation tried out: the engine broken on purpose, once for each entry below, must be caught by some seed.

Each mutant is a copy of the packages with one text replaced (and, in `ext/`, that module built anew), run in a child
process by `gonets bench simulate`. Without a change they pass the same seeds: test_simulate.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.bench.test_simulate import SEEDS, STEPS
from tests.support.mutants import Mutant, apply, copy, run_in

MUTANTS = (
    Mutant(
        "ext/fanout.pyx",
        "s.state != S_LIVE or s.position > before:",
        "s.state != S_LIVE or s.position >= before:",
        "a session that stands right before an event is passed over",
    ),
    Mutant(
        "ext/interest.pyx",
        "    def remove(self, uint64_t conversation, uint64_t session):\n",
        "    def remove(self, uint64_t conversation, uint64_t session):\n        return\n\n"
        "    def remove_never(self, uint64_t conversation, uint64_t session):\n",
        "whoever leaves goes on following",
    ),
    Mutant(
        "ext/admission.pyx",
        "if window.highest - p.counter >= WINDOW:",
        "if window.highest - p.counter >= WINDOW - 1:",
        "the window of counters is one too small",
    ),
    Mutant(
        "ext/sift.pyx",
        "<uint32_t>(after + 1 - first) if after >= first",
        "<uint32_t>(after + 2 - first) if after >= first",
        "reading forward skips an event",
    ),
    Mutant(
        "ext/pages.pyx",
        "if s == NULL or s.position != self.fanout.sequence:",
        "if s == NULL or s.position + 1 < self.fanout.sequence:",
        "a reader flips to live one event too early",
    ),
    Mutant(
        "ext/flat.pyx",
        "                if entry.changed_at <= position and not",
        "                if entry.changed_at <= position + 3 and not",
        "a table sheds what is not saved yet",
    ),
    Mutant(
        "engine/router.py",
        "        if record.type == ADDED:\n            self._follow(conversation, subject)\n",
        "",
        "whoever is added does not follow",
    ),
    Mutant(
        "engine/backlog.py",
        "Chain(membership, head, max(floor, first - 1), last)",
        "Chain(membership, head, max(floor, first), last)",
        "a resume leaves out the event with which one came in",
    ),
    Mutant(
        "engine/state/overlay.py",
        "intervals = (*known.intervals, (sequence, None))",
        "intervals = (*known.intervals, (known.intervals[-1][1] or sequence, None))",
        "who comes back sees what was said meanwhile",
    ),
    Mutant(
        "engine/sequencer.py",
        "self._on_answers(fail_answers(cut.answers))",
        "self._on_answers(cut.answers)",
        "a fence forgets that what it discards had answers",
    ),
    Mutant(
        "engine/state/saver.py",
        '        save_keys(txn, databases[b"keys"], overlay.keys)\n',
        "        pass\n",
        "keys of services are not saved",
    ),
    Mutant(
        "engine/tombstones.py",
        "    if not deleted:\n        return records\n",
        "    return records\n",
        "deleted messages are served",
    ),
    Mutant(
        "gateway/hello.py",
        "if known > epoch] + [last])",
        "if known > epoch + 99] + [last])",
        "a position of a replaced history is taken for a good one",
    ),
)


def copied(to: Path) -> None:
    """All that `gonets bench simulate` needs."""
    copy(to, ("bench", "engine", "ext", "gateway"), ("gonets.py",))


def simulate(place: Path, last: int = SEEDS) -> subprocess.CompletedProcess[str]:
    """The seeds over a copy."""
    return run_in(place, "gonets", "bench", "simulate", "--seeds", f"1..{last}", "--steps", str(STEPS))


def test_the_copy_without_a_change_passes(tmp_path: Path) -> None:
    """What is caught below is the fault, not the copying; of seeds that see none a few are enough."""
    copied(tmp_path)
    done = simulate(tmp_path, 5)
    assert done.returncode == 0, done.stderr[-3_000:]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.path)
def test_a_broken_engine_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    """By a failure that names its seed."""
    copied(tmp_path)
    apply(mutant, tmp_path)
    done = simulate(tmp_path)
    assert done.returncode == 1 and "gonets: simulate: seed " in done.stderr, f"not caught: {mutant.fault}"

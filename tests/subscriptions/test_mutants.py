"""The simulation of subscriptions tried out: machines broken on purpose, once for each entry, are caught by some seed.

The doubles that the copy without a change has come to are printed: what is bounded is that each had a reason.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.mutants import Mutant, apply, copy, run_in

GROUP, LIVE = "engine/subscriptions/group.py", "engine/subscriptions/live.py"
ORDERED, COMPETING = "engine/subscriptions/ordered.py", "engine/subscriptions/competing.py"
MUTANTS = (
    Mutant(
        COMPETING,
        "found = [sequence for sequence, again in self._again.items() if not again.replayed]\n        for consumer",
        "found: list[int] = []\n        for consumer",
        "what is stored passes an event that is to be tried again",
    ),
    Mutant(
        COMPETING,
        "                    found += run.table.of_consumer(consumer.generation)\n",
        "                    found += run.table.of_consumer(consumer.generation)[:-1]\n",
        "what is stored passes the newest event of each consumer",
    ),
    Mutant(
        ORDERED,
        "                cursors[again.share] = min(cursors[again.share], sequence - 1)\n",
        "                cursors[again.share] = min(cursors[again.share], sequence)\n",
        "the cursor of a share passes an event that is to be tried again",
    ),
    Mutant(
        ORDERED,
        "self._read[event.share] = min(self._read[event.share], event.sequence - 1)\n        for sequence, again",
        "self._read[event.share] = min(self._read[event.share], event.sequence)\n        for sequence, again",
        "what a consumer that ends had first of a share is skipped",
    ),
    Mutant(
        COMPETING,
        '        """Others take it."""\n        for event in events:',
        '        """Others take it."""\n        for event in events[1:]:',
        "the first event of a consumer that ends goes to nobody",
    ),
    Mutant(
        GROUP,
        "            raise _over(generation, self._timeout_us)\n",
        "            consumer = GroupConsumer(generation, '', 1, 0)\n",
        "a consumer that is over is heard",
    ),
    Mutant(
        GROUP,
        "            if again is not None and again.late_of != generation:\n",
        "            if again is None:\n",
        "an ack counts for an event that waits to be tried again",
    ),
    Mutant(
        GROUP,
        "        if again.due_us:\n            heappush",
        "        if again.due_us:\n            return\n            heappush",
        "what is retried with a delay never comes",
    ),
    Mutant(
        ORDERED,
        "            if is_busy or any(",
        "            if any(",
        "a share moves before what is in flight of it is acked",
    ),
    Mutant(
        ORDERED,
        "        self._held[share] = max(due_us, self._held.get(share, 0))\n",
        "",
        "what is new of a share comes before what is retried of it",
    ),
    Mutant(
        GROUP,
        "            if run is last:\n                break\n",
        "",
        "ack_up_to acks what was delivered later",
    ),
    Mutant(
        LIVE,
        "            batch.rows[key] = None if row is None else encode(row)\n",
        "            pass\n",
        "a parked event is lost with the next kill",
    ),
    Mutant(
        LIVE,
        "            self._stored = batch.rows[named(CURSORS, self.name)] = stored\n",
        "            self._stored = stored\n",
        "cursors are never written",
    ),
    Mutant(
        "engine/subscriptions/watch.py",
        "            sleeper.pass_over(since, self.last)\n",
        "            sleeper.pass_over(0, self.last)\n",
        "who sleeps passes over what it had no room for",
    ),
    Mutant(
        "engine/subscriptions/watch.py",
        "for at in wanting([one.selection for one in sleepers], found):",
        "for at in wanting([one.selection for one in sleepers], found)[1:]:",
        "a block that is wanted wakes nobody",
    ),
    Mutant(
        ORDERED,
        "            if plan is None or plan.after < after:\n",
        "            if plan is None:\n",
        "shares pass over what a plan has still to read",
    ),
    Mutant(
        "ext/inflight.pyx",
        "seen[share], into[share] = 1, self.entries[i].sequence - 1",
        "seen[share], into[share] = 1, self.entries[i].sequence",
        "the cursor of a share passes the first event in flight",
    ),
)


def copied(to: Path) -> None:
    """What the simulation is made of."""
    copy(to, ("engine", "ext", "tests/support"))


def test_the_copy_without_a_change_passes(tmp_path: Path) -> None:
    """What is caught below is the fault, not the copying; all seeds are run by test_simulation.py."""
    copied(tmp_path)
    done = run_in(tmp_path, "tests.support.subscription_seeds", "2")
    assert done.returncode == 0, done.stderr[-3_000:]
    events, doubles = (sum(map(int, re.findall(rf"(\d+) {word}", done.stdout))) for word in ("events", "doubles"))
    print(f"{events} events, {doubles} doubles")
    assert events and doubles


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_broken_machine_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    """By a failure that names its seed."""
    copied(tmp_path)
    apply(mutant, tmp_path)
    done = run_in(tmp_path, "tests.support.subscription_seeds")
    assert done.returncode == 1 and ": seed " in done.stderr, f"not caught: {mutant.fault}\n{done.stderr[-2_000:]}"
    print(done.stderr.strip())

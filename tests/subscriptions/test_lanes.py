"""What a ConsumerLoop holds: each lane in order, one at a time, against a naive model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.subscriptions.lanes import Lanes
from engine.subscriptions.ports import StoredEvent


def event(sequence: int, conversation: int) -> StoredEvent:
    """One that is nothing but its place."""
    return StoredEvent(sequence, conversation, sequence, 0, 0, 1, 0, 0, "message", b"")


def test_a_conversation_is_handled_one_by_one() -> None:
    """While another one goes on beside it."""
    lanes = Lanes(ordered=True)
    assert lanes.add([event(1, 7), event(2, 7), event(3, 8), event(1, 7)]) == 3
    first, second = lanes.begin(), lanes.begin()
    assert (first, second, lanes.begin()) == (event(1, 7), event(3, 8), None)
    lanes.done(event(1, 7))
    assert lanes.begin() == event(2, 7)
    lanes.done(event(3, 8))
    lanes.done(event(2, 7))
    assert lanes.begin() is None and not lanes.held and not lanes.running


def test_a_lane_waits_for_what_is_to_come_again() -> None:
    """What is delivered behind it meanwhile waits too; then all come in order."""
    lanes = Lanes(ordered=True)
    lanes.add([event(1, 7), event(2, 7)])
    lanes.begin()
    lanes.bar(event(1, 7))
    assert lanes.begin() is None
    lanes.add([event(3, 7)])
    assert lanes.begin() is None
    lanes.add([event(1, 7)])
    for sequence in (1, 2, 3):
        assert lanes.begin() == event(sequence, 7)
        lanes.done(event(sequence, 7))
    lanes.add([event(4, 7), event(5, 7)])
    lanes.begin()
    lanes.bar(event(4, 7))
    lanes.unbar(event(4, 7))
    assert lanes.begin() == event(5, 7)


def test_what_comes_again_with_another_is_not_kept() -> None:
    """While a lane waits, what is in it isn't this loop's to extend; where the other is parked, it is dropped."""
    lanes = Lanes(ordered=True)
    lanes.add([event(1, 7), event(2, 7), event(3, 8)])
    lanes.begin()
    lanes.bar(event(1, 7))
    assert lanes.kept() == {3} and set(lanes.held) == {2, 3}
    lanes.add([event(1, 7)])
    assert lanes.kept() == {1, 2, 3}
    while lanes.begin() != event(1, 7):
        pass
    lanes.drop_behind(event(1, 7))
    lanes.done(event(1, 7))
    assert set(lanes.held) == {3} and lanes.add([event(2, 7)]) == 1 and lanes.begin() == event(2, 7)


def test_without_an_order_nothing_waits() -> None:
    """Of a competing subscription."""
    lanes = Lanes(ordered=False)
    lanes.add([event(1, 7), event(2, 7)])
    assert lanes.begin() == event(1, 7) and lanes.begin() == event(2, 7)
    lanes.bar(event(1, 7))
    lanes.add([event(1, 7)])
    assert lanes.begin() == event(1, 7)


def test_what_waits_is_dropped_and_what_runs_is_finished() -> None:
    """And what is dropped may be held again."""
    lanes = Lanes(ordered=True)
    lanes.add([event(1, 7), event(2, 7), event(3, 8), event(4, 9)])
    lanes.begin()
    assert lanes.drop_waiting() == 3 and set(lanes.held) == {1}
    assert lanes.begin() is None
    lanes.add([event(2, 7)])
    assert lanes.begin() is None
    lanes.done(event(1, 7))
    assert lanes.begin() == event(2, 7)


Step = tuple[str, int]


@given(st.lists(st.tuples(st.sampled_from(["add", "begin", "done", "bar", "again"]), st.integers(0, 7)), max_size=80))
def test_no_lane_ever_overtakes_itself(steps: list[Step]) -> None:
    """Whatever comes, is begun, finished, and comes again: a conversation's events are finished in their order."""
    lanes, number = Lanes(ordered=True), 0
    finished: dict[int, list[int]] = {}
    barred: list[StoredEvent] = []
    running: list[StoredEvent] = []
    for step, value in steps:
        if step == "add":
            number += 1
            lanes.add([event(number, value % 3)])
        elif step == "begin" and (begun := lanes.begin()) is not None:
            assert begun.conversation not in {one.conversation for one in running}
            running.append(begun)
        elif step == "done" and running:
            one = running.pop(value % len(running))
            lanes.done(one)
            finished.setdefault(one.conversation, []).append(one.sequence)
        elif step == "bar" and running:
            one = running.pop(value % len(running))
            lanes.bar(one)
            barred.append(one)
        elif step == "again" and barred:
            lanes.add([barred.pop(value % len(barred))])
    lanes.add(barred)
    while (begun := lanes.begin()) is not None or running:
        running += [begun] if begun is not None else []
        one = running.pop()
        lanes.done(one)
        finished.setdefault(one.conversation, []).append(one.sequence)
    assert all(found == sorted(found) for found in finished.values())
    assert sum(map(len, finished.values())) == number and not lanes.held

"""Catch-up by its promises: gaps over the budget, hidden intervals, tombstones, trimmed logs, linear costs."""

from __future__ import annotations

from array import array

import msgspec
import pytest

from engine import backlog, catchup
from engine.backlog import Budget, Question, chains_of, gather, read_forward, read_page, sequence_of, slow_hops
from engine.catchup import Resume, answer
from engine.errors import RecordDamaged
from engine.ports import Gap
from tests.fanout.world import World
from tests.support.naive_log import NaiveLog
from tests.support.naive_view import NaiveView

GROUP = "group"


def created(members: list[int], kind: str = GROUP, history: bool = False) -> dict[str, object]:
    return {"kind": kind, "title": "", "history": history, "members": [[user, "member"] for user in members]}


def told(world: World, origin: int) -> list[tuple[int, int, int, list[int], int | None]]:
    return [
        (gap.conversation, gap.after, gap.before, [sequence_of(record) for record in gap.newest], gap.next)
        for gap in world.gaps.get(origin, [])
    ]


def test_a_resume_over_its_budget_of_events_answers_a_gap_for_that_conversation_alone() -> None:
    world = World(1, resume_events_max=20, gap_newest_events=3)
    world.commit([(1, "conversation.created", 1, created([1, 2])), (2, "conversation.created", 1, created([1, 2]))])
    for _ in range(10):
        world.commit([(1, "message", 2, b"much")] * 3 + [(2, "message", 2, b"little")])
    world.settle()
    outlet = world.connect(1, 0, position=2)
    world.settle()
    assert told(world, outlet.origin) == [(1, 2, 43, [41, 40, 39], 39)]
    world.check(outlet, 42)
    assert len(outlet.sequences()) == 10
    assert world.lived == [outlet.origin]
    world.commit([(1, "message", 2, b"after the gap")])
    world.settle()
    assert outlet.sequences()[-1] == 43


def test_gaps_that_are_not_taken_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what all sessions may hold a gap names no events; beyond twice that the session is told to come again."""
    monkeypatch.setattr(catchup, "GAPS_HELD_BYTES_MAX", 900)
    world = World(1, resume_events_max=20, gap_newest_events=3)
    world.commit([(1, "conversation.created", 1, created([1, 2, 3]))])
    for _ in range(30):
        world.commit([(1, "message", 1, b"x" * 50)])
    world.settle()
    others = Resume(wanted=True)
    gap = Gap(9, 1, 50, [b"y" * 250], None)
    newest = []
    for user in (1, 2):
        world.catchup._count_gap(others, 1, gap)
        outlet = world.connect(user, 0, position=1)
        world.settle()
        newest.append([entry[3:] for entry in told(world, outlet.origin)])
        assert world.catchup._gap_bytes == others.gap_bytes, "what was taken is held no more"
    assert newest == [[([31, 30, 29], 29)], [([], 32)]]
    world.catchup._count_gap(others, 1, gap)
    world.connect(3, 0, position=1)
    with pytest.raises(AssertionError, match="bytes of gaps wait for others"):
        world.settle()


def test_a_session_without_room_in_interest_is_closed() -> None:
    """The event of a join is committed: whoever can't follow comes again, and finds room or is told."""
    world = World(1, interest_entries_max=2)
    world.commit([(n, "conversation.created", 1, created([1])) for n in (1, 2)])
    world.settle()
    outlet = world.connect(1, 0)
    assert not world.fanout.has_room(1) and world.fanout.has_room(0)
    assert world.fanout.take_lost() == []
    world.fanout.follow(3, outlet.origin)
    assert world.fanout.take_lost() == [outlet.origin] and world.fanout.take_lost() == []


def test_a_resume_over_its_hops_gives_gaps_for_the_rest() -> None:
    world = World(1, resume_hops_max=30, gap_newest_events=2)
    world.commit([(n, "conversation.created", 1, created([1])) for n in range(1, 6)])
    for _ in range(20):
        world.commit([(n, "message", 1, b"x") for n in range(1, 6)])
    world.settle()
    outlet = world.connect(1, 1, position=5)
    world.settle()
    gaps = told(world, outlet.origin)
    assert len(gaps) == 4
    assert all(newest and following == newest[-1] for _c, _a, _b, newest, following in gaps)
    world.check(outlet, len(world.log.events))


def test_what_arrives_while_a_gapped_resume_runs_is_pushed() -> None:
    world = World(1, resume_events_max=10, gap_newest_events=2)
    world.commit([(1, "conversation.created", 1, created([1]))])
    world.commit([(1, "message", 1, b"x" * 50)] * 40)
    world.settle()
    outlet = world.connect(1, 0, position=1)
    while not world.pool.waiting:
        world.step(answers=False)
    world.commit([(1, "message", 1, b"new")] * 5)
    world.settle()
    assert [gap[:3] for gap in told(world, outlet.origin)] == [(1, 1, 42)]
    assert outlet.sequences() == [42, 43, 44, 45, 46]


def test_nothing_after_a_removal_even_if_they_come_back() -> None:
    world = World(1)
    world.commit([(1, "conversation.created", 1, created([1, 2])), (1, "message", 1, b"seen")])
    world.commit([(1, "member.removed", 1, {"user": 2}), (1, "message", 1, b"hidden"), (1, "message", 1, b"hidden")])
    world.commit([(1, "member.added", 1, {"user": 2, "role": "member"}), (1, "message", 1, b"seen again")])
    world.settle()
    outlet = world.connect(2, 0, position=0)
    world.settle()
    assert outlet.sequences() == [1, 2, 3, 6, 7]


def test_deleted_messages_and_their_edits_are_tombstones() -> None:
    world = World(1)
    edit = msgspec.msgpack.encode({"target": 2, "body": b"better"})
    world.commit(
        [
            (1, "conversation.created", 1, created([1])),
            (1, "message", 1, b"regretted"),
            (1, "message", 1, b"kept"),
            (1, "message.edited", 1, edit),
            (1, "message.deleted", 1, {"target": 2}),
        ]
    )
    world.settle()
    outlet = world.connect(1, 0, position=0)
    world.settle()
    shown = [(body[0], body[8], body[9]) for _name, body in outlet.pushes()]  # type: ignore[index]
    assert [(s, t) for s, t, _p in shown] == [
        (1, "conversation.created"),
        (2, "message.tombstone"),
        (3, "message"),
        (4, "message.tombstone"),
        (5, "message.deleted"),
    ]
    assert [payload for _s, kind, payload in shown if kind == "message.tombstone"] == [b"", b""]
    assert b"regretted" not in outlet.received
    assert b"better" not in outlet.received


def test_a_position_beyond_the_tail_waits_for_it() -> None:
    world = World(1)
    world.commit([(1, "conversation.created", 1, created([1]))])
    world.settle()
    outlet = world.connect(1, 0, position=3)
    for _ in range(20):
        world.step()
    assert world.lived == []
    world.commit([(1, "message", 1, b"2"), (1, "message", 1, b"3"), (1, "message", 1, b"4")])
    for _ in range(50):
        world.step()
        outlet.read()
    assert world.lived == [outlet.origin]
    assert outlet.sequences() == [4]


def test_trimmed_events_become_a_gap_for_slow_sessions_too() -> None:
    world = World(1, gap_newest_events=5)
    world.commit([(1, "conversation.created", 1, created([1]))])
    for _ in range(10):
        world.commit([(1, "message", 1, b"x")] * 4)
    world.settle()
    world.log.trimmed_below = 30
    outlet = world.connect(1, 0, position=5)
    world.settle()
    ((conversation, after, before, newest, following),) = told(world, outlet.origin)
    assert (conversation, after, before) == (1, 5, 42)
    assert newest == [41, 40, 39, 38, 37]
    assert following == 37
    assert outlet.sequences() == []
    assert world.lived == [outlet.origin]


def test_a_damaged_record_is_a_gap_and_the_rest_is_served() -> None:
    world = World(1, gap_newest_events=5)
    world.commit([(1, "conversation.created", 1, created([1])), (2, "conversation.created", 1, created([1]))])
    world.commit([(1, "message", 1, b"a"), (2, "message", 1, b"b"), (1, "message", 1, b"c")])
    world.settle()
    world.log.damaged.add(3)
    outlet = world.connect(1, 0, position=2)
    world.settle()
    assert told(world, outlet.origin) == [(1, 2, 6, [5], 5)]
    assert outlet.sequences() == [4]


def test_a_slow_session_that_reads_forward_meets_damage_as_a_gap_and_goes_on() -> None:
    """It keeps nothing but its position; the conversation of the damage alone is left out, and it is said."""
    world = World(1, ranges_max=8, slow_hops_min=1, inline_hops_max=0, gap_newest_events=2)
    world.commit([(1, "conversation.created", 1, created([1])), (2, "conversation.created", 1, created([1]))])
    world.settle()
    outlet = world.connect(1, 0, buffer_bytes=1024)
    for _ in range(300):
        world.commit([(1, "message", 1, b"x" * 200), (2, "message", 1, b"y" * 200)])
    while world.tail.sequence < len(world.log.events):  # it reads nothing, and becomes a reader of the log
        world.step(answers=False)
    world.log.damaged.add(101)  # of conversation 1
    world.settle()
    assert world.catchup.forward_pages > 0
    got = outlet.sequences()
    ((conversation, after, before, _newest, following),) = told(world, outlet.origin)
    assert conversation == 1 and after < 101 < before and following is not None and following > 101
    assert [one for one in got if one % 2 == 0] == list(range(4, 603, 2))
    assert [one for one in got if one % 2] == [one for one in range(3, 603, 2) if not after < one < before]


def backlog_world(events: int, others: int) -> tuple[NaiveLog, NaiveView]:
    log = NaiveLog()
    view = NaiveView(log)
    view.apply(log.append([(1, "conversation.created", 1, created([1])), (2, "conversation.created", 2, created([2]))]))
    for _ in range(events // 10):
        view.apply(log.append([(1, "message", 1, b"x" * 40)] * 10 + [(2, "message", 2, b"y")] * (10 * others)))
    return log, view


@pytest.mark.parametrize("others", [0, 3])
def test_pages_of_a_long_backlog_cost_no_more_than_linear(others: int) -> None:
    """A slow session that forgets everything between pages: hops stay within its share, and all arrives in order."""
    log, view = backlog_world(6000, others)
    upto, position, got, pages = view.sequence, 0, [], 0
    while position < upto:
        question = Question(position, upto, chains_of(view, view.memberships(1), position, upto, {}))
        hops = slow_hops(upto - position)
        log.hops = 0
        backlog, page, reached = answer(
            log, question=question, backlog=None, budget=Budget(hops, hops, 0, gaps=False), page_bytes=20_000
        )
        assert log.hops <= hops
        got += [sequence_of(record) for record in page]
        more = backlog is not None and backlog.after(got[-1], 1)
        position = got[-1] if more else reached
        pages += 1
        assert pages < 200
    assert got == [event.sequence for event in log.events if event.conversation == 1]


def test_reading_forward_and_walking_back_find_the_same() -> None:
    log, view = backlog_world(400, 1)
    for after, upto in [(0, view.sequence), (17, 300), (250, 251), (view.sequence - 1, view.sequence)]:
        question = Question(after, upto, chains_of(view, view.memberships(1), after, upto, {}))
        walked = gather(log, question, Budget(10_000, 10_000, 0, gaps=False))
        assert walked is not None
        found: list[int] = []
        reached = after
        while reached < upto:
            page, reached = read_forward(log, question._replace(after=reached), 1000)
            found += [sequence_of(record) for record in page]
        assert found == list(walked.sequences)


def test_forward_reading_never_shows_hidden_intervals() -> None:
    log = NaiveLog()
    view = NaiveView(log)
    view.apply(
        log.append(
            [
                (1, "conversation.created", 1, created([1, 2])),
                (1, "member.left", 2, {"user": 2}),
                (1, "message", 1, b"hidden"),
                (1, "message", 1, b"hidden"),
                (1, "member.added", 1, {"user": 2, "role": "member"}),
                (1, "message", 1, b"shown"),
            ]
        )
    )
    for upto in range(1, 7):
        chains = chains_of(view, view.memberships(2), 0, upto, {})
        page, reached = read_forward(log, Question(0, upto, chains), 100_000)
        assert reached == upto
        assert [sequence_of(record) for record in page] == [s for s in (1, 2, 5, 6) if s <= upto]


@pytest.mark.parametrize("seed", range(6))
def test_a_short_stretch_read_forward_is_what_a_walk_finds(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Many chains, few records: the same sequences, gaps and pages as by walking every chain; also with little kept."""
    world = World(seed)
    for _ in range(12):
        world.commit(world.random_events(6, 400, 20))
    world.settle()
    log, last = world.log, len(world.log.events)
    monkeypatch.setattr(backlog, "KEPT_BYTES_MAX", 700)
    ways = 0
    for user in range(1, 7):
        for after in (0, last // 3, last - 20, last - 3):
            memberships = world.view.memberships(user)
            question = Question(after, last, chains_of(world.view, memberships, after, last, {}))
            for budget in (
                Budget(10_000, 1_000, 30, gaps=True),
                Budget(10_000, 3, 2, gaps=True),
                Budget(2, 2, 0, False),
            ):
                found = []
                for records_a_hop in (0, 1_000):  # never forward; always
                    monkeypatch.setattr(backlog, "RECORDS_A_HOP", records_a_hop)
                    one = gather(log, question, budget)
                    pages = [] if one is None else pages_of(log, one, after)
                    found.append((one and (list(one.sequences), one.gaps, one.upto), pages))
                    forward = backlog._gathered_forward(log, question, budget) if question.chains else None
                    ways |= 1 if forward is None else 2
                if found[0][0] is not None:  # else a walk spends its hops on what it may not show, too
                    assert found[0] == found[1], (user, after, budget)
    assert ways == 3


def pages_of(log: NaiveLog, found: backlog.Backlog, position: int) -> list[bytes]:
    """All records of a backlog, by small pages."""
    records: list[bytes] = []
    while page := read_page(log, found, position, 300):
        records += page
        position = sequence_of(page[-1])
    return records


def test_dense_pages_are_cut_out_of_their_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that are kept no more, neighbours of each other, are read a block at a time; of one that is damaged each
    is asked for, as where they lie far apart."""
    world = World(1)
    world.commit([(1, "conversation.created", 1, created([1]))])
    for _ in range(6):
        world.commit([(1, "message", 1, b"x" * 30)] * 40)
    asked: list[int] = []
    log = world.log
    record, blocks_after = log.record, log.blocks_after

    def counted(sequence: int) -> bytes | None:
        asked.append(sequence)
        return record(sequence)

    def damaged(sequence: int, limit_bytes: int = 1) -> list[bytes]:
        if 82 <= sequence + 1 <= 121:
            raise RecordDamaged("the third block")
        return blocks_after(sequence, limit_bytes)

    monkeypatch.setattr(log, "record", counted)
    wanted = [sequence for sequence in range(2, 242) if sequence % 7]
    for reads, most in ((blocks_after, backlog.DENSE), (damaged, 160)):
        monkeypatch.setattr(log, "blocks_after", reads)
        asked.clear()
        found = backlog.Backlog(241, array("Q", wanted), {}, [])
        assert [sequence_of(one) for one in read_page(log, found, 1, 1 << 20)] == wanted
        assert len(asked) <= most, asked
    apart = list(range(2, 242, 9))
    asked.clear()
    found = backlog.Backlog(241, array("Q", apart), {}, [])
    assert [sequence_of(one) for one in read_page(log, found, 1, 1 << 20)] == apart == asked

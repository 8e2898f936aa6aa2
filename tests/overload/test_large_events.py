"""A group of thousands, made by somebody with every right: routed in steps, paid for by its members, soon shed."""

from __future__ import annotations

from pathlib import Path

from engine import schema
from engine.router import STEP_MEMBERS
from engine.state.overlay import Overlay
from engine.state.saved import SavedState
from engine.state.view import View
from gateway.load import Budget
from tests.fanout.test_catchup import created
from tests.fanout.world import World
from tests.support.gateway import running
from tests.support.naive_log import NaiveLog

MEMBERS = 4 * STEP_MEMBERS


def test_whoever_says_hello_between_two_steps_follows_like_all_others() -> None:
    """Between each two steps a member connects, those who were entered already and those who were not; before, a
    slow one and one who resumes. All get the event, everything after it, and nothing before it."""
    world = World(3)
    world.commit([(1, "conversation.created", 1, created([1])), (1, "message", 1, b"before")])
    world.settle()
    early = world.connect(MEMBERS, 0)
    resumes = world.connect(2, 1, position=1)
    world.commit(
        [
            (1, "message", 1, b"other"),
            (2, "conversation.created", 1, created(list(range(1, MEMBERS + 1)))),
            (2, "message", 1, b"first"),
        ]
    )
    came, step = [(early, 3), (resumes, 3)], 0
    while world.tail.sequence < 5:
        assert world.tail.advance(0) or world.tail.sequence == 5
        step += 1
        routed = world.fanout.sequence
        came.append((world.connect(10 + step, step % 2), routed))
        came.append((world.connect(MEMBERS - 10 - step, step % 2, position=routed), routed))
    assert step > MEMBERS // STEP_MEMBERS
    world.commit([(2, "message", 7, b"after")])
    world.settle()
    assert sum(routed == 3 for _, routed in came) > 2 * MEMBERS // STEP_MEMBERS
    for outlet, routed in came:
        assert outlet.sequences() == list(range(max(routed, 3) + 1, 7)), outlet.user


def test_steps_give_what_one_pass_gives(tmp_path: Path) -> None:
    """The view's rows after each step are a part of the whole, after the last one all of it."""
    saved = SavedState.open(tmp_path, shard=0)
    members = [(user, "member") for user in range(1, MEMBERS + 1)]
    block = NaiveLog().append([(77, "conversation.created", 1, created([user for user, _ in members]))])
    whole, stepped = View(saved), View(saved)
    expected = whole.apply(block)
    controls: list[object] = []
    sizes = []
    for _ in stepped.apply_steps(block, controls):  # type: ignore[arg-type]
        sizes.append(len(stepped.members(77, 0, MEMBERS)))
        assert stepped.sequence == 0
    assert sizes == sorted(sizes) and len(set(sizes)) >= MEMBERS // STEP_MEMBERS
    assert controls == expected and stepped.sequence == 1
    assert stepped.members(77, 0, MEMBERS + 1) == whole.members(77, 0, MEMBERS + 1) == members
    assert [one.conversation for one in stepped.memberships(5)] == [77]
    saved.close()


def test_shedding_keeps_up_with_what_comes(tmp_path: Path) -> None:
    """Rows of large groups that are saved are dropped as fast as new ones arrive; those that are not saved stay."""
    saved = SavedState.open(tmp_path, shard=0)
    overlay = Overlay(saved, indexed=True)
    members = [(user, "member") for user in range(1, MEMBERS + 1)]
    for sequence in range(1, 41):
        overlay.apply(sequence, 100 + sequence, schema.Created("group", "t", False, members))
        overlay.shed(sequence - 1, slices=2, keep_used=False)
        assert len(overlay.memberships) <= 4 * MEMBERS, sequence
    assert (7, 140) in overlay.memberships and 140 in overlay.conversations_of(7)
    overlay.shed(40, slices=2, keep_used=False)
    for _ in range(40):
        overlay.shed(40, slices=2, keep_used=False)
    assert not overlay.memberships and not overlay.users and not overlay.rosters and not overlay.row_bytes
    saved.close()


def test_members_cost_their_session_and_the_process(tmp_path: Path) -> None:
    """Small groups are made at any time; a large one takes its share of the session's rate; too many are told when to
    come again, while somebody else's publish is served."""
    with running(tmp_path / "data", **{"admission.members_per_s_max": 4_000}) as gateway:
        author, other = gateway.device(1), gateway.device(2)
        crowd = list(range(10, 2_010))
        assert author.write("create", kind="group", title="a", members=crowd)["status"] == "appended"
        refused = author.write("create", kind="group", title="b", members=crowd)
        assert refused["status"] == "overloaded" and 0 < refused["extra"] < 2_000
        assert author.write("create", kind="group", title="c", members=crowd[:50])["status"] == "appended"
        assert other.write("publish", user=1, text="hello")["status"] == "appended"
    with running(tmp_path / "data", **{"gateway.rate_per_s": 10, "gateway.rate_burst": 50}) as gateway:
        author = gateway.device(1, device=2)
        assert author.write("create", kind="group", title="d", members=crowd)["status"] == "appended"
        refused = author.write("create", kind="group", title="e", members=crowd)
        assert refused["status"] == "rate_limited" and 1_000 < refused["extra"] < 5_000
        assert author.write("publish", user=2, text="small")["status"] == "appended"


def test_a_budget_gives_what_it_says() -> None:
    budget = Budget(1_000)
    assert budget.wait_ms(500, 100.0) == 0
    assert budget.wait_ms(1, 100.0) > 0
    assert 400 < budget.wait_ms(9_999, 100.1) <= 401  # larger than all of it: when all of it is there
    assert budget.wait_ms(9_999, 100.502) == 0
    assert sum(budget.wait_ms(100, 101.0 + step / 100) == 0 for step in range(1_000)) in (9, 10, 11)  # and is paid for

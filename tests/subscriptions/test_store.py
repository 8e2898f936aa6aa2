"""What subscriptions keep: bytes as engine/SUBSCRIPTIONS.md shows them, whole commits, what a restore takes back."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from array import array
from pathlib import Path

import lmdb
import pytest
from msgspec import structs

from engine import schema
from engine.errors import BadArgument, EngineUnable, LogVersion, StateDamaged
from engine.subscriptions.competing import Competing, competing_from
from engine.subscriptions.definition import Definition, Filter, Kind, Settings, checked
from engine.subscriptions.machine import Counts
from engine.subscriptions.ordered import Ordered, ordered_from
from engine.subscriptions.places import after_restore, cursor_of
from engine.subscriptions.ports import ParkedEvent
from engine.subscriptions.registry import Registry
from engine.subscriptions.store import (
    APPLIED_KEY,
    COUNT,
    CURSORS,
    DEFINITION,
    PARKED,
    SETTLED_KEY,
    Batch,
    Commits,
    DefinitionRow,
    ParkedRow,
    Store,
    encode,
    named,
    numbered,
)
from ext.record import Record, decode
from ext.record import encode as encode_record
from tests.support.tree import ROOT

PAGE = ROOT / "engine" / "SUBSCRIPTIONS.md"


def definition(name: str = "push", **more: object) -> Definition:
    """One that is right."""
    return Definition(name=name, kind="competing", team="", position=0, **more)  # type: ignore[arg-type]


def test_the_page_shows_the_bytes() -> None:
    """Keys and values of the example, as the code makes them."""
    shown = re.findall(r"^key ([0-9a-f ]+?)\s+value ([0-9a-f ]+)$", PAGE.read_text(), re.M)
    rows = {bytes.fromhex(key): bytes.fromhex(value) for key, value in shown}
    assert rows == {
        named(CURSORS, "push"): Competing(Settings(), 9, array("Q", [5, 7]), Counts()).stored(),
        numbered(COUNT, "push", 5): (2).to_bytes(2, "little"),
    }


def test_positions_as_they_are_stored() -> None:
    """One number where all shares are alike, else one for each."""
    one = ordered_from(Settings(), (7).to_bytes(8, "little"), Counts())
    assert one.cursor() == 7 and one.stored() == (7).to_bytes(8, "little")
    cursors = array("Q", range(1_000, 1_256))
    many = Ordered(Settings(), cursors, Counts())
    assert len(many.stored()) == 2_048
    assert ordered_from(Settings(), many.stored(), Counts()).cursors() == cursors
    holes = competing_from(Settings(), Competing(Settings(), 9, array("Q", [5, 7]), Counts()).stored(), Counts())
    assert (holes.cursor(), holes.holes()) == (4, [5, 7])


@pytest.mark.parametrize(("kind", "size"), [("ordered", 0), ("ordered", 16), ("competing", 0), ("competing", 3)])
def test_a_row_of_cursors_that_can_not_be_is_named(tmp_path: Path, kind: Kind, size: int) -> None:
    """At the start, before anybody is told a place that is none."""
    store = Store.open(tmp_path)
    batch = Batch()
    batch.rows[named(CURSORS, "push")] = bytes(size)
    store.write(batch)
    with pytest.raises(StateDamaged, match=f"'push': its row of cursors has {size} bytes"):
        cursor_of(store, structs.replace(definition("push"), kind=kind))
    store.close()


def test_a_subscription_is_erased_with_all_its_rows(tmp_path: Path) -> None:
    """And no other, whose name begins alike."""
    store = Store.open(tmp_path)
    batch = Batch()
    for name in ("push", "push.more", "push-2"):
        row = DefinitionRow(definition=definition(name), created=3)
        event = ParkedEvent(sequence=4, conversation=1, type="message", deliveries=2, reason="", time=1)
        batch.rows[named(DEFINITION, name)] = encode(row)
        batch.rows[named(CURSORS, name)] = bytes(8)
        batch.rows[numbered(COUNT, name, 5)] = b"\2\0"
        batch.rows[numbered(PARKED, name, 4)] = encode(ParkedRow(event=event))
    store.write(batch)
    assert len(store.parked("push")) == 1 and store.counts("push") == {5: 2}
    gone = Batch()
    gone.rows[numbered(COUNT, "push", 9)] = b"\2\0"
    gone.erase("push")
    store.write(gone)
    assert [row.definition.name for row in store.definitions()] == ["push-2", "push.more"]
    assert not store.parked("push") and not store.counts("push") and store.value(named(CURSORS, "push")) is None
    for name in ("push.more", "push-2"):
        assert len(store.parked(name)) == 1 and store.counts(name) == {5: 2}
    store.close()


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    """Whoever waits is told, and nothing is lost."""

    async def story() -> None:
        store = Store.open(tmp_path)
        changes = [Batch({b"c:one": b"1", b"c:two": b"1"}), Batch({b"c:two": b"2"})]
        commits = Commits(store, lambda: changes.pop(0) if changes else Batch())
        write = store.write

        def full(batch: Batch) -> None:
            raise lmdb.MapFullError("the map is full")

        store.write = full  # type: ignore[method-assign]
        with pytest.raises(EngineUnable, match="map is full"):
            await commits.synced()
        store.write = write  # type: ignore[method-assign]
        await commits.synced()
        assert (store.value(b"c:one"), store.value(b"c:two")) == (b"1", b"2")
        assert (commits.commits, commits.failures) == (1, 1)
        await commits.close()
        store.close()

    asyncio.run(story())


def test_commits_are_shared(tmp_path: Path) -> None:
    """A hundred that wait at once have two commits at most."""

    async def story() -> None:
        store = Store.open(tmp_path)
        number = iter(range(1_000_000))
        commits = Commits(store, lambda: Batch({b"c:one": b"%d" % next(number)}))
        await asyncio.gather(*(commits.synced() for _ in range(100)))
        assert commits.commits <= 2
        await commits.close()
        store.close()

    asyncio.run(story())


def test_after_a_restore_nothing_is_beyond_it(tmp_path: Path) -> None:
    """Cursors are cut back, counts and parked events of what was replaced go, later subscriptions too."""
    store = Store.open(tmp_path)
    assert after_restore(store, [(1, 1)]) == 0
    batch = Batch({APPLIED_KEY: (90).to_bytes(8, "little")})
    for name, created in (("old", 3), ("new", 80)):
        batch.rows[named(DEFINITION, name)] = encode(DefinitionRow(definition=definition(name), created=created))
        batch.rows[named(CURSORS, name)] = b"".join(one.to_bytes(8, "little") for one in (75, 20, 61))
        for sequence in (20, 61):
            event = ParkedEvent(sequence=sequence, conversation=1, type="message", deliveries=2, reason="", time=1)
            batch.rows[numbered(COUNT, name, sequence)] = b"\3\0"
            batch.rows[numbered(PARKED, name, sequence)] = encode(ParkedRow(event=event))
    store.write(batch)
    assert after_restore(store, [(1, 1), (2, 51)]) > 0
    assert after_restore(store, [(1, 1), (2, 51)]) == 0
    (row,) = store.definitions()
    assert row.definition.name == "old"
    assert competing_from(Settings(), store.value(named(CURSORS, "old")) or b"", Counts()).holes() == [20]
    assert cursor_of(store, row.definition) == 19
    assert store.counts("old") == {20: 3} and [one.event.sequence for one in store.parked("old")] == [20]
    assert (store.number(APPLIED_KEY), store.number(SETTLED_KEY)) == (0, 50)
    store.close()


def test_after_a_restore_definitions_are_what_the_log_says(tmp_path: Path) -> None:
    """M1: paused and deleted beyond the place where history was replaced is neither; what was done before stays."""

    def act(sequence: int, type_name: str, payload: schema.SystemPayload) -> Record:
        return decode(encode_record(sequence, 1, sequence, 0, 1, 9, 0, 0, type_name, schema.pack(payload)))

    def created(sequence: int, name: str) -> Record:
        payload = schema.SubscriptionCreated(name, "ordered", "", Filter(), 0, Settings())
        return act(sequence, schema.SUBSCRIPTION_CREATED, payload)

    told = [
        created(3, "a"),
        act(4, schema.SUBSCRIPTION_DELETED, schema.SubscriptionDeleted("a")),
        created(5, "a"),
        created(6, "b"),
        act(7, schema.SUBSCRIPTION_RESET, schema.SubscriptionReset("a", 2)),
        act(8, schema.SUBSCRIPTION_PAUSED, schema.SubscriptionPaused("a")),
        act(9, schema.SUBSCRIPTION_RESUMED, schema.SubscriptionResumed("a")),
    ]
    replaced = [
        act(60, schema.SUBSCRIPTION_PAUSED, schema.SubscriptionPaused("a")),
        act(61, schema.SUBSCRIPTION_DELETED, schema.SubscriptionDeleted("b")),
    ]
    store = Store.open(tmp_path)
    assert after_restore(store, [(1, 1)]) == 0
    registry, batch = Registry((), 0), Batch({APPLIED_KEY: (90).to_bytes(8, "little")})
    for record in (*told, *replaced):
        registry.fold(record, batch)
    store.write(batch)
    assert [(row.definition.name, row.paused) for row in store.definitions()] == [("a", True)]
    after_restore(store, [(1, 1), (2, 51)])
    registry = Registry(store.definitions(), store.number(APPLIED_KEY), store.number(SETTLED_KEY))
    changes = [registry.fold(record, Batch()) for record in told]
    assert {name: (row.created, row.paused) for name, row in registry.rows.items()} == {
        "a": (5, False),
        "b": (6, False),
    }
    assert all(change is None or (change.row is not None and change.position is None) for change in changes)
    later = registry.fold(act(70, schema.SUBSCRIPTION_RESET, schema.SubscriptionReset("a", 2)), Batch())
    assert later is not None and later.position == 2
    store.close()


def test_foreign_and_damaged(tmp_path: Path) -> None:
    """Another format, and no LMDB at all."""
    Store.open(tmp_path / "other").close()
    with lmdb.open(str(tmp_path / "other"), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"format", b"\x09")
    with pytest.raises(LogVersion, match="format 09"):
        Store.open(tmp_path / "other")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "data.mdb").write_bytes(b"not LMDB at all" * 1_000)
    with pytest.raises(StateDamaged, match="can't be opened"):
        Store.open(tmp_path / "text")


def test_a_file_that_was_cut_off_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    """Wherever: a look beyond the end of a mapped file is a signal, not an error. In a process of its own for that."""
    code = (
        "import sys; from pathlib import Path; from engine.errors import StateDamaged;"
        "from engine.subscriptions.store import Store\n"
        "try:\n store = Store.open(Path(sys.argv[1])); store.definitions(); store.close()\n"
        "except StateDamaged: print('damaged')"
    )
    store = Store.open(tmp_path / "whole")
    for number in range(3):
        store.write(Batch(rows={b"d:%d" % at: encode(DefinitionRow(definition=definition(), created=number))
                                for at in range(40)}))  # fmt: skip
    store.close()
    whole = (tmp_path / "whole" / "data.mdb").read_bytes()
    found = []
    for size in range(4_096, len(whole), 4_096):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "data.mdb").write_bytes(whole[:size])
        process = subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, check=False, text=True, cwd=ROOT
        )
        assert process.returncode == 0, (size, process.returncode, process.stderr)
        found.append(process.stdout)
    assert "damaged\n" in found


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (definition("No"), "a name has"),
        (definition(filter=Filter(types=("Message",))), "dotted lower-case"),
        (definition(filter=Filter(types=("a..b",))), "dotted lower-case"),
        (definition(filter=Filter(types=("a",) * 65)), "at most 64"),
        (definition(filter=Filter(kinds=("chat",))), "dialog, group, channel, system"),
        (definition(filter=Filter(conversations=(0,))), "ids are 1 to"),
        (definition(filter=Filter(senders=(2**53,))), "ids are 1 to"),
        (definition(filter=Filter(senders=tuple(range(1, 10_002)))), "at most 10,000"),
        (definition(settings=Settings(ack_timeout_s=0.5)), "ack_timeout_s 0.5: must be 1 to 43,200"),
        (definition(settings=Settings(ack_timeout_s=float("nan"))), "ack_timeout_s nan"),
        (definition(settings=Settings(in_flight_max=0)), "in_flight_max"),
        (definition(settings=Settings(retry_min_s=10, retry_max_s=1)), "below retry_min_s"),
        (definition(settings=Settings(deliveries_max=-1)), "deliveries_max"),
    ],
)
def test_limits_are_named(wrong: Definition, words: str) -> None:
    """Value, limit and what to change."""
    with pytest.raises(BadArgument, match=words):
        checked(wrong)
    assert checked(definition(filter=Filter(types=("message", "member.", "a.b_c-d"))))

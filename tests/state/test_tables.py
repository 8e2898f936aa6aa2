"""The native tables against dictionaries: windows, heads, roles, dialogs, shedding, and the coding of saved rows."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.conversations import DIALOG, KINDS, Right, Role, publish_rights, role_row
from engine.schema import CREATED, Created, pack, pack_dialog, unpack
from ext.saving import (
    HEADS_PER_SLAB,
    SortedDialogs,
    SortedHeads,
    SortedWindows,
    load_heads,
    load_windows,
    slab_head,
    window_decode,
    window_highest,
)
from ext.tables import DialogTable, HeadTable, MemberTable, WindowTable

COUNTERS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 80)), min_size=1, max_size=150)


class NaiveWindow:
    """All counters of a device; the last 64 numbers count."""

    def __init__(self) -> None:
        self.sequences: dict[int, int] = {}

    def note(self, counter: int, sequence: int) -> None:
        """A publish; what is 64 or more behind the highest is not remembered."""
        if counter > max(self.sequences, default=0) - 64:
            self.sequences[counter] = sequence

    def known(self) -> dict[int, int]:
        """The remembered ones."""
        highest = max(self.sequences)
        return {counter: sequence for counter, sequence in self.sequences.items() if counter > highest - 64}


def moves(steps: list[tuple[int, int]]) -> list[int]:
    """Counters from (kind of move, size): forward by one, forward by size, back by size."""
    counter, out = 0, []
    for kind, size in steps:
        counter = max(1, counter + (1 if kind == 1 else size if kind == 2 else -size))
        out.append(counter)
    return out


@settings(derandomize=True, deadline=None, max_examples=300)
@given(COUNTERS)
def test_a_window_remembers_the_last_64_counters(steps: list[tuple[int, int]]) -> None:
    """Goal: WindowTable = naive. Also: memory grows with use, and a save and load of any split changes nothing."""
    table, naive = WindowTable(), NaiveWindow()
    early, late = WindowTable(), WindowTable()
    counters = moves(steps)
    for sequence, counter in enumerate(counters, start=1000):
        if naive.sequences and counter in naive.known():
            continue  # a repeat appends nothing
        table.note(7, 9, counter, sequence)
        naive.note(counter, sequence)
        (early if sequence < 1000 + len(counters) // 2 else late).note(7, 9, counter, sequence)
    highest, known, loaded = table.known(7, 9) or (0, {}, True)
    assert (highest, known, loaded) == (max(naive.sequences), naive.known(), False)
    # Saved in two parts, as two saves would do, then loaded into an empty table.
    rows: list[tuple[bytes, bytes]] = []
    for part in (early, late):
        windows = SortedWindows(part)
        keys = windows.keys(0, 10)
        rows = windows.rows(0, keys, rows) or rows
    assert window_highest(rows[0][1]) == highest
    assert window_decode(rows[0][1])[2] == known
    fresh = WindowTable()
    load_windows(fresh, [rows[0][0]], rows)
    assert fresh.known(7, 9) == (highest, known, True)


def test_a_window_costs_memory_only_as_it_is_used() -> None:
    """One publish: four slots; sixty-four in a row: sixty-four."""
    table = WindowTable()
    table.note(1, 1, 1, 1)
    small = table.bytes
    for counter in range(2, 1000):
        table.note(1, 1, counter, counter)
    assert table.bytes - small == 60 * 8
    other = WindowTable()
    for counter in range(1, 10_000, 100):
        other.note(1, 1, counter, counter)
    assert other.bytes == small


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 30, b"\x01", b"\x01\x01\x41", b"\x01\x01\x02\x03\x05"])
def test_a_broken_window_row_is_an_error(garbage: bytes) -> None:
    """Never a silent empty window: that would accept repeats."""
    with pytest.raises(ValueError, match="window"):
        window_decode(garbage)


def test_shedding_keeps_exactly_what_is_not_saved() -> None:
    """Random puts and sweeps against a dictionary; sub-tables grow and shrink on the way."""
    random_ = random.Random(3)
    table, naive, sequence = HeadTable(), {}, 0
    for _ in range(40):
        for _ in range(random_.choice((10, 5_000))):
            sequence += 1
            conversation = random_.randint(1, 20_000)
            table.note(conversation, sequence, 1)
            naive[conversation] = sequence
        position = random_.randint(0, sequence)
        if random_.random() < 0.5:
            shed = sum(table.sweep(position, False) for _ in range(256))
            assert shed == sum(1 for last in naive.values() if last <= position)
            naive = {key: last for key, last in naive.items() if last > position}
        assert len(table) == len(naive)
    assert {key: (table.get(key) or (0, 0))[1] for key in naive} == naive
    for _ in range(256):
        table.sweep(sequence, False)
    assert len(table) == 0
    assert table.bytes <= 256 * 8 * 64


def test_an_entry_in_use_survives_one_sweep() -> None:
    """Second chance: what was loaded for a waiting proposal is there when the proposal is walked again."""
    members = MemberTable()
    members.load(1, 2, 3)
    for _ in range(256):
        members.sweep(1 << 60, True)
    assert members.get(1, 2) == 3
    for _ in range(256):
        members.sweep(1 << 60, True)
    assert members.get(1, 2) is None


def test_a_late_load_never_overwrites() -> None:
    """What admission knows is newer than what any save knows."""
    heads, members, dialogs = HeadTable(), MemberTable(), DialogTable()
    heads.create(5, 2, 10, True)
    heads.note(5, 12, 3)
    heads.load(5, 0, 0, 0, 0, 0, 0, False, False)
    assert heads.get(5) == (2, 12, 3, 10, 0, 0, False, True, True)
    members.set(5, 1, 1, 10)
    members.load(5, 1, 0)
    members.set(5, 1, 2, 9)
    assert members.get(5, 1) == 1
    dialogs.load(1, 2, 0)
    dialogs.load(1, 2, 8)
    assert dialogs.get(1, 2) == 0
    assert dialogs.get(1, 3) is None


def test_heads_go_through_slabs_unchanged() -> None:
    """Patching slab by slab, in two saves, equals a dictionary; an older head never overwrites."""
    random_ = random.Random(1)
    shard = 3 << 40
    slabs: dict[bytes, bytes] = {}
    naive: dict[int, tuple[int, int]] = {}
    for save in range(2):
        table = HeadTable()
        for n in random_.sample(range(1, 3 * HEADS_PER_SLAB), 500):
            head = (1 << 41) + save * 1000 + random_.randint(1, 900)
            table.note(shard + n, head, n)
            naive[shard + n] = (head, n)
        heads = SortedHeads(table)
        for key, start in heads.slabs():
            slabs[key] = heads.patch(start, slabs.get(key))
    assert all(len(slab) + 16 == 4096 for slab in slabs.values())
    for conversation, expected in naive.items():
        assert slab_head(slabs[(conversation // HEADS_PER_SLAB).to_bytes(8, "big")], conversation) == expected
    stale = HeadTable()
    conversation = next(iter(naive))
    stale.note(conversation, 1, 1)
    old = slabs[(conversation // HEADS_PER_SLAB).to_bytes(8, "big")]
    assert SortedHeads(stale).patch(0, old) == old


def test_a_missing_conversation_is_known_to_be_missing() -> None:
    """A key without a row: kind 0, whole, so that nobody asks again."""
    table = HeadTable()
    load_heads(table, [(77).to_bytes(8, "big")], [], {})
    assert table.get(77) == (0, 0, 0, 0, 0, 0, False, False, True)


def test_nothing_to_save_is_nothing() -> None:
    """Empty tables sort."""
    heads = SortedHeads(HeadTable())
    assert heads.slabs() == []
    assert SortedDialogs(heads).count == 0
    assert SortedWindows(WindowTable()).keys(0, 5) == []


def test_native_code_and_the_table_of_conversations_agree() -> None:
    """The three numbers that ext/tables knows, and the bytes of rights."""
    assert (DIALOG, int(Role.NONE), int(Role.MEMBER), int(Right.PUBLISH)) == (1, 0, 3, 1)
    rights = publish_rights()
    assert len(rights) == 64
    for kind, row in islice(KINDS.items(), 10):
        for role in Role:
            assert bool(rights[kind * 8 + role] & 1) == (Right.PUBLISH in role_row(kind, role).rights)
        assert row.number == kind


def test_a_dialog_reads_as_any_created_conversation() -> None:
    """The bytes that native code writes are the schema's map, with wider integers."""
    wide = pack_dialog(5, 2**40)
    assert unpack(CREATED, wide) == Created("dialog", "", True, [(5, "member"), (2**40, "member")])
    assert len(wide) == 72
    assert len(pack(Created("dialog"))) < 72

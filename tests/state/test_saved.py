"""The saved rows, byte by byte as engine/STATE_FORMAT.md has them, and its invariants after a history of everything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from engine import schema
from engine.answers import key_of, pack_proposal
from engine.state.keys import KEEP_US
from engine.state.saved import (
    ConversationRow,
    MembershipRow,
    SavedState,
    pack_conversation,
    pack_membership,
    unpack_conversation,
    unpack_membership,
)
from ext.keys import KeyTable
from ext.saving import SortedWindows, window_decode
from ext.tables import WindowTable
from tests.support.sequencer_driver import Driver

DOCUMENT = Path(__file__).parents[2] / "engine" / "STATE_FORMAT.md"


def test_the_window_of_the_document() -> None:
    """The annotated bytes are what is written and what is read."""
    example = DOCUMENT.read_text(encoding="utf-8").split("```")[1]
    golden = bytes.fromhex("".join(re.findall(r"^((?:[0-9a-f]{2} ?)+)", example, re.MULTILINE)).replace(" ", ""))
    table = WindowTable()
    for counter, sequence in ((1, 1000), (2, 1003), (4, 1010)):
        table.note(7, 9, counter, sequence)
    windows = SortedWindows(table)
    assert windows.rows(0, windows.keys(0, 1), []) == [((7).to_bytes(8, "big") + (9).to_bytes(8, "big"), golden)]
    assert window_decode(golden) == (4, 1010, {1: 1000, 2: 1003, 4: 1010})


def test_the_key_of_the_document() -> None:
    """The annotated row is what is written and what is read."""
    found = re.search(r"```key\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    golden = [bytes.fromhex(line) for line in re.findall(r"^((?:[0-9a-f]{2} ?)+)", found[1], re.MULTILINE)]
    table = KeyTable(KEEP_US)
    table.note(key_of(1, "order 7"), 1042, 1_795_515_000_000_000)
    assert table.saved_rows(0, 1) == [(golden[0], golden[1] + golden[2])]
    again = KeyTable(KEEP_US)
    again.load([(golden[0], golden[1] + golden[2])])
    assert again.known(key_of(1, "order 7")) == (1042, 1_795_515_000_000_000)


def test_rows_are_the_documents_bytes() -> None:
    """Offsets of conversations and memberships."""
    row = ConversationRow(2, True, True, 3, 10, 20, 0, 0, "Ё")
    data = pack_conversation(row)
    assert data == bytes.fromhex("02030000 03000000 0a00000000000000 1400000000000000") + bytes(16) + "Ё".encode()
    assert unpack_conversation(data) == row
    membership = MembershipRow(0, 3, ((5, 9), (12, None)), 12)
    data = pack_membership(membership)
    assert data == bytes.fromhex(
        "00030000 02000000 0c00000000000000 0500000000000000 09000000000000000c00000000000000 0000000000000000"
    )
    assert unpack_membership(data) == membership


def rows_of(saved: SavedState) -> dict[bytes, dict[bytes, bytes]]:
    """All rows of all databases."""
    with saved.env.begin() as txn:
        return {name: dict(txn.cursor(database)) for name, database in saved.databases.items()}


def history(driver: Driver, save_every: int) -> None:
    """A group and a channel with people coming, going, returning; dialogs; deletions; a service over two days."""
    step = 0

    def ask(user: int, counter: int, target: int, name: str, payload: bytes, *, person: bool = False) -> int:
        nonlocal step
        answer = driver.submit(pack_proposal(user, 1, counter, target, name, payload, person=person))[0]
        assert answer.status == 0, answer
        step += 1
        if step % save_every == 0:
            driver.save()
            driver.shed()
        return answer.conversation if name == schema.CREATED else answer.sequence

    group = ask(1, 1, 0, schema.CREATED, schema.pack(schema.Created("group", "G", True, [(2, ""), (3, "admin")])))
    channel = ask(1, 2, 0, schema.CREATED, schema.pack(schema.Created("channel", "C", False, [(2, "writer")])))
    said = ask(2, 1, group, "message", b"x")
    ask(3, 1, group, schema.REMOVED, schema.pack(schema.Removed(2)))
    ask(4, 1, channel, schema.ADDED, schema.pack(schema.Added(4)))
    ask(1, 3, group, schema.ADDED, schema.pack(schema.Added(2)))
    ask(1, 4, group, schema.ROLE, schema.pack(schema.Role(2, "admin")))
    ask(3, 2, group, schema.LEFT, schema.pack(schema.Left(3)))
    ask(1, 5, group, schema.DELETED, schema.pack(schema.Deleted(said)))
    ask(4, 2, channel, schema.LEFT, schema.pack(schema.Left(4)))
    ask(1, 6, channel, schema.RENAMED, schema.pack(schema.Renamed("D")))
    for counter in range(7, 100):
        ask(1, counter, 2 + counter % 5, "message", b"x", person=True)
        driver.time_us += KEEP_US // 40
        keyed = pack_proposal(1, 0, 0, 2, "message", b"x", person=True, key=key_of(1, str(counter)))
        assert driver.submit(keyed)[0].status == 0
    ask(1, 100, channel, schema.CLOSED, schema.pack(schema.Closed()))


def test_saving_often_saving_once_and_replaying_give_the_same_rows(tmp_path: Path) -> None:
    """S2, S3, S4, S5: every row of every database, whatever the moments of saving."""
    results = []
    for number, save_every in enumerate((1, 7, 10_000)):
        driver = Driver(tmp_path / str(number))
        history(driver, save_every)
        driver.save()
        results.append(rows_of(driver.saved))
        if save_every == 7:
            driver.saved.close()
            shutil.rmtree(driver.path)
            driver.saved = SavedState.open(driver.path, shard=0)
            driver._begin()
            results.append(rows_of(driver.saved))
        driver.close()
    assert all(result == results[0] for result in results[1:])
    rows, position = results[0], int.from_bytes(results[0][b"meta"][b"position"], "big")
    indexed = set()
    for key, value in rows[b"members"].items():
        row = unpack_membership(value)
        assert row.changed_at <= position
        lasts = [last for _, last in row.intervals]
        assert None not in lasts[:-1]
        assert (lasts[-1] is None) == (row.role != 0)
        if row.role and row.kind != 1:
            indexed.add((key[8:] + key[:8], bytes([row.role])))
    assert indexed == set(rows[b"member_index"].items())
    assert 30 < len(rows[b"keys"]) < 50

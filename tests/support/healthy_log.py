"""A log in which everything has happened, and ways to break copies of it one fault at a time.

`make` runs an engine: dialogs, groups, channels, edits, deletions, reactions, members who come and go, several devices,
what became of a subscription, a service with keys, over several segments. `Broken` is a copy; its blocks are changed
through LMDB itself, checksums right again where the fault is not about them.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from engine import errors, schema
from engine.answers import key_of, pack_proposal
from engine.log import format as fmt
from engine.log.check import check_log
from engine.state.saved import DATABASES
from engine.subscriptions.definition import Filter, Settings
from ext import block as blocks
from ext.record import Record, decode, record_key
from tests.support.engine_rig import EngineRig
from tests.support.log_rig import rewrite, rows_of, segment_files
from tests.support.naive_block import mended

SEGMENT_BYTES = 48 << 10
USERS = 6
LAST = 1 << 40  # an origin above all others
FIELDS = {name: 2 + 9 * place for place, name in enumerate(Record._fields[:8])}


def make(data: Path) -> None:
    """Closed at the end; its state is saved up to its end."""
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    counters = dict.fromkeys(range(1, USERS + 1), 0)

    def ask(user: int, target: int, type_name: str, payload: bytes, **more: Any) -> bytes:
        counters[user] += 1
        device, counter, origin = 1 + counters[user] % 2, (counters[user] + 1) // 2, sum(counters.values())
        return pack_proposal(user, device, counter, target, type_name, payload, origin=origin, **more)

    def tell(payload: schema.Payload, type_name: str) -> bytes:
        """What is told in the system conversation; its answer comes behind the others."""
        return pack_proposal(9, 0, 0, 0, type_name, schema.pack(payload), origin=LAST, system=True)

    def done(*proposals: bytes) -> list[int]:
        answers = rig.ask(*proposals)
        assert {answer.status for answer in answers} == {errors.APPENDED}, answers
        return [answer.sequence for answer in sorted(answers)]  # by origin: what waited for its rows comes later

    created = [
        schema.pack(schema.Created("group", "G", False, [(2, ""), (3, "admin")])),
        schema.pack(schema.Created("channel", "C", True, [(4, "writer")])),
    ]
    done(*(ask(1, 0, schema.CREATED, payload) for payload in created))
    wanted = Filter(types=("message",), kinds=("dialog", "group"))
    mail = schema.SubscriptionCreated("mail", "ordered", "post", wanted, 0, Settings())
    done(tell(mail, schema.SUBSCRIPTION_CREATED))
    group, channel = 1, 2
    last = 1 << 50  # of the origins
    for round_ in range(20):
        text = bytes([round_]) * 300
        key = key_of(6, f"round {round_}")
        sequences = done(
            ask(1, 2, "message", text, person=True),
            ask(2, 1, "message", text, person=True),
            ask(3, 4, "message", text, person=True),
            ask(1, group, "message", text),
            ask(3, group, "message", text),
            ask(4, channel, "message", text),
            tell(schema.SubscriptionReset("mail", round_), schema.SUBSCRIPTION_RESET),
            ask(5, 6, "message", text, person=True),
            pack_proposal(6, 0, 0, 5, "message", text, person=True, key=key, origin=last),
        )
        edited = schema.pack(schema.Edited(sequences[3], b"new"))
        done(
            ask(1, group, schema.EDITED, edited),
            ask(3, group, schema.REACTION, schema.pack(schema.Reaction(sequences[3], b"+"))),
            ask(3, group, schema.DELETED, schema.pack(schema.Deleted(sequences[4]))),
            ask(2, group, schema.LEFT, schema.pack(schema.Left(2)))
            if round_ % 2 == 0
            else ask(1, group, schema.ADDED, schema.pack(schema.Added(2))),
        )
    done(ask(1, group, schema.CLOSED, schema.pack(schema.Closed())))
    rig.close()


class Place(NamedTuple):
    """A block, and one of its events."""

    path: Path
    key: int
    sequence: int
    record: Record


class Broken:
    """A copy of a healthy log. Every change is one fault."""

    def __init__(self, healthy: Path, copy: Path) -> None:
        self.data = copy
        shutil.copytree(healthy, copy)
        self.files = segment_files(copy)

    def problems(self) -> list[dict[str, Any]]:
        """What the check says."""
        found: list[dict[str, Any]] = check_log(self.data)["problems"]
        return found

    def one_problem(self, number: str, words: str, *, segment: str, block: int | None, events: str) -> None:
        """The check says exactly this, and nothing that follows from it."""
        problems = self.problems()
        assert len(problems) == 1, problems
        problem = problems[0]
        assert problem["problem"].startswith(f"{number}: "), problem
        assert words in problem["problem"], problem
        assert (problem["segment"], problem["block"], problem["events"]) == (segment, block, events), problem

    def one_event(self, place: Place, number: str, words: str) -> None:
        """The check says exactly this of one event."""
        self.one_problem(number, words, segment=place.path.name, block=place.key, events=str(place.sequence))

    def rows(self, file: int) -> dict[int, bytes]:
        """Key → block of a segment."""
        return {int.from_bytes(key, "big"): value for key, value in rows_of(self.files[file]).items() if len(key) == 8}

    def events(self, file: int) -> list[Place]:
        """All events of a segment."""
        path = self.files[file]
        return [
            Place(path, key, record.sequence, record)
            for key, block in sorted(self.rows(file).items())
            for record in map(decode, blocks.records(block))
        ]

    def place(self, fits: Callable[[Place], bool] = lambda place: True) -> Place:
        """An event inside a block inside the second segment, that has events before and after it everywhere: in its
        block, its conversation, its device and the log."""
        rows = self.rows(1)
        keys, following = sorted(rows), [event.record for file in (1, 2) for event in self.events(file)]
        for place in self.events(1):
            record = place.record
            # Events of later blocks: one has 10 events at most.
            later = following[place.sequence + 10 - following[0].sequence :]
            if (
                keys[1] < place.key < keys[-2]
                and place.key < place.sequence < place.key + blocks.header(rows[place.key]).count - 1
                and record.conversation_sequence > 2
                and record.counter > 1
                and any(other.conversation == record.conversation for other in later)
                and any((other.sender, other.device) == (record.sender, record.device) for other in later)
                and fits(place)
            ):
                return place
        raise AssertionError("no event fits")

    def change_block(self, place: Place, change: Callable[[bytes], bytes]) -> None:
        """Another block in the place of one."""
        rewrite(place.path, lambda rows: rows.update({fmt.key_of(place.key): change(rows[fmt.key_of(place.key)])}))

    def flip(self, place: Place, at: int) -> None:
        """One bit of the block, at a byte of the event's record (`at` ≥ 0) or before the records (from the end of the
        table, `at` < 0)."""

        def change(block: bytes) -> bytes:
            count = blocks.header(block).count
            area = 80 + 8 * count
            index = place.sequence - place.key
            begins = area + int.from_bytes(block[80 + 8 * index : 84 + 8 * index], "little") if at >= 0 else area
            return block[: begins + at] + bytes([block[begins + at] ^ 1]) + block[begins + at + 1 :]

        self.change_block(place, change)

    def set_field(self, place: Place, name: str, number: int) -> None:
        """One field of one record, all checksums right."""

        def change(block: bytes) -> bytes:
            index = place.sequence - place.key
            area = 80 + 8 * blocks.header(block).count
            at = area + int.from_bytes(block[80 + 8 * index : 84 + 8 * index], "little") + FIELDS[name]
            return mended(block[:at] + struct.pack(">Q", number) + block[at + 8 :])

        self.change_block(place, change)

    def keyed(self, number: int) -> Place:
        """An event with a key, of the second segment."""
        for place in self.events(1):
            if record_key(self.record(place)):
                number -= 1
            if number < 0:
                return place
        raise AssertionError("too few events have a key")

    def record(self, place: Place) -> bytes:
        """Its bytes."""
        return list(blocks.records(self.rows(1)[place.key]))[place.sequence - place.key]

    def set_key(self, place: Place, key: bytes) -> None:
        """Another key of a record that has one, all checksums right."""
        old = record_key(self.record(place))
        assert old != key
        self.change_block(place, lambda block: mended(block.replace(old, key)))

    def set_header(self, place: Place, at: int, data: bytes) -> None:
        """Bytes of a block's header, its checksum right."""
        self.change_block(place, lambda block: mended(block[:at] + data + block[at + len(data) :]))

    def set_segment(self, file: int, **fields: Any) -> None:
        """Fields of a segment's header, its checksum right."""
        path = self.files[file]
        header = fmt.unpack_header(rows_of(path)[fmt.HEADER_KEY], path, None)._replace(**fields)
        rewrite(path, lambda rows: rows.update({fmt.HEADER_KEY: fmt.pack_header(header)}))

    def change_state(self, name: bytes, change: Callable[[dict[bytes, bytes]], Any]) -> None:
        """Rows of one database of the state."""
        with lmdb.open(str(self.data / "state"), max_dbs=len(DATABASES), map_size=1 << 30, lib_version=0) as env:
            database = env.open_db(name)
            with env.begin(write=True, db=database) as txn:
                before = {bytes(key): bytes(value) for key, value in txn.cursor()}
                after = dict(before)
                change(after)
                for key in before.keys() - after.keys():
                    txn.delete(key)
                for key, value in after.items():
                    txn.put(key, value)

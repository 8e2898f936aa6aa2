"""`gonets log check`: clean where all is well, and one fault is one problem that names its invariant and its place."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.answers import pack_proposal
from engine.log import format as fmt
from engine.log.check import check_log
from ext import block as blocks
from ext.record import Record, decode, record_key
from tests.support.engine_rig import EngineRig
from tests.support.healthy_log import Broken, Place
from tests.support.log_rig import hashes, rewrite, rows_of, run_child, segment_files
from tests.support.naive_block import mended

# Where all is well.


def test_a_healthy_log_is_clean_and_stays_as_it_is(healthy: Path) -> None:
    """And all of it was looked at."""
    before = hashes(healthy)
    report = check_log(healthy)
    assert hashes(healthy) == before
    assert report["problems"] == []
    files = segment_files(healthy)
    assert report["segments"] == len(files) > 3
    assert report["blocks"] == sum(len(rows_of(path)) - 1 for path in files)
    last = max(int.from_bytes(key, "big") for key in rows_of(files[-1]))
    assert (
        report["events"]
        == report["last_sequence"]
        == last + blocks.header(rows_of(files[-1])[fmt.key_of(last)]).count - 1
    )
    assert report["conversations"] == 6
    assert report["state"] == f"equal to a replay up to {report['last_sequence']}"


def test_a_log_that_is_written_to_is_clean_at_every_look(tmp_path: Path) -> None:
    """From another process, while blocks come, segments roll and the state is saved: never a false alarm."""
    rig = EngineRig(tmp_path, segment_bytes=32 << 10, save_events_max=20, save_interval_s=0.01)
    rig.say(1, 1, 2)
    stop = threading.Event()

    def publish() -> None:
        counter = 1
        while not stop.wait(0.002):  # each look goes through all there is: what comes unhindered makes them ever longer
            counter += 1
            rig.ask(pack_proposal(1, 1, counter, 2 + counter % 5, "message", b"x" * 300, person=True))

    writer = threading.Thread(target=publish)
    writer.start()
    reports = []
    for _ in range(4):
        child = run_child(
            "import sys, json\nfrom pathlib import Path\nfrom engine.log.check import check_log\n"
            "print(json.dumps([check_log(Path(sys.argv[1])) for _ in range(5)]))",
            tmp_path,
        )
        assert child.returncode == 0, child.stderr
        reports += json.loads(child.stdout)
    stop.set()
    writer.join()
    assert [report["problems"] for report in reports] == [[]] * 20
    assert all(report["state"].startswith("equal to a replay up to") for report in reports)
    assert reports[-1]["last_sequence"] > reports[0]["last_sequence"]
    assert reports[-1]["segments"] > 1
    rig.close()


def test_a_trimmed_log_is_clean_and_compared_from_a_snapshot(broken: Broken) -> None:
    """What came before the first kept sequence is not missed; without a snapshot the state is just not compared."""
    for path in broken.files[:2]:
        path.unlink()
    report = check_log(broken.data)
    assert report["problems"] == []
    assert report["first_sequence"] == int(broken.files[2].stem)
    assert "no snapshot reaches" in report["state"]


# L1: bytes.


@pytest.mark.parametrize("offset", [0, 5, 74, 90])
def test_a_flipped_bit_of_a_record(broken: Broken, offset: int) -> None:
    """Its neighbours are judged as before, and what points to it is not called wrong."""
    place = broken.place()
    broken.flip(place, offset)
    broken.one_event(place, "L1", "the checksum of a record is wrong; 1 of its")


def test_a_flipped_bit_of_the_header(broken: Broken) -> None:
    """All records of the block can still be read, each by its own checksum."""
    place = broken.place()
    count = blocks.header(broken.rows(1)[place.key]).count
    broken.flip(place, -8 * count - 80 + 6)  # its flags
    broken.one_problem(
        "L1",
        f"the checksum of its header and offset table is wrong; 0 of its {count} events",
        segment=place.path.name,
        block=place.key,
        events=f"{place.key}–{place.key + count - 1}",
    )


def test_a_flipped_bit_of_the_table(broken: Broken) -> None:
    """The record whose checksum it was can't be believed."""
    place = broken.place()
    count, index = blocks.header(broken.rows(1)[place.key]).count, place.sequence - place.key
    broken.flip(place, -8 * (count - index) + 5)
    broken.one_event(place, "L1", f"the checksum of its header and offset table is wrong; 1 of its {count} events")


@pytest.mark.parametrize("size", [0, 50, 200])
def test_a_block_that_was_cut_short(broken: Broken, size: int) -> None:
    """None of its events can be read; those behind it miss them, and are right."""
    place = broken.place()
    count = blocks.header(broken.rows(1)[place.key]).count
    broken.change_block(place, lambda block: block[:size])
    broken.one_problem(
        "L1",
        f"{count} of its {count} events can't be read",
        segment=place.path.name,
        block=place.key,
        events=f"{place.key}–{place.key + count - 1}",
    )


def test_a_damaged_last_block(broken: Broken) -> None:
    """Nothing follows that would say how many events it had; the state that was saved behind it is not blamed."""
    rows = broken.rows(-1)
    key = max(rows)
    record = decode(list(blocks.records(rows[key]))[-1])
    place = Place(broken.files[-1], key, record.sequence, record)
    broken.flip(place, 80)
    broken.one_event(place, "L1", "the checksum of a record is wrong; 1 of its")
    broken.change_block(place, lambda block: block[:8] + b"\xff\xff" + block[10:])
    problems = broken.problems()
    assert [problem["problem"][:3] for problem in problems] == ["L1:"]


def test_two_faults_are_two_problems(broken: Broken) -> None:
    """Damage hides nothing that lies elsewhere, not even in the same block."""
    place = broken.place()
    broken.set_field(place, "previous", 0)
    broken.flip(place._replace(sequence=place.sequence + 1), 100)
    first, second = broken.problems()
    assert (first["problem"][:3], first["events"]) == ("L1:", str(place.sequence + 1))
    assert (second["problem"][:3], second["events"]) == ("L5:", str(place.sequence))


def test_what_follows_damage_is_not_excused_from_the_rest(broken: Broken) -> None:
    """L7: the event whose previous one can't be read is at the wrong time besides."""
    place = broken.place(lambda place: len(place.record.payload) > 100)
    follower = next(other for other in broken.events(1) if other.record.previous == place.sequence)
    broken.flip(place, 100)
    broken.set_field(follower, "time", follower.record.time - 3_600_000_000)
    found = [(row["problem"][:3], row["events"]) for row in broken.problems()]
    assert found == [("L1:", str(place.sequence)), ("L7:", str(follower.sequence))]


# L2, L3: order.


def test_a_block_under_another_key(broken: Broken) -> None:
    """L2: what it holds is right."""
    place = broken.place()
    key = fmt.key_of(place.key)
    rewrite(place.path, lambda rows: rows.update({fmt.key_of(place.key + 1): rows.pop(key)}))
    broken.one_problem(
        "L2",
        f"it begins with {place.key}",
        segment=place.path.name,
        block=place.key + 1,
        events=str(place.key),
    )


def test_another_block_in_its_place(broken: Broken) -> None:
    """L2: a copy of an older one."""
    place = broken.place()
    other = min(broken.rows(1))
    rewrite(place.path, lambda rows: rows.update({fmt.key_of(place.key): rows[fmt.key_of(other)]}))
    broken.one_problem("L2", f"it begins with {other}", segment=place.path.name, block=place.key, events=str(other))


def test_a_gap_inside_a_segment(broken: Broken) -> None:
    """L3: told at the block behind it, with the events that are missing."""
    place = broken.place()
    count = blocks.header(broken.rows(1)[place.key]).count
    rewrite(place.path, lambda rows: rows.pop(fmt.key_of(place.key)))
    broken.one_problem(
        "L3",
        f"the block before it ends with {place.key - 1}",
        segment=place.path.name,
        block=place.key + count,
        events=f"{place.key}–{place.key + count - 1}",
    )


def test_a_gap_at_the_end_of_a_segment(broken: Broken) -> None:
    """L3: told at the segment behind it."""
    key, following = max(broken.rows(1)), int(broken.files[2].stem)
    rewrite(broken.files[1], lambda rows: rows.pop(fmt.key_of(key)))
    broken.one_problem(
        "L3",
        f"the segment before it ends with {key - 1}",
        segment=broken.files[2].name,
        block=None,
        events=f"{key}–{following - 1}",
    )


def test_a_missing_segment(broken: Broken) -> None:
    """L3: one problem, however many events."""
    broken.files[2].unlink()
    begins, following = int(broken.files[2].stem), int(broken.files[3].stem)
    broken.one_problem(
        "L3",
        f"the segment before it ends with {begins - 1}",
        segment=broken.files[3].name,
        block=None,
        events=f"{begins}–{following - 1}",
    )


def test_events_that_are_there_twice(broken: Broken) -> None:
    """L3: a block once more, in the next segment's place."""
    key = max(broken.rows(1))
    extra = fmt.key_of(key + 1)
    rewrite(broken.files[1], lambda rows: rows.update({extra: rows[fmt.key_of(key)]}))
    problems = broken.problems()
    assert [problem["problem"][:3] for problem in problems] == ["L2:"]
    assert problems[0]["block"] == key + 1


def test_a_record_with_anothers_sequence(broken: Broken) -> None:
    """L3: all checksums right."""
    place = broken.place()
    broken.set_field(place, "sequence", place.sequence + 1)
    broken.one_event(place, "L3", "a record has another's sequence; 1 of its")


# L4: the chain of hashes.


def test_a_wrong_previous_hash(broken: Broken) -> None:
    """Told where it stands; the block behind it, which hashes the changed one, is not blamed."""
    place = broken.place()
    broken.set_header(place, 32, bytes(32))
    broken.one_problem(
        "L4",
        "does not name the hash of the block before it",
        segment=place.path.name,
        block=place.key,
        events="",
    )


def test_a_changed_payload_with_right_checksums(broken: Broken) -> None:
    """What checksums can't see the chain does: at the next block."""
    place = broken.place()
    keys = sorted(broken.rows(1))
    broken.change_block(place, with_another_end)
    broken.one_problem(
        "L4",
        "does not name the hash of the block before it",
        segment=place.path.name,
        block=keys[keys.index(place.key) + 1],
        events="",
    )


def with_another_end(block: bytes) -> bytes:
    """Another last byte of the last payload, with right checksums."""
    return mended(block[:-1] + bytes([block[-1] ^ 1]))


def test_a_changed_last_block_of_a_segment(broken: Broken) -> None:
    """L4 holds over segments: told at the next header, once."""
    key = max(broken.rows(1))
    record = decode(next(iter(blocks.records(broken.rows(1)[key]))))
    broken.change_block(Place(broken.files[1], key, key, record), with_another_end)
    broken.one_problem("L4", "its header does not name the hash", segment=broken.files[2].name, block=None, events="")


def test_a_segment_that_names_another_hash(broken: Broken) -> None:
    """L4: also the first one, which must name none."""
    for file in (0, 2):
        copy = Broken(broken.data, broken.data.parent / str(file))
        copy.set_segment(file, previous_hash=b"\x07" * 32)
        copy.one_problem(
            "L4", "its header does not name the hash", segment=copy.files[file].name, block=None, events=""
        )


# L5 to L8: events among each other.


@pytest.mark.parametrize(
    ("previous", "words"),
    [
        (lambda record: 0, "its previous is not the conversation's last event"),
        (lambda record: record.previous - 1, "its previous is not the conversation's last event"),
        (lambda record: record.sequence - 1, "its previous is no event of this conversation that the log holds"),
    ],
    ids=["none", "older", "another"],
)
def test_a_wrong_back_pointer(broken: Broken, previous: Callable[[Record], int], words: str) -> None:
    """L5: the events that follow in its conversation are right."""
    place = broken.place(lambda place: place.record.previous < place.sequence - 1)
    broken.set_field(place, "previous", previous(place.record))
    broken.one_event(place, "L5", words)


@pytest.mark.parametrize("step", [-1, 1, 1 << 40])
def test_a_wrong_conversation_sequence(broken: Broken, step: int) -> None:
    """L5."""
    place = broken.place()
    broken.set_field(place, "conversation_sequence", place.record.conversation_sequence + step)
    broken.one_event(place, "L5", "its conversation sequence is not one more than the last")


def test_conversation_sequences_that_go_on_wrongly(broken: Broken) -> None:
    """L5: a jump that all that follow agree with is told once."""
    place = broken.place()
    later = [
        other
        for file in range(1, len(broken.files))
        for other in broken.events(file)
        if other.record.conversation == place.record.conversation and other.sequence >= place.sequence
    ]
    for other in later:
        broken.set_field(other, "conversation_sequence", other.record.conversation_sequence + 7)
    found = [problem for problem in broken.problems() if problem["problem"].startswith("L5")]
    assert [problem["events"] for problem in found] == [str(place.sequence)]


def test_an_event_of_another_conversation(broken: Broken) -> None:
    """L5: neither that conversation's next event nor its own one's is blamed."""
    place = broken.place()
    others = {other.record.conversation for other in broken.events(1)} - {place.record.conversation}
    for conversation in sorted(others):
        copy = Broken(broken.data, broken.data.parent / str(conversation))
        copy.set_field(copy.place(), "conversation", conversation)
        problems = copy.problems()
        assert [(row["problem"][:3], row["events"]) for row in problems] == [("L5:", str(place.sequence))], problems


@pytest.mark.parametrize("conversation", [0, (1 << 40) + 1, 1 << 40])
def test_a_conversation_of_another_shard(broken: Broken, conversation: int) -> None:
    """L6: or of none."""
    place = broken.place()
    broken.set_field(place, "conversation", conversation)
    broken.one_event(place, "L6", "its conversation is not of this shard")


def test_time_that_runs_back(broken: Broken) -> None:
    """L7: told at the event whose time is too low."""
    place = broken.place()
    broken.set_field(place, "time", place.record.time - 3_600_000_000)
    broken.one_event(place, "L7", "its time is before the last event's")


def test_time_that_jumps_ahead(broken: Broken) -> None:
    """L7: told once, at the next event, and not at all that follow."""
    place = broken.place()
    broken.set_field(place, "time", place.record.time + 3_600_000_000)
    broken.one_event(place._replace(sequence=place.sequence + 1), "L7", "its time is before the last event's")


def test_a_counter_that_was_used_before(broken: Broken) -> None:
    """L8: with another event's counter of the same device."""
    place = broken.place()
    broken.set_field(place, "counter", place.record.counter - 1)
    broken.one_event(place, "L8", "its device has used this counter before")


def test_a_key_that_was_used_before(broken: Broken) -> None:
    """L8: with another event's key; the events behind it that go on with keys of their own are right."""
    first, second = broken.keyed(0), broken.keyed(2)
    broken.set_key(second, record_key(broken.record(first)))
    broken.one_event(second, "L8", "an event with its key is there already")


@pytest.mark.parametrize(("field", "value"), [("shard", 3), ("epoch", 2)])
def test_a_block_of_another_shard_or_epoch(broken: Broken, field: str, value: int) -> None:
    """L6: with right checksums."""
    place = broken.place()
    broken.set_header(place, {"shard": 24, "epoch": 28}[field], struct.pack("<I", value))
    broken.one_problem(
        "L6",
        "it is of shard 3 and epoch 1" if field == "shard" else "it is of shard 0 and epoch 2",
        segment=place.path.name,
        block=place.key,
        events="",
    )


@pytest.mark.parametrize("epochs", [(), ((2, 1),), ((1, 1), (1, 5)), ((1, 5), (2, 1))])
def test_a_list_of_epochs_that_does_not_go_on(broken: Broken, epochs: tuple[tuple[int, int], ...]) -> None:
    """L6: lists only grow."""
    broken.set_segment(2, epochs=epochs)
    broken.one_problem("L6", "its list of epochs does not go on", segment=broken.files[2].name, block=None, events="")


def test_a_segment_of_another_shard(broken: Broken) -> None:
    """L6."""
    broken.set_segment(2, shard=4)
    broken.one_problem("L6", "it is of shard 4", segment=broken.files[2].name, block=None, events="")


# Segments.


def _other(byte: int) -> bytes:
    return bytes([byte ^ 1])


def test_a_damaged_segment_header(broken: Broken) -> None:
    """L1: its blocks are judged all the same, also where it is the first."""
    for file in (0, 2):
        copy = Broken(broken.data, broken.data.parent / str(file))
        rewrite(copy.files[file], lambda rows: rows.update({b"\x00": rows[b"\x00"][:-1] + _other(rows[b"\x00"][-1])}))
        copy.one_problem("L1", "its checksum is wrong", segment=copy.files[file].name, block=None, events="")
        events = check_log(copy.data)["events"]
        assert events == check_log(broken.data)["events"]


@pytest.mark.parametrize("file", [0, 2, -1])
def test_a_segment_that_is_no_lmdb(broken: Broken, file: int) -> None:
    """L1: one problem, and what points into it is right."""
    broken.files[file].write_bytes(b"no LMDB" * 999)
    problems = broken.problems()
    assert problems[0]["problem"].startswith("L1: ")
    assert problems[0]["segment"] == broken.files[file].name
    # The events of the last segment are not there: the state that was saved behind them is ahead of what is.
    assert [row["problem"][:2] for row in problems[1:]] == (["L9"] if file == -1 else [])

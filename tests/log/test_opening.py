"""Opening: one writer, the right files, a whole tail; whatever is refused is named and left as it is (P7)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import lmdb
import pytest

from engine import errors
from engine.log import format as fmt
from engine.log.reader import Reader
from engine.log.segments import Segments
from engine.log.stat import stat_log
from engine.log.writer import Log
from ext import block as blocks
from ext.crc32c import crc32c
from tests.support.log_rig import (
    ROOT,
    SEGMENT_BYTES,
    Naive,
    hashes,
    only_reading,
    rewrite,
    rows_of,
    run_child,
    segment_files,
)
from tests.support.naive_block import mended

HOLDER = """
import sys
from pathlib import Path
from engine.log.writer import Log
log = Log.open(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
log.close()
"""


@pytest.fixture(name="naive")
def _naive(tmp_path: Path) -> Naive:
    """Three segments, closed."""
    naive = Naive(tmp_path / "data")
    naive.fill(3)
    naive.append()
    naive.close()
    return naive


def refused(naive: Naive, error: type[errors.EngineError], words: str, *, shard: int = 0) -> None:
    """Opening raises this, and changes no file, not even one that it would throw away."""
    (naive.path / "log" / f"{fmt.segment_name(1 << 40)}{fmt.MAKING_SUFFIX}").write_bytes(b"half")
    before = hashes(naive.path)
    for _ in range(2):  # and the lock was let go
        with pytest.raises(error, match=words) as raised:
            Log.open(naive.path, shard=shard, segment_bytes=SEGMENT_BYTES)
        assert type(raised.value) is error
    assert hashes(naive.path) == before


def put(rows: Mapping[bytes, bytes]) -> Callable[[dict[bytes, bytes]], object]:
    """Puts these rows over what is there."""
    return lambda now: now.update(rows)


def asks_for(sequence: int) -> list[Callable[[Reader], object]]:
    """The ways to ask for one event."""
    return [lambda reader: reader.record(sequence), lambda reader: reader.blocks_after(sequence - 1)]


# One writer.


def test_a_second_opener_is_told_who_has_it(naive: Naive) -> None:
    """In another process, by its process id; after that has gone, however, the log opens."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(naive.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    refused(naive, errors.LogInUse, f"in use by process {child.pid}")
    assert (naive.path / "log" / "lock").read_text() == f"{child.pid}\n"
    child.kill()
    child.communicate()
    naive.open()
    naive.append()
    naive.close()


def test_a_second_opener_in_the_same_process_too(naive: Naive) -> None:
    """And the first one goes on."""
    naive.open()
    with pytest.raises(errors.LogInUse, match=f"in use by process {os.getpid()}"):
        Log.open(naive.path)
    naive.append()
    naive.close()
    naive.open()
    assert naive.log.last_sequence == naive.chain.last
    naive.close()


# The right files.


def test_another_shards_log_is_refused(naive: Naive) -> None:
    """With the option to change."""
    refused(naive, errors.LogVersion, r"belongs to shard 0, not 2 \(set log\.shard = 0", shard=2)


def header_with(header: bytes, at: int, value: int) -> bytes:
    """A segment's header with another u16 somewhere and the right checksum."""
    body = header[:at] + value.to_bytes(2, "little") + header[at + 2 : -4]
    return body + crc32c(body).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("at", "words"),
    [(4, "has format 2 on LMDB engine 0"), (6, "has format 1 on LMDB engine 2")],
    ids=["format", "engine"],
)
def test_another_version_is_refused_by_writer_and_readers(naive: Naive, at: int, words: str) -> None:
    """Newest or not: no block of such a segment is believed."""
    first, *_, newest = segment_files(naive.path)
    for path in (newest, first):
        rows = rows_of(path)
        rewrite(path, put({b"\x00": header_with(rows[b"\x00"], at, 2)}))
        if path == newest:
            refused(naive, errors.LogVersion, words)
        segments, reader = only_reading(naive.path)
        for ask in asks_for(int(path.stem)):
            with pytest.raises(errors.LogVersion, match=words):
                ask(reader)
        segments.close()
        rewrite(path, put(rows))


def test_a_damaged_header_is_refused(naive: Naive) -> None:
    """By its checksum; and one that is missing or of another program."""
    path = segment_files(naive.path)[-1]
    header = rows_of(path)[b"\x00"]
    for bad, words in (
        (header[:24] + bytes([header[24] ^ 1]) + header[25:], "its checksum is wrong"),
        (header[:56] + b"\xff\xff\xff\xff" + header[60:], "its checksum is wrong"),
        (header[:40], "has no header"),
        (b"SOMETHING" * 10, "has no header"),
    ):
        rewrite(path, put({b"\x00": bad}))
        refused(naive, errors.LogDamaged, words)
    rewrite(path, lambda rows: rows.pop(b"\x00"))
    refused(naive, errors.LogDamaged, "has no header")


def test_a_header_without_an_epoch_is_refused(naive: Naive) -> None:
    """There is none for the next block."""
    path = segment_files(naive.path)[-1]
    header = fmt.unpack_header(rows_of(path)[b"\x00"], path, 0)
    rewrite(path, put({b"\x00": fmt.pack_header(header._replace(epochs=()))}))
    refused(naive, errors.LogDamaged, "names no epoch")


def test_a_file_of_the_other_lmdb_is_refused_by_version(naive: Naive) -> None:
    """The files of 1.0 and 0.9 are mutually unreadable: that is no damage, and restarting with the other helps."""
    for path in (segment_files(naive.path)[-1], segment_files(naive.path)[0]):
        kept = path.read_bytes()
        path.unlink()
        with lmdb.open(str(path), subdir=False, lib_version=1) as env, env.begin(write=True) as txn:
            txn.put(b"\x00", b"header")
        segments, reader = only_reading(naive.path)
        with pytest.raises(errors.LogVersion, match="another engine of LMDB"):
            reader.record(int(path.stem))
        segments.close()
        if path == segment_files(naive.path)[-1]:
            refused(naive, errors.LogVersion, "another engine of LMDB")
        path.write_bytes(kept)


@pytest.mark.parametrize("content", [b"", b"no LMDB" * 2_000, b"short"], ids=["empty", "text", "short"])
def test_a_file_that_is_no_lmdb_is_refused(naive: Naive, content: bytes) -> None:
    """Also an empty one, which LMDB would take for a new environment and fill."""
    path = segment_files(naive.path)[-1]
    path.write_bytes(content)
    refused(naive, errors.LogDamaged, "is an empty file" if not content else "can't be opened")


def test_a_renamed_segment_is_refused(naive: Naive) -> None:
    """Its header knows its name."""
    path = segment_files(naive.path)[-1]
    path.rename(path.with_name(fmt.segment_name(int(path.stem) + 1)))
    refused(naive, errors.LogDamaged, "the file was renamed")
    path.with_name(fmt.segment_name(int(path.stem) + 1)).rename(path)
    first = segment_files(naive.path)[0]
    first.rename(first.with_name(fmt.segment_name(2)))
    segments, reader = only_reading(naive.path)
    with pytest.raises(errors.LogDamaged, match="the file was renamed"):
        reader.blocks_after(2)
    segments.close()


def test_other_names_are_not_segments(naive: Naive) -> None:
    """Nor touched."""
    folder = naive.path / "log"
    names = ["1.lmdb", "00000000000000000001.lmdb.bak", "x" * 20 + ".lmdb", "notes.new", "²" * 20 + ".lmdb"]
    for name in names:
        (folder / name).write_bytes(b"mine")
    naive.open()
    naive.append()
    naive.close()
    assert all((folder / name).read_bytes() == b"mine" for name in names)


# The tail.


def test_the_segment_before_the_newest_must_end_where_that_begins(naive: Naive) -> None:
    """L3: one that is missing between, or a newest one without what came before."""
    first, middle, newest = segment_files(naive.path)
    kept = middle.read_bytes()
    middle.unlink()
    refused(naive, errors.LogDamaged, f"{newest.name} begins with {int(newest.stem)}, but {first.name} ends with")
    segments, reader = only_reading(naive.path)
    assert reader.record(int(newest.stem)) == naive.chain.record(int(newest.stem))
    for ask in asks_for(int(middle.stem)):
        with pytest.raises(errors.LogDamaged):
            ask(reader)
    with pytest.raises(errors.LogDamaged, match="ends before sequence"):
        reader.blocks_after(int(middle.stem) - 1)
    assert reader.stretch(int(middle.stem))[1] == int(newest.stem)
    segments.close()
    middle.write_bytes(kept)
    rewrite(middle, lambda rows: [rows.pop(key) for key in list(rows) if key != b"\x00"])
    refused(naive, errors.LogDamaged, "ends with nowhere")


def test_the_hash_chain_must_hold_between_the_last_segments(naive: Naive) -> None:
    """L4: the block before the newest segment is another than its header names."""
    path = segment_files(naive.path)[-2]
    key = max(rows_of(path))
    block = rows_of(path)[key]
    rewrite(path, put({key: mended(block[:-1] + bytes([block[-1] ^ 1]))}))
    refused(naive, errors.LogDamaged, "the hash chain is broken between segments")


def flip(block: bytes, at: int) -> bytes:
    """One bit."""
    return block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]


@pytest.mark.parametrize("at", [0, 4, 8, 9, 16, 40, 76, 81, 85, 200, -1])
def test_a_damaged_last_block_is_reported_and_left_alone(naive: Naive, at: int) -> None:
    """It may have had receipts. Readers don't take a damaged header for the end of the log either."""
    path = segment_files(naive.path)[-1]
    key = max(rows_of(path))
    bad = flip(rows_of(path)[key], at if at >= 0 else len(rows_of(path)[key]) - 1)
    rewrite(path, put({key: bad}))
    refused(naive, errors.LogDamaged, f"segment {path.name}, block {int.from_bytes(key, 'big')}, event")
    segments, reader = only_reading(naive.path)
    last = naive.chain.last
    with pytest.raises(errors.LogDamaged, match=path.name):
        reader.blocks_after(last - 1)
    if at < 0:  # the record with its own checksum
        with pytest.raises(errors.RecordDamaged):
            reader.record(last)
        assert reader.record(last - 1) == naive.chain.record(last - 1)
    if 0 <= at < 80 and at != 76:
        with pytest.raises(errors.LogDamaged):
            reader.last_sequence()
    segments.close()


@pytest.mark.parametrize("size", [0, 1, 79, 80])
def test_a_last_block_that_was_cut_short_is_damage(naive: Naive, size: int) -> None:
    """However short: an error of ours, not of a struct."""
    path = segment_files(naive.path)[-1]
    rewrite(path, lambda rows: rows.update({max(rows): rows[max(rows)][:size]}))
    refused(naive, errors.LogDamaged, "its size is not what its header says")
    segments, reader = only_reading(naive.path)
    asks = asks_for(naive.chain.last)
    asks += [lambda reader: reader.last_sequence(), lambda reader: reader.walk(naive.chain.last, 1, 0, 1)]
    for ask in asks:
        with pytest.raises(errors.LogDamaged):
            ask(reader)
    segments.close()


def test_a_last_block_under_another_key_or_of_another_shard_is_damage(naive: Naive) -> None:
    """L2, L6."""
    path = segment_files(naive.path)[-1]
    rows = rows_of(path)
    key = max(rows)
    other = (int.from_bytes(key, "big") + 1).to_bytes(8, "big")
    rewrite(path, lambda now: now.update({other: now.pop(key)}))
    refused(naive, errors.LogDamaged, f"begins with {int.from_bytes(key, 'big')}")
    shard = mended(rows[key][:24] + b"\x05" + rows[key][25:])
    rewrite(path, lambda now: now.update({key: (now.pop(other), shard)[1]}))
    refused(naive, errors.LogDamaged, "it is of shard 5")
    rewrite(path, put({key: rows[key], b"\xff" * 9: b"what is this"}))
    refused(naive, errors.LogDamaged, path.name)


def test_readers_do_not_believe_a_key_either(naive: Naive) -> None:
    """L2: where a block lies is not where it belongs."""
    path = segment_files(naive.path)[0]
    key = sorted(rows_of(path))[3]
    sequence = int.from_bytes(key, "big")
    other = (sequence + 1).to_bytes(8, "big")
    rewrite(path, lambda now: now.update({other: now.pop(key)}))
    segments, reader = only_reading(naive.path)
    with pytest.raises(errors.LogDamaged, match=f"block {sequence + 1}: it says that it begins with {sequence}"):
        reader.blocks_after(sequence)
    with pytest.raises(errors.LogDamaged):
        reader.blocks_after(sequence - 1)
    assert reader.record(sequence + 1) == naive.chain.record(sequence + 1)  # a record has its own checksum and number
    segments.close()


# What a crash can leave.


def test_a_segment_in_the_making_is_thrown_away(naive: Naive) -> None:
    """It has no name yet, hence no block; a half-written one too, and also where there is no other."""
    folder = naive.path / "log"
    left = [folder / f"{fmt.segment_name(naive.chain.last + 1)}.new", folder / f"{fmt.segment_name(9)}.new-lock"]
    for path in left:
        path.write_bytes(b"half")
    naive.open()
    assert not any(path.exists() for path in left)
    naive.fill(5)
    naive.close()
    fresh = Naive(naive.path.parent / "fresh")
    fresh.close()
    (fresh.path / "log" / fmt.segment_name(1)).rename(fresh.path / "log" / f"{fmt.segment_name(1)}.new")
    fresh.open()
    fresh.append()
    fresh.close()


def test_a_newest_segment_without_a_block_goes_on(naive: Naive) -> None:
    """A crash after the roll, before its first block: it gets it now, and the chain holds over it."""
    last = naive.chain.last
    naive.open()
    naive.log._segment_bytes = 1
    head = blocks.header(naive.chain.block([(1, b"x")]))
    naive.log._roll(head)
    naive.close()
    naive.open()
    assert naive.log.last_sequence == last
    assert naive.log.last_hash == head.previous_hash
    assert naive.log.reader().blocks_after(last) == []
    assert naive.log.reader().record(last) == naive.chain.record(last)
    assert naive.log.reader().record(last + 1) is None
    assert stat_log_in_child(naive.path)["last_sequence"] == last
    naive.log.append(naive.chain.blocks[-1])
    naive.append()
    assert naive.log.reader().blocks_after(0, 1 << 30) == naive.chain.blocks
    naive.close()
    assert stat_log(naive.path)["last_sequence"] == naive.chain.last


def stat_log_in_child(data: Path) -> dict[str, object]:
    """What another process says while we have it open."""
    run = run_child(
        "import sys, json\nfrom pathlib import Path\nfrom engine.log.stat import stat_log\n"
        "print(json.dumps(stat_log(Path(sys.argv[1]))))",
        data,
    )
    found: dict[str, object] = json.loads(run.stdout)
    return found


def test_an_empty_newest_segment_behind_a_longer_one_is_damage(naive: Naive) -> None:
    """It goes on only if the one before ends just below it."""
    naive.open()
    newest = segment_files(naive.path)[-1]
    naive.close()
    path = newest.with_name(fmt.segment_name(naive.chain.last))  # one too low
    header = fmt.SegmentHeader(0, naive.chain.last, naive.chain.hash, ((1, 1),))
    with lmdb.open(str(path), subdir=False, map_size=1 << 20, lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"\x00", fmt.pack_header(header))
    refused(naive, errors.LogDamaged, f"{path.name} begins with {naive.chain.last}, but {newest.name} ends with")


def test_the_epochs_of_the_newest_segment_are_the_logs(tmp_path: Path) -> None:
    """New events get the last one of its list."""
    naive = Naive(tmp_path)
    naive.close()
    path = segment_files(tmp_path)[0]
    header = fmt.SegmentHeader(0, 1, bytes(32), ((1, 1), (4, 1)))
    rewrite(path, put({b"\x00": fmt.pack_header(header)}))
    naive.open()
    assert (naive.log.epochs, naive.log.epoch) == ([(1, 1), (4, 1)], 4)
    with pytest.raises(errors.BadArgument, match="epoch 4"):
        naive.append()
    naive.close()


def test_reading_a_directory_without_a_log_is_an_argument(tmp_path: Path) -> None:
    """For the verbs: nothing is made there."""
    with pytest.raises(errors.BadArgument, match="holds no log"):
        stat_log(tmp_path)
    (tmp_path / "log").mkdir()
    with pytest.raises(errors.BadArgument, match="holds no segment"):
        stat_log(tmp_path)
    assert not list((tmp_path / "log").iterdir())


def test_a_reader_is_a_look_at_the_segments(naive: Naive) -> None:
    """L3: a hole in the middle of a segment is damage, never the end, and both sides of it are served."""
    path = segment_files(naive.path)[0]
    keys = sorted(rows_of(path))
    gone = keys[2]
    rewrite(path, lambda rows: rows.pop(gone))
    segments, reader = only_reading(naive.path)
    assert isinstance(segments, Segments)
    assert isinstance(reader, Reader)
    sequence, following = int.from_bytes(gone, "big"), int.from_bytes(keys[3], "big")
    with pytest.raises(errors.RecordDamaged, match=f"no block holds sequence {sequence}"):
        reader.record(sequence)
    with pytest.raises(errors.LogDamaged, match=f"does not hold sequence {sequence}"):
        reader.blocks_after(sequence - 1)
    before = reader.blocks_after(0, 1 << 30)
    assert before == naive.chain.blocks_after(0, 1 << 30)[: len(before)]
    assert b"".join(before).endswith(naive.chain.record(sequence - 1))
    assert reader.stretch(sequence)[1] == following
    assert reader.record(sequence - 1) == naive.chain.record(sequence - 1)
    assert reader.blocks_after(following - 1, 1)[0] == naive.chain.blocks_after(following - 1, 1)[0]
    segments.close()

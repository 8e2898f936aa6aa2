"""P7: a damaged range is named and passed over, the rest is served, nothing is deleted and nothing is invented.

Each way of damage is done to one segment of a log in which everything has happened; then an engine opens it, every
member pages through all their history, and dump and read give every other event.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import history
from engine.backlog import sequence_of
from engine.errors import LogDamaged
from engine.log.acts import forget_act, noted_acts
from engine.log.check import check_log
from engine.log.dump import dump_log
from engine.log.read import read_log
from engine.log.stat import stat_log
from engine.log.structure import TRANSACTION_AT
from engine.readers import Again
from tests.support.engine_rig import EngineRig
from tests.support.healthy_log import SEGMENT_BYTES, USERS, make
from tests.support.log_rig import hashes, only_reading, rows_of, segment_files

PAGE = 4096
Pages = dict[tuple[int, int], list[int]]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once."""
    data = tmp_path_factory.mktemp("healthy") / "data"
    make(data)
    return data


def flip(path: Path, at: int) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def flip_in_block(path: Path, place: int, at: int) -> None:
    """One bit of a block of a segment, also in the copies that free pages still hold."""
    rows = rows_of(path)
    block = rows[sorted(rows)[place]]
    at %= len(block)
    data = path.read_bytes()
    path.write_bytes(data.replace(block, block[:at] + bytes([block[at] ^ 4]) + block[at + 1 :]))


def one_record(path: Path) -> None:
    """In the middle of a block."""
    flip_in_block(path, 5, -3)


def last_record(path: Path) -> None:
    """The one that the next segment goes on from."""
    flip_in_block(path, -1, -3)


def block_header(path: Path) -> None:
    """Its count of records."""
    flip_in_block(path, 5, 8)


def block_sequence(path: Path) -> None:
    """What the block says that it begins with."""
    flip_in_block(path, 5, 16)


def tree_page(path: Path) -> None:
    """The kind of the root page."""
    data = path.read_bytes()
    numbers = [int.from_bytes(data[PAGE * p + TRANSACTION_AT :][:8], "little") for p in (0, 1)]
    root = int.from_bytes(data[PAGE * numbers.index(max(numbers)) + 128 :][:8], "little")
    flip(path, PAGE * root + 10)


def meta_page(path: Path) -> None:
    """LMDB's magic."""
    flip(path, 16)


def segment_header(path: Path) -> None:
    """Of which shard it is, also in the copies that free pages still hold."""
    header = rows_of(path)[b"\x00"]
    path.write_bytes(path.read_bytes().replace(header, header[:8] + bytes([header[8] ^ 4]) + header[9:]))


def paged(rig: EngineRig, limit: int) -> tuple[Pages, bool]:
    """Everything that everybody can page back to, and whether a page said that there is damage."""
    found: Pages = {}
    reader, view, is_damaged = rig.engine.log.reader(), rig.engine.view(), False
    for user in range(1, USERS + 1):
        for membership in view.memberships(user):
            got: list[int] = []
            before: int | None = None
            for _ in range(10_000):
                question = history.ask(view, user, membership.conversation, before, limit)
                assert question is not None
                page = history.read(reader, question)
                while isinstance(page, Again):
                    page = page.job(reader)
                page = history.finish(view, page)
                got += [sequence_of(record) for record in page.events]
                is_damaged |= page.damaged
                before = page.next
                if before is None:
                    break
            found[user, membership.conversation] = got
    return found, is_damaged


def lost_events(data: Path, last: int) -> list[int]:
    """Those that nobody can read one by one."""
    segments, reader = only_reading(data)
    lost = []
    for sequence in range(1, last + 1):
        try:
            assert reader.record(sequence) is not None
        except LogDamaged:
            lost.append(sequence)
    segments.close()
    return lost


WAYS = [one_record, last_record, block_header, block_sequence, tree_page, meta_page, segment_header]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [3, 100])
def test_the_rest_is_served(healthy: Path, tmp_path: Path, way: Callable[[Path], None], limit: int) -> None:
    """Paging ends where it ends without damage; what can't be had is what can't be read, and it is said."""
    data = tmp_path / "data"
    shutil.copytree(healthy, data)
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    whole, _ = paged(rig, limit)
    last = rig.engine.log.last_sequence
    rig.close()
    way(segment_files(data)[1])
    before = hashes(data)
    lost = set(lost_events(data, last))
    problems = check_log(data)["problems"]
    assert problems and 0 < len(lost) < last
    assert {problem["segment"] for problem in problems} == {segment_files(data)[1].name}
    rig.open()
    found, is_damaged = paged(rig, limit)
    stats = rig.engine.stats()
    assert stats["damage_places"] > 0 and stats["damage_reads"] > 0
    assert is_damaged
    assert found == {key: [one for one in sequences if one not in lost] for key, sequences in whole.items()}
    assert rig.say(1, 1_000, 2, origin=1).sequence > last
    rig.engine.close()
    assert hashes(data)[f"log/{segment_files(data)[1].name}"] == before[f"log/{segment_files(data)[1].name}"]


@pytest.mark.parametrize("way", WAYS)
def test_dump_and_read_say_what_is_damaged(healthy: Path, tmp_path: Path, way: Callable[[Path], None]) -> None:
    """A line for each event, in order; of the damaged ones that and why."""
    data, out = tmp_path / "data", io.BytesIO()
    shutil.copytree(healthy, data)
    dump_log(data, out)
    whole = out.getvalue().splitlines()
    way(segment_files(data)[1])
    lost = set(lost_events(data, len(whole)))
    out = io.BytesIO()
    report = dump_log(data, out)
    assert (report["events"], report["damaged"]) == (len(whole) - len(lost), len(lost))
    lines = out.getvalue().splitlines()
    assert len(lines) == len(whole)
    half = tmp_path / "half"  # cut short behind any line, and gone on with
    for kept in (lines[: min(lost)], lines[: max(lost)]):
        half.write_bytes(b"\n".join([*kept, b'{"sha']))
        dump_log(data, half)
        assert half.read_bytes() == out.getvalue()
    assert [row["segment"] for row in stat_log(data)["segments"]] == [path.name for path in segment_files(data)]
    for sequence, (line, line_before) in enumerate(zip(lines, whole, strict=True), 1):
        if sequence in lost:
            told = json.loads(line)
            assert told["sequence"] == sequence and told["damaged"]
        else:
            assert line == line_before
    rows = list(read_log(data, 1, 1 << 20))
    assert [row["sequence"] for row in rows] == list(range(1, len(whole) + 1))
    assert {row["sequence"] for row in rows if "damaged" in row} == lost


def test_a_state_behind_the_damage_is_not_folded_over_it(healthy: Path, tmp_path: Path) -> None:
    """What follows would rest on what is missing: refused, in words that say what to do; nothing is changed."""
    data = tmp_path / "data"
    shutil.copytree(healthy, data)
    one_record(segment_files(data)[1])
    shutil.rmtree(data / "state")
    with pytest.raises(LogDamaged, match=r"saved at \d+, and what follows can't be folded .* restore a backup"):
        EngineRig(data, segment_bytes=SEGMENT_BYTES)


def test_a_damaged_end_stops_the_writer_and_serves_the_rest(healthy: Path, tmp_path: Path) -> None:
    """It may have had receipts: nothing is appended behind it, nothing is cut off."""
    data = tmp_path / "data"
    shutil.copytree(healthy, data)
    path = segment_files(data)[-1]
    last_record(path)
    before = hashes(data)
    with pytest.raises(LogDamaged):
        EngineRig(data, segment_bytes=SEGMENT_BYTES)
    out = io.BytesIO()
    with pytest.raises(LogDamaged):
        dump_log(data, out)
    assert json.loads(out.getvalue().splitlines()[-1])["sequence"] >= int(path.stem) - 1
    rows = list(read_log(data, 1, 1 << 20))
    assert "damaged" in rows[-1] and "damaged" not in rows[-2]
    forget_act(*noted_acts(data))
    assert hashes(data) == before

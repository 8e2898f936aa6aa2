"""`gonets log trim`: how far it goes, who holds it, what it leaves when it is killed, and what others notice."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import BadArgument, EngineUnable, LogDamaged, Trimmed
from engine.log.check import check_log
from engine.log.files import locked
from engine.log.readers import forget_reader, note_reader, pinned, readers
from engine.log.trim import Wanted, trim_log
from tests.support.engine_rig import EngineRig
from tests.support.grown_log import SEGMENT_BYTES, firsts, grow
from tests.support.killed import Killer, copy
from tests.support.log_rig import ROOT, hashes, only_reading

ALL = Wanted(keep_bytes=1)


@pytest.fixture(name="log", scope="module")
def _log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: snapshots at two thirds and at the end."""
    data = tmp_path_factory.mktemp("trim") / "data"
    for _ in range(2):
        grow(data, 250, snapshot=True)
    grow(data, 150)
    return data


@pytest.fixture(name="data")
def _data(log: Path, tmp_path: Path) -> Path:
    """A copy."""
    return copy(log, tmp_path / "data")


def trim(data: Path, wanted: Wanted = ALL, *, dry_run: bool = False, force: bool = False) -> list[int]:
    """Trims; the first sequences of what went."""
    report = trim_log(data, wanted, dry_run=dry_run, force=force)
    assert report["first_sequence"] == (firsts(data)[0] if not dry_run else report["first_sequence"])
    return [row["first_sequence"] for row in report["removed"]]


def positions(data: Path) -> list[int]:
    """Of the snapshots."""
    return sorted(int(path.name) for path in (data / "snapshots").iterdir())


def test_only_whole_segments_below_the_older_snapshot(data: Path) -> None:
    """Those whose last event it has; the log opens without its state, and is clean."""
    before, older = firsts(data), positions(data)[0]
    expected = [first for first, following in itertools.pairwise(before) if following <= older + 1]
    assert expected
    was = hashes(data)
    assert trim(data, dry_run=True) == expected
    assert hashes(data) == was
    assert trim(data) == expected
    assert firsts(data) == before[len(expected) :]
    assert not list((data / "log").glob("*lock")) or firsts(data)[0] <= min(
        int(path.name[:20]) for path in (data / "log").glob("*.lmdb-lock")
    )
    assert check_log(data)["problems"] == []
    assert trim(data) == []
    for path in (data / "state").iterdir():
        path.unlink()
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    rig.close()


@pytest.mark.parametrize("lacking", ["none", "one", "damaged", "of the future"])
def test_without_two_good_snapshots_nothing_goes(data: Path, lacking: str) -> None:
    """A hash that is wrong is no snapshot."""
    older, newer = (data / "snapshots" / f"{position:020d}" for position in positions(data))
    if lacking == "none":
        for path in (older, newer):
            path.rename(path.with_name(path.name + ".new"))
    elif lacking == "one":
        newer.rename(newer.with_name(newer.name + ".new"))
    elif lacking == "damaged":
        with (older / "data.mdb").open("r+b") as file:
            file.seek(5_000)
            file.write(b"\xff\x00\xff")
    else:
        newer.rename(newer.with_name(f"{10**9:020d}"))
    report = trim_log(data, ALL, dry_run=False, force=True)
    assert report["removed"] == []
    assert "2 verified snapshots are needed" in report["held_by"][0]


def test_below_a_sequence_is_all_or_nothing(data: Path) -> None:
    """What may not go is refused with the reason; what may goes as far as whole segments reach."""
    before, older = firsts(data), positions(data)[0]
    with pytest.raises(BadArgument, match=f"only what is below {older + 1} may go: the older of the two newest"):
        trim(data, Wanted(below=older + 2))
    assert firsts(data) == before
    assert trim(data, Wanted(below=before[2] + 1)) == before[:2]
    for wanted in (Wanted(), Wanted(below=-1), Wanted(keep_bytes=-1), Wanted(keep_days=-1.0), Wanted(below=2**53)):
        with pytest.raises(BadArgument):
            trim(data, wanted)


def test_by_size_and_age(data: Path) -> None:
    """Never fewer bytes than asked; nothing younger than asked."""
    before = firsts(data)
    sizes = {first: (data / "log" / f"{first:020d}.lmdb").stat().st_size for first in before}
    keep = sum(sizes.values()) - sizes[before[0]] - sizes[before[1]] - 1
    assert trim(data, Wanted(keep_bytes=keep), dry_run=True) == before[:2]
    assert trim(data, Wanted(keep_bytes=keep + 2), dry_run=True) == before[:1]
    assert trim(data, Wanted(keep_days=1), dry_run=True) == []
    assert len(trim(data, Wanted(keep_days=1e-9), dry_run=True)) > 2
    assert len(trim(data, Wanted(keep_days=1, keep_bytes=keep), dry_run=True)) == 2


def test_what_a_durable_reader_needs_stays_unless_forced(data: Path) -> None:
    """P7: asked before it goes; an entry that can't be read needs everything."""
    before = firsts(data)
    note_reader(data, "mail-gateway", "subscription", before[2] - 1, "mail")
    note_reader(data, "mail-gateway", "subscription", before[2] + 5, "mail")
    report = trim_log(data, ALL, dry_run=True, force=False)
    assert [row["first_sequence"] for row in report["removed"]] == before[:2]
    assert "subscription mail-gateway (mail)" in report["held_by"][0]
    (data / "readers" / "half.json").write_text('{"name": "half"')
    assert trim(data, dry_run=True) == []
    with pytest.raises(BadArgument, match=r"half.*can't be read"):
        trim(data, Wanted(below=before[1]))
    forget_reader(data, "half")
    with pytest.raises(BadArgument, match="known: mail-gateway"):
        forget_reader(data, "half")
    assert len(trim(data, dry_run=True, force=True)) > 2
    assert trim(data) == before[:2]
    assert len(trim(data, force=True)) >= 1


def test_a_process_that_reads_is_asked_while_it_lives(data: Path) -> None:
    """Its pin holds; killed, the pin is known to be nobody's."""
    before = firsts(data)
    code = (
        "import sys, time; from pathlib import Path; from engine.log.readers import pinned\n"
        "with pinned(Path(sys.argv[1]), 'dump', int(sys.argv[2])): print('pinned', flush=True); time.sleep(50)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(data), str(before[1] - 1)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "pinned\n"
        assert trim(data, dry_run=True) == before[:1]
        assert [row.kind for row in readers(data)] == ["dump"]
        process.kill()
    assert readers(data) == []
    with pinned(data, "check"):
        assert trim(data, dry_run=True) == []
    assert len(trim(data)) > 1
    assert [path.name for path in (data / "readers").iterdir() if "lock" not in path.name] == []


def test_one_at_a_time(data: Path) -> None:
    """The second is told so at once."""
    (data / "readers").mkdir(exist_ok=True)
    with locked(data / "readers" / "trim-lock"):
        with pytest.raises(EngineUnable, match="another process is trimming"):
            trim(data)


def test_readers_elsewhere_are_told_trimmed_and_never_damaged(data: Path, killer: Killer) -> None:
    """Open maps stay valid until the reader looks; what has to be opened is Trimmed; a file that lacks in the middle
    is still damage."""
    before = firsts(data)
    segments, reader = only_reading(data)
    assert reader.record(1) is not None
    assert not killer.run("trim", data, data, 2 * 10**6)  # in another process
    gone = [first for first in before if first < firsts(data)[0]]
    assert len(gone) > 2
    assert reader.record(1) is not None  # its map is still there
    with pytest.raises(Trimmed, match=f"the log begins at {before[len(gone)]}"):
        reader.record(gone[-1])
    assert reader.first_sequence == before[len(gone)]
    with pytest.raises(Trimmed):
        reader.blocks_after(0)
    with pytest.raises(Trimmed):
        reader.walk(gone[-1], 1, 0, 10)
    with pytest.raises(Trimmed):
        reader.record(1)
    held = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [name for name in held if str(data) in name and name.endswith(".lmdb (deleted)")]
    kept = firsts(data)
    (data / "log" / f"{kept[1]:020d}.lmdb").unlink()
    with pytest.raises(LogDamaged):
        reader.record(kept[1])
    segments.close()


def test_the_writers_own_process_gives_the_space_back(data: Path, killer: Killer) -> None:
    """It keeps writing; what it had open is closed at the next look."""
    rig = EngineRig(data, segment_bytes=SEGMENT_BYTES)
    reader = rig.engine.log.reader()
    assert reader.record(1) is not None
    assert not killer.run("trim", data, data, 2 * 10**6)
    rig.engine.second()
    assert reader.first_sequence == firsts(data)[0]
    with pytest.raises(Trimmed):
        reader.record(1)
    held = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [name for name in held if str(data) in name and name.endswith(".lmdb (deleted)")]
    assert rig.say(7, 1, 8).status == 0
    rig.close()


def test_killed_at_any_step_the_log_is_a_shorter_one(log: Path, tmp_path: Path, killer: Killer) -> None:
    """Never a hole, nothing above the limit gone; the same command ends it."""
    steps = random.Random(4).sample(range(60), 60)
    before, ends, looked_at = firsts(log), 0, 0
    whole = copy(log, tmp_path / "whole")
    expected = before[len(trim(whole)) :]
    for moment in steps:
        data = copy(log, tmp_path / "data")
        if not killer.run("trim", data, data, moment):
            ends += 1
        kept = firsts(data)
        assert kept == before[len(before) - len(kept) :], f"moment {moment}"
        assert len(kept) >= len(expected)
        if moment % 6 == 0:
            assert check_log(data)["problems"] == [], f"moment {moment}"
            looked_at += 1
        trim(data)
        assert firsts(data) == expected
        locks = [int(path.name[:20]) for path in (data / "log").glob("*.lmdb-lock")]
        assert not [first for first in locks if first < expected[0]], f"moment {moment}"
    assert 0 < ends < len(steps)
    assert looked_at

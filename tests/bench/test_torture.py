"""Power cuts and kill -9 at every named step: what had a receipt is there, and the log is whole."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from bench.faultdisk import Entry, Kind, Machine, NoCompiler
from bench.torture.run import TROUBLES, run, torture
from bench.torture.steps import steps


def tortured(cuts: int, kills: int) -> Counter[str]:
    """Of one seed; at full size: `gonets bench torture`."""
    try:
        return run(cuts, kills, 7)
    except NoCompiler as error:
        pytest.skip(str(error))


def test_power_cuts() -> None:
    """Of journals with failed syncs and kills in them. L10: a sync that failed is never believed later."""
    counts = tortured(200, 0)
    assert counts["cuts"] == 200 and counts["receipts looked for"] > 10_000
    assert counts["backups restored"] > 50 and counts["unfinished backups refused"] > 0
    assert not [trouble for trouble in TROUBLES if not counts[f"journals with {trouble.name}"]]


def test_kills_at_every_step() -> None:
    """Each kill hits its step."""
    counts = tortured(0, 200)
    assert counts["kills"] == 200 and counts["receipts looked for"] > 5_000
    assert counts["backups restored"] > 50 and counts["unfinished backups refused"] > 0
    assert not [name for name in steps() if not counts[f"killed at {name}"]]


def entry(kind: Kind, path: str, at: int = 0, data: bytes = b"", error: int = 0) -> Entry:
    """One call about the one file."""
    return Entry(kind, error, 1, at, 0, path, data)


def outcomes(tmp_path: Path, *entries: Entry) -> set[bytes | None]:
    """What a cut may leave of the file `a`, over many chances."""
    machine, found = Machine(), set[bytes | None]()
    for one in entries:
        machine.feed(one)
    for seed in range(100):
        target = tmp_path / str(seed)
        target.mkdir()
        machine.cut(random.Random(seed), target)
        found.add((target / "a").read_bytes() if (target / "a").exists() else None)
    return found


def test_only_what_was_synced_is_sure(tmp_path: Path) -> None:
    """Bytes by the file's sync, the name by the directory's."""
    calls = [entry(Kind.OPEN, "a"), entry(Kind.WRITE, "a", data=b"x" * 8)]
    for number, (more, expected) in enumerate(
        [
            ([], {None, b"", b"x" * 8}),
            ([entry(Kind.SYNC, "a")], {None, b"x" * 8}),
            ([entry(Kind.SYNC, "a"), entry(Kind.DIRECTORY, ".")], {b"x" * 8}),
        ],
        1,
    ):
        (tmp_path / str(number)).mkdir()
        assert outcomes(tmp_path / str(number), *calls, *more) == expected


def test_a_later_sync_says_nothing_of_what_an_earlier_one_failed_with(tmp_path: Path) -> None:
    """The kernel has marked the pages clean; and a self-syncing write is sure by itself."""
    named = [entry(Kind.OPEN, "a"), entry(Kind.DIRECTORY, ".")]
    failed = [entry(Kind.WRITE, "a", data=b"x"), entry(Kind.SYNC, "a", error=5), entry(Kind.SYNC, "a")]
    (tmp_path / "1").mkdir()
    assert outcomes(tmp_path / "1", *named, *failed) == {b"", b"x"}
    (tmp_path / "2").mkdir()
    assert outcomes(tmp_path / "2", *named, *failed, entry(Kind.META, "a", data=b"y")) == {b"y"}


def test_looking_at_nothing_is_no_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        torture(cuts=0, kills=0)
    assert ended.value.code == 1
    assert "--cuts 0" in (said := capsys.readouterr().err) and "--kills 0" in said and "above 0" in said

"""Bit flips: 2,000 seeded ones in a small log and some in a large one; and that the judge tells what is wrong.

Every bit in turn: `gonets bench flips --every-bit`.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.flips import judge
from bench.flips.judge import Flip, outcomes
from bench.flips.made import Made, small
from bench.flips.proof import REASONS, Proof
from bench.flips.run import MEMORY, Bits, flips, run
from engine.log import check, structure
from engine.log.check import check_log
from engine.log.structure import TRANSACTION_AT
from tests.support.log_rig import rows_of

PAGE = 4096


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is room: what is synced here need not last."""
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gonets-flips-", dir=memory) as name:
        yield Path(name)


@pytest.mark.parametrize("seed", range(4))
def test_two_thousand_flips_are_harmless_by_proof_or_found(tmp_path: Path, seed: int) -> None:
    """500 a seed, half of them in LMDB's meta pages and the heads of pages, which nothing checksums."""
    counts, wrong = run(tmp_path / "data", bits=500, seed=seed, is_large=False, jobs=2)
    assert not wrong
    assert counts["harmless"] + counts["found"] + counts["mended"] == 500
    assert counts["found"] > 100 and counts["harmless"] > 100 and counts["mended"] > 0


def test_flips_in_a_log_of_many_megabytes(tmp_path: Path) -> None:
    """Four segments."""
    counts, wrong = run(tmp_path / "data", bits=24, seed=5, is_large=True, jobs=2, megabytes=20)
    assert not wrong
    assert counts["harmless"] + counts["found"] + counts["mended"] == 24
    assert counts["found"] > 5


def test_flips_that_hide_the_last_commit_are_all_mended(tmp_path: Path) -> None:
    """Bit 1 of the newest number: LMDB would believe the page before."""
    made = small(tmp_path / "data", 6)
    path = made.files[-1]
    data = path.read_bytes()
    numbers = [struct.unpack_from("<Q", data, PAGE * place + TRANSACTION_AT)[0] for place in (0, 1)]
    place = numbers.index(max(numbers))
    flips = [Flip(path, 8 * (PAGE * place + TRANSACTION_AT) + bit, "") for bit in range(64)]
    assert set(outcomes(made, flips)) == {"mended"}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A small log."""
    return small(tmp_path / "data", 7)


def some(made: Made, is_harmless: bool) -> list[Flip]:
    """Flips with or without a proof, from all of the log."""
    bits = Bits(made)
    flips = [bits.flip(number) for number in bits.drawn(300, 8)]
    return [flip for flip in flips if bool(flip.why) == is_harmless]


def test_what_a_blind_check_misses_is_told(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge doesn't take the check's word."""
    monkeypatch.setattr(judge, "check_log", lambda data: {"problems": []})
    assert "missed" in set(outcomes(made, some(made, is_harmless=False)))


def test_a_proof_that_proves_too_much_is_told(made: Made) -> None:
    """Bits that are claimed to be harmless and are not."""
    flips = [Flip(flip.file, flip.bit, "says who?") for flip in some(made, is_harmless=False)]
    assert set(outcomes(made, flips)) <= {"alarm", "harmless"}
    assert "alarm" in set(outcomes(made, flips))


def test_pages_that_nobody_judges_end_in_worse(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the judgement of LMDB's pages: processes die, commits are hidden, pages in use are written over."""
    monkeypatch.setattr(structure.Pages, "_glance", lambda self: None)
    monkeypatch.setattr(structure.Pages, "_whole", lambda self, meta: None)
    monkeypatch.setattr(structure.Pages, "mended", lambda self: None)
    monkeypatch.setattr(check, "look", lambda path: "")
    path = made.files[-1]
    flips = [Flip(path, 8 * at + bit, "") for at in range(PAGE + 88, PAGE + 152) for bit in range(8)]
    flips += [Flip(path, 8 * at + bit, "") for at in range(88, 152) for bit in range(8)]
    found = set(outcomes(made, flips))
    assert found & {"missed", "hidden", "overwritten", "died", "silent"}


def test_nothing_is_left_of_a_flip(made: Made) -> None:
    """Also of one that was mended, and of one that was written behind."""
    before = {path: path.read_bytes() for path in made.files}
    outcomes(made, some(made, is_harmless=True)[:20] + some(made, is_harmless=False)[:20])
    assert {path: path.read_bytes() for path in made.files} == before
    assert check_log(made.data)["problems"] == []


def test_a_proof_covers_no_bit_of_a_block_or_header(made: Made) -> None:
    """Whatever else is said to be harmless. What free pages still hold of them is no block."""
    seen = 0
    for path in made.files:
        data, proof = path.read_bytes(), Proof(path.read_bytes())
        for value in rows_of(path).values():
            if data.count(value) == 1:
                at, seen = data.index(value), seen + 1
                assert {proof.reason(bit) for bit in range(8 * at, 8 * (at + len(value)))} == {""}
    assert seen >= 3


def test_each_reason_is_argued(made: Made) -> None:
    """And no other is given."""
    bits = Bits(made)
    given = {bits.flip(number).why for number in range(0, bits.count, 7)} - {""}
    assert given <= REASONS.keys() and len(given) > 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every_bit": True, "bits": 3}, "--every-bit and --bits exclude each other"),
        ({"bits": 3, "only": 2}, "--bits and --only exclude each other"),
        ({"every_bit": True, "bits": 3, "only": 2}, "--every-bit and --bits and --only exclude each other"),
        ({"bits": 0}, "numbers from 1"),
    ],
)
def test_no_option_is_passed_over(options: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        flips(**options)
    assert ended.value.code == 1 and words in (said := capsys.readouterr().err) and said.count("\n") == 1

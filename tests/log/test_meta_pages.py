"""What LMDB's two meta pages can mean (LOG_FORMAT.md): no receipt hidden, nothing refused that LMDB itself left."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from engine.errors import LogDamaged
from engine.log.check import check_log
from engine.log.structure import META_END, TRANSACTION_AT, Broken, Hidden, Pages, is_open_elsewhere, look
from engine.log.writer import Log
from tests.support.log_rig import ROOT, Naive, hashes, only_reading, segment_files

PAGE = 4096
LAST_PAGE_AT = TRANSACTION_AT - 8


def u64(data: bytes | bytearray, at: int) -> int:
    """Little-endian."""
    return int(struct.unpack_from("<Q", data, at)[0])


class Files:
    """A log of small blocks as it was before and behind its last commit."""

    def __init__(self, data: Path, commits: int, size: int) -> None:
        log = Naive(data, segment_bytes=1 << 20)
        for _ in range(commits - 1):
            log.append(count=1, size=size)
        (self.path,) = segment_files(data)
        self.before = self.path.read_bytes()
        log.append(count=1, size=size)
        self.data, self.last = data, log.chain.last
        log.close()
        self.whole = bytearray(self.path.read_bytes())
        numbers = [u64(self.whole, PAGE * place + TRANSACTION_AT) for place in (0, 1)]
        self.place, self.number = numbers.index(max(numbers)), max(numbers)

    def put(self, number: int, place: int | None = None, last_page: int | None = None) -> None:
        """Writes the file with another number of a transaction in a meta page."""
        changed = bytearray(self.whole)
        at = PAGE * (self.place if place is None else place)
        struct.pack_into("<Q", changed, at + TRANSACTION_AT, number)
        if last_page is not None:
            struct.pack_into("<Q", changed, at + LAST_PAGE_AT, last_page)
        self.path.write_bytes(changed)

    def problems(self) -> list[str]:
        """What the check says."""
        return [row["problem"] for row in check_log(self.data)["problems"]]

    def opened(self) -> int:
        """Where the log ends for a writer."""
        log = Log.open(self.data)
        try:
            return log.last_sequence
        finally:
            log.close()

    def read(self) -> int:
        """Where it ends for a reader."""
        segments, reader = only_reading(self.data)
        try:
            return reader.last_sequence()
        finally:
            segments.close()


@pytest.fixture(params=[(1, 50), (2, 50), (3, 50), (9, 50), (40, 50), (41, 3_000)], ids=str)
def files(tmp_path: Path, request: pytest.FixtureRequest) -> Files:
    """Few and many commits, small blocks and ones with pages of their own."""
    return Files(tmp_path, *request.param)


def test_every_bit_of_both_numbers_is_named_and_mended(files: Files) -> None:
    """The check names it and changes nothing; opening for writing has the last commit back; then all is clean."""
    for place in (0, 1):
        right = u64(files.whole, PAGE * place + TRANSACTION_AT)
        for bit in range(64):
            files.put(right ^ 1 << bit, place)
            before = hashes(files.data)
            assert files.problems(), (place, bit)
            assert hashes(files.data) == before
            try:
                assert files.opened() == files.last, (place, bit)
                assert files.read() == files.last
                found, newest = files.path.read_bytes(), u64(files.whole, PAGE * files.place + TRANSACTION_AT)
                numbers = [u64(found, PAGE * each + TRANSACTION_AT) for each in (0, 1)]
                assert sorted(numbers) == [newest, newest + 1]  # L10: opening commits, in the place of the older
                assert files.problems() == []
            except LogDamaged:  # the first commit leaves no witness of its number
                assert right < 2
                assert hashes(files.data) == before


def test_a_commit_that_lmdb_took_back_is_not_damage(files: Files) -> None:
    """What 0.9 leaves when its meta page can't be written: new trees under the old number and the old last page."""
    old = {name: u64(files.before, PAGE * files.place + at) for name, at in
           (("number", TRANSACTION_AT), ("last", LAST_PAGE_AT))}  # fmt: skip
    files.put(old["number"], last_page=old["last"])
    other = u64(files.whole, PAGE * (1 - files.place) + LAST_PAGE_AT)
    if old["last"] == other:  # no page more: it may as well be the last commit under a flipped number, and it counts
        assert "would hide the last commit" in files.problems()[0]
        assert files.read() == files.last - 1
        assert files.opened() == files.last
    else:
        assert files.problems() == []
        assert files.read() == files.last - 1
        assert files.opened() == files.last - 1
    assert files.problems() == []


HOLDER = """
import sys
from pathlib import Path
from tests.support.log_rig import only_reading
segments, reader = only_reading(Path(sys.argv[1]))
for line in sys.stdin:
    print(reader.last_sequence(), flush=True)
"""


def test_a_hidden_commit_is_shown_to_those_who_have_the_file_open(files: Files) -> None:
    """They share LMDB's number of the newest transaction, and follow without being started again."""
    files.put(files.number - 2)
    if files.number < 3:
        pytest.skip("the first commit leaves no witness")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(files.data)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None

        def ask(to: IO[str] = holder.stdin, answers: IO[str] = holder.stdout) -> int:
            print(file=to, flush=True)
            return int(answers.readline())

        assert ask() == files.last - 1
        assert is_open_elsewhere(files.path)
        assert files.opened() == files.last
        assert ask() == files.last
        assert files.opened() == files.last
        holder.stdin.close()
    assert not is_open_elsewhere(files.path)
    assert files.problems() == []
    assert files.read() == files.last


def test_a_commit_taken_back_whose_pages_were_used_again_is_not_damage(files: Files) -> None:
    """A writer was cut short in the commit that would have replaced it."""
    files.put(files.number - 2)
    if files.number < 3:
        return
    changed = bytearray(files.path.read_bytes())
    root = u64(changed, PAGE * files.place + META_END - 24)
    changed[PAGE * root : PAGE * (root + 1)] = bytes(PAGE)
    files.path.write_bytes(changed)
    assert files.problems() == []
    assert files.opened() == files.last - 1


def test_pages_of_a_log_that_grows_are_right_at_every_commit(tmp_path: Path) -> None:
    """Never a false alarm, whatever the sizes of blocks do to LMDB's tree and free list."""
    log = Naive(tmp_path, segment_bytes=1 << 20)
    for turn in range(500):
        log.append(count=1 + turn % 9, size=(20, 200, 900)[turn % 3])
        path = segment_files(tmp_path)[-1]
        assert look(path) == ""
        assert Pages(path).mended() is None
    log.close()


def test_a_free_list_that_names_a_page_in_use_stops_the_writer(files: Files) -> None:
    """It would be written over; readers don't ask the free list."""
    changed = bytearray(files.whole)
    at = PAGE * files.place + 16 + 24
    root, used = u64(changed, at + 40), u64(changed, at + 48 + 40)
    if root == (1 << 64) - 1:
        return
    page = PAGE * root
    node = page + struct.unpack_from("<H", changed, page + 16)[0]
    struct.pack_into("<Q", changed, node + 8 + 8 + 8, used)  # its first list's first page
    files.path.write_bytes(changed)
    assert any("in use" in words or "free" in words for words in files.problems())
    assert files.read() == files.last
    with pytest.raises(LogDamaged, match=r"can't be opened: page"):
        files.opened()


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_at_all_are_judged_without_a_crash(tmp_path: Path, seed: int) -> None:
    """Some bytes of pages in use, or whole fields of meta pages, are anything."""
    files, chance = Files(tmp_path, 30, 700), random.Random(seed)
    pages = len(files.whole) // PAGE
    for _ in range(400):
        changed = bytearray(files.whole)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = PAGE * chance.choice((0, 1, chance.randrange(pages))) + chance.choice(
                (8, 16, 40, 88, 128, 136, 144, 152)
            )
            at = chance.choice((at, PAGE * chance.randrange(pages) + chance.randrange(PAGE - 8)))
            value = chance.choice((0, 1, 2, pages, (1 << 63) - 1, (1 << 64) - 1, (1 << 64) - 2, chance.getrandbits(64)))
            struct.pack_into("<Q", changed, at, value)
        files.path.write_bytes(changed)
        found = Pages(files.path)
        for judge in (found.glance, found.look, found.mended, found.hidden, lambda pages=found: pages.seek(10)):
            with suppress(Broken, Hidden):
                judge()

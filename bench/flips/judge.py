"""What becomes of one flipped bit: checked, read, opened for writing and written on, in a process that may die of it.

Right outcomes: *harmless* (there is a proof, and nothing noticed anything), *found* (the check names it; readers gave
everything, or said that they could not), *mended* (found, and opening for writing put it right). All others are
failures: *missed* (no proof, and the check is clean), *alarm* (a proof, and yet it was called damage), *silent*
(something was left out by a reader that did not say so), *invented* (other bytes than were written), *hidden* (a writer
would go on before the end), *changed* (bytes of the file were changed), *overwritten* (the next commit broke what was
there), *died*.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.flips.made import Made
from bench.flips.proof import Proof
from engine.errors import EngineError, LogDamaged
from engine.log import format as fmt
from engine.log.check import check_log
from engine.log.damage import events_after, last_known
from engine.log.reader import Reader
from engine.log.segments import Segments
from engine.log.writer import Log

OUTCOMES: Final = (
    "harmless", "found", "mended", "missed", "alarm", "silent", "invented", "hidden", "changed", "overwritten", "died",
)  # fmt: skip
RIGHT: Final = ("harmless", "found", "mended")
READ_BYTES: Final = 1 << 20
RECORDS_MAX: Final = 200  # looked for one by one too


class Flip:
    """One bit of one file, and why it can't matter ("": it must be found)."""

    __slots__ = ("bit", "file", "why")

    def __init__(self, file: Path, bit: int, why: str) -> None:
        self.file, self.bit, self.why = file, bit, why


def _read(made: Made) -> tuple[str, bool]:
    """("" or what is wrong, whether a reader said that something is damaged)."""
    segments = Segments(made.data / fmt.FOLDER, shard=None, written_here=False)
    try:
        segments.scan()
        reader, whole, upto, told = Reader(segments), made.records, 0, False
        try:
            for event in events_after(reader, 0, min(last_known(reader), len(whole) + 1), READ_BYTES):
                upto = event.sequence
                if event.record is None:
                    told = True
                elif upto > len(whole) or event.record != whole[upto - 1]:
                    return "invented", told
        except LogDamaged:
            told = True
        for sequence in range(1, min(upto, RECORDS_MAX) + 1):
            try:
                if reader.record(sequence) != whole[sequence - 1]:
                    return "invented", told
            except LogDamaged:
                told = True
        told = told or bool(segments.damage.places)
        return ("silent" if upto < len(whole) and not told else ""), told
    finally:
        segments.close()


def _write(made: Made, flip: Flip, changed: bytes, original: bytes, block: bytes) -> str:
    """What a writer makes of it: refused, or right to the end and behind it."""
    try:
        log = Log.open(made.data)  # its segments are larger: the next block goes where the others are
    except EngineError:
        return "" if flip.file.read_bytes() == changed else "changed"
    try:
        if log.last_sequence != len(made.records):
            return "hidden"
        if kept := _kept(flip, changed, original):
            return kept
        log.append(block)
    finally:
        log.close()
    found, _ = _read_behind(made)
    return "overwritten" if found else ""


def _kept(flip: Flip, changed: bytes, original: bytes) -> str:
    """ "" if what is in use was left as it is. Opening a log for writing commits, which writes other pages."""
    left, mended = flip.file.read_bytes(), False
    for begin, end in Proof(original).kept():
        if left[begin:end] == changed[begin:end]:
            continue
        if left[begin:end] != original[begin:end]:
            return "changed"
        mended = True
    return "mended" if mended else ""


def _read_behind(made: Made) -> tuple[str, bool]:
    """As `_read`, of a log with one block more, whose events are passed over."""
    segments = Segments(made.data / fmt.FOLDER, shard=None, written_here=False)
    try:
        segments.scan()
        reader, whole = Reader(segments), made.records
        try:
            for event in events_after(reader, 0, len(whole), READ_BYTES):
                if event.record is not None and event.record != whole[event.sequence - 1]:
                    return "invented", False
        except LogDamaged:
            return "", True
        return "", bool(segments.damage.places)
    finally:
        segments.close()


def judge(made: Made, flip: Flip, original: bytes, block: bytes) -> str:
    """The outcome of one flip, which is in the file for as long as this takes; only `died` is told by another."""
    changed = bytearray(original)
    changed[flip.bit // 8] ^= 1 << flip.bit % 8
    with flip.file.open("r+b") as file:
        file.seek(flip.bit // 8)
        file.write(changed[flip.bit // 8 : flip.bit // 8 + 1])
    is_found = bool(check_log(made.data)["problems"])
    wrong, is_told = _read(made)
    if wrong:
        return wrong
    written = _write(made, flip, bytes(changed), original, block)
    if written not in ("", "mended"):
        return written
    if flip.why:
        return "alarm" if is_found or is_told or written else "harmless"
    if not is_found:
        return "missed"
    return written or "found"


class Files:
    """The files as they were, put back after each flip."""

    def __init__(self, made: Made) -> None:
        self._folder = made.data / fmt.FOLDER
        self.bytes = {path: path.read_bytes() for path in made.files}

    def restore(self) -> None:
        """Also what a flip made the writer add; locks stay."""
        for path in self._folder.iterdir():
            if path not in self.bytes and not path.name.endswith("lock"):
                path.unlink()
        for path, data in self.bytes.items():
            if not path.exists() or path.stat().st_size != len(data) or path.read_bytes() != data:
                path.write_bytes(data)


def outcomes(made: Made, flips: Sequence[Flip], on_outcome: Callable[[str], None] = lambda outcome: None) -> list[str]:
    """Of each flip, by forked children: one goes on until it dies, the next begins behind the flip that it died of."""
    files, found = Files(made), list[str]()
    block = made.next_block(1, 50)[0]
    while len(found) < len(flips):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            _child(made, flips[len(found) :], files, block, writing)
        os.close(writing)
        with open(reading, "rb", buffering=0) as pipe:
            while told := pipe.read(64):
                for code in told:
                    found.append(OUTCOMES[code])
                    on_outcome(found[-1])
        os.waitpid(child, 0)
        if len(found) < len(flips):
            found.append("died")
            on_outcome("died")
        files.restore()
    return found


def _child(made: Made, flips: Sequence[Flip], files: Files, block: bytes, writing: int) -> None:
    """Never returns."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what LMDB says when it dies, and what the engine says of damage
    tempfile.tempdir = str(made.data.parent)  # where the check has its own: in memory, if this is
    try:
        for flip in flips:
            outcome = judge(made, flip, files.bytes[flip.file], block)
            files.restore()
            os.write(writing, bytes([OUTCOMES.index(outcome)]))
    finally:
        os._exit(0)


def copied(made: Made, target: Path) -> Made:
    """The same log in another place, for a process of its own."""
    shutil.copytree(made.data, target)
    other = object.__new__(Made)
    other.__dict__.update(made.__dict__)
    other.data = target
    return other

"""`gonets bench flips`: bits of a log flipped one at a time, each in a child process, and what became of each.

`--every-bit` goes through a small log from the first bit to the last; `--bits N --seed S` draws: half of them anywhere,
half in meta pages and heads of pages, where a bit weighs most. `--large` draws in a log of several segments and tens of
megabytes. Each flip must end as judge.py's right outcomes; another is printed with the command that shows it again.
Cost: some 4 ms a flip and core in the small log, 0.3 s in the large one.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from bench.flips.judge import OUTCOMES, RIGHT, Flip, copied, outcomes
from bench.flips.made import Made, large, small
from bench.flips.proof import META_END, Proof

MEMORY: Final = Path("/dev/shm")
LARGE_MEGABYTES: Final = 48
PAGE: Final = 4096
EXAMPLES_MAX: Final = 20
BITS: Final = 2_000
PROGRESS_S: Final = 5.0
_TOLD = struct.Struct("<QB")

OnOutcome = Callable[[int, str], None]


class Bits:
    """All bits of a log, by number from the first of the first segment on."""

    def __init__(self, made: Made) -> None:
        self._made = made
        files = made.files
        self._names = [path.relative_to(made.data) for path in files]
        self._sizes = [8 * path.stat().st_size for path in files]
        self._proofs = [Proof(path.read_bytes()) for path in files]
        self.count = sum(self._sizes)

    def flip(self, number: int, made: Made | None = None) -> Flip:
        """One of them, in a copy of the log."""
        place = 0
        while number >= self._sizes[place]:
            number -= self._sizes[place]
            place += 1
        return Flip((made or self._made).data / self._names[place], number, self._proofs[place].reason(number))

    def drawn(self, count: int, seed: int) -> Iterator[int]:
        """So many numbers."""
        chance = random.Random(seed)
        for turn in range(count):
            if turn % 2:
                yield chance.randrange(self.count)
                continue
            place = chance.randrange(len(self._sizes))
            page = chance.choice((0, 1, chance.randrange(self._sizes[place] // 8 // PAGE)))
            yield sum(self._sizes[:place]) + 8 * (PAGE * page + chance.randrange(META_END)) + chance.randrange(8)

    def words(self, number: int) -> str:
        """Where a bit is."""
        flip = self.flip(number)
        page, byte = divmod(flip.bit // 8, PAGE)
        return f"{flip.file.name}, page {page}, byte {byte}, bit {flip.bit % 8}"


def judged(made: Made, bits: Bits, numbers: list[int], jobs: int, on_outcome: OnOutcome) -> None:
    """The outcome of each, by so many processes, each with a copy of the log."""
    reading, writing = os.pipe()
    children = []
    for job in range(jobs):
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(reading)
                _judge_some(copied(made, made.data.parent / f"copy-{job}" / "data"), bits, numbers[job::jobs], writing)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    os.close(writing)
    with open(reading, "rb") as pipe:
        while told := pipe.read(_TOLD.size):
            number, code = _TOLD.unpack(told)
            on_outcome(number, OUTCOMES[code])
    if any(os.waitpid(child, 0)[1] for child in children):
        raise RuntimeError("a process that judges flips has failed")


def _judge_some(made: Made, bits: Bits, numbers: list[int], writing: int) -> None:
    left = iter(numbers)

    def tell(outcome: str) -> None:
        os.write(writing, _TOLD.pack(next(left), OUTCOMES.index(outcome)))

    outcomes(made, [bits.flip(number, made) for number in numbers], tell)


def run(
    data: Path,
    *,
    bits: int | None,
    seed: int,
    is_large: bool,
    jobs: int,
    megabytes: int = LARGE_MEGABYTES,
    only: int | None = None,
    on_progress: Callable[[int, int, Counter[str]], None] = lambda done, total, counts: None,
) -> tuple[Counter[str], list[tuple[str, int, str]]]:
    """Counts by outcome, harmless ones by reason too, and examples (outcome, number, where) of what is not right.
    `bits` None: every one."""
    made = large(data, seed, megabytes) if is_large else small(data, seed)
    known = Bits(made)
    if only is not None and only >= known.count:
        raise IndexError(only)
    numbers = [only] if only is not None else list(range(known.count) if bits is None else known.drawn(bits, seed))
    counts, wrong = Counter[str](), list[tuple[str, int, str]]()

    def took(number: int, outcome: str) -> None:
        counts[outcome] += 1
        if outcome == "harmless":
            counts[f"harmless: {known.flip(number).why}"] += 1
        if outcome not in RIGHT and len(wrong) < EXAMPLES_MAX:
            wrong.append((outcome, number, known.words(number)))
        on_progress(sum(counts[name] for name in OUTCOMES), len(numbers), counts)

    judged(made, known, numbers, min(jobs, len(numbers)), took)
    return counts, wrong


def _mistake(
    every_bit: bool, bits: int | None, seed: int, large: bool, only: int | None, jobs: int, folder: Path | None
) -> str:
    """What is wrong with options; "" if nothing is."""
    given = {"--every-bit": every_bit, "--bits": bits is not None, "--only": only is not None}
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) > 1:
        return f"{' and '.join(chosen)} exclude each other: each says which bits to flip"
    is_bad = (bits is not None and bits < 1) or seed < 0 or not 1 <= jobs <= 64 or (only is not None and only < 0)
    if is_bad or (folder is not None and not folder.is_dir()) or (every_bit and large):
        return (
            "--bits and --jobs are numbers from 1, --seed and --only from 0, --jobs at most 64, --folder is a"
            " directory; --every-bit is of the small log"
        )
    return ""


def flips(
    *,
    every_bit: Annotated[bool, Parameter(negative="", help="of the small log, in turn: about an hour")] = False,
    bits: Annotated[int | None, Parameter(help=f"how many are drawn (default {BITS})")] = None,
    seed: Annotated[int, Parameter(help="of the log, and of what is drawn")] = 1,
    large: Annotated[bool, Parameter(negative="", help="in a log of tens of megabytes")] = False,
    only: Annotated[int | None, Parameter(help="only this bit, by the number that a failure names")] = None,
    jobs: Annotated[int, Parameter(help="processes side by side")] = 2,
    folder: Annotated[Path | None, Parameter(help="where to work; default: in memory where there is room")] = None,
) -> None:
    """Flips bits of a log; each must be harmless by proof, or found by the check and by whoever reads it."""
    if words := _mistake(every_bit, bits, seed, large, only, jobs, folder):
        print(f"gonets: flips: {words}", file=sys.stderr)
        raise SystemExit(1)
    began = time.monotonic()
    said = began

    def on_progress(done: int, total: int, counts: Counter[str]) -> None:
        nonlocal said
        if time.monotonic() - said >= PROGRESS_S:
            said = time.monotonic()
            left_s = (said - began) / done * (total - done)
            print(f"gonets: flips: {done:,} of {total:,}, {left_s / 60:.0f} min left", file=sys.stderr, flush=True)

    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    try:
        with tempfile.TemporaryDirectory(prefix="gonets-flips-", dir=folder or memory) as name:
            counts, wrong = run(
                Path(name) / "data",
                bits=None if every_bit else BITS if bits is None else bits,
                seed=seed,
                is_large=large,
                jobs=jobs,
                only=only,
                on_progress=on_progress,
            )
    except (OSError, RuntimeError, IndexError) as error:
        words = f"--only {only} is beyond the last bit" if isinstance(error, IndexError) else str(error)
        print(f"gonets: flips: {words}", file=sys.stderr)
        raise SystemExit(1) from None
    for name, count in sorted(counts.items()):
        print(f"{name}: {count:,}")
    for outcome, number, where in wrong:
        again = f"gonets bench flips{' --large' * large} --seed {seed} --only {number}"
        print(f"gonets: flips: {outcome}: {where}; again: {again}", file=sys.stderr)
    if wrong:
        raise SystemExit(1)
    print(f"seed {seed}: each harmless by proof or found, {time.monotonic() - began:.0f} s")

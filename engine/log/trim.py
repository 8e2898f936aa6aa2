"""`gonets log trim`: removes the oldest segments, whole ones, as far as two snapshots and every durable reader allow.

By hand, or by retention (engine/log/retention.py); beside a running server, whose open maps stay valid until it
looks. What it keeps, always: everything above the older of the two newest snapshots, each verified when it was taken
and by its hash now; everything that the saved state has not folded; the newest segment. What it keeps unless forced:
what a durable reader still needs (engine/log/readers.py).

Invariants: files go one by one, the oldest first, each synced away before the next: cut short at any point, the log
begins a few segments earlier. Only one trims at a time. Cost: the hashes of two snapshots.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from engine.errors import BadArgument, DataUntrusted
from engine.log import format as fmt
from engine.log.files import locked, remove_directory
from engine.log.place import make_directory, sync_directory
from engine.log.reader import Reader
from engine.log.readers import FOLDER, TRIM_LOCK_NAME, readers, registry_locked
from engine.log.segments import Segments
from engine.log.verbs import opened, saved_position
from engine.ports import OnProgress
from engine.state.snapshot import SnapshotRow, named_snapshots, snapshots
from ext.record import decode

SNAPSHOTS_KEPT: Final = 2
DAY_US: Final = 86_400 * 1_000_000
SEQUENCE_MAX: Final = 2**53 - 1


class Wanted(NamedTuple):
    """What is to go: below a sequence; or the oldest while so many bytes, or all younger events, stay. 0 = not asked;
    of two that are asked, the one that removes more counts."""

    below: int = 0
    keep_bytes: int = 0
    keep_days: float = 0


Limit = tuple[int, str]  # the first sequence that must stay, and why


def trim_log(
    data: Path,
    wanted: Wanted,
    *,
    dry_run: bool,
    force: bool,
    on_progress: OnProgress = lambda what, done, total: None,
    on_begin: Callable[[int, int, int], None] = lambda first, segments, size_bytes: None,
) -> dict[str, Any]:
    """What was removed, and what held the rest. Raises BadArgument where `below` asks for more than may go. `on_begin`
    hears the first sequence that stays, how many segments go, and their bytes, before the first of them goes."""
    _check_wanted(wanted)
    make_directory(data / FOLDER)
    with (
        opened(data) as segments,
        locked(data / FOLDER / TRIM_LOCK_NAME, f"another process is trimming the log of {data}"),
    ):
        segments.scan()
        last = Reader(segments).last_sequence()
        shard = segments.header(segments.firsts[-1]).shard
        good = good_snapshots(data, shard, segments.firsts[0], last)
        with registry_locked(data):
            limits = sorted(limits_of(data, shard, good) + ([] if force else needed_by(data)))
            limit, reason = limits[0]
            if wanted.below > limit:
                raise BadArgument(f"--below {wanted.below}: only what is below {limit} may go: {reason}")
            until = wanted_below(segments, wanted)
            going = [first for first in segments.firsts if (following := segments.after(first)) and following <= until]
            allowed = [first for first in going if (following := segments.after(first)) and following <= limit]
            rows = [_row(segments, first) for first in allowed]
            first_kept = segments.after(allowed[-1]) if allowed else segments.firsts[0]
            assert first_kept is not None
            if not dry_run:
                if allowed:
                    on_begin(first_kept, len(allowed), sum(row["bytes"] for row in rows))
                _remove(segments, allowed, on_progress)
        useless = [] if dry_run else drop_useless(data, first_kept)
        return {
            "data": str(data),
            "dry_run": dry_run,
            "removed": rows,
            "removed_bytes": sum(row["bytes"] for row in rows),
            "removed_snapshots": useless,
            "first_sequence": first_kept,
            "last_sequence": last,
            "may_go_below": limit,
            "held_segments": len(going) - len(allowed),
            "held_by": [words for held, words in limits if held < until] if len(going) > len(allowed) else [],
        }


def _check_wanted(wanted: Wanted) -> None:
    if wanted == Wanted():
        raise BadArgument(
            "say what is to go: --below SEQUENCE, --keep-bytes N or --keep-days N",
            hint="--dry-run shows what would go, and what holds the rest",
        )
    if not 0 <= wanted.below <= SEQUENCE_MAX:
        raise BadArgument(f"--below {wanted.below}: must be 1 to {SEQUENCE_MAX} (2^53-1)")
    if wanted.keep_bytes < 0 or wanted.keep_days < 0:
        raise BadArgument(f"--keep-bytes {wanted.keep_bytes}, --keep-days {wanted.keep_days:g}: must be above 0")


# What may go.


def good_snapshots(data: Path, shard: int, first: int, last: int) -> list[SnapshotRow]:
    """Snapshots that a log from `first` to `last` can be opened from, verified by their hash, oldest first."""
    return [row for row in snapshots(data, shard) if not row.problem and first - 1 <= row.position <= last]


def limits_of(data: Path, shard: int, good: list[SnapshotRow]) -> list[Limit]:
    """What can't be told otherwise: two snapshots, and a state that goes on where it was saved."""
    if len(good) < SNAPSHOTS_KEPT:
        need = f"{SNAPSHOTS_KEPT} verified snapshots are needed, found: {len(good)}"
        return [(1, f"{need}; `gonets log snapshot` takes one")]
    position = good[-SNAPSHOTS_KEPT].position
    limits = [(position + 1, f"the older of the two newest snapshots is at {position}")]
    saved = saved_position(data, shard)
    return limits if saved is None else [*limits, (saved + 1, f"the state was saved at {saved}")]


def needed_by(data: Path) -> list[Limit]:
    """What durable readers need."""
    return [(row.position + 1, f"{row.words()}; --force removes it all the same") for row in readers(data)]


def wanted_below(segments: Segments, wanted: Wanted) -> int:
    """The sequence below which segments are to go, whatever may."""
    until = wanted.below
    reader, now_us = Reader(segments), time.time_ns() // 1_000
    held = sum(segments.path(first).stat().st_size for first in segments.firsts)
    for first in segments.firsts[:-1]:
        following = segments.after(first)
        assert following is not None
        held -= segments.path(first).stat().st_size
        is_too_much = wanted.keep_bytes > 0 and held >= wanted.keep_bytes
        if not is_too_much and not (
            wanted.keep_days and _age_us(reader, following, now_us) > wanted.keep_days * DAY_US
        ):
            break
        until = max(until, following)
    return until


def _age_us(reader: Reader, following: int, now_us: int) -> int:
    """Of a segment's newest event; 0 where that can't be read."""
    try:
        record = reader.record(following - 1)
    except DataUntrusted:
        return 0
    return 0 if record is None else now_us - decode(record).time


# Removing.


def _row(segments: Segments, first: int) -> dict[str, Any]:
    following = segments.after(first)
    assert following is not None
    path = segments.path(first)
    return {"segment": path.name, "first_sequence": first, "last_sequence": following - 1, "bytes": path.stat().st_size}


def _remove(segments: Segments, firsts: list[int], on_progress: OnProgress) -> None:
    for done, first in enumerate(firsts):
        path = segments.path(first)
        path.unlink()
        # Before the next one goes: names may reach the disk in any order, and a log with a hole is damaged.
        sync_directory(segments.folder)
        path.with_name(path.name + fmt.LMDB_LOCK_SUFFIX).unlink(missing_ok=True)
        on_progress("trim", done + 1, len(firsts))
    for left in segments.folder.glob(f"*{fmt.SUFFIX}{fmt.LMDB_LOCK_SUFFIX}"):  # of a trim that was cut short
        first_left = fmt.first_of_name(left.name.removesuffix(fmt.LMDB_LOCK_SUFFIX))
        if first_left is not None and first_left < segments.firsts[-1] and not segments.path(first_left).exists():
            left.unlink(missing_ok=True)


def drop_useless(data: Path, first_kept: int) -> list[int]:
    """Removes snapshots behind which the log does not go on any more; their positions."""
    useless = [path for path in named_snapshots(data) if int(path.name) < first_kept - 1]
    for path in useless:
        remove_directory(path)
    return [int(path.name) for path in useless]

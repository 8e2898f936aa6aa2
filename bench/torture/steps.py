"""The named steps of a commit, a roll, a save, a snapshot, a trim, a backup: each a system call, and a moment of it."""

from __future__ import annotations

from typing import Final, NamedTuple

from bench.faultdisk import Action, Kind

COMMIT_FILES: Final = "data/log/*.lmdb"
_PLAIN: Final = {"pages": Kind.WRITE, "sync": Kind.SYNC}
_COMMITS: Final = {**_PLAIN, "meta": Kind.META}
_FILES: Final = {
    "commit": (COMMIT_FILES, _COMMITS),
    "roll": ("data/log/*.new", _COMMITS),
    "save": ("data/state/data.mdb", _COMMITS),
    "marks": ("data/cursors/data.mdb", _COMMITS),
    "snapshot": ("data/snapshots/*/*", _PLAIN),
    "backup": ("backup/segments/*", _PLAIN),
    "backup.snapshot": ("backup/snapshots/*/*", _PLAIN),
    "backup.marks": ("backup/cursors/*/*", _PLAIN),
    "backup.manifest": ("backup/backup-*", _PLAIN),
}
_MOMENTS: Final = {"before": Action.KILL, "torn": Action.TEAR_KILL, "after": Action.KILL_AFTER}
_NAMES: Final = {
    "roll.make": (Kind.OPEN, "data/log/*.new"),
    "roll.rename": (Kind.RENAME, "data/log/*"),
    "roll.unlink": (Kind.UNLINK, "data/log/*.new-lock"),
    "roll.directory": (Kind.DIRECTORY, "data/log"),
    "snapshot.rename": (Kind.RENAME, "data/snapshots/*"),
    "snapshot.directory": (Kind.DIRECTORY, "data/snapshots"),
    "trim.unlink": (Kind.UNLINK, "data/log/*.lmdb"),
    "backup.rename": (Kind.RENAME, "backup/*"),
    "backup.segment": (Kind.RENAME, "backup/segments/*"),
    "backup.directory": (Kind.DIRECTORY, "backup"),
}


class Step(NamedTuple):
    """A call, the files that it is about, and what happens there."""

    kind: Kind
    pattern: str
    action: Action


def steps() -> dict[str, Step]:
    """Every step at which a writer can be killed: part, call, and whether before, in the middle of or after it."""
    found = {}
    for moment, action in _MOMENTS.items():
        for part, (pattern, calls) in _FILES.items():
            for call, kind in calls.items():
                if (call == "sync") <= (moment != "torn"):
                    found[f"{part}.{call}.{moment}"] = Step(kind, pattern, action)
        if moment != "torn":
            for name, (kind, pattern) in _NAMES.items():
                found[f"{name}.{moment}"] = Step(kind, pattern, action)
    return found

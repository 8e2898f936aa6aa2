"""The ruler of shim.c: compiles it, and tells processes that run under it what becomes of their calls.

A rule says which calls (kinds, a pattern of paths below the base, how many pass before, how many it applies to) and
what happens to them: they fail, are torn, dropped, delayed, held, or the process is killed right before or after. Rules
lie in a file that is mapped shared: they can be changed and counted while the process runs.

Cost: a readlink and a look at eight rules for each call that concerns the base.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("shim.c")
RULES_MAX: Final = 8
_RULE = struct.Struct("<IIiIIIIIIIQ96s")  # struct rule
_ACTION_AT, _SEEN_AT, _HITS_AT, _HELD_AT = 0, 28, 32, 36
_JOURNALING_AT, _COUNTS_AT, _EARLY_AT, _RULES_AT = 4, 8, 76, 208  # struct control
CONTROL_BYTES: Final = _RULES_AT + RULES_MAX * _RULE.size


class NoCompiler(Exception):
    """The library can't be made: one line that says what to install."""


class Kind(enum.IntEnum):
    """Calls, as the rules and the journal name them."""

    OPEN = 0  # to write or to create
    WRITE = 1
    META = 2  # a write to a descriptor that syncs by itself: LMDB's meta page, which makes a commit be
    SYNC = 3  # of a file
    DIRECTORY = 4  # sync of a directory
    RANGE = 5  # msync and sync_file_range: counted only
    TRUNCATE = 6
    RENAME = 7
    UNLINK = 8
    MKDIR = 9
    RMDIR = 10
    LINK = 11
    SPACE = 12  # how much is left on the file system
    MARK = 13  # said by the program itself


class Action(enum.IntEnum):
    """What becomes of a call."""

    PASS = 0
    FAIL = 1  # nothing is done
    FAIL_AFTER = 2  # done as far as the page cache, as when the device fails
    TEAR = 3  # `keep` bytes are written; then an error, or without one a short count
    DROP = 4  # nothing is done, success is claimed
    DELAY = 5
    HOLD = 6  # waits until the rule says otherwise
    KILL = 7
    KILL_AFTER = 8
    TEAR_KILL = 9
    FREE = 10  # so much space is said to be left
    FAIL_KILL = 11  # done as far as the page cache, the device fails, and the process is killed before it hears of it
    HOLD_AFTER = 12  # done; returns when the rule says otherwise


def library(folder: Path) -> Path:
    """The compiled library in a folder. Raises NoCompiler."""
    target = folder / "faultdisk.so"
    compiler = os.environ.get("CC", "cc").split()
    command = [*compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    command += ["-o", str(target), str(SOURCE), "-ldl", "-lpthread"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoCompiler(f"no C compiler ({compiler[0]}): {error.strerror}; install gcc, or name one in CC") from None
    if run.returncode:
        raise NoCompiler(f"{compiler[0]} can't compile {SOURCE.name}: {run.stderr.strip()[-300:]}")
    return target


class Rule:
    """One rule that has been given; its counters move while processes run."""

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory, self._at = memory, at

    def _get(self, at: int) -> int:
        value: int = struct.unpack_from("<I", self._memory, self._at + at)[0]
        return value

    @property
    def seen(self) -> int:
        """Calls that matched."""
        return self._get(_SEEN_AT)

    @property
    def hits(self) -> int:
        """Calls that it was applied to."""
        return self._get(_HITS_AT)

    @property
    def held(self) -> int:
        """Calls that wait now."""
        return self._get(_HELD_AT)

    def become(self, action: Action, error: int = 0) -> None:
        """From now on this happens, also to the calls that wait."""
        struct.pack_into("<i", self._memory, self._at + 8, error)
        struct.pack_into("<I", self._memory, self._at + _ACTION_AT, action)


class FaultDisk:
    """Control file of the processes that run under one base directory."""

    def __init__(self, control: Path, base: Path, library: Path, journal: Path | None = None) -> None:
        self.control, self.library, self.journal = control, library, journal
        self.base = base.resolve()
        control.write_bytes(bytes(CONTROL_BYTES))
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), CONTROL_BYTES)
        struct.pack_into("<I", self._memory, _JOURNALING_AT, journal is not None)
        self._rules = 0

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall run under it."""
        return {
            **os.environ,
            "LD_PRELOAD": f"{self.library} {os.environ.get('LD_PRELOAD', '')}".strip(),
            "FAULTDISK_CONTROL": str(self.control),
            "FAULTDISK_BASE": str(self.base),
            "FAULTDISK_JOURNAL": str(self.journal or ""),
        }

    def rule(
        self,
        action: Action,
        *kinds: Kind,
        path: str = "*",
        error: int = 0,
        skip: int = 0,
        times: int = 0,
        keep_bytes: int = 0,
        delay_s: float = 0.0,
        free_bytes: int = 0,
    ) -> Rule:
        """Gives one more rule; the first that fits a call holds. `path` as in a shell, below the base ("." itself)."""
        if self._rules == RULES_MAX:
            raise ValueError(f"{RULES_MAX} rules are all there is room for: `clear` first")
        at = _RULES_AT + self._rules * _RULE.size
        self._rules += 1
        bits = sum(1 << kind for kind in kinds)
        packed = _RULE.pack(
            action, bits, error, skip, times, keep_bytes, int(delay_s * 1e6), 0, 0, 0, free_bytes, path.encode()
        )
        self._memory[at + 4 : at + _RULE.size] = packed[4:]
        struct.pack_into("<I", self._memory, at + _ACTION_AT, action)  # last: only a whole rule holds
        return Rule(self._memory, at)

    def clear(self) -> None:
        """No rule holds any more."""
        for place in range(self._rules):
            struct.pack_into("<I", self._memory, _RULES_AT + place * _RULE.size, Action.PASS)
        self._rules = 0

    def count(self, kind: Kind) -> int:
        """Calls so far that concerned the base."""
        value: int = struct.unpack_from("<I", self._memory, _COUNTS_AT + 4 * kind)[0]
        return value

    @property
    def early_metas(self) -> int:
        """Writes that sync by themselves, over plain ones that had not been synced: the wrong order."""
        value: int = struct.unpack_from("<I", self._memory, _EARLY_AT)[0]
        return value

    def close(self) -> None:
        """Lets go of the control file."""
        self._memory.close()


# Inside a process that runs under the library.


def begin(disk_control: Path, base: Path, journal: Path | None) -> None:
    """Another control file, base and journal for this process: for one that was forked from a common parent."""
    ctypes.CDLL(None).faultdisk_begin(os.fsencode(disk_control), os.fsencode(base), os.fsencode(journal or b""))


def marker() -> Callable[[bytes], None]:
    """A function that puts a mark into the journal, behind everything that was done before it."""
    mark = ctypes.CDLL(None).faultdisk_mark
    mark.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    mark.restype = None
    return lambda data: mark(data, len(data))

"""`gonets log …` as a person runs it, in a forked child: milliseconds a command, its own user if wanted."""

from __future__ import annotations

import importlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

NOBODY = 65_534
VERBS = ("backup", "check", "cli", "dump", "read", "readers", "restore", "snapshot", "stat", "trim", "verify")
MODULES = (*(f"engine.log.{name}" for name in VERBS), "rich.progress", "traceback")


class Ran(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


def log_command(*arguments: object, user: int = 0, out: str = "", said_in: Path | None = None) -> Ran:
    """Runs one; `user`: who, where root may choose; `out`: a file in place of stdout; `said_in`: where to keep what it
    says."""
    import gonets

    for module in MODULES:  # once, before the fork: another user may not read them
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(dir=said_in) as name:
        scratch = Path(name) / "scratch"  # of somebody who may write nowhere else, as on a machine with a strict /tmp
        scratch.mkdir()
        scratch.chmod(0o777)
        Path(name).chmod(0o711)
        said = Path(out) if out else Path(name) / "out", Path(name) / "err"
        child = os.fork()
        if not child:
            for number, path in enumerate(said, 1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), number)
            if user:
                tempfile.tempdir = str(scratch)
            _run(gonets, ["log", *map(str, arguments)], user)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Ran(status, "" if out else said[0].read_text(), said[1].read_text())


def _run(gonets: object, arguments: list[str], user: int) -> None:
    """In the child; never returns."""
    status = 70
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=False)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
    try:
        if user:
            os.setgid(user)
            os.setuid(user)
        sys.argv = ["gonets", *arguments]
        gonets.main()  # type: ignore[attr-defined]
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(status)

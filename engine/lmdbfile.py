"""What LMDB 0.9 doesn't look at when it opens a file, and a process dies of later.

Asked by everything that opens an environment: segments of the log, the saved state, cursors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import lmdb

# Pages that were taken and given back in one transaction may never have been written: a few may lack for good.
UNWRITTEN_PAGES_MAX: Final = 16


def cut_off(env: lmdb.Environment, path: Path) -> str:
    """Why a file can't be all that LMDB has written to it; "" if it can.

    A look beyond the end of a file that was cut off ends the process (SIGBUS), with all its sessions.
    """
    needed = (int(env.info()["last_pgno"]) + 1 - UNWRITTEN_PAGES_MAX) * int(env.stat()["psize"])
    size = path.stat().st_size
    return f"{path} was cut off: it has {size} bytes, LMDB has written at least {needed}" if size < needed else ""

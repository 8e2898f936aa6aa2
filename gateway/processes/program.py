"""How a child is started: the same interpreter on the same tree as its parent, whatever else is installed.

Used by supervisor.py, and by tests that start a child by itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


COMMAND: Final = [sys.executable, "-P", "-m", "gateway.processes.child"]
"""Behind it the descriptor, and a name for people who look at a list of processes: the child is told its role."""


def environment() -> dict[str, str]:
    """Ours, with the tree first on Python's path."""
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), others] if others else [str(ROOT)])}

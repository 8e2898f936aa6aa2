"""How a child is started: the same interpreter on the same tree as its parent, whatever else is installed.

Used by supervisor.py, and by tests that start a child by itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(descriptor: int, name: str) -> list[str]:
    """The argument list. The name is for people who look at a list of processes: the child is told its role."""
    return [sys.executable, "-P", "-m", "gateway.processes.child", str(descriptor), name]


def environment() -> dict[str, str]:
    """Ours, with the tree first on Python's path."""
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), others] if others else [str(ROOT)])}

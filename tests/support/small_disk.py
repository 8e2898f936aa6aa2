"""A real file system of its own and of a few MiB, for tests of full and read-only disks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(point: Path, size_mib: int) -> Iterator[Path]:
    """A tmpfs of that size at a new directory; skips where none can be mounted."""
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(point)]
    try:
        run = subprocess.run(mount, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if run.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {run.stderr.strip()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)

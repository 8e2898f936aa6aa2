"""Where the reports of `plan` and `costs` go: a file with the time in its name unless one is named, its page beside it.

Used by run.py and costs.py. The place is looked at before anything is measured.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from bench import pages, schema


class PlaceError(Exception):
    """A file that can't be written; one line for people."""


def place(name: str, path: Path | None) -> Path:
    """Of the report; PlaceError before the work instead of after it."""
    found = path or Path(f"gonets-bench-{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")
    if found.is_dir():
        raise PlaceError(f"--report {found}: it is a directory: name a file")
    if found.suffix == ".html":
        raise PlaceError(f"--report {found}: the page gets this name: name a .json file")
    if not os.access(found.parent, os.W_OK):
        raise PlaceError(f"--report {found}: {found.parent} is no directory that can be written to: name a file in one")
    return found


def leave(report: schema.Report, path: Path) -> None:
    """The report and its page."""
    schema.write(report, path)
    pages.write(report, path.with_suffix(".html"))

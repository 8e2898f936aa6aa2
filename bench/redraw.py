"""`gonets bench report FILE`: a report that was written before, read again: its ten lines, and its page drawn anew.

A file that is no report, or one of another schema, is one line on stderr and exit status 1. A partial report is shown
with its reason.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench import pages, schema, summary


def report(
    file: Annotated[Path, Parameter(help="the JSON file that a command of `gonets bench` wrote")],
    *,
    html: Annotated[Path | None, Parameter(help="where to draw it; default: beside the file, with .html")] = None,
) -> None:
    """Shows a report and draws its page again."""
    page = html or file.with_suffix(".html")
    try:
        if page.resolve() == file.resolve():
            raise schema.ReportError(f"--html {page}: that is the report itself; name another file")
        found = schema.read(file)
        pages.write(found, page)
    except (schema.ReportError, OSError) as error:
        said = error if isinstance(error, schema.ReportError) else f"{page}: {error.strerror or error}"
        print(f"gonets: bench: {said}", file=sys.stderr)
        raise SystemExit(1) from None
    summary.show(found)
    print(f"gonets: bench: {page}", file=sys.stderr)

"""A report as one self-contained HTML file: no network, no scripts, charts inlined as SVG.

`write` is what commands call when they end. Verdict and warnings come first, then the figures that one would read out,
then charts with their tables, at the end everything that one needs to measure it again. All text is escaped.

Cost: one to two seconds, most of it matplotlib's; nothing during a measurement.
"""

from __future__ import annotations

from pathlib import Path

from bench.schema import Report


def write(report: Report, path: Path) -> None:
    """The page, whole or not at all. Raises OSError, and ReportError for histograms that can't be read."""
    text = render(report)
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def render(report: Report) -> str:
    """The same as text."""
    from bench.pages import drawing, frame, markup, sections

    with drawing.styled():
        body = [frame.head(report), *sections.sections(report), frame.conditions(report)]
    return markup.page(f"{report.name}: {frame.kind_of(report)}, Gonets", "".join(body))

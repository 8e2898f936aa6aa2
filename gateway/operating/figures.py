"""The figures that alerts and panels compare with: limits of a configuration, by the names that expressions use.

Made once for each printing, from the configuration of the node (or the defaults, for the files of this folder); read
by rules.py and dashboard.py. An expression names a figure as `<free_bytes_min>`; `filled` puts the number there.

Invariants: a figure that an expression names is here; with workers, limits that hold for each worker are those of all.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from engine import Config, limits

JOB: Final = "gonets"
RUNBOOK: Final = "OPERATING.md"
LABEL: Final = re.compile(r"[A-Za-z0-9_./:@-]{1,128}")
ADDRESS: Final = re.compile(r"[^\s\"'\\{}]{1,1024}")
PLACE: Final = re.compile(r"<([a-z_]+)>")
SERIES: Final = re.compile(r"\b(?:instance:)?gonets_[a-z0-9_:]+")
SAVED_TWICE_SEGMENTS: Final = 2  # what must fit beside log.free_bytes_min: two segments, or the state once more


class FigureError(ValueError):
    """A word that can't stand in a rule: says which, and what it may be."""


class Figures(NamedTuple):
    """What expressions name, each with its unit."""

    job: str
    runbook: str
    free_bytes_min: int
    free_bytes_soon: int  # where the disk must be looked at
    memory_bytes_max: int  # the sum of `gonets config memory`
    buffers_bytes_max: int
    interest_entries_max: int
    unknown_sessions_max: int
    keys_age_s_max: int
    revoked_age_s: int  # where revocations must be looked at
    publish_wait_s_max: float


def figures_of(config: Config, job: str = JOB, runbook: str = RUNBOOK) -> Figures:
    """Of one node. FigureError for words that can't stand in a rule."""
    if not LABEL.fullmatch(job):
        raise FigureError(f"--job {job!r}: a job has 1 to 128 of letters, digits and _ . / : @ -")
    if not ADDRESS.fullmatch(runbook):
        raise FigureError(f"--runbook {runbook!r}: must be a path or URL without spaces, quotes and braces")
    workers = max(1, config.server.gateway_workers)
    log = config.log
    return Figures(
        job=job,
        runbook=runbook,
        free_bytes_min=log.free_bytes_min,
        free_bytes_soon=log.free_bytes_min + SAVED_TWICE_SEGMENTS * log.segment_bytes,
        memory_bytes_max=limits.total_bytes(limits.process_rows(config)),
        buffers_bytes_max=workers * config.gateway.buffers_bytes_max,
        interest_entries_max=workers * config.fanout.interest_entries_max,
        unknown_sessions_max=workers * config.admission.unknown_sessions_max,
        keys_age_s_max=config.auth.keys_age_s_max,
        revoked_age_s=max(60, 10 * config.auth.revoked_refresh_s),
        publish_wait_s_max=config.admission.publish_wait_ms_max / 1_000,
    )


def chosen(expr: str, labels: str) -> str:
    """The expression with labels, such as {job="gonets"}, on each series of ours that it names."""
    return SERIES.sub(lambda found: found[0] + labels, expr)


def filled(text: str, figures: Figures) -> str:
    """The text with its figures. KeyError for a name that is none: a mistake in a table."""
    values = figures._asdict()
    return PLACE.sub(lambda found: str(values[found[1]]), text)

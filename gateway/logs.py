"""What the process says on stderr: structlog, one line an occurrence, console on a terminal and JSON elsewhere.

Used by everybody in gateway/ through `structlog.get_logger()`. Lines are about the process: starts, drains, failures,
refusals by their code. Nothing of a message, a token or a claim is ever given to it, and no line is written per event.
"""

from __future__ import annotations

import logging
import sys

import structlog

_process: dict[str, str] = {}  # who this is among several
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, form: str, process: str = "") -> None:
    """Sets level and form; may be called again by a reload. `process` names one of several in each of its lines."""
    if process:
        _process["process"] = process
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            lambda logger, method, line: {**_process, **line},
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        # One write a line, its end included: several processes share stderr, and their lines must not run together.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )

"""What the process says on stderr: structlog, one line an occurrence, console on a terminal and JSON elsewhere.

Used by everybody in gateway/ through `structlog.get_logger()`. The engine says what it has to say through `logging`,
which it shares with the tools that open a log without a gateway (there the words come out bare); a handler here gives
those lines the same form. Lines are about the process: starts, drains, failures, refusals by their code. Nothing of a
message, a token or a claim is ever given to it, and no line is written per event.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

import structlog

ENGINE: Final = "engine"  # the loggers below it are ours; of other libraries, warnings and what is worse are heard
LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_process: dict[str, str] = {}  # who this is among several
_others: Final = logging.StreamHandler()  # one, however often configure() is called: a line must not come twice


def configure(level: str, form: str, process: str = "") -> None:
    """Sets level and form; may be called again by a reload. `process` names one of several in each of its lines."""
    if process:
        _process["process"] = process
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        # Plain: a traceback with the values of variables would show what no line may hold.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    before: list[structlog.typing.Processor] = [
        lambda logger, method, line: {**_process, **line},
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*before, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        # One write a line, its end included: several processes share stderr, and their lines must not run together.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _others.setStream(sys.stderr)
    _others.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.addHandler(_others)  # nothing if it is there
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger(ENGINE).setLevel(LEVELS[level])

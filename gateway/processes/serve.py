"""`gonets serve --workers N` from start to end: signals, and the life of one supervisor.

Called by gonets.py with a checked configuration, as gateway/serve.py is for a single process, and with the same
signals: SIGTERM or SIGINT drains and stops, a second one stops at once, SIGHUP reads the configuration again.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from engine import Config, limits
from gateway import logs
from gateway.processes.children import PATIENCE, Patience
from gateway.processes.program import COMMAND
from gateway.processes.supervisor import Supervisor
from gateway.session import log


def serve_processes(
    config: Config,
    ready: Callable[[dict[str, Any]], None],
    reload: Callable[[], Config] | None = None,
    *,
    take_over: bool = False,
    command: list[str] = COMMAND,
    patience: Patience = PATIENCE,
) -> None:
    """Runs until told to stop, or until a successor serves. `ready` gets the addresses. Raises StartError."""
    logs.configure(config.logging.level, config.logging.format, process="supervisor")
    if reason := limits.shortage(config):
        log.warning("memory", reason=reason)

    async def run() -> None:
        supervisor = Supervisor(config, take_over=take_over, reload=reload, command=command, patience=patience)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        loop.add_signal_handler(signal.SIGHUP, supervisor.read_again)
        await supervisor.run(ready)

    asyncio.run(run())

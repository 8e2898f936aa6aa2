"""The sequencer's process: the engine with its log, and the hub that workers' links lead to.

Started by child.py. Delivers nothing and knows no client: workers read the log themselves. A writer that is fenced
leaves the process up, so that workers say so to whoever publishes, and the supervisor to whoever asks /readyz.

States: opening → serving → ending (told, or orphaned: what was taken in is committed, the state saved) → exit.
"""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import msgspec

from engine import Config, CursorStore, Engine, Hub, config_changes
from gateway import logs
from gateway.listener import data_refused
from gateway.metrics import process_values
from gateway.parts import merged, open_engine
from gateway.processes import control
from gateway.processes.child import REPORT_S, listen
from gateway.processes.control import Channel, Drain, Link, Message, Ready, Reload, Report, Stop
from gateway.reading import stopped
from gateway.session import log


def run(channel: Channel, config: Config) -> None:
    """Serves until told to stop."""
    data = Path(config.server.data)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which a service manager may say to all: workers end first
    hub = Hub()
    try:
        engine = open_engine(config, data, on_answers=hub.answer, on_committed=hub.committed)
    except OSError as error:
        raise data_refused(config.server.data, error) from None
    try:
        # Made here, before a worker opens it: several at once would each take an empty directory for theirs.
        CursorStore.open(data / "cursors", interval_s=config.log.cursors_interval_s).close()
    except BaseException:
        engine.close()
        raise
    told = _Told(hub, config)
    listen(channel, told.handle)
    channel.send(Ready(durability=engine.durability))
    log.info("sequencer serves", sequence=engine.log.last_sequence, durability=engine.durability)
    reporter = _Reporter(channel, engine, hub)
    hub.run(engine, reporter.look)
    engine.close()
    hub.close()


class _Told:
    """What the supervisor says, on the channel's thread."""

    def __init__(self, hub: Hub, config: Config) -> None:
        self._hub, self._config = hub, config

    def handle(self, message: Message | None, descriptors: list[int]) -> None:
        """Links are the hub's; the end is everybody's; of what a reload may change only the logging is ours."""
        if isinstance(message, Link):
            self._hub.join(socket.socket(fileno=descriptors[0]))
            return
        control.close_all(descriptors)
        if isinstance(message, Reload):
            new = msgspec.msgpack.decode(message.config, type=Config)
            taken, restart = config_changes(self._config, new)
            self._config = merged(self._config, new, taken)
            logs.configure(self._config.logging.level, self._config.logging.format)
            log.info("configuration read again", taken=taken, needs_restart=restart)
        elif message is None or isinstance(message, Stop | Drain):
            self._hub.stop()


class _Reporter:
    """Tells the supervisor every second how it goes."""

    def __init__(self, channel: Channel, engine: Engine, hub: Hub) -> None:
        self._channel, self._engine, self._hub = channel, engine, hub
        self._due_s = 0.0
        self._words = ""

    def look(self) -> None:
        """Called often. What has changed is told at once; a supervisor that takes nothing is not waited for."""
        now_s = time.monotonic()
        failure, space = self._engine.sequencer.failure, self._engine.space
        words = ""
        if failure is not None:
            words = stopped(failure)
        elif space.look():
            words = space.words()
        if now_s < self._due_s and words == self._words:
            return
        self._due_s, self._words = now_s + REPORT_S, words
        values = {**self._engine.stats(), **process_values()}
        self._channel.send(Report(values=values, ready=not words, words=words or "ok"), wait=False)

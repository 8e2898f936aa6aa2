"""The backends' door as a process: the api part, with a Follower in the engine's place.

Started by child.py with the listening socket, which the supervisor holds and hands to a successor. It reads the log
itself and publishes over its link, as a worker does; what it alone writes is data/subscriptions, under data/api.lock: a
successor's part begins when this one has ended. Nothing of a consumer is known elsewhere: when the process dies, its
connections break, consumers join again, and what they had not acked is delivered again.

States: opening → serving → ending (told, or orphaned: answers under way, acks and positions synced) → exit. SIGTERM
ends this one alone: the supervisor starts another.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import uvloop

from engine import Config, Follower, config_changes, private
from gateway import logs
from gateway.api.in_force import Judging
from gateway.api.part import Part
from gateway.api.presence import Workers
from gateway.api.tokens import Tokens
from gateway.listener import StartError
from gateway.metrics import process_values
from gateway.parts import SPARE_DESCRIPTORS, merged, verifier_of
from gateway.processes import control
from gateway.processes.child import REPORT_S, listen
from gateway.processes.control import Channel, Drain, Link, Message, Ready, Reload, Report, Stop
from gateway.serve import calm_collector, raise_descriptor_limit
from gateway.session import log
from gateway.trust import Trust, TrustError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_NAME: Final = "api.lock"


def run(channel: Channel, config: Config, bound: socket.socket) -> None:
    """Serves until told to stop."""
    data = Path(config.server.data)
    raise_descriptor_limit(config.api.connections_max + SPARE_DESCRIPTORS)
    bound.setblocking(False)
    with _locked(data):
        uvloop.run(_Process(channel, config, bound).run())


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """One at a time; the kernel lets go of it when the process ends. Raises StartError."""
    descriptor = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, private.FILE_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # "in use": children.py tries again while whoever has it is on its way out.
            raise StartError(f"{data / LOCK_NAME} is in use by another api process; wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)


class _Process:
    """From opening to exit."""

    def __init__(self, channel: Channel, config: Config, bound: socket.socket) -> None:
        self._channel, self._config, self._bound = channel, config, bound
        self._trust = Trust(msgspec.structs.replace(config, tls=Config().tls), Path(config.server.data))
        try:
            self._trust.open()
        except TrustError as error:
            raise StartError(str(error)) from None
        self._verifier = verifier_of(self._trust.keys, config)
        self._follower: Follower
        self._part: Part
        self._told: asyncio.Queue[Message | None]
        self._second_timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """The whole of it."""
        loop = asyncio.get_running_loop()
        self._told = asyncio.Queue()
        loop.add_signal_handler(signal.SIGTERM, self._told.put_nowait, Stop())
        config, data = self._config, Path(self._config.server.data)
        self._follower = follower = Follower.open(data, shard=config.log.shard, wake=self._wake)
        self._trust.begin(None, lambda: None)
        who_may = Tokens(
            lambda: self._verifier,
            lambda: self._trust.revoked,
            ask_issuer=self._trust.ask_issuer,
            is_blind=lambda: self._trust.is_blind,
        )
        in_force = Judging(self._trust, lambda: self._config)
        self._part = part = Part(config, follower, follower.submit, who_may, in_force)
        workers = Workers(follower.signal, config.server.gateway_workers)
        follower.on_signal = workers.on_signal
        listen(self._channel, self._handle)
        try:
            await part.open(workers)
            await part.serve(self._bound)
            calm_collector()
            self._channel.send(Ready())
            log.info("api serves")
            self._second()
            await self._until_told()
        finally:
            if self._second_timer is not None:
                self._second_timer.cancel()
            await part.close()
            self._tell()
            self._trust.close()
            follower.close()
            log.info("api stopped")

    def _wake(self, answers: bytes | None) -> None:
        self._part.woken(answers)

    def _handle(self, message: Message | None, descriptors: list[int]) -> None:
        """On the channel's thread."""
        loop = self._part.loop
        if isinstance(message, Link):
            loop.call_soon_threadsafe(self._follower.join, loop, socket.socket(fileno=descriptors[0]))
            return
        control.close_all(descriptors)
        loop.call_soon_threadsafe(self._told.put_nowait, message)

    async def _until_told(self) -> None:
        while True:
            message = await self._told.get()
            if isinstance(message, Reload):
                self._reload(msgspec.msgpack.decode(message.config, type=Config))
            elif message is None or isinstance(message, Stop | Drain):
                return

    def _reload(self, new: Config) -> None:
        taken, restart = config_changes(self._config, new)
        self._config = merged(self._config, new, taken)
        self._verifier = verifier_of(self._trust.keys, self._config)
        logs.configure(self._config.logging.level, self._config.logging.format)
        self._trust.reload()
        log.info("configuration read again", taken=taken, needs_restart=restart)

    def _second(self) -> None:
        """Housekeeping, and the report that its supervisor waits for."""
        self._follower.second()
        self._trust.second()
        self._tell()
        self._second_timer = asyncio.get_running_loop().call_later(REPORT_S, self._second)

    def _tell(self) -> None:
        ready, words = self._part.readiness()
        values = {**self._part.values, **self._follower.stats(), **process_values()}
        self._channel.send(Report(values=values, ready=ready, words=words), wait=False)

"""A gateway worker's process: the gateway as in one process, with a Follower in the engine's place.

Started by child.py with the socket that clients connect to, which it shares with the other workers: whichever has time
accepts. Nothing of a session is known elsewhere; a worker that dies takes its connections with it, and its clients
resume on another.

States: opening → serving → draining → exit. SIGTERM drains this worker alone: the supervisor starts another.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from engine import Config, Follower
from gateway.bus import Bus, Shared
from gateway.metrics import process_values
from gateway.parts import SPARE_DESCRIPTORS
from gateway.processes import control
from gateway.processes.child import REPORT_S, listen
from gateway.processes.control import Channel, Drain, Link, Message, Ready, Reload, Report, Share, Stop
from gateway.reading import readiness, readings
from gateway.serve import calm_collector, raise_descriptor_limit, say_descriptors
from gateway.server import Gateway
from gateway.session import Door, log

LOOK_S = 0.1  # whether it is ready still, which is told at once


class Worker:
    """The surroundings of a gateway among others (gateway/parts.py: Surroundings)."""

    follows = True

    def __init__(self, config: Config, clients: socket.socket) -> None:
        self._config, self._clients = config, clients
        self.follower: Follower

    def sockets(self) -> tuple[socket.socket, socket.socket | None]:
        """The shared one; operators ask the supervisor."""
        return self._clients, None

    def engine(self, data: Path, wake: Callable[[bytes | None], None]) -> Follower:
        """Reads the log, and sends publishes to the sequencer."""
        self.follower = Follower.open(data, shard=self._config.log.shard, wake=wake)
        return self.follower

    def bus(self, door: Door) -> Bus:
        """Through the sequencer's process to the other workers."""
        shared = Shared(door, self.follower)
        self.follower.on_signal, self.follower.on_note = shared.on_signal, shared.on_note
        return shared

    def second(self) -> None:
        """Housekeeping of what is read."""
        self.follower.second()


def run(channel: Channel, config: Config, clients: socket.socket) -> None:
    """Serves until told to stop."""
    wanted = config.gateway.sessions_max + SPARE_DESCRIPTORS
    allowed = raise_descriptor_limit(wanted)
    clients.setblocking(False)
    surroundings = Worker(config, clients)
    gateway = Gateway(config, surroundings)
    try:
        gateway.open()
        say_descriptors(wanted, allowed)
        calm_collector()
        uvloop.run(_serve(channel, gateway, surroundings.follower))
    finally:
        gateway.release()


async def _serve(channel: Channel, gateway: Gateway, follower: Follower) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Queue[Message | None]()

    def handle(message: Message | None, descriptors: list[int]) -> None:
        """On the channel's thread."""
        if isinstance(message, Link):
            loop.call_soon_threadsafe(follower.join, loop, socket.socket(fileno=descriptors[0]))
            return
        control.close_all(descriptors)
        loop.call_soon_threadsafe(told.put_nowait, message)

    loop.add_signal_handler(signal.SIGTERM, told.put_nowait, Drain())
    await gateway.start()
    listen(channel, handle)
    channel.send(Ready())
    log.info("worker serves")
    reporting = asyncio.ensure_future(_report(channel, gateway))
    draining: asyncio.Future[None] | None = None
    while True:
        waiting = asyncio.ensure_future(told.get())
        await asyncio.wait({waiting} | ({draining} if draining else set()), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            break  # drained
        message = waiting.result()
        if isinstance(message, Reload):
            gateway.reload(msgspec.msgpack.decode(message.config, type=Config))
        elif isinstance(message, Share):
            gateway.share(message.sessions)
        elif isinstance(message, Drain):
            if message.handed_over:
                gateway.unlisten()
            draining = draining or asyncio.ensure_future(gateway.drain(handed_over=message.handed_over))
        elif message is None or isinstance(message, Stop):
            break
    if draining is not None:
        draining.cancel()
    reporting.cancel()
    _tell(channel, gateway)
    await gateway.stop()
    log.info("worker stopped")


async def _report(channel: Channel, gateway: Gateway) -> None:
    while True:
        _tell(channel, gateway)
        was_ready, until_s = readiness(gateway)[0], time.monotonic() + REPORT_S
        while time.monotonic() < until_s and readiness(gateway)[0] == was_ready:
            await asyncio.sleep(LOOK_S)


def _tell(channel: Channel, gateway: Gateway) -> None:
    ready, words = readiness(gateway)
    channel.send(Report(values={**readings(gateway), **process_values()}, ready=ready, words=words), wait=False)

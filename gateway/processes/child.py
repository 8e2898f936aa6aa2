"""A child of the supervisor, from its first message to its exit: `python -m gateway.processes.child DESCRIPTOR`.

The descriptor is its end of the control channel (control.py). A thread reads it for as long as the process lives and
hands messages to the role's thread. When the channel ends, the supervisor is gone: the child ends in order, and is
ended by force if that takes longer than ORPHAN_S: a second sequencer must not wait for an orphan that hangs.

Exit codes: 0 in order; 1 with a Failed message before: it can't serve, and starting it again changes nothing by itself;
anything else, or a signal: it died.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from engine import Config, EngineError
from gateway import logs
from gateway.listener import StartError
from gateway.processes import control
from gateway.processes.control import Channel, ControlError, Failed, Message, Start
from gateway.serve import SWITCH_INTERVAL_S
from gateway.session import log

ORPHAN_S: Final = 10.0
REPORT_S: Final = 1.0  # between two reports of a child to its supervisor
EXIT_FAILED: Final = 1
EXIT_ORPHAN: Final = 70

Handler = Callable[[Message | None, list[int]], None]
"""Takes each message with its descriptors, on the channel's thread; None: the supervisor is gone."""


def main() -> None:
    """The whole life of a child."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal says them to all; the supervisor tells what to do
        signal.signal(number, signal.SIG_IGN)
    try:
        received = channel.receive(wait=True)
    except ControlError as error:
        raise SystemExit(f"gonets: {error}") from None
    if received is None:
        return
    start, descriptors = received
    if not isinstance(start, Start):
        raise SystemExit(f"gonets: a child's first message was {type(start).__name__}, not Start")
    config = msgspec.msgpack.decode(start.config, type=Config)
    logs.configure(config.logging.level, config.logging.format, process=_name_of(start))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        if start.role == "sequencer":
            from gateway.processes import sequencer

            sequencer.run(channel, config)
        elif start.role == "api":
            from gateway.processes import api

            api.run(channel, config, socket.socket(fileno=descriptors[0]))
        else:
            from gateway.processes import worker

            worker.run(channel, config, socket.socket(fileno=descriptors[0]))
    except (StartError, EngineError) as error:
        channel.send(Failed(reason=str(error)))
        raise SystemExit(EXIT_FAILED) from None


def _name_of(start: Start) -> str:
    return f"worker {start.number}" if start.role == "worker" else start.role


def listen(channel: Channel, handle: Handler) -> None:
    """Hands on what the supervisor says, from now on, on a thread of its own."""
    threading.Thread(target=_listen, args=(channel, handle), name="control", daemon=True).start()


def _listen(channel: Channel, handle: Handler) -> None:
    while True:
        try:
            received = channel.receive(wait=True)
        except ControlError as error:
            log.error("the supervisor speaks another language", reason=str(error))
            received = None
        if received is None:
            end = threading.Timer(ORPHAN_S, os._exit, (EXIT_ORPHAN,))
            end.daemon = True
            end.start()
            handle(None, [])
            return
        message, descriptors = received
        try:
            handle(message, descriptors)
        except Exception as error:  # the channel must go on being read
            log.error("what the supervisor said could not be handled", kind=type(message).__name__, reason=str(error))
            control.close_all(descriptors)


if __name__ == "__main__":
    main()

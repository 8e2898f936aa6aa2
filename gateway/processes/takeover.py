"""One supervisor takes the place of another without a connection refused: both ends of data/supervisor.sock.

`Incumbent` is the end of the one that runs: it listens, hands out lock and sockets to one successor at a time, gives
links to its own sequencer, and hears that the successor serves. `Successor` is the other end. The steps are in
PROCESSES.md; what each side does between them is supervisor.py's. The end of the stream, however it comes about, means
the same as the end of the process: to the incumbent before `Serving`, that all stays as it was; to the successor, that
the other's children are told or orphaned, and that it may start a sequencer of its own.

Invariants: only root and the own user are heard; the name in the directory always leads to the one who serves, because
a socket is bound under another name and renamed; each LinkWanted has one answer, in order, with a descriptor or not.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from gateway.listener import StartError
from gateway.processes import control, sockets
from gateway.processes.control import VERSION, Channel, ControlError, Message
from gateway.session import log

SOCKET_NAME: Final = "supervisor.sock"
BACKLOG: Final = 8
ANSWER_S: Final = 10.0
UNNAMED: Final = ("lock", "clients", "admin")  # what `Sockets` without names brings
NAMED_SINCE: Final = 2  # version of control.py
CREDENTIALS: Final = struct.Struct("@iII")  # pid, uid, gid: struct ucred


@contextmanager
def _short(data: Path) -> Iterator[str]:
    """The directory by a name that fits into the 108 bytes of a socket's address, however long its own is."""
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}"
    finally:
        os.close(folder)


def peer(end: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the other end: of who connected, or of who listens."""
    pid, uid, _ = CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return pid, uid


def call(data: Path) -> Channel | None:
    """A channel to the supervisor that runs on this data directory; None if none does. Raises StartError."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _short(data) as folder:
            end.settimeout(ANSWER_S)
            end.connect(f"{folder}/{SOCKET_NAME}")
        uid = peer(end)[1]
        if uid != os.geteuid():
            raise StartError(f"{data / SOCKET_NAME} belongs to user {uid}: run as that user")
        return Channel(end)
    except (FileNotFoundError, ConnectionError):
        end.close()
        return None
    except OSError as error:
        end.close()
        raise StartError(f"{data / SOCKET_NAME}: {error.strerror or error}") from None
    except StartError:
        end.close()
        raise


class Holder(Protocol):
    """What the incumbent's end asks its supervisor."""

    def why_not(self) -> str:
        """Why it can't be taken over now, in one line; empty if it can."""

    def handed_out(self) -> dict[str, int]:
        """Descriptors: the lock, and the sockets that listen, by the names of sockets.NAMES."""

    def link_end(self) -> socket.socket | None:
        """One end of a new link to the sequencer; None while there is none."""

    def durability(self) -> str:
        """Of the log, once the sequencer is ready; else empty."""

    def successor_serves(self, pid: int) -> None:
        """Its workers do; now ours end."""

    def successor_died(self) -> None:
        """It did serve; ours may be needed again."""


class Incumbent:
    """Listens for a successor."""

    def __init__(self, data: Path, holder: Holder) -> None:
        self._data, self._holder = data, holder
        self._loop = asyncio.get_running_loop()
        self._channels: dict[Channel, int] = {}  # → pid
        self._successor: Channel | None = None
        self._is_serving = False
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Takes the name. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        passing = f"{SOCKET_NAME}.{os.getpid()}"
        with _short(self._data) as folder:
            with suppress(FileNotFoundError):
                os.unlink(f"{folder}/{passing}")
            mask = os.umask(0o177)
            try:
                listener.bind(f"{folder}/{passing}")
            except OSError:
                listener.close()
                raise
            finally:
                os.umask(mask)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            os.rename(f"{folder}/{passing}", f"{folder}/{SOCKET_NAME}")
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._knocked)

    def close(self) -> None:
        """Hears nobody any more. The name stays with a successor that serves, else it goes."""
        if self._listener is not None and not self._is_serving:
            with suppress(FileNotFoundError):
                os.unlink(self._data / SOCKET_NAME)
        self.deafen()
        self._successor = None
        for channel in list(self._channels):
            self._drop(channel)

    def deafen(self) -> None:
        """Lets nobody else in."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def open_again(self) -> None:
        """Takes the name back from a successor that has died, and may have taken it."""
        self.deafen()
        self._is_serving = False
        try:
            self.open()
        except OSError as error:
            log.error("can't be taken over any more", reason=error.strerror or str(error))

    def sequencer_ready(self) -> None:
        """There is a new sequencer: the successor asks for links anew."""
        if self._successor is not None:
            self._successor.send(control.Ready(durability=self._holder.durability()))

    @property
    def successor(self) -> int:
        """Its pid; 0 if there is none."""
        return self._channels.get(self._successor, 0) if self._successor is not None else 0

    def _knocked(self) -> None:
        assert self._listener is not None
        try:
            end, _ = self._listener.accept()
        except OSError:
            return
        pid, uid = peer(end)
        channel = Channel(end)
        if uid not in (0, os.geteuid()):
            log.warning("a stranger at the supervisor's socket", pid=pid, user=uid)
            channel.close()
            return
        self._channels[channel] = pid
        self._loop.add_reader(channel.fileno(), self._hear, channel)

    def _drop(self, channel: Channel) -> None:
        self._loop.remove_reader(channel.fileno())
        pid = self._channels.pop(channel)
        channel.close()
        if channel is self._successor:
            self._successor = None
            if self._is_serving:
                self._holder.successor_died()
            else:
                log.warning("the successor has gone before it served; all stays as it was", successor=pid)
                self.open_again()

    def _hear(self, channel: Channel) -> None:
        while channel in self._channels:
            try:
                found = channel.receive(wait=False)
            except BlockingIOError:
                return
            except ControlError as error:
                log.error("no successor of this program", pid=self._channels[channel], reason=str(error))
                found = None
            if found is None:
                self._drop(channel)
                return
            message, descriptors = found
            control.close_all(descriptors)
            self._answer(channel, message)

    def _answer(self, channel: Channel, message: Message) -> None:
        match message:
            case control.TakeOver():
                self._hand_out(channel, message.version)
            case control.LinkWanted() if channel is self._successor:
                if (end := self._holder.link_end()) is None:
                    channel.send(control.Link())
                    return
                with end:
                    channel.send(control.Link(), (end.fileno(),))
            case control.Serving() if channel is self._successor:
                self._is_serving = True
                self.deafen()
                self._holder.successor_serves(self._channels[channel])
            case _:
                self._drop(channel)

    def _hand_out(self, channel: Channel, version: int) -> None:
        pid = self._channels[channel]
        why = self._holder.why_not()
        if not why and self._successor is not None:
            why = f"process {self.successor} is taking its place already"
        if why:
            channel.send(control.Failed(reason=why))
            return
        log.info("a successor takes over", successor=pid, version=version)
        self._successor = channel
        given = self._holder.handed_out()
        if version < NAMED_SINCE:
            given = {name: given[name] for name in UNNAMED if name in given}
            channel.send(control.Sockets(pid=os.getpid(), version=VERSION), tuple(given.values()))
        else:
            message = control.Sockets(pid=os.getpid(), version=VERSION, names=tuple(given))
            channel.send(message, tuple(given.values()))
        if self._holder.durability():
            self.sequencer_ready()


class Successor:
    """Asks, gets, serves; then waits until the incumbent has gone."""

    def __init__(self, channel: Channel, pid: int) -> None:
        self.pid = pid
        self.durability = ""
        self.gone = asyncio.Event()
        self.link_ready: Callable[[], None] = lambda: None  # called when there is a (new) sequencer to link to
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._same_version = False
        self._answer: asyncio.Future[dict[str, int]] = self._loop.create_future()
        self._wanted: deque[Callable[[int], bool]] = deque()
        self._loop.add_reader(channel.fileno(), self._hear)

    async def ask(self) -> dict[str, int]:
        """Descriptors by name: lock, and the sockets that listen. Raises StartError."""
        self._channel.send(control.TakeOver(pid=os.getpid(), version=VERSION))
        try:
            return await asyncio.wait_for(self._answer, ANSWER_S)
        except TimeoutError:
            raise StartError(f"process {self.pid} doesn't answer a take-over within {ANSWER_S:.0f} s") from None

    def want_link(self, worker: int, give: Callable[[int], bool]) -> None:
        """`give` is called with a descriptor, soon or never: then `link_ready` comes later, or the end."""
        if self._same_version and self._channel.send(control.LinkWanted(worker=worker)):
            self._wanted.append(give)

    def serving(self) -> None:
        """The incumbent drains its workers, then ends."""
        self._channel.send(control.Serving())

    def close(self) -> None:
        """Leaves the incumbent alone."""
        if not self.gone.is_set():
            self.gone.set()
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()

    def _hear(self) -> None:
        while not self.gone.is_set():
            try:
                found = self._channel.receive(wait=False)
            except BlockingIOError:
                return
            except ControlError as error:
                log.error("the predecessor speaks another language", pid=self.pid, reason=str(error))
                found = None
            if found is None:
                self.close()
                self._refused(f"process {self.pid} went away while it was taken over; start again")
                return
            self._take(*found)

    def _refused(self, why: str) -> None:
        if not self._answer.done():
            self._answer.set_exception(StartError(why))

    def _take(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case control.Sockets() if not self._answer.done() and (found := _named(message.names, descriptors)):
                self._same_version = message.version == VERSION
                if not self._same_version:
                    log.warning("another version: no publishes until it is gone", theirs=message.version, ours=VERSION)
                self._answer.set_result(found)
                return
            case control.Failed():
                self._refused(f"process {self.pid} can't be taken over: {message.reason}")
            case control.Ready():
                self.durability = message.durability
                if self._same_version:
                    self.link_ready()
            case control.Link() if self._wanted:
                give = self._wanted.popleft()
                if descriptors:
                    give(descriptors[0])
            case _:
                log.error("the predecessor says what it should not", pid=self.pid, kind=type(message).__name__)
        control.close_all(descriptors)


def _named(names: tuple[str, ...], descriptors: list[int]) -> dict[str, int]:
    """The descriptors of a `Sockets` by name, those of a name that this version doesn't know closed; {} if it lacks
    what there must be."""
    if not names:
        names = UNNAMED[: len(descriptors)]
    if len(names) != len(descriptors) or not {"lock", "clients"} <= set(names) or len(set(names)) < len(names):
        return {}
    found = dict(zip(names, descriptors, strict=True))
    known = ("lock", *sockets.NAMES)
    control.close_all([descriptor for name, descriptor in found.items() if name not in known])
    return {name: descriptor for name, descriptor in found.items() if name in known}

"""Where listening sockets come from: systemd (LISTEN_FDS), or bound here. A take-over brings them by itself.

Asked by the supervisor and by the single process alike. A socket that systemd passes holds, whatever the address in
the configuration says: systemd's unit is then the place where addresses are written.

Invariants: what is returned listens, is TCP, non-blocking and closed-on-exec; the variables are gone afterwards, so
that no child takes them for its own; whatever can't be used is one StartError.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import ExitStack
from typing import Final, NamedTuple

from engine import Config, split_address
from gateway.listener import StartError, address_of, bind

FIRST_DESCRIPTOR: Final = 3  # sd_listen_fds(3)
NAMES: Final = ("clients", "admin", "api")  # FileDescriptorName= of the units; without it the order counts
VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Listening(NamedTuple):
    """The clients' socket; the operators' and the backends' unless server.admin, server.api is empty."""

    clients: socket.socket
    operators: socket.socket | None
    api: socket.socket | None = None
    is_held: bool = False  # by systemd too: whoever connects while nobody accepts waits for the next one who does

    def close(self) -> None:
        """Closes all."""
        for opened in (self.clients, self.operators, self.api):
            if opened is not None:
                opened.close()

    def named(self) -> dict[str, socket.socket]:
        """Those that there are, by the names of NAMES."""
        return {
            name: opened
            for name, opened in zip(NAMES, (self.clients, self.operators, self.api), strict=True)
            if opened is not None
        }


def open_sockets(config: Config, environment: MutableMapping[str, str] | None = None) -> Listening:
    """What systemd passed; what it didn't is bound as configured. Raises StartError."""
    with ExitStack() as undo:
        passed = activated(os.environ if environment is None else environment)
        for found in passed.values():
            undo.callback(found.close)
        clients = passed.get("clients") or undo.enter_context(bind("server.listen", config.server.listen))
        others = {"admin": passed.get("admin"), "api": passed.get("api")}
        for name, address in (("admin", config.server.admin), ("api", config.server.api)):
            if others[name] is None and address:
                others[name] = undo.enter_context(bind(f"server.{name}", address))
        undo.pop_all()
    return Listening(clients, others["admin"], others["api"], "clients" in passed)


def activated(environment: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """The sockets that systemd passed to this process, by name; none if it passed none. Takes the variables out."""
    pid, count, names = (environment.pop(name, "") for name in VARIABLES)
    if not count or pid != str(os.getpid()):  # another process's, inherited through a shell
        return {}
    if not count.isdigit() or not 1 <= int(count) <= len(NAMES):
        raise StartError(
            f"LISTEN_FDS = {count!r}: must be 1 to {len(NAMES)}: the clients' socket, the admin's, the api's"
        )
    found: dict[str, socket.socket] = {}
    try:
        for place, name in enumerate(_names(names, int(count))):
            found[name] = _checked(name, FIRST_DESCRIPTOR + place)
    except StartError:
        for opened in found.values():
            opened.close()
        raise
    return found


def _names(given: str, count: int) -> list[str]:
    """What each descriptor is for."""
    names = given.split(":") if given else []
    if not set(names) & set(NAMES):  # systemd's own default is the name of the unit
        return list(NAMES[:count])
    if len(names) != count or not set(names) <= set(NAMES) or len(set(names)) < count:
        raise StartError(
            f"LISTEN_FDNAMES = {given!r} with LISTEN_FDS = {count}: name each socket once, clients, admin or api"
            " (FileDescriptorName=), or none"
        )
    return names


def _checked(name: str, descriptor: int) -> socket.socket:
    """The descriptor as a socket, if it is one that clients can connect to."""
    change = "pass a listening TCP socket (ListenStream=host:port, Accept=no)"
    try:
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise StartError(f"descriptor {descriptor} ({name}) of LISTEN_FDS: {error.strerror}; {change}") from None
    try:
        if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
            raise StartError(f"descriptor {descriptor} ({name}) of LISTEN_FDS is no TCP socket; {change}")
        if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise StartError(f"descriptor {descriptor} ({name}) of LISTEN_FDS does not listen; {change}")
    except StartError:
        found.close()
        raise
    found.setblocking(False)
    found.set_inheritable(False)
    return found


def agrees(address: str, bound: socket.socket) -> bool:
    """Whether a socket that was taken over is bound where the configuration says; port 0 is any port."""
    host, port = split_address(address)
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    name = bound.getsockname()
    return any(place[0] == name[0] and port in (0, name[1]) for *_, place in places)


def taken_over(config: Config, given: dict[str, int]) -> Listening:
    """The sockets of the predecessor by name, checked against the configuration; all closed with a StartError."""
    for passed in activated(os.environ).values():  # by systemd, to one who takes over: it has better ones
        passed.close()
    with ExitStack() as undo:
        taken = {name: undo.enter_context(socket.socket(fileno=descriptor)) for name, descriptor in given.items()}
        clients = taken["clients"]
        if not agrees(config.server.listen, clients):
            raise StartError(
                f"server.listen = {config.server.listen!r}: a take-over keeps the clients' port, which is"
                f" {address_of(clients)}; write that, or stop the running server first"
            )
        others: dict[str, socket.socket | None] = {}
        for name, address in (("admin", config.server.admin), ("api", config.server.api)):
            found = taken.get(name)
            if found is not None and not (address and agrees(address, found)):
                found.close()
                found = None
            if found is None and address:
                found = undo.enter_context(bind(f"server.{name}", address))
            others[name] = found
        undo.pop_all()
    return Listening(clients, others["admin"], others["api"])

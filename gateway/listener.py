"""The clients' port: the bound socket, and the plain HTTP requests that come to it.

Between the operating system and the native poller, which accepts from the socket and shakes hands. Load balancers ask
/healthz and /readyz here; everything else that is no WebSocket upgrade is told where the door is.

Invariants: a port that is taken is one clear error at start; never a metric on the clients' port.
"""

from __future__ import annotations

import errno
import socket

from engine import split_address

BACKLOG = 4_096
CLIENTS_PATH = b"/v1"


class StartError(Exception):
    """The process can't start; the text is one line that says what to change."""


DATA_CHANGES = {
    errno.EEXIST: "a file lies there: name a directory, or a place where one can be made",
    errno.ENOTDIR: "a file lies where a directory should be: name another place",
    errno.ENOENT: "no directory can be made there: name another place",
    errno.EACCES: "start as a user who may write there, or name another place",
    errno.EPERM: "start as a user who may write there, or name another place",
    errno.EROFS: "name a place on a file system that can be written",
    errno.ENOSPC: "make room there, or name a place on another file system",
    errno.EDQUOT: "make room there, or name a place on another file system",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: "a link leads to itself: name another place",
}


def data_refused(data: str, error: OSError) -> StartError:
    """What the system has against the data directory, and what to change."""
    change = DATA_CHANGES.get(error.errno or 0, "name another place (--data)")
    return StartError(f"server.data = {data!r}: {error.strerror or error}; {change}")


def bind(option: str, address: str) -> socket.socket:
    """A listening, non-blocking socket."""
    host, port = split_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartError(
            f"{option} = {address!r}: {error.strerror or error}; write an address of this machine, or a name that it"
            " resolves, such as 127.0.0.1, or 0.0.0.0 for all"
        ) from None
    bound = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{option} = {address!r}: the port is taken; stop its user or choose another") from None
        change = {
            errno.EADDRNOTAVAIL: "; it is no address of this machine: take one of its own, or 0.0.0.0 for all",
            errno.EACCES: "; take a port of 1024 or above, or allow this one to the process",
        }.get(error.errno or 0, "")
        raise StartError(f"{option} = {address!r}: {error.strerror}{change}") from None
    bound.setblocking(False)
    return bound


def address_of(bound: socket.socket) -> str:
    """host:port as bound, with the port that the system chose for 0."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def answer(head: bytes, ready: bool, why: str) -> bytes:
    """The answer to a plain HTTP request; the connection ends with it."""
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    method, target = (parts[0], parts[1]) if len(parts) >= 2 else (b"", b"")
    path = target.split(b"?", 1)[0]
    if method not in (b"GET", b"HEAD"):
        return response(405, "only GET is served here; clients connect by WebSocket to /v1", method)
    if path == b"/healthz":
        return response(200, "ok", method)
    if path == b"/readyz":
        return response(200 if ready else 503, why, method)
    if path == CLIENTS_PATH:
        return response(426, "this is the clients' door: connect by WebSocket, with Upgrade: websocket", method)
    return response(404, "nothing here; clients connect by WebSocket to /v1", method)


REASONS = {
    200: "OK",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    503: "Service Unavailable",
}
MORE = {405: "Allow: GET, HEAD\r\n", 426: "Upgrade: websocket\r\n"}  # what these answers must name


def response(status: int, text: str, method: bytes = b"GET") -> bytes:
    """A whole HTTP/1.1 answer."""
    body = (text + "\n").encode()
    connection = "Upgrade, close" if status == 426 else "close"
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n{MORE.get(status, '')}Connection: {connection}\r\n\r\n"
    ).encode()
    return head if method == b"HEAD" else head + body

"""Thousands of connections that begin a handshake and never finish it; a child process, for its descriptors.

`python -m tests.support.crowd HOST PORT COUNT` opens them, prints how many there are, waits until all have ended, and
prints how many were told 408. Each holds half a head.
"""

from __future__ import annotations

import select
import socket
import sys
import time

HALF = b"GET /v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nX: "
ABREAST = 500  # connections that are being opened at a time
GIVE_UP_S = 50


def main(host: str, port: int, count: int) -> None:
    """Opens, waits, counts."""
    opened: dict[int, socket.socket] = {}
    ended = told = 0
    poll = select.epoll()
    began = time.monotonic()
    while len(opened) < count:
        batch = [socket.socket() for _ in range(min(ABREAST, count - len(opened)))]
        for one in batch:
            one.connect((host, port))
            one.send(HALF)
            one.setblocking(False)
            opened[one.fileno()] = one
            poll.register(one.fileno(), select.EPOLLIN)
    print(len(opened), flush=True)
    while ended < count and time.monotonic() - began < GIVE_UP_S:
        for number, _ in poll.poll(1):
            one = opened[number]
            try:
                told += one.recv(4_096).startswith(b"HTTP/1.1 408 ")
            except ConnectionError:
                pass
            poll.unregister(number)
            one.close()
            ended += 1
    print(ended, told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

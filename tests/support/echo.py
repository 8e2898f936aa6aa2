"""The echo application: the gateway's own listener and poller, with every message sent back as it came.

What Autobahn's cases are run against. Between socket and application nothing differs from a gateway but options: any
client, limits far up. `python -m tests.support.echo` serves until its standard input ends; tests start it as a child.
"""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ext.fanout import Fanout
from ext.interest import Interest
from ext.poller import Poller
from ext.ring import Ring
from ext.session_table import SessionTable
from gateway.listener import address_of, bind

ROOT = Path(__file__).resolve().parents[2]
MESSAGE_BYTES_MAX = 64 << 20
FOREVER_MS = 1 << 30
BUDGET_US = 5_000
LIVE = 4


class Echo:
    """One poller on one listening socket, turned by `serve`."""

    def __init__(self, listen: str = "127.0.0.1:0", sessions_max: int = 1_000, text_as_binary: bool = False) -> None:
        self.text_as_binary = text_as_binary  # wrong on purpose
        self.table = SessionTable(sessions_max)
        self.poller = Poller(
            self.table,
            any_client=True,
            frame_bytes_max=MESSAGE_BYTES_MAX,
            hello_timeout_ms=FOREVER_MS,  # there is no hello here
            ping_interval_ms=FOREVER_MS,
            idle_timeout_ms=FOREVER_MS + 1,
        )
        self.fanout = Fanout(self.table, Interest(self.table), Ring(1 << 20))
        self.bound = bind("listen", listen)
        self.url = f"ws://{address_of(self.bound)}"
        self.poller.listen(self.bound.fileno())

    def serve(self, until_fd: int) -> None:
        """Until that descriptor is readable."""
        waiting = select.poll()
        waiting.register(self.poller.fileno(), select.POLLIN)
        waiting.register(until_fd, select.POLLIN)
        more = False
        while not any(fd == until_fd for fd, _ in waiting.poll(0 if more else None)):
            more = self.turn()
        self.poller.shut()
        self.bound.close()

    def turn(self) -> bool:
        """One round; True if there is more to send."""
        batch = self.poller.run(BUDGET_US)
        size = 0
        for session, message in batch.commands:
            body = message.encode() if isinstance(message, str) else message
            self.poller.push(session, body if self.text_as_binary else message)
            size += len(body)
        if batch.commands:
            self.poller.handled(len(batch.commands), size)
        more = self.fanout.flush(BUDGET_US)
        for session in self.fanout.take_lost():
            self.poller.abort(session)
        return more


@contextmanager
def running(text_as_binary: bool = False) -> Iterator[str]:
    """An echo application in a child process; its address."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.echo", *(["--text-as-binary"] if text_as_binary else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert child.stdout is not None and child.stdin is not None
        url = child.stdout.readline().strip()
        assert url, f"the echo application ended with {child.wait(10)}"
        yield url
        child.stdin.close()
        assert child.wait(10) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    server = Echo(text_as_binary="--text-as-binary" in sys.argv)
    print(server.url, flush=True)
    server.serve(sys.stdin.fileno())

"""The lock of a data directory: one supervisor with its children at a time. data/supervisor.lock.

Every child inherits the descriptor, so the lock is free when the supervisor and the last of its orphans are gone: no
second sequencer beside one that ends slowly, no port that is still held. A successor gets the descriptor itself
(takeover.py), so the lock is never free between the two.

Invariants: never unlocked by call, which would unlock it for all who share it; never deleted. It holds the
supervisor's pid, for people and for the error of the next one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.session import log

LOCK_NAME: Final = "supervisor.lock"
LOOK_S: Final = 0.05
SAY_S: Final = 3.0


class DataLock:
    """Opened, then taken or adopted, then held to the end."""

    def __init__(self, data: Path) -> None:
        self.descriptor = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> bool:
        """Whether it is ours now."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.sign()
        return True

    async def take_within(self, most_s: float) -> bool:
        """Waits for the orphans of a supervisor that is gone; says so now and then."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        said_s = began_s - SAY_S
        while not self.take():
            now_s = loop.time()
            if now_s - began_s >= most_s:
                return False
            if now_s - said_s >= SAY_S:
                said_s = now_s
                log.warning("waiting for the orphans of a supervisor that is gone", supervisor=self.holder())
            await asyncio.sleep(LOOK_S)
        return True

    def adopt(self, descriptor: int) -> None:
        """Takes the place of ours: the predecessor's, locked."""
        os.close(self.descriptor)
        self.descriptor = descriptor

    def sign(self) -> None:
        """Writes whose it is, if there is room: it is for people."""
        with suppress(OSError):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, b"%d\n" % os.getpid(), 0)

    def holder(self) -> int:
        """The pid that took it last; 0 if none did."""
        text = os.pread(self.descriptor, 32, 0).strip()
        return int(text) if text.isdigit() else 0

    def close(self) -> None:
        """Free as soon as no child holds it."""
        os.close(self.descriptor)

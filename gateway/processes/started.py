"""One started child: its process, our end of its channel, and how we learn that it speaks, is silent, or has ended.

Made by children.py for each start; knows nothing of roles. Its end comes from the kernel (a pidfd becomes readable),
its words from its channel; what it said last is heard before its end is told, so that a `Failed` is never lost.

Invariants: only the pid that was started here is ever signalled, and only while it is not reaped; a child that says
nothing for `silence_s` after its Ready is killed, unless this process slept or told it to end; `ended` is called once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Final

from gateway.processes import control, program
from gateway.processes.control import ControlError, Message
from gateway.session import log

HANG_UP_S: Final = 5.0  # from the end of its channel to its own end
LATE_S: Final = 1.0  # a timer that comes later than this: this process slept, and so may have the messages


class Started:
    """From start to end."""

    def __init__(
        self,
        name: str,
        command: list[str],
        keep: tuple[int, ...],
        silence_s: float,
        heard: Callable[[Started, Message], None],
        ended: Callable[[Started], None],
    ) -> None:
        """Starts it; OSError if the system has no room for a process. `keep`: descriptors that it inherits."""
        self.name = name
        self.is_told = False  # to end: its end is then no death
        self.fate = ""  # how it ended, in words
        self._silence_s, self._heard, self._ended = silence_s, heard, ended
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_watched = self._is_deaf = False
        self._heard_s = self._look_s = 0.0
        self.gone = asyncio.Event()
        self.channel, theirs = control.pair()
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), name],
                stdin=subprocess.DEVNULL,
                stdout=2,  # ours is for one line of addresses
                pass_fds=(theirs.fileno(), *keep),
                start_new_session=True,  # Ctrl-C is for the supervisor, which tells its children in order
                env=program.environment(),
            )
        except OSError:
            self.channel.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self.started_s = self._loop.time()
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._on_end)
        self._loop.add_reader(self.channel.fileno(), self._on_words)

    def lived_s(self) -> float:
        """How long it runs, or ran."""
        return self._loop.time() - self.started_s

    def tell(self, message: Message, descriptors: tuple[int, ...] = ()) -> bool:
        """False if it doesn't hear any more; its end will say the rest."""
        if isinstance(message, control.Drain | control.Stop):
            self.is_told = True  # who saves the state reports nothing; from here on the end has its own limits
            if self._timer is not None:
                self._timer.cancel()
        return self.channel.send(message, descriptors)

    def kill(self) -> None:
        """SIGKILL; nothing if it has ended."""
        self._process.send_signal(signal.SIGKILL)

    def abandon(self) -> None:
        """Looks away from one that still runs: its channel ends, and so will it."""
        self._release()

    # ---- its words -------------------------------------------------------------------------------------------------

    def _on_words(self) -> None:
        while True:
            try:
                found = self.channel.receive(wait=False)
            except BlockingIOError:
                return
            except ControlError as error:
                log.error("a child speaks another language", child=self.name, pid=self.pid, reason=str(error))
                self.kill()
                self._deaf()
                return
            if found is None:
                if not self._is_deaf:
                    self._deaf()
                    if not self.is_told:
                        self._after(HANG_UP_S, self.kill)
                return
            message, descriptors = found
            control.close_all(descriptors)  # a child has none to give
            self._heard_s = self._loop.time()
            if not self._is_watched and not self.is_told and isinstance(message, control.Ready):
                self._is_watched = True
                self._look_in(self._silence_s)
            self._heard(self, message)

    def _deaf(self) -> None:
        self._is_deaf = True
        self._loop.remove_reader(self.channel.fileno())

    def _after(self, in_s: float, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(in_s, what)

    def _look_in(self, in_s: float) -> None:
        self._look_s = self._loop.time() + in_s
        self._after(in_s, self._look)

    def _look(self) -> None:
        """Whether it still speaks."""
        if self._loop.time() - self._look_s > LATE_S:
            self._heard_s = self._loop.time()
        self._on_words()
        left_s = self._heard_s + self._silence_s - self._loop.time()
        if self._is_deaf:
            return  # it has hung up: another timer runs
        if left_s > 0:
            self._look_in(left_s)
            return
        log.error("a child says nothing any more: killed", child=self.name, pid=self.pid, silence_s=self._silence_s)
        self.kill()

    # ---- its end ---------------------------------------------------------------------------------------------------

    def _on_end(self) -> None:
        self._on_words()
        code = self._process.wait()  # it has ended: this takes it from the kernel and doesn't wait
        self.fate = f"exit code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
        self._release()
        self.gone.set()
        self._ended(self)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._pidfd)
        self._deaf()
        os.close(self._pidfd)
        self.channel.close()

"""The supervisor: owns the sockets and the children, from the first start to the last exit or to a successor.

States: starting → serving → ending. Starting: lock, sockets, the sequencer, then the workers; or, over a predecessor:
its lock and sockets, workers on its sequencer, then, when it has gone, a sequencer of our own. Serving: children are
restarted (children.py), operators answered (operators.py), a successor is let in (takeover.py). Ending: workers drain,
the sequencer saves. It moves no client's byte: its loop is plain asyncio, awake a few times a second.

Invariants: whatever ends it while clients are served (signal, successor, a child that dies in a loop), workers end
before the sequencer, so that what they took in is answered; whatever keeps it from starting is one StartError.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine import Config, ConfigError, config_changes, private
from gateway import beforehand, logs
from gateway.listener import StartError, address_of, data_refused
from gateway.processes import control, operators, sockets, takeover
from gateway.processes.children import PATIENCE, Children, Patience
from gateway.processes.lock import LOCK_NAME, DataLock
from gateway.processes.merged import Merged
from gateway.processes.program import COMMAND
from gateway.session import log

if TYPE_CHECKING:
    from gateway.admin import Admin

DRAINING = "draining: this process is ending; send clients elsewhere"


class Supervisor:
    """Made and run once."""

    def __init__(
        self,
        config: Config,
        *,
        take_over: bool = False,
        reload: Callable[[], Config] | None = None,
        command: list[str] = COMMAND,
        patience: Patience = PATIENCE,
    ) -> None:
        self._config, self._reload = config, reload
        self._may_take_over, self._patience = take_over, patience
        self._data = Path(config.server.data)
        self._merged = Merged(operators.rules())
        self.children = Children(config, command, patience, self._merged, self._changed, self._failed)
        self._listening: sockets.Listening | None = None
        self._lock: DataLock | None = None
        self._incumbent: takeover.Incumbent | None = None
        self._predecessor: takeover.Successor | None = None
        self._admin: Admin | None = None
        self._look = asyncio.Event()  # something has changed
        self._begins_log = False
        self._told = asyncio.Event()
        self._again = asyncio.Event()
        self._failure: StartError | None = None
        self._announced: object = None  # the sequencer that a successor knows of
        self._successor = 0
        self._ending = ""  # why no new sessions: for /readyz

    # ---- from start to end -----------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[dict[str, Any]], None]) -> None:
        """Returns when all is over; StartError if it could not start, or had to give up."""
        try:
            if self._config.server.admin:  # brings a web server: loaded now, not between two steps of a take-over
                import gateway.admin  # noqa: F401
            await self._begin()
            if not self._is_over():
                self.children.is_serving = True  # from here on a child that dies is started again
                if self._predecessor is not None:
                    await self._succeed(self._predecessor, ready)
                else:
                    self._announce(ready)
            await self._until(lambda: False)
            while not await self._is_handed_over():
                await self._until(lambda: False)
            await self._end()
        finally:
            self._release()
        if self._failure is not None:
            raise self._failure
        log.info("stopped")

    def stop(self) -> None:
        """A signal: drains and ends; the second one ends at once."""
        log.info("told to end", at_once=self._told.is_set())
        (self._again if self._told.is_set() else self._told).set()
        self._look.set()

    def read_again(self) -> None:
        """A signal: reads the configuration again and hands it on."""
        if self._reload is None:
            return
        from gateway.parts import merged  # brings the native parts, which the supervisor has no other use for

        try:
            new = self._reload()
        except ConfigError as error:
            log.error("configuration not taken, the old one stays", reason=str(error))
            return
        taken, restart = config_changes(self._config, new)
        self._config = self.children.config = merged(self._config, new, taken)
        logs.configure(self._config.logging.level, self._config.logging.format)
        self.children.tell_all(control.Reload(config=msgspec.msgpack.encode(new)))
        log.info("configuration read again", taken=taken, needs_restart=restart)

    def _is_over(self) -> bool:
        return self._told.is_set() or self._failure is not None or self._successor != 0

    async def _until(self, done: Callable[[], bool]) -> bool:
        """Waits for something, or for the end; whether it was the former."""
        while not done():
            if self._is_over():
                return False
            self._look.clear()
            await self._look.wait()
        return not self._is_over()

    def _changed(self) -> None:
        self._look.set()
        sequencer = self.children.sequencer
        if sequencer.ready and sequencer.child is not self._announced and self._incumbent is not None:
            self._announced = sequencer.child
            self._incumbent.sequencer_ready()

    def _failed(self, why: str) -> None:
        if self._failure is None:
            if self.children.is_serving:
                log.critical("gives up: everything ends", reason=why)
            self._failure = StartError(why)
            self._look.set()

    # ---- start -----------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Until all children of the start are ready."""
        self._begins_log = beforehand.begins_log(self._config)
        try:
            private.make_folder(self._data)
            await asyncio.to_thread(beforehand.check_trust, self._config)  # may ask an issuer
            self._lock = DataLock(self._data)
            if not self._lock.take():
                await self._meet_holder()
            if self._predecessor is None:
                beforehand.check_writer(self._config, take_over=self._may_take_over)
                self._listening = sockets.open_sockets(self._config)
                self._answer_knocks()
                await self._serve_operators()
        except OSError as error:
            raise data_refused(self._config.server.data, error) from None
        children = self.children
        assert self._listening is not None
        children.lock = self._lock.descriptor
        children.listening["worker"] = self._listening.clients.fileno()
        if self._listening.api is not None:
            children.listening["api"] = self._listening.api.fileno()
        if self._predecessor is None:
            children.start([children.sequencer])
            if not await self._until(lambda: children.sequencer.ready):
                return
        # A predecessor's api keeps subscriptions until it ends: ours begins when that has gone.
        wanted = children.workers if self._predecessor is not None else children.readers
        children.start(wanted)
        await self._until(lambda: all(place.ready for place in wanted))

    async def _meet_holder(self) -> None:
        """Somebody has the lock: a supervisor, or what is left of one."""
        assert self._lock is not None
        channel = takeover.call(self._data)
        if channel is None:
            if await self._lock.take_within(self._patience.lock_s):
                return
            channel = takeover.call(self._data)  # it may have been about to start
        if channel is None:
            raise StartError(
                f"{self._data / LOCK_NAME} is held by what process {self._lock.holder()} has left behind, for"
                f" {self._patience.lock_s:.0f} s now; `fuser` names who holds it"
            )
        pid = takeover.peer(channel.socket)[0]
        if not self._may_take_over:
            channel.close()
            raise StartError(
                f"server.data = {self._config.server.data!r}: gonets runs already as process {pid};"
                " --take-over takes its place"
            )
        self._predecessor = takeover.Successor(channel, pid)
        given = await self._predecessor.ask()
        self._lock.adopt(given.pop("lock"))
        self._listening = sockets.taken_over(self._config, given)
        self._predecessor.link_ready = self.children.link_all
        self.children.predecessor = self._predecessor

    def _answer_knocks(self) -> None:
        self._incumbent = takeover.Incumbent(self._data, self)
        self._incumbent.open()

    async def _serve_operators(self) -> None:
        assert self._listening is not None
        if self._listening.operators is not None:
            from gateway.admin import Admin  # of no use where there is no admin address

            self._admin = Admin(operators.metrics_of(self.children, self._merged, self._readiness), self._readiness)
            await self._admin.start(self._listening.operators.dup())  # it closes what it gets; a successor may come

    def _readiness(self) -> tuple[bool, str]:
        predecessor = self._predecessor.pid if self.children.predecessor and self._predecessor else 0
        return operators.readiness(self.children, self._ending, predecessor)

    def _announce(self, ready: Callable[[dict[str, Any]], None]) -> None:
        """Says where it serves."""
        assert self._listening is not None
        scheme = "wss" if self._config.tls.certificate else "ws"
        admin = self._listening.operators
        durability = self.durability() or (self._predecessor.durability if self._predecessor is not None else "")
        addresses = {
            "url": f"{scheme}://{address_of(self._listening.clients)}/v1",
            "admin": f"http://{address_of(admin)}" if admin is not None else "",
            "api": f"http://{address_of(self._listening.api)}" if self._listening.api is not None else "",
            "data": str(self._data.resolve()),
            "durability": durability,
            "workers": len(self.children.workers),
            "new_log": self._begins_log,
        }
        log.info("serving", **addresses)
        ready(addresses)

    async def _succeed(self, predecessor: takeover.Successor, ready: Callable[[dict[str, Any]], None]) -> None:
        """Our workers serve: the predecessor drains its own and ends; then our sequencer begins."""
        assert self._lock is not None
        try:
            self._answer_knocks()
        except OSError as error:  # it goes on, and so does whoever looks for a supervisor here
            raise StartError(f"{self._data / takeover.SOCKET_NAME}: {error.strerror or error}") from None
        await self._serve_operators()
        self._lock.sign()
        predecessor.serving()
        is_announced = predecessor.durability != "" and not predecessor.gone.is_set()
        if is_announced:  # else there is no sequencer yet to publish by
            self._announce(ready)
        log.info("takes the place of another", predecessor=predecessor.pid)
        gone = asyncio.ensure_future(predecessor.gone.wait())
        gone.add_done_callback(lambda _: self._look.set())
        if await self._until(gone.done):
            log.info("the predecessor has gone", predecessor=predecessor.pid)
            self.children.predecessor = None
            self.children.start([self.children.sequencer])
            if await self._until(lambda: self.children.sequencer.ready):
                self.children.start(self.children.api)
                if not is_announced:
                    self._announce(ready)
        gone.cancel()

    # ---- what a successor asks (takeover.Holder) -------------------------------------------------------------------

    def why_not(self) -> str:
        """Why it can't be taken over now."""
        if self._is_over():
            return "it is ending"
        if not self.children.is_serving:
            return "it is still starting; try again when it serves"
        if self.children.predecessor is not None and self._predecessor is not None:
            return f"it is still taking the place of process {self._predecessor.pid}; try again when that has gone"
        return ""

    def handed_out(self) -> dict[str, int]:
        """Lock, and the sockets that listen."""
        assert self._lock is not None and self._listening is not None
        named = self._listening.named()
        return {"lock": self._lock.descriptor, **{name: opened.fileno() for name, opened in named.items()}}

    def link_end(self) -> socket.socket | None:
        """One end of a new link."""
        return self.children.link_end()

    def durability(self) -> str:
        """Of the log."""
        return self.children.sequencer.durability if self.children.sequencer.ready else ""

    def successor_serves(self, pid: int) -> None:
        """The end of this one."""
        self._successor = pid
        self._look.set()

    def successor_died(self) -> None:
        """Our workers are in a hurry to end, so that others can begin."""
        log.error("the successor has died", successor=self._successor)
        self._successor = 0
        if self._ending:
            self._again.set()
        elif self._incumbent is not None:
            self._incumbent.open_again()

    # ---- the end ---------------------------------------------------------------------------------------------------

    async def _is_handed_over(self) -> bool:
        """Whether this is the end. If it is by a successor, our workers leave; should it die meanwhile, new ones are
        started here and all goes on: then, and only then, False."""
        if not self._successor:
            return True
        log.info("hands over", successor=self._successor, drain_s=self._config.server.drain_s)
        await self._end_workers()
        if self._successor or self._told.is_set() or self._failure is not None:
            return True
        self._again.clear()
        self._ending = ""
        log.warning("takes its place back")
        assert self._incumbent is not None and self._lock is not None
        self._lock.sign()
        self._incumbent.open_again()
        self.children.start(self.children.workers)
        await self._serve_operators()
        return False

    async def _end(self) -> None:
        log.info("ends", successor=self._successor or None)
        await self._end_workers()
        patience = self._patience
        # After the workers, so that backends hear of what clients said last; before who answers its publishes.
        await self.children.end(self.children.api, control.Stop(), patience.api_end_s, asyncio.Event())
        await self.children.end([self.children.sequencer], control.Stop(), patience.sequencer_end_s, asyncio.Event())
        await self._close_admin()

    async def _end_workers(self) -> None:
        children, patience = self.children, self._patience
        self._ending = DRAINING
        drain_s: float = self._config.server.drain_s
        if self._failure is not None:
            drain_s = min(drain_s, patience.give_up_drain_s)
        if self._successor:
            await self._close_admin()
        is_held = self._successor != 0 or (self._listening is not None and self._listening.is_held)
        message = control.Drain(handed_over=is_held) if children.is_serving else control.Stop()
        await children.end(children.workers, message, drain_s + patience.worker_end_s, self._again)

    async def _close_admin(self) -> None:
        if self._admin is not None:
            await self._admin.stop()
            self._admin = None

    def _release(self) -> None:
        """Lets go of everything; whoever is left of the children ends by the end of its channel."""
        self.children.abandon()
        if self._incumbent is not None:
            self._incumbent.close()
        if self._predecessor is not None:
            self._predecessor.close()
        if self._listening is not None:
            self._listening.close()
        if self._lock is not None:
            self._lock.close()

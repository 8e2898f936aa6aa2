"""From the configuration to the parts: the one place where options become plain arguments.

Used by server.py when it puts the gateway together and by a reload. Hot code receives ints, never the configuration.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from engine import Admission, Config, Engine, networks
from ext.doorway import Doorway
from ext.poller import Poller
from ext.session_table import SessionTable
from gateway.auth import KeySource, Verifier
from gateway.bus import Alone as Nobody
from gateway.bus import Bus
from gateway.load import Load, Progress
from gateway.processes.sockets import open_sockets

if TYPE_CHECKING:
    from engine import Follower
    from gateway.api.thread import Fork
    from gateway.session import Door

SPARE_DESCRIPTORS = 512  # segments, state, threads, the admin's connections


class Surroundings(Protocol):
    """What a gateway finds around it: alone in its process, or a worker among others (processes/worker.py)."""

    follows: bool
    """Whether the log is written elsewhere: then it may be ahead of what the tail was woken for."""

    def sockets(self) -> tuple[socket.socket, socket.socket | None]:
        """Listening ones: the clients', the operators'. Raises StartError."""
        ...

    def engine(self, data: Path, wake: Callable[[bytes | None], None]) -> Engine | Follower:
        """What reads the log and takes publishes."""
        ...

    def bus(self, door: Door) -> Bus:
        """To the other workers."""
        ...

    def second(self) -> None:
        """Called once a second."""
        ...


class Alone:
    """One process does it all."""

    follows = False

    def __init__(self, config: Config) -> None:
        self._config = config
        self._engine: Engine | None = None
        self.api: socket.socket | None = None  # the backends'
        self.fork: Fork | None = None  # where there is an api

    def sockets(self) -> tuple[socket.socket, socket.socket | None]:
        """systemd's, or bound as configured."""
        listening = open_sockets(self._config)
        self.api = listening.api
        return listening.clients, listening.operators

    def engine(self, data: Path, wake: Callable[[bytes | None], None]) -> Engine:
        """The log with its writer."""
        if self.api is not None:
            from gateway.api.thread import Fork  # brings what only the backends' door needs

            self.fork = Fork(wake)
            on_answers, on_committed = self.fork.answers, self.fork.committed
            self._engine = open_engine(self._config, data, on_answers=on_answers, on_committed=on_committed)
        else:
            self._engine = open_engine(self._config, data, on_answers=wake, on_committed=lambda sequence: wake(None))
        return self._engine

    def bus(self, door: Door) -> Bus:
        """Nobody else."""
        return Nobody()

    def second(self) -> None:
        """Housekeeping of what is read."""
        if self._engine is not None:
            self._engine.second()

    def release(self) -> None:
        """Lets go of the backends' port, whatever state the start has reached."""
        if self.api is not None:
            self.api.close()


def open_engine(
    config: Config, data: Path, *, on_answers: Callable[[bytes], None], on_committed: Callable[[int], None]
) -> Engine:
    """The engine of the data directory; it calls from its committer's thread."""
    log = config.log
    engine = Engine.open(
        data,
        on_answers=on_answers,
        on_committed=on_committed,
        shard=log.shard,
        segment_bytes=log.segment_bytes,
        intake_bytes_max=log.intake_bytes_max,
        save_events_max=log.save_events_max,
        save_interval_s=log.save_interval_s,
        group_members_max=config.conversations.group_members_max,
        free_bytes_min=log.free_bytes_min,
    )
    engine.retain(data, keep_bytes=log.keep_bytes, keep_days=log.keep_days)
    return engine


def sessions_room(config: Config) -> int:
    """Sessions that this process takes: what is configured, as far as its descriptors reach. Beyond it, 503: a crowd at
    the door must not take the descriptors that the log needs for its next segment."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = config.gateway.sessions_max if soft == resource.RLIM_INFINITY else soft - SPARE_DESCRIPTORS
    return max(1, min(config.gateway.sessions_max, room - backends_room(config)))


def backends_room(config: Config) -> int:
    """Connections of backends that this process takes beside its sessions: what is configured, at most a quarter of
    its descriptors. None where they come to a process of their own."""
    if not config.server.api or config.server.gateway_workers:
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = config.api.connections_max if soft == resource.RLIM_INFINITY else (soft - SPARE_DESCRIPTORS) // 4
    return max(1, min(config.api.connections_max, room))


def make_poller(sessions: SessionTable, config: Config) -> Poller:
    """The native loop of sockets with its limits."""
    gateway = config.gateway
    return Poller(
        sessions,
        frame_bytes_max=gateway.frame_bytes_max,
        handshake_bytes_max=gateway.handshake_bytes_max,
        doorway=make_doorway(config.admission),
        connects_per_s_max=gateway.connects_per_s_max,
        rate_per_s=gateway.rate_per_s,
        rate_burst=gateway.rate_burst,
        unanswered_max=gateway.unanswered_max,
        hello_timeout_ms=gateway.hello_timeout_s * 1_000,
        ping_interval_ms=gateway.ping_interval_s * 1_000,
        idle_timeout_ms=gateway.idle_timeout_s * 1_000,
        slow_timeout_ms=gateway.slow_timeout_s * 1_000,
    )


def make_doorway(admission: Admission) -> Doorway:
    """Who may stand between accept and hello."""
    return Doorway(
        places_max=admission.unknown_sessions_max,
        address_max=admission.address_unknown_max,
        connects_per_s=admission.address_connects_per_s_max,
        connects_burst=admission.address_burst_connects,
        failed_cost=admission.failed_hello_connects,
        proxies=networks(admission.proxy_from) if admission.proxy_protocol == "required" else None,
    )


def make_load(poller: Poller, progress: Callable[[], Progress], config: Config) -> Load:
    """What decides about shedding."""
    admission = config.admission
    return Load(poller, progress, admission.publish_wait_ms_max / 1_000, admission.members_per_s_max)


def verifier_of(keys: KeySource, config: Config) -> Verifier:
    """Who checks tokens, with the settings of now."""
    auth = config.auth
    return Verifier(keys, auth.audience, auth.issuer, auth.leeway_s)


def merged(old: Config, new: Config, taken: list[str]) -> Config:
    """The old configuration with those options of the new one that a reload takes."""
    sections = {}
    for name in {option.split(".")[0] for option in taken}:
        fields = [option.split(".")[1] for option in taken if option.startswith(name + ".")]
        section = getattr(new, name)
        sections[name] = msgspec.structs.replace(
            getattr(old, name), **{field: getattr(section, field) for field in fields}
        )
    return msgspec.structs.replace(old, **sections)

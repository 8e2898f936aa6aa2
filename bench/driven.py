"""What is driven: a server that is started here, with so many workers, or one that somebody else runs.

Used by drive.py. Both say where they are, whose tokens they take, whether they are still there, and which of their
processes can be looked at. A target that is given is asked for nothing but what clients ask for.

Invariant: a server that was started here is stopped with the run; nothing is ever stopped that was not.
"""

from __future__ import annotations

import os
import signal
import socket
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench import schema
from bench.clients import DEVICE, certificate, command
from bench.founding import connector
from bench.harness import SETTINGS, BenchError, Child
from bench.sampling import Watched
from bench.tokens import Signer, key_of, new_key, write_public
from ext.loadgen import LoadGenerator

KEY_NAME: Final = "bench"
AUDIENCE: Final = "gonets"
ANSWER_S: Final = 5.0
BAD_TOKEN: Final = 4501  # close code of PROTOCOL.md
SAVED_S: Final = 90.0  # a server that ends in order has saved its state by then, and its children have ended
# What protects a server from one client, beside what is lifted for all benchmarks: thousands of groups made at once.
MORE_SETTINGS: Final = {"GONETS_ADMISSION_MEMBERS_PER_S_MAX": "1000000"}


class Driven(ABC):
    """Somebody to measure."""

    host: str
    port: int
    path: str
    tls: bool
    key_pem: bytes
    key_name: str
    audience: str

    @property
    def url(self) -> str:
        """As people write it."""
        return f"{'wss' if self.tls else 'ws'}://{self.host}:{self.port}{self.path}"

    @abstractmethod
    def check(self) -> None:
        """BenchError if it is gone."""

    def watched(self) -> list[Watched]:
        """Its processes, as far as they are known."""
        return []

    def kill_worker(self) -> bool:
        """SIGKILL to one that serves clients; False if there is none."""
        return False

    @abstractmethod
    def stop(self) -> None:
        """If it was started here."""

    @abstractmethod
    def described(self) -> schema.Target:
        """For the report."""


class Started(Driven):
    """`gonets serve`, on a data directory of the run's folder."""

    def __init__(self, folder: Path, workers: int, tls: bool, configuration: dict[str, str] | None = None) -> None:
        self.folder, self.workers, self.tls = folder, workers, tls
        self.key_pem, self.key_name, self.audience = new_key(), KEY_NAME, AUDIENCE
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = (
            SETTINGS
            | MORE_SETTINGS
            | {
                "GONETS_SERVER_DATA": str(folder / "data"),
                "GONETS_AUTH_KEYS": str(write_public(self.key_pem, KEY_NAME, folder / "keys.json")),
            }
            | (certificate(folder) if tls else {})
            | (configuration or {})
        )
        self._start()

    def _start(self) -> None:
        arguments = ["serve", "--json", *(["--workers", str(self.workers)] if self.workers else [])]
        self._child = Child("gonets", arguments, self.environment, self.folder)
        self.host, self.port, self.path = self._child.host, self._child.port, "/v1"

    def restart(self, workers: int) -> None:
        """Stops it and starts it on the same data with so many workers: memory as of fresh processes."""
        self._child.stop(SAVED_S)
        self.workers = workers
        self._start()

    def check(self) -> None:
        """Its first process is there."""
        if not self._child.alive:
            raise BenchError(f"the server has ended by itself: {self._child.last_words()}")

    def watched(self) -> list[Watched]:
        """All its processes, by the names that they go under."""
        found = []
        for pid in self._child.processes():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            names = [word.decode() for word in words if word == b"sequencer" or word.startswith(b"worker ")]
            if names:
                found.append(Watched(names[0].split()[0], names[0], pid))
            elif pid == self._child.pid:
                found.append(Watched("supervisor" if self.workers else "server", "gonets serve", pid))
        return found

    def kill_worker(self) -> bool:
        """The first worker."""
        workers = [one for one in self.watched() if one.role == "worker"]
        if not workers:
            return False
        os.kill(workers[0].pid, signal.SIGKILL)
        return True

    def anonymous_bytes(self) -> int:
        """Memory of all its processes that is no file's."""
        return self._child.anonymous_bytes()

    def stop(self) -> None:
        """SIGTERM."""
        self._child.stop()

    def described(self) -> schema.Target:
        """With what differs from an operator's defaults."""
        shown: dict[str, Any] = {
            name: value for name, value in self.environment.items() if not name.endswith(("_DATA", "_KEYS", "_KEY"))
        }
        return schema.Target(
            url=self.url,
            started_here=True,
            workers=self.workers,
            durability=str(self._child.ready.get("durability", "")),
            configuration=shown,
        )


class Given(Driven):
    """A server at a URL."""

    def __init__(self, url: str, token_key: Path | None, key_name: str, audience: str) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme not in ("ws", "wss") or not parts.hostname or port is None:
            raise BenchError(f"--target {url!r}: must be ws://HOST:PORT/v1 or wss://HOST:PORT/v1")
        if token_key is None:
            raise BenchError("--target needs --token-key PATH: the private key (PEM) whose tokens that server takes")
        self.key_pem, self.key_name, self.audience = key_of(token_key), key_name, audience
        self.path, self.tls, self.port, self.host = parts.path or "/v1", parts.scheme == "wss", port, parts.hostname
        try:
            socket.getaddrinfo(self.host, port, socket.AF_INET, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # of a name that can't be one, too
            words = error.strerror if isinstance(error, OSError) else "no name of a host"
            raise BenchError(f"--target {url!r}: {self.host}: {words}; name an IPv4 host") from None
        self.check()

    def greet(self) -> None:
        """One says hello with a token of the key, and leaves; BenchError with the server's words if it is refused."""
        generator = LoadGenerator(1)
        signer = Signer(self.key_pem, self.key_name, self.audience)
        generator.add(command("hello", token=signer.token(1), device=DEVICE, protocol=1))
        try:
            connector(self.host, self.port, self.path, self.tls, ANSWER_S)(generator)
        except BenchError:
            raise BenchError(f"--target {self.url}: {self._refusal(generator.stats())}") from None
        finally:
            generator.close()

    def _refusal(self, said: dict[str, Any]) -> str:
        """What a hello that failed says of the other side."""
        code, text = said["last_close"], said["last_text"]
        if code == BAD_TOKEN:
            return f"it refused the token: key, kid or audience ({code}, {text!r})"
        if self.tls and not said["sends"]:  # the request leaves behind the handshake
            return "no Gonets gateway answered: TLS failed; of a port without TLS name it as ws://"
        if not said["dead"]:
            return f"no Gonets gateway answered within {ANSWER_S:g} s"
        if text.startswith("HTTP/"):
            return f"no Gonets gateway answered: it said {text!r}; name a gateway and its path, /v1"
        if code or text:
            return f"it ended the session: close code {code}, {text!r}"
        return (
            "no Gonets gateway answered: it closed the connection without a word; of a port with TLS name it as wss://"
        )

    def check(self) -> None:
        """Somebody listens."""
        try:
            socket.create_connection((self.host, self.port), ANSWER_S).close()
        except OSError as error:
            raise BenchError(f"--target {self.url}: nobody answers: {error.strerror or error}") from None

    def stop(self) -> None:
        """It goes on."""

    def described(self) -> schema.Target:
        """What can be said of somebody else's."""
        return schema.Target(url=self.url, started_here=False)

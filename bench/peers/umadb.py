"""UmaDB: an event store over gRPC, driven by its own Python client.

The PyPI package umadb holds the client and the server. Appends are synced before they are answered. Its client is Rust
below Python: one of it isn't the limit of batches and of reading; hundreds of clients, or of subscriptions, in one
Python process would be, so these aren't measured.
"""

from __future__ import annotations

import importlib
import math
import queue
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from bench.peers.child import PeerError, PeerServer, free_port, said_by
from bench.peers.drive import DRAIN_S, STORE_S, Watch, fill_of, quantiles
from bench.peers.jobs import EVENT_BYTES, MESSAGE_BYTES, Job, Outcome, Scale
from bench.peers.system import Found, Places, System, on_path
from ext.peerload import STAMP

TYPE: Final = "message"
WRITERS: Final = 8  # of the latency job
READ_EACH: Final = 1_000
CLIENT_LIMIT: Final = "not measured: so many of its Python clients in one process would be the limit"


class UmaDb(System):
    """Its defaults."""

    name = family = "umadb"
    title = "UmaDB"
    get_it = "pip install umadb (the server and its client), or cargo install umadb and --umadb for another server"
    note = f"defaults, its Python client; latency of one subscription and {WRITERS} writers"
    durabilities: ClassVar = dict.fromkeys(("append", "latency", "read"), "fsync")
    not_its_job: ClassVar = {
        "fanout": CLIENT_LIMIT,
        "memory": CLIENT_LIMIT,
        "append-100-clients": CLIENT_LIMIT,
        "append-1000-clients": CLIENT_LIMIT,
    }

    def find(self, places: Places) -> Found | None:
        """The server, and the client beside this Python."""
        path = on_path(places.umadb, "umadb", str(Path(sys.executable).with_name("umadb")))
        try:
            importlib.import_module("umadb")
        except ImportError:
            return None
        if path is None:
            return None
        version = re.search(r"(\d+\.\S+)", said_by([str(path), "--version"]))
        return Found(path, version[1] if version else "unknown")

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run against a fresh server."""
        umadb, port = importlib.import_module("umadb"), free_port()
        command = [str(found.path), "--listen", f"127.0.0.1:{port}", "--db-path", str(place / "uma.db")]
        with PeerServer(command, place, port) as server:
            client = umadb.Client(f"http://127.0.0.1:{port}", batch_size=READ_EACH)
            try:
                if job.kind == "latency":
                    return Paced(umadb, client, server, scale).measured()
                value = STAMP + fill_of(EVENT_BYTES)
                writer = Writer(umadb, client, value, job.at_once)
                return writer.append(server, scale) if job.kind == "append" else writer.read(server, scale)
            except (umadb.TransportError, RuntimeError) as error:
                server.check()
                raise PeerError(f"umadb: {error}") from None
            finally:
                client.close()


class Writer:
    """Appends equal events, so many at once."""

    def __init__(self, umadb: Any, client: Any, value: bytes, count: int) -> None:
        self.client, self.value, self.count, self.stored = client, value, count, 0
        self.events = [umadb.Event(TYPE, value) for _ in range(count)]

    def _append(self, until: Callable[[], bool]) -> list[float]:
        waits = []
        while not until():
            began = time.perf_counter()
            position = self.client.append(self.events)
            waits.append(time.perf_counter() - began)
            self.stored += self.count
            if position != self.stored:
                raise PeerError(f"the position after {self.stored:,} events is {position:,}")
        return waits

    def append(self, server: PeerServer, scale: Scale) -> Outcome:
        """For some seconds."""
        until = time.monotonic() + scale.warmup_s
        self._append(lambda: time.monotonic() >= until)
        watch, began, cpu = Watch(server), time.monotonic(), time.process_time()
        until = began + scale.seconds
        waits = self._append(lambda: time.monotonic() >= until)
        seconds, busy = time.monotonic() - began, time.process_time() - cpu
        values = quantiles(np.array([1e9 * wait for wait in waits], "<u8").tobytes())
        values |= {"generator_cpu_cores": round(busy / seconds, 3), "server_cpu_cores": watch.cores()}
        events = len(waits) * self.count
        return Outcome(events / seconds, values, {}, events)

    def read(self, server: PeerServer, scale: Scale) -> Outcome:
        """All of it, positions and bytes compared."""
        deadline = time.monotonic() + STORE_S
        self._append(lambda: self.stored >= scale.stored or time.monotonic() > deadline)
        watch, began, cpu = Watch(server), time.monotonic(), time.process_time()
        seen = disordered = corrupted = 0
        response = self.client.read()
        while batch := response.next_batch():
            for found in batch:
                seen += 1
                disordered += found.position != seen
            corrupted += batch[-1].event.data != self.value
        seconds, busy = time.monotonic() - began, time.process_time() - cpu
        values = {"generator_cpu_cores": round(busy / seconds, 3), "server_cpu_cores": watch.cores()}
        wrong = {"lost": self.stored - seen, "disordered": disordered, "corrupted": corrupted}
        return Outcome(seen / seconds, values, {name: n for name, n in wrong.items() if n}, self.stored)


class Paced:
    """An open loop of Poisson arrivals; writers in threads, since the client waits for each answer."""

    def __init__(self, umadb: Any, client: Any, server: PeerServer, scale: Scale) -> None:
        self.umadb, self.client, self.server, self.scale = umadb, client, server, scale
        self.fill = fill_of(MESSAGE_BYTES)
        self.due: list[float] = []
        self.asked: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.waits: dict[int, float] = {}
        self.failures: list[str] = []

    def _write(self) -> None:
        try:
            while (index := self.asked.get()) is not None:
                stamp = b"GNPL%016x%016x" % (index, 0)
                self.client.append([self.umadb.Event(TYPE, stamp + self.fill)])
        except Exception as error:  # of a foreign client: whatever it is, the run is over
            self.failures.append(str(error))

    def _listen(self, subscription: Any) -> None:
        try:
            for found in subscription:
                data, now = bytes(found.event.data), time.perf_counter()
                index = int(data[4:20], 16)
                if data[len(STAMP) :] == self.fill and index not in self.waits:
                    self.waits[index] = now - self.due[index]
        except self.umadb.CancelledByUserError:
            pass
        except Exception as error:  # the same
            self.failures.append(str(error))

    def measured(self) -> Outcome:
        """Warms up, measures, waits for the rest."""
        subscription = self.client.subscribe()
        threads = [threading.Thread(target=self._write, daemon=True) for _ in range(WRITERS)]
        threads.append(threading.Thread(target=self._listen, args=(subscription,), daemon=True))
        for thread in threads:
            thread.start()
        watch, cpu, began = Watch(self.server), time.process_time(), time.perf_counter()
        first = began + self.scale.warmup_s
        last = first + self.scale.seconds
        self._pace(began, last)
        for _ in range(WRITERS):
            self.asked.put(None)
        while len(self.waits) < len(self.due) and not self.failures and time.perf_counter() < last + DRAIN_S:
            time.sleep(0.01)
        wall, busy = time.perf_counter() - began, time.process_time() - cpu
        values = {"generator_cpu_cores": round(busy / wall, 3), "server_cpu_cores": watch.cores()}
        subscription.cancel()
        for thread in threads:
            thread.join(DRAIN_S)
        inside = [wait for index, wait in self.waits.items() if self.due[index] >= first]
        if self.failures or not inside:
            raise PeerError(f"umadb: {(self.failures or ['nothing came'])[0]}")
        values |= quantiles(np.array([1e9 * wait for wait in inside], "<u8").tobytes())
        values["rate_per_s"] = round(len(inside) / self.scale.seconds)
        lost = len(self.due) - len(self.waits)
        return Outcome(values["p50_ms"], values, {"lost": lost} if lost else {}, len(self.due))

    def _pace(self, due: float, last: float) -> None:
        drawn = random.Random(1)
        while due < last and not self.failures:
            if (now := time.perf_counter()) < due:
                time.sleep(due - now)
            self.due.append(due)
            self.asked.put(len(self.due) - 1)
            due += -math.log(1.0 - drawn.random()) / self.scale.rate_per_s

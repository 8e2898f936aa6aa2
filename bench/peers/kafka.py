"""Kafka: one broker of one node, with its default flush and with a sync of every message.

Its jars come from Maven and run where Java is; the client is kafka_wire.py: one connection, acks of all replicas, one
batch under way (latency: five, as its own producer has, and what waits meanwhile is the next batch). Kafka's own answer
to a crash are replicas, not syncs, hence the row without them. Batches are compared whole.
"""

from __future__ import annotations

import base64
import math
import random
import re
import select
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from bench.peers.child import PeerError, PeerServer, free_port, said_by
from bench.peers.drive import DRAIN_S, STORE_S, Watch, quantiles
from bench.peers.jobs import EVENT_BYTES, MESSAGE_BYTES, Job, Outcome, Scale
from bench.peers.kafka_wire import Batch, Connection, batches_of
from bench.peers.system import Found, Places, System

TOPIC: Final = b"bench"
HEAP: Final = "-Xmx1g"
FETCH_BYTES: Final = 4 << 20
READY_S: Final = 20.0
IN_FLIGHT: Final = 5


class Run:
    """A connection that produces, and counts."""

    def __init__(self, server: PeerServer, value_bytes: int, count: int) -> None:
        self.server = server
        self.connection = Connection(server.host, server.port)
        self.value = bytes(97 + i % 26 for i in range(value_bytes))
        self.batch = Batch(self.value, count)
        self.number = 0

    def begin(self) -> None:
        """Makes the topic; its first batch is in."""
        until = time.monotonic() + READY_S
        self.connection.make_topic(TOPIC)
        while self.connection.produce(TOPIC, self.batch.numbered(1)):
            if time.monotonic() > until:
                raise PeerError(f"the topic had no leader within {READY_S:.0f} s")
            time.sleep(0.05)
        self.number = 1

    def produce(self, until: Callable[[], bool]) -> list[float]:
        """One batch after the other; the seconds of each."""
        waits = []
        while not until():
            data, began = self.batch.numbered(self.number + 1), time.perf_counter()
            if error := self.connection.produce(TOPIC, data):
                raise PeerError(f"the broker refused batch {self.number + 1} with error {error}")
            waits.append(time.perf_counter() - began)
            self.number += 1
        return waits


class Kafka(System):
    """Its defaults: the page cache, and replicas where there are any."""

    name = "kafka"
    family = "kafka"
    title = "Kafka"
    get_it = (
        "mvn dependency:copy-dependencies of org.apache.kafka:kafka_2.13 and org.slf4j:slf4j-simple into a folder, java"
        " 17, and --kafka-libs with the folder"
    )
    flush = ""
    note = f"one node, acks=all, no flush.messages (its default), {HEAP}; latency of one pair"
    promised: ClassVar = "none (page cache of one node)"
    durabilities: ClassVar = dict.fromkeys(("append", "latency", "read"), promised)
    not_its_job: ClassVar = {
        "fanout": "thousands of consumers of one partition each fetch for themselves",
        "memory": "its heap doesn't follow the number of connections",
        "append-100-clients": "not measured: one connection is, its own clients are processes in Java",
        "append-1000-clients": "not measured: one connection is, its own clients are processes in Java",
    }

    def find(self, places: Places) -> Found | None:
        """The jars, and Java."""
        java = shutil.which("java")
        if places.kafka_libs is None or java is None:
            return None
        for jar in sorted(places.kafka_libs.glob("kafka_2.*.jar")):
            if version := re.fullmatch(r"kafka_2\.\d+-(.+)\.jar", jar.name):
                return Found(places.kafka_libs.resolve(), version[1])
        return None

    def start(self, found: Found, folder: Path) -> PeerServer:
        """Formats its folder, then serves."""
        port, control = free_port(), free_port()
        address, controller = f"127.0.0.1:{port}", f"127.0.0.1:{control}"
        config = folder / "server.properties"
        config.write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@{controller}\n"
            f"listeners=PLAINTEXT://{address},CONTROLLER://{controller}\n"
            "controller.listener.names=CONTROLLER\noffsets.topic.replication.factor=1\n"
            "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n"
            f"message.max.bytes={FETCH_BYTES}\nlog.dirs={folder / 'logs'}\n{self.flush}\n"
        )
        java = ["java", HEAP, "-cp", f"{found.path}/*"]
        name = base64.urlsafe_b64encode(b"\x01" + uuid.uuid4().bytes[1:]).decode().rstrip("=")  # never a "-" in front
        said = said_by([*java, "kafka.tools.StorageTool", "format", "-t", name, "-c", str(config)])
        if not (folder / "logs" / "meta.properties").exists():
            raise PeerError(f"Kafka's folder was not formatted: {' '.join(said.split())[-300:]}")
        return PeerServer([*java, "kafka.Kafka", str(config)], folder, port, says=b"Kafka Server started")

    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run against a fresh broker."""
        with self.start(found, place) as server:
            run = Run(server, MESSAGE_BYTES if job.kind == "latency" else EVENT_BYTES, job.at_once)
            try:
                run.begin()
                if job.kind == "append":
                    return self._append(run, scale)
                return self._latency(run, scale) if job.kind == "latency" else self._read(run, scale)
            except OSError as error:
                server.check()
                raise PeerError(f"the broker: {error}") from None
            finally:
                run.connection.close()

    def _append(self, run: Run, scale: Scale) -> Outcome:
        until = time.monotonic() + scale.warmup_s
        run.produce(lambda: time.monotonic() >= until)
        watch, began, cpu = Watch(run.server), time.monotonic(), time.process_time()
        until = began + scale.seconds
        waits = run.produce(lambda: time.monotonic() >= until)
        seconds, busy = time.monotonic() - began, time.process_time() - cpu
        values = quantiles(np.array([1e9 * wait for wait in waits], "<u8").tobytes())
        values |= {"generator_cpu_cores": round(busy / seconds, 3), "server_cpu_cores": watch.cores()}
        events = len(waits) * run.batch.count
        return Outcome(events / seconds, values, {}, events)

    def _read(self, run: Run, scale: Scale) -> Outcome:
        """All batches again, each compared; two fetches aren't under way at once."""
        wanted, deadline = scale.stored // run.batch.count, time.monotonic() + STORE_S
        run.produce(lambda: run.number >= wanted or time.monotonic() > deadline)
        if run.number < wanted:
            raise PeerError(f"{run.number * run.batch.count:,} events were stored within {STORE_S:.0f} s")
        watch, began, cpu = Watch(run.server), time.monotonic(), time.process_time()
        number = corrupted = 0
        while number < wanted and time.monotonic() < began + STORE_S:
            run.connection.ask(TOPIC, number * run.batch.count, FETCH_BYTES)
            records = run.connection.fetched(TOPIC).records
            for batch, _ in batches_of(records):
                number += 1
                corrupted += not run.batch.same(batch, number)
        seconds, busy = time.monotonic() - began, time.process_time() - cpu
        values = {"generator_cpu_cores": round(busy / seconds, 3), "server_cpu_cores": watch.cores()}
        wrong = {"lost": (wanted - number) * run.batch.count, "corrupted": corrupted * run.batch.count}
        events = number * run.batch.count
        return Outcome(events / seconds, values, {name: n for name, n in wrong.items() if n}, wanted * run.batch.count)

    def _latency(self, run: Run, scale: Scale) -> Outcome:
        """One pair, an open loop of Poisson arrivals, measured from when each was due."""
        consumer = Connection(run.server.host, run.server.port)
        try:
            found = Paced(run, consumer, scale).measured()
        finally:
            consumer.close()
        return found


class Paced:
    """The open loop of one producer and one consumer, in one thread."""

    def __init__(self, run: Run, consumer: Connection, scale: Scale) -> None:
        self.run, self.consumer, self.scale = run, consumer, scale
        self.due: list[float] = []  # of each message that was sent, from number 2 on
        self.late: list[float] = []
        self.waits: list[float] = []
        self.waiting: list[float] = []  # due, but five are unanswered
        self.batches: dict[int, Batch] = {}
        self.seen = 1
        self.corrupted = self.unanswered = 0

    def measured(self) -> Outcome:
        """Warms up, measures, waits for the rest."""
        random_of = random.Random(1)
        watch, cpu, began = Watch(self.run.server), time.process_time(), time.perf_counter()
        first, last = began + self.scale.warmup_s, began + self.scale.warmup_s + self.scale.seconds
        due = began
        self.consumer.ask(TOPIC, self.seen, FETCH_BYTES)
        while (now := time.perf_counter()) < last + DRAIN_S and not (due >= last and self._all_seen()):
            while due <= now and due < last:
                self.waiting.append(due)
                due += -math.log(1.0 - random_of.random()) / self.scale.rate_per_s
            if self.waiting and self.unanswered < IN_FLIGHT:
                self._send(now)
            self._take(max(min(due, last) - time.perf_counter(), 0.0) if due < last else 0.05)
        wall, busy = time.perf_counter() - began, time.process_time() - cpu
        inside = [wait for wait, when in zip(self.waits, self.due, strict=False) if when >= first]
        if not inside:
            raise PeerError("nothing came in the measured time")
        values = quantiles(np.array([1e9 * wait for wait in inside], "<u8").tobytes())
        values |= {"generator_cpu_cores": round(busy / wall, 3), "server_cpu_cores": watch.cores()}
        values |= {"rate_per_s": round(len(inside) / self.scale.seconds)}
        values |= {"late_p99_ms": quantiles(np.array([1e9 * x for x in self.late], "<u8").tobytes())["p99_ms"]}
        wrong = {"lost": self.run.number - self.seen, "corrupted": self.corrupted}
        return Outcome(values["p50_ms"], values, {name: n for name, n in wrong.items() if n}, self.run.number)

    def _all_seen(self) -> bool:
        return not self.waiting and self.seen == self.run.number

    def _batch(self, count: int) -> Batch:
        if count not in self.batches:
            self.batches[count] = Batch(self.run.value, count)
        return self.batches[count]

    def _send(self, now: float) -> None:
        """All that waits, as one batch with the number of its first message."""
        self.run.connection.send_batch(TOPIC, self._batch(len(self.waiting)).numbered(self.run.number + 1))
        self.run.number += len(self.waiting)
        self.due += self.waiting
        self.late += [now - due for due in self.waiting]
        self.waiting.clear()
        self.unanswered += 1

    def _take(self, seconds: float) -> None:
        """What comes within so many seconds."""
        producer = self.run.connection
        readable, _, _ = select.select([producer.socket, self.consumer.socket], [], [], seconds)
        if producer.socket in readable:
            producer.produced(TOPIC)
            self.unanswered -= 1
        if self.consumer.socket not in readable:
            return
        records, now = self.consumer.fetched(TOPIC).records, time.perf_counter()
        for batch, count in batches_of(records):
            self.corrupted += 0 if self._batch(count).same(batch, self.seen + 1) else count
            self.waits += [now - due for due in self.due[self.seen - 1 : self.seen - 1 + count]]
            self.seen += count
        self.consumer.ask(TOPIC, self.seen, FETCH_BYTES)


class KafkaFlushed(Kafka):
    """Synced before each answer."""

    name = "kafka-flushed"
    title = "Kafka, flush.messages=1"
    flush = "log.flush.interval.messages=1"
    note = f"one node, acks=all, log.flush.interval.messages=1, {HEAP}; latency of one pair"
    durabilities: ClassVar = dict.fromkeys(("append", "latency", "read"), "fsync")

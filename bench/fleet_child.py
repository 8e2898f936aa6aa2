"""One process of a fleet: thousands of connections, driven by what the parent says over its standard input.

Started by fleet.py as `python -m bench.fleet_child`; ends when its input ends. It signs the tokens of its own users,
connects them, publishes from the moment that the parent names, and says each second what it has counted; the parent
alone judges. Standard output carries messages and nothing else; what goes wrong goes to standard error.

Invariant: between two looks at the parent's words at most SLICE_NS pass while it runs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Final

import msgpack

from bench.clients import DEVICE, command, context_for, fill_of, publish_template
from bench.fleet_wire import (
    Channel,
    ChannelError,
    Done,
    Drain,
    Failed,
    Finish,
    Follow,
    FromChild,
    Open,
    Plan,
    Publish,
    Result,
    Start,
    Storm,
    StreamPlan,
    Tick,
    ToChild,
)
from bench.harness import BenchError
from bench.tokens import Signer
from ext.loadfleet import FleetGenerator

SLICE_NS: Final = 50_000_000
TICK_NS: Final = 1_000_000_000
DRAIN_TICK_NS: Final = 200_000_000
OPENING_S: Final = 0.25
AT_ONCE: Final = 2_000  # commands under way
COMMANDS_S: Final = 60.0
KINDS: Final = ("receipt", "deliver", "refused", "late")
SUMMED: Final = ("sent", "receipts", "refused", "expected", "deliveries", "slow_deliveries", "corrupted")
GENERAL: Final = (
    "connections",
    "live",
    "dead",
    "away",
    "pending",
    "broken",
    "disordered",
    "doubled",
    "missing",
    "gaps",
    "gapped",
    "unmatched",
    "bytes_in",
    "connects",
    "dropped",
    "resumes",
    "back_from_ns",
    "back_to_ns",
)
IN_WINDOW: Final = {
    "published": "sent_in_window",
    "receipts": "receipts_in_window",
    "refused": "refused_in_window",
    "deliveries": "deliveries_in_window",
}


class Process:
    """All of one process."""

    def __init__(self, channel: Channel, plan: Plan) -> None:
        self.channel, self.plan = channel, plan
        self.generator = FleetGenerator(max(len(plan.users), 1))
        self.cpu_from = self.cpu_s = 0.0
        self.bytes_from = self.bytes_to = 0
        self.window_s = 0.0
        self.draining = False
        self.marks: list[tuple[int, bool]] = []  # ends of the window that are still to come
        self._sign()
        self._streams()

    # ---- preparing ------------------------------------------------------------------------------------------------

    def _sign(self) -> None:
        signer = Signer(self.plan.key_pem, self.plan.key_name, self.plan.audience)
        self.generator.place(self.plan.number_from, self.plan.source, self.plan.pending_max)
        for user in self.plan.users:
            hello = {"op": "hello", "token": signer.token(user), "device": DEVICE, "protocol": 1}
            self.generator.add(msgpack.packb(hello))
        for connection in self.plan.slow:
            self.generator.slow(connection)

    def _streams(self) -> None:
        for plan in self.plan.streams:
            fill = fill_of(plan.payload_bytes_max)
            stream = self.generator.stream(
                fill, in_flight=plan.in_flight, per_send=plan.per_send, rate_per_s=plan.rate_per_s
            )
            self.generator.draw(
                stream, arrivals=plan.arrivals, sizes=plan.sizes, pauses=plan.pauses, profile=plan.profile
            )
            self._targets(stream, plan)

    def _targets(self, stream: int, plan: StreamPlan) -> None:
        size = min(size for size, _ in plan.sizes)  # where it is drawn, the rest of a payload is the stream's fill
        writers: list[tuple[int, int]] = []
        for target in plan.targets:
            number = self.generator.target(
                stream, *publish_template(target.kind, target.number, size), target.recipients
            )
            writers += [(connection, number) for connection in target.writers]
        # Whoever is next is somebody else's neighbour: turns go through conversations, not through one of them.
        step = next(step for step in (7_919, 7_907, 7_901, 1) if not writers or len(writers) % step)
        for turn in range(len(writers)):
            self.generator.writer(stream, *writers[turn * step % len(writers)])

    # ---- what the parent says -------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until Finish."""
        self.channel.send(Done("prepared", count=len(self.plan.users)))
        while True:
            said = self._next()
            if isinstance(said, Open):
                self._open(said)
            elif isinstance(said, Follow):
                self._follow(said)
            elif isinstance(said, Start):
                if self._run(said):
                    break
            elif isinstance(said, Finish):
                self._finish()
                break
        self.generator.close()

    def _next(self) -> ToChild | FromChild:
        """The parent's next word; meanwhile sockets are read, and pings answered."""
        while True:
            said = self.channel.receive(0.0)
            if said is not None:
                return said
            self.generator.advance(time.monotonic_ns() + SLICE_NS)

    def _open(self, said: Open) -> None:
        tls = context_for(self.plan.host) if self.plan.tls else None
        self.generator.head(self.plan.host, self.plan.port, self.plan.path, tls)
        began = time.monotonic()
        while not self.generator.opening(OPENING_S, said.per_second) and time.monotonic() - began < said.deadline_s:
            self._tick()
            if self.channel.receive(0.0) is not None:
                raise BenchError("told something else while connecting")
        stats = self.generator.stats()
        if stats["live"] < len(self.plan.users):
            raise BenchError(
                f"{stats['live']:,} of {len(self.plan.users):,} sessions are live after"
                f" {time.monotonic() - began:.1f} s, {stats['dead']:,} refused or broken; {stats['last_words']}"
            )
        self._tick()
        self.channel.send(Done("connected", time.monotonic() - began, stats["live"]))

    def _follow(self, said: Follow) -> None:
        began = time.monotonic()
        for first in range(0, len(said.pairs), AT_ONCE):
            some = said.pairs[first : first + AT_ONCE]
            for connection, channel in some:
                counter = self.generator.next_counter(connection)
                self.generator.command(connection, command("follow", counter=counter, conversation=channel))
            if not self._answered(len(some)):
                raise BenchError(f"not all of {len(some):,} follow commands were answered in {COMMANDS_S:.0f} s")
        self.channel.send(Done("followed", time.monotonic() - began, len(said.pairs)))

    def _answered(self, count: int) -> bool:
        until = time.monotonic() + COMMANDS_S
        receipts: list[tuple[int, int, str, int, int]] = []
        while len(receipts) < count and time.monotonic() < until:
            self.generator.settle(0.05)
            receipts += self.generator.take_receipts()
        refused = [status for _, _, status, _, _ in receipts if status != "appended"]
        if refused:
            raise BenchError(f"{len(refused):,} of {count:,} follow commands were refused: {refused[0]}")
        return len(receipts) == count

    # ---- running --------------------------------------------------------------------------------------------------

    def _run(self, start: Start) -> bool:
        """From Start to Finish; True when that has been said."""
        generator = self.generator
        generator.start(start.at_ns, start.window_ns, start.count_to_ns, start.ping_interval_s)
        marks = self.marks = [(start.window_ns, True), (start.window_end_ns, False)]
        storms: list[Storm] = []
        tick_ns, every_ns = start.at_ns, TICK_NS
        while True:
            now = time.monotonic_ns()
            until = min([now + SLICE_NS, tick_ns, *(at for at, _ in marks), *(storm.at_ns for storm in storms)])
            generator.advance(until)
            now = time.monotonic_ns()
            if marks and now >= marks[0][0]:
                self._window(marks.pop(0)[1])
            for storm in [one for one in storms if now >= one.at_ns]:
                self._drop(storm)
                storms.remove(storm)
            if now >= tick_ns:
                self._tick()  # the first when publishing begins, then at whole seconds of the window
                tick_ns += every_ns if tick_ns > start.at_ns else (start.window_ns - start.at_ns) % TICK_NS or TICK_NS
            said = self.channel.receive(0.0)
            if isinstance(said, Storm):
                storms.append(said)
            elif isinstance(said, Publish):
                self._publish_once(said)
            elif isinstance(said, Drain):
                self.draining = True
                generator.stop_publishing()
                generator.read_slowly(0)
                tick_ns, every_ns = now, DRAIN_TICK_NS
            elif isinstance(said, Finish):
                self._finish()
                return True

    def _window(self, begins: bool) -> None:
        self.generator.window(begins)
        received = self.generator.stats()["bytes_in"]
        if begins:
            self.generator.read_slowly(self.plan.slow_bytes_per_s if self.plan.slow else 0)
            self.cpu_from, self.window_s, self.bytes_from = time.thread_time(), time.monotonic(), received
        else:
            self.cpu_s, self.window_s = time.thread_time() - self.cpu_from, time.monotonic() - self.window_s
            self.bytes_to = received

    def _drop(self, storm: Storm) -> None:
        self.generator.expect_breaks(not storm.connections, storm.away_s)
        for connection in storm.connections:
            self.generator.drop(connection, storm.away_s)

    def _publish_once(self, said: Publish) -> None:
        self.generator.publish_once(said.stream, said.writer)

    def _counts(self) -> dict[str, int]:
        stats = self.generator.stats()
        found = {name: int(stats[name]) for name in GENERAL}
        each = [self.generator.stream_stats(i) for i in range(stats["streams"])]
        for name in SUMMED:
            found[name] = sum(counts[name] for counts in each)
        return found

    def _tick(self) -> None:
        tick = self.generator.tick()
        stats = self.generator.stats()
        words = str(stats["last_words"]) if stats["last_close"] or stats["last_text"] else ""
        self.channel.send(
            Tick(time.monotonic_ns(), self._counts(), tick["deliver"], tick["max_ns"], words, self.draining)
        )

    def _finish(self) -> None:
        generator = self.generator
        if len(self.marks) == 1:
            self._window(False)  # it was ended in its midst
        histograms = {which: generator.counters(0, which) for which in ("hello", "resume")}
        window = {"bytes_in": self.bytes_to - self.bytes_from}
        for number in range(len(self.plan.streams)):
            histograms |= {f"{which} {number}": generator.counters(number, which) for which in KINDS}
            counts = generator.stream_stats(number)
            for name, count in IN_WINDOW.items() if len(self.marks) < 2 else ():
                window[name] = window.get(name, 0) + counts[count]
        cores = self.cpu_s / self.window_s if self.window_s and self.cpu_s else 0.0
        self.channel.send(Result(self._counts(), window, histograms, cores, str(generator.stats()["last_words"])))


def main() -> int:
    """The program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this one
    out = os.dup(1)
    os.dup2(2, 1)
    channel = Channel(0, out, ToChild)
    try:
        plan = channel.receive(3_600.0)
        if not isinstance(plan, Plan):
            raise BenchError("the first word of a fleet's parent must be its plan")
        Process(channel, plan).serve()
    except ChannelError:
        return 1  # the parent is gone
    except (BenchError, OSError, ValueError, MemoryError) as error:
        try:
            channel.send(Failed(str(error)))
        except ChannelError:
            pass
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

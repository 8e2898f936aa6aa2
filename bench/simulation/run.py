"""One seed: people, a node, faults, and the order in which everything happens, drawn step by step from one generator.

Threads don't exist here: each thing that a thread, a socket or a disk would do by itself is a step, and the generator
chooses the next one. Every seed is a world of its own: which limits are tight, which steps are rare and which never
happen is drawn first. `trace` is the run's whole story; its hash is equal for equal seeds, in any process.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.simulation.device import Command, Device, Session
from bench.simulation.node import ALL_US, ONE_US, Node, back_up, restore, settings_of, trim
from bench.simulation.service import Services
from bench.simulation.truth import Wrong
from bench.simulation.verdicts import Rules, Verdicts
from bench.simulation.workload import Workload

STORY_LINES = 40
ROUNDS_MAX = 20_000
STILL_ROUNDS = 3  # what a socket took in one round shows in the next
IN_FLIGHT_MAX = 60
AGAIN_MAX = 4
START_US = 1_795_515_000_000_000


class Outcome(NamedTuple):
    """Of a seed that went well."""

    seed: int
    steps: int
    digest: str
    counts: dict[str, int]


class Failure(Exception):
    """What went wrong, with all that is needed to see it again."""

    def __init__(self, seed: int, step: int, reason: str, story: list[str]) -> None:
        self.seed, self.step, self.reason, self.story = seed, step, reason, story
        super().__init__(f"seed {seed}, step {step}: {reason}")


class Simulation:
    """One seed's world; `run` takes its steps."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.draw = draw = random.Random(seed)
        self.folder, self.backup = folder / "data", folder / "backup"
        self.settings = settings = settings_of(draw)
        self.now_us = START_US
        self.step = 0
        self.story: deque[str] = deque(maxlen=STORY_LINES)
        self._hash = hashlib.sha256()
        tight = settings.intake_bytes_max < 1 << 20 or settings.save_events_max < 1_000
        self.again_max = AGAIN_MAX if tight else IN_FLIGHT_MAX  # what is refused again and again shows nothing
        self.verdicts = Verdicts(
            Rules(
                settings.group_members_max,
                settings.resume_events_max,
                settings.resume_hops_max,
                settings.gap_newest_events,
                tight,
            )
        )
        users = draw.randrange(2, 7)
        self.work = Workload(draw, lambda: self.verdicts.truth, users)
        self.services = Services(draw, self.work, self.verdicts)
        self.devices = [
            Device(user, number, draw.randrange(2))
            for user in range(1, users + 1)
            for number in range(1, draw.choice([1, 1, 2, 3]) + 1)
        ]
        for device in self.devices:
            device.slow = draw.random() < 0.3
        self.zombies: list[Session] = []
        self.backed_up: tuple[int, int, list[tuple[int, int]]] | None = None  # end, first sequence, epochs
        self.epochs_used = 1
        self.quiet_every = draw.choice([150, 400, 1_200])
        self._choose_steps()
        self._open()

    def _choose_steps(self) -> None:
        draw = self.draw
        faults = draw.choice([0, 0, 1, 1, 4])
        choices: list[tuple[Callable[[], str], float]] = [
            (self._act, 24),
            (self._write, 12),
            (self._read, 14),
            (self._connect, 4),
            (self._cut, draw.choice([0.1, 1, 3])),
            (lambda: self.services.act(self.node), draw.choice([0, 3, 12])),
            (self._sockets, 8),
            (self._handle, 6),
            (self._turn, draw.choice([0, 3, 12])),
            (self._admit, 5),
            (self._load, 4),
            (self._write_block, 5),
            (self._tell, 4),
            (self._answers, 4),
            (self._route, 5),
            (self._catch_up, 6),
            (self._flush, 6),
            (self._job, 4),
            (self._fold, draw.choice([0, 1, 3])),
            (self._save, draw.choice([0, 0.3, 2])),
            (self._shed, draw.choice([0, 1])),
            (self._signals, 1),
            (self._clock, 1),
            (self._fault, 0.1 * faults),
            (self._crash, 0.15 * faults),
            (self._trim, draw.choice([0, 0.3, 1])),
        ]
        self._steps = [step for step, _ in choices]
        self._weights = [weight * draw.choice([0.3, 1, 1, 3]) for _, weight in choices]

    # The world.

    def _open(self) -> None:
        self.node = Node(self.folder, self.settings, lambda: self.now_us)
        self.verdicts.fenced = False
        self._observe()

    def _observe(self) -> None:
        while blocks := self.node.observer.blocks_after(self.verdicts.truth.end):
            for block in blocks:
                self.verdicts.take_block(block)

    def trace(self, text: str) -> None:
        """One line of the story."""
        self._hash.update(text.encode() + b"\n")
        self.story.append(f"{self.step}: {text}")

    def run(self, steps: int) -> Outcome:
        """Takes so many steps, then looks at everything once more."""
        try:
            for self.step in range(1, steps + 1):
                self.now_us += self.draw.randrange(300)
                self.trace(self.draw.choices(self._steps, self._weights)[0]())
                if self.step % self.quiet_every == 0:
                    self._quiet()
            self._quiet()
            return Outcome(self.seed, steps, self._hash.hexdigest(), self.verdicts.counts)
        except Wrong as wrong:
            raise Failure(self.seed, self.step, str(wrong), list(self.story)) from wrong
        except Exception as error:
            raise Failure(self.seed, self.step, f"{type(error).__name__}: {error}", list(self.story)) from error
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of sockets and files."""
        for session in [*self.zombies, *(device.session for device in self.devices if device.session)]:
            session.end()
        self.node.crash()

    # Steps of clients.

    def _device(self, connected: bool = True) -> Device | None:
        chosen = [device for device in self.devices if (device.session is not None) == connected]
        return self.draw.choice(chosen) if chosen else None

    def _act(self) -> str:
        device = self._device()
        if device is None or device.session is None:
            return "nobody acts"
        session, draw = device.session, self.draw
        kind = draw.choices(["write", "again", "question", "mark", "burst"], [10, 3, 3, 1.5, 0.05])[0]
        if kind == "question":
            question, keys = self.work.question(device, self.node.view.sequence)
            session.say({**keys, "id": self.verdicts.asked(session, question)})
            return f"{device.name} asks {question}"
        if kind == "mark":
            session.say(self.work.mark(device))
            return f"{device.name} says a mark"
        if kind == "again" and device.again:
            counter = device.again.pop(draw.randrange(len(device.again)))
            command = device.commands[counter]
        elif len(self.verdicts.watches[session].in_flight) >= IN_FLIGHT_MAX and kind != "burst":
            return f"{device.name} waits"
        else:
            for _ in range(70 if kind == "burst" else 0):
                self._say(device, session, self.work.command(device))
            command = self.work.command(device)
        self._say(device, session, command)
        return f"{device.name} writes {command.write.counter} {command.write.type} ({command.sends})"

    def _say(self, device: Device, session: Session, command: Command) -> None:
        self.verdicts.sent(session, command)
        session.say(command.body)

    def _write(self) -> str:
        device = self._device()
        if device is None or device.session is None:
            return "nobody writes"
        sent = device.session.write(self.draw.choice([1, 7, 100, 1 << 16, 1 << 16, 1 << 16]))
        return f"{device.name} sends {sent}"

    def _read(self) -> str:
        device = self._device()
        if device is None or device.session is None:
            return "nobody reads"
        if device.slow and self.draw.random() < 0.9:
            return f"{device.name} is slow"
        got = device.session.read(self.draw.choice([1, 20, 300, 1 << 16, 1 << 16]), self.verdicts.take)
        self._ended(device)
        return f"{device.name} reads {got}"

    def _ended(self, device: Device) -> None:
        session = device.session
        if session is not None and (session.ended or session.close_code):
            self._leave(device)

    def _leave(self, device: Device) -> None:
        """The connection is over: what has no receipt is sent again on the next one."""
        session, device.session = device.session, None
        assert session is not None
        session.end()
        self.verdicts.closed(session)
        device.again = sorted(device.commands)

    def _connect(self) -> str:
        device = self.draw.choice(self.devices)
        if device.session is not None:
            if self.draw.random() < 0.95:
                return "stays connected"
            self.verdicts.closed(device.session)  # it doesn't know of the new one: the server must end it
            self.zombies.append(device.session)
            device.again = sorted(device.commands)
        session = device.session = Session(device, self.node.connect(), self._hello(device))
        self.verdicts.opened(session, self.node.fanout.sequence)
        return f"{device.name} connects with {session.hello.get('positions')}"

    def _hello(self, device: Device) -> dict[str, object]:
        draw, position = self.draw, device.position
        roll = draw.random()
        if roll < 0.04:
            position = (77, draw.randrange(100))
        elif position is not None and roll < 0.12:
            position = (position[0], draw.randrange(position[1] + 1))
        elif position is not None and roll < 0.15:
            position = (position[0], position[1] + draw.randrange(1, 30))
        elif roll < 0.18:
            position = None
        hello: dict[str, object] = {"op": "hello", "token": str(device.user), "device": device.device, "protocol": 1}
        if position is not None:
            hello["positions"] = [{"shard": 0, "epoch": position[0], "sequence": position[1]}]
        return hello

    def _cut(self) -> str:
        if self.zombies and self.draw.random() < 0.5:
            self.zombies.pop(0).end()
            return "a forgotten connection ends"
        device = self._device()
        if device is None:
            return "nobody is cut"
        self._leave(device)
        return f"{device.name} is cut"

    # Steps of the node.

    def _sockets(self) -> str:
        self.node.take_sockets()
        return f"sockets: {len(self.node.cold)} cold"

    def _handle(self) -> str:
        self.node.handle(self.draw.choice([1, 100]))
        return f"handled, {len(self.node.cold)} left"

    def _answers(self) -> str:
        self.node.take_answers()
        self.services.take(self.node, self.now_us)
        return "answers"

    def _admit(self) -> str:
        self.node.engine.sequencer.admit()
        return "admitted"

    def _load(self) -> str:
        return f"loaded: {self.node.engine.sequencer.load()}"

    def _write_block(self) -> str:
        self.node.tell()
        wrote = self.node.write()
        if self.node.failed and not self.verdicts.fenced:
            self.verdicts.fenced = True
            self.verdicts.count("fences")
        self._observe()
        return f"wrote: {wrote}, the log ends at {self.verdicts.truth.end}"

    def _tell(self) -> str:
        return f"told: {self.node.tell()}"

    def _route(self) -> str:
        self.node.route(self.draw.choice([ONE_US, ALL_US]))
        return f"routed to {self.node.fanout.sequence}"

    def _catch_up(self) -> str:
        return f"caught up: {self.node.catch_up(self.draw.choice([ONE_US, ALL_US]))}"

    def _flush(self) -> str:
        return f"flushed: {self.node.flush(self.draw.choice([ONE_US, ALL_US]))}"

    def _job(self) -> str:
        jobs = self.node.jobs
        if jobs.waiting and self.draw.random() < 0.8:
            jobs.run(self.draw.randrange(len(jobs.waiting)))
            self.verdicts.count("jobs")
        if self.draw.random() < 0.7:
            self.node.take_posted()
        return f"{len(jobs.waiting)} jobs wait"

    def _fold(self) -> str:
        return f"folded: {self.node.engine.saver.fold()}"

    def _save(self) -> str:
        self.node.save()
        return f"saved at {self.node.engine.saver.position}"

    def _shed(self) -> str:
        self.node.engine.sequencer.shed(512)
        return "shed"

    def _signals(self) -> str:
        self.node.door.signals.second()
        self.node.door.cursors.tell()
        return "signals"

    def _turn(self) -> str:
        """A whole round, as an idle server takes it."""
        for step in (
            self._sockets, self._handle, self._admit, self._load, self._admit, self._write_block, self._tell,
            self._answers, self._route, self._catch_up, self._flush,
        ):  # fmt: skip
            step()
        return "a round"

    # Time and faults.

    def _clock(self) -> str:
        self.now_us += self.draw.choice([-5_000_000, 1_000_000, 3_600_000_000])
        return "the clock jumps"

    def _fault(self) -> str:
        self.node.disk.fault = self.draw.choice(["before", "after"])
        return f"the disk will fail {self.node.disk.fault}"

    def _crash(self) -> str:
        """All memory is lost; what was on its way to clients may still arrive. Sometimes an older copy is restored."""
        draw = self.draw
        self.verdicts.count("crashes")
        self._stop()
        words = "crash"
        roll = draw.random()
        if self.backed_up is not None and roll < 0.2:
            words = self._restore()
        elif roll < 0.5 and self.verdicts.truth.end:
            back_up(self.folder, self.backup)
            self.backed_up = (self.verdicts.truth.end, self.verdicts.truth.first, list(self.verdicts.epochs))
            words = "crash; a copy is kept"
        self._open()
        return f"{words}; the log ends at {self.verdicts.truth.end}"

    def _stop(self) -> None:
        """The node is gone, and with it all connections."""
        self.node.crash()
        self.services.lost()
        for session in self.zombies:
            session.end()
        self.zombies.clear()
        for device in self.devices:
            if device.session is not None:
                if self.draw.random() < 0.7:
                    while device.session.read(1 << 16, self.verdicts.take):
                        pass
                self._leave(device)

    def _trim(self) -> str:
        """A stop, a snapshot, and the log's first segments go, as far as two snapshots allow."""
        if not self.verdicts.truth.end:
            return "nothing to trim"
        self._stop()
        first = trim(self.folder)
        self._open()  # a block that nobody had seen yet was judged by what the log held then
        if first > self.verdicts.truth.first:
            self.verdicts.count("trims")
        self.verdicts.truth.first = first
        return f"trimmed: the log holds {first} to {self.verdicts.truth.end}"

    def _restore(self) -> str:
        assert self.backed_up is not None
        end, first, epochs = self.backed_up
        self.epochs_used += 1
        last = restore(self.backup, self.folder, self.epochs_used)
        if last != end:
            raise Wrong(f"the copy ends at {last}, it was made at {end}")
        self.verdicts.replaced(end, first, [*epochs, (self.epochs_used, end + 1)])
        self.verdicts.count("restores")
        return "crash; the copy is restored"

    # Quiet moments.

    def _quiet(self) -> None:
        """Everybody connects, reads and is answered until nothing moves; then each session must have everything."""
        if self.node.failed:
            self.trace(self._crash())
        self.node.disk.fault = ""
        for device in self.devices:
            if device.session is None and self.draw.random() < 0.7:
                session = device.session = Session(device, self.node.connect(), self._hello(device))
                self.verdicts.opened(session, self.node.fanout.sequence)
                self._settle_some()
        self._settle()
        for device in self.devices:
            if device.session is not None:
                for _ in range(2):
                    question, keys = self.work.question(device, self.node.view.sequence)
                    device.session.say({**keys, "id": self.verdicts.asked(device.session, question)})
        self._settle()
        for device in self.devices:
            if device.session is not None:
                self.verdicts.quiet(device.session)
        self.services.quiet()
        self.verdicts.count("quiet moments")
        self.trace(f"quiet at {self.verdicts.truth.end}")

    def _settle(self) -> None:
        still = 0
        for _ in range(ROUNDS_MAX):
            still = 0 if self._settle_some() else still + 1
            if still == STILL_ROUNDS:
                return
        raise Wrong("it never comes to rest")

    def _settle_some(self) -> bool:
        """A round of everything; whether anything moved."""
        node, sequencer = self.node, self.node.engine.sequencer
        moved = False
        for device in self.devices:
            session = device.session
            if session is None:
                continue
            while device.again and len(self.verdicts.watches[session].in_flight) < self.again_max:
                self._say(device, session, device.commands[device.again.pop(0)])
            moved |= bool(session.write(1 << 20))
        moved |= self.services.settle(node)
        node.take_sockets()
        moved |= bool(node.cold)
        node.handle(1 << 20)
        sequencer.admit()
        moved |= sequencer.load()
        sequencer.admit()
        moved |= node.write()
        self._observe()
        moved |= node.tell()
        if self.settings.save_events_max < 1_000:
            while node.engine.saver.fold():
                pass
            node.save()
        if node.woken:
            node.woken = False
            node.take_answers()
            self.services.take(node, self.now_us)
            node.woken |= node.route(ALL_US)
            moved = True
        while node.jobs.waiting:
            node.jobs.run(0)
            moved = True
        node.take_posted()
        moved |= node.catch_up(ALL_US)
        moved |= node.flush(ALL_US)
        for device in self.devices:
            while device.session is not None and device.session.read(1 << 16, self.verdicts.take):
                moved = True
            self._ended(device)
        return moved or bool(node.catchup.reading())

"""One run of a workload over sockets: a server, its conversations, a fleet of clients, phases, and what came of it.

Used by run.py, capacity and soak. A Stage is a server with users and conversations; it may be run on as often as one
likes, with other rates and times, and each run connects a fleet of its own. Phases: found, connect, warm-up, window,
drain. In the drain nothing new is published, slow readers read without limit, and all that was published has to arrive.

Invariants: whatever ends a run early, what had been measured until then is in Stopped.run; nothing that was started
outlives the `with`. Cost: none inside of the window but a message a second and process, and the sampler's.
"""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import msgspec

from bench import assemble, fleet, idle, population, schema
from bench.driven import Driven, Given, Started
from bench.fleet import Fleet, Moment
from bench.fleet_wire import Plan, Result, Start
from bench.founding import Founding, connector, visit
from bench.harness import BenchError, raise_descriptor_limit, workplace
from bench.population import BROADCAST, Population
from bench.sampling import Sampler, Watched, saturated
from bench.schema import Run, Tick
from bench.tokens import Signer
from bench.workload import Workload
from ext.loadgen import LoadGenerator

FOREVER_NS: Final = 2**62
START_NS: Final = 300_000_000  # from the word to the first publish: all processes have heard it by then
WORKER_SESSIONS: Final = 16_000  # of a worker that is started here: sockets aren't dealt out quite evenly
WORKERS_FOUNDING: Final = 2
SAMPLES: Final = 5  # of a window that is shorter than so many seconds
PENDING: Final = 512  # connects under way, of all processes together
DESCRIPTORS: Final = 19_500
IDLE_SETTLE_S: Final = 1.0
VISITORS: Final = 8  # a worker, before memory is looked at: so many that none of them has served nobody


class Progress(Protocol):
    """What is told while it goes; bench.summary.Progress is one."""

    def phase(self, name: str, seconds: float = 0.0) -> None:
        """Another phase begins."""

    def tick(self, tick: Tick, server_cpu_cores: float | None = None) -> None:
        """A second is over."""


class Silent:
    """Tells nobody."""

    def phase(self, name: str, seconds: float = 0.0) -> None:
        """Another phase begins."""

    def tick(self, tick: Tick, server_cpu_cores: float | None = None) -> None:
        """A second is over."""


@dataclass(frozen=True)
class Options:
    """Where and by how many."""

    workers: int | None = None  # None: as many as the descriptors ask for; 0: one process
    generators: int | None = None
    folder: Path | None = None
    target: str | None = None
    token_key: Path | None = None
    token_key_name: str = ""
    audience: str = "gonets"
    tls: bool = False
    kill_worker: bool = False  # a storm's cause: SIGKILL to one worker, instead of clients that drop
    configuration: dict[str, str] | None = None  # more of it, for a server that is started here

    def __post_init__(self) -> None:
        """Raises BenchError: before a report is opened."""
        if self.workers is not None and self.workers < 0:
            raise BenchError(f"--workers {self.workers}: must be 0 or more")


class Stopped(BenchError):
    """A run that ended early, and what there is of it."""

    def __init__(self, message: str, run: Run | None) -> None:
        super().__init__(message)
        self.run = run


def workers_for(sessions: int, options: Options) -> int:
    """Workers of a server that is started here: what was asked for, else what the descriptors need; 0: one process."""
    if options.workers is not None:
        most = (options.workers or 1) * DESCRIPTORS
        if sessions > most:
            raise BenchError(
                f"--workers {options.workers} can't hold {sessions:,} sessions: a process has {DESCRIPTORS:,}"
                f" descriptors to give; at least --workers {-(-sessions // WORKER_SESSIONS)}"
            )
        return options.workers
    return -(-sessions // WORKER_SESSIONS) if sessions > WORKER_SESSIONS else 2 if options.kill_worker else 0


def generators_for(sessions: int, options: Options) -> int:
    """Processes of clients."""
    needed = fleet.children_needed(sessions)
    if options.generators is None:
        return needed
    if not needed <= options.generators <= fleet.ADDRESSES:
        raise BenchError(
            f"--generators {options.generators}: must be {needed} to {fleet.ADDRESSES} for {sessions:,} sessions"
        )
    if options.generators > sessions:
        raise BenchError(f"--generators {options.generators} for {sessions:,} sessions: at most one for each")
    return options.generators


def check_target(options: Options) -> None:
    """Has the target, if one is given, take a hello. Raises BenchError."""
    if options.target:
        Given(options.target, options.token_key, options.token_key_name, options.audience).greet()


class Stage:
    """`with Stage(workload, options) as stage:` and then `stage.run(…)`."""

    def __init__(self, workload: Workload, options: Options, progress: Progress | None = None) -> None:
        if workload.kind != "sockets":
            raise BenchError(f"workload {workload.name} is of kind {workload.kind!r}: it has no sessions to drive")
        if workload.sessions.slow_share and (options.tls or (options.target or "").startswith("wss:")):
            raise BenchError(
                f"workload {workload.name}: sessions.slow_share = {workload.sessions.slow_share:g} over TLS:"
                " records come whole, so nobody can read by bytes; leave TLS out, or set slow_share = 0"
            )
        self.workload, self.options = workload, options
        self._progress: Progress = progress or Silent()
        sessions = workload.sessions.count
        self._processes = generators_for(sessions, options)
        self._workers = 0 if options.target else workers_for(sessions, options)
        self._stack = ExitStack()
        self.population: Population = population.drawn(workload)
        self.driven: Driven
        self._followed = False
        self._fleet: Fleet | None = None

    def __enter__(self) -> Self:
        try:
            raise_descriptor_limit(min(1_024 + 4 * self._processes, DESCRIPTORS))
            self.folder = self._stack.enter_context(workplace(self.workload.name, self.options.folder))
            self._progress.phase("start")
            self.driven = self._driven()
            self._stack.callback(self.driven.stop)
            self._found()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _driven(self) -> Driven:
        options = self.options
        if options.target:
            return Given(options.target, options.token_key, options.token_key_name, options.audience)
        # Every worker follows every new member: groups are made before there are many of them.
        first = min(self._workers, WORKERS_FOUNDING)
        return Started(self.folder / "ours", first, options.tls, options.configuration)

    def _found(self) -> None:
        wanted = sum(1 for _ in self.population.founded())
        if wanted:
            self._create(wanted)
        fresh = self.workload.sessions.idle  # memory before is that of processes that have made nothing
        if isinstance(self.driven, Started) and (fresh or self.driven.workers != self._workers):
            self.driven.restart(self._workers)
        if isinstance(self.driven, Started) and fresh:
            first = population.user_of(self.population.sessions)
            visit(range(first, first + VISITORS * max(self._workers, 1)), *self._clients())
            time.sleep(IDLE_SETTLE_S)

    def _create(self, wanted: int) -> None:
        self._progress.phase(f"create {wanted:,} conversations")
        until = time.monotonic() + self.workload.run.deadline_s
        Founding(self.population, *self._clients()).found(until, lambda made, of: None)

    def _clients(self) -> tuple[Callable[[LoadGenerator], None], Signer]:
        """What connects clients of this process, and signs for them."""
        driven = self.driven
        seconds = min(self.workload.run.deadline_s, 60.0)
        connect = connector(driven.host, driven.port, driven.path, driven.tls, seconds)
        return connect, Signer(driven.key_pem, driven.key_name, driven.audience)

    @property
    def target(self) -> schema.Target:
        """For the report."""
        return self.driven.described()

    @property
    def data(self) -> Path | None:
        """The folder of the log, where the server was started here."""
        return self.driven.folder / "data" if isinstance(self.driven, Started) else None

    @property
    def admin(self) -> str:
        """host:port of the operator's address; empty: none."""
        return (self.options.configuration or {}).get("GONETS_SERVER_ADMIN", "") if not self.options.target else ""

    def watched(self) -> list[Watched]:
        """The server's processes, and those of the clients while there are some."""
        clients = self._fleet.pids if self._fleet else []
        return self.driven.watched() + [Watched("generator", name, pid) for name, pid in clients]

    def run(self, workload: Workload, progress: Progress | None = None) -> Run:
        """One. Raises Stopped, with what there is."""
        single = _Single(self, workload, progress or self._progress)
        try:
            return single.run()
        except KeyboardInterrupt:
            raise Stopped("interrupted", single.partial()) from None
        except (BenchError, OSError) as error:
            raise Stopped(str(error), single.partial()) from error

    def plans(self, workload: Workload) -> list[Plan]:
        """What each process of the clients is told."""
        rates = {stream.name: stream for stream in workload.streams}
        for load in self.population.loads:
            load.stream = rates.get(load.stream.name, load.stream)
        block = random.SystemRandom().randrange(1_000_000)
        driven, processes = self.driven, self._processes
        streams = population.streams_of(self.population, processes)
        found, number = [], 0
        for process in range(processes):
            sessions = range(process, self.population.sessions, processes)
            slow = [index for index, session in enumerate(sessions) if session in self.population.slow]
            found.append(
                Plan(
                    number_from=number,
                    source=fleet.source_of(process, block),
                    host=driven.host,
                    port=driven.port,
                    path=driven.path,
                    tls=driven.tls,
                    key_pem=driven.key_pem,
                    key_name=driven.key_name,
                    audience=driven.audience,
                    users=[population.user_of(session) for session in sessions],
                    slow=slow,
                    slow_bytes_per_s=workload.sessions.slow_bytes_per_s,
                    streams=streams[process],
                    pending_max=max(PENDING // processes, 16),
                )
            )
            number += len(sessions)
        return found

    def follows(self) -> list[list[tuple[int, int]]]:
        """Who of each process has still to follow which channel."""
        found: list[list[tuple[int, int]]] = [[] for _ in range(self._processes)]
        if self._followed:
            return found
        for load in self.population.loads:
            for one in load.conversations:
                for member in one.members[1:] if one.shape == "channel" else ():
                    process, connection = population.of_process(member, self._processes)
                    found[process].append((connection, one.number))
        self._followed = True
        return found


class _Single:
    """One run on a stage."""

    def __init__(self, stage: Stage, workload: Workload, progress: Progress) -> None:
        self.stage, self.workload, self.progress = stage, workload, progress
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.deadline = time.monotonic() + workload.run.deadline_s
        self.connect_s = self.drain_s = 0.0
        self.start = Start(0, 0, 0, 0, 0.0)
        self.results: list[Result] = []
        self.counts: dict[str, int] = {}
        self.moments: list[Moment] = []
        self.values: dict[str, float] = {}
        self.sampler: Sampler | None = None
        self.complete = False

    def run(self) -> Run:
        stage, phases = self.stage, self.workload.run
        self.progress.phase("sign tokens")
        interval_s = min(1.0, max(phases.window_s / SAMPLES, 0.05))
        with ExitStack() as stack:
            self.sampler = stack.enter_context(Sampler(stage.watched, stage.folder, interval_s))
            clients = stack.enter_context(Fleet(stage.plans(self.workload), stage.folder, self.deadline))
            stage._fleet = clients
            stack.callback(setattr, stage, "_fleet", None)
            clients.watch, clients.on_moment = self._watch, self._moment
            try:
                self._phases(clients)
            except BaseException:
                self.counts = clients.counts()
                self.results = clients.salvage() if self.start.window_ns else []
                raise
        self.complete = True
        return self._run()

    def _phases(self, clients: Fleet) -> None:
        phases, sessions = self.workload.run, self.workload.sessions
        watch = idle.Watch(self.stage.driven) if sessions.idle else None
        self.progress.phase(f"connect {clients.sessions:,} sessions")
        self.connect_s = clients.connect(sessions.connects_per_s)
        self.values["connects_per_s"] = clients.sessions / max(self.connect_s, 1e-3)
        if watch:
            time.sleep(IDLE_SETTLE_S)
            self.values |= watch.sessions(clients.sessions, [pid for _, pid in clients.pids])
        pairs = self.stage.follows()
        if any(pairs):
            self.progress.phase(f"follow channels: {sum(map(len, pairs)):,}")
            self.values["follows_per_s"] = sum(map(len, pairs)) / max(clients.follow(pairs), 1e-3)
        at_ns = time.monotonic_ns() + START_NS
        window_ns = at_ns + int(phases.warmup_s * 1e9)
        end_ns = window_ns + int(phases.window_s * 1e9)
        count_to_ns = FOREVER_NS if sessions.idle else end_ns  # the broadcast comes behind the window
        self.start = Start(at_ns, window_ns, end_ns, count_to_ns, sessions.ping_interval_s)
        self.moments.clear()
        clients.start(self.start)
        self.progress.phase("warm-up", phases.warmup_s)
        self._storm(clients)
        clients.run_until(window_ns)
        self.progress.phase("window", phases.window_s)
        self._kill(clients)
        clients.run_until(self.start.window_end_ns)
        if sessions.idle and len(self.stage.population.loads):
            self._broadcast(clients)
        self.progress.phase("drain", phases.drain_s)
        began = time.monotonic()
        clients.drain(min(phases.drain_s, max(self.deadline - began, 0.0)))
        self.drain_s = time.monotonic() - began
        self.counts = clients.counts()
        self.results = clients.finish()
        self.counts = clients.counts()

    def _storm(self, clients: Fleet) -> None:
        storm = self.workload.storm
        if storm is None:
            return
        at_ns = self.start.window_ns + int(storm.at_s * 1e9)
        none: list[list[int]] = [[] for _ in clients.plans]
        if self.stage.options.kill_worker:
            clients.storm(at_ns - START_NS, none, storm.away_s)
            return
        rng = random.Random(f"{self.workload.seed}/storm")
        count = self.stage.population.sessions
        for session in rng.sample(range(count), round(storm.share * count)):
            process, connection = population.of_process(session, len(clients.plans))
            none[process].append(connection)
        clients.storm(at_ns, none, storm.away_s)

    def _kill(self, clients: Fleet) -> None:
        storm = self.workload.storm
        if storm is None or not self.stage.options.kill_worker:
            return
        clients.run_until(self.start.window_ns + int(storm.at_s * 1e9))
        if not self.stage.driven.kill_worker():
            raise BenchError("--kill-worker: the server has no workers that could be killed; give --workers 2")

    def _broadcast(self, clients: Fleet) -> None:
        """One event to everybody: its deliveries are the only ones there are."""
        self.progress.phase(BROADCAST)
        before = clients.counts().get("deliveries", 0)
        clients.publish(0, len(self.stage.population.loads) - 1)
        until = time.monotonic() + self.workload.run.drain_s
        while clients.counts().get("deliveries", 0) < before + clients.sessions and time.monotonic() < until:
            clients.run_until(time.monotonic_ns() + 100_000_000)
        self.values |= idle.broadcast(self.moments)

    def _watch(self) -> None:
        if isinstance(self.stage.driven, Started):
            self.stage.driven.check()

    def _moment(self, moment: Moment) -> None:
        before, after = self.moments[-1] if self.moments else None, moment
        self.moments.append(moment)
        if before is not None:
            self.progress.tick(assemble.tick(before, after, self.start.window_ns))

    # ---- what came of it ------------------------------------------------------------------------------------------

    def partial(self) -> Run | None:
        """As much as there is; None before anything was published."""
        return self._run() if self.start.window_ns and self.moments else None

    def _run(self) -> Run:
        phases, start = self.workload.run, self.start
        names = [load.stream.name for load in self.stage.population.loads]
        latencies = assemble.latencies(self.results, names)
        ended_ns = min(start.window_end_ns, self.moments[-1].at_ns if self.moments else start.window_end_ns)
        seconds = phases.window_s if self.complete else max((ended_ns - start.window_ns) / 1e9, 1e-3)
        window = assemble.window(self.results, self.moments, start.window_ns, start.window_end_ns)
        rates = {name: count / seconds for name, count in window.items()}
        offered = self.workload.offered_per_s
        began, ended = start.window_ns / 1e9, start.window_end_ns / 1e9
        self.values |= assemble.storm(self.results)
        run = Run(
            started=self.started,
            connect_s=self.connect_s,
            warmup_s=phases.warmup_s,
            window_s=seconds,
            drain_s=self.drain_s,
            sessions=self.workload.sessions.count,
            offered_per_s=offered,
            counts=window | {name: self.counts.get(name, 0) for name in ("gaps", "gapped", "dropped", "resumes")},
            faults=assemble.faults(self.counts),
            rates_per_s=rates,
            latencies=latencies,
            ticks=assemble.ticks(self.moments, start.window_ns),
            processes=self.sampler.processes(began, ended) if self.sampler else [],
            generator=assemble.generator(self.results, latencies, offered, rates.get("published", 0.0)),
            values=self.values,
            resources=self.sampler.resources(began, ended) if self.sampler else {},
        )
        return _with_saturated(run)


def _with_saturated(run: Run) -> Run:
    return msgspec.structs.replace(run, saturated=saturated(run))


def run(workload: Workload, options: Options, progress: Progress | None = None) -> Run:
    """One stage, one run."""
    with Stage(workload, options, progress) as stage:
        return stage.run(workload, progress)

"""The replay: days of real chat through real sockets, every delivery verified against the trace and the receipts.

`gonets bench replay`: parse (trace.py), cast (replay_plan.py), drive wave after wave (replay_drive.py), disturb
(replay_chaos.py), then judge: what each device must have got follows from the receipts (expectation.py), what it got
was recorded natively (ext/replaywire). Each event's content is compared with what was sent once per encoding, each
delivery with those bytes. One JSON object on stdout; exit status 1 unless deliveries = expected > 0 and nothing was
missing, doubled, out of order or corrupted.

Invariants: the server's own books are never read; what can't be judged is an error, not a pass.
Cost: about 8 bytes a delivery and one core; sessions in waves below the limit of open files.
"""

from __future__ import annotations

import ipaddress
import json
import os
import resource
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
from cryptography.hazmat.primitives import serialization
from cyclopts import Parameter

from bench import trace as traces
from bench.expectation import NOTHING, Latencies, Placed, Sequences, judge, merged, visible
from bench.replay_chaos import Chaos
from bench.replay_drive import Driver, ReplayError, Target, signer
from bench.replay_plan import Cast, Device, Group, waves
from bench.replay_server import OwnServer, ServerError
from gateway.auth import DEVELOPMENT_KEY, KeysError, key_algorithm

SESSIONS_MAX = 12_000  # at once, in this process and in the server
DESCRIPTORS_KEPT = 500  # for everything that is no session
REACH_S = 5.0  # for the one connection that shows that there is a server at --url
STALL_S = 20.0  # without any progress: what is still missing then is missing
LINGER_S = 0.5  # after the last delivery: doubles would come now
OWN_USERS = 1_000
WORKERS_MAX = 64
SEEDED_FILES = 3


class Tally:
    """Sums over all waves."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.latencies = Latencies()
        self.seconds = 0.0
        self.first_wrong = ""


def replay(
    *,
    trace: Annotated[Path | None, Parameter(help="a chat log or a directory of them; none: seeded ones")] = None,
    url: Annotated[str | None, Parameter(help="a running gateway; none: one of its own in a temporary folder")] = None,
    speed: Annotated[str, Parameter(help="factor on the trace's clock, or max: as fast as receipts allow")] = "max",
    devices_per_user: Annotated[int, Parameter(help="sessions of each user, 1 to 16")] = 1,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="the object on one line")] = False,
    chaos: Annotated[bool, Parameter(negative="", help="cut sessions, kill and restart the server")] = False,
    seed: Annotated[int, Parameter(help="of generated logs and of chaos")] = 1,
    workers: Annotated[int, Parameter(help="gateway workers of the own server; 0: one process does it all")] = 0,
    token_key: Annotated[
        Path | None,
        Parameter(
            help="with --url: the private key (PEM) that tokens are signed with; a development key is"
            f" DATA/{DEVELOPMENT_KEY}"
        ),
    ] = None,
) -> None:
    """Replays chat logs through real sockets and verifies every delivery."""
    try:
        report = run(trace, url, _speed(speed), devices_per_user, chaos, seed, token_key, workers)
    except (traces.TraceError, ReplayError, ServerError, ValueError, OSError) as error:
        print(f"gonets: replay: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(json.dumps(report, indent=None if as_json else 2))
    if not passed(report):
        raise SystemExit(1)


def passed(report: dict[str, Any]) -> bool:
    """The one verdict."""
    clean = not any(report[name] for name in ("missing", "duplicated", "out_of_order", "corrupted"))
    return clean and report["deliveries"] == report["expected"] > 0


def run(
    path: Path | None,
    url: str | None,
    speed: float | None,
    devices_per_user: int,
    chaos: bool,
    seed: int,
    token_key: Path | None,
    workers: int = 0,
) -> dict[str, Any]:
    """Everything but the printing."""
    if not 0 <= workers <= WORKERS_MAX:
        raise ValueError(f"--workers {workers}: must be 0 to {WORKERS_MAX}")
    if workers and url is not None:
        raise ValueError("--workers is for the replay's own server: leave --url out")
    if not 1 <= devices_per_user <= 16:
        raise ValueError(f"--devices-per-user {devices_per_user}: must be 1 to 16")
    if chaos and url is not None:
        raise ValueError("--chaos kills the server: leave --url out, and it starts one of its own")
    if url is not None and token_key is None:
        raise ValueError(
            f"--url needs --token-key FILE: the private key of its tokens (DATA/{DEVELOPMENT_KEY} with"
            " development tokens)"
        )
    if token_key is not None and url is None:
        _signer(token_key)  # what is wrong with it is said before a server is started
    target = None if url is None or token_key is None else _reached(url, token_key)
    found = _load(path, seed)
    cast = Cast(
        [traces.plan(one) for one in found],
        devices_per_user,
        OWN_USERS if url is None else 10**12 + secrets.randbelow(2**52 - 10**12),
    )
    sessions_max = _raise_descriptors()
    parts = waves(cast.groups, sessions_max)
    folder = Path(tempfile.mkdtemp(prefix="gonets-replay-"))
    server = OwnServer(folder, workers) if url is None else None
    try:
        if server is not None:
            server.start()
            target = _target(server.url, token_key or server.data / DEVELOPMENT_KEY)
        assert target is not None
        return _replay(cast, parts, target, server, speed, chaos, seed, workers)
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(folder, ignore_errors=True)


def _speed(text: str) -> float | None:
    try:
        speed = None if text == "max" else float(text)
    except ValueError:
        speed = 0.0
    if speed is not None and not 0 < speed < float("inf"):
        raise ValueError(f"--speed {text}: must be max or a factor above 0 (60 plays an hour in a minute)")
    return speed


def _load(path: Path | None, seed: int) -> list[traces.Trace]:
    if path is None:
        names = [f"seeded-{seed}-{number}" for number in range(SEEDED_FILES)]
        return [traces.parse(traces.generate(seed, name), name) for name in names]
    found, passed_over = traces.load(path)
    if passed_over:
        print(
            f"gonets: replay: passed over, no chat logs: {', '.join(passed_over[:5])}"
            f"{' …' if len(passed_over) > 5 else ''}",
            file=sys.stderr,
        )
    return found


def _raise_descriptors() -> int:
    """As many sessions as this process and a server beside it may hold open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = hard if hard != resource.RLIM_INFINITY else 1 << 20
    return max(min(SESSIONS_MAX, int((limit - DESCRIPTORS_KEPT) * 0.85)), 1)  # half-open ones take some more


def _reached(url: str, key: Path) -> Target:
    """A target that takes connections: what it refuses is known before traces are parsed and retries begin."""
    target = _target(url, key)
    try:
        socket.create_connection((target.host, target.port), REACH_S).close()
    except OSError as error:
        raise ValueError(f"--url {url}: {error.strerror or error}; is `gonets serve` running there?") from None
    return target


def _target(url: str, key: Path) -> Target:
    parts = urlsplit(url)
    try:
        port = 80 if parts.port is None else parts.port
    except ValueError:  # no number, or above 65535
        port = 0
    if parts.scheme != "ws" or not parts.hostname or not port:
        raise ValueError(f"--url {url}: must be ws://host:port/v1: the replay's clients speak no TLS")
    try:
        address = socket.getaddrinfo(parts.hostname, port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--url {url}: {getattr(error, 'strerror', None) or error}") from None
    ipaddress.IPv4Address(address)
    return Target(str(address), port, parts.path or "/v1", _signer(key))


def _signer(key: Path) -> Callable[[dict[str, object]], str]:
    """Makes tokens with the key of a file."""
    try:
        data = key.read_bytes()
    except OSError as error:
        raise ValueError(
            f"--token-key {str(key)!r} can't be read: {error.strerror or error}; name the file of the private key (PEM)"
            f" that tokens are signed with, such as DATA/{DEVELOPMENT_KEY}"
        ) from None
    try:
        private = serialization.load_pem_private_key(data, None)
        algorithm = key_algorithm(private.public_key(), f"--token-key {str(key)!r}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"--token-key {str(key)!r} is no private key in PEM: {error}") from None
    except KeysError as error:
        raise ValueError(str(error)) from None
    return signer(private, algorithm)


def _replay(
    cast: Cast,
    parts: list[list[Group]],
    target: Target,
    server: OwnServer | None,
    speed: float | None,
    chaos: bool,
    seed: int,
    workers: int,
) -> dict[str, Any]:
    driver, tally = Driver(target, cast.devices, speed, seed), Tally()
    writes = sum(len(group.steps) for group in cast.groups)
    disturb = Chaos(driver, server, writes, seed, workers) if chaos and server is not None else None
    for number, groups in enumerate(parts):
        _wave(driver, groups, server, disturb, tally)
        _say(
            f"wave {number + 1} of {len(parts)}: {len(groups)} groups, {tally.counts['deliveries']:,} deliveries"
            f" so far, {tally.seconds:.1f} s"
        )
    if tally.first_wrong:
        print(f"gonets: replay: first thing wrong: {tally.first_wrong}", file=sys.stderr)
    report: dict[str, Any] = {"events": driver.receipts}
    for name in ("expected", "deliveries", "missing", "duplicated", "out_of_order", "corrupted"):
        report[name] = tally.counts[name]
    report["publish_to_deliver_ms"] = tally.latencies.summary()
    report["seconds"] = round(tally.seconds, 3)
    report["durability"] = driver.durability
    report["filesystem"] = _filesystem(server.data) if server is not None else "of the server at --url"
    if disturb is not None:
        report["chaos"] = disturb.summary()
    return report


def _wave(driver: Driver, groups: list[Group], server: OwnServer | None, disturb: Chaos | None, tally: Tally) -> None:
    """Connects who is needed, plays the groups, waits for everything, judges."""
    needed = sorted(set().union(*(group.devices for group in groups)), key=lambda device: device.index)
    keep = set(needed)
    driver.disconnect(device for device in driver.devices if device.state != "down" and device not in keep)
    driver.connect(needed)
    _until(driver, server, None, lambda: driver.live >= len(needed), lambda: driver.live, "sessions live")
    writes = sum(len(group.steps) for group in groups)
    goal = driver.receipts + writes
    if disturb is not None:
        disturb.begin(needed, writes)
    began = time.monotonic()
    driver.begin(groups)
    _until(
        driver,
        server,
        disturb,
        lambda: driver.receipts >= goal,
        lambda: (driver.receipts, driver.live, driver.wire.deliveries),
        "receipts",
    )
    while disturb is not None and disturb.cutting:
        disturb.strike(all_due=True)
        driver.turn()
    must = _must_get(groups)
    total = sum(must.get(device.user, NOTHING).size for device in needed)
    try:
        got = _got(driver, needed)
        _until(
            driver,
            server,
            None,
            lambda: got() >= total and driver.live >= len(needed),
            lambda: (driver.wire.deliveries, driver.live),
            "deliveries",
        )
        ends = time.monotonic()
    except Stalled as stalled:
        _say(str(stalled))  # what is missing will be counted
        ends = time.monotonic() - STALL_S
    until = time.monotonic() + LINGER_S
    while time.monotonic() < until:
        driver.turn()
    driver.wire.close_abandoned()
    tally.seconds += ends - began
    _judge(driver, groups, needed, must, tally)


class Stalled(ReplayError):
    """Nothing moved for a long time."""


def _until(
    driver: Driver, server: OwnServer | None, disturb: Chaos | None, done: Any, progress: Any, what: str
) -> None:
    """Turns until it is done; Stalled if nothing that counts as progress changes."""
    last, since = progress(), time.monotonic()
    while not done():
        driver.turn()
        if disturb is not None:
            disturb.strike()
        now = progress()
        if now != last or driver.timers_only:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > STALL_S:
            raise Stalled(
                f"no progress for {STALL_S:.0f} s while waiting for {what}: {now}; {driver.in_flight} writes"
                f" are unanswered, {driver.live} sessions live"
            )
        if server is not None:
            server.check_alive()


def _got(driver: Driver, devices: Sequence[Device]) -> Any:
    """How many deliveries these devices have, counted at most ten times a second."""
    state = [0.0, 0]

    def count() -> int:
        if time.monotonic() - state[0] > 0.1:
            state[0] = time.monotonic()
            state[1] = sum(driver.wire.received_count(device.index) + len(device.filled) for device in devices)
        return int(state[1])

    return count


def _must_get(groups: Sequence[Group]) -> dict[int, Sequences]:
    """For each user what they must have got in this wave, from the receipts."""
    parts = []
    for group in groups:
        history = []
        for step in group.steps:
            assert step.receipt is not None
            history.append(Placed(step.kind, step.subject, step.receipt.sequence, step.receipt.conversation_sequence))
        history.sort(key=lambda event: event.conversation_sequence)
        parts.append(visible(history, [group.keeper.user, *group.start]))
    return merged(parts)


def _judge(
    driver: Driver, groups: Sequence[Group], devices: Sequence[Device], must: dict[int, Sequences], tally: Tally
) -> None:
    wire, counts = driver.wire, tally.counts
    table = np.frombuffer(wire.events(), np.uint64).reshape(-1, 2)
    sequences = table[:, 0].astype(np.int64)
    sent_us = np.zeros(len(sequences), np.int64)
    for slot, sequence in enumerate(sequences.tolist()):
        known = driver.seen.get(sequence)
        sent_us[slot] = known[1].sent_ns // 1_000 if known is not None else -1
    first_us = table[:, 1].astype(np.int64) // 1_000
    for device in devices:
        slots_raw, late_raw = wire.received(device.index)
        slots = np.frombuffer(slots_raw, np.uint32).astype(np.int64)
        filled = np.array(sorted(device.filled), np.int64) if device.filled else NOTHING
        verdict = judge(must.get(device.user, NOTHING), sequences[slots], filled)
        counts["expected"] += verdict.expected
        counts["deliveries"] += verdict.deliveries
        counts["missing"] += verdict.missing
        counts["duplicated"] += verdict.duplicated
        counts["out_of_order"] += verdict.out_of_order
        for sequence in verdict.unexpected.tolist():
            counts[_unexpected(driver, device, sequence)] += 1
        known_slots = sent_us[slots] >= 0
        late = np.frombuffer(late_raw, np.uint32).astype(np.int64)
        tally.latencies.add((first_us[slots] + late - sent_us[slots])[known_slots])
        device.filled.clear()
    counts["out_of_order"] += driver.disordered
    counts["corrupted"] += driver.corrupted + _misplaced(driver, groups)
    counts["corrupted"] += sum(wire.copies(slot, encoding) for slot, encoding in driver.wrong)
    tally.first_wrong = tally.first_wrong or driver.first_wrong
    driver.forget()


def _unexpected(driver: Driver, device: Device, sequence: int) -> str:
    """A second place for one write is a double; whatever else this device may not have is corruption."""
    known = driver.seen.get(sequence)
    if known is not None and known[1].receipt is not None and known[1].receipt.sequence != sequence:
        return "duplicated"
    driver.note_wrong(f"user {device.user} device {device.device} got {sequence}, which is not for them")
    return "corrupted"


def _misplaced(driver: Driver, groups: Sequence[Group]) -> int:
    """Events whose place contradicts their receipt, and groups whose receipts or back-pointers have holes."""
    wrong = 0
    for event, step in driver.seen.values():
        if step.receipt is not None and step.receipt.sequence == event.sequence and not step.placed(event):
            driver.note_wrong(f"the event {event} is not where its receipt says: {step.receipt}")
            wrong += 1
    for group in groups:
        history = sorted(
            (step.receipt.conversation_sequence, step.receipt.sequence)
            for step in group.steps
            if step.receipt is not None
        )
        previous = 0
        for number, (conversation_sequence, sequence) in enumerate(history, 1):
            known = driver.seen.get(sequence)
            if conversation_sequence != number or (known is not None and known[0].previous != previous):
                driver.note_wrong(
                    f"{group.title}: event {number} has conversation sequence {conversation_sequence}"
                    f" after {previous}: {known[0] if known else 'not seen'}"
                )
                wrong += 1
            previous = sequence
    return wrong


def _filesystem(path: Path) -> str:
    """The type of the file system that holds the log."""
    best, kind = "", "unknown"
    real = os.path.realpath(path)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, type, *_ = line.split(" ")
        where = where.encode().decode("unicode_escape")
        if (real == where or real.startswith(where.rstrip("/") + "/")) and len(where) >= len(best):
            best, kind = where, type
    return kind


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"gonets: replay: {text}", file=sys.stderr)

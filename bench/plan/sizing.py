"""From assumptions and figures to nodes, shards, disks, network and memory: each step a line with its formula.

Between formulas.py (how) and show.py (what it looks like). A node runs one sequencer a shard and workers that read
every shard; nodes are alike. The number of nodes is the largest of what CPU, memory, network, sessions and the tail
ask for, and then enough more that a zone, or a node of each zone, may be lost.

Invariant: every number that is shown is the value of a line, computed from what the line names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from bench.plan import formulas
from bench.plan.assumptions import Assumptions
from bench.plan.measured import Measured
from bench.plan.tail import Prediction, Tier, predict
from bench.schema import PlanLine

RECORD_FIXED_BYTES = 80  # engine/LOG_FORMAT.md: a record without its type and payload
RECORD_TYPE_BYTES = 7  # "message"
TABLE_BYTES = 8 + 4  # its place in the block's table, with a checksum
FRAME_BYTES = 10  # WebSocket header and the command's own, in front of the record
PACKET_BYTES = 66 + 52  # Ethernet, IP and TCP of a segment, and of its acknowledgement
PUBLISH_FRAME_BYTES = 61  # of a publish without its payload
RECEIPT_BYTES = 68
PING_BYTES = 2 + 6
SYSTEM_CORES = 1  # supervisor, saving of state, the operating system
GIB = float(1 << 30)
NODES_MAX = 200_000
ASKS = {"CPU": "CPU", "memory": "memory", "network": "network", "sessions": "sessions, as many as a worker may hold"}
HORIZONS = 8.0  # the lattice reaches so many objectives far


class PlanError(Exception):
    """Assumptions under which no number of nodes is enough; one line for people."""


@dataclass
class Sheet:
    """The lines, in order."""

    lines: list[PlanLine] = field(default_factory=list)
    section: str = ""

    def add(self, name: str, formula: str, value: float, unit: str, **inputs: float) -> float:
        """A line; gives its value."""
        self.lines.append(PlanLine(self.section, name, formula, inputs, value if math.isfinite(value) else None, unit))
        return value


class People(NamedTuple):
    """What they do at the peak, a second."""

    messages: float
    notices: float
    sessions: float
    pings: float
    hellos: float
    deliveries: float


def _people(sheet: Sheet, a: Assumptions) -> People:
    sheet.section = "people at the peak"
    messages = sheet.add(
        "publishes",
        "daily_users × messages_per_user ÷ 86,400 s × peak_factor",
        formulas.peak_rate(a.daily_users, a.messages_per_user, a.peak_factor),
        "1/s",
        daily_users=a.daily_users,
        messages_per_user=a.messages_per_user,
        peak_factor=a.peak_factor,
    )
    notices = sheet.add(
        "personal notices",
        "daily_users × notices_per_user ÷ 86,400 s × peak_factor",
        formulas.peak_rate(a.daily_users, a.notices_per_user, a.peak_factor),
        "1/s",
        notices_per_user=a.notices_per_user,
    )
    sessions = sheet.add(
        "sessions",
        "daily_users × devices × online_share",
        a.daily_users * a.devices * a.online_share,
        "sessions",
        devices=a.devices,
        online_share=a.online_share,
    )
    each = sheet.add(
        "deliveries of a message",
        "(dialog_share + (1 − dialog_share) × (group_members_mean − 1)) × devices × online_share"
        " + (devices − 1) × online_share",
        formulas.deliveries_per_message(a.dialog_share, a.group_members_mean, a.devices, a.online_share),
        "sends",
        dialog_share=a.dialog_share,
        group_members_mean=a.group_members_mean,
    )
    deliveries = sheet.add(
        "deliveries",
        "publishes × deliveries of a message + notices × devices × online_share",
        messages * each + notices * a.devices * a.online_share,
        "1/s",
    )
    pings = sheet.add(
        "pings", "sessions ÷ ping_interval_s", sessions / a.ping_interval_s, "1/s", ping_interval_s=a.ping_interval_s
    )
    hellos = sheet.add(
        "hellos",
        "sessions ÷ (60 × session_minutes)",
        sessions / (60 * a.session_minutes),
        "1/s",
        session_minutes=a.session_minutes,
    )
    return People(messages, notices, sessions, pings, hellos, deliveries)


def _shards(sheet: Sheet, a: Assumptions, m: Measured, events: float, core: float) -> int:
    sheet.section = "shards"
    by_cpu = sheet.add(
        "events of a sequencer's core",
        "core × utilisation_max ÷ sequence_us",
        core * a.utilisation_max * 1e6 / max(m["sequence_us"], 1e-9),
        "1/s",
        core=core,
        sequence_us=m["sequence_us"],
        utilisation_max=a.utilisation_max,
    )
    by_commit = sheet.add(
        "events of commits in a row",
        "core × utilisation_max ÷ commit_event_us",
        core * a.utilisation_max * 1e6 / max(m["commit_event_us"], 1e-9),
        "1/s",
        commit_event_us=m["commit_event_us"],
    )
    asked = sheet.add(
        "shards that the rate asks for",
        "⌈(publishes + notices) ÷ min(both)⌉",
        math.ceil(events / min(by_cpu, by_commit)),
        "shards",
    )
    shards = sheet.add("shards", "max(asked, shards_min)", max(asked, a.shards_min), "shards", shards_min=a.shards_min)
    _, commits = formulas.commit_cycle(events / shards, m["commit_fixed_us"] / 1e6, m["commit_event_us"] / 1e6)
    sheet.add(
        "blocks of a shard",
        "1 ÷ (T + e^(−λT)/λ), T = f + p (λT + e^(−λT)), λ = events of a shard",
        commits,
        "1/s",
        f_us=m["commit_fixed_us"],
        p_us=m["commit_event_us"],
    )
    return int(shards)


def _tier(a: Assumptions, m: Measured, people: People, shards: int, core: float) -> Tier:
    """Without nodes yet."""
    sizes, shares = formulas.group_sizes(a.group_members_mean, int(a.group_members_max))
    return Tier(
        nodes=1,
        node_workers=1,
        sessions=people.sessions,
        messages_per_s=people.messages,
        notices_per_s=people.notices,
        pings_per_s=people.pings,
        hellos_per_s=people.hellos,
        sizes=np.concatenate([[2.0], sizes]),
        size_shares=np.concatenate([[a.dialog_share], (1 - a.dialog_share) * shares]),
        devices=a.devices,
        online_share=a.online_share,
        shards=shards,
        publish_s=m["publish_us"] / 1e6 / core,
        delivery_s=m["delivery_us"] / 1e6 / core,
        ping_s=m["ping_us"] / 1e6 / core,
        hello_s=m["hello_us"] / 1e6 / core,
        wake_s=m["wake_us"] / 1e6 / core,
        read_s=m["read_us"] / 1e6 / core,
        commit_fixed_s=m["commit_fixed_us"] / 1e6,
        commit_event_s=m["commit_event_us"] / 1e6 / core,
        sync_variation=a.sync_variation,
        round_trip_s=a.zone_round_trip_ms / 1e3,
    )


def _demand(sheet: Sheet, m: Measured, people: People) -> float:
    """Measured cores that sessions keep busy, wherever they are."""
    sheet.section = "work of the workers, in cores as measured"
    parts = [
        ("publishing", "publishes × publish_us", people.messages, "publish_us"),
        ("delivering", "deliveries × delivery_us", people.deliveries, "delivery_us"),
        ("pings", "pings × ping_us", people.pings, "ping_us"),
        ("hellos", "hellos × hello_us", people.hellos, "hello_us"),
    ]
    total = 0.0
    for name, formula, rate, figure in parts:
        total += sheet.add(name, formula, rate * m[figure] / 1e6, "cores", **{figure: m[figure]})
    return sheet.add("sum", "publishing + delivering + pings + hellos", total, "cores")


class Needs(NamedTuple):
    """Nodes that each resource asks for."""

    by_name: dict[str, int]
    node_workers: int
    record_bytes: float
    log_bytes: float  # of a record on the disk
    session_bytes: float
    worker_sessions: float
    out_bytes: float
    in_bytes: float


class Sizing(NamedTuple):
    """The plan's numbers."""

    sheet: Sheet
    tier: Tier  # all nodes at the peak
    zone_lost: Tier  # what is left of it when a zone is lost, people as before
    needs: Needs
    needed: int  # nodes that carry the peak within the objective
    bound_by: str
    nodes: int
    zone_nodes: int
    at_peak: Prediction
    at_loss: Prediction


def _frames(sheet: Sheet, a: Assumptions, m: Measured, people: People) -> tuple[float, float, float, float]:
    """(record, session, out, in) bytes; the latter two a second, of all sessions."""
    sheet.section = "bytes"
    record = sheet.add(
        "a record",
        "80 + type (7) + payload_bytes + table (12)",
        RECORD_FIXED_BYTES + RECORD_TYPE_BYTES + a.payload_bytes + TABLE_BYTES,
        "bytes",
        payload_bytes=a.payload_bytes,
    )
    user = m["session_user_bytes"] * max(1.0, a.conversations_per_user / max(m["session_conversations"], 1.0))
    session = sheet.add(
        "a session",
        "session_user_bytes × conversations_per_user ÷ session_conversations (not below 1) + session_kernel_bytes",
        user + m["session_kernel_bytes"],
        "bytes",
        session_user_bytes=m["session_user_bytes"],
        session_kernel_bytes=m["session_kernel_bytes"],
        session_conversations=m["session_conversations"],
        conversations_per_user=a.conversations_per_user,
    )
    sent = people.deliveries + people.messages
    out = sheet.add(
        "to all sessions",
        "(deliveries + publishes) × (record + frame 10 + packets 118) + publishes × receipt 68 + pings × (8 + 118)",
        sent * (record + FRAME_BYTES + PACKET_BYTES)
        + people.messages * RECEIPT_BYTES
        + people.pings * (PING_BYTES + PACKET_BYTES),
        "bytes/s",
    )
    into = people.messages * (PUBLISH_FRAME_BYTES + a.payload_bytes + PACKET_BYTES) + people.pings * (
        PING_BYTES + PACKET_BYTES
    )
    sheet.add("from all sessions", "publishes × (61 + payload_bytes + 118) + pings × (8 + 118)", into, "bytes/s")
    return record, session, out, into


def _node_workers(sheet: Sheet, a: Assumptions, m: Measured, events: float, core: float) -> int:
    sheet.section = "a node"
    own = sheet.add(
        "cores for sequencers",
        "⌈(publishes + notices) × sequence_us ÷ (core × utilisation_max)⌉: every node applies every shard",
        max(1, math.ceil(events * m["sequence_us"] / 1e6 / (core * a.utilisation_max))),
        "cores",
        sequence_us=m["sequence_us"],
        core=core,
    )
    workers = sheet.add(
        "workers", "node_cores − sequencers' − 1", a.node_cores - own - SYSTEM_CORES, "workers", node_cores=a.node_cores
    )
    if workers < 1:
        raise PlanError(
            f"--node-cores {a.node_cores:g}: sequencers take {own:g} and the system {SYSTEM_CORES}, no worker is left:"
            f" take larger nodes"
        )
    return int(workers)


def _needs(sheet: Sheet, a: Assumptions, m: Measured, people: People, tier: Tier, core: float) -> Needs:
    demand = _demand(sheet, m, people)
    record, session, out, into = _frames(sheet, a, m, people)
    events = people.messages + people.notices
    workers = _node_workers(sheet, a, m, events, core)
    own = sheet.add(
        "share of a worker for reading",
        "(publishes + notices) × read_us ÷ core: every worker reads every shard",
        tier.own_share,
        "share",
        read_us=m["read_us"],
    )
    sheet.add(
        "share of its free time for looks",
        "b ÷ (1 + b), b = shards × blocks of a shard × wake_us ÷ core; jobs don't wait for more than one",
        tier.looking,
        "share",
        wake_us=m["wake_us"],
        shards=tier.shards,
    )
    each = sheet.add(
        "sessions of a worker, at most",
        "min(worker_sessions_max, worker_interest_max ÷ conversations_per_user)",
        min(a.worker_sessions_max, a.worker_interest_max / a.conversations_per_user),
        "sessions",
        worker_sessions_max=a.worker_sessions_max,
        worker_interest_max=a.worker_interest_max,
    )
    sheet.section = "nodes that each resource asks for"
    by_cpu = formulas.nodes_for(demand, workers, core, a.utilisation_max, own * core)
    if not math.isfinite(by_cpu):
        raise PlanError(
            f"--read-us {m['read_us']:g}: reading {events:,.0f} events a second takes {own:.0%} of each worker,"
            f" more than --utilisation-max {a.utilisation_max:g}: faster cores (--core-speed), or fewer messages"
        )
    memory = a.node_memory_gib * GIB * (1 - a.memory_free_share)
    log = events * record
    network = a.node_network_gbit_per_s * 1e9 / 8 * a.utilisation_max
    if network <= log:
        raise PlanError(
            f"--node-network-gbit-per-s {a.node_network_gbit_per_s:g}: the log alone is {log * 8 / 1e9:.2g} Gbit/s to"
            f" every node: take a faster one"
        )
    asked = {
        "CPU": (by_cpu, "sum ÷ (workers × (core × utilisation_max − reading × core))"),
        "memory": (
            people.sessions * session / memory,
            "sessions × a session ÷ (node_memory × (1 − memory_free_share))",
        ),
        "network": (max(out / network, into / (network - log)), "to all sessions ÷ (node_network × utilisation_max)"),
        "sessions": (
            people.sessions / (workers * each),
            "sessions ÷ (workers × sessions of a worker)",
        ),
    }
    by_name = {name: max(1, math.ceil(value)) for name, (value, _) in asked.items()}
    for name, (_, formula) in asked.items():
        sheet.add(f"by {name}", f"⌈{formula}⌉", by_name[name], "nodes")
    if max(by_name.values()) > NODES_MAX:
        raise PlanError(f"more than {NODES_MAX:,} nodes: look at the assumptions and at --core-speed")
    return Needs(by_name, workers, record, record * m["log_growth_ratio"], session, each, out, into)


def _by_tail(a: Assumptions, tier: Tier, least: int) -> int:
    """Nodes, from those on, whose p99 is within the objective."""
    horizon, objective, nodes = a.p99_ms / 1e3 * HORIZONS, a.p99_ms / 1e3, least
    for _ in range(40):
        found = predict(replace(tier, nodes=nodes), horizon)
        if found.p99_s <= objective:
            return nodes
        nodes = max(nodes + 1, int(nodes * 1.15))
        if nodes > NODES_MAX:
            break
    raise PlanError(
        f"--p99-ms {a.p99_ms:g}: not met by {nodes:,} nodes either: commits take {found.commit_s * 1e3:.3g} ms in"
        f" the mean and the way between zones {a.zone_round_trip_ms:g} ms: a longer objective, or faster disks"
    )


def size(a: Assumptions, m: Measured) -> Sizing:
    """The plan; PlanError where there is none."""
    sheet = Sheet()
    people = _people(sheet, a)
    core = a.core_speed * a.scaling_share
    sheet.section = "a core"
    sheet.add(
        "core",
        "core_speed × scaling_share",
        core,
        "cores as measured",
        core_speed=a.core_speed,
        scaling_share=a.scaling_share,
    )
    shards = _shards(sheet, a, m, people.messages + people.notices, core)
    tier = _tier(a, m, people, shards, core)
    needs = _needs(sheet, a, m, people, tier, core)
    tier = replace(tier, node_workers=needs.node_workers)
    least = max(needs.by_name.values())
    by_tail = int(
        sheet.add(
            "by the tail",
            "least nodes, from the largest of these on, whose p99 ≤ p99_ms",
            _by_tail(a, tier, least),
            "nodes",
            p99_ms=a.p99_ms,
        )
    )
    bound_by = "the tail" if by_tail > least else ASKS[max(needs.by_name, key=lambda name: needs.by_name[name])]
    sheet.section = "head-room"
    zone_nodes = int(
        sheet.add(
            "nodes of a zone",
            "max(⌈needed ÷ (zones − 1)⌉, ⌈needed ÷ zones⌉ + 1)" if a.zones > 1 else "needed + 1",
            formulas.zone_nodes(by_tail, int(a.zones)),
            "nodes",
            needed=by_tail,
            zones=a.zones,
        )
    )
    nodes = int(sheet.add("nodes", "zones × nodes of a zone", a.zones * zone_nodes, "nodes"))
    full = replace(tier, nodes=nodes)
    left = replace(tier, nodes=nodes - (zone_nodes if a.zones > 1 else 1))
    horizon = a.p99_ms / 1e3 * HORIZONS
    at_peak, at_loss = predict(full, horizon), predict(left, horizon)
    return Sizing(sheet, full, left, needs, by_tail, bound_by, nodes, zone_nodes, at_peak, at_loss)

"""What the sized nodes are like: tails at the peak, a loss and its storm, memory, disk, network; and today's engine.

Lines that follow from sizing.py's, which has chosen the number of nodes; nothing here changes it.
"""

from __future__ import annotations

from dataclasses import replace

from bench.plan import formulas
from bench.plan.assumptions import Assumptions
from bench.plan.measured import Measured
from bench.plan.sizing import GIB, Sizing
from bench.plan.tail import Prediction, Tier, jobs_of, notice

SLICE_S = 500e-6  # fanout.flush_budget_us of the engine
STORM_BUSY = 0.9  # of a worker, while lost sessions come back


def fill(sized: Sizing, a: Assumptions, m: Measured) -> float:
    """Adds the lines; daily users whom one node of today's engine carries."""
    lost = "a zone lost, at the peak" if a.zones > 1 else "a node lost, at the peak"
    _tails(sized, "all nodes, at the peak", sized.tier, sized.at_peak)
    _together(sized, m)
    _tails(sized, lost, sized.zone_lost, sized.at_loss)
    _loss(sized, a, m)
    _node(sized, a, m)
    return _today(sized, a)


def _tails(sized: Sizing, title: str, tier: Tier, found: Prediction) -> None:
    add = sized.sheet.add
    sized.sheet.section = f"delivery, {title}"
    jobs = jobs_of(tier)
    add("workers", "nodes × workers of a node", tier.workers, "workers")
    add("a worker is busy", "Σ rate × time of its jobs, and reading", found.busy, "share")
    add(
        "wait at a worker, mean",
        "λ E[S²] ÷ (2 (1 − ρ)) + looking × wake ÷ 2",
        found.worker_wait_s * 1e3,
        "ms",
        jobs_per_s=jobs.rate,
        busy=jobs.busy,
    )
    add("wait at a worker, p99", "Pollaczek–Khinchine transform, inverted", found.worker_p99_s * 1e3, "ms")
    add("the same by an exponential tail", "E[W] ÷ ρ × ln(ρ ÷ 0.01)", found.worker_tail_s * 1e3, "ms")
    add("jobs at a worker", "Σ λ × (wait + time), each send a job", found.worker_queue, "jobs")
    add(
        "at a shard, mean",
        "a sync, and u × (rest of the commit t that is under way + p λ t), u = T × commits/s",
        found.commit_s * 1e3,
        "ms",
    )
    add("events at a shard", "λ × time at a shard", found.shard_queue, "events")
    whole = "wait + publish + half way + shard + half way + wait + place in the batch"
    for name, value in (("p50", found.p50_s), ("p99", found.p99_s), ("p99.9", found.p999_s)):
        add(f"delivery, {name}", whole, value * 1e3, "ms")


def _together(sized: Sizing, m: Measured) -> None:
    """Why deliveries are charged one by one: people's sessions get too few for two to leave in one send."""
    add, tier = sized.sheet.add, sized.tier
    each = tier.deliveries_per_s / tier.sessions
    events = formulas.flush_events(each, sized.at_peak.worker_wait_s)
    add("events in one send", "1 + deliveries ÷ sessions × wait at a worker", events, "events", session_per_s=each)
    add(
        "a delivery then costs",
        "(delivery_us + (events − 1) × delivery_more_us) ÷ events; delivery_us is what is charged",
        (m["delivery_us"] + (events - 1) * m["delivery_more_us"]) / events,
        "µs",
        delivery_us=m["delivery_us"],
        delivery_more_us=m["delivery_more_us"],
    )


def _loss(sized: Sizing, a: Assumptions, m: Measured) -> None:
    add, left = sized.sheet.add, sized.zone_lost
    sized.sheet.section = "a loss, and a notice to everybody"
    lost = left.sessions * (1 - left.nodes / sized.nodes)
    core = a.core_speed * a.scaling_share
    add("sessions that lose their server", "sessions × (1 − nodes left ÷ nodes)", lost, "sessions")
    add(
        "they come back at",
        "lost ÷ reconnect_spread_s",
        lost / a.reconnect_spread_s,
        "1/s",
        reconnect_spread_s=a.reconnect_spread_s,
    )
    storm = lost / a.reconnect_spread_s * left.hello_s / left.workers / max(1 - left.own_share, 1e-9)
    add("a worker is then busy", "as before + come back × hello ÷ workers left", sized.at_loss.busy + storm, "share")
    add(
        "spread that they need",
        f"lost × hello_us ÷ (workers left × core × ({STORM_BUSY} − busy))",
        formulas.spread_for(lost, m["hello_us"] / 1e6, left.workers, core, STORM_BUSY - sized.at_loss.busy),
        "s",
    )
    add("a process that was killed is back in", "measured", m["recovery_s"], "s", recovery_s=m["recovery_s"])
    told = notice(sized.tier, SLICE_S)
    add("a notice has reached everybody in", "sessions of a worker × delivery ÷ (1 − ρ)", told.everybody_s, "s")
    add("and delays others by at most", "fanout.flush_budget_us", told.others_more_s * 1e3, "ms")


def _node(sized: Sizing, a: Assumptions, m: Measured) -> None:
    add, tier, left, needs = sized.sheet.add, sized.tier, sized.zone_lost, sized.needs
    sized.sheet.section = "a node's memory, disk and network"
    each = left.sessions / left.nodes
    add("sessions, a zone lost" if a.zones > 1 else "sessions, a node lost", "sessions ÷ nodes left", each, "sessions")
    fullest = formulas.largest_of(each / left.node_workers, left.workers)
    add("of the fullest worker", "mean + √(2 mean ln workers)", fullest, "sessions")
    add("memory of sessions", "sessions of a node × a session", each * needs.session_bytes / GIB, "GiB")
    day = tier.events_per_s / a.peak_factor * formulas.DAY_S
    add("events a day", "(publishes + notices) ÷ peak_factor × 86,400 s", day, "events")
    kept = day * needs.log_bytes * a.retention_days / (1 - a.disk_free_share)
    add(
        "disk of a node",
        "events a day × record × log_growth_ratio × retention_days ÷ (1 − disk_free_share): every node has every shard",
        kept / 1e12,
        "TB",
        retention_days=a.retention_days,
        log_growth_ratio=needs.log_bytes / needs.record_bytes,
    )
    add(
        "disk writes at the peak",
        "(publishes + notices) × record × log_write_ratio",
        tier.events_per_s * needs.record_bytes * m["log_write_ratio"] / 1e6,
        "MB/s",
        log_write_ratio=m["log_write_ratio"],
    )
    add("synced commits at the peak", "shards × blocks of a shard", tier.shards * sized.at_peak.commits_per_s, "1/s")
    add(
        "network out, a zone lost" if a.zones > 1 else "network out, a node lost",
        "to all sessions ÷ nodes left",
        needs.out_bytes / left.nodes * 8 / 1e9,
        "Gbit/s",
    )
    add(
        "network in",
        "(publishes + notices) × record + from all sessions ÷ nodes left",
        (tier.events_per_s * needs.record_bytes + needs.in_bytes / left.nodes) * 8 / 1e9,
        "Gbit/s",
    )


def _today(sized: Sizing, a: Assumptions) -> float:
    """Daily users whom one node carries by itself, with its one shard: what the engine does without other machines."""
    low, high = 0.0, 1.0
    workers = sized.tier.node_workers
    memory = a.node_memory_gib * GIB * (1 - a.memory_free_share)
    for _ in range(40):
        share = (low + high) / 2
        tier = sized.tier.at_load(share)
        tier = replace(tier, nodes=1, shards=1, sessions=tier.sessions * share, pings_per_s=tier.pings_per_s * share)
        busy = jobs_of(tier).busy * (1 - tier.own_share) + tier.own_share
        fits = (
            busy <= a.utilisation_max
            and tier.sessions * sized.needs.session_bytes <= memory
            and tier.sessions <= workers * sized.needs.worker_sessions
            and sized.needs.out_bytes * share <= a.node_network_gbit_per_s * 1e9 / 8 * a.utilisation_max
        )
        low, high = (share, high) if fits else (low, share)
    sized.sheet.section = "what one node carries by itself, as the engine is today"
    return sized.sheet.add(
        "daily users of one node",
        "the most whose peak keeps CPU, memory, sessions and network of one node with one shard within their limits",
        a.daily_users * low,
        "people",
    )

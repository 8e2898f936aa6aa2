"""How much the plan hangs on each assumption, and on the load.

Each assumption is moved to both ends of its plausible range, the others staying: what the plan would be (nodes), and
what the nodes of the plan would do (p99 with all of them, at the peak). Combinations are not looked at: two that are
both wrong multiply.
"""

from __future__ import annotations

import math
from dataclasses import replace

from bench.plan.assumptions import Assumptions, moved, table
from bench.plan.measured import Measured
from bench.plan.sizing import HORIZONS, PlanError, Sizing, size
from bench.plan.tail import predict
from bench.schema import PlanLoad

Ends = tuple[int | None, int | None, float | None, float | None]
# What the nodes of the plan are made of: with another value they are other nodes, so there is no p99 of "those".
OTHER_NODES = ("zones", "node_cores", "node_memory_gib", "node_network_gbit_per_s", "p99_ms")


def ms(seconds: float) -> float | None:
    """None for what has no end."""
    return seconds * 1e3 if math.isfinite(seconds) else None


def swings(a: Assumptions, m: Measured, base: Sizing) -> dict[str, Ends]:
    """(nodes at the low end, at the high end, p99 there and there) by name of the assumption."""
    found: dict[str, Ends] = {}
    for name, row in table().items():
        if name == "zones" and a.zones == 1:
            continue
        nodes: list[int | None] = []
        p99: list[float | None] = []
        for value in (row.about.low, row.about.high):
            try:
                other = size(moved(a, name, value), m)
            except PlanError:
                nodes.append(None)
                p99.append(None)
                continue
            nodes.append(other.nodes)
            tier = replace(other.tier, nodes=base.nodes, node_workers=base.tier.node_workers)
            p99.append(
                base.at_peak.p99_s * 1e3 if name in OTHER_NODES else ms(predict(tier, a.p99_ms / 1e3 * HORIZONS).p99_s)
            )
        found[name] = (nodes[0], nodes[1], p99[0], p99[1])
    return found


def loads(sized: Sizing, a: Assumptions, factors: tuple[float, ...]) -> list[PlanLoad]:
    """The planned nodes at so many times of the peak, whole and with a zone lost."""
    horizon = a.p99_ms / 1e3 * HORIZONS
    rows = []
    for lost, tier in ((False, sized.tier), (True, sized.zone_lost)):
        for factor in factors:
            at = predict(tier.at_load(factor), horizon)
            rows.append(PlanLoad(factor, lost, at.busy, ms(at.p50_s), ms(at.p99_s), ms(at.p999_s)))
    return rows

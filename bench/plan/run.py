"""`gonets bench plan`: reads reports and assumptions, and says how many machines a nation needs.

Thin: measured.py, sizing.py, sensitivity.py and simulation.py do the work, show.py prints it, schema.Report holds it.
Bad input is one line and exit code 1.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from bench import schema
from bench.plan import show
from bench.plan.assumptions import AssumptionError, Assumptions, table
from bench.plan.checks import checks, day
from bench.plan.leave import PlaceError, leave, place
from bench.plan.measured import WEAK, Given, Measured, MeasuredError, measured, unit_of
from bench.plan.resources import fill
from bench.plan.sensitivity import loads, swings
from bench.plan.simulation import SESSIONS_MAX
from bench.plan.sizing import PlanError, Sizing, size
from bench.report import machine

LOADS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)


def made(a: Assumptions, m: Measured, *, sensitivity: bool = True) -> tuple[schema.Plan, Sizing]:
    """The plan, without the simulation."""
    sized = size(a, m)
    fill(sized, a, m)
    moved = swings(a, m, sized) if sensitivity else {}
    assumed = []
    for name, row in table().items():
        ends = moved.get(name, (None, None, None, None))
        about = row.about
        assumed.append(
            schema.PlanAssumption(
                name, getattr(a, name), about.unit, row.meaning, about.source, about.low, about.high, *ends
            )
        )
    figures = [
        schema.PlanFigure(name, one.value, unit_of(name), one.low, one.high, one.runs, one.source, one.note)
        for name, one in m.figures.items()
    ]
    plan = schema.Plan(
        assumptions=assumed,
        figures=figures,
        lines=sized.sheet.lines,
        nodes=sized.nodes,
        needed=sized.needed,
        bound_by=sized.bound_by,
        loads=loads(sized, a, LOADS) if sensitivity else [],
    )
    return plan, sized


def played(plan: schema.Plan, sized: Sizing, a: Assumptions, seed: int, seconds: float) -> schema.Plan:
    """The same with the simulation's figures beside the model's."""
    if sized.tier.sessions > SESSIONS_MAX:
        raise PlanError(
            f"{sized.tier.sessions:,.0f} sessions: the simulation holds each in memory, {SESSIONS_MAX:,} at most:"
            " plan without it (--no-simulation)"
        )

    def say(story: str) -> None:
        print(
            f"gonets: bench: plan: simulating {sized.tier.sessions:,.0f} sessions: {story} …",
            file=sys.stderr,
            flush=True,
        )

    found = checks(sized, a, seed, seconds, say)
    return msgspec.structs.replace(plan, checks=found, day=day(sized, a, seed))


def conclusions(a: Assumptions, plan: schema.Plan) -> list[str]:
    """For people."""
    figures = dict(show.short(plan))
    loss = "a zone" if a.zones > 1 else "a node"
    need = (
        f"{a.daily_users:,.0f} daily users need {plan.nodes} nodes of {a.node_cores:.0f} cores, {plan.needed} of them"
        f" to carry the peak; what asks for most is {plan.bound_by}."
    )
    tail = (
        f"At the peak p99 is {figures['delivery p99']}, and {figures['p99, one zone lost']} while {loss} is lost"
        f" (objective {a.p99_ms:g} ms)."
    )
    built = (
        "Assumed, not built: nodes that share shards. Today a node has one shard and knows of no other node; one node"
        f" by itself carries {figures['daily users of one node by itself']} a day. The plan needs every node to read"
        " every shard (Kafka mode)."
    )
    said = [need, tail, built]
    lines = {line.name: line.value for line in plan.lines}
    spread = lines["spread that they need"]
    if spread is None or spread > a.reconnect_spread_s:
        said.append(
            f"When {loss} is lost, its clients must come back over {figures['lost sessions may come back within']} or"
            f" more: over --reconnect-spread-s {a.reconnect_spread_s:g} their hellos queue."
        )
    weak = sorted({one.source for one in plan.figures if WEAK in one.source})
    if weak:
        said.append(f"Not to be planned by: {', '.join(weak)}.")
    wrong = [one for one in plan.checks if not one.agrees]
    if plan.checks:
        said.append(
            f"The simulation agrees with the model in {len(plan.checks) - len(wrong)} of {len(plan.checks)} figures"
            + (": not in " + "; ".join(f"{one.scenario}, {one.name}" for one in wrong) if wrong else "")
            + "."
        )
    return said


def plan(
    *,
    report_file: Annotated[
        list[Path] | None,
        Parameter(help="reports that were measured: of gonets bench costs, append, open …; may be given again"),
    ] = None,
    assumptions: Annotated[Assumptions | None, Parameter(name="*", group="Assumptions")] = None,
    given: Annotated[Given | None, Parameter(name="*", group="Figures of a machine, in place of a report's")] = None,
    report: Annotated[Path | None, Parameter(help="where to write the report; its page goes beside it")] = None,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="the report on stdout instead of tables")
    ] = False,
    short: Annotated[bool, Parameter(negative="", help="the short table alone, as the README has it")] = False,
    sensitivity: Annotated[bool, Parameter(help="move each assumption over its plausible range")] = True,
    simulation: Annotated[bool, Parameter(help="play the tier event by event and hold the model against it")] = True,
    simulated_s: Annotated[float, Parameter(help="seconds of the peak that each story plays")] = 8.0,
    seed: Annotated[int, Parameter(help="of the simulation")] = 1,
) -> None:
    """Figures of one machine, from reports, to the machines of a nation; with every formula."""
    started, began = datetime.now(UTC), time.monotonic()
    try:
        where = place("plan", report)
        a = (assumptions or Assumptions()).checked()
        m = measured(report_file or [], given or Given())
        if not 1 <= simulated_s <= 3_600:
            raise PlanError(f"--simulated-s {simulated_s:g}: between 1 and 3,600 seconds")
        found, sized = made(a, m, sensitivity=sensitivity and not short)
        if simulation and not short:
            found = played(found, sized, a, seed, simulated_s)
    except (AssumptionError, MeasuredError, PlaceError, PlanError) as error:
        print(f"gonets: bench: plan: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    if short:
        print(show.markdown(found))
        return
    whole = schema.Report(
        kind="plan",
        name="plan",
        title=f"The plan for {a.daily_users:,.0f} daily users",
        command=["gonets", *sys.argv[1:]],
        started=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        seed=seed,
        machine=(m.machines or [schema.Machine(**machine(Path.cwd()))])[-1],
        target=schema.Target(started_here=False),
        workload=asdict(a),
        measures=[
            schema.Measure(name=f"{one.section}: {one.name}", unit=one.unit, value=one.value, runs=[], note=one.formula)
            for one in found.lines
            if one.value is not None
        ],
        plan=found,
        conclusions=conclusions(a, found),
    )
    try:
        leave(whole, where)
    except OSError as error:
        print(f"gonets: bench: plan: --report {where}: {error.strerror or error}: name another file", file=sys.stderr)
        raise SystemExit(1) from None
    if as_json:
        print(msgspec.json.encode(whole).decode())
        return
    show.show(found)
    for words in whole.conclusions:
        print(words)
    print(f"gonets: bench: plan: {where}, {where.with_suffix('.html')}", file=sys.stderr)

"""`gonets bench plan` and `costs`: figures come from reports or options, bad input is one line, the README holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import schema
from bench.plan import show
from bench.plan.assumptions import Assumptions
from bench.plan.costs import MEANING
from bench.plan.measured import COSTS, NAMES, Given, MeasuredError, measured
from bench.plan.run import made
from bench.plan.sizing import size
from bench.plan.tail import predict

ROOT = Path(__file__).resolve().parent.parent.parent
STORED = [ROOT / "bench/plan/measured-2-cores-costs.json", ROOT / "bench/plan/measured-2-cores-append.json"]
FIGURES = Given(
    publish_us=50,
    sequence_us=4,
    commit_fixed_us=300,
    commit_event_us=1,
    wake_us=80,
    read_us=0.5,
    delivery_us=10,
    delivery_more_us=0.2,
    hello_us=300,
    ping_us=10,
    session_user_bytes=900,
    session_kernel_bytes=4_500,
    session_conversations=20,
    log_growth_ratio=1.5,
    log_write_ratio=3,
    recovery_s=1.5,
)
OPTIONS = [
    word for one in fields(FIGURES) for word in (f"--{one.name.replace('_', '-')}", str(getattr(FIGURES, one.name)))
]


def bench(*words: str, timeout: int = 55) -> subprocess.CompletedProcess[str]:
    """A command of the bench."""
    command = [sys.executable, "-m", "gonets", "bench", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def older(case: str, **more: Any) -> dict[str, Any]:
    """A case as `--json` of the single measurements prints it."""
    return {"case": case, "spread": [90, 110], "runs": 3, **more}


MACHINE = schema.Machine(
    cpu="made up", cores=2, memory_gib=1.0, kernel="6", system="x", filesystem="ext4", python="3", versions={},
    commit="abc", load_1min_at_start=0.0,
)  # fmt: skip


def written(path: Path, results: list[dict[str, Any]]) -> Path:
    """The object of one of those commands."""
    path.write_text(json.dumps({"results": results, "machine": msgspec.to_builtins(MACHINE)}))
    return path


def test_without_a_report_the_first_figure_that_lacks_is_named_with_who_measures_it() -> None:
    """No figure is built in."""
    done = bench("plan", "--no-simulation")
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"gonets: bench: plan: publish_us is in none of what was read \(no report\): measure it with"
                        r" `gonets bench costs` .* or give it with --publish-us\n", done.stderr)  # fmt: skip
    for name in NAMES:
        with pytest.raises(MeasuredError, match=f"{name} is in none"):
            measured([], replace(FIGURES, **{name: None}))


def test_every_figure_is_measured_by_a_command_that_is_there() -> None:
    """Those that `costs` is named for are rows of `costs`; the others come from `append`."""
    assert {name for name in NAMES if name not in MEANING} == {"commit_fixed_us", "commit_event_us"}
    assert COSTS == "gonets bench costs"


def test_older_results_are_read(tmp_path: Path) -> None:
    """Rates become times, with their spread; a counted figure is preferred to one that follows from a rate."""
    appends = [older(f"append {n} a commit", rate_per_s=n / (2e-4 + 1e-6 * n), spread=[n / (3e-4 + 1e-6 * n), n / 2e-4],
                     bytes_per_record_byte=2.5) for n in (1, 30, 1000)]  # fmt: skip
    others = [
        older("hellos", rate_per_s=5_000, spread=[4_000, 8_000]),
        older("memory of a session", value=800, unit="bytes", conversations_each=20),
        older("idle CPU", value=3.0, unit="%", sessions=15_000),
        older("fanout to 10,000, one at a time", rate_per_s=125_000),
        older("publish 1,000 × 1", rate_per_s=100_000, generator_core_share=0.5),
    ]
    found = measured([written(tmp_path / "old.json", appends + others)], FIGURES).figures
    assert found["hello_us"].source == "--hello-us"
    names = (
        "commit_fixed_us",
        "commit_event_us",
        "hello_us",
        "ping_us",
        "session_user_bytes",
        "delivery_us",
        "publish_us",
    )
    given = replace(FIGURES, log_write_ratio=None, **dict.fromkeys(names))
    found = measured([tmp_path / "old.json"], given).figures
    assert found["commit_fixed_us"].value == pytest.approx(200) and found["commit_event_us"].value == pytest.approx(1)
    assert found["commit_fixed_us"].high == pytest.approx(300)
    assert (found["hello_us"].value, found["hello_us"].low, found["hello_us"].high) == (400, 250, 500)
    assert found["session_user_bytes"].value == 800 and found["log_write_ratio"].value == 2.5
    assert found["ping_us"].value == pytest.approx(60) and found["delivery_us"].value == pytest.approx(8)
    assert found["publish_us"].value == pytest.approx(15) and "from above" in found["publish_us"].note
    assert "old.json, commit abc" in found["ping_us"].source


def run_of(rates: dict[str, float], *, is_limit: bool = False, lost: int = 0) -> schema.Run:
    """A worker took 0.2 cores and the sequencer 0.05."""
    processes = [
        schema.Process(
            role=role, name=role, pid=1, samples=[], cpu_cores_mean=cores, cpu_cores_max=1, resident_bytes_max=1
        )
        for role, cores in (("worker", 0.2), ("sequencer", 0.05), ("generator", 0.9))
    ]
    return schema.Run(
        started="", connect_s=1, warmup_s=1, window_s=1, drain_s=1, sessions=1_000, offered_per_s=None, counts={},
        faults={"lost": lost}, rates_per_s=rates, latencies={}, ticks=[], processes=processes,
        generator=schema.Generator(processes=1, cpu_cores_max=0.9, late_p99_ms=0, is_limit=is_limit),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("run", "figures"),
    [
        (run_of({"published": 1_000.0, "deliveries": 2_000.0}), {"publish_us": 200, "sequence_us": 50}),
        (run_of({"published": 10.0, "deliveries": 20_000.0}), {"delivery_us": 10, "sequence_us": 5_000}),
        (run_of({}), {"ping_us": 6_000}),
        (run_of({"published": 1_000.0}, is_limit=True), {}),
        (run_of({"published": 1_000.0}, lost=1), {}),
    ],
)
def test_runs_charge_what_they_did_most(tmp_path: Path, run: schema.Run, figures: dict[str, float]) -> None:
    """CPU by publishes, deliveries or pings; nothing if any was lost, or clients were the limit."""
    report = schema.Report(
        kind="run", name="x", title="x", command=[], started="", seconds=1, seed=1, machine=MACHINE,
        target=schema.Target(), workload={"name": "x", "sessions": {"ping_interval_s": 30}}, runs=[run],
    )  # fmt: skip
    schema.write(report, tmp_path / "run.json")
    given = replace(FIGURES, **dict.fromkeys(figures))
    found = measured([tmp_path / "run.json"], given).figures
    for name, value in figures.items():
        assert found[name].value == pytest.approx(value) and "run.json" in found[name].source
    assert all(found[name].source.startswith("--") for name in NAMES if name not in figures)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory: name a report that is there"),
        ("nonsense", "no JSON"),
        ('{"schema": "gonets.bench/0"}', "its schema is 'gonets.bench/0', and this program reads 'gonets.bench/1'"),
        ('{"results": [{"case": "x"}], "machine": {}}', "not what gonets bench … --json prints"),
        ("[]", "it names no schema"),
    ],
)
def test_a_file_that_is_no_report_is_one_line(tmp_path: Path, content: str | None, words: str) -> None:
    """With its name."""
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MeasuredError) as told:
        measured([path], FIGURES)
    assert str(path) in str(told.value) and words in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--daily-users", "-5"], "--daily-users -5: it is counted in people and lies between"),
        (["--p99-ms", "1"], "--p99-ms 1: not met by"),
        (["--node-cores", "2"], "--node-cores 2: sequencers take 1 and the system 1, no worker is left"),
        (["--read-us", "20"], "--read-us 20: reading 94,907 events a second takes"),
        (["--node-network-gbit-per-s", "0.1"], "--node-network-gbit-per-s 0.1: the log alone is"),
        (["--wake-us", "-1"], "--wake-us -1: a number from 0 on is needed"),
        (["--report", "nowhere/plan.json"], "--report nowhere/plan.json: nowhere is no directory that can be written"),
        (["--simulated-s", "0"], "--simulated-s 0: between 1 and 3,600 seconds"),
    ],
)
def test_what_no_plan_can_be_made_of_is_one_line(options: list[str], words: str) -> None:
    """The value, the limit, what to change."""
    others = [word for at in range(0, len(OPTIONS), 2) if OPTIONS[at] != options[0] for word in OPTIONS[at : at + 2]]
    done = bench("plan", "--no-simulation", "--no-sensitivity", *others, *options)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_more_of_anything_never_needs_less(tmp_path: Path) -> None:
    """People, messages, devices, group sizes, costs: nodes and the tail don't fall when they rise."""
    m, a = measured([], FIGURES), Assumptions()
    base = size(a, m)
    assert base.needed <= base.nodes - base.zone_nodes
    assert base.at_loss.p99_s <= a.p99_ms / 1e3 and base.at_loss.busy <= a.utilisation_max
    for name, times in (("daily_users", 3), ("messages_per_user", 5), ("devices", 3), ("group_members_mean", 10)):
        more = size(replace(a, **{name: getattr(a, name) * times}), m)
        assert more.needed >= base.needed
        worse = replace(more.tier, nodes=base.nodes, node_workers=base.tier.node_workers)
        assert predict(worse, 0.4).p99_s >= base.at_peak.p99_s * 0.999
    slower = measured([], replace(FIGURES, delivery_us=200))
    assert size(a, slower).needed > base.needed and size(a, slower).bound_by == "CPU"


def test_a_plan_as_report(tmp_path: Path) -> None:
    """Written, read again, shown from what was read; every line has its formula, the simulation is beside the model."""
    path = tmp_path / "plan.json"
    done = bench("plan", *OPTIONS, "--daily-users", "2e6", "--simulated-s", "1", "--report", str(path))
    assert done.returncode == 0, done.stderr
    report = schema.read(path)
    page = (tmp_path / "plan.html").read_text()
    assert all(
        f">{title}<" in page for title in ("What it hangs on", "Delivery by load", "The simulated day", "Every step")
    )
    assert page.count("<svg") == 3
    plan = report.plan
    assert report.kind == "plan" and plan is not None and len(report.measures) == len(plan.lines)
    assert all(line.formula and line.unit for line in plan.lines)
    assert {one.scenario for one in plan.checks} == {"peak", "a zone is lost", "a node goes", "a notice to everybody"}
    assert len(plan.day) == 1_440 and max(plan.day, key=lambda one: one.busy_mean).minute in range(-90, 91)
    assert any(one.nodes_high != one.nodes_low for one in plan.assumptions)
    for what, figure in show.short(plan):
        assert what in done.stdout and figure in done.stdout
    assert "Assumed, not built" in done.stdout
    wrong = sum(not one.agrees for one in plan.checks)
    assert (
        done.stdout.count("DISAGREES") == wrong
    ) and f"in {len(plan.checks) - wrong} of {len(plan.checks)}" in done.stdout


def test_costs_feed_the_plan(tmp_path: Path) -> None:
    """At smoke size; what `append` measures is given by hand."""
    path = tmp_path / "costs.json"
    done = bench("costs", "--smoke", "--report", str(path), "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2_000:]
    report = schema.read(path)
    assert "smoke" in report.title and {one.name for one in report.measures} == set(MEANING)
    # Differences of two looks: at this size one of them may be all of the other's noise.
    differences = {"ping_us": 10.0, "read_us": 1.0, "session_user_bytes": 900.0, "session_kernel_bytes": 4_000.0}
    assert [one.name for one in report.measures if one.value <= 0 and one.name not in differences] == []
    m = measured([path], Given(commit_fixed_us=300, commit_event_us=1, **differences))
    assert size(Assumptions(daily_users=1e5), m).nodes >= 3
    assert "(not whole)" in m.figures["hello_us"].source
    assert sorted(one.name for one in tmp_path.iterdir()) == ["costs.html", "costs.json"]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_the_stored_reports_are_measured_ones(path: Path) -> None:
    """Whole, of a named machine and commit, and no smoke."""
    text = path.read_text()
    assert '"commit"' in text and "smoke" not in text and '"cores": 2' in text
    assert measured([path], FIGURES).machines[0].filesystem not in ("tmpfs", "unknown")


def test_the_readme_shows_what_the_command_prints() -> None:
    """The table of the plan for 50 million, from the stored reports."""
    plan, _ = made(Assumptions(), measured(STORED, Given()), sensitivity=False)
    table = show.markdown(plan)
    readme = (ROOT / "README.md").read_text()
    assert table in readme, table
    command = next(line for line in readme.splitlines() if "gonets bench plan --daily-users 50e6" in line)
    for path in STORED:
        assert f"--report-file {path.relative_to(ROOT)}" in command

"""Prometheus' own checker of rules, for tests: what it says of a file, and which alerts fire over made-up series."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TIMEOUT_S = 50
STEP = "30s"  # between two values of a series
LONG_MINUTES = 120  # cases beyond it are looked at less often: each look is an evaluation of all rules


class Case(NamedTuple):
    """Whether one alert fires `at` a minute. `series`: metric → values as promtool writes them, such as 0+5x10."""

    alert: str
    fires: bool
    at: str
    series: Mapping[str, str]


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs it; skips where it isn't installed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed here: apt-get install prometheus")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def check_rules(path: Path) -> None:
    """Each expression and each annotation parses."""
    run = promtool("check", "rules", path)
    assert run.returncode == 0, run.stdout + run.stderr


def check_cases(rules: Path, cases: list[Case], folder: Path, job: str) -> None:
    """Every case comes out as it says; `alert` "" stands for all of them."""
    files = []
    for every, are_long in (("1m", False), ("5m", True)):
        groups = [_group(case, job) for case in cases if (int(case.at.removesuffix("m")) > LONG_MINUTES) is are_long]
        files.append(folder / f"cases-{every}.yml")  # JSON is YAML
        files[-1].write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": every, "tests": groups}))
    run = promtool("test", "rules", *files)
    assert run.returncode == 0, run.stdout + run.stderr


def _series(name: str, labels: str) -> str:
    """A metric, which may have a label of its own already."""
    name, _, own = name.removesuffix("}").partition("{")
    return f"{name}{{{','.join(filter(None, (own, labels)))}}}"


def _group(case: Case, job: str) -> dict[str, Any]:
    labels = f'job="{job}",instance="node"'
    named = f'alertname="{case.alert}",' if case.alert else ""
    return {
        "name": f"{case.alert} {case.fires}",
        "interval": STEP,
        "input_series": [{"series": _series(name, labels), "values": text} for name, text in case.series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{{named}alertstate="firing"}}) or vector(0)',
                "eval_time": case.at,
                "exp_samples": [{"labels": "{}", "value": int(case.fires)}],
            }
        ],
    }

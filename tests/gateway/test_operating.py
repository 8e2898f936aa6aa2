"""The files for Prometheus and Grafana, the page for operators and the table of metrics agree with each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import Config
from gateway.metrics import TABLE
from gateway.operating.alerts import ALERTS, RECORDED
from gateway.operating.dashboard import CHOSEN, dashboard
from gateway.operating.figures import FigureError, Figures, figures_of, filled
from gateway.operating.panels import NOT_SHOWN, ROWS
from gateway.operating.rules import duration, rules
from tests.support.promtool import check_rules

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "gateway" / "operating"
FIGURES = figures_of(Config())
PAGE = (FOLDER / "OPERATING.md").read_text()
PANELS = [panel for panels in ROWS.values() for panel in panels]
ASKED = [row.expr for row in RECORDED] + [alert.expr for alert in ALERTS]
DRAWN = [line.expr for panel in PANELS for line in panel.lines]
METRIC = re.compile(r"\bgonets_\w+")
OF_COUNTERS = ("rate", "increase")
UNITS = {"none", "short", "s", "bytes", "Bps", "cps", "percentunit", "bool_yes_no", "dateTimeFromNow"}


@pytest.mark.parametrize(
    ("name", "text", "verb"),
    [("gonets.rules.yml", rules(FIGURES), "alerts"), ("dashboard.json", dashboard(FIGURES), "dashboard")],
)
def test_the_files_are_what_the_tables_give(name: str, text: str, verb: str) -> None:
    made_anew = f".venv/bin/gonets config {verb} > gateway/operating/{name}"
    assert (FOLDER / name).read_text() == text, f"make it anew: {made_anew}"


def misused(expr: str) -> Iterator[str]:
    """Metrics of an expression that are not in the table, or asked for what their kind can't say."""
    kinds = {row.name: row.kind for row in TABLE}
    for found in METRIC.finditer(re.sub(r"\w+:gonets_[\w:]+", "", expr)):
        name = found[0]
        before = re.sub(r"\w+:gonets_[\w:]+", "", expr)[: found.start()]
        function = re.search(r"(\w+)\([^()]*$", before)
        is_rate = function is not None and function[1] in OF_COUNTERS
        if name not in kinds:
            yield f"{name} is no metric"
        elif is_rate and kinds[name] != "counter":
            yield f"{name} is a gauge: no {function[1] if function else ''}()"
        elif not is_rate and kinds[name] == "counter":
            yield f"{name} is a counter: only its rate says something"


def test_every_metric_named_is_in_the_table_and_used_as_its_kind_allows() -> None:
    assert not [f"{expr}: {words}" for expr in ASKED + DRAWN for words in misused(expr)]
    recorded = {row.name for row in RECORDED}
    named = {name for expr in ASKED + DRAWN for name in re.findall(r"\w+:gonets_[\w:]+", expr)}
    assert named <= recorded


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ("rate(gonets_publishes_total[5m])", []),
        ("gonets_sessions / gonets_room_sessions", []),
        ("avg_over_time(gonets_load_level[5m])", []),
        ("rate(gonets_sessions[5m])", ["gonets_sessions is a gauge: no rate()"]),
        ("gonets_publishes_total > 5", ["gonets_publishes_total is a counter: only its rate says something"]),
        ("deriv(gonets_hellos_total[5m])", ["gonets_hellos_total is a counter: only its rate says something"]),
        ("increase(gonets_answers_total[2m]) + gonets_nothing", ["gonets_nothing is no metric"]),
    ],
)
def test_misuse_is_found(expr: str, found: list[str]) -> None:
    """The check bites."""
    assert list(misused(expr)) == found


def test_every_metric_is_shown_or_said_not_to_be() -> None:
    shown = {name for expr in DRAWN for name in METRIC.findall(expr)}
    every = {row.name for row in TABLE}
    assert every - shown == set(NOT_SHOWN)
    assert all(len(reason) > 10 for reason in NOT_SHOWN.values())


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    assert re.findall(r"^### (\w+)$", PAGE, re.M) == [alert.name for alert in ALERTS]
    for alert in ALERTS:
        section = PAGE.split(f"### {alert.name}\n")[1].split("\n#")[0]
        assert section.index("**Do:**") >= 19, f"{alert.name}: says what it means, then what to do"
    anchors = {f"#{title.lower().replace(' ', '-')}" for title in re.findall(r"^#+ (.+)$", PAGE, re.M)}
    assert set(re.findall(r"\]\((#[^)]+)\)", PAGE)) <= anchors


def test_the_page_names_what_there_is() -> None:
    """Options, panels and commands that it tells people to look for."""
    config = msgspec.to_builtins(Config())
    for section, option in re.findall(r"`(server|auth|tls|log|gateway|admission|fanout)\.([a-z_]+)`", PAGE):
        assert option in config[section], f"{section}.{option}"
    titles = {words for panel in PANELS for words in (panel.title, *(line.name for line in panel.lines))} | set(ROWS)
    for words in re.findall(r"(?<!\*)\*([A-Z][a-z][^*]+[^*:.])\*(?!\*)", PAGE):
        assert any(title.startswith(words) for title in titles) or words == "Targets", words


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"gonets ((?:config|log) \w+)", PAGE))))
def test_the_page_names_commands_that_there_are(verb: str) -> None:
    from gonets import app

    group, command = verb.split()
    assert app[group][command].name


def test_every_rule_is_of_one_job() -> None:
    """So that nodes with other limits have a file of their own beside it."""
    exprs = re.findall(r"^ +expr: '(.*)'$", rules(figures_of(Config(), "chat")), re.M)
    assert len(exprs) == len(ASKED)
    for expr in exprs:
        named = len(re.findall(r"\b(?:instance:)?gonets_[\w:]+|\bup\b", expr))
        assert named == expr.count('{job="chat"}') > 0, expr


def test_the_alerts_are_written_alike() -> None:
    names = [alert.name for alert in ALERTS]
    assert len(set(names)) == len(names)
    for alert in ALERTS:
        assert re.fullmatch(r"Gonets([A-Z][a-z]+)+", alert.name)
        assert alert.says[0].islower() or alert.says[0] in "/9", alert.name
        assert not alert.says.endswith("."), alert.name


@pytest.mark.parametrize(("seconds", "text"), [(30, "30s"), (90, "90s"), (300, "5m"), (7_200, "2h"), (5_400, "90m")])
def test_durations(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_every_rule_and_every_panel_parses(tmp_path: Path) -> None:
    """By Prometheus' own parser; a dashboard's expressions as rules, with what Grafana would put in."""
    check_rules(FOLDER / "gonets.rules.yml")
    targets = [target for panel in drawn()["panels"] for target in panel.get("targets", ())]
    asked = [target["expr"] for target in targets] + [row["expr"] for row in drawn()["annotations"]["list"]]
    assert len(asked) > len(PANELS)
    texts = [re.sub(r"\$__(rate_)?interval", "1m", expr) for expr in asked]
    recorded = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(texts)]
    made = tmp_path / "panels.yml"
    made.write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}))
    check_rules(made)


def test_a_rule_that_does_not_parse_is_seen(tmp_path: Path) -> None:
    """The check bites."""
    made = tmp_path / "wrong.yml"
    made.write_text(rules(FIGURES).replace('gonets_ready{job="gonets"} == 0', 'gonets_ready{job="gonets"} = 0', 1))
    with pytest.raises(AssertionError, match="GonetsNotReady"):
        check_rules(made)


# --- the dashboard ----------------------------------------------------------------------------------------------------


def drawn() -> dict[str, Any]:
    """The file."""
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def test_panels_are_whole_and_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    numbers = [panel["id"] for panel in drawn()["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert drawn()["panels"][0]["type"] == "row"
    for panel in drawn()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "stat")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert len(panel["description"]) > 4, panel["title"]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None, "the first step is the base"
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values), panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters and len(set(letters)) == len(letters) == len(set(map(str, panel["targets"])))
    whole = {y for _, y in taken}
    assert whole == set(range(len(whole))), "no gap between rows"


def test_every_question_is_asked_of_the_chosen_nodes_and_data_source() -> None:
    names = [variable["name"] for variable in drawn()["templating"]["list"]]
    assert names == ["datasource", "job", "instance"]
    for panel in drawn()["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert len(METRIC.findall(target["expr"])) == target["expr"].count(CHOSEN)
            assert CHOSEN in target["expr"] or target["expr"].startswith("vector(")


# --- figures and the commands -----------------------------------------------------------------------------------------


def test_figures_follow_the_configuration() -> None:
    with_workers = msgspec.convert({"server": {"gateway_workers": 3}, "log": {"free_bytes_min": 7}}, type=Config)
    found = figures_of(with_workers, "chat")
    assert found.free_bytes_min == 7 and found.job == "chat"
    assert found.buffers_bytes_max == 3 * FIGURES.buffers_bytes_max
    assert found.unknown_sessions_max == 3 * FIGURES.unknown_sessions_max
    assert found.memory_bytes_max > 3 * FIGURES.memory_bytes_max


def test_every_figure_is_named_somewhere() -> None:
    texts = ASKED + DRAWN + [alert.says for alert in ALERTS]
    texts += [words for panel in PANELS for words in (panel.help, *(value for value, _ in panel.steps))]
    named = {name for text in texts for name in re.findall(r"<([a-z_]+)>", text)}
    assert named | {"runbook"} == set(Figures._fields)
    with pytest.raises(KeyError):
        filled("gonets_sessions > <nothing>", FIGURES)


@pytest.mark.parametrize("job", ["", 'a"b', "a b", "x" * 129])
def test_a_job_that_can_not_be_one_is_refused(job: str) -> None:
    with pytest.raises(FigureError, match="--job"):
        figures_of(Config(), job)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`gonets config …`."""
    command = [sys.executable, str(ROOT / "gonets.py"), "config", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_commands_print_the_limits_of_a_configuration(tmp_path: Path) -> None:
    config = tmp_path / "gonets.toml"
    config.write_text("[log]\nfree_bytes_min = 123456789\nsegment_bytes = 2097152\n")
    printed = run("alerts", "--config", str(config), "--job", "chat", "--runbook", "https://wiki.example/gonets")
    assert printed.returncode == 0, printed.stderr
    assert 'gonets_data_free_bytes{job="chat"} < 127651093' in printed.stdout
    assert 'up{job="chat"} == 0' in printed.stdout
    assert "runbook_url: 'https://wiki.example/gonets#gonetsdown'" in printed.stdout
    board = run("dashboard", "--config", str(config))
    assert '"expr": "vector(123456789)"' in board.stdout and json.loads(board.stdout)["title"] == "Gonets"


@pytest.mark.parametrize("arguments", [("--job", "a b"), ("--runbook", "it's here"), ("--config", "nowhere.toml")])
def test_words_that_can_not_stand_in_a_rule_are_one_line(arguments: tuple[str, str]) -> None:
    refused = run("alerts", *arguments)
    assert refused.returncode == 1 and not refused.stdout
    assert refused.stderr.startswith(f"gonets: {arguments[0]}") and refused.stderr.count("\n") == 1

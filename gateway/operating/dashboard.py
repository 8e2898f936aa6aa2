"""dashboard.json: the panels of panels.py as a Grafana dashboard, with figures of a configuration in it.

Printed by `gonets config dashboard`; imported as it is: it asks for the data source, then for job and nodes. Each
metric in an expression gets the labels of the chosen nodes here, so that no panel can forget them.

Cost: some formatting, when somebody asks.
"""

from __future__ import annotations

import json
from itertools import count
from typing import Any, Final

from gateway.operating.figures import SERIES, Figures, chosen, filled
from gateway.operating.panel import Line, Panel
from gateway.operating.panels import ROWS

SCHEMA_VERSION: Final = 39  # Grafana 10.4 and 11; later ones migrate it by themselves
UID: Final = "gonets-node"
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN: Final = '{job="$job",instance=~"$instance"}'
COLUMNS: Final = 24
HEIGHT, STAT_HEIGHT = 8, 4


def dashboard(figures: Figures) -> str:
    """The whole file."""
    return json.dumps(_model(figures), indent=1, ensure_ascii=False) + "\n"


def _model(figures: Figures) -> dict[str, Any]:
    return {
        "uid": UID,
        "title": "Gonets",
        "description": "One node, or several side by side; OPERATING.md explains. Made by `gonets config dashboard`.",
        "tags": ["gonets"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair through all panels
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "fiscalYearStartMonth": 0,
        "links": [],
        "annotations": {"list": [_alerts_fired(), _starts()]},
        "templating": {"list": _variables(figures)},
        "panels": _panels(figures),
    }


def _alerts_fired() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f'ALERTS{{alertstate="firing",alertname=~"Gonets.+",{CHOSEN[1:]}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{instance}}",
        "step": "60s",
    }


def _starts() -> dict[str, Any]:
    return {
        "name": "Starts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": f"changes(gonets_start_time_seconds{CHOSEN}[$__interval]) > 0",
        "titleFormat": "started",
        "textFormat": "{{instance}}",
        "step": "60s",
    }


def _variables(figures: Figures) -> list[dict[str, Any]]:
    def asked(name: str, label: str, query: str, **more: Any) -> dict[str, Any]:
        of = {"query": query, "refId": name}
        return {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "query": of,
            "refresh": 2,
            "sort": 1,
            **more,
        }

    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1},
        asked("job", "Job", "label_values(gonets_sessions, job)", current={"text": figures.job, "value": figures.job}),
        asked(
            "instance",
            "Node",
            'label_values(gonets_sessions{job="$job"}, instance)',
            multi=True,
            includeAll=True,
            allValue=".+",
            current={"text": ["All"], "value": ["$__all"]},
        ),
    ]


def _panels(figures: Figures) -> list[dict[str, Any]]:
    """Row after row, from left to right."""
    numbers, found, y = count(1), [], 0
    for title, panels in ROWS.items():
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        found.append(
            {"id": next(numbers), "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        x, y = 0, y + 1
        height = STAT_HEIGHT if panels[0].kind == "stat" else HEIGHT
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            place = {"h": height, "w": panel.width, "x": x, "y": y}
            found.append(_panel(next(numbers), panel, place, figures))
            x += panel.width
        y += height
    return found


def _panel(number: int, panel: Panel, place: dict[str, int], figures: Figures) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": filled(panel.help, figures),
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [_target(letter, line, figures) for letter, line in zip("ABCDEFGH", panel.lines, strict=False)],
        "fieldConfig": {"defaults": _defaults(panel, figures), "overrides": _overrides(panel)},
    }
    if panel.kind == "stat":
        drawn["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background" if panel.steps else "value",
            "graphMode": "none",
            "textMode": "auto",
        }
    else:
        drawn["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return drawn


def _target(letter: str, line: Line, figures: Figures) -> dict[str, Any]:
    expr = chosen(filled(line.expr, figures), CHOSEN)
    of_all = line.is_limit and not SERIES.search(line.expr)
    legend = line.name if of_all else f"{{{{instance}}}} {line.name}".strip()
    return {
        "refId": letter,
        "datasource": SOURCE,
        "expr": expr,
        "legendFormat": legend,
        "range": True,
        "editorMode": "code",
    }


def _defaults(panel: Panel, figures: Figures) -> dict[str, Any]:
    """Unit, thresholds, and how lines are drawn."""
    steps = [(filled(value, figures), colour) for value, colour in panel.steps]
    if not steps or steps[0][0] != "-Infinity":
        steps.insert(0, ("-Infinity", "green"))
    drawn = [{"color": colour, "value": None if value == "-Infinity" else float(value)} for value, colour in steps]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": drawn}}
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 8,
            "showPoints": "never",
            "spanNulls": False,
            "thresholdsStyle": {"mode": "line" if panel.steps else "off"},
        }
    else:
        defaults["color"] = {"mode": "thresholds"}
    if panel.most is not None:
        defaults["max"] = panel.most
    return defaults


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """Limits are dashed, grey, and not filled."""
    looks = [
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}},
        {"id": "custom.fillOpacity", "value": 0},
        {"id": "color", "value": {"mode": "fixed", "fixedColor": "text"}},
    ]
    letters = [letter for letter, line in zip("ABCDEFGH", panel.lines, strict=False) if line.is_limit]
    return [{"matcher": {"id": "byFrameRefID", "options": letter}, "properties": looks} for letter in letters]

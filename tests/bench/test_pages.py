"""The page of a report: whole, self-contained, readable without eyes; nothing of a report becomes markup."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from matplotlib.text import Annotation

from bench import pages, schema, wording
from bench.pages import curves, drawing, sections, times
from bench.pages.headlines import headlines
from bench.schema import Report, ReportError
from tests.support import made_reports as made

ROOT = Path(__file__).resolve().parent.parent.parent
BYTES_MAX = 1_500_000
VOID = ("meta", "br", "hr", "img", "use", "link")
CHARTS: dict[str, tuple[Callable[[], Report], tuple[str, ...]]] = {
    "run": (made.of_runs, ("rates", "latency", "heat", "percentiles", "processes")),
    "capacity": (made.of_capacity, ("capacity-curve", "rates", "percentiles")),
    "soak": (made.of_soak, ("growth-0", "growth-4", "rates")),
    "peers": (made.of_peers, ("peers-0", "peers-4")),
    "measure": (made.of_measures, ("limits",)),
    "compare": (made.of_comparison, ("sides",)),
}
ODD = 'a <b>"bold"</b> & $x_1$ \\frac{1}{2} \x00\x1b[31m </style><script>alert(1)</script> 漢字'


class Elements(HTMLParser):
    """Checks that what is opened is closed; keeps what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data


def elements(text: str) -> Elements:
    """A parsed page, which is whole."""
    found = Elements()
    found.feed(text)
    found.close()
    assert not found.open
    return found


@pytest.mark.parametrize("kind", CHARTS)
def test_a_page_of_each_kind(kind: str, tmp_path: Path) -> None:
    """One file, no foreign address, no script; every chart says what it shows; headings in order; ids once."""
    make, charts = CHARTS[kind]
    report = make()
    pages.write(report, tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(text.encode()) < BYTES_MAX
    found = elements(text)
    drawn = [attributes for tag, attributes in found.seen if tag == "svg"]
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in drawn)
    for chart in charts:
        assert f'id="{chart}-' in text, chart
    identities = [attributes["id"] for _, attributes in found.seen if "id" in attributes]
    assert len(identities) == len(set(identities))
    levels = [int(tag[1]) for tag, _ in found.seen if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for tag, attributes in found.seen:
        assert tag not in ("script", "iframe", "link", "object")
        for name, value in attributes.items():
            assert not name.startswith("on") and (name not in ("src", "href", "xlink:href") or not value
                                                  or value.startswith(("#", "data:image/png")))  # fmt: skip
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_the_page_has_the_figures_of_the_report() -> None:
    """Headline, verdict, table of conditions, command."""
    report = made.of_runs(3)
    text = elements(pages.render(report)).text
    middle = report.runs[sections.middle_run(report)].latencies["deliver"]
    for words in (
        wording.ms(middle.p99_ms), "Valid.", "gonets bench run evening-peak --runs 3", "AMD EPYC", "gateway.rate_per_s",
        "5018d0e3a1b2", "lmdb-writer", "fsync", "streams dialogs.rate_per_s",
    ):  # fmt: skip
        assert words in text, words


def test_a_search_names_the_rate_above_its_capacity_where_it_ended() -> None:
    """Not one below it that chance spoiled, nor one that met the objective with the same thread busy."""
    report = made.of_capacity()
    found = report.capacity
    assert found and found.rate_per_s
    unlucky = msgspec.structs.replace(found.points[0], met=False)
    changed = msgspec.structs.replace(found, points=[unlucky, *found.points[1:]])
    first = wording.rate(min(one.offered_per_s for one in found.points if one.offered_per_s > found.rate_per_s))
    chart = curves.capacity("capacity", changed)
    assert chart and f"First seen at {first}." in chart.caption
    [missed] = [one for one in headlines(msgspec.structs.replace(report, capacity=changed)) if "Missed" in one.label]
    assert missed.value == first
    free = [msgspec.structs.replace(one, saturated="" if not one.met else one.saturated) for one in found.points]
    chart = curves.capacity("capacity", msgspec.structs.replace(found, points=free))
    assert chart and "First seen" not in chart.caption


def test_the_bare_limit_is_nobody_s_system_and_settings_stand_once() -> None:
    """Beside the best of the others, not as the best; what a system's settings are is the same at all its jobs."""
    report = made.of_peers()
    ours = next(row for row in report.peers if row.system == "Gonets")
    limit = [
        msgspec.structs.replace(row, system=schema.PEER_LIMIT, runs=[9e6])
        for row in report.peers
        if row.system == "Gonets" and row.unit != "ms"
    ]
    noted = [msgspec.structs.replace(row, note=f"{row.job} noted; {schema.PEER_SETTINGS}all of <them>")
             if row.system == "Redis Streams" else row for row in report.peers]  # fmt: skip
    found = msgspec.structs.replace(report, peers=[*noted, *limit])
    [head] = [one for one in headlines(found) if one.label == ours.job]
    assert head.detail.startswith("best other: NATS JetStream") and head.detail.endswith(
        "bare limit 9,000,000 deliveries/s"
    )
    text = elements(pages.render(found)).text
    assert text.count("all of <them>") == 1 and text.count("append-1 noted") == 2 and "recommended" not in text
    assert "One run has no spread" not in text
    once = [msgspec.structs.replace(row, runs=row.runs[:1]) for row in report.peers]
    assert "One run has no spread" in elements(pages.render(msgspec.structs.replace(report, peers=once))).text


def test_what_must_not_be_believed_stands_first() -> None:
    """Partial, faults, a generator that was the limit: above the first figure."""
    run = made.run(1, window_s=10, faults={"lost": 2})
    slow = msgspec.structs.replace(run.generator, is_limit=True, reason="its thread used 0.99 cores")
    broken = msgspec.structs.replace(run, generator=slow)
    text = pages.render(made.report("run", runs=[broken], partial=True, reason="Ctrl-C after 10 s"))
    for words in ("Ctrl-C after 10 s", "2 lost", "0.99 cores", "Not valid"):
        assert 0 < text.index(words) < text.index('<dl class="heads"'), words


@pytest.mark.parametrize("kind", CHARTS)
def test_text_of_a_report_is_only_text(kind: str) -> None:
    """Names, reasons and notes with markup, mathematics and control characters: shown, never obeyed."""
    report = CHARTS[kind][0]()
    data = msgspec.to_builtins(report)
    odd = msgspec.convert(_with_odd_text(data), Report)
    text = pages.render(odd)
    found = elements(text)
    assert "script" not in [tag for tag, _ in found.seen] and not [tag for tag, _ in found.seen if tag == "b"]
    assert "\x00" not in text and "\x1b" not in text
    assert 'a <b>"bold"</b> & $x_1$' in found.text


def _with_odd_text(value: object, name: str = "") -> object:
    """Every text of a report replaced, except those that a program reads."""
    if isinstance(value, dict):
        return {key: _with_odd_text(one, key) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_odd_text(one, name) for one in value]
    kept = ("schema", "kind", "histogram", "started", "unit", "job", "verdict", "better", "role")
    return ODD if isinstance(value, str) and value and name not in kept else value


@pytest.mark.parametrize("kind", ["run", "capacity", "soak", "peers", "measure", "compare", "plan", "unheard of"])
def test_an_empty_report_is_drawn(kind: str) -> None:
    """A command that ended before it had anything."""
    text = pages.render(made.report(kind, partial=True, reason="the target died", workload={}))
    assert "the target died" in elements(text).text


def test_a_run_without_most_of_it_is_drawn() -> None:
    """No ticks, no processes, no latencies: what is there is shown."""
    bare = made.run(1, window_s=10, ticks=[], processes=[], latencies={}, resources={}, values={})
    bare = msgspec.structs.replace(bare, offered_per_s=None)
    assert "closed loop" in elements(pages.render(made.report("run", runs=[bare]))).text
    one = made.run(1, window_s=10)
    silent = [msgspec.structs.replace(tick, p50_ms=None, p99_ms=None, max_ms=None, heat=[]) for tick in one.ticks]
    quiet = msgspec.structs.replace(one, ticks=silent[:1], processes=one.processes[:1])
    elements(pages.render(made.report("run", runs=[quiet])))


def test_a_long_run_fits() -> None:
    """Three hours of seconds, 40 processes, in columns whose p99 is the highest of theirs."""
    short = made.run(2, window_s=60)
    ticks = [
        msgspec.structs.replace(short.ticks[second % 60], at_s=float(second)) for second in range(3 * wording.HOUR_S)
    ]
    many = [msgspec.structs.replace(short.processes[n % 3], name=f"worker {n}", pid=n) for n in range(40)]
    long = msgspec.structs.replace(short, ticks=ticks, window_s=3.0 * wording.HOUR_S, processes=many)
    found = times.columns(long)
    assert len(found.at_s) <= times.COLUMNS_MAX
    assert max(found.p99_ms) == max(tick.p99_ms or 0.0 for tick in ticks)
    assert sum(sum(column.values()) for column in found.heat) == sum(n for tick in ticks for _, n in tick.heat)
    assert len(pages.render(made.report("soak", runs=[long])).encode()) < BYTES_MAX


def test_percentile_curves_are_those_of_the_histogram() -> None:
    """At each share the curve has the histogram's own percentile."""
    latency = made.run(3, window_s=30).latencies["deliver"]
    shares, values = curves.quantiles(latency, "")
    for inverse, expected in ((2, latency.p50_ms), (100, latency.p99_ms), (1_000, latency.p999_ms)):
        below = values[shares <= inverse][-1]
        assert below == pytest.approx(expected, rel=0.01)
    assert values[-1] == pytest.approx(latency.max_ms, rel=0.002)
    assert [curves.share_text(one) for one in (1, 2, 10, 1_000, 100_000)] == [
        "0 %",
        "50 %",
        "90 %",
        "99.9 %",
        "99.999 %",
    ]


def test_a_histogram_that_cant_be_read_is_named() -> None:
    """Which run, which distribution."""
    run = made.run(1, window_s=10)
    broken = msgspec.structs.replace(run.latencies["deliver"], histogram="not base64!")
    report = made.report("run", runs=[msgspec.structs.replace(run, latencies={"deliver": broken})])
    with pytest.raises(ReportError, match="run 1, deliver: its histogram"):
        pages.render(report)


def test_pages_are_the_same_each_time() -> None:
    """So that two can be compared; and matplotlib's own settings are untouched."""
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    report = made.of_measures()
    assert pages.render(report) == pages.render(report) and dict(mpl.rcParams) == before


def test_labels_that_would_meet_are_moved_apart() -> None:
    """At least a line's height between any two."""
    with drawing.styled():
        _, (axes,) = drawing.panels([150])
        axes.set_ylim(0, 10)
        drawing.end_labels(axes, [(5.0, f"line {n}", "k") for n in range(6)] + [(float("nan"), "none", "k")])
        heights = sorted(text.xy[1] * 150 for text in axes.texts if isinstance(text, Annotation))
    assert len(heights) == 6 and all(b - a > 10 for a, b in pairwise(heights))


# --- gonets bench report ----------------------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it."""
    return subprocess.run(
        [sys.executable, "-m", "gonets", "bench", "report", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


def test_a_report_is_drawn_again(tmp_path: Path) -> None:
    """Summary on stdout, the page where it was asked for."""
    schema.write(made.of_measures(), tmp_path / "r.json")
    done = command(str(tmp_path / "r.json"), "--html", str(tmp_path / "p.html"))
    assert done.returncode == 0 and "append" in done.stdout and done.stdout.count("\n") <= 10
    elements((tmp_path / "p.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{}", "names no schema"),
        (b'{"schema": "gonets.bench/0"}', "gonets.bench/0"),
        (b"not json", "no JSON"),
        (b'{"schema": "gonets.bench/1", "kind": 3}', "not a report"),
        (b'{"schema": ["gonets.bench/1"]}', "its schema is"),
        (b"\xff\xfe", "no JSON"),
        (None, "No such file"),
    ],
)
def test_what_is_no_report_is_one_line(data: bytes | None, words: str, tmp_path: Path) -> None:
    """It names the file and what to do; no traceback, no page."""
    if data is not None:
        (tmp_path / "r.json").write_bytes(data)
    from bench import redraw

    with pytest.raises(SystemExit) as ended:
        redraw.report(tmp_path / "r.json")
    assert ended.value.code == 1 and not (tmp_path / "r.html").exists()
    with pytest.raises(ReportError, match=words):
        schema.read(tmp_path / "r.json")


def test_a_place_for_the_page_that_isnt_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor may the page overwrite the report."""
    from bench import redraw

    schema.write(made.of_measures(), tmp_path / "r.json")
    calls: list[Callable[[], None]] = [
        lambda: redraw.report(tmp_path / "r.json", html=tmp_path / "nowhere" / "p.html"),
        lambda: redraw.report(tmp_path / "r.json", html=tmp_path / "r.json"),
    ]
    for call in calls:
        with pytest.raises(SystemExit):
            call()
        said = capsys.readouterr().err
        assert said.startswith("gonets: bench: ") and said.count("\n") == 1
    assert schema.read(tmp_path / "r.json").name == "append"

"""Workloads: those that come along are valid, scale, draw alike; each mistake is one line that says what to change."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import trace, workload, workload_trace
from bench.workload import Members, Stream, WorkloadError, load, parsed
from tests.support.tree import ROOT

SHARED = ROOT.parent / "shared" / "data" / "irc-ubuntu"
TEN = {
    "append",
    "channel",
    "class-morning",
    "dialogs",
    "evening-peak",
    "groups",
    "idle",
    "read",
    "reconnect-storm",
    "slow-readers",
}
GROUPS = (workload.FOLDER / "groups.toml").read_text(encoding="utf-8")


def refusal(text: str) -> str:
    """What is said about a file of this text."""
    with pytest.raises(WorkloadError) as caught:
        parsed(tomllib.loads(text), "mine.toml")
    words = str(caught.value)
    assert "\n" not in words and words.startswith("mine.toml: ")
    return words.removeprefix("mine.toml: ")


def test_the_ten_are_there_and_named_as_their_files() -> None:
    assert set(workload.names()) == TEN
    assert [load(name).name for name in workload.names()] == workload.names()


@pytest.mark.parametrize("name", sorted(TEN))
def test_each_scales_down_to_a_smoke_test(name: str) -> None:
    found = load(name)
    small = found.scaled(window_s=1.0, warmup_s=0.1, seed=7)
    assert (small.run.window_s, small.run.warmup_s, small.seed) == (1.0, 0.1, 7)
    if found.kind != "sockets":
        with pytest.raises(WorkloadError, match="has no sessions"):
            found.scaled(sessions=10)
        return
    small = small.scaled(sessions=12)
    assert small.sessions.count == 12
    assert all(max(stream.members.counts(stream.conversations, 7)) <= 12 for stream in small.streams)
    if found.rate_per_s is not None:
        assert small.scaled(rate_per_s=40.0).rate_per_s == pytest.approx(40.0)


def test_scaling_keeps_the_proportions() -> None:
    found = load("evening-peak")
    double = found.scaled(sessions=2 * found.sessions.count, rate_per_s=3 * (found.rate_per_s or 0))
    for before, after in zip(found.streams, double.streams, strict=True):
        assert after.rate_per_s == pytest.approx(3 * before.rate_per_s)
        if before.shape == "channel":
            assert after.members.largest() == 2 * before.members.largest()
            assert after.conversations == before.conversations
        else:
            assert after.conversations == 2 * before.conversations
    morning = load("class-morning")
    longer = morning.scaled(window_s=2 * morning.run.window_s)
    assert longer.streams[0].factor_at(20.0) == morning.streams[0].factor_at(10.0)
    assert longer.offered_per_s == pytest.approx(morning.offered_per_s)
    storm = load("reconnect-storm").scaled(window_s=3.0).storm
    assert storm is not None and storm.at_s == pytest.approx(1.0)


def test_a_longer_window_has_a_longer_deadline() -> None:
    long = load("dialogs").scaled(window_s=7_200.0)
    assert long.run.deadline_s >= 7_200 + long.run.warmup_s + long.run.drain_s


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sessions": 0}, "workload groups: --sessions 0: must be 1 to 10,000,000"),
        ({"rate_per_s": -1.0}, "workload groups: --rate-per-s -1: must be more than 0"),
        ({"rate_per_s": float("inf")}, "--rate-per-s inf: must be more than 0"),
        ({"rate_per_s": 1e9}, "--rate-per-s 1,000,000,000: must be more than 0 and at most 10,000,000"),
        ({"window_s": 0.0}, "run.window_s = 0.0: must be a number > 0 and <= 604,800"),
        ({"window_s": float("nan")}, "run.window_s = nan: must be a finite number"),
        ({"seed": -1}, "seed = -1: must be an integer >= 0"),
    ],
)
def test_a_size_that_is_none_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        load("groups").scaled(**change)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["idle", "append", "read"])
def test_a_load_without_a_rate_has_none_to_scale(name: str) -> None:
    with pytest.raises(WorkloadError, match="name one whose streams have a rate_per_s"):
        load(name).scaled(rate_per_s=10.0)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("count = 5_000", "count = 0", "sessions.count = 0: must be an integer >= 1 and <= 10,000,000"),
        ("count = 5_000", "count = 1_000", "streams[0].members = 5000: must be at most sessions.count = 1000"),
        ("count = 5_000", "", "streams[0].members = 5000: must be at most sessions.count = 1000"),
        ("ping_interval_s", "pingintervals", "sessions.pingintervals: no such field; did you mean ping_interval_s?"),
        ("title =", "titel =", "titel: no such field; did you mean title?"),
        ("title =", "about2 =", "about2: no such field; did you mean about? known: name, title, about, kind, seed"),
        ("[run]", "[rnu]", "rnu: no such field; did you mean run?"),
        ('"group"', '"grup"', "streams[0].shape = 'grup': must be one of dialog, group, channel"),
        ('"group"', '"dialog"', "must be left out: a dialog has two people"),
        ("max = 5_000", "max = 2", "streams[0].members.max = 2: must be more than members.min = 3"),
        ("min = 3, ", "", "streams[0].members = { zipf_exponent = 1.8, max = 5000 }: must be { fixed = N } or {"),
        ("rate_per_s = 600", "rate_per_s = nan", "streams[0].rate_per_s = nan: must be a finite number"),
        ("rate_per_s = 600", "in_flight = 65", "streams[0].in_flight = 65: must be an integer >= 1 and <= 64"),
        ("rate_per_s = 600", "in_flight = 2\nper_send = 3", "streams[0].per_send = 3: must be at most in_flight = 2"),
        ("fixed = 128", "fixed = 8", "streams[0].sizes_bytes.fixed = 8: must be an integer >= 32 and <= 65,536"),
        ("{ fixed = 128 }", "[[1, 2]]", "streams[0].sizes_bytes[0][0] = 1: must be an integer >= 32"),
        ("{ fixed = 128 }", "[[100, 0]]", "streams[0].sizes_bytes[0][1] = 0: must be a number > 0"),
        ("{ fixed = 128 }", "[]", "streams[0].sizes_bytes = []: must be [[size, weight], …] or { fixed = SIZE }"),
        ("{ fixed = 128 }", "7", "streams[0].sizes_bytes = 7: must be { fixed = SIZE } or [[size, weight], …]"),
        ("warmup_s = 3", 'warmup_s = "3"', "run.warmup_s = '3': must be a number >= 0 and <= 604,800"),
        ("deadline_s = 180", "deadline_s = 5", "run.deadline_s = 5.0: must be at least warmup_s + window_s + drain_s"),
        ('name = "groups"\ntitle', 'name = "G"\ntitle', "name = 'G': must be text of the form"),
        ("[[streams]]", "[streams]", "must be a list"),
        ("rate_per_s = 600", 'rate_per_s = 6\narrivals = "pauses"', "streams[0].pauses_ms = 0 rows: must be given"),
        ("rate_per_s = 600", "rate_per_s = 6\npauses_ms = [[0, 1], [1, 2]]", "and only there"),
        ("rate_per_s = 600", "rate_per_s = 6\nprofile = [[3, 1], [2, 1]]", "= [3.0, 2.0]: must be times that ascend"),
        ("rate_per_s = 600", "rate_per_s = 6\nprofile = [[3, 0]]", "= [0.0]: must be at least one factor above 0"),
        ("rate_per_s = 600", "rate_per_s = 6\nprofile = [[99, 1]]", "= 99.0: must be within run.window_s = 20"),
        ("rate_per_s = 600", "profile = [[3, 1]]", "streams[0].rate_per_s = 0: must be more than 0 where there is a"),
        ("[sessions]", "[sessions]\nidle = true", "sessions.idle = True: must be false where there are streams"),
        ("[sessions]", "[storm]\nat_s = 3\n[sessions]", "storm.share: missing; must be a number > 0 and <= 1"),
        ("[sessions]", "[storm]\nat_s = 30\nshare = 1\n[sessions]", "storm.at_s = 30.0: must be within run.window_s"),
        (
            'title = "1',
            'kind = "append"\ntitle = "1',
            "streams = 1: must be left out, like storm, where kind = 'append'",
        ),
        ("[sessions]", "[records]\n[sessions]", "records = given: must be there where kind is"),
    ],
)
def test_each_mistake_is_one_line_with_field_value_and_limit(old: str, new: str, words: str) -> None:
    assert old in GROUPS
    assert words in refusal(GROUPS.replace(old, new, 1))


def test_pauses_that_are_none() -> None:
    head = GROUPS.replace("rate_per_s = 600", 'rate_per_s = 6\narrivals = "pauses"\npauses_ms = {}')
    assert "must be quantiles that ascend from 0 to 1" in refusal(head.replace("{}", "[[0, 1], [0.5, 2]]"))
    assert "must be milliseconds that never fall" in refusal(head.replace("{}", "[[0, 3], [1, 2]]"))
    assert "the last above 0" in refusal(head.replace("{}", "[[0, 0], [1, 0]]"))
    assert "pauses_ms[1][0] = 2: must be a number <= 1" in refusal(head.replace("{}", "[[0, 3], [2, 5]]"))


def test_unknown_names_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no workload 'gruops'; did you mean groups") as caught:
        load("gruops")
    assert all(name in str(caught.value) for name in TEN)
    with pytest.raises(WorkloadError, match=r"no\.toml: can't be read: No such file"):
        load(tmp_path / "no.toml")
    with pytest.raises(WorkloadError, match="can't be read: Is a directory"):
        load(f"{tmp_path}/")
    for number, data in enumerate((b"a = ", b"\xff\xfe", b"[" * 5_000)):
        path = tmp_path / f"bad{number}.toml"
        path.write_bytes(data)
        with pytest.raises(WorkloadError, match="is not TOML"):
            load(path)
    own = tmp_path / "mine.toml"
    own.write_text(GROUPS.replace('name = "groups"', 'name = "mine"', 1))
    assert load(str(own)).name == "mine"


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
nested = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(st.data())
def test_no_value_of_any_field_is_an_accident(data: st.DataObject) -> None:
    """Whatever stands in the place of a field: it is valid, or refused in one line."""
    tables: dict[str, Any] = tomllib.loads(
        (workload.FOLDER / f"{data.draw(st.sampled_from(sorted(TEN)))}.toml").read_text()
    )
    holder = tables
    while True:
        name = data.draw(st.sampled_from(sorted(holder)))
        inner = holder[name][0] if isinstance(holder[name], list) and holder[name] else holder[name]
        if not isinstance(inner, dict) or data.draw(st.booleans()):
            break
        holder = inner
    holder[name] = data.draw(nested)
    try:
        found = parsed(tables, "mine.toml")
    except WorkloadError as error:
        words = str(error)
    else:
        words = f"{found.deliveries_per_publish:g} deliveries a publish"
    assert words and "\n" not in words


@given(
    exponent=st.floats(0.1, 4), low=st.integers(2, 50), span=st.integers(1, 500), count=st.integers(1, 200),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_zipf_sizes_against_the_law_itself(exponent: float, low: int, span: int, count: int, seed: int) -> None:
    """Sorted, each size is the smallest whose share of the law covers its place; the seed only orders them."""
    members = Members(zipf_exponent=exponent, min=low, max=low + span)
    found = members.counts(count, seed)
    weights = {size: size**-exponent for size in range(low, low + span + 1)}
    total, expected = sum(weights.values()), []
    for number in range(count):
        left = (number + 0.5) / count * total
        for size, weight in weights.items():
            left -= weight
            if left <= total * 1e-12 or size == low + span:
                expected.append(size)
                break
    assert all(abs(a - b) <= 1 for a, b in zip(sorted(found), expected, strict=True))
    assert found == members.counts(count, seed)


def test_zipf_sizes_differ_by_seed_in_their_order_only() -> None:
    members = load("groups").streams[0].members
    one, two = members.counts(1_000, 1), members.counts(1_000, 2)
    assert one != two and sorted(one) == sorted(two)
    assert min(one) == 3 and 2_000 < max(one) <= 5_000


def test_a_profile_is_linear_between_its_points() -> None:
    stream = Stream(
        name="x", shape="dialog", conversations=1, rate_per_s=1, profile=((2.0, 1.0), (4.0, 3.0), (5.0, 0.0))
    )
    at = {0.0: 1.0, 2.0: 1.0, 3.0: 2.0, 4.0: 3.0, 4.5: 1.5, 5.0: 0.0, 9.0: 0.0}
    assert {moment: stream.factor_at(moment) for moment in at} == pytest.approx(at)
    steps = [stream.factor_at((number + 0.5) / 1_000) for number in range(8_000)]
    assert stream.factor_mean(8.0) == pytest.approx(sum(steps) / len(steps), rel=1e-3)


def test_tables_keep_mean_and_quantiles(tmp_path: Path) -> None:
    lines = [b"[%02d:%02d] <a> %s\n" % (m // 60, m % 60, b"x" * (100 if m % 10 else 400)) for m in range(0, 1_200, 2)]
    (tmp_path / "day").write_bytes(b"".join(lines))
    found = workload_trace.tables(tmp_path / "day")
    assert (found.files, found.messages, found.short_share) == (1, 600, 0.0)
    mean = sum(size * weight for size, weight in found.sizes_bytes) / sum(weight for _, weight in found.sizes_bytes)
    assert mean == pytest.approx(160, rel=0.01) and found.mean_bytes == 160
    quantiles = dict(found.pauses_ms)
    assert quantiles[0.0] > 60_000 and quantiles[1.0] < 180_000 and 100_000 < quantiles[0.5] < 140_000
    values = [ms for _, ms in found.pauses_ms]
    assert all(a <= b for a, b in itertools.pairwise(values))
    text = GROUPS.replace("sizes_bytes = { fixed = 128 }", 'arrivals = "pauses"\n' + workload_trace.as_toml(found))
    assert parsed(tomllib.loads(text), "mine.toml").streams[0].pauses_ms == tuple(found.pauses_ms)
    with pytest.raises(trace.TraceError, match="too few"):
        (tmp_path / "short").write_bytes(b"".join(lines[:50]))
        workload_trace.tables(tmp_path / "short")


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside this checkout")
def test_the_evening_has_the_tables_of_the_real_trace() -> None:
    """What the command prints today is what stands in the file."""
    found = workload_trace.tables(SHARED)
    for stream in load("evening-peak").streams[:2]:
        assert stream.sizes() == tuple(found.sizes_bytes)
        assert stream.pauses_ms == tuple(found.pauses_ms)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`gonets bench workloads …`."""
    return subprocess.run(
        [sys.executable, "-m", "gonets", "bench", "workloads", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=50, env=os.environ | {"COLUMNS": "160"},
    )  # fmt: skip


def test_the_command_lists_shows_and_refuses(tmp_path: Path) -> None:
    listed = command()
    assert listed.returncode == 0 and all(name in listed.stdout for name in TEN)
    assert "5,000 sessions, 600 publishes/s" in listed.stdout
    shown = command("--show", "groups")
    assert shown.stdout == GROUPS
    wrong = command("--show", "gruops")
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert wrong.stderr.startswith("gonets: bench: no workload 'gruops'; did you mean groups?")
    assert len(wrong.stderr.splitlines()) == 1
    (tmp_path / "day").write_text("".join(f"[{m // 60:02}:{m % 60:02}] <a> hello\n" for m in range(300)))
    tables = tomllib.loads(command("--from-trace", str(tmp_path / "day")).stdout)
    assert tables["sizes_bytes"] == [[32, 1]]

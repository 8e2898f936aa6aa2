"""The parser of chat logs: what real clients send must not trouble it, and bytes stay bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import trace
from bench.trace import Entry

SHARED = Path(__file__).parents[3] / "shared" / "data" / "irc-ubuntu"

texts = st.binary(max_size=60).filter(lambda text: b"\n" not in text and not text.endswith(b"\r"))
nicks = st.text("abcxyzABC[]\\`^{}|_-019~", min_size=1, max_size=12).map(str.encode)


@settings(derandomize=True, max_examples=500)
@given(st.binary(max_size=400))
@example(b"[12:00] <> x\n[12:00] < > x\n[12:00] <a\n=== \n=== has left\n===  has joined #x\n[99:99] <a> b")
def test_any_bytes_are_taken(data: bytes) -> None:
    found = trace.parse(data)
    assert len(found.entries) + found.skipped == found.lines
    minutes = [entry.minute for entry in found.entries]
    assert minutes == sorted(minutes)
    trace.plan(found)


@settings(derandomize=True, max_examples=300)
@given(st.lists(st.tuples(nicks, texts), max_size=10), st.sampled_from([b"\n", b"\r\n"]))
@example([(b"a", b"\x0b\x0c\x1c\x85\x00 \xff\xc3\x28")], b"\n")
def test_texts_are_kept_exactly(lines: list[tuple[bytes, bytes]], end: bytes) -> None:
    data = b"".join(b"[08:15] <" + nick + b"> " + text + end for nick, text in lines)
    assert [(e.nick, e.text) for e in trace.parse(data).entries] == [(trace.nick_key(n), t) for n, t in lines]


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (b"[09:14] <Bob> hi there ", Entry("say", 554, b"bob", b"hi there ")),
        (b"[09:14] <drcode>", Entry("say", 554, b"drcode", b"")),
        (b"[09:14:33] <bob> x", Entry("say", 554, b"bob", b"x")),
        (b"[09:14] <[ANF] MasterNinja> x", Entry("say", 554, b"{anf}masterninja", b"x")),
        (b"[09:14] <starscream[2] > x", Entry("say", 554, b"starscream{2}", b"x")),
        (b"[13:56]  * genii sips a coffee", Entry("say", 836, b"genii", b"sips a coffee")),
        (b"[13:56] * genii sips", Entry("say", 836, b"genii", b"sips")),
        (b"[13:56]  * genii", Entry("say", 836, b"genii", b"")),
        (b"=== L0sT  has joined #ubuntu", Entry("join", 0, b"l0st")),
        (b"=== nick has joined #x", Entry("join", 0, b"nick")),
        (b"=== nick has joined", Entry("join", 0, b"nick")),
        (b"=== bur[n] er  has joined #ubuntu", Entry("join", 0, b"bur{n}er")),
        (b'=== sivang  has left #ubuntu ["Leaving"]', Entry("leave", 0, b"sivang")),
        (b"=== nick  has left", Entry("leave", 0, b"nick")),
        (b"=== natea is now known as natea|nyc", Entry("rename", 0, b"natea", other=b"natea|nyc")),
        (b"=== [bM] Neg is now known as neg", Entry("rename", 0, b"{bm}neg", other=b"neg")),
    ],
)
def test_forms(line: bytes, entry: Entry) -> None:
    assert trace.parse(line).entries == [entry]
    assert trace.parse(b"\xef\xbb\xbf" + line + b"\r\n\r\n").entries == [entry]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"   ",
        b"hello",
        b"[25:00] <a> x",
        b"[12:60] <a> x",
        b"=== mode/#ubuntu [+o x]  by ChanServ",
        b"===",
        b"=== netjoined: irc.freenode.net -> kornbluth.freenode.net",
        b"=== Adrenal sighs",
        b"[12:00] < > x",
        b"=======",
        b"=== bob is now known as the best of all",
        b"=== you has joined the club",
        b"- `[HH:MM] <nick> text`",
    ],
)
def test_unknown_lines_are_passed_over(line: bytes) -> None:
    found = trace.parse(line)
    assert found.entries == [] and found.skipped == bool(line.strip())


def test_clock() -> None:
    found = trace.parse(
        b"=== a has joined #x\n[23:58] <a> 1\n[23:57] <a> 2\n=== b has joined #x\n[00:01] <a> 3\n[00:00] <b> 4"
    )
    assert [entry.minute for entry in found.entries] == [1438, 1438, 1438, 1438, 1441, 1441]


def test_membership_is_made_explicit() -> None:
    plan = trace.plan(
        trace.parse(
            b"\n".join(
                [
                    b"[10:00] <anna> hi",  # from the start
                    b"=== BOB has joined #x",
                    b"=== bob has joined #x",  # again: nothing
                    b"[10:01] <Bob> hi",
                    b"=== carl has left #x",  # from the start
                    b"=== carl has left #x",  # again: nothing
                    b"[10:02] <carl> back",  # has come back unseen
                    b"=== bob is now known as bob_",
                    b"[10:03] <bob_> me",
                    b"=== bob_ is now known as dora",
                    b"=== anna is now known as Anna",  # only the case: leaves and joins
                    b"=== emil is now known as anna",  # emil was there; anna is
                ]
            )
        )
    )
    assert plan.start == [b"anna", b"carl", b"emil"]
    assert [(step.kind, step.nick) for step in plan.steps] == [
        ("say", b"anna"),
        ("join", b"bob"),
        ("say", b"bob"),
        ("leave", b"carl"),
        ("join", b"carl"),
        ("say", b"carl"),
        ("leave", b"bob"),
        ("join", b"bob_"),
        ("say", b"bob_"),
        ("leave", b"bob_"),
        ("join", b"dora"),
        ("leave", b"anna"),
        ("join", b"anna"),
        ("leave", b"emil"),
    ]
    assert plan.members_max == 4


lines = st.tuples(st.sampled_from(["say", "join", "leave", "rename"]), st.integers(0, 5), st.integers(0, 5))


@settings(derandomize=True, max_examples=300)
@given(st.lists(lines, max_size=40))
def test_plans_are_consistent(script: list[tuple[str, int, int]]) -> None:
    """Speakers and leavers are present, joiners absent; every message of the trace is said, in order."""
    forms = {
        "say": b"[10:00] <n%d> %d",
        "join": b"=== n%d has joined #x%d",
        "leave": b"=== n%d has left #x%d",
        "rename": b"=== n%d is now known as n%d",
    }
    plan = trace.plan(trace.parse(b"\n".join(forms[kind] % (who, what) for kind, who, what in script)))
    present = set(plan.start)
    for step in plan.steps:
        assert (step.nick in present) == (step.kind != "join")
        (present.add if step.kind == "join" else present.discard if step.kind == "leave" else id)(step.nick)
    assert [(s.nick, s.text) for s in plan.steps if s.kind == "say"] == [
        (b"n%d" % who, b"%d" % what) for kind, who, what in script if kind == "say"
    ]


def test_directory_and_errors(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weird name .bin").write_bytes(b"[10:00] <a> x\n")
    (tmp_path / "README.md").write_bytes(b"# about\n" * 40 + b"[10:00] <a> an example\n")
    (tmp_path / ".hidden").write_bytes(b"[10:00] <a> x\n")
    found, passed_over = trace.load(tmp_path)
    assert [one.name for one in found] == ["weird name .bin"] and passed_over == ["README.md"]
    with pytest.raises(trace.TraceError, match=r"missing can't be read: No such file"):
        trace.load(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(trace.TraceError, match=r"binary is not a chat log: no line has the form"):
        trace.load(tmp_path / "binary")
    (tmp_path / "empty").mkdir()
    with pytest.raises(trace.TraceError, match="none of the 0 files"):
        trace.load(tmp_path / "empty")


def test_generated_logs_have_the_shape_and_depend_on_the_seed_alone() -> None:
    data = trace.generate(3, "x", 400, 30)
    assert data == trace.generate(3, "x", 400, 30) != trace.generate(4, "x", 400, 30)
    plan = trace.plan(trace.parse(data))
    kinds = {step.kind for step in plan.steps}
    assert kinds == {"say", "join", "leave"} and sum(step.kind == "say" for step in plan.steps) == 400
    with pytest.raises(UnicodeDecodeError):
        data.decode()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared logs are not here")
def test_real_days() -> None:
    found, passed_over = trace.load(SHARED)
    assert len(found) == 153 and sorted(passed_over) == ["LICENSE.txt", "README.md"]
    assert sum(entry.kind == "say" for one in found for entry in one.entries) > 196_000
    assert sum(one.skipped for one in found) < 0.01 * sum(one.lines for one in found)

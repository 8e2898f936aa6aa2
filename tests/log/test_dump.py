"""`gonets log dump`: every event a line that any tool reads, and a dump that was cut short goes on."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import BadArgument, Trimmed
from engine.log.dump import dump_log
from engine.log.snapshot import snapshot_log
from engine.log.trim import Wanted, trim_log
from ext import block as blocks
from ext.record import decode
from tests.support.grown_log import grow
from tests.support.log_rig import ROOT, only_reading


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("dump") / "data"
    for _ in range(2):
        grow(data, 150, snapshot=True)
    return data


def stored(data: Path) -> list[dict[str, object]]:
    """What the log holds, read another way."""
    events = []
    segments, reader = only_reading(data)
    position = 0
    while found := reader.blocks_after(position, 1 << 20):
        for block in found:
            for record in blocks.records(block):
                events.append(decode(record)._asdict())
            position = decode(record).sequence
    segments.close()
    return events


def test_every_event_is_a_line(data: Path) -> None:
    out = io.BytesIO()
    report = dump_log(data, out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    expected = stored(data)
    assert report["events"] == len(lines) == len(expected) > 300
    for line, event in zip(lines, expected, strict=True):
        assert (line.pop("shard"), line.pop("epoch") > 0) == (0, True)
        line.pop("data", None)
        assert {**line, "payload": b64decode(line["payload"])} == event
    part = io.BytesIO()
    dump_log(data, part, 20, 29)
    assert part.getvalue().splitlines() == out.getvalue().splitlines()[19:29]


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq here")
def test_a_foreign_tool_reads_every_line(data: Path, tmp_path: Path) -> None:
    """jq: numbers exact, payloads whole, control events as data."""
    dump_log(data, tmp_path / "dump")
    program = "[.sequence, .conversation_sequence, .time, .type, (.payload | @base64d | length), .data.kind]"
    run = subprocess.run(
        ["jq", "-c", program, str(tmp_path / "dump")], check=True, capture_output=True, text=True, timeout=30
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    expected: list[Any] = [SimpleNamespace(**event) for event in stored(data)]
    assert len(rows) == len(expected)
    for row, event in zip(rows, expected, strict=True):
        assert row[:4] == [event.sequence, event.conversation_sequence, event.time, event.type]
        if event.type == "message":
            assert row[4:] == [len(event.payload), None]
    assert [row[5] for row in rows if row[3] == "conversation.created"] == ["dialog"] * 5


def test_cut_short_anywhere_it_goes_on(data: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    dump_log(data, whole)
    expected = whole.read_bytes()
    draw = random.Random(5)
    for size in [0, 1, len(expected) - 1, len(expected), *draw.sample(range(len(expected)), 30)]:
        cut = tmp_path / "cut.jsonl"
        cut.write_bytes(expected[:size])
        report = dump_log(data, cut)
        assert cut.read_bytes() == expected
        assert report["resumed_after"] == expected[:size].count(b"\n")


@pytest.mark.parametrize(
    "content",
    [b"hello", b"hello\n", b'{"sequence": "x"}\n', b'{"sequence": 3}\n', b'{"sequence": 99999999}\n', b"[]\n"],
)
def test_what_is_no_dump_of_this_log_is_left_alone(data: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(BadArgument, match="no "):
        dump_log(data, path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/full", "directory", "pipe"])
def test_only_a_regular_file_is_gone_on_with(data: Path, tmp_path: Path, place: str) -> None:
    """A device has no end behind which to go on; a pipe can't be looked at."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadArgument, match="is no regular file"):
        dump_log(data, tmp_path / place)


def test_ranges_that_are_none(data: Path, tmp_path: Path) -> None:
    for first, last in ((0, 0), (5, 4), (2**53, 0), (1, 2**53)):
        with pytest.raises(BadArgument):
            dump_log(data, io.BytesIO(), first, last)
    path = tmp_path / "part"
    dump_log(data, path, 1, 50)
    with pytest.raises(BadArgument, match="ends with event 50"):
        dump_log(data, path, 70)


def test_a_trimmed_beginning_is_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for _ in range(2):
        grow(data, 250, snapshot=True)
    assert snapshot_log(data, only_list=True)["snapshots"]
    first = trim_log(data, Wanted(keep_bytes=1), dry_run=False, force=False)["first_sequence"]
    assert first > 1
    with pytest.raises(Trimmed, match=str(first)):
        dump_log(data, io.BytesIO())
    assert dump_log(data, io.BytesIO(), first)["first_sequence"] == first


def test_the_command(data: Path, tmp_path: Path) -> None:
    """To a pipe that closes early, to stdout, to a file."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "gonets.py"), "log", "dump", *map(str, arguments), "--data", str(data)]
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=30)

    shown = run()
    assert shown.returncode == 0 and len(shown.stdout.splitlines()) == len(stored(data))
    kept = run(tmp_path / "file", "--from", 3)
    assert kept.returncode == 0 and "resumed_after: 0" in kept.stdout
    assert (tmp_path / "file").read_text().splitlines() == shown.stdout.splitlines()[2:]
    for arguments in (("--from", 0), ("--to", 0), (tmp_path / "no" / "file",)):
        wrong = run(*arguments)
        assert wrong.returncode == 1 and wrong.stderr.startswith("gonets: ") and "Traceback" not in wrong.stderr
    program = f"{sys.executable} {ROOT / 'gonets.py'} log dump --data {data} | head -1"
    early = subprocess.run(["bash", "-c", program], check=False, capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert (early.returncode, early.stderr) == (0, "") and len(early.stdout.splitlines()) == 1

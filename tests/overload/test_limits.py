"""The written sum of memory: every option in it or said not to be, and held by a process under hostile load."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed

from engine import config as configuration
from engine import limits
from engine.options import Config
from gateway.serve import StartError, serve
from tests.support.gateway import ROOT, Device, GatewayProcess, running
from tests.support.hostile import UPGRADE, command, connect, frame, hello, reset
from tests.support.sanitizers import needs_plain_memory

DEFAULT = Config()
EVERY_DOOR = configuration.load(None, {}, {"server.api": "127.0.0.1:8802"}).config
NUMBERS = [
    (f"{section}.{field.name}", field.default)
    for section, struct in configuration.SECTIONS.items()
    for field in msgspec.structs.fields(struct)
    if isinstance(field.default, int | float)
]


def with_option(option: str, value: object) -> Config:
    """The defaults with every door, but for one option."""
    return configuration.load(None, {}, {"server.api": "127.0.0.1:8802", option: value}).config


def sums(config: Config) -> tuple[int, int]:
    """Of the process, of a session."""
    return limits.total_bytes(limits.process_rows(config)), limits.total_bytes(limits.session_rows(config))


@pytest.mark.parametrize(("option", "default"), NUMBERS, ids=[option for option, _ in NUMBERS])
def test_every_option_with_a_number_is_in_the_sum_or_said_to_need_no_memory(option: str, default: Any) -> None:
    """One that is new and in neither fails here."""
    for value in (default * 2, default + 1, default / 2, default - 1):
        try:
            changed = with_option(option, type(default)(value))
        except configuration.ConfigError:
            continue
        if changed == EVERY_DOOR:
            continue
        assert (sums(changed) != sums(EVERY_DOOR)) == (option not in limits.WITHOUT_MEMORY), option
        named = {row.source for row in (*limits.process_rows(changed), *limits.session_rows(changed))}
        assert (option in named) == (option not in limits.WITHOUT_MEMORY), option
        return
    raise AssertionError(f"{option} takes no other value than {default}")


def test_sources_are_options_and_reasons_are_of_options() -> None:
    """Nothing is bounded by an option that there isn't."""
    known = {row.option for row in configuration.describe(configuration.load(None, {}))}
    section = msgspec.structs.replace(DEFAULT.tls, certificate="c.pem", key="k.pem")
    tls = msgspec.structs.replace(DEFAULT, tls=section)
    rows = (*limits.process_rows(tls), *limits.process_rows(EVERY_DOOR), *limits.session_rows(tls))
    assert {row.source for row in rows} <= known | {"fixed"}
    assert limits.WITHOUT_MEMORY.keys() <= known
    assert sums(tls)[0] - sums(DEFAULT)[0] > DEFAULT.gateway.sessions_max * 20_000


def test_a_machine_that_is_too_small_is_named_with_what_to_lower() -> None:
    """A warning; an error only where it can't even begin."""
    total = sums(DEFAULT)[0]
    assert limits.shortage(DEFAULT, total) == limits.shortage(DEFAULT, 0) == ""
    words = limits.shortage(DEFAULT, total - 1)
    assert limits.size_text(total) in words and "gateway.buffers_bytes_max (320 MiB)" in words
    large = with_option("fanout.ring_bytes", 4 << 30)
    assert limits.absurdity(DEFAULT, 1 << 30) == limits.absurdity(large, 0) == ""
    assert "fanout.ring_bytes = 4294967296" in limits.absurdity(large, 4 << 30)
    assert 1 << 26 < limits.memory_bytes() < 1 << 60


def test_the_command_prints_the_sum() -> None:
    """For people and for programs, with the options of the environment."""
    argv = [sys.executable, str(ROOT / "gonets.py"), "config", "memory"]
    environment = {**os.environ, "GONETS_FANOUT_RING_BYTES": str(256 << 20)}
    found = json.loads(subprocess.run([*argv, "--json"], check=True, capture_output=True, env=environment).stdout)
    assert found["total_bytes"] == sum(row["total_bytes"] for row in found["process"])
    assert found["total_bytes"] == sums(configuration.load(None, {}, {"fanout.ring_bytes": 256 << 20}).config)[0]
    text = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment).stdout
    assert "fanout.ring_bytes" in text and limits.size_text(found["total_bytes"]) in text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_says_at_its_start_that_the_machine_is_too_small(tmp_path: Path, workers: int) -> None:
    """One line that names the option; it serves all the same."""
    options = {"gateway.buffers_bytes_max": 1 << 40, "server.gateway_workers": workers}
    with running(tmp_path / "data", **options) as gateway:
        assert gateway.device(1).write("publish", user=2, payload=b"x")["status"] == "appended"
        said = [line for line in gateway.log().splitlines() if "gateway.buffers_bytes_max" in line]
        assert len(said) == 1 and "gonets config memory" in said[0]


def test_a_server_that_could_not_even_begin_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring is taken whole in any case."""
    monkeypatch.setattr(limits, "memory_bytes", lambda: 100 << 20)
    with pytest.raises(StartError, match=r"fanout\.ring_bytes = 67108864"):
        serve(DEFAULT, print)


# ---- a real process ----

SMALL = {
    "gateway.buffers_bytes_max": 16 << 20,
    "gateway.sessions_max": 4_000,
    "fanout.ring_bytes": 4 << 20,
    "admission.unknown_sessions_max": 1_000,
    "gateway.hello_timeout_s": 60,
}
PIECE = b"x" * 60_000  # of a message that never becomes whole


def bound(*names: str) -> int:
    """The sum of some rows, with the small limits."""
    config = configuration.load(None, {}, SMALL).config
    rows = {row.name: row.total_bytes for row in limits.process_rows(config)}
    return sum(rows[name] for name in names)


def own_bytes(gateway: GatewayProcess) -> int:
    """Resident memory of the server's process that is no file's."""
    assert gateway.process is not None
    lines = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


class Watched:
    """A server, an honest pair of devices, and the most memory that was seen."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.writer, self.reader = gateway.device(1), gateway.device(2)
        self.before = self.grown = 0
        self.look()
        self.before, self.grown = self.grown, 0

    def look(self) -> None:
        """Honest people are served, whatever the others do; buffers stay within their bound."""
        receipt = self.writer.write("publish", user=2, payload=b"y" * 40_000)
        assert receipt["status"] == "appended"
        self.reader.expect("event", sequence=receipt["sequence"])
        assert self.gateway.metric("gonets_session_buffers_bytes") <= SMALL["gateway.buffers_bytes_max"]
        self.grown = max(self.grown, own_bytes(self.gateway) - self.before)


def test_messages_that_never_become_whole_stay_within_the_sum(tmp_path: Path) -> None:
    """A thousand connections without a token hold 60 KB each, four times what all may hold: some are sent away with
    4004, nobody else notices."""
    needs_plain_memory()
    begun = frame(PIECE * 2)[: len(PIECE)]
    with running(tmp_path / "data", **SMALL) as gateway:
        watched = Watched(gateway)
        crowd = []
        for _ in range(1_000):
            crowd.append(connect(gateway))
            crowd[-1].sendall(UPGRADE)
        for number, one in enumerate(crowd):
            with suppress(ConnectionError):
                one.sendall(begun)
            if number % 100 == 0:
                watched.look()
        watched.look()
        assert gateway.metric("gonets_overfull_sessions_total") > 100
        most = bound("buffers of sessions", "lost between those", "table of sessions", "doorway", "receiving")
        assert watched.grown <= most
        for one in crowd:
            reset(one)


def test_interest_is_bounded_and_who_finds_no_room_is_told_when_to_come_again(tmp_path: Path) -> None:
    """At hello by 4004; a session that a new conversation would take beyond is cut off, and told when it comes back."""
    with running(tmp_path / "data", **{"fanout.interest_entries_max": 4}) as gateway:
        owner = gateway.device(1)
        for _ in range(2):
            owner.group(2, 3)
        other = gateway.device(2)
        refused = Device(gateway.url)
        refused.send("hello", token=gateway.token(3), device=1, protocol=1)
        code, reason = refused.closed()
        assert code == 4004 and 5_000 <= int(reason.rpartition("=")[2]) <= 15_000, (code, reason)
        owner.send("create", counter=owner.counter + 1, kind="group", title="one more", members=[])
        assert owner.closed() == (1006, "")
        with pytest.raises(ConnectionClosed) as end:
            gateway.device(1)
        assert end.value.rcvd is not None and end.value.rcvd.code == 4004
        assert other.settled() is not None, "who is in stays in"


def test_answers_that_nobody_takes_stay_within_the_sum(tmp_path: Path) -> None:
    """Sixty people ask for long histories and read nothing."""
    needs_plain_memory()
    with running(tmp_path / "data", **SMALL) as gateway:
        watched = Watched(gateway)
        conversation = watched.writer.group(*range(1_000, 1_060))
        for _ in range(30):
            watched.writer.write("publish", conversation=conversation, payload=b"z" * 60_000)
        ask = b"".join(command("history", conversation=conversation, id=number) for number in range(20))
        crowd = [connect(gateway, receive_bytes=4_096) for _ in range(60)]
        for number, one in enumerate(crowd):
            one.sendall(UPGRADE + hello(gateway, 1_000 + number) + ask)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            watched.look()
            time.sleep(0.02)
            for one in crowd:
                with suppress(OSError):
                    one.send(ask, socket.MSG_DONTWAIT)
        most = bound("buffers of sessions", "lost between those", "ring", "threads that read: what one holds")
        assert watched.grown <= most
        for one in crowd:
            reset(one)

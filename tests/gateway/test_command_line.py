"""What people get wrong on the command line: each mistake is one line that names the value and what to change."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from websockets.asyncio.server import ServerConnection, serve

from gateway.auth import development_key
from gateway.client import Client, CommandFailed
from tests.gateway.test_serve import gonets, one_line
from tests.support.gateway import ROOT, GatewayProcess, running

NOBODY = 65_534
HUGE = 10**23


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One server for all mistakes: none of them changes anything."""
    with running(tmp_path_factory.mktemp("served") / "data") as process:
        yield process


def at(gateway: GatewayProcess) -> list[str]:
    return ["--data", str(gateway.data), "--url", gateway.url]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--user", 1, "--to", 1, "hi"], ["--to 1", "--user 1"]),
        (["--user", 1, "--to", 0, "hi"], ["--to 0", "9007199254740991"]),
        (["--user", 1, "--to", HUGE, "hi"], [f"--to {HUGE}", "9007199254740991"]),
        (["--user", 0, "--to", 1, "hi"], ["--user 0", "9007199254740991"]),
        (["--user", 1, "--to", 2, "--device", 0, "hi"], ["--device 0", "9007199254740991"]),
        (["--user", 1, "--conversation", 0, "hi"], ["--conversation 0", "9007199254740991"]),
        (["--user", 1, "--conversation", 999, "hi"], ["--conversation 999", "unknown_conversation", "check the id"]),
        (["--user", 1, "--to", 2, "a" * 70_000], ["70,000", "65,536"]),
        (["--user", 1, "--to", 2, os.fsdecode(b"ok\xff\xfe")], ["0xff", "character 2", "UTF-8"]),
        (["--user", 1, "--to", 2, "--token", "bad", "hi"], ["--token", "malformed"]),
    ],
)
def test_send_refuses_in_one_line(gateway: GatewayProcess, arguments: list[object], words: list[str]) -> None:
    one_line(gonets("send", *arguments, *at(gateway)), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", 0], ["--device 0", "9007199254740991"]),
        (["--count", 0], ["--count 0", "at least 1"]),
        (["--count", -1], ["--count -1", "at least 1"]),
        (["--token", "bad"], ["--token", "malformed"]),
    ],
)
def test_listen_refuses_in_one_line(gateway: GatewayProcess, arguments: list[object], words: list[str]) -> None:
    one_line(gonets("listen", "--user", 1, *arguments, *at(gateway)), *words)


@pytest.mark.parametrize(
    "url",
    ["garbage", "http://127.0.0.1/v1", "ws://127.0.0.1:port/v1", "ws://127.0.0.1:99999/v1", "ws://[::1/v1", "ws://"],
)
def test_a_url_that_is_none(gateway: GatewayProcess, url: str) -> None:
    one_line(gonets("send", "--user", 1, "--to", 2, "x", "--data", gateway.data, "--url", url), "--url", url, "ws://")


@pytest.mark.parametrize("verb", [["send", "--to", "2", "x"], ["listen"]])
def test_the_key_of_another_directory(gateway: GatewayProcess, tmp_path: Path, verb: list[str]) -> None:
    options = ["--user", 1, "--data", tmp_path / "other", "--url", gateway.url]
    one_line(gonets(*verb, *options), "--data", str(tmp_path / "other"), "holds no", "--token")
    assert not (tmp_path / "other").exists()
    development_key(tmp_path / "other")
    one_line(gonets(*verb, *options), "--data", str(tmp_path / "other"), "--token", gateway.url)


@pytest.mark.parametrize(
    "content",
    [b"{garbage", b"\xff", b"7", b"[7]", b'[{"shard":0}]', b'[{"shard":0,"epoch":1,"sequence":"x"}]', b"[" * 100_000],
)
def test_a_position_file_that_is_none(gateway: GatewayProcess, content: bytes) -> None:
    path = gateway.data / "tour" / "user-9-device-1.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    one_line(gonets("listen", "--user", 9, "--resume", *at(gateway)), str(path), "--resume")


def test_a_position_of_another_server(gateway: GatewayProcess) -> None:
    path = gateway.data / "tour" / "user-8-device-1.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text('[{"shard": 7, "epoch": 1, "sequence": 5}]')
    one_line(gonets("listen", "--user", 8, "--resume", *at(gateway)), "position", "--resume")


@pytest.mark.parametrize("verb", ["listen", "log"])
def test_an_interrupt_is_no_traceback(gateway: GatewayProcess, verb: str) -> None:
    arguments = ["listen", "--user", "5", *at(gateway)]
    if verb == "log":  # anything may be interrupted: here in the middle of a verb
        program = "import gonets, sys; gonets.load = lambda *a, **k: signal.raise_signal(2); import signal; "
        run = subprocess.run(
            [sys.executable, "-c", program + "sys.argv[1:] = ['config', 'check']; gonets.main()"],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert (run.returncode, run.stderr) == (130, "")
        return
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "gonets.py"), *arguments], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None and "listening" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and errors == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["token", "--user", 1, "--data", "/etc/passwd"], ["--data '/etc/passwd'", "not a directory", "gonets serve"]),
        (["token", "--user", 1, "--data", "/proc/none"], ["--data '/proc/none'", "is not there", "gonets serve"]),
        (["token", "--user", 1, "--lifetime-s", HUGE], ["--lifetime-s", "315360000", "10 years"]),
        (["token", "--user", 1, "--lifetime-s", 0], ["--lifetime-s 0", "315360000"]),
        (["bench", "append", "--smoke", "--folder", "/nope"], ["--folder '/nope'", "no such directory"]),
    ],
)
def test_options_are_named(arguments: list[object], words: list[str]) -> None:
    one_line(gonets(*arguments), *words)


def test_an_address_of_another_machine_is_the_only_line(tmp_path: Path) -> None:
    address = "192.0.2.1:9000"
    run = gonets("serve", "--data", tmp_path, "--listen", address, "--admin", "")
    one_line(run, "server.listen", address, "no address of this machine")
    assert len(run.stderr.splitlines()) == 1, run.stderr  # nothing about descriptors beside it


def test_a_token_that_no_server_takes_is_not_made(tmp_path: Path) -> None:
    for place, words in ((tmp_path / "new", "is not there"), (tmp_path, "holds no development-key.pem")):
        one_line(gonets("token", "--user", 1, "--data", place), f"--data '{place}'", words, "`gonets serve`")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["listen"], "listen: --user is missing: who listens; see `gonets listen --help`"),
        (["listen", "--user"], "listen: --user has no value: who listens; see `gonets listen --help`"),
        (["send", "--user", 1], "send: the argument TEXT is missing: the message; see `gonets send --help`"),
        (
            ["log", "backup"],
            "log backup: the argument TARGET is missing: an empty directory, or one of earlier backups",
        ),
        (["listen", "--user", "x"], 'listen: invalid value for --user: unable to convert "x" into int'),
        (["listen", "--user", 1, "--foo"], "listen: unknown option: --foo"),
        (["token", "--user", 1, "extra"], "token: 'extra' can't be understood here"),
        (["log", "nope"], 'log: unknown command "nope"'),
        (["lsiten"], 'unknown command "lsiten". Did you mean "listen"?'),
        (["token", "--user", 1, "--user", 2], "token: parameter --user specified multiple times"),
    ],
)
def test_a_command_line_that_is_none_is_one_line(arguments: list[object], line: str) -> None:
    run = gonets(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"gonets: {line}") and run.stderr.count("\n") == 1, run.stderr
    assert " --help`" in run.stderr


def test_a_replay_to_nowhere_fails_at_once(tmp_path: Path) -> None:
    development_key(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/v1"
        began = time.monotonic()
        run = gonets("bench", "replay", "--url", url, "--token-key", tmp_path / "development-key.pem")
    one_line(run, url, "refused")
    assert time.monotonic() - began < 10
    assert "verifies every" in gonets("bench", "--help").stdout


@pytest.mark.parametrize("verb", [["stat"], ["read"], ["check"]])
def test_log_verbs_without_permission(gateway: GatewayProcess, verb: list[str]) -> None:
    one_line(gonets("log", "read", "--from", HUGE, "--data", gateway.data), f"--from {HUGE}", "9007199254740991")
    place = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    copy = place / "copy"
    shutil.copytree(gateway.data, copy)
    for lock in (*copy.glob("log/*-lock"), *copy.glob("state/lock.mdb")):
        lock.unlink()
    program = "import os, sys, gonets, {}; {} sys.argv[1:] = {!r}; gonets.main()"
    preloaded = f"engine.log.{verb[0]}, engine.log.check, rich.console"  # nobody may not even read Python's files
    drop = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY});" if os.geteuid() == 0 else ""
    place.chmod(0o755)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        run = subprocess.run(
            [sys.executable, "-c", program.format(preloaded, drop, ["log", *verb, "--data", str(copy)])],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
    finally:
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(place)
    one_line(run, "permission", "lock file", "user of the server")
    assert "keep the files" not in run.stderr and run.stdout == ""


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_refused_hello_with_an_open_session_is_raised_at_once(encoding: str) -> None:
    body = {"op": "error", "code": "bad_position", "message": "no", "hint": "so", "retryable": False}

    async def refuse(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(json.dumps(body) if encoding == "json" else msgpack.packb([7, body]))
        await socket.wait_closed()

    async def run() -> None:
        async with serve(refuse, "127.0.0.1", 0, select_subprotocol=lambda _, offered: offered[0]) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            client = Client(f"ws://127.0.0.1:{port}/v1", "t", 1, encoding=encoding, open_timeout_s=30)  # type: ignore[arg-type]
            with pytest.raises(CommandFailed, match="bad_position: no: so"):
                await asyncio.wait_for(client.connect(), 5)

    asyncio.run(run())


def test_a_silent_server_is_told_with_words() -> None:
    async def silent(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async def run() -> None:
        async with serve(silent, "127.0.0.1", 0, select_subprotocol=lambda _, offered: offered[0]) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
                await Client(f"ws://127.0.0.1:{port}/v1", "t", 1, open_timeout_s=0.3).connect()

    asyncio.run(run())


def test_brackets_are_no_style() -> None:
    """The table of options for people has all the words of the configuration."""
    run = gonets("config", "check")
    assert run.returncode == 0 and "[gateway]" in run.stdout and "[admission]" in run.stdout

"""What `gonets send` and `gonets listen` say while they try again, and of a door that does not open."""

from __future__ import annotations

import asyncio
import http
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from gateway import tour
from gateway.auth import development_token
from gateway.client import Client, ClientError, HandshakeRefused
from tests.gateway.test_serve import gonets, one_line
from tests.support.gateway import ROOT, GatewayProcess, running

SHORT = {"log.free_bytes_min": 1 << 50}


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "gonets.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def line_within(process: subprocess.Popen[str], words: str, seconds: float) -> str:
    """The first line of its stderr that holds the words."""
    assert process.stderr is not None
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        for line in process.stderr:
            if words in line:
                return line
    finally:
        timer.cancel()
    raise AssertionError(f"{words!r} was not said within {seconds} s")


def token_of(gateway: GatewayProcess, user: int) -> str:
    return development_token(gateway.data, user, 600, "gonets")


def test_a_refused_message_is_told_of_at_once_and_why_in_the_end(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(data, **SHORT) as gateway:
        process = started("send", "--user", 1, "--to", 2, "hi", "--data", data, "--url", gateway.url)
        line = line_within(process, "not stored", 10)
        assert line.startswith(
            "gonets: not stored yet: overloaded: the server refuses writes now; its /readyz says why"
        )
        assert "trying again until " in line
        process.kill()
        process.communicate()
        monkeypatch.setattr(tour, "SEND_S", 1.0)
        with pytest.raises(ClientError, match=r"overloaded.*not stored.*/readyz says why"):
            asyncio.run(tour.send(gateway.url, token_of(gateway, 1), 2, 2, None, "hi"))
    assert capsys.readouterr().err.count("not stored yet") == 1


def test_silence_is_told_of_and_bounded(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tour, "SILENCE_S", 0.2)
    monkeypatch.setattr(tour, "SEND_S", 1.0)
    with running(data) as gateway:
        assert gateway.process is not None
        token, process = token_of(gateway, 1), gateway.process

        async def run() -> None:
            connect = Client.connect

            async def then_stop(client: Client, attempts: int = 1) -> None:
                await connect(client, attempts)
                process.send_signal(signal.SIGSTOP)

            monkeypatch.setattr(Client, "connect", then_stop)
            await tour.send(gateway.url, token, 2, 2, None, "hi")

        try:
            with pytest.raises(ClientError, match=r"no_answer.*may have been stored"):
                asyncio.run(run())
        finally:
            process.send_signal(signal.SIGCONT)
    assert "not stored yet: no_answer" in capsys.readouterr().err


def test_listen_tells_that_its_server_is_gone_and_back(data: Path) -> None:
    with running(data) as gateway:
        address = gateway.url.removeprefix("ws://").removesuffix("/v1")
        process = started("listen", "--user", 1, "--data", data, "--url", gateway.url, "--count", 1)
        line_within(process, "listening as user 1", 10)
    lost = line_within(process, "connection lost", 10)
    assert lost.endswith("trying again …\n") and "(" in lost
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "gonets.py"), "serve", "--data", data, "--listen", address, "--admin", ""],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        assert line_within(process, "conn", 30) == "gonets: connected again\n"  # the loss is told of once
        assert (
            gonets("send", "--user", 2, "--to", 1, "hi", "--data", data, "--url", f"ws://{address}/v1").returncode == 0
        )
        events, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        server.terminate()
        server.wait(30)
    assert process.returncode == 0 and errors == "" and len(events.splitlines()) == 1


def test_resume_without_a_position_says_so(data: Path) -> None:
    with running(data) as gateway:
        for resume in (True, False):
            more = ["--resume"] if resume else []
            process = started(
                "listen", "--user", 3, "--device", 8 + resume, *more, "--data", data, "--url", gateway.url
            )
            first = line_within(process, "", 10)
            assert ("no position of user 3, device 9" in first) == resume
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (503, ["HTTP 503", "full, or going down", "try again in 7 s"]),
        (400, ["HTTP 400", "wss://", "--ca"]),
        (404, ["HTTP 404", "/v1", "not the admin's"]),
        (418, ["HTTP 418"]),
    ],
)
def test_a_refused_handshake_is_told_by_its_status(status: int, words: list[str]) -> None:
    async def refuse(connection: ServerConnection, request: Request) -> Response:
        answer = connection.respond(http.HTTPStatus(status), "no\n")
        if status == 503:
            answer.headers["Retry-After"] = "7"
        return answer

    async def run() -> None:
        async def nothing(connection: ServerConnection) -> None: ...

        async with serve(nothing, "127.0.0.1", 0, process_request=refuse) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1"
            with pytest.raises(HandshakeRefused) as caught:
                await tour.send(url, "t", 1, 2, None, "hi")
            text = tour.explained(caught.value, "send", url, Path("data"), True)
            assert all(word in text for word in words) and "running" not in text

    asyncio.run(run())


def test_only_a_door_that_is_not_there_may_not_be_running(data: Path) -> None:
    with running(data) as gateway:
        token = ["--user", 1, "--to", 2, "hi", "--data", data]
        admin = gateway.admin.replace("http", "ws") + "/v1"
        one_line(gonets("send", *token, "--url", admin), "HTTP 404", "not the admin's")
        one_line(gonets("send", *token, "--url", gateway.url.replace("v1", "v2")), "HTTP 404", "/v1")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{bound.getsockname()[1]}/v1"
        began = time.monotonic()
        one_line(gonets("send", *token, "--url", url), "is `gonets serve` running at", url)
        assert time.monotonic() - began < 10

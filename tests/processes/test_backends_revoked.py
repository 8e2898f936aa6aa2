"""A service's token is void: everything that it holds open ends and says why; another team's goes on.

Real servers and real clients: a stream of server-sent events, a WebSocket, a pull that waits, `gonets subscribe`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support.gateway import SERVICE, GatewayProcess
from tests.support.supervised import ROOT, until
from tests.support.tokens import Issuer

pytestmark = pytest.mark.timeout(120)  # two servers, each with eight clients

ISSUER = Issuer()
WAIT_S = 20
GONE_S = 5  # for all four, on a machine that is busy: the door looks every second, and so does whoever reads the list


class Team:
    """One of each kind of open connection."""

    def __init__(self, server: GatewayProcess, name: str, folder: Path, **claims: Any) -> None:
        self.server, self.name = server, name
        scope = "read:* publish:* subscriptions"
        self.token = ISSUER.token(SERVICE, team=name, scope=scope, jti=name, **claims)
        for kind in ("push", "pull", "shell"):
            made = {"name": f"{name}-{kind}", "kind": "competing", "filter": {"types": ["message"]}}
            assert "cursor" in self.ask("POST", "/v1/subscriptions", made)
        joined = self.ask("POST", f"/v1/subscriptions/{name}-pull/consumers", {"name": "one"})
        self._pool = ThreadPoolExecutor(2)
        self.sse: Future[str] = self._pool.submit(self._streamed)
        self.pull: Future[Any] = self._pool.submit(
            self.ask,
            "POST",
            f"/v1/subscriptions/{name}-pull/consumers/one/pull",
            {"generation": joined["generation"], "wait_s": WAIT_S},
        )
        self._stack = ExitStack()
        self.socket: ClientConnection = self._stack.enter_context(
            connect(
                f"ws{server.api.removeprefix('http')}/v1/subscriptions/{name}-push/stream",
                additional_headers={"Authorization": f"Bearer {self.token}"},
                subprotocols=[Subprotocol("gonets.events.v1.json")],
            )
        )
        self.shell = subprocess.Popen(
            [sys.executable, str(ROOT / "gonets.py"), "subscribe", f"{name}-shell", "--url", server.api],
            env={**os.environ, "GONETS_SERVICE_TOKEN": self.token},
            stdout=subprocess.DEVNULL,
            stderr=(folder / name).open("wb"),
        )
        self.said: Callable[[], str] = (folder / name).read_text
        until(lambda: self.ask("GET", f"/v1/subscriptions/{name}-shell")["consumers"], "subscribe joins")

    def _request(self, method: str, path: str, body: Any = None, **headers: str) -> urllib.request.Request:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **headers}
        return urllib.request.Request(f"{self.server.api}{path}", data, headers, method=method)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, a problem's too."""
        try:
            with urllib.request.urlopen(self._request(method, path, body), timeout=WAIT_S + 10) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def _streamed(self) -> str:
        """All that the stream of server-sent events says until it ends."""
        request = self._request("GET", "/v1/events?types=message", Accept="text/event-stream")
        with urllib.request.urlopen(request, timeout=WAIT_S + 10) as answer:
            return str(answer.read().decode())

    def is_open(self) -> list[bool]:
        """Of the four."""
        try:
            self.socket.recv(timeout=0)
        except TimeoutError:
            is_connected = True
        except ConnectionClosed:
            is_connected = False
        else:
            is_connected = True
        return [not self.sse.done(), not self.pull.done(), is_connected, self.shell.poll() is None]

    def close(self) -> None:
        """Whatever is open."""
        self._stack.close()
        self.shell.terminate()
        self.shell.wait(WAIT_S)


@pytest.fixture(params=[0, 1], ids=["one process", "workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GatewayProcess]:
    (tmp_path / "revoked.json").write_text("{}")
    options = {
        "server.api": "127.0.0.1:0",
        "server.gateway_workers": request.param,
        "auth.keys": ISSUER.write(tmp_path / "keys.json"),
        "auth.revoked": tmp_path / "revoked.json",
        "auth.leeway_s": 0,
    }
    with GatewayProcess(tmp_path / "data", **options) as running:
        yield running
        assert "Traceback" not in running.log(), running.log()[-4_000:]


def test_a_void_token_ends_all_that_it_holds_open_and_nothing_else(server: GatewayProcess, tmp_path: Path) -> None:
    """One team's is revoked, one's expires, one's stays good."""
    good = Team(server, "good", tmp_path)
    revoked = Team(server, "revoked", tmp_path)
    expires_s = int(time.time()) + 8
    expired = Team(server, "expired", tmp_path, exp=expires_s)
    try:
        assert good.is_open() == revoked.is_open() == [True] * 4
        (tmp_path / "revoked.json").write_text(json.dumps({"tokens": ["revoked"]}))
        _ended(revoked, "token_revoked", GONE_S)
        _ended(expired, "token_expired", expires_s - time.time() + GONE_S)
        assert good.is_open() == [True] * 4
        receipt = good.ask("POST", "/v1/events", {"type": "message", "person": 7, "data": {"text": "still here"}})
        (event,) = good.pull.result(WAIT_S)["events"]
        assert event["sequence"] and receipt["conversation"]
    finally:
        for team in (good, revoked, expired):
            team.close()


def _ended(team: Team, code: str, within_s: float) -> None:
    """Each says why, and nothing new begins."""
    until(lambda: not any(team.is_open()), f"{team.name} is gone", within_s)
    *_, kind, data = team.sse.result(1).split("\n")[:-2]
    assert kind == "event: problem" and json.loads(data.removeprefix("data: "))["code"] == code
    assert team.pull.result(1)["code"] == code
    with pytest.raises(ConnectionClosed) as closed:
        team.socket.recv(timeout=1)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401
    assert team.shell.returncode == 1 and code.removeprefix("token_") in team.said(), team.said()
    assert team.ask("GET", "/v1/subscriptions")["code"] == code

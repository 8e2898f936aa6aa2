"""Clients that others wrote, as they come: websockets, npm's ws and Chromium's own WebSocket against a real gateway."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import msgpack
import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_sync
from websockets.typing import Subprotocol

from tests.support.gateway import GatewayProcess
from tests.support.sanitizers import without_sanitizers

JS = Path(__file__).resolve().parents[1] / "support" / "js"
CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
GREETING = "привет, 你好, 👋"
JSON_SUBPROTOCOL = Subprotocol("gonets.v1.json")
PATIENCE_S = 40


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway of the test's own, as it is by default."""
    with GatewayProcess(tmp_path / "data") as running:
        yield running
        assert "Traceback" not in running.log(), running.log()[-4_000:]


@contextmanager
def answering(gateway: GatewayProcess, user: int) -> Iterator[threading.Thread]:
    """Somebody who answers the first message twice; the thread that does it ends with that."""
    device = gateway.device(user, encoding="msgpack")
    device.timeout_s = PATIENCE_S

    def answer() -> None:
        greeting = device.expect("event", type="message")
        for number in (1, 2):
            device.write("publish", conversation=greeting["conversation"], text=f"answer {number}")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()
        device.close()


def configuration(gateway: GatewayProcess) -> dict[str, Any]:
    """What the scenario is given: user 1 talks with user 2."""
    hello = {"op": "hello", "token": gateway.token(1), "device": 8, "protocol": 1}
    binary = base64.b64encode(msgpack.packb(hello)).decode()
    return {"url": gateway.url, "token": gateway.token(1), "device": 7, "peer": 2, "binaryHello": binary}


def judge(seen: dict[str, Any]) -> None:
    """What every client must have seen: the dialog is created by the first message, events are 1 to 5."""
    assert seen["subprotocols"] == ["gonets.v1.json", "gonets.v1.msgpack"] and seen["extensions"] == ""
    assert [(receipt["status"], receipt["sequence"]) for receipt in seen["receipts"]] == [
        ("appended", 2),
        ("repeat", 2),
    ]
    assert seen["payload"] == GREETING
    # Whether the answers came before the close or in the resume is chance; that each came once, in order, isn't.
    assert seen["first"] in ([1, 2], [1, 2, 3], [1, 2, 3, 4])
    assert seen["second"] == [3, 4, 5]
    assert seen["large"] == 80_000  # 60,000 in base64
    assert seen["welcome"] == [0x92, 3]
    assert [(close["code"], close["reason"]) for close in seen["closes"][1:3]] == [
        (4500, "replaced"),
        (4503, "bad_command"),
    ]
    assert seen["closes"][0]["code"] == 1000 and seen["closes"][3]["code"] == 1005
    assert all(close["clean"] for close in seen["closes"])


def test_npm_ws(gateway: GatewayProcess, tmp_path: Path) -> None:
    """The version and its hash are in tests/support/js; npm brings it into a temporary directory."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no node with npm here: Debian's packages nodejs and npm")
    place = tmp_path / "js"
    shutil.copytree(JS, place)
    brought = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=15000"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    if brought.returncode:
        assert "EINTEGRITY" not in brought.stderr, brought.stderr
        pytest.skip(f"npm can't bring ws: {brought.stderr.strip().splitlines()[:1]}")
    with answering(gateway, 2):
        ran = subprocess.run(
            [node, "ws_client.mjs", json.dumps(configuration(gateway))],
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    assert ran.returncode == 0, ran.stderr
    judge(json.loads(ran.stdout))


PAGE = """<!doctype html><meta charset="utf-8"><title>Gonets</title><script>%s</script><script>
scenario(WebSocket, %s).catch((error) => ({ error: String(error.stack || error) }))
  .then((seen) => fetch("/seen", { method: "POST", body: JSON.stringify(seen) }));
</script>"""


@contextmanager
def page_server(html: str) -> Iterator[tuple[str, Queue[dict[str, Any]]]]:
    """One page on the loopback interface; what it posts comes out of the queue."""
    seen: Queue[dict[str, Any]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        """GET is the page, POST is what it has to say."""

        def do_GET(self) -> None:
            body = html.encode() if self.path == "/" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test says what is wrong."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_chromium(gateway: GatewayProcess, tmp_path: Path) -> None:
    """A browser's own WebSocket, from a page of another origin."""
    if not CHROMIUM.exists():
        pytest.skip("no browser here: Debian's package chromium")
    html = PAGE % ((JS / "scenario.js").read_text(encoding="utf-8"), json.dumps(configuration(gateway)))
    with answering(gateway, 2), page_server(html) as (url, seen), (tmp_path / "chromium.log").open("w") as log:
        browser = subprocess.Popen(
            [str(CHROMIUM), *CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", url],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=without_sanitizers(),
        )
        try:
            found = seen.get(timeout=PATIENCE_S)
        except Empty:
            pytest.fail(f"the page said nothing: {(tmp_path / 'chromium.log').read_text()[-2_000:]}")
        finally:
            os.killpg(browser.pid, signal.SIGKILL)  # the group is the browser's own
            browser.wait()
    assert "error" not in found, found["error"]
    judge(found)


def asked(gateway: GatewayProcess, sequence: int | None = None) -> str:
    """Hello in JSON."""
    body = {"op": "hello", "token": gateway.token(1), "device": 7, "protocol": 1}
    if sequence is not None:
        body["positions"] = [{"shard": 0, "epoch": 1, "sequence": sequence}]
    return json.dumps(body)


PUBLISH = json.dumps({"op": "publish", "counter": 1, "user": 2, "text": GREETING})


def test_websockets_with_threads(gateway: GatewayProcess) -> None:
    """As the library is by default: it offers compression, pings, and fragments what it is given in pieces."""
    with answering(gateway, 2) as answers:
        with connect_sync(gateway.url, subprotocols=[JSON_SUBPROTOCOL], proxy=None) as socket:
            assert socket.subprotocol == JSON_SUBPROTOCOL and socket.response is not None
            assert "Sec-WebSocket-Extensions" not in socket.response.headers
            socket.send(piece for piece in (asked(gateway)[:20], asked(gateway)[20:]))
            socket.send(PUBLISH)
            assert socket.ping().wait(PATIENCE_S)
            pushes: list[dict[str, Any]] = []
            while not {"receipt", "event", "live"} <= {push["op"] for push in pushes}:
                pushes.append(json.loads(socket.recv(PATIENCE_S)))
        assert socket.close_code == 1000
        answers.join()
        with connect_sync(gateway.url, subprotocols=[JSON_SUBPROTOCOL], proxy=None) as socket:
            socket.send(asked(gateway, sequence=2))
            missed: list[dict[str, Any]] = []
            while not missed or missed[-1]["op"] != "live":
                missed.append(json.loads(socket.recv(PATIENCE_S)))
            assert [push["sequence"] for push in missed if push["op"] == "event"] == [3, 4]
            socket.send("no JSON")
            with pytest.raises(ConnectionClosed) as ended:
                while True:
                    socket.recv(PATIENCE_S)
            assert ended.value.rcvd is not None and ended.value.rcvd.code == 4503


def test_websockets_with_asyncio(gateway: GatewayProcess) -> None:
    """The same library's other half; its iterator ends where the server closes."""

    async def talk() -> None:
        async with connect_async(gateway.url, subprotocols=[JSON_SUBPROTOCOL], proxy=None) as socket:
            await socket.send(asked(gateway))
            await socket.send(PUBLISH)
            await (await socket.ping())
            ops: list[str] = []
            while "receipt" not in ops or ops.count("event") < 2:
                ops.append(json.loads(await socket.recv())["op"])
        async with connect_async(gateway.url, subprotocols=[JSON_SUBPROTOCOL], proxy=None) as socket:
            await socket.send(asked(gateway, sequence=0))
            sequences = []
            async for text in socket:
                push = json.loads(text)
                if push["op"] == "event":
                    sequences.append(push["sequence"])
                if sequences and sequences[-1] == 4:
                    await socket.close(1000, "done")
            assert sequences == [1, 2, 3, 4] and socket.close_code == 1000

    with answering(gateway, 2):
        asyncio.run(asyncio.wait_for(talk(), PATIENCE_S))

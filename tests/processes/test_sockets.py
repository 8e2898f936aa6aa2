"""Where listening sockets come from: systemd's are taken and checked, what lacks is bound, every mistake is named."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.config import load
from gateway.listener import StartError
from gateway.processes import sockets
from tests.support.supervised import ROOT, supervised

UNIT = ROOT / "gateway" / "gonets.socket"
DESCRIPTORS = {
    "tcp": "socket.create_server(('127.0.0.1', 0))",
    "not listening": "socket.socket()",
    "udp": "socket.socket(type=socket.SOCK_DGRAM)",
    "unix": "socket.socket(socket.AF_UNIX)",
    "file": "open('/dev/null')",
}


def passed(kinds: list[str], **environment: str) -> tuple[dict[str, bool], str]:
    """What a process makes of descriptors from 3 on: {name: whether it got that very socket}, or the error."""
    program = f"""
import json, os, socket, sys
sys.path.insert(0, {str(ROOT)!r})
made = [{", ".join(DESCRIPTORS[kind] for kind in kinds)}]
for place, one in enumerate(made):
    os.dup2(os.dup(one.fileno()), 13 + place)
for place in range(len(made)):
    os.dup2(13 + place, 3 + place)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
from gateway.listener import StartError
from gateway.processes.sockets import activated
try:
    found = activated(os.environ)
except StartError as error:
    print(json.dumps([{{}}, str(error)]))
else:
    right = {{name: one.fileno() - 3 for name, one in found.items()}}
    flags = [one.get_inheritable() or one.getblocking() for one in found.values()]
    assert not any(flags) and not any(name.startswith("LISTEN_") for name in os.environ)
    print(json.dumps([right, ""]))
sys.stdout.flush()
os._exit(0)  # without closing what it holds twice
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "LISTEN_FDNAMES": "", **environment}
    )
    right, error = json.loads(run.stdout)
    return right, error


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("", {"clients": 0, "admin": 1}),
        ("gonets.socket:gonets.socket", {"clients": 0, "admin": 1}),
        ("admin:clients", {"admin": 0, "clients": 1}),
        ("api:clients", {"api": 0, "clients": 1}),
    ],
)
def test_names_or_the_order_say_what_is_whose(names: str, expected: dict[str, int]) -> None:
    assert passed(["tcp", "tcp"], LISTEN_FDS="2", LISTEN_FDNAMES=names) == (expected, "")


def test_sockets_of_another_process_are_not_ours() -> None:
    assert passed(["tcp"], LISTEN_FDS="1", LISTEN_PID="1") == ({}, "")


@pytest.mark.parametrize(
    ("kinds", "count", "names", "words"),
    [
        (["udp"], "1", "", "descriptor 3 (clients) of LISTEN_FDS is no TCP socket"),
        (["tcp", "unix"], "2", "", "descriptor 4 (admin) of LISTEN_FDS is no TCP socket"),
        (["not listening"], "1", "", "does not listen"),
        (["file"], "1", "", "descriptor 3 (clients) of LISTEN_FDS: Socket operation on non-socket"),
        (["tcp"], "2", "admin:admin", "name each socket once"),
        (["tcp"], "1", "clients:admin", "name each socket once"),
        (["tcp"], "4", "", "LISTEN_FDS = '4': must be 1 to 3"),
        (["tcp"], "x", "", "LISTEN_FDS = 'x'"),
    ],
)
def test_each_mistake_is_named(kinds: list[str], count: str, names: str, words: str) -> None:
    found, error = passed(kinds, LISTEN_FDS=count, LISTEN_FDNAMES=names)
    assert not found and words in error


def test_what_systemd_doesnt_pass_is_bound() -> None:
    config = load(None, {}, {"server.listen": "127.0.0.1:0", "server.admin": "127.0.0.1:0"}).config
    found = sockets.open_sockets(config, {})
    assert found.operators is not None
    assert found.clients.getsockname()[1] and found.operators.getsockname()[1]
    found.close()
    config = load(None, {}, {"server.listen": "127.0.0.1:0", "server.admin": ""}).config
    found = sockets.open_sockets(config, {})
    assert found.operators is None and found.api is None
    found.close()
    config = load(None, {}, {"server.listen": "127.0.0.1:0", "server.admin": "", "server.api": "127.0.0.1:0"}).config
    found = sockets.open_sockets(config, {})
    assert found.api is not None and found.api.getsockname()[1]
    found.close()


def test_a_taken_over_socket_must_be_where_the_configuration_says() -> None:
    bound = socket.create_server(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    assert sockets.agrees(f"127.0.0.1:{port}", bound) and sockets.agrees("localhost:0", bound)
    assert not sockets.agrees(f"127.0.0.1:{port + 1}", bound) and not sockets.agrees(f"0.0.0.0:{port}", bound)
    config = load(None, {}, {"server.listen": "0.0.0.0:0"}).config
    with pytest.raises(StartError, match="a take-over keeps the clients' port"):
        sockets.taken_over(config, {"clients": os.dup(bound.fileno())})
    bound.close()


def test_the_backends_socket_is_taken_over_where_the_address_is_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as clients, socket.create_server(("127.0.0.1", 0)) as api:
        for address, is_kept in ((f"127.0.0.1:{api.getsockname()[1]}", True), ("127.0.0.1:0", True), ("", False)):
            flags = {"server.listen": "127.0.0.1:0", "server.admin": "", "server.api": address}
            given = {"clients": os.dup(clients.fileno()), "api": os.dup(api.fileno())}
            found = sockets.taken_over(load(None, {}, flags).config, given)
            assert (found.api is not None and found.api.getsockname() == api.getsockname()) is is_kept
            assert found.operators is None and set(found.named()) == {"clients"} | ({"api"} if is_kept else set())
            found.close()


def test_systemd_passes_the_sockets_of_a_whole_life(tmp_path: Path) -> None:
    """A supervisor that binds nothing, and after its end the port is still open: connections wait for the next one."""
    with socket.create_server(("127.0.0.1", 0)) as clients:
        descriptor = os.dup(clients.fileno())
        before = f"exec 3<&{descriptor}; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=clients"
        options: dict[str, Any] = {"workers": 1, "listen": "127.0.0.1:1", "pass_fds": (descriptor,), "before": before}
        with supervised(tmp_path / "data", **options) as server:
            assert server.port == clients.getsockname()[1]
            assert server.ask()[2] == server.pids("sequencer")[0]
            assert server.end() == 0
            assert [line["handed_over"] for line in server.lines("told to drain")] == [True], "systemd holds it"
        waiting = socket.create_connection(clients.getsockname())
        with supervised(tmp_path / "data", **options) as server:
            assert waiting.makefile().readline().startswith("1 ")
        waiting.close()
        os.close(descriptor)


def test_systemd_finds_the_units_sound(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here (Debian's package systemd)")
    unit = (ROOT / "gateway" / "gonets.service").read_text()
    program = tmp_path / "gonets"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = unit.replace("/opt/gonets/.venv/bin/gonets", str(program))
    (tmp_path / "gonets.service").write_text(unit.replace("[Service]\n", "[Service]\nSockets=gonets.socket\n"))
    shutil.copy(UNIT, tmp_path)
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "gonets.service"), str(tmp_path / "gonets.socket")],
        check=False,
        capture_output=True,
        text=True,
    )
    ours = [line for line in run.stderr.splitlines() if "gonets" in line and "/opt/gonets" not in line]
    assert run.returncode == 0 and not ours, run.stderr

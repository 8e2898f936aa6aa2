"""The commands that `serve --demo` prints, and the address that `listen` and `send` take from the configuration."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.certificate import UNKNOWN_AUTHORITY, seen_by_clients
from tests.gateway.test_serve import gonets, one_line
from tests.support.certificates import Authority
from tests.support.gateway import ROOT


def free_address() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("secure", [False, True])
def test_the_printed_commands_work_and_the_configuration_names_the_address(
    data: Path, tmp_path: Path, signer: Authority, secure: bool
) -> None:
    file = tmp_path / "gonets.toml"
    text = f'[server]\nlisten = "{free_address()}"\nadmin = ""\ndata = "{data}"\n'
    if secure:
        signer.issue(tmp_path / "chain.pem", tmp_path / "key.pem")
        text += f'[tls]\ncertificate = "{tmp_path / "chain.pem"}"\nkey = "{tmp_path / "key.pem"}"\n'
    file.write_text(text)
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "gonets.py"), "serve", "--demo", "--config", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "GONETS_SERVER_DRAIN_S": "0"},
    )
    try:
        assert server.stdout is not None
        printed = next(line for line in server.stdout if " send --user" in line)
        assert ("--ca" in printed) == secure
        assert "appended" in gonets(*shlex.split(printed)[1:]).stdout
        more = ["--ca", tmp_path / "chain.pem"] if secure else []
        assert "appended" in gonets("send", "--user", 1, "--to", 2, "hi", "--config", file, *more).stdout
        if secure:
            one_line(gonets("send", "--user", 1, "--to", 2, "hi", "--config", file), "is not believed", "--ca")
            plain = shlex.split(printed)[shlex.split(printed).index("--url") + 1].replace("wss", "ws")
            one_line(gonets("send", "--user", 1, "--to", 2, "hi", "--config", file, "--url", plain), "wss://", "--ca")
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


def test_an_address_that_names_no_port_is_asked_for(data: Path) -> None:
    run = gonets("send", "--user", 1, "--to", 2, "hi", "--data", data, GONETS_SERVER_LISTEN="127.0.0.1:0")
    one_line(run, "server.listen", "--url")
    run = gonets("listen", "--user", 1, "--token", "x", GONETS_SERVER_LISTEN="[::]:1", GONETS_URL="")
    one_line(run, "ws://[::1]:1/v1")


def test_the_authority_is_named_only_where_the_system_has_it_not(
    tmp_path: Path, signer: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, own = tmp_path / "chain.pem", "wss://0.0.0.0:9/v1"
    made = signer.issue(path, tmp_path / "key.pem")
    assert seen_by_clients(path, own) == ("wss://127.0.0.1:9/v1", str(path))
    path.write_bytes(made.public_bytes(Encoding.PEM))
    assert seen_by_clients(path, "wss://localhost:9/v1") == ("wss://localhost:9/v1", UNKNOWN_AUTHORITY)
    assert x509.load_pem_x509_certificate(path.read_bytes()).issuer == signer.certificate.subject
    believing = ssl.create_default_context(cafile=str(signer.ca))
    monkeypatch.setattr(ssl, "create_default_context", lambda: believing)
    assert seen_by_clients(path, own) == ("wss://127.0.0.1:9/v1", "")

"""Descriptors of the one process: a crowd of backends leaves the log and the sessions theirs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

from engine import limits
from gateway.parts import SPARE_DESCRIPTORS
from tests.support.gateway import ROOT

ROOM = 40


def test_a_crowd_of_backends_does_not_take_the_descriptors_of_the_log(data: Path) -> None:
    """With few descriptors fewer connections are taken, and those who say nothing count like all others."""
    descriptors = ROOM + SPARE_DESCRIPTORS
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}));"
        f"sys.argv = ['gonets', 'serve', '--json', '--data', {str(data)!r}, '--listen', '127.0.0.1:0', '--admin', ''];"
        "import gonets; gonets.main()"
    )
    with ExitStack() as crowd:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "GONETS_SERVER_API": "127.0.0.1:0"},
        )
        try:
            assert process.stdout is not None
            place = urlsplit(json.loads(process.stdout.readline())["api"])
            address = (str(place.hostname), place.port or 0)
            taken = ROOM // 4 + limits.SPARE_CONNECTIONS
            for _ in range(taken):
                crowd.enter_context(socket.create_connection(address, timeout=10))
            one = crowd.enter_context(socket.create_connection(address, timeout=5))
            with suppress(ConnectionResetError):
                assert one.recv(1) == b"", "it is cut, and doesn't wait for its ten seconds"
        finally:
            process.terminate()
            process.communicate(timeout=20)

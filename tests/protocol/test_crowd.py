"""Ten thousand handshakes that are never finished: whoever is there is served on, whoever comes is let in."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ext.session_table import SESSION_BYTES
from tests.support.gateway import ROOT, running
from tests.support.hostile import settled

HALF_OPEN = 10_000
SPARE = 1_500  # descriptors that the server keeps for its log, and some for us
HEAD_BYTES = 512  # what half a head is kept in
HELLO_S = 10
SERVED_WITHIN_S = 5.0  # not a measurement: far from it


def test_ten_thousand_half_open_handshakes_keep_nobody_out(data: Path) -> None:
    """They come from a child process. Bounded memory, dialogs go on, newcomers get in, and all of them end with 408."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reach = min(HALF_OPEN, (HALF_OPEN if hard == resource.RLIM_INFINITY else hard) - SPARE)
    if reach < 1_000:
        pytest.skip(f"only {hard} descriptors a process are allowed here")
    if soft != resource.RLIM_INFINITY and soft < reach + SPARE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reach + SPARE, hard))
    try:
        crowd_meets_server(data, reach)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def crowd_meets_server(data: Path, count: int) -> None:
    """The test, with enough descriptors for both processes."""
    limits = {"gateway.hello_timeout_s": HELLO_S, "admission.address_unknown_max": count + 10}  # of one address here
    with running(data, **limits) as gateway:
        one, two = gateway.device(1), gateway.device(2, encoding="json")
        one.write("publish", user=2, text="before")
        place = urlsplit(gateway.url)
        arguments = [str(place.hostname), str(place.port), str(count)]
        crowd = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crowd", *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        try:
            assert crowd.stdout is not None
            assert int(crowd.stdout.readline()) == count
            settled(gateway, sessions=count + 2)
            held = gateway.metric("gonets_session_bytes")
            assert held <= (count + 10) * (SESSION_BYTES + HEAD_BYTES) + 100_000
            for number in range(30):
                began = time.monotonic()
                newcomer = gateway.device(3, device=number + 1)
                sent = newcomer.write("publish", user=2, text=str(number))["sequence"]
                assert two.expect("event", sequence=sent)["payload"] == str(number).encode()
                assert time.monotonic() - began < SERVED_WITHIN_S
                newcomer.close()
            assert gateway.metric("gonets_sessions") >= count, "the crowd was gone before anybody was served beside it"
            ended, told = map(int, crowd.stdout.read().split())
            assert (ended, told) == (count, count) and crowd.wait(10) == 0
            settled(gateway, sessions=2)
            assert gateway.metric("gonets_session_bytes") < (count + 300) * SESSION_BYTES + 64_000
        finally:
            crowd.kill()
            crowd.wait()
            crowd.stdout.close()  # type: ignore[union-attr]

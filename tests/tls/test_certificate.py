"""The certificate of a running gateway: replaced under load, broken, running out; and the client's way with wss."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from msgspec.structs import replace as replaced
from structlog.testing import capture_logs

from engine import Config
from gateway.certificate import Certificate, CertificateError
from gateway.client import Client
from gateway.session import Door
from gateway.trust import Trust
from tests.support.certificates import Authority, replace
from tests.support.gateway import ROOT, GatewayProcess
from tests.support.tls_peer import SecureRig
from tests.tls.conftest import secured


def shown(gateway: GatewayProcess) -> bytes:
    """The certificate that a new connection gets."""
    place = urlsplit(gateway.url)
    assert place.hostname is not None and place.port is not None
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((place.hostname, place.port), timeout=5))


def hang_up(gateway: GatewayProcess) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)


def failed_again(gateway: GatewayProcess, known: float) -> bool:
    return gateway.metric("gonets_tls_certificate_reload_failures_total") > known


def until(condition: Callable[[], object], seconds: float = 6.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.05)


def test_reload_under_load(data: Path, signer: Authority) -> None:
    """Three changes while people talk, one seen by itself, two told by SIGHUP: new connections get the new
    one, no session notices, no connect fails."""
    with secured(data, signer, **{"gateway.rate_per_s": 100_000, "gateway.rate_burst": 100_000}) as gateway:
        first, second = gateway.device(1), gateway.device(2, encoding="json")
        place = data.parent / "data.pem", data.parent / "data-key.pem"
        for number in range(3):
            before = shown(gateway)
            made = signer.issue(*place).public_bytes(serialization.Encoding.DER)
            if number:
                hang_up(gateway)
            deadline = time.monotonic() + 5
            while (now := shown(gateway)) != made:
                assert now == before and time.monotonic() < deadline
                receipt = first.write("publish", user=2, payload=os.urandom(20_000))
                assert receipt["status"] == "appended", receipt
                assert second.expect("event", sequence=receipt["sequence"])
        assert gateway.metric("gonets_tls_certificate_reload_failures_total") <= 3  # between the two files of a pair
        assert gateway.metric("gonets_tls_handshakes_total") >= 8
        assert {push["op"] for push in second.settled()} <= {"event", "live"}


def test_a_broken_pair_keeps_the_old_one_and_hup_reads_again(data: Path, signer: Authority, tmp_path: Path) -> None:
    with secured(data, signer) as gateway:
        before, certificate = shown(gateway), data.parent / "data.pem"
        other, _ = signer.pair("of another key")
        replace(certificate, other.read_bytes(), 0o644)
        until(lambda: gateway.metric("gonets_tls_certificate_reload_failures_total") == 1)
        assert shown(gateway) == before and "is not the key" in gateway.log()
        replace(certificate, b"no certificate", 0o644)
        for _ in range(2):  # the second time it has not changed, and is read all the same
            failures = gateway.metric("gonets_tls_certificate_reload_failures_total")
            hang_up(gateway)
            until(partial(failed_again, gateway, failures))
        assert shown(gateway) == before and gateway.device(5).welcome
        signer.issue(certificate, data.parent / "data-key.pem", days=3)
        until(lambda: shown(gateway) != before)
        until(lambda: "renew it" in gateway.log())
        assert 2 * 86_400 < gateway.metric("gonets_tls_certificate_left_seconds") < 3 * 86_400
        assert "PRIVATE KEY" not in gateway.log() and "Traceback" not in gateway.log()


def test_what_is_wrong_with_a_pair_is_said(tmp_path: Path) -> None:
    signer = Authority(tmp_path)
    certificate, key = signer.pair()
    good = Certificate(str(certificate), str(key), "1.3")
    assert good.warnings == [] and good.left_s > 19 * 86_400
    locked = serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    bad = tmp_path / "bad.pem"
    for data, words in ((b"", "no private key"), (locked, "passphrase"), (certificate.read_bytes(), "no private key")):
        bad.write_bytes(data)
        with pytest.raises(CertificateError, match=words):
            Certificate(str(certificate), str(bad), "1.3")
    with pytest.raises(CertificateError, match="No such file"):
        Certificate(str(certificate), str(tmp_path / "nowhere"), "1.3")
    key.chmod(0o644)
    assert "everybody" in Certificate(str(certificate), str(key), "1.3").warnings[0]
    expired = signer.pair("expired", days=-1)
    assert "expired" in Certificate(str(expired[0]), str(expired[1]), "1.3").warnings[0]
    heavy = signer.pair("rsa", kind="rsa")
    assert "RSA" in Certificate(str(heavy[0]), str(heavy[1]), "1.3").warnings[0]


def test_the_client_over_wss(gateway: GatewayProcess, signer: Authority, new_user: Callable[[], int]) -> None:
    async def work() -> None:
        one, two = new_user(), new_user()
        trust = signer.client()
        async with (
            Client(gateway.url, gateway.token(one), 1, trust=trust) as sender,
            Client(gateway.url, gateway.token(two), 1, encoding="json", trust=trust) as receiver,
        ):
            receipt = await sender.publish(user=two, text="secret" * 10_000)
            async for event in receiver:
                if event.sequence == receipt.sequence:
                    assert event.payload == b"secret" * 10_000
                    break
        with pytest.raises(OSError, match="certificate"):
            await Client(gateway.url, gateway.token(one), 1).connect()

    asyncio.run(work())


def test_the_command_line_over_wss(gateway: GatewayProcess, signer: Authority) -> None:
    def gonets(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "gonets.py", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    send = ("send", "--user", 801, "--to", 802, "--data", gateway.data, "hello")
    assert gonets(*send, "--url", gateway.url, "--ca", signer.ca).stdout.startswith("appended")
    for more, words in (
        (("--url", gateway.url), "--ca"),
        (("--url", gateway.url, "--ca", gateway.data / "nothing"), "No such file"),
        (("--url", gateway.url, "--ca", ROOT / "README.md"), "no certificate"),
        (("--url", gateway.url.replace("wss", "ws"), "--ca", signer.ca), "wss:// only"),
        (("--url", gateway.url.replace("wss", "ws")), "HTTP 400"),
    ):
        failed = gonets(*send, *more)
        assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and words in failed.stderr, failed.stderr


def test_one_that_was_sound_when_it_was_read_is_warned_about_later(tmp_path: Path) -> None:
    """Nobody touches a certificate of 20 days; the clock goes on, and what is said is said once a day."""
    certificate, key = Authority(tmp_path).pair(days=20)
    config = Config()
    config = replaced(config, tls=replaced(config.tls, certificate=str(certificate), key=str(key)))
    passed_s = 0.0
    trust = Trust(config, tmp_path, lambda: time.time() + passed_s)
    with SecureRig() as rig:
        trust.open()
        door = SimpleNamespace(poller=rig.poller, sessions=rig.table, end=None)
        trust.begin(cast(Door, door), lambda: None)
        said: dict[float, list[str]] = {}
        for day in (0, 1.5, 5, 7, 7.5, 8.5, 19.5, 21):
            passed_s = day * 86_400
            with capture_logs() as lines:
                for _ in range(3):
                    trust.second()
            said[day] = [line["event"] for line in lines if line["log_level"] == "warning"]
        assert said[0] == said[1.5] == said[5] == said[7.5] == []
        assert "expires in 13.0 days: renew it" in said[7][0] and len(said[7]) == 1
        assert "11.5 days" in said[8.5][0] and "0.5 days" in said[19.5][0] and "has expired" in said[21][0]
        assert trust.values()["tls_certificate_left_seconds"] < 0
        passed_s = 0.0
        with capture_logs() as lines:  # a clock that was wrong and is put right
            trust.second()
        assert not any("expire" in line["event"] for line in lines)

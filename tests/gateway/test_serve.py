"""The process and the command line: what keeps it from starting, drain, restart, reload, metrics, the tour."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway import metrics
from gateway.auth import development_key
from tests.support.gateway import ROOT, Device, GatewayProcess, running
from tests.support.tokens import Issuer

# [auth] keys or revoked by URL, [tls], workers: tests/tls, test_issuer.py and tests/processes look at them
ONLY_WHERE_CONFIGURED = {
    "backup_age_seconds",
    "link_waiting_bytes",
    "presence_questions",
    "service_publishes",
    "service_refused_publishes",
    "subscription_consumers",
    "subscription_deliveries",
    "subscription_doubles",
    "subscription_in_flight_events",
    "subscription_lag_events",
    "subscription_oldest_unacked_seconds",
    "subscription_parked_events",
    "subscription_damaged_events",
    "subscription_lost_events",
    "subscription_commit_failures",
    "subscription_read_bytes",
    "subscriptions",
    "untold_acts",
    "restarted_processes",
    "token_keys_age_seconds",
    "revoked_entries",
    "revoked_age_seconds",
    "revoked_reload_failures",
    "revoked_sessions",
    "tls_certificate_left_seconds",
    "tls_certificate_reload_failures",
}


def gonets(
    *arguments: object, timeout_s: float = 30, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """One run of the command line."""
    return subprocess.run(
        [sys.executable, str(ROOT / "gonets.py"), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        input=stdin,
        timeout=timeout_s,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


def one_line(run: subprocess.CompletedProcess[str], *words: str) -> None:
    assert run.returncode == 1, run
    lines = [line for line in run.stderr.splitlines() if line.startswith("gonets: ")]
    assert len(lines) == 1 and "Traceback" not in run.stderr, run.stderr
    for word in words:
        assert word in lines[0], run.stderr


def test_a_taken_port_and_a_data_directory_in_use_are_one_line(data: Path, tmp_path: Path) -> None:
    with running(data) as gateway:
        taken = gateway.url.removeprefix("ws://").removesuffix("/v1")
        one_line(
            gonets("serve", "--data", tmp_path / "other", "--listen", taken, "--admin", ""),
            "server.listen",
            taken,
            "taken",
        )
        admin = gateway.admin.removeprefix("http://")
        one_line(
            gonets("serve", "--data", tmp_path / "other", "--listen", "127.0.0.1:0", "--admin", admin),
            "server.admin",
            admin,
            "taken",
        )
        one_line(gonets("serve", "--data", data, "--listen", "127.0.0.1:0", "--admin", ""), str(data))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "README.md"], ["server.data = 'README.md'", "File exists", "a file lies there: name a directory"]),
        (["--data", "/proc/x"], ["server.data = '/proc/x'", "No such file", "name another place"]),
        (["--data", "README.md/x"], ["server.data = 'README.md/x'", "Not a directory", "name another place"]),
        (["--listen", "nohost.invalid:1"], ["server.listen = 'nohost.invalid:1'", "127.0.0.1"]),
        (["--admin", "nohost.invalid:1"], ["server.admin = 'nohost.invalid:1'", "127.0.0.1"]),
    ],
)
def test_each_refusal_says_what_to_change(data: Path, options: list[str], words: list[str], workers: int) -> None:
    given = ["--data", str(data), "--listen", "127.0.0.1:0", "--admin", "", "--workers", str(workers)]
    for name, value in zip(options[::2], options[1::2], strict=True):
        given[given.index(name) + 1] = value
    one_line(gonets("serve", *given), *words)


def test_other_reasons_not_to_start(tmp_path: Path) -> None:
    one_line(gonets("serve", "--listen", "nowhere"), "server.listen", "host:port")
    one_line(gonets("serve", "--config", tmp_path / "none.toml"), "none.toml")
    one_line(
        gonets(
            "serve",
            "--data",
            tmp_path / "d",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "",
            GONETS_AUTH_KEYS=str(tmp_path / "keys.json"),
        ),
        "auth.keys",
        "keys.json",
    )
    (tmp_path / "file").write_text("")
    one_line(gonets("serve", "--data", tmp_path / "file", "--listen", "127.0.0.1:0", "--admin", ""), "server.data")


def test_sigterm_drains_and_a_restart_goes_on(data: Path) -> None:
    with running(data) as gateway:
        devices = [gateway.device(user, 1, encoding) for user, encoding in ((1, "msgpack"), (2, "json"))]
        receipt = devices[0].write("publish", user=2, text="before")
        positions = [{**devices[1].welcome["shards"][0], "sequence": receipt["sequence"] - 1}]
        gateway.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        for device in devices:
            code, reason = device.closed()
            advice = next(push for push in device.backlog if push["op"] == "advice")
            assert (code, advice["kind"]) == (4001, "drain")
            assert reason == f"drain; retry_after_ms={advice['retry_after_ms']}" and advice["retry_after_ms"] > 0
        assert gateway.wait() == 0
    with running(data) as gateway:
        back = gateway.device(2, 1, "json", positions)
        assert back.expect("event")["sequence"] == receipt["sequence"]
        assert gateway.device(1).write("publish", user=2, text="before", counter=1)["status"] == "repeat"
        assert back.write("publish", user=1, text="x")["sequence"] == receipt["sequence"] + 1


def test_kill_9_loses_nothing_that_was_answered(data: Path) -> None:
    gateway = GatewayProcess(data).start()
    device = gateway.device(1)
    receipts = [device.write("publish", user=2, text=str(number)) for number in range(50)]
    gateway.kill()
    with running(data) as gateway:
        back = gateway.device(1)
        assert back.welcome["counter"] == 50
        back.send("history", conversation=receipts[0]["conversation"], limit=100)
        stored = [event["sequence"] for event in back.expect("history")["events"]][::-1]
        assert stored[1:] == [receipt["sequence"] for receipt in receipts]
        assert back.write("publish", user=2, text="next")["sequence"] == receipts[-1]["sequence"] + 1


def test_health_readiness_and_metrics(data: Path) -> None:
    with running(data) as gateway:
        device = gateway.device(1)
        device.write("publish", user=2, text="secret words")
        for admin in (False, True):
            assert gateway.http("/healthz", admin) == (200, "ok\n")
            assert gateway.http("/readyz", admin) == (200, "ok\n")
        assert gateway.http("/metrics")[0] == 404
        assert gateway.http("/v1")[0] == 426
        for path, found in (("/", 200), ("/v1", 404), ("/nope", 404)):
            status, text = gateway.http(path, admin=True)
            assert status == found and "/metrics, /healthz, /readyz" in text
        status, text = gateway.http("/metrics", admin=True)
        assert status == 200 and "secret" not in text
        for row in metrics.TABLE:
            if row.name.removeprefix("gonets_").removesuffix("_total") in ONLY_WHERE_CONFIGURED:
                continue
            assert f"# HELP {row.name.removesuffix('_total')}" in text or f"# HELP {row.name}" in text, row.name
        assert gateway.metric("gonets_sessions") == 1
        assert gateway.metric("gonets_hellos_total") == 1
        assert gateway.metric("gonets_publishes_total") == 1
        assert gateway.metric("gonets_log_sequence") == 2
        assert gateway.metric("gonets_writer_fenced") == 0
        assert gateway.metric("gonets_ready") == gateway.metric("gonets_processes") == 1
        resident, anonymous = (
            gateway.metric("gonets_resident_memory_bytes"),
            gateway.metric("gonets_anonymous_memory_bytes"),
        )
        assert 0 < anonymous < resident
        assert "secret" not in gateway.log()


def test_the_metrics_table_is_complete() -> None:
    names = [row.name for row in metrics.TABLE]
    assert len(set(names)) == len(names)
    for row in metrics.TABLE:
        assert row.name.startswith("gonets_") and len(row.help) > 10 and row.help.endswith(".")
        assert row.name.endswith("_total") is (row.kind == "counter")


def test_reload_takes_what_it_may_and_says_what_it_does_not(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "gonets.toml"
    config.write_text("[gateway]\nsessions_per_user_max = 1\n")
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "gonets.py"),
            "serve",
            "--json",
            "--data",
            str(data),
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "",
            "--config",
            str(config),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        gateway = GatewayProcess(data)
        gateway.url = json.loads(process.stdout.readline())["url"]  # type: ignore[union-attr]
        gateway.device(1, 1)
        second = Device(gateway.url)
        second.send("hello", token=gateway.token(1), device=2, protocol=1)
        assert second.closed()[0] == 4504
        config.write_text("[gateway]\nsessions_per_user_max = 2\nrate_per_s = 77\n")
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while True:
            second = Device(gateway.url)
            second.send("hello", token=gateway.token(1), device=2, protocol=1)
            if second.receive()["op"] == "welcome":
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert "gateway.rate_per_s" in errors and "needs_restart" in errors
    assert process.returncode == 0


def test_the_soft_limit_of_descriptors_is_raised(data: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running(data) as gateway:
        assert gateway.process is not None
        text = Path(f"/proc/{gateway.process.pid}/limits").read_text()
        line = next(line for line in text.splitlines() if line.startswith("Max open files"))
        now = line.split()[3]
        assert now == "unlimited" or int(now) >= min(100_000, hard if hard > 0 else 100_000)


def test_token_takes_the_servers_key_and_refuses_when_keys_are_set(tmp_path: Path) -> None:
    development_key(tmp_path)
    run = gonets("token", "--user", 5, "--data", tmp_path, "--json")
    found = json.loads(run.stdout)
    assert found["user"] == 5 and found["token"].count(".") == 2 and found["expires"] > time.time()
    assert stat.S_IMODE((tmp_path / "development-key.pem").stat().st_mode) == 0o600
    keys = Issuer().write(tmp_path / "keys.json")
    one_line(gonets("token", "--user", 5, "--data", tmp_path, GONETS_AUTH_KEYS=str(keys)), "auth.keys", "issuer")
    one_line(gonets("token", "--user", 0, "--data", tmp_path), "--user 0", "9007199254740991")
    one_line(gonets("token", "--user", 5, "--device", 2**53, "--data", tmp_path), "--device")


def test_config_check_explains(tmp_path: Path) -> None:
    found = json.loads(gonets("config", "check", "--json", GONETS_GATEWAY_RATE_PER_S="55").stdout)
    row = next(row for row in found["options"] if row["option"] == "gateway.rate_per_s")
    assert (row["value"], row["source"], row["unit"]) == (55, "GONETS_GATEWAY_RATE_PER_S", "1/s")
    text = gonets("config", "check").stdout
    assert "gateway.ping_interval_s" in text and "30" in text
    one_line(gonets("config", "check", GONETS_GATEWAY_RATE_PER_S="none"), "gateway.rate_per_s", "'none'", "1 to")
    one_line(gonets("config", "check", GONETS_AUTH_KEYS=str(tmp_path / "no.json")), "auth.keys")


def test_log_stat_read_check(data: Path, tmp_path: Path) -> None:
    one_line(gonets("log", "stat", "--data", tmp_path / "none"), "is not there")
    with running(data) as gateway:
        gateway.device(1).write("publish", user=2, text="x")
        assert gonets("log", "stat", "--data", data).returncode == 0  # while it runs
    for verb in (("stat",), ("read", "--from", "1"), ("check",)):
        run = gonets("log", *verb, "--data", data, "--json")
        assert run.returncode == 0, run
        found = json.loads(run.stdout)
        if verb[0] == "read":
            assert [event["type"] for event in found["events"]] == ["conversation.created", "message"]
        assert gonets("log", *verb, "--data", data).stdout


@pytest.mark.parametrize("as_json", [False, True])
def test_the_tour_of_two_minutes(data: Path, as_json: bool) -> None:
    with running(data) as gateway:
        options = ["--data", str(data), "--url", gateway.url]
        heard: list[subprocess.CompletedProcess[str]] = []

        def listen(*more: str) -> threading.Thread:
            thread = threading.Thread(
                target=lambda: heard.append(
                    gonets("listen", "--user", 2, *options, *more, *(["--json"] if as_json else []))
                )
            )
            thread.start()
            return thread

        thread = listen("--count", "2")
        while gateway.metric("gonets_hellos_total") < 1:
            time.sleep(0.05)
        sent = gonets("send", "--user", 1, "--to", 2, "hello from the log", "--json", *options)
        assert json.loads(sent.stdout)["status"] == "appended", sent
        thread.join()
        assert "hello from the log" in heard[0].stdout, heard
        assert "appended" in gonets("send", "--user", 1, "--to", 2, "while away", *options).stdout
        listen("--count", "1", "--resume").join()
        assert "while away" in heard[1].stdout and "hello from" not in heard[1].stdout
    one_line(gonets("send", "--user", 1, "--to", 2, "x", *options), "can't reach the gateway")
    one_line(gonets("send", "--user", 1, "x", *options), "--to")


def test_serve_demo_prints_what_to_try(data: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "gonets.py"),
            "serve",
            "--demo",
            "--data",
            str(data),
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        lines = [process.stdout.readline() for _ in range(6)]  # type: ignore[union-attr]
        assert "ws://127.0.0.1:" in lines[0] and "durability" in lines[0] and "a new log was begun" in lines[0]
        assert sum("token of user" in line for line in lines) == 2
        assert any(" listen " in line for line in lines) and any(" send " in line for line in lines)
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_crowd_does_not_take_the_descriptors_of_the_log(data: Path) -> None:
    """With few descriptors fewer sessions are taken, and the log goes on to roll."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    room = 40
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({room} + 512, {room} + 512));"
        f"sys.argv = ['gonets', 'serve', '--json', '--data', {str(data)!r}, '--listen', '127.0.0.1:0', '--admin', ''];"
        "import gonets; gonets.main()"
    )
    assert hard > room + 512
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    crowd: list[socket.socket] = []
    try:
        place = urlsplit(json.loads(process.stdout.readline())["url"])  # type: ignore[union-attr]
        answers = []
        for _ in range(room + 20):
            crowd.append(socket.create_connection((place.hostname, place.port), timeout=10))
        for one in crowd[-20:]:
            one.sendall(b"GET /v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            one.sendall(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n")
            one.sendall(b"Sec-WebSocket-Protocol: gonets.v1.json\r\n\r\n")
            answers.append(one.recv(4_096))
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers), answers[:2]
    finally:
        for one in crowd:
            one.close()
        process.terminate()
        process.communicate(timeout=20)

"""Every `gonets bench` command in its smoke size: it works, it verifies, it reports in the one shape."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.harness import SETTINGS, Child

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = [
    "append",
    "open",
    "publish",
    "fanout",
    "latency",
    "connections",
    "overload",
    "read",
    "interest",
    "resume",
    "subscribe",
]
WITH_LIMIT = ("append", "publish", "fanout", "read")


def smoke(name: str, folder: Path, *more: str) -> dict[str, Any]:
    """The object that a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "gonets", "bench", name, "--smoke", "--json", "--folder", str(folder), *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_smoke(name: str, tmp_path: Path) -> None:
    """Results in the shape of the documentation, the machine beside them, nothing left behind."""
    found = smoke(name, tmp_path)
    assert found["results"] and found["machine"]["filesystem"]
    for case in found["results"]:
        assert case["case"] and case["durability"] and case["runs"] >= 1
        low, high = case["spread"]
        assert low <= high
        if "value" in case:
            assert case["unit"]
        else:
            assert case["rate_per_s"] > 0
        if name in WITH_LIMIT:
            assert case["limit_per_s"] > 0 and case["ratio"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["publish", "fanout"])
def test_smoke_over_tls(name: str, tmp_path: Path) -> None:
    """The same loads with TLS below, beside the same server without it."""
    found = smoke(name, tmp_path, "--tls")
    assert len(found["results"]) == 2
    for case in found["results"]:
        assert case["case"].endswith("TLS against plain") and case["ratio"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """No traceback for what a person can mend."""
    with pytest.raises(AssertionError, match=r"gonets: bench: .*nowhere"):
        smoke("publish", tmp_path / "nowhere")


def test_an_interrupt_while_a_server_starts_leaves_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when the child exists and its Popen hasn't returned: the child is stopped before anybody hears of it."""
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Child("gonets", ["serve", "--json"], SETTINGS | {"GONETS_SERVER_DATA": str(tmp_path / "data")}, tmp_path)
    assert [child.returncode is not None for child in started] == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

"""What a soak sees of a server from outside, besides what its runs report: disk used, events stored, lag of the tail.

A thread that looks each few seconds at the data directory and at the metrics of the admin address. Used by soak.py,
which puts it beside the windows. Where there is no directory (a server of somebody's) or no admin address, that part
is left out and said in `remarks`.

Invariant: what could not be read at a moment is missing there, never 0.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from bench import procfs

ANSWER_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 4 << 20
STORED: Final = "gonets_log_sequence"
DELIVERED: Final = "gonets_delivered_sequence"
LOGGED: Final = "gonets_log_bytes_total"
RING: Final = "gonets_ring_bytes"


class Look(NamedTuple):
    """At one moment of `time.monotonic()`."""

    at: float
    disk_bytes: int | None
    stored_events: float | None
    lag_events: float | None
    logged_bytes: float | None = None  # since the server's start
    ring_bytes: float | None = None  # room of all workers' rings of frames


class Watch:
    """`with Watch(…) as watch:` around the windows."""

    def __init__(self, data: Path | None, admin: str, interval_s: float) -> None:
        """`data`: the data directory; `admin`: host:port, or empty."""
        self._data, self._admin, self._interval_s = data, admin, interval_s
        self._failure = ""
        self.looks: list[Look] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.looks.append(self._look())
            if self._over.wait(self._interval_s):
                return

    def _look(self) -> Look:
        values = self._metrics()
        stored, delivered = values.get(STORED), values.get(DELIVERED)
        lag = max(stored - delivered, 0.0) if stored is not None and delivered is not None else None
        used = procfs.folder_bytes(self._data) if self._data is not None and self._data.is_dir() else None
        return Look(time.monotonic(), used, stored, lag, values.get(LOGGED), values.get(RING))

    def _metrics(self) -> Mapping[str, float]:
        if not self._admin:
            return {}
        try:
            with urllib.request.urlopen(f"http://{self._admin}/metrics", timeout=ANSWER_S) as answer:
                return values_of(answer.read(ANSWER_BYTES_MAX).decode("utf-8", "replace"))
        except (OSError, HTTPException, ValueError) as error:
            self._failure = f"the metrics of {self._admin} did not answer at least once: {error}"
            return {}

    @property
    def remarks(self) -> list[str]:
        """What is missing, and why."""
        found = (
            [] if self._data is not None else ["The disk was not watched: the data directory is not on this machine."]
        )
        if not self._admin:
            found.append("The lag of the tail was not watched: no admin address is known.")
        return found + ([self._failure[0].upper() + self._failure[1:] + "."] if self._failure else [])


def values_of(text: str) -> dict[str, float]:
    """The metrics without labels of a page in Prometheus' form."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name and not line.startswith("#") and "{" not in name:
            try:
                found[name] = float(rest.split()[0])
            except (ValueError, IndexError):
                continue  # a form that we don't write
    return found

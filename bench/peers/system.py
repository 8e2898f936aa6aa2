"""What a system of the comparison is: where it is found, what it promises, and how it does a job.

Implemented by one file for each server; rounds.py and table.py know only this. A system that isn't there is a row that
says how to get it; a job that isn't a system's is a row that says why.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Self

from bench.peers.child import executable
from bench.peers.jobs import Job, Outcome, Scale

UNMEASURED = "not measured: "


@dataclass(frozen=True)
class Places:
    """Where the user says that programs are; what is empty is looked for."""

    redis_server: Path | None = None
    nats_server: Path | None = None
    mosquitto: Path | None = None
    kafka_libs: Path | None = None
    umadb: Path | None = None
    centrifugo: Path | None = None

    @classmethod
    def named(cls, **given: Path | None) -> Self:
        """What was given, else what the environment names: BENCH_KAFKA_LIBS and the like."""
        names = [field.name for field in fields(cls)]
        named = {name: given.get(name) or os.environ.get(f"BENCH_{name.upper()}") for name in names}
        return cls(**{name: Path(path) for name, path in named.items() if path})


@dataclass(frozen=True)
class Found:
    """A program that can be started."""

    path: Path
    version: str


class System(ABC):
    """One row of each job."""

    name: ClassVar[str]
    family: ClassVar[str]  # what `--systems` may say for all of its kind
    title: ClassVar[str]
    get_it: ClassVar[str]
    note: ClassVar[str] = ""  # settings that differ from its defaults
    durabilities: ClassVar[Mapping[str, str]]  # kind of job → what is promised when a message is answered or delivered
    not_its_job: ClassVar[Mapping[str, str]] = {}  # kind or name of a job → why

    def promise(self, job: Job) -> str:
        """What the answers to this job are worth; empty: it isn't this system's job."""
        return "" if job.name in self.not_its_job else self.durabilities.get(job.kind, "")

    def why_not(self, job: Job) -> str:
        """Why a job isn't its, or isn't measured though it could do it."""
        why = self.not_its_job.get(job.name) or self.not_its_job[job.kind]
        return why if why.startswith(UNMEASURED) else f"not its job: {why}"

    @abstractmethod
    def find(self, places: Places) -> Found | None:
        """Where it is, or None."""

    @abstractmethod
    def run(self, job: Job, scale: Scale, found: Found, place: Path) -> Outcome:
        """One run. `place` is this system's folder for this job, the same for all of its runs. Raises PeerError."""


def on_path(named: Path | None, *names: str) -> Path | None:
    """The program that was named, else the first of these that the search path or the system's folders hold."""
    if named is not None:
        return named.resolve() if executable(named) else None
    for name in names:
        if path := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"):
            return Path(path)
    return None

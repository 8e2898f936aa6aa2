"""What the plan assumes and can't measure: what people do, what is promised to them, which machines are bought.

Every assumption is a field with its meaning, unit, default, bounds, plausible range and source; each is an option of
`gonets bench plan`. The plausible range is what the sensitivity moves it over. Figures of a machine are no assumptions:
they come from reports (measured.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, NamedTuple, Self, get_type_hints

from cyclopts import Parameter


class About(NamedTuple):
    """What is known of an assumption beside its value and meaning."""

    unit: str
    least: float
    most: float
    low: float  # the plausible range
    high: float
    source: str


class AssumptionError(Exception):
    """A value that no plan can be made of; one line for people."""


ISSUE = "the question that the README's plan answers"
GUESS = "a guess to be replaced by the operator's own count"
HARDWARE = "a server of the middle class that is sold today"


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Defaults are those of the README's plan."""

    daily_users: Annotated[
        float,
        Parameter(help="people who use it on a day"),
        About("people", 1e3, 2e9, 40e6, 60e6, ISSUE),
    ] = 50e6
    messages_per_user: Annotated[
        float,
        Parameter(help="messages that one of them sends a day"),
        About("messages/day", 0.1, 5_000, 20, 80, ISSUE),
    ] = 40.0
    notices_per_user: Annotated[
        float,
        Parameter(help="notices of state bodies that one of them is sent a day, each an event of its own"),
        About("notices/day", 0, 1_000, 0.2, 5, GUESS),
    ] = 1.0
    peak_factor: Annotated[
        float,
        Parameter(help="rate of the busiest minute over the mean of the day"),
        About("ratio", 1, 24, 2.5, 6, ISSUE),
    ] = 4.0
    devices: Annotated[
        float,
        Parameter(help="devices that a person uses"),
        About("devices", 1, 16, 1.2, 2.0, ISSUE),
    ] = 1.4
    online_share: Annotated[
        float,
        Parameter(help="share of all devices that hold a connection at the peak"),
        About("share", 0.001, 1, 0.15, 0.5, GUESS),
    ] = 0.25
    dialog_share: Annotated[
        float,
        Parameter(help="share of the messages that go to one person; the others go to groups"),
        About("share", 0, 1, 0.4, 0.8, GUESS),
    ] = 0.6
    group_members_mean: Annotated[
        float,
        Parameter(
            help="members of a group, as the mean over group messages (a large group counts for each of its own)"
        ),
        About("people", 3, 5_000, 15, 60, GUESS),
    ] = 30.0
    group_members_max: Annotated[
        float,
        Parameter(help="members of the largest group"),
        About("people", 3, 5_000, 1_000, 5_000, "conversations.group_members_max of the engine"),
    ] = 5_000.0
    conversations_per_user: Annotated[
        float,
        Parameter(help="conversations that a person is in"),
        About("conversations", 1, 10_000, 20, 150, GUESS),
    ] = 60.0
    payload_bytes: Annotated[
        float,
        Parameter(help="mean payload of a message; media go by reference"),
        About("bytes", 1, 65_536, 100, 500, "text of public chat archives has a mean of 109 to 130 bytes; encrypted"),
    ] = 200.0
    session_minutes: Annotated[
        float,
        Parameter(help="mean life of a connection; a device that comes again says hello and resumes"),
        About("minutes", 0.5, 1_440, 5, 60, GUESS),
    ] = 15.0
    ping_interval_s: Annotated[
        float,
        Parameter(help="silence after which a session is pinged"),
        About("s", 1, 3_600, 20, 60, "gateway.ping_interval_s of the engine"),
    ] = 30.0
    reconnect_spread_s: Annotated[
        float,
        Parameter(help="time over which clients that have lost their server come back"),
        About("s", 1, 3_600, 10, 120, "clients back off at random; a choice of who writes them"),
    ] = 60.0
    retention_days: Annotated[
        float,
        Parameter(help="days that the log is kept on the nodes"),
        About("days", 1, 3_650, 7, 90, "log.keep_days; a choice"),
    ] = 30.0
    p99_ms: Annotated[
        float,
        Parameter(
            help="objective: from the gateway having a publish to the last byte of its delivery having been sent"
        ),
        About("ms", 1, 10_000, 20, 100, "the objective of gonets bench capacity"),
    ] = 50.0
    utilisation_max: Annotated[
        float,
        Parameter(help="share of its time that a core may be busy at the peak while a zone is lost"),
        About("share", 0.1, 0.95, 0.5, 0.8, "a choice: what is left is for what nobody foresaw"),
    ] = 0.7
    zones: Annotated[
        float,
        Parameter(help="zones of which one may be lost at the peak; 1: none may"),
        About("zones", 1, 16, 2, 4, "a choice"),
    ] = 3.0
    zone_round_trip_ms: Annotated[
        float,
        Parameter(help="round trip between nodes of different zones"),
        About("ms", 0.2, 100, 0.5, 3, "data centres of one region"),
    ] = 1.0
    shards_min: Annotated[
        float,
        Parameter(help="least shards: a loss stops publishing to its shards until others lead them"),
        About("shards", 1, 4_096, 1, 12, "a choice: one a zone"),
    ] = 3.0
    node_cores: Annotated[
        float,
        Parameter(help="cores of a node"),
        About("cores", 2, 1_024, 16, 64, HARDWARE),
    ] = 32.0
    node_memory_gib: Annotated[
        float,
        Parameter(help="memory of a node"),
        About("GiB", 1, 65_536, 64, 256, HARDWARE),
    ] = 128.0
    node_network_gbit_per_s: Annotated[
        float,
        Parameter(help="network of a node, each way"),
        About("Gbit/s", 0.1, 1_600, 10, 50, HARDWARE),
    ] = 25.0
    core_speed: Annotated[
        float,
        Parameter(help="a core that is bought over a core that was measured"),
        About("ratio", 0.1, 10, 0.7, 1.5, "1: the same"),
    ] = 1.0
    scaling_share: Annotated[
        float,
        Parameter(help="what a core still does when all cores of its node work, over what it does alone"),
        About("share", 0.1, 1, 0.5, 0.9, "memory, caches and interrupts are shared; not measured on two cores"),
    ] = 0.7
    sync_variation: Annotated[
        float,
        Parameter(help="standard deviation over mean of the time that a sync takes"),
        About("ratio", 0.01, 4, 0.3, 2, "append benchmarks report means only; 1 is as wild as exponential"),
    ] = 1.0
    memory_free_share: Annotated[
        float,
        Parameter(help="share of a node's memory that is left to the kernel's page cache and to peaks"),
        About("share", 0, 0.9, 0.2, 0.5, "a choice: the newest blocks are read from the cache"),
    ] = 0.35
    disk_free_share: Annotated[
        float,
        Parameter(help="share of a disk that stays free"),
        About("share", 0, 0.9, 0.1, 0.4, "a choice"),
    ] = 0.2
    worker_sessions_max: Annotated[
        float,
        Parameter(help="sessions that one worker process may hold"),
        About("sessions", 1, 4e6, 100e3, 500e3, "gateway.sessions_max, above its default of 100,000"),
    ] = 250_000.0
    worker_interest_max: Annotated[
        float,
        Parameter(help="pairs of a session and a conversation that one worker process may hold"),
        About("pairs", 1, 1e9, 10e6, 40e6, "fanout.interest_entries_max, above its default of 10 million"),
    ] = 20e6

    def checked(self) -> Self:
        """The same; AssumptionError if a value is out of its bounds."""
        for field in fields(self):
            self._check(field.name)
        for name in WHOLE:
            if getattr(self, name) != int(getattr(self, name)):
                raise AssumptionError(f"--{dashed(name)} {getattr(self, name):g}: a whole number is needed")
        if self.group_members_mean > self.group_members_max:
            raise AssumptionError(
                f"--group-members-mean {self.group_members_mean:g} is more than --group-members-max"
                f" {self.group_members_max:g}: lower the one, or raise the other"
            )
        return self

    def _check(self, name: str) -> None:
        value, about = getattr(self, name), table()[name].about
        if not math.isfinite(value) or not about.least <= value <= about.most:
            raise AssumptionError(
                f"--{dashed(name)} {value:g}: it is counted in {about.unit} and lies between {about.least:g} and"
                f" {about.most:g}: choose within"
            )


WHOLE = ("zones", "shards_min", "node_cores")


class Row(NamedTuple):
    """An assumption as it is shown."""

    name: str
    meaning: str
    about: About


@cache
def table() -> dict[str, Row]:
    """All assumptions by name."""
    hints = get_type_hints(Assumptions, include_extras=True)
    rows = {}
    for field in fields(Assumptions):
        parameter: Any
        parameter, about = hints[field.name].__metadata__
        rows[field.name] = Row(field.name, parameter.help, about)
    return rows


def dashed(name: str) -> str:
    """The name of an option."""
    return name.replace("_", "-")


def moved(base: Assumptions, name: str, value: float) -> Assumptions:
    """The same with one of them at another value, held within its bounds and those of the others."""
    about = table()[name].about
    value = min(max(value, about.least), about.most)
    if name == "group_members_mean":
        value = min(value, base.group_members_max)
    if name == "group_members_max":
        value = max(value, base.group_members_mean)
    changed: Any = {name: value}
    return replace(base, **changed).checked()

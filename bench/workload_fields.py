"""The parts of a workload: frozen structs, one for each table of its TOML file, each field with its limits.

Filled by workload.py. Times are seconds and sizes bytes; `at_s` 0 is where the measured window begins. A part knows
what its own fields mean for each other (`wrong`); what they mean for other parts is said in workload.py.

A user has one session. Of a dialog both people write, of a group everybody, of a channel only its owner; an event goes
to every member, the writer too. Members are drawn from the sessions of the workload, so everybody is connected.

Invariant: the same struct and seed give the same draws everywhere.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

PAYLOAD_BYTES_MIN: Final = 32  # what the generator stamps on a payload, to know it again
PAYLOAD_BYTES_MAX: Final = 65_536  # fixed by the record format
SESSIONS_MAX: Final = 10_000_000
RATE_PER_S_MAX: Final = 10_000_000.0
IN_FLIGHT_MAX: Final = 64  # publishes that a device may have unanswered, fixed by the protocol
DIALOG_MEMBERS: Final = 2

Wrong = tuple[str, object, str]  # field, value, what it must be
Seconds = Annotated[float, Meta(ge=0, le=604_800)]
Share = Annotated[float, Meta(ge=0, le=1)]
Rate = Annotated[float, Meta(ge=0, le=RATE_PER_S_MAX)]
Members_ = Annotated[int, Meta(ge=2, le=SESSIONS_MAX)]
Bytes = Annotated[int, Meta(ge=PAYLOAD_BYTES_MIN, le=PAYLOAD_BYTES_MAX)]
Weight = Annotated[float, Meta(gt=0, le=1e12)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e10)]


class Phases(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[run]`: how long each part of a run takes."""

    warmup_s: Seconds = 3.0
    window_s: Annotated[float, Meta(gt=0, le=604_800)] = 20.0
    drain_s: Seconds = 10.0  # at most; it ends when everything has arrived
    deadline_s: Annotated[float, Meta(gt=0, le=1_209_600)] = 300.0  # for all of it, connecting included

    def wrong(self) -> Iterator[Wrong]:
        """The deadline holds all phases."""
        least = self.warmup_s + self.window_s + self.drain_s
        if self.deadline_s < least:
            yield "deadline_s", self.deadline_s, f"at least warmup_s + window_s + drain_s = {least:g}"


class Sessions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[sessions]`: who is connected."""

    count: Annotated[int, Meta(ge=1, le=SESSIONS_MAX)] = 1_000
    conversations: Annotated[int, Meta(ge=0, le=10_000)] = 0  # of each, in which nobody of the streams writes
    ping_interval_s: Seconds = 30.0  # 0: no pings
    connects_per_s: Rate = 0.0  # 0: as fast as the server takes them
    slow_share: Share = 0.0  # of the sessions read slowly
    slow_bytes_per_s: Annotated[int, Meta(ge=1, le=1 << 30)] = 1_024
    idle: bool = False  # nobody writes: memory, pings, and one broadcast to all in the end


class Fixed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All payloads of one size."""

    fixed: Bytes


class Members(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many members the conversations of a stream have: all the same, or a Zipf law between two bounds."""

    fixed: Members_ | None = None
    zipf_exponent: Annotated[float, Meta(gt=0, le=10)] | None = None
    min: Members_ | None = None
    max: Members_ | None = None

    def wrong(self) -> Iterator[Wrong]:
        """One of the two forms, whole."""
        law = (self.zipf_exponent, self.min, self.max)
        given = [value for value in law if value is not None]
        if (self.fixed is None) == (not given) or len(given) not in (0, len(law)):
            yield "members", describe(self), "{ fixed = N } or { zipf_exponent = S, min = N, max = M }"
        elif self.min is not None and self.max is not None and self.min >= self.max:
            yield "members.max", self.max, f"more than members.min = {self.min}"

    def largest(self) -> int:
        """The most members that a conversation may have."""
        return self.fixed or self.max or DIALOG_MEMBERS

    def counts(self, conversations: int, seed: int) -> list[int]:
        """Members of each conversation: the law's own shares, in an order drawn from the seed.

        Quantiles at even distances instead of draws: two seeds differ in who is large, not in how large the largest is.
        """
        if self.zipf_exponent is None or self.min is None or self.max is None:
            return [self.largest()] * conversations
        weights = (size**-self.zipf_exponent for size in range(self.min, self.max + 1))
        sums = list(itertools.accumulate(weights))
        places = ((number + 0.5) / conversations * sums[-1] for number in range(conversations))
        counts = [self.min + min(bisect.bisect_left(sums, place), self.max - self.min) for place in places]
        random.Random(f"members/{seed}").shuffle(counts)
        return counts

    def within(self, sessions: int) -> Members:
        """The same with no more members than sessions."""
        most = max(sessions, DIALOG_MEMBERS)
        if self.fixed is not None:
            return Members(fixed=min(self.fixed, most))
        least = min(self.min or DIALOG_MEMBERS, most)
        if least == most:
            return Members(fixed=most)
        return Members(zipf_exponent=self.zipf_exponent, min=least, max=min(self.max or most, most))


class Stream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[streams]]`: conversations of one kind, and how they are written in."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    shape: Literal["dialog", "group", "channel"]
    conversations: Annotated[int, Meta(ge=1, le=SESSIONS_MAX)]
    members: Members = Members(fixed=DIALOG_MEMBERS)
    rate_per_s: Rate = 0.0  # publishes of the whole stream; 0: a closed loop, the next when the last is answered
    in_flight: Annotated[int, Meta(ge=1, le=IN_FLIGHT_MAX)] = IN_FLIGHT_MAX  # of a device; what is due beyond it waits
    per_send: Annotated[int, Meta(ge=1, le=IN_FLIGHT_MAX)] = 1  # publishes that leave in one send
    arrivals: Literal["poisson", "even", "pauses"] = "poisson"
    sizes_bytes: Fixed | tuple[tuple[Bytes, Weight], ...] = Fixed(fixed=128)
    pauses_ms: tuple[tuple[Share, Milliseconds], ...] = ()  # quantiles of the pauses within a conversation
    profile: tuple[tuple[Seconds, Annotated[float, Meta(ge=0, le=1_000)]], ...] = ()  # (at_s, factor of rate_per_s)

    def wrong(self) -> Iterator[Wrong]:
        """What one field means for another."""
        yield from self.members.wrong()
        if self.shape == "dialog" and self.members != Members(fixed=DIALOG_MEMBERS):
            yield "members", describe(self.members), "left out: a dialog has two people"
        if self.per_send > self.in_flight:
            yield "per_send", self.per_send, f"at most in_flight = {self.in_flight}"
        if self.sizes_bytes == ():
            yield "sizes_bytes", "[]", "[[size, weight], …] or { fixed = SIZE }"
        yield from self._pauses_wrong()
        yield from self._profile_wrong()

    def _pauses_wrong(self) -> Iterator[Wrong]:
        if (self.arrivals == "pauses") != bool(self.pauses_ms):
            yield "pauses_ms", f"{len(self.pauses_ms)} rows", 'given where arrivals = "pauses", and only there'
        if not self.pauses_ms:
            return
        quantiles = [quantile for quantile, _ in self.pauses_ms]
        values = [ms for _, ms in self.pauses_ms]
        if quantiles[0] != 0 or quantiles[-1] != 1 or any(a >= b for a, b in itertools.pairwise(quantiles)):
            yield "pauses_ms", quantiles, "quantiles that ascend from 0 to 1"
        if values[-1] == 0 or any(a > b for a, b in itertools.pairwise(values)):
            yield "pauses_ms", values, "milliseconds that never fall, the last above 0"
        if self.rate_per_s == 0:
            yield "rate_per_s", 0, 'more than 0 where arrivals = "pauses": a closed loop knows no pauses'

    def _profile_wrong(self) -> Iterator[Wrong]:
        times = [at_s for at_s, _ in self.profile]
        if any(a >= b for a, b in itertools.pairwise(times)):
            yield "profile", times, "times that ascend"
        if self.profile and not any(factor for _, factor in self.profile):
            yield "profile", [factor for _, factor in self.profile], "at least one factor above 0"
        if self.profile and self.rate_per_s == 0:
            yield "rate_per_s", 0, "more than 0 where there is a profile: it multiplies the rate"

    def factor_at(self, at_s: float) -> float:
        """What multiplies the rate at a moment: linear between the points, level before the first, behind the last."""
        if not self.profile:
            return 1.0
        place = bisect.bisect_right(self.profile, at_s, key=lambda point: point[0])
        if place == 0 or place == len(self.profile):
            return self.profile[max(place - 1, 0)][1]
        (t0, f0), (t1, f1) = self.profile[place - 1 : place + 1]
        return f0 + (f1 - f0) * (at_s - t0) / (t1 - t0)

    def factor_mean(self, window_s: float) -> float:
        """Mean of `factor_at` over the window: rate_per_s times this is what is offered in it."""
        corners = [0.0, *(at_s for at_s, _ in self.profile if 0 < at_s < window_s), window_s]
        areas = ((b - a) * (self.factor_at(a) + self.factor_at(b)) / 2 for a, b in itertools.pairwise(corners))
        return sum(areas) / window_s

    def sizes(self) -> tuple[tuple[int, float], ...]:
        """(size, weight) of the payloads, also where they are all of one size."""
        return ((self.sizes_bytes.fixed, 1.0),) if isinstance(self.sizes_bytes, Fixed) else self.sizes_bytes

    def size_mean_bytes(self) -> float:
        """Mean size of a payload."""
        return sum(size * weight for size, weight in self.sizes()) / sum(weight for _, weight in self.sizes())

    def pause_mean_ms(self) -> float:
        """Mean of the pauses, linear between the quantiles; a run multiplies all of them so that its rate comes out."""
        pairs = itertools.pairwise(self.pauses_ms)
        return sum((q1 - q0) * (ms0 + ms1) / 2 for (q0, ms0), (q1, ms1) in pairs)


class Storm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[storm]`: at one moment so many sessions drop their connections, and resume from their positions."""

    at_s: Seconds
    share: Annotated[float, Meta(gt=0, le=1)]
    away_s: Seconds = 0.0


class Records(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[records]`: of the kinds without sockets, append and read."""

    count: Annotated[int, Meta(ge=1_000, le=1_000_000_000)] = 1_000_000
    payload_bytes: Annotated[int, Meta(ge=1, le=PAYLOAD_BYTES_MAX)] = 200
    per_commit: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    conversations: Annotated[int, Meta(ge=1, le=SESSIONS_MAX)] = 100_000


def describe(members: Members) -> str:
    """As it would stand in the file."""
    given = [f"{name} = {value}" for name in members.__struct_fields__ if (value := getattr(members, name)) is not None]
    return "{ " + ", ".join(given) + " }"

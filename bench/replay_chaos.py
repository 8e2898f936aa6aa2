"""What goes wrong in a replay with --chaos: sessions cut in three ways, and the server killed with writes under way.

Used by replay.py beside the driver. Everything is due at a number of receipts, fixed by the seed before the clock
starts, so that it hits the middle of the traffic whatever the speed: a quarter of each wave's sessions is cut (reset,
left half-open, or in the middle of a frame), and the server is killed (SIGKILL) and started again five times over
the whole replay, each time at a moment when publishes are unanswered. With workers twice as many kills, which hit in
turn the sequencer, a worker, and the supervisor; the supervisor restarts the first two by itself.

Invariants: a kill counts only if writes were in flight; a cut only if the session was live.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from bench.replay_drive import Driver
from bench.replay_plan import Device
from bench.replay_server import OwnServer

KILLS = 5
CUT_PART = 0.25
CUTS = ("reset", "half_open", "half_frame")


class Chaos:
    """Made once for a replay; begin() for each wave."""

    def __init__(self, driver: Driver, server: OwnServer, writes: int, seed: int, workers: int = 0) -> None:
        self._driver, self._server = driver, server
        self._random = random.Random(f"chaos {seed}")
        kills = 2 * KILLS if workers else KILLS
        self._kills_due = [writes * (number + 1) // (kills + 1) for number in range(kills)]
        self._workers = workers
        self.killed: Counter[str] = Counter()
        self._cuts_due: list[tuple[int, Device]] = []
        self.kills = 0
        self.killed_in_flight: list[int] = []
        self.cuts: Counter[str] = Counter()
        self.cut_devices: set[Device] = set()

    def begin(self, devices: Sequence[Device], writes: int) -> None:
        """Chooses who is cut in this wave, and when."""
        count = min(len(devices), int(len(devices) * CUT_PART) + 1)
        first = self._driver.receipts
        self._cuts_due = sorted(
            (
                (first + self._random.randrange(writes * 9 // 10 + 1), device)
                for device in self._random.sample(list(devices), count)
            ),
            key=lambda due: due[0],
            reverse=True,
        )

    def strike(self, all_due: bool = False) -> None:
        """Does what is due: after each turn, and once with `all_due` when a wave has its last receipt."""
        later: list[tuple[int, Device]] = []
        while self._cuts_due and (all_due or self._cuts_due[-1][0] <= self._driver.receipts):
            at, device = self._cuts_due.pop()
            if device.state == "live":
                how = CUTS[sum(self.cuts.values()) % len(CUTS)]
                self._driver.cut(device, how)
                self.cuts[how] += 1
                self.cut_devices.add(device)
            else:
                later.append((at, device))
        self._cuts_due += later
        if self._kills_due and self._kills_due[0] <= self._driver.receipts and self._driver.in_flight:
            self._kill()

    def _kill(self) -> None:
        victim = "server"
        if self._workers:
            victim = ("sequencer", f"worker {1 + self.kills % self._workers}", "server")[self.kills % 3]
        if victim == "server":
            self._server.kill()
        elif not self._server.kill_child(victim):
            return  # it is being started: the next turn
        self._kills_due.pop(0)
        self.kills += 1
        self.killed[victim.split()[0]] += 1
        self.killed_in_flight.append(self._driver.in_flight)
        if victim == "server":
            self._server.start(wait=False)

    @property
    def cutting(self) -> bool:
        """Whether sessions of this wave are still to be cut."""
        return bool(self._cuts_due)

    def summary(self) -> dict[str, object]:
        """The counts for the report."""
        return {
            "sessions": len(self._driver.devices),
            "sessions_cut": len(self.cut_devices),
            "cuts": dict(self.cuts),
            "kills": self.kills,
            "killed": dict(self.killed),
            "in_flight_at_kills": self.killed_in_flight,
        }

"""What operators see of subscriptions: one flat reading, made once a second on the loop of the api part.

Read by part.py's surroundings for /metrics. Of subscriptions one by one only the NAMED_MAX that lag most are shown, by
their names (gateway/metrics.py says why); counters are of all of them together.

Invariants: a reading is replaced whole, so that any thread may read it; a counter never falls while the process lives.
Cost: a standing for each subscription a second.
"""

from __future__ import annotations

from engine import Publishing, Standing, Subscriptions
from gateway.api.presence import Presence
from gateway.metrics import NAMED_MAX, labelled


class Figures:
    """The last reading."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.untold_acts = 0
        """What operators did and the log doesn't say yet; whoever tells it sets it."""

    async def count(self, subscriptions: Subscriptions, publishing: Publishing, presence: Presence) -> None:
        """Makes the next one."""
        standings, told = await subscriptions.subscriptions(), subscriptions.stats()
        values: dict[str, float] = {
            "subscriptions": len(standings),
            "subscription_deliveries": told["subscriptions_deliveries"],
            "subscription_doubles": told["subscriptions_doubles"],
            "subscription_lost_events": told["subscriptions_lost_events"],
            "subscription_damaged_events": told["feed_damaged_events"],
            "subscription_commit_failures": told["subscriptions_commit_failures"],
            "subscription_read_bytes": told["feed_read_bytes"],
            "service_publishes": publishing.taken,
            "service_refused_publishes": publishing.refused,
            "presence_questions": presence.questions,
            "untold_acts": self.untold_acts,
        }
        for standing in shown(standings):
            name = standing.definition.name
            for key, value in (
                ("subscription_lag_events", standing.lag_events),
                ("subscription_oldest_unacked_seconds", standing.oldest_unacked_s),
                ("subscription_in_flight_events", standing.in_flight),
                ("subscription_parked_events", standing.parked),
                ("subscription_consumers", len(standing.consumers)),
            ):
                values[labelled(key, name)] = value
        self.values = values


def shown(standings: list[Standing]) -> list[Standing]:
    """Those that have series of their own."""
    if len(standings) <= NAMED_MAX:
        return standings
    return sorted(standings, key=lambda one: (-one.lag_events, one.definition.name))[:NAMED_MAX]

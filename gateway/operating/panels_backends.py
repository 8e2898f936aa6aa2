"""The row of the dashboard for backends: subscriptions, one by one where they lag most, and what services publish.

Put behind the other rows by panels.py, whose invariants hold here too. A line for each subscription is named by the
label of its series.
"""

from __future__ import annotations

from typing import Final

from engine import limits
from gateway.operating.panel import BAD_ABOVE_0, RATE, Line, Panel, rates

BY_NAME: Final = "{{subscription}}"

BACKENDS: Final = (
    Panel(
        "Events behind",
        "short",
        (Line(BY_NAME, "gonets_subscription_lag_events"), Line("subscriptions", "gonets_subscriptions")),
        "From each subscription's cursor to the end of the log, wanted events or not; of the hundred that lag most."
        " Climbing: its consumers are too few, or gone.",
    ),
    Panel(
        "Oldest event without an ack",
        "s",
        (Line(BY_NAME, "gonets_subscription_oldest_unacked_seconds"),),
        "A consumer has had it for so long. Beyond its ack_timeout_s it is handed out again.",
        (("900", "red"),),
    ),
    Panel(
        "Parked events",
        "short",
        (Line(BY_NAME, "gonets_subscription_parked_events"),),
        "`gonets subscriptions parked NAME` shows them; replayed or dropped by their team.",
    ),
    Panel(
        "Events handed to consumers",
        "cps",
        rates(handed_out="subscription_deliveries", again="subscription_doubles"),
        "What is handed out again was not acked in time, or its consumer had died.",
    ),
    Panel(
        "In flight",
        "short",
        (
            Line(f"{BY_NAME} events", "gonets_subscription_in_flight_events"),
            Line(f"{BY_NAME} consumers", "gonets_subscription_consumers"),
        ),
        "At in_flight_max of its settings a subscription is handed nothing more until something is acked.",
    ),
    Panel(
        "Log read for backends",
        "Bps",
        rates(read="subscription_read_bytes", committed="log_bytes"),
        "All subscriptions share what is read: near the tail as much as is committed, more while some catch up.",
    ),
    Panel(
        "Trouble with subscriptions",
        "short",
        (
            Line("lost events", "gonets_subscription_lost_events"),
            Line("damaged events", f"increase(gonets_subscription_damaged_events_total{RATE})"),
            Line("failed commits", f"increase(gonets_subscription_commit_failures_total{RATE})"),
            Line("untold acts", "gonets_untold_acts"),
        ),
        "0. Lost: to be delivered again, but trimmed. Damaged: passed over. Failed commits: the disk; acks wait."
        " Untold: what operators did and no event says yet.",
        BAD_ABOVE_0,
    ),
    Panel(
        "Keys of publishes",
        "short",
        (Line("kept", "gonets_service_keys"),),
        "Remembered for 24 hours, so that a repeat is none."
        f" At {limits.SERVICE_KEYS_MAX:,} publishes with new keys are `overloaded` until the oldest go.",
        ((str(limits.SERVICE_KEYS_MAX * 9 // 10), "red"),),
    ),
    Panel(
        "Publishes of backends",
        "cps",
        rates(in_the_log="service_publishes", refused="service_refused_publishes", presence="presence_questions"),
        "Refused: by admission, or because too much waited. Presence: questions about who is connected, for pushes.",
    ),
)

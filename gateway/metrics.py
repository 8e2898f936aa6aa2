"""Every metric of the process in one table, and the collector that reads them at scrape time.

Served by admin.py. Nothing is counted in Python per event: native counters, the engine and a few per-batch integers
are read when somebody asks. `read` gives one flat mapping from the table's keys to numbers; a key that is missing
there (a part that isn't running) leaves its metric out rather than showing a lie.

Invariants: names end in their unit; counters end in _total; no label carries a user, a conversation or a token. The
one label there is names a subscription, of at most NAMED_MAX: those that lag most, so that a node with ten thousand of
them has no more series. Such a value stands under `labelled(key, name)`.
Cost: one pass over the table a scrape.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

NAMED_MAX: Final = 100
_BETWEEN: Final = "|"  # in no name


class MetricRow(NamedTuple):
    """One metric: `key` is where `read` finds it; `unit` is also the last word of the name (before _total). With
    `label` there are several, each by its name."""

    key: str
    name: str
    unit: str
    kind: Literal["counter", "gauge"]
    help: str
    across: Literal["sum", "max", "min"] = "sum"  # of the processes of a node that has several
    label: str = ""


def _c(key: str, unit: str, help: str) -> MetricRow:
    return MetricRow(key, f"gonets_{key}_total", unit, "counter", help)


def _g(key: str, unit: str, help: str, across: Literal["sum", "max", "min"] = "sum") -> MetricRow:
    return MetricRow(key, f"gonets_{key}", unit, "gauge", help, across)


def _by_name(key: str, unit: str, help: str) -> MetricRow:
    return MetricRow(key, f"gonets_{key}", unit, "gauge", help, "max", "subscription")


def labelled(key: str, name: str) -> str:
    """Where a reading has the value of one subscription."""
    return f"{key}{_BETWEEN}{name}"


def key_of(reading: str) -> str:
    """The key of the table that a key of a reading belongs to."""
    return reading.partition(_BETWEEN)[0]


TABLE: tuple[MetricRow, ...] = (
    _g("ready", "boolean", "1 while /readyz answers 200; it says why it doesn't.", "min"),
    _g("sessions", "sessions", "Open sockets, whatever their state."),
    _g("room_sessions", "sessions", "Sessions that fit: gateway.sessions_max, as far as descriptors reach."),
    _g("live_sessions", "sessions", "Sessions after hello, live or reading the log."),
    _g("reader_sessions", "sessions", "Sessions that read the log: resuming, or too slow for the ring."),
    _c("accepted_sessions", "sessions", "Handshakes completed."),
    _c("refused_sessions", "sessions", "Handshakes refused (no such path, no subprotocol, too many, not HTTP)."),
    _g("doorway_connections", "connections", "Connections that have not said hello."),
    _c("put_out_connections", "connections", "Connections without a word, put out for later ones."),
    _c("address_limited_connections", "connections", "Connections over the rate or number of their address."),
    _c("untrusted_connections", "connections", "Connections that came past the proxies of admission.proxy_from."),
    _c("bad_proxy_headers", "headers", "Connections whose PROXY header was none."),
    _g(
        "load_level", "level", "What is shed: 1 typing, 2 presence, 3 questions, 4 new connections, 5 publishes.", "max"
    ),
    _g(
        "load_pressure_ratio",
        "ratio",
        "The longest wait by what it may be; levels begin at 0.15, 0.2, 0.3, 0.4, 0.5.",
        "max",
    ),
    _c("shed_typing_signals", "signals", "Typing dropped under load."),
    _c("shed_presence_signals", "signals", "Presence dropped under load."),
    _c("shed_question_commands", "commands", "history, conversations and members refused under load."),
    _c("shed_connections", "connections", "Handshakes refused under load."),
    _c("shed_publishes", "publishes", "Publishes refused under load before the engine saw them."),
    _c("closed_sessions", "sessions", "Sessions ended, by either side."),
    _c("hellos", "hellos", "Hellos answered by welcome."),
    _c("refused_hellos", "hellos", "Hellos refused: token, protocol version, too many devices."),
    _c("received_bytes", "bytes", "Bytes read from sessions."),
    _c("sent_bytes", "bytes", "Bytes written to sessions."),
    _c("received_messages", "messages", "Messages read from sessions."),
    _c("publishes", "publishes", "Proposals handed to the sequencer."),
    _c("answers", "answers", "Answers of the sequencer turned into receipts."),
    _c("overloaded_publishes", "publishes", "Proposals answered `overloaded` because the intake was full."),
    _c("cold_commands", "commands", "Commands handled in Python."),
    _c("refused_commands", "commands", "Commands answered by an error."),
    _c("events_routed", "events", "Committed events handed to the router."),
    _c("deliveries", "events", "Events written to sessions, live and from the log."),
    _c("sends", "calls", "send() calls for sessions."),
    _c("blocked_sends", "calls", "send() calls that the kernel took only in part; the session became a reader."),
    _c("ring_evictions", "sessions", "Sessions whose place in the ring was lost to newer frames."),
    _c("resumes", "resumes", "Catch-ups begun, by resume or slowness."),
    _c("gaps", "gaps", "Gap pushes sent instead of a complete resume."),
    _c("signals_shed", "signals", "Signals dropped because a receiver was busy."),
    _c("cursor_moves", "cursors", "Delivered and read marks taken."),
    _c("rate_limited_commands", "commands", "Commands over a session's rate."),
    _c("loop_rounds", "rounds", "Rounds of the poller."),
    _g("loop_slice_max_seconds", "seconds", "Longest slice on the loop in the last 30 to 60 s.", "max"),
    _g("ring_bytes", "bytes", "Memory of the ring of frames."),
    _g("interest_entries", "entries", "Pairs of conversation and session in the interest table."),
    _g("interest_bytes", "bytes", "Memory of the interest table."),
    _g("session_buffers_bytes", "bytes", "Of it, buffers: at most gateway.buffers_bytes_max."),
    _c("overfull_sessions", "sessions", "Sessions ended for the memory that their buffers held."),
    _g("session_bytes", "bytes", "Memory of the session table with its buffers."),
    _g("log_sequence", "events", "Last sequence of the log.", "max"),
    _g("damage_places", "places", "Damaged places of the log that were met; `gonets log check` names all.", "max"),
    _c("damage_reads", "reads", "Reads that met damage; the rest was served."),
    _g("delivered_sequence", "events", "Last sequence handed to live sessions.", "min"),
    _g("state_saved_sequence", "events", "Last sequence of the saved state.", "max"),
    _c("log_commits", "commits", "Blocks committed and synced."),
    _c("log_bytes", "bytes", "Bytes of committed blocks."),
    _c("log_sync_seconds", "seconds", "Time that writing and syncing blocks took."),
    _c("log_slow_commits", "commits", "Of the commits, those that took more than 50 ms."),
    _g(
        "backup_age_seconds",
        "seconds",
        "Time since `gonets log backup --hold` last ended; of several, the oldest.",
        "max",
    ),
    _g(
        "data_free_bytes", "bytes", "Bytes that the file system of the data directory has left for this process.", "min"
    ),
    _g("disk_short", "boolean", "1 while publishes are refused because less than log.free_bytes_min is free.", "max"),
    _c("retention_removed_bytes", "bytes", "Log trimmed by log.keep_bytes and log.keep_days."),
    _g("retention_held_segments", "segments", "Segments that should be trimmed and are held, see the log for by whom."),
    _c("retention_failures", "runs", "Runs of retention that failed; see the log."),
    _g("writer_fenced", "boolean", "1 if the writer has stopped after a failure; see the log and /readyz.", "max"),
    _g(
        "saver_failed",
        "boolean",
        "1 while the state can't be saved; far behind, publishes are refused. See the log.",
        "max",
    ),
    _g("token_keys", "keys", "Public keys that tokens are checked with.", "min"),
    _c("token_key_reload_failures", "failures", "Times that the keys could not be read or fetched; the old ones stay."),
    _g("token_keys_age_seconds", "seconds", "Time since the issuer's URL last confirmed the keys.", "max"),
    _g("revoked_entries", "entries", "Tokens, users and devices that are revoked.", "min"),
    _g("revoked_age_seconds", "seconds", "Time since the URL of revocations last confirmed them.", "max"),
    _c(
        "revoked_reload_failures", "failures", "Times that revocations could not be read or fetched; the old ones stay."
    ),
    _c("revoked_sessions", "sessions", "Sessions ended because their token was revoked."),
    _c("tls_handshakes", "handshakes", "TLS handshakes completed."),
    _c("tls_failures", "failures", "TLS connections broken off: no TLS, no common version, a bad record."),
    _g("tls_certificate_left_seconds", "seconds", "Time until the certificate of the clients' port expires.", "min"),
    _c("tls_certificate_reload_failures", "failures", "Times that a changed certificate could not be used."),
    _g("unanswered_publishes", "publishes", "Proposals that the sequencer has not answered yet."),
    _g("link_waiting_bytes", "bytes", "What workers have for the sequencer's process, and it has not taken."),
    _g("subscriptions", "subscriptions", "Durable subscriptions of backends, paused ones too."),
    _by_name("subscription_lag_events", "events", "Events of the log behind the cursor, wanted or not."),
    _by_name(
        "subscription_oldest_unacked_seconds", "seconds", "Age of the first event that was delivered and not acked."
    ),
    _by_name("subscription_in_flight_events", "events", "Events delivered and not acked."),
    _by_name("subscription_parked_events", "events", "Events put aside for people to look at."),
    _by_name("subscription_consumers", "consumers", "Consumers that have joined."),
    _c("subscription_deliveries", "events", "Events handed to consumers, again or for the first time."),
    _c("subscription_doubles", "events", "Of them, those that had been handed out before."),
    _g("subscription_lost_events", "events", "Events that were to be delivered again and had been trimmed before."),
    _c(
        "subscription_damaged_events", "events", "Damaged events that subscriptions passed over, each time it was read."
    ),
    _c("subscription_commit_failures", "failures", "Times that acks and cursors could not be written; tried again."),
    _c("subscription_read_bytes", "bytes", "Log read for subscriptions, once for all of them."),
    _c("service_publishes", "publishes", "Publishes of backends that are in the log, repeats too."),
    _g("service_keys", "keys", "Keys of backends' publishes that are remembered: of the last 24 hours.", "max"),
    _c("service_refused_publishes", "publishes", "Publishes of backends that were refused, in the engine or before."),
    _c("presence_questions", "questions", "Questions to the gateway about who is connected."),
    _g("untold_acts", "acts", "What operators did and the log does not say yet (admin.*): tried again each second."),
    _g("processes", "processes", "Processes of this node: 1, or supervisor, sequencer and workers."),
    _c("restarted_processes", "processes", "Processes that ended by themselves and were started anew."),
    _g("resident_memory_bytes", "bytes", "Resident memory of the process, mapped pages of the log's files among it."),
    _g(
        "anonymous_memory_bytes", "bytes", "Of it, what the sum of `gonets config memory` bounds: all but mapped files."
    ),
    _c("cpu_seconds", "seconds", "Processor time of the process."),
    _g("start_time_seconds", "seconds", "UNIX time at which the process started.", "min"),
)

_STARTED_S = time.time()


def process_values() -> dict[str, float]:
    """What the process knows about itself."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", "rb") as file:
        _, resident_pages, shared_pages, *_ = map(int, file.read().split())
    page_bytes = resource.getpagesize()
    return {
        "resident_memory_bytes": resident_pages * page_bytes,
        "anonymous_memory_bytes": (resident_pages - shared_pages) * page_bytes,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "start_time_seconds": _STARTED_S,
    }


class Collector:
    """Turns one reading (with `process_values` in it) into the metric families of the table."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client for each scrape."""
        values = self._read()
        by_name: dict[str, list[tuple[str, float]]] = {}
        for reading, value in values.items():
            key, between, name = reading.partition(_BETWEEN)
            if between:
                by_name.setdefault(key, []).append((name, value))
        for row in TABLE:
            if row.label:
                if row.key in by_name:
                    family = GaugeMetricFamily(row.name, row.help, labels=[row.label])
                    for name, value in by_name[row.key]:
                        family.add_metric([name], value)
                    yield family
                continue
            if row.key not in values:
                continue
            if row.kind == "counter":
                yield CounterMetricFamily(row.name.removesuffix("_total"), row.help, value=values[row.key])
            else:
                yield GaugeMetricFamily(row.name, row.help, value=values[row.key])


def exposition(read: Callable[[], Mapping[str, float]]) -> Callable[[], bytes]:
    """A function that gives the text of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(read))
    return lambda: generate_latest(registry)

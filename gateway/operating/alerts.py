"""Every alert and every recorded ratio, in one table: what is asked of the metrics, for how long, and what it says.

Printed by rules.py; what each alert means and what to do is in OPERATING.md, a section each. `critical` wakes somebody:
people's messages are refused, late or in danger now. `warning` is for the working day: they will be, if nobody acts.

Invariants: an expression gives one series for each node; rates are of counters only; an alert that compares counts asks
for a least number too, or an idle node would call for a single event. Figures of the configuration stand as <name>
(figures.py). Held by tests/gateway/test_operating.py, where each alert fires, and doesn't, in promtool.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

MINUTE, HOUR, DAY = 60, 3_600, 86_400


class Alert(NamedTuple):
    """One rule. `for_s`: how long it must hold; `says` is for whoever is woken, `value` what the expression gives."""

    name: str
    severity: Literal["critical", "warning"]
    for_s: int
    expr: str
    says: str
    value: str = ""


class Recorded(NamedTuple):
    """A series that is kept for months, for trends, and that alerts ask for."""

    name: str
    expr: str


_COUNT = '{{ $value | printf "%.0f" }}'
_SHARE = "{{ $value | humanizePercentage }}"
_BYTES = "{{ $value | humanize1024 }}B"
_TIME = "{{ $value | humanizeDuration }}"

RECORDED: Final = (
    Recorded("instance:gonets_publishes:rate5m", "rate(gonets_publishes_total[5m])"),
    Recorded("instance:gonets_deliveries:rate5m", "rate(gonets_deliveries_total[5m])"),
    Recorded("instance:gonets_log_bytes:rate5m", "rate(gonets_log_bytes_total[5m])"),
    Recorded("instance:gonets_cpu_seconds:rate5m", "rate(gonets_cpu_seconds_total[5m])"),
    Recorded(
        "instance:gonets_commit_seconds:mean5m",
        "rate(gonets_log_sync_seconds_total[5m]) / rate(gonets_log_commits_total[5m])",
    ),
    Recorded(
        "instance:gonets_refused_publishes:ratio_rate5m",
        "(rate(gonets_shed_publishes_total[5m]) + rate(gonets_overloaded_publishes_total[5m]))"
        " / (rate(gonets_publishes_total[5m]) + rate(gonets_shed_publishes_total[5m])"
        " + rate(gonets_overloaded_publishes_total[5m]))",
    ),
)

SERVICE: Final = (
    Alert("GonetsDown", "critical", MINUTE, 'up{job="<job>"} == 0', "the admin address does not answer"),
    Alert("GonetsUnknown", "critical", 5 * MINUTE, 'absent(up{job="<job>"})', "no node of job <job> is being scraped"),
    Alert("GonetsNotReady", "critical", 2 * MINUTE, "gonets_ready == 0", "/readyz says 503: it names why"),
    Alert(
        "GonetsWriterFenced",
        "critical",
        0,
        "gonets_writer_fenced == 1",
        "the writer has stopped after a failed write: every publish is refused until a restart",
    ),
    Alert(
        "GonetsSequencerAway",
        "critical",
        MINUTE,
        "(gonets_ready == 0) unless on (job, instance) gonets_log_sequence",
        "no sequencer: its process can't be started, publishes are refused, reading goes on",
    ),
    Alert(
        "GonetsNoAnswers",
        "critical",
        MINUTE,
        "min_over_time(gonets_unanswered_publishes[2m]) > 0 and increase(gonets_answers_total[2m]) == 0",
        "publishes wait and none has been answered for two minutes: the disk hangs, or the sequencer does",
        f"{_COUNT} wait",
    ),
    Alert(
        "GonetsProcessesDie",
        "warning",
        0,
        "increase(gonets_restarted_processes_total[15m]) >= 3",
        "workers or the sequencer die and are started anew",
        '{{ $value | printf "%.0f" }} in 15 minutes',
    ),
    Alert(
        "GonetsRestarts",
        "critical",
        0,
        "changes(gonets_start_time_seconds[15m]) >= 3",
        "the whole node is started again and again",
        f"{_COUNT} starts in 15 minutes",
    ),
)

STORAGE: Final = (
    Alert(
        "GonetsDiskShort",
        "critical",
        0,
        "gonets_disk_short == 1",
        "publishes are refused: less than log.free_bytes_min (<free_bytes_min> bytes) is free",
    ),
    Alert(
        "GonetsDiskNearLimit",
        "critical",
        5 * MINUTE,
        "gonets_data_free_bytes < <free_bytes_soon>",
        "not two more segments fit above log.free_bytes_min (<free_bytes_min> bytes)",
        f"{_BYTES} are free",
    ),
    Alert(
        "GonetsDiskFillsSoon",
        "warning",
        30 * MINUTE,
        f"predict_linear(gonets_data_free_bytes[6h], {3 * DAY}) < <free_bytes_min>"
        " and delta(gonets_data_free_bytes[6h]) < 0 and gonets_data_free_bytes offset 3h",
        "at the pace of the last six hours log.free_bytes_min is reached within three days",
    ),
    Alert(
        "GonetsSyncSlow",
        "warning",
        10 * MINUTE,
        "increase(gonets_log_slow_commits_total[10m]) / increase(gonets_log_commits_total[10m]) > 0.01"
        " and increase(gonets_log_slow_commits_total[10m]) >= 5",
        "the 99th percentile of a commit is over 50 ms",
        f"{_SHARE} of the commits are slower",
    ),
    Alert(
        "GonetsSaverFailed",
        "critical",
        MINUTE,
        "gonets_saver_failed == 1",
        "the state can't be saved: publishes will be refused, then the writer stops",
    ),
    Alert(
        "GonetsStateBehind",
        "warning",
        5 * MINUTE,
        "gonets_state_saved_sequence < gonets_log_sequence offset 15m"
        " unless changes(gonets_start_time_seconds[20m]) > 0",  # of a restored log, which may be shorter
        "the saved state is more than 15 minutes behind the log: a crash would mean a long replay",
        f"it was saved at {_COUNT}",
    ),
    Alert(
        "GonetsDamage",
        "critical",
        0,
        "gonets_damage_places > 0",
        "damaged places of the log were met by a reader",
        f"{_COUNT} places so far",
    ),
    Alert(
        "GonetsRetentionFails",
        "warning",
        0,
        "increase(gonets_retention_failures_total[1h]) >= 3",
        "the log is not trimmed: runs of retention fail",
        '{{ $value | printf "%.0f" }} failures in an hour',
    ),
    Alert(
        "GonetsRetentionHeld",
        "warning",
        6 * HOUR,
        "gonets_retention_held_segments > 0",
        "segments that should be trimmed are held by a durable reader or for want of a snapshot",
        f"{_COUNT} segments",
    ),
    Alert(
        "GonetsBackupOld",
        "warning",
        0,
        f"gonets_backup_age_seconds > {26 * HOUR}",
        "a backup that trimming waits for has not been made for more than a day",
        _TIME,
    ),
)

DELIVERY: Final = (
    Alert(
        "GonetsTailBehind",
        "critical",
        MINUTE,
        "gonets_delivered_sequence < gonets_log_sequence offset 30s",
        "live sessions get events more than 30 seconds late",
        f"delivered up to {_COUNT}",
    ),
    Alert(
        "GonetsShedding",
        "warning",
        5 * MINUTE,
        "avg_over_time(gonets_load_level[5m]) >= 1",
        "typing, presence or questions are shed: the node is short of processor time or the disk is late",
        "level {{ $value | humanize }} on average",
    ),
    Alert(
        "GonetsOverloaded",
        "critical",
        2 * MINUTE,
        "avg_over_time(gonets_load_level[2m]) >= 4",
        "new connections and publishes are refused for the load",
        "level {{ $value | humanize }} on average",
    ),
    Alert(
        "GonetsPublishesRefused",
        "critical",
        5 * MINUTE,
        "instance:gonets_refused_publishes:ratio_rate5m > 0.05",
        "more than one publish in twenty is refused",
        _SHARE,
    ),
    Alert(
        "GonetsNearCapacity",
        "warning",
        30 * MINUTE,
        "quantile_over_time(0.95, gonets_load_pressure_ratio[30m]) > 0.1",
        "little room is left before the node sheds (from 0.15 on)",
        "pressure {{ $value | humanize }}",
    ),
    Alert(
        "GonetsSessionsNearLimit",
        "warning",
        5 * MINUTE,
        "gonets_sessions / gonets_room_sessions > 0.85",
        "soon new connections are answered 503",
        f"{_SHARE} of the places are taken",
    ),
    Alert(
        "GonetsDoorwayFull",
        "warning",
        5 * MINUTE,
        "gonets_doorway_connections / <unknown_sessions_max> > 0.8",
        "connections that say no hello fill admission.unknown_sessions_max",
        f"{_SHARE} of the places are taken",
    ),
    Alert(
        "GonetsBuffersNearLimit",
        "warning",
        5 * MINUTE,
        "gonets_session_buffers_bytes / <buffers_bytes_max> > 0.8",
        "unread output fills gateway.buffers_bytes_max: the sessions that hold most are ended",
        _SHARE,
    ),
    Alert(
        "GonetsInterestNearLimit",
        "warning",
        5 * MINUTE,
        "gonets_interest_entries / <interest_entries_max> > 0.85",
        "fanout.interest_entries_max is nearly reached: then hellos are closed with 4004",
        _SHARE,
    ),
    Alert(
        "GonetsMemoryNearSum",
        "warning",
        10 * MINUTE,
        "gonets_anonymous_memory_bytes / <memory_bytes_max> > 0.8",
        "memory comes near the sum of all limits (<memory_bytes_max> bytes)",
        _SHARE,
    ),
    Alert(
        "GonetsSlowReaders",
        "warning",
        10 * MINUTE,
        "gonets_reader_sessions / gonets_live_sessions > 0.2 and gonets_reader_sessions >= 100",
        "many sessions read the log instead of being live: they can't keep up, or they all came back at once",
        f"{_SHARE} of the sessions",
    ),
    Alert(
        "GonetsGaps",
        "warning",
        15 * MINUTE,
        "increase(gonets_gaps_total[15m]) / increase(gonets_resumes_total[15m]) > 0.5"
        " and increase(gonets_gaps_total[15m]) >= 100",
        "who comes back is told of gaps and asks for history, instead of being sent what was missed",
        "{{ $value | humanize }} gaps a resume",
    ),
)

ACCESS: Final = (
    Alert(
        "GonetsHellosRefused",
        "warning",
        10 * MINUTE,
        "rate(gonets_refused_hellos_total[5m])"
        " / (rate(gonets_hellos_total[5m]) + rate(gonets_refused_hellos_total[5m])) > 0.2"
        " and increase(gonets_refused_hellos_total[5m]) >= 50",
        "more than one hello in five is refused: tokens, protocol version, or an attack",
        _SHARE,
    ),
    Alert(
        "GonetsTokenKeysFail",
        "warning",
        0,
        "increase(gonets_token_key_reload_failures_total[15m]) >= 3",
        "the public keys of tokens can't be read or fetched; the old ones stay",
        '{{ $value | printf "%.0f" }} failures in 15 minutes',
    ),
    Alert(
        "GonetsTokenKeysOld",
        "critical",
        5 * MINUTE,
        "gonets_token_keys_age_seconds / <keys_age_s_max> > 0.5",
        "the issuer has not confirmed the keys for long: at auth.keys_age_s_max (<keys_age_s_max> s) nobody gets in",
        f"{_SHARE} of that time is over",
    ),
    Alert(
        "GonetsRevocationsFail",
        "warning",
        0,
        "increase(gonets_revoked_reload_failures_total[15m]) >= 3",
        "the list of revocations can't be read or fetched; the old one stays",
        '{{ $value | printf "%.0f" }} failures in 15 minutes',
    ),
    Alert(
        "GonetsRevocationsOld",
        "critical",
        5 * MINUTE,
        "gonets_revoked_age_seconds > <revoked_age_s>",
        "who was revoked since then is still let in",
        f"last confirmed {_TIME} ago",
    ),
    Alert(
        "GonetsCertificateExpires",
        "warning",
        HOUR,
        f"gonets_tls_certificate_left_seconds < {14 * DAY}",
        "the certificate of the clients' port runs out",
        f"in {_TIME}",
    ),
    Alert(
        "GonetsCertificateExpiresNow",
        "critical",
        0,
        f"gonets_tls_certificate_left_seconds < {2 * DAY}",
        "the certificate of the clients' port runs out within two days: then no client connects",
        f"in {_TIME}",
    ),
    Alert(
        "GonetsCertificateNotTaken",
        "warning",
        0,
        "increase(gonets_tls_certificate_reload_failures_total[1h]) >= 1",
        "a changed certificate could not be used; the old one stays",
        '{{ $value | printf "%.0f" }} times in an hour',
    ),
    Alert(
        "GonetsBesideTheProxy",
        "warning",
        10 * MINUTE,
        "rate(gonets_untrusted_connections_total[5m]) + rate(gonets_bad_proxy_headers_total[5m]) > 1",
        "connections come past the proxies of admission.proxy_from, or without a PROXY header",
        "{{ $value | humanize }} a second",
    ),
)

BACKENDS: Final = (
    Alert(
        "GonetsSubscriptionStuck",
        "warning",
        10 * MINUTE,
        "max without (subscription) (gonets_subscription_oldest_unacked_seconds) > 900",
        "a backend's consumers take events and do not ack them",
        f"the oldest for {_TIME}",
    ),
    Alert(
        "GonetsSubscriptionBehind",
        "warning",
        HOUR,
        "max without (subscription) (gonets_subscription_lag_events) > 1e6"
        " and max without (subscription) (deriv(gonets_subscription_lag_events[1h])) > 0",
        "a backend's subscription falls behind the log",
        f"{_COUNT} events",
    ),
    Alert(
        "GonetsEventsParked",
        "warning",
        30 * MINUTE,
        "sum without (subscription) (gonets_subscription_parked_events) > 0",
        "events that a backend could not handle wait for somebody to look",
        f"{_COUNT} of them",
    ),
    Alert(
        "GonetsActsUntold",
        "warning",
        10 * MINUTE,
        "gonets_untold_acts > 0",
        "what operators did is not in the record that the log keeps of it",
        f"{_COUNT} acts",
    ),
)

GROUPS: Final = {"service": SERVICE, "storage": STORAGE, "delivery": DELIVERY, "access": ACCESS, "backends": BACKENDS}
ALERTS: Final = tuple(alert for group in GROUPS.values() for alert in group)

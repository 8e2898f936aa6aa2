"""What the dashboard shows: rows of panels, in the order in which an operator looks; and which metrics it doesn't show.

Drawn by dashboard.py, which puts the chosen node into each expression. A panel asks one question, which its title says;
its `help` says what is well and what is not. Lines drawn dashed are limits.

Invariants: every metric of the table is in a panel or in NOT_SHOWN with the reason; rates are of counters only. Held by
tests/gateway/test_operating.py. Figures of the configuration stand as <name> (figures.py).
"""

from __future__ import annotations

from typing import Final

from gateway.operating.panel import BAD_ABOVE_0, GOOD_AT_1, RATE, Line, Panel, limit, rate, rates
from gateway.operating.panels_backends import BACKENDS

GLANCE: Final = (
    Panel("Ready", "bool_yes_no", (Line("", "gonets_ready"),), "/readyz; it says why not.", GOOD_AT_1, 3, "stat"),
    Panel(
        "Load level",
        "none",
        (Line("", "gonets_load_level"),),
        "What is shed: 1 typing, 2 presence, 3 questions, 4 new connections, 5 publishes.",
        (("1", "yellow"), ("4", "red")),
        3,
        "stat",
    ),
    Panel("Sessions", "short", (Line("", "gonets_sessions"),), "Open sockets.", (), 3, "stat"),
    Panel("Publishes", "cps", (Line("", rate("publishes")),), "Taken in, a second.", (), 3, "stat"),
    Panel("Deliveries", "cps", (Line("", rate("deliveries")),), "Written to sessions, a second.", (), 3, "stat"),
    Panel(
        "Free disk",
        "bytes",
        (Line("", "gonets_data_free_bytes"),),
        "Red: below log.free_bytes_min publishes are refused. Yellow: two segments don't fit any more.",
        (("-Infinity", "red"), ("<free_bytes_min>", "yellow"), ("<free_bytes_soon>", "green")),
        3,
        "stat",
    ),
    Panel(
        "Writer",
        "none",
        (
            Line("fenced", "gonets_writer_fenced"),
            Line("disk short", "gonets_disk_short"),
            Line("saver failed", "gonets_saver_failed"),
        ),
        "All three are 0 while it is well.",
        BAD_ABOVE_0,
        3,
        "stat",
    ),
    Panel(
        "Up since",
        "dateTimeFromNow",
        (Line("", "gonets_start_time_seconds * 1000"),),
        "Start of the process.",
        (),
        3,
        "stat",
    ),
)

TRAFFIC: Final = (
    Panel(
        "Publishes",
        "cps",
        rates(taken="publishes", answered="answers"),
        "The two lines lie on each other; answers below publishes: the log is behind.",
    ),
    Panel(
        "Deliveries",
        "cps",
        rates(delivered="deliveries", routed="events_routed", send_calls="sends"),
        "Events written to sessions; committed events that were routed (with workers, once by each); calls of send().",
    ),
    Panel("Bytes of clients", "Bps", rates(received="received_bytes", sent="sent_bytes"), "On the clients' sockets."),
    Panel(
        "Messages and commands",
        "cps",
        rates(messages="received_messages", handled_in_Python="cold_commands", marks="cursor_moves"),
        "What clients send. Commands handled in Python cost most: history, lists, hellos.",
    ),
    Panel("Log growth", "Bps", rates(committed="log_bytes"), "Bytes of committed blocks a second."),
    Panel(
        "Events in the log",
        "short",
        (Line("events", "gonets_log_sequence"),),
        "Last sequence; its slope is events a second.",
    ),
)

LATENCY: Final = (
    Panel(
        "Commit: write and sync, mean",
        "s",
        (Line("mean", f"{rate('log_sync_seconds')} / {rate('log_commits')}"),),
        "What each receipt waits for, once or twice. A good disk: below 5 ms.",
        (("0.025", "yellow"), ("0.05", "red")),
    ),
    Panel(
        "Commits over 50 ms",
        "percentunit",
        (Line("share", f"{rate('log_slow_commits')} / {rate('log_commits')}"),),
        "Above 1 %: the 99th percentile of a commit is over 50 ms.",
        (("0.01", "red"),),
    ),
    Panel("Commits", "cps", rates(commits="log_commits"), "Blocks a second; more publishes make larger blocks first."),
    Panel(
        "Pressure",
        "percentunit",
        (Line("pressure", "gonets_load_pressure_ratio"),),
        "The longest wait by what it may be (for publishes <publish_wait_s_max> s). Shedding begins at 15 %, publishes"
        " are refused from 50 % on.",
        (("0.15", "yellow"), ("0.4", "orange"), ("0.5", "red")),
    ),
    Panel(
        "Tail: committed and not yet delivered",
        "short",
        (Line("events", "gonets_log_sequence - gonets_delivered_sequence"),),
        "Live sessions are behind by so many events. With workers a reading is up to a second old: some thousands are"
        " normal under load, growth is not.",
    ),
    Panel(
        "Longest slice on the loop",
        "s",
        (Line("slice", "gonets_loop_slice_max_seconds"),),
        "Of the last 30 to 60 s. While a slice lasts, no other session is served.",
        (("0.1", "yellow"), ("0.5", "red")),
    ),
)

SESSIONS: Final = (
    Panel(
        "Sessions",
        "short",
        (
            Line("open", "gonets_sessions"),
            Line("after hello", "gonets_live_sessions"),
            limit("room", "gonets_room_sessions"),
        ),
        "At the dashed line new connections are answered 503: gateway.sessions_max, or the descriptors of the process.",
    ),
    Panel(
        "Connections and hellos",
        "cps",
        rates(accepted="accepted_sessions", hellos="hellos", closed="closed_sessions"),
        "A storm of reconnects shows here first.",
    ),
    Panel(
        "At the door",
        "short",
        (
            Line("no hello yet", "gonets_doorway_connections"),
            limit("most", "vector(<unknown_sessions_max>)"),
        ),
        "Connections that have not said hello; at the dashed line the one that has waited longest is put out.",
    ),
)

SLOW: Final = (
    Panel(
        "Sessions that read the log",
        "short",
        (Line("reading", "gonets_reader_sessions"),),
        "They resume, or are too slow for the ring. After a storm it falls within a minute.",
    ),
    Panel(
        "Resumes and gaps",
        "cps",
        rates(resumes="resumes", gaps="gaps", lost_their_place_in_the_ring="ring_evictions"),
        "A gap: more was missed than fanout.resume_events_max; the client asks for history.",
    ),
    Panel(
        "Slow sockets",
        "cps",
        rates(partial_sends="blocked_sends", ended_for_their_buffers="overfull_sessions"),
        "send() calls that the kernel took only in part, and sessions ended because they read nothing.",
    ),
)

REFUSED: Final = (
    Panel(
        "Load level",
        "none",
        (Line("level", "gonets_load_level"),),
        "1 typing, 2 presence, 3 questions, 4 new connections, 5 publishes.",
        (("1", "yellow"), ("4", "red")),
        most=5,
    ),
    Panel(
        "Shed under load",
        "cps",
        rates(
            typing="shed_typing_signals",
            presence="shed_presence_signals",
            questions="shed_question_commands",
            connections="shed_connections",
            publishes="shed_publishes",
        ),
        "In this order.",
    ),
    Panel(
        "Publishes refused",
        "percentunit",
        (
            Line(
                "share",
                f"({rate('shed_publishes')} + {rate('overloaded_publishes')}) / ({rate('publishes')}"
                f" + {rate('shed_publishes')} + {rate('overloaded_publishes')})",
            ),
        ),
        "Clients send them again after a pause. Above 5 % for minutes: too little machine.",
        (("0.01", "yellow"), ("0.05", "red")),
    ),
    Panel(
        "Commands refused",
        "cps",
        rates(errors="refused_commands", over_their_rate="rate_limited_commands", full_intake="overloaded_publishes"),
        "By an error; over gateway.rate_per_s; the intake of publishes was full.",
    ),
    Panel(
        "Connections refused",
        "cps",
        rates(
            refused="refused_sessions",
            put_out="put_out_connections",
            over_their_address="address_limited_connections",
            past_the_proxy="untrusted_connections",
            without_PROXY_header="bad_proxy_headers",
        ),
        "Before hello.",
    ),
    Panel(
        "Signals dropped for busy receivers",
        "cps",
        rates(signals="signals_shed"),
        "Typing, presence and marks that a receiver with waiting output did not get.",
    ),
)

MEMORY: Final = (
    Panel(
        "Memory against its sum",
        "bytes",
        (
            Line("anonymous", "gonets_anonymous_memory_bytes"),
            Line("resident", "gonets_resident_memory_bytes"),
            limit("sum of all limits", "vector(<memory_bytes_max>)"),
        ),
        "Anonymous memory is what `gonets config memory` bounds. Resident has the log's mapped files too, which the"
        " kernel takes back by itself.",
    ),
    Panel(
        "Sessions and their buffers",
        "bytes",
        (
            Line("table with buffers", "gonets_session_bytes"),
            Line("buffers", "gonets_session_buffers_bytes"),
            limit("most of the buffers", "vector(<buffers_bytes_max>)"),
        ),
        "At the dashed line the sessions that hold most are ended (gateway.buffers_bytes_max).",
    ),
    Panel(
        "Interest",
        "bytes",
        (Line("interest", "gonets_interest_bytes"), Line("ring", "gonets_ring_bytes")),
        "Which sessions follow which conversations; and the ring of frames, which is fixed.",
    ),
    Panel(
        "Interest entries",
        "short",
        (
            Line("entries", "gonets_interest_entries"),
            limit("most", "vector(<interest_entries_max>)"),
        ),
        "At the dashed line hellos are closed with 4004 (fanout.interest_entries_max).",
    ),
)

PROCESSES: Final = (
    Panel(
        "Processes",
        "short",
        (Line("processes", "gonets_processes"),),
        "1, or supervisor, sequencer and workers. More during a take-over: of both versions.",
    ),
    Panel(
        "Processes that died",
        "short",
        (Line("restarts", f"increase(gonets_restarted_processes_total{RATE})"),),
        "Five of one place within 30 s end the whole node.",
        BAD_ABOVE_0,
    ),
    Panel(
        "Processor time",
        "percentunit",
        (Line("cores", rate("cpu_seconds")),),
        "100 % is one core. A single process serves with one core and commits with a second one.",
    ),
    Panel(
        "Publishes without an answer",
        "short",
        (Line("publishes", "gonets_unanswered_publishes"),),
        "What the sequencer has taken and not answered: about as many as come in two commits. Standing still: the disk"
        " hangs.",
    ),
    Panel(
        "Waiting on links",
        "bytes",
        (Line("bytes", "gonets_link_waiting_bytes"),),
        "What workers have for the sequencer and it has not taken: it is the bottleneck if this grows.",
    ),
    Panel(
        "Rounds of the poller",
        "cps",
        rates(rounds="loop_rounds"),
        "Falls under load, for a round then brings more. 0 with sessions: the loop stands still.",
    ),
)

STORAGE: Final = (
    Panel(
        "Free space",
        "bytes",
        (
            Line("free", "gonets_data_free_bytes"),
            limit("publishes are refused", "vector(<free_bytes_min>)"),
        ),
        "Of the data directory's file system.",
    ),
    Panel(
        "Retention",
        "Bps",
        rates(trimmed="retention_removed_bytes", committed="log_bytes"),
        "Over weeks both are equal, or the log grows.",
    ),
    Panel(
        "What holds the log",
        "short",
        (
            Line("segments held", "gonets_retention_held_segments"),
            Line("failed runs", f"increase(gonets_retention_failures_total{RATE})"),
        ),
        "`gonets log readers` says who holds them.",
        BAD_ABOVE_0,
    ),
    Panel(
        "State behind the log",
        "short",
        (Line("events", "gonets_log_sequence - gonets_state_saved_sequence"),),
        "What a start after a crash would fold again; saved by log.save_events_max and log.save_interval_s.",
    ),
    Panel(
        "Damage",
        "short",
        (
            Line("places", "gonets_damage_places"),
            Line("reads that met it", f"increase(gonets_damage_reads_total{RATE})"),
        ),
        "0. Else `gonets log check` names all places.",
        BAD_ABOVE_0,
    ),
    Panel(
        "Age of the backup",
        "s",
        (Line("age", "gonets_backup_age_seconds"),),
        "Of backups made with --hold; the oldest of several.",
        (("93600", "red"),),
    ),
)

ACCESS: Final = (
    Panel(
        "Hellos refused",
        "cps",
        rates(refused="refused_hellos", sessions_ended_by_revocation="revoked_sessions"),
        "Bad tokens, unknown protocol versions, too many devices.",
    ),
    Panel(
        "Keys and revocations: age",
        "s",
        (
            Line("keys", "gonets_token_keys_age_seconds"),
            Line("revocations", "gonets_revoked_age_seconds"),
            limit("nobody gets in", "vector(<keys_age_s_max>)"),
        ),
        "Since their URLs last confirmed them; no line where they are files.",
    ),
    Panel(
        "Could not be read or fetched",
        "short",
        tuple(
            Line(name, f"increase(gonets_{key}_total{RATE})")
            for name, key in (
                ("keys", "token_key_reload_failures"),
                ("revocations", "revoked_reload_failures"),
                ("certificate", "tls_certificate_reload_failures"),
            )
        ),
        "The old ones stay in force.",
        BAD_ABOVE_0,
    ),
    Panel(
        "Keys and entries",
        "short",
        (Line("public keys", "gonets_token_keys"), Line("revoked entries", "gonets_revoked_entries")),
        "A key less than yesterday refuses the tokens that it signed.",
    ),
    Panel(
        "TLS handshakes",
        "cps",
        rates(completed="tls_handshakes", broken_off="tls_failures"),
        "Scanners break off too; a share that jumps is a certificate that clients don't believe.",
    ),
    Panel(
        "Certificate runs out in",
        "s",
        (Line("left", "gonets_tls_certificate_left_seconds"),),
        "Of the clients' port.",
        (("-Infinity", "red"), ("172800", "yellow"), ("1209600", "green")),
    ),
)

ROWS: Final = {
    "At a glance": GLANCE,
    "Traffic": TRAFFIC,
    "Latency and sync": LATENCY,
    "Sessions": SESSIONS,
    "Slow readers and resumes": SLOW,
    "Refusals and shedding": REFUSED,
    "Memory against limits": MEMORY,
    "Processes": PROCESSES,
    "Disk, retention, damage": STORAGE,
    "TLS and tokens": ACCESS,
    "Backends": BACKENDS,
}

NOT_SHOWN: Final[dict[str, str]] = {}  # metric → why no panel shows it

"""The sum of memory: every buffer of the process that can grow, how far, and which option says so.

Asked by `gonets config memory`, by the gateway at its start (`shortage`) and by the tests. A row is a buffer with its
bound; `process_rows` add up to what the whole process can take, `session_rows` say what one session may hold of it.
Limits that are no options and bound memory in Python stand here, so that the sum and who keeps to it agree.

Invariants: every option with a number moves the sum or a session's row, or stands in WITHOUT_MEMORY; a bound is what
the code enforces, however unlikely, never what is usual. Not in the sum, because the kernel takes it back by itself:
the page cache, the pages of LMDB's mapped files among it. Nor the kernel's own buffers of sockets (some 250 KB a
session at most, in all bounded by net.ipv4.tcp_mem), nor what the memberships of a single user take while they are
looked up at a hello (some 400 bytes each).
Cost: some arithmetic, when somebody asks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from engine.admitter import BLOCK_BYTES_MAX, TARGETS_MAX
from engine.backlog import GAP_BYTES_MAX, GAPS_BYTES_MAX, KEPT_BYTES_MAX, WALK_RECORDS
from engine.catchup import GAP_BYTES, GAPS_HELD_BYTES_MAX, PLANNED_MAX
from engine.fanout import RANGES_MAX
from engine.follower import NOTES_MAX, PROPOSALS_BYTES_MAX
from engine.history import BYTES_MAX as HISTORY_BYTES_MAX
from engine.hub import MUST_TAKE_BYTES
from engine.log.cursors import HEARD_MAX, MARKS_MAX
from engine.options import PAYLOAD_BYTES_MAX, Config
from engine.readers import OUTCOMES_MAX
from engine.sequencer import QUEUE_BLOCKS, TABLES_FULL
from engine.state.keys import KEYS_MAX
from engine.state.saver import FOLD_BYTES, OVERLAY_BYTES_MAX
from engine.subscriptions.feed import CACHE_BYTES_MAX
from engine.subscriptions.manager import SUBSCRIPTIONS_MAX
from engine.subscriptions.publishing import WAITING_BYTES_MAX
from ext.doorway import Doorway
from ext.poller import fixed_bytes
from ext.ring import memory_bytes as ring_memory_bytes

# Limits of the gateway's Python half; who keeps to them imports them from here.
UNSENT_BYTES_MAX: Final = 1 << 20  # answers that a session has not taken, beyond which it gets no more
WAITING_JOBS_MAX: Final = 4_096  # of history and catch-up, beyond which history is refused
HELLOS_WAITING_BYTES_MAX: Final = 8 << 20  # of sessions whose hello waits: for the issuer, as much for the tail
ISSUER_DOCUMENT_BYTES_MAX: Final = 256 << 10
REVOKED_DOCUMENT_BYTES_MAX: Final = 4 << 20
TYPING_SEEN_MAX: Final = 100_000  # of one second
BODIES_BYTES_MAX: Final = 128 << 20  # of requests to the backends' door that are being read and answered
HEAD_BYTES_MAX: Final = 32 << 10  # of a request to it
HEAD_FIELDS_MAX: Final = 100
SPARE_CONNECTIONS: Final = 64  # beyond api.connections_max, for those who are answered 503; the next is cut

# Tables of the engine.
TABLES_BYTES_MAX: Final = 256 << 20  # of what admission knows
VIEW_BYTES_MAX: Final = 64 << 20  # of what a worker knows
SERVICE_KEYS_MAX: Final = KEYS_MAX  # of backends' publishes of the last 24 hours

# What things take in memory, measured or derived, from above.
PROGRAM_BYTES: Final = 96 << 20  # Python, its libraries and our code, before anybody has connected
THREADS: Final = 10  # beside those that read
THREAD_BYTES: Final = 256 << 10
INTEREST_ENTRY_BYTES: Final = 26  # 16 in the table, 8 and a quarter of it in the session
READER_BYTES: Final = 640  # Python's books of a session that reads the log
MARK_BYTES: Final = 360
UNANSWERED_BYTES: Final = 16
NOTE_BYTES: Final = 150
TYPING_BYTES: Final = 250
JOB_BYTES: Final = 1_000
TARGET_BYTES: Final = 300
KEY_GROWING_BYTES: Final = 20  # the table before, half as large, while a larger one is laid out
PROPOSAL_BYTES: Final = 64  # the shortest
LOADED_BYTES: Final = 1_200  # rows that a proposal may make admission fetch: conversation, membership, window
REVOKED_BYTES_A_BYTE: Final = 30  # objects of a list of revocations, by its bytes
DIRTY_PAGES_MAX: Final = 1 << 17  # of a transaction of LMDB, 4 KiB each; beyond it writes them early
PAGE_BYTES: Final = 4_096
JSON_EXPANSION: Final = 6  # of the worst payload
CONNECTION_BYTES: Final = 160 << 10  # of a backend: buffers of 64 KiB both ways, and Python's books of it
SUBSCRIPTION_BYTES: Final = 10_000  # a definition, its machine, and some hundred events in flight
HEAP_LOSS: Final = 4  # the allocator loses one byte in so many between blocks of sessions, which come and go

WITHOUT_MEMORY: Final = {
    "server.drain_s": "a time",
    "auth.keys_refresh_s_min": "a time",
    "auth.keys_refresh_s_max": "a time",
    "auth.keys_age_s_max": "a time",
    "auth.revoked_refresh_s": "a time",
    "auth.leeway_s": "a time",
    "log.shard": "a name",
    "log.segment_bytes": "a file, mapped",
    "log.save_events_max": "what waits to be saved is bounded by its bytes",
    "log.save_interval_s": "a time",
    "log.free_bytes_min": "disk",
    "log.keep_bytes": "disk",
    "log.keep_days": "disk",
    "log.cursors_interval_s": "a time",
    "gateway.sessions_per_user_max": "sessions are bounded in all",
    "gateway.connects_per_s_max": "a rate",
    "gateway.rate_per_s": "a rate",
    "gateway.rate_burst": "a rate; what one turn asks for is bounded by the bytes that are read",
    "gateway.hello_timeout_s": "a time",
    "gateway.ping_interval_s": "a time",
    "gateway.idle_timeout_s": "a time",
    "gateway.slow_timeout_s": "a time",
    "gateway.poll_budget_us": "a time; what a round gathers is bounded by its bytes",
    "gateway.conversations_page_max": "an answer is bounded with the output of its session",
    "gateway.history_page_max": "a page is bounded by its bytes",
    "gateway.members_page_max": "an answer is bounded with the output of its session",
    "admission.address_unknown_max": "connections are bounded in all",
    "admission.address_connects_per_s_max": "a rate",
    "admission.address_burst_connects": "a rate",
    "admission.failed_hello_connects": "a rate",
    "admission.members_per_s_max": "a rate; new groups wait while tables are full",
    "admission.publish_wait_ms_max": "a time",
    "api.body_bytes_max": "bodies are bounded in all",
    "api.batch_events_max": "a batch is bounded by its body",
    "api.page_events_max": "a page is bounded by its bytes",
    "api.wait_s_max": "a time",
    "api.consumer_idle_s": "a time",
    "api.consumers_max": "consumers hold no memory but their events in flight, bounded in all",
    "api.streams_max": "connections are bounded in all",
    "api.subscriptions_max": "subscriptions are bounded in all",
    "api.publishes_per_s_max": "a rate",
    "api.publish_bytes_per_s_max": "a rate",
    "api.reads_per_s_max": "a rate",
    "api.read_bytes_per_s_max": "a rate",
    "fanout.flush_budget_us": "a time",
    "fanout.resume_events_max": "resumes are bounded by their hops and the bytes of their gaps",
    "fanout.gap_newest_events": "the same",
    "conversations.group_members_max": "members of a new group come in its proposal",
    "conversations.cursor_members_max": "signals are shed where a session's output waits",
    "conversations.typing_members_max": "the same",
}


class Row(NamedTuple):
    """One buffer and its bound."""

    name: str
    number: int
    bytes_each: int
    source: str  # options, or "fixed"

    @property
    def total_bytes(self) -> int:
        """What it can take."""
        return self.number * self.bytes_each


def process_rows(config: Config) -> list[Row]:
    """All that the process can take, in the order of the data path; with workers, all processes of the node."""
    rows = [*_session_tables(config), *_taking_in(config), *_engine(config), *_reading(config), *_rest(config)]
    return [*rows, *_workers(config, total_bytes(rows)), *_backends(config)]


def _workers(config: Config, one_bytes: int) -> list[Row]:
    """A worker takes less than a process that is alone: it admits and saves nothing. From above, it takes as much."""
    workers, source = config.server.gateway_workers, "server.gateway_workers"
    if not workers:
        return []
    publishes = config.log.intake_bytes_max // PROPOSAL_BYTES
    return [
        Row("sequencer and workers but one, each as all above", workers, one_bytes, source),
        Row("the supervisor", 1, PROGRAM_BYTES, source),
        Row("links: what the sequencer has not taken", workers, PROPOSALS_BYTES_MAX, source),
        Row("links: what workers have not taken", workers, MUST_TAKE_BYTES, source),
        Row("links: publishes without an answer, table doubled", workers * publishes, 4 * UNANSWERED_BYTES, source),
        Row("notes on their way", workers * NOTES_MAX, NOTE_BYTES, source),
        Row("marks of other workers", 3 * workers * HEARD_MAX, MARK_BYTES, source),
    ]


def _backends(config: Config) -> list[Row]:
    """The backends' door and all subscriptions: a thread of the process, or one of their own."""
    if not config.server.api:
        return []
    api, unsaved = config.api, int(TABLES_BYTES_MAX * TABLES_FULL)
    return [
        Row("backends: the program", 1, PROGRAM_BYTES, "server.api"),
        Row("backends: view", 1, unsaved + VIEW_BYTES_MAX, "server.api"),
        Row("backends: blocks that are read", 1, CACHE_BYTES_MAX + 2 * BLOCK_BYTES_MAX, "server.api"),
        Row("backends: publishes without an answer, with copies", 2, WAITING_BYTES_MAX, "server.api"),
        Row(
            "backends: subscriptions, and what they have in flight", SUBSCRIPTIONS_MAX, SUBSCRIPTION_BYTES, "server.api"
        ),
        Row("backends: connections", api.connections_max + SPARE_CONNECTIONS, CONNECTION_BYTES, "api.connections_max"),
        Row("backends: a frame on its way to each", api.connections_max, api.frame_bytes_max, "api.frame_bytes_max"),
        Row("backends: bodies of requests, with what is made of them", 2, BODIES_BYTES_MAX, "server.api"),
    ]


def _session_tables(config: Config) -> list[Row]:
    gateway, native = config.gateway, fixed_bytes()
    unknown, buffers = config.admission.unknown_sessions_max, gateway.buffers_bytes_max
    slots = gateway.sessions_max + native["slots_reserved"]
    rows = [
        Row("table of sessions", slots, native["slot"], "gateway.sessions_max"),
        Row("buffers of sessions", 1, buffers, "gateway.buffers_bytes_max"),
        Row("lost between those", 1, buffers // HEAP_LOSS, "gateway.buffers_bytes_max"),
        Row("interest", config.fanout.interest_entries_max, INTEREST_ENTRY_BYTES, "fanout.interest_entries_max"),
        Row("doorway", 1, Doorway(places_max=unknown).memory_bytes(), "admission.unknown_sessions_max"),
    ]
    if config.tls.certificate:
        opening = min(unknown, slots)
        rows += [
            Row("TLS of sessions", slots, native["link"], "gateway.sessions_max"),
            Row("TLS handshakes under way", opening, native["link_opening"], "admission.unknown_sessions_max"),
        ]
    return rows


def _taking_in(config: Config) -> list[Row]:
    native, intake = fixed_bytes(), config.log.intake_bytes_max
    return [
        Row("receiving", 1, native["receive"], "fixed"),
        Row("publishes of a round, twice", 2, native["round"], "fixed"),
        Row("commands that wait for Python, twice", 2, native["cold"], "fixed"),
        Row("intake of publishes", 1, intake + native["round"], "log.intake_bytes_max"),
        Row("their answers", 1, intake, "log.intake_bytes_max"),
        Row("rows that they lack", intake // (2 * PROPOSAL_BYTES), LOADED_BYTES, "log.intake_bytes_max"),
        Row("hellos that wait: for the issuer, for the tail", 2, 2 * HELLOS_WAITING_BYTES_MAX, "fixed"),
        Row("typing of a second", TYPING_SEEN_MAX, TYPING_BYTES, "fixed"),
        Row("marks to be written", MARKS_MAX, MARK_BYTES, "fixed"),
    ]


def _engine(config: Config) -> list[Row]:
    unsaved = int(TABLES_BYTES_MAX * TABLES_FULL)
    return [
        Row("blocks: open, queued, written; with copies", 2 * (QUEUE_BLOCKS + 2), BLOCK_BYTES_MAX, "fixed"),
        Row("tables of admission", 1, unsaved, "fixed"),
        Row("keys of services, as their table grows", KEYS_MAX, KEY_GROWING_BYTES, "fixed"),
        Row("targets of edits", TARGETS_MAX, TARGET_BYTES, "fixed"),
        Row("view: what is not saved, and a cache", 1, unsaved + VIEW_BYTES_MAX, "fixed"),
        Row("a save: gathered, sorted", 3, OVERLAY_BYTES_MAX + FOLD_BYTES, "fixed"),
        Row("a save: pages of LMDB", DIRTY_PAGES_MAX, PAGE_BYTES, "fixed"),
        Row("ring", 1, ring_memory_bytes(config.fanout.ring_bytes), "fanout.ring_bytes"),
    ]


def _reading(config: Config) -> list[Row]:
    gateway, fanout = config.gateway, config.fanout
    hops = fanout.resume_hops_max
    page = max(HISTORY_BYTES_MAX + PAYLOAD_BYTES_MAX, KEPT_BYTES_MAX + GAPS_BYTES_MAX + 8 * hops)
    walk = WALK_RECORDS * PAYLOAD_BYTES_MAX
    return [
        Row("threads that read: what one holds", fanout.pool_threads, walk + page, "fanout.pool_threads"),
        Row("answers that they have ready", OUTCOMES_MAX, page, "fanout.resume_hops_max"),
        Row("history that waits", WAITING_JOBS_MAX, JOB_BYTES, "fixed"),
        Row("sessions that read", gateway.sessions_max, READER_BYTES, "gateway.sessions_max"),
        Row("backlogs", PLANNED_MAX, 8, "fixed"),
        Row("gaps", 1, 2 * GAPS_HELD_BYTES_MAX + GAPS_BYTES_MAX, "fixed"),
    ]


def _rest(config: Config) -> list[Row]:
    threads = THREADS + config.fanout.pool_threads
    revoked = REVOKED_DOCUMENT_BYTES_MAX if config.auth.revoked else 0
    return [
        Row("stacks of threads", threads, THREAD_BYTES, "fanout.pool_threads"),
        Row("revocations, old and new", 2, revoked * REVOKED_BYTES_A_BYTE, "auth.revoked"),
        Row("the program", 1, PROGRAM_BYTES, "fixed"),
    ]


def session_rows(config: Config) -> list[Row]:
    """What one session may hold at most, of the rows above."""
    gateway, native = config.gateway, fixed_bytes()
    share = gateway.buffers_bytes_max // native["share_of_rest"]
    page = (HISTORY_BYTES_MAX + PAYLOAD_BYTES_MAX) * JSON_EXPANSION
    message = gateway.frame_bytes_max * 3 // 2
    rows = [
        Row("place in the table", 1, native["slot"], "fixed"),
        Row("before its upgrade: a head", 1, gateway.handshake_bytes_max, "gateway.handshake_bytes_max"),
        Row("an incomplete message", 1, min(message, share), "gateway.frame_bytes_max"),
        Row("output that waits: receipts", gateway.unanswered_max, 320, "gateway.unanswered_max"),
        Row("output that waits: refusals, pongs", 1, native["output_held"], "fixed"),
        Row("output that waits: answers", 1, UNSENT_BYTES_MAX, "fixed"),
        Row("answers under way", gateway.jobs_per_session_max, page, "gateway.jobs_per_session_max"),
        Row("a gap", 1, GAP_BYTES_MAX + GAP_BYTES, "fixed"),
        Row("outbox", RANGES_MAX, 8, "fixed"),
    ]
    if config.tls.certificate:
        rows.append(Row("TLS", 1, native["link"] + native["link_opening"] + native["link_waiting"], "fixed"))
    return rows


def total_bytes(rows: list[Row]) -> int:
    """Their sum."""
    return sum(row.total_bytes for row in rows)


def shortage(config: Config, machine_bytes: int | None = None) -> str:
    """Why this machine is too small for the sum, and what to lower; "" if it isn't, or can't be known."""
    most = memory_bytes() if machine_bytes is None else machine_bytes
    rows = process_rows(config)
    needed = total_bytes(rows)
    if not most or needed <= most:
        return ""
    by_option: dict[str, int] = {}
    for row in rows:
        by_option[row.source] = by_option.get(row.source, 0) + row.total_bytes
    by_option.pop("fixed")
    largest = sorted(by_option.items(), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{option} ({size_text(size)})" for option, size in largest)
    return (
        f"the configured limits add up to {size_text(needed)} of memory, this process can have {size_text(most)}: under"
        f" attack it may be killed. Lower {named}; `gonets config memory` shows the sum"
    )


def absurdity(config: Config, machine_bytes: int | None = None) -> str:
    """What is taken whatever comes, where that alone is more than there is; else ""."""
    most = memory_bytes() if machine_bytes is None else machine_bytes
    ring = ring_memory_bytes(config.fanout.ring_bytes)
    if not most or ring + PROGRAM_BYTES <= most:
        return ""
    return f"fanout.ring_bytes = {config.fanout.ring_bytes}: the ring is always used whole, and there are {most} bytes"


def memory_bytes() -> int:
    """What this process can have: of the machine, or of a control group around it; 0 if that isn't known."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                found.append(int(line.split()[1]) * 1024)
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                found += _group_limits(controllers, path)
    except (OSError, ValueError):
        pass
    return min(found, default=0)


def _group_limits(controllers: str, path: str) -> list[int]:
    """Of a control group (version 2, or 1) and those around it; inside a container its own is the root."""
    root, name = ("", "memory.max") if not controllers else ("memory", "memory.limit_in_bytes")
    groups = Path("/sys/fs/cgroup", root)
    place = groups / path.lstrip("/")
    found = []
    for group in (place, *place.parents):
        if not group.is_relative_to(groups):
            break
        text = (group / name).read_text().strip() if (group / name).is_file() else "max"
        if text.isdigit():
            found.append(int(text))
    return found


def size_text(size: int) -> str:
    """For people."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 10_000:
            return f"{size:,} {unit}"
        size = -(-size // 1024)
    return f"{size / 1024:,.1f} GiB" if size >= 10_240 else f"{size:,} GiB"

"""The options: frozen structs, one for each section of the file, each field with meaning, unit, limits and default.

Read by config.py, which fills them from defaults, a TOML file, the environment and flags, and checks what one option
means for another. A field says whether a reload (SIGHUP) takes it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct

from engine.options_admission import Admission, option
from engine.options_api import Api

PAYLOAD_BYTES_MAX = 65_536  # fixed by the record format, not an option
ADDRESS = r"^(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):[0-9]{1,5}$"
ADDRESS_OR_NONE = r"^$|" + ADDRESS


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the process lives and how it ends."""

    data: Annotated[str, option("directory of log, state and cursors; one process at a time", "path", min_length=1)] = (
        "./data"
    )
    listen: Annotated[
        str, option("address of the clients' door; port 0 takes a free one", "host:port", pattern=ADDRESS)
    ] = "127.0.0.1:8800"
    admin: Annotated[
        str,
        option(
            "address of /metrics, /healthz, /readyz; empty = none; never public", "host:port", pattern=ADDRESS_OR_NONE
        ),
    ] = "127.0.0.1:8801"
    api: Annotated[
        str,
        option(
            "address of the backends' door: HTTP and WebSocket for services with tokens of their own; without TLS:"
            " behind a proxy that has it where others reach it; empty = none; `make run` opens 127.0.0.1:8802",
            "host:port",
            pattern=ADDRESS_OR_NONE,
        ),
    ] = ""
    gateway_workers: Annotated[
        int,
        option(
            "processes that serve clients, beside one that writes the log and one that supervises them; 0 = one process"
            " does it all. Limits of [gateway] and [admission] hold for each of them",
            "workers",
            ge=0,
            le=256,
        ),
    ] = 0
    drain_s: Annotated[
        int,
        option(
            "time over which sessions are sent away on SIGTERM: the first second they are only advised, and new ones"
            " are answered 503; then they are closed in batches; too short makes a storm elsewhere; 0 = at once",
            "s",
            reloadable=True,
            ge=0,
            le=3600,
        ),
    ] = 10


class Auth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose tokens open a session."""

    keys: Annotated[
        str,
        option(
            "JWKS with public keys (Ed25519, P-256, RSA ≥ 2048): a file, read again when it changes, or a URL (https;"
            " http for loopback), fetched again when its max-age ends and when a token names an unknown key; empty ="
            " the development key in the data directory",
            "path",
        ),
    ] = ""
    keys_ca: Annotated[
        str,
        option("file of the authorities that https URLs of this section are checked by; empty = the system's", "path"),
    ] = ""
    keys_refresh_s_min: Annotated[
        int, option("shortest time between two fetches of the keys, whatever max-age says", "s", ge=1, le=86_400)
    ] = 60
    keys_refresh_s_max: Annotated[
        int, option("longest; also where the issuer gives no max-age", "s", ge=1, le=604_800)
    ] = 3_600
    keys_age_s_max: Annotated[
        int,
        option(
            "how long fetched keys and revocations are believed while their URL does not answer, the copy in the data"
            " directory included; then tokens are told to come again",
            "s",
            ge=60,
            le=2_592_000,
        ),
    ] = 86_400
    revoked: Annotated[
        str,
        option(
            "list of revoked tokens, users and devices: a file, read again when it changes, or a URL; its form is in"
            " PROTOCOL.md; sessions that it names are closed with 4506; empty = none",
            "path",
        ),
    ] = ""
    revoked_refresh_s: Annotated[int, option("how often a URL of revocations is asked", "s", ge=1, le=3_600)] = 5
    audience: Annotated[str, option("what `aud` must be or contain", "text", reloadable=True, min_length=1)] = "gonets"
    issuer: Annotated[str, option("what `iss` must be; empty = not looked at", "text", reloadable=True)] = ""
    leeway_s: Annotated[
        int, option("how far the issuer's clock may be off (exp, nbf)", "s", reloadable=True, ge=0, le=600)
    ] = 30


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS on the clients' port, where no balancer does it. The files are read again when they change, and on SIGHUP."""

    certificate: Annotated[
        str,
        option("PEM file: the server's certificate, then those that signed it; empty = clients speak plain", "path"),
    ] = ""
    key: Annotated[str, option("PEM file: its private key, without a passphrase; best P-256", "path")] = ""
    minimum: Annotated[Literal["1.2", "1.3"], option("oldest version that is spoken")] = "1.3"


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log and the state folded from it."""

    shard: Annotated[int, option("number of this node's shard; part of every conversation id", ge=0, le=8191)] = 0
    segment_bytes: Annotated[
        int, option("size at which a segment file is closed and the next begun", "bytes", ge=1 << 20, le=1 << 36)
    ] = 1 << 30
    intake_bytes_max: Annotated[
        int,
        option(
            "publishes that may wait for admission; too small answers `overloaded` in bursts, too large makes them"
            " wait instead",
            "bytes",
            ge=1 << 17,
            le=1 << 30,
        ),
    ] = 32 << 20
    save_events_max: Annotated[
        int,
        option(
            "events after which the state is saved; more means a longer replay after a crash",
            "events",
            ge=1_000,
            le=10_000_000,
        ),
    ] = 1_000_000
    save_interval_s: Annotated[int, option("time after which the state is saved, whatever came", "s", ge=1, le=600)] = (
        10
    )
    free_bytes_min: Annotated[
        int,
        option(
            "free space of the data directory's file system below which publishes are refused (`overloaded`) before the"
            " disk is full and the writer stops; 0 = never",
            "bytes",
            ge=0,
            le=1 << 50,
        ),
    ] = 128 << 20
    keep_bytes: Annotated[
        int,
        option(
            "size of the log above which its oldest segments are trimmed, as far as two snapshots (taken as needed) and"
            " durable readers allow; 0 = never",
            "bytes",
            ge=0,
            le=1 << 50,
        ),
    ] = 0
    keep_days: Annotated[
        float, option("age of a segment's newest event above which it is trimmed likewise; 0 = never", "days", ge=0)
    ] = 0.0
    cursors_interval_s: Annotated[
        float,
        option("how often delivered and read marks are written; a crash loses this much of them", "s", ge=0.05, le=60),
    ] = 2.0


class Gateway(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of sessions."""

    sessions_max: Annotated[
        int, option("sessions of this process; the next is answered 503", "sessions", ge=1, le=4_000_000)
    ] = 100_000
    sessions_per_user_max: Annotated[
        int,
        option(
            "devices of one user at a time; the next is closed with 4504", "sessions", reloadable=True, ge=1, le=1_000
        ),
    ] = 16
    buffers_bytes_max: Annotated[
        int,
        option(
            "incomplete messages, output and outboxes of all sessions together; one may hold an eighth of what the"
            " others leave, else it is closed with 4004",
            "bytes",
            ge=16 << 20,
            le=1 << 40,
        ),
    ] = 256 << 20
    connects_per_s_max: Annotated[
        int, option("handshakes a second; more wait in the kernel's queue", "1/s", ge=1, le=1_000_000)
    ] = 20_000
    frame_bytes_max: Annotated[
        int,
        option(
            "size of one message from a client; 64 KiB of payload in base64 must fit", "bytes", ge=92_160, le=1 << 20
        ),
    ] = 131_072
    handshake_bytes_max: Annotated[
        int, option("size of the HTTP head of a handshake", "bytes", ge=1_024, le=65_536)
    ] = 16_384
    rate_per_s: Annotated[
        int, option("commands a second that a session may send for long", "1/s", ge=1, le=1_000_000)
    ] = 100
    rate_burst: Annotated[int, option("commands that a session may send at once", "commands", ge=1, le=1_000_000)] = 300
    unanswered_max: Annotated[
        int, option("publishes of a device without an answer; the repeat window is 64", "publishes", ge=1, le=64)
    ] = 64
    hello_timeout_s: Annotated[int, option("time from connect to hello, then close 4005", "s", ge=1, le=300)] = 10
    ping_interval_s: Annotated[int, option("silence after which the server pings", "s", ge=1, le=3600)] = 30
    idle_timeout_s: Annotated[int, option("silence after which a session is closed with 4000", "s", ge=2, le=7200)] = 75
    slow_timeout_s: Annotated[
        int,
        option(
            "a session that takes no byte, or leaves a message unfinished, for so long is closed with 4002",
            "s",
            ge=1,
            le=3600,
        ),
    ] = 60
    poll_budget_us: Annotated[
        int,
        option("time of one round of reading sockets; longer batches better, answers later", "us", ge=100, le=100_000),
    ] = 500
    conversations_page_max: Annotated[
        int, option("entries of one `conversations` answer", "entries", reloadable=True, ge=1, le=1_000)
    ] = 100
    members_page_max: Annotated[
        int, option("entries of one `members` answer", "entries", reloadable=True, ge=1, le=5_000)
    ] = 500
    history_page_max: Annotated[
        int, option("events of one `history` answer", "events", reloadable=True, ge=1, le=100)
    ] = 100
    jobs_per_session_max: Annotated[
        int, option("history and resume jobs of one session at a time", "jobs", reloadable=True, ge=1, le=64)
    ] = 4


class Fanout(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How committed events reach sessions."""

    ring_bytes: Annotated[
        int,
        option(
            "frames kept ready for live sessions; a session further behind reads the log",
            "bytes",
            ge=4 << 20,
            le=4 << 30,
        ),
    ] = 64 << 20
    interest_entries_max: Annotated[
        int,
        option(
            "pairs of a session and a conversation that it follows; a hello that would go beyond is closed with 4004",
            "entries",
            ge=1,
            le=1_000_000_000,
        ),
    ] = 10_000_000
    flush_budget_us: Annotated[
        int, option("time of one slice of sending; longer delays dialogs behind broadcasts", "us", ge=100, le=50_000)
    ] = 500
    resume_events_max: Annotated[
        int,
        option("events that a resume sends of one conversation before it answers a gap", "events", ge=10, le=100_000),
    ] = 1_000
    resume_hops_max: Annotated[
        int, option("records that a resume may look at in all", "records", ge=100, le=10_000_000)
    ] = 20_000
    gap_newest_events: Annotated[int, option("newest events that come with a gap", "events", ge=0, le=100)] = 30
    pool_threads: Annotated[
        int, option("threads that read the log for resume, slow sessions and history", "threads", ge=1, le=64)
    ] = 2


class Conversations(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes at which behaviour changes."""

    group_members_max: Annotated[int, option("members of a group", "members", ge=2, le=5_000)] = 5_000
    cursor_members_max: Annotated[
        int,
        option(
            "groups up to this size see who has received and read; it costs members² pushes",
            "members",
            reloadable=True,
            ge=0,
            le=5_000,
        ),
    ] = 100
    typing_members_max: Annotated[
        int,
        option("groups up to this size see who is typing, and presence", "members", reloadable=True, ge=0, le=5_000),
    ] = 200


class Logging(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process says on stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], option("least serious line written", reloadable=True)
    ] = "info"
    format: Annotated[Literal["auto", "console", "json"], option("auto: console on a terminal, else JSON lines")] = (
        "auto"
    )


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All sections."""

    server: Server = Server()
    auth: Auth = Auth()
    tls: Tls = Tls()
    log: Log = Log()
    gateway: Gateway = Gateway()
    admission: Admission = Admission()
    api: Api = Api()
    fanout: Fanout = Fanout()
    conversations: Conversations = Conversations()
    logging: Logging = Logging()

"""The command line of Gonets, and its composition root: the only file that may import everything.

A verb is a thin function: it reads the configuration, calls one function of the package that does the work, and
prints what comes back, for people or with `--json` for programs. What goes wrong in a way that a person can mend is
one line on stderr and exit code 1; a command line that can't be understood is one with exit code 2.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from engine import Config, split_address
from engine import config as configuration
from engine.console import AsJson, ConfigFile, DataDirectory, fail, load, os_error, print_json, print_table, run

DEMO_USERS = (1, 2)
DEMO_TOKEN_S = 30 * 86_400
INTERRUPTED = 130  # what shells expect of a program that SIGINT ended
PIPE_CLOSED = 141  # or SIGPIPE
LISTEN_DEVICE, SEND_DEVICE = 1, 2  # a session each, so that `send` doesn't replace `listen`


def _version() -> str:
    try:
        return version("gonets")
    except PackageNotFoundError:
        return "0 (not installed)"


app = App(
    name="gonets",
    help="The delivery engine of a messenger: log, gateway, tools.",
    version=_version,
    suppress_keyboard_interrupt=False,  # main() and `listen` have their own ways to end
)
config_app = App(name="config", help="The configuration.")
app.command(config_app)
app.command("engine.log.cli:app", name="log", help="What the log holds, and what an operator does with it.")
app.command("bench.cli:app", name="bench", help="Measurements, and the replay of real chats.")
app.command("gateway.api.cli:app", name="subscriptions", help="Durable subscriptions to the event stream.")
app.command("gateway.api.cli_events:subscribe", name="subscribe", help="Prints and acks the events of a subscription.")
app.command("gateway.api.cli_events:publish", name="publish", help="Publishes one event as a service.")


@app.command
def serve(
    *,
    data: DataDirectory = None,
    listen: Annotated[str | None, Parameter(help="clients' address, host:port")] = None,
    admin: Annotated[str | None, Parameter(help="operator's address, host:port; empty = none")] = None,
    api: Annotated[str | None, Parameter(help="backends' address, host:port; empty = none")] = None,
    config: ConfigFile = None,
    workers: Annotated[
        int | None, Parameter(help="processes that serve clients, beside a sequencer and a supervisor; 0 = one process")
    ] = None,
    take_over: Annotated[
        bool, Parameter(negative="", help="with workers: take the place of the one that runs on this data directory")
    ] = False,
    demo: Annotated[bool, Parameter(negative="", help="print tokens of two test users and a command to try")] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="print the addresses as one line of JSON once ready")
    ] = False,
) -> None:
    """Runs the log and the gateway until SIGTERM or Ctrl-C; then drains and stops."""
    from gateway import StartError

    flags = {
        "server.data": data,
        "server.listen": listen,
        "server.admin": admin,
        "server.api": api,
        "server.gateway_workers": workers,
    }
    loaded = load(config, **{name.replace(".", "__"): value for name, value in flags.items()})
    if take_over and not loaded.config.server.gateway_workers:
        fail("--take-over needs --workers N (or server.gateway_workers): one process has nobody to hand its sockets to")

    def ready(addresses: dict[str, Any]) -> None:
        if as_json:
            print_json(addresses)
        else:
            new = " (a new log was begun)" if addresses["new_log"] else ""
            print(
                f"gonets: clients {addresses['url']}  admin {addresses['admin'] or '(none)'}"
                f"  api {addresses['api'] or '(none)'}  data {addresses['data']}{new}"
                f"  durability {addresses['durability']}"
            )
            if demo:
                _print_demo(loaded.config, addresses)
        sys.stdout.flush()

    def reload() -> Config:
        return configuration.load(config, os.environ, flags).config

    try:
        if loaded.config.server.gateway_workers:
            from gateway import serve_processes

            serve_processes(loaded.config, ready, reload, take_over=take_over)
        else:
            from gateway import serve as serve_alone

            serve_alone(loaded.config, ready, reload)
    except StartError as error:
        fail(str(error))


def _print_demo(config: Config, addresses: dict[str, Any]) -> None:
    if config.auth.keys:
        print("gonets: --demo makes no tokens, because [auth] keys is set")
        return
    from gateway.development import persons_token

    for user in DEMO_USERS:
        print(f"token of user {user}: {persons_token(config, user, lifetime_s=DEMO_TOKEN_S)}")
    where = "" if addresses["url"] == DEFAULT_URL else f" --url {addresses['url']}"
    if config.tls.certificate:
        from gateway.certificate import UNKNOWN_AUTHORITY, seen_by_clients

        url, authority = seen_by_clients(Path(config.tls.certificate), addresses["url"])
        where = f" --url {url}" + (f" --ca {authority}" if authority else "")
        if authority == UNKNOWN_AUTHORITY:
            print(f"{authority} below is the certificate of the authority that signed {config.tls.certificate}")
    data = "" if config.server.data == "./data" else f" --data {config.server.data}"
    program = os.path.relpath(sys.argv[0])
    print("try in a second terminal, then in a third:")
    print(f"  {program} listen --user {DEMO_USERS[1]}{where}{data}")
    print(f'  {program} send --user {DEMO_USERS[0]} --to {DEMO_USERS[1]}{where}{data} "hello from the log"')
    if addresses["api"]:
        _print_backend(config, addresses["api"], program, data)


def _print_backend(config: Config, url: str, program: str, data: str) -> None:
    """What a backend team may try."""
    from gateway.api.cli_common import DOOR
    from gateway.development import SERVICE, TEAM, services_token

    token = services_token(config, lifetime_s=DEMO_TOKEN_S)
    print(f"token of service {SERVICE} of team {TEAM}: {token}")
    where = "" if url == DOOR else f" --url {url}"
    print(f"for backends, page with all operations: {url}/v1/docs; in a fourth terminal:")
    print(f"  {program} subscribe tour --start first{where}{data}")


@config_app.command
def memory(*, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """The sum of memory: every buffer, how far it can grow, and the option that says so."""
    from engine import limits

    options = load(config).config
    rows, one = limits.process_rows(options), limits.session_rows(options)
    total, there = limits.total_bytes(rows), limits.memory_bytes()
    shortage = limits.shortage(options)
    if as_json:
        found = [[{**row._asdict(), "total_bytes": row.total_bytes} for row in of_whom] for of_whom in (rows, one)]
        print_json(
            {
                "total_bytes": total,
                "machine_bytes": there,
                "shortage": shortage,
                "process": found[0],
                "session": found[1],
            }
        )
        return
    columns = ("buffer", "number", "bytes each", "total", "bounded by")
    for title, of_whom in (("The whole process, at most", rows), ("One session, of it", one)):
        lines = [
            (row.name, f"{row.number:,}", f"{row.bytes_each:,}", limits.size_text(row.total_bytes), row.source)
            for row in of_whom
        ]
        print_table(title, columns, lines)
    print(f"together {limits.size_text(total)}; this machine, or control group, has {limits.size_text(there)}")
    if shortage:
        print(shortage)


JobOption = Annotated[str, Parameter(help="label `job` of the nodes in Prometheus")]


@config_app.command
def alerts(
    *,
    job: JobOption = "gonets",
    runbook: Annotated[str, Parameter(help="where OPERATING.md is to be read, for runbook_url")] = "OPERATING.md",
    config: ConfigFile = None,
) -> None:
    """Rules for Prometheus, with the limits of this configuration; gateway/operating/OPERATING.md explains them."""
    from gateway.operating.rules import rules

    print(rules(_figures(load(config).config, job, runbook)), end="")


@config_app.command
def dashboard(*, job: JobOption = "gonets", config: ConfigFile = None) -> None:
    """A dashboard for Grafana as JSON, with the limits of this configuration; it can be imported as it is."""
    from gateway.operating.dashboard import dashboard as drawn

    print(drawn(_figures(load(config).config, job, "OPERATING.md")), end="")


def _figures(config: Config, job: str, runbook: str) -> Any:
    from gateway.operating.figures import FigureError, figures_of

    try:
        return figures_of(config, job, runbook)
    except FigureError as error:
        fail(str(error))


DEFAULT_URL = "ws://127.0.0.1:8800/v1"
UrlOption = Annotated[str | None, Parameter(help="the gateway (default: by server.listen)", env_var="GONETS_URL")]
CaOption = Annotated[Path | None, Parameter(help="wss: file of the authority to believe (default: the system's)")]


@app.command
def token(
    *,
    user: Annotated[int | None, Parameter(help="of a person: id of the user, 1 to 2^53-1")] = None,
    device: Annotated[int | None, Parameter(help="of a person: make it good for this device only")] = None,
    service: Annotated[int | None, Parameter(help="of a service: the user that its events are sent as")] = None,
    scope: Annotated[
        list[str], Parameter(consume_multiple=True, negative="", help="of a service: read:message publish:* …")
    ] = [],  # noqa: B006
    team: Annotated[str | None, Parameter(help="of a service: whose subscriptions it sees")] = None,
    lifetime_s: Annotated[int, Parameter(help="seconds until it expires")] = 86_400,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Makes a development token. Refused when [auth] keys is set: then tokens come from your issuer."""
    from gateway import development

    if (user is None) == (service is None):
        fail("say either --user N, for a person, or --service N, for a backend")
    if service is not None and device is not None:
        fail(f"--device {device}: a service has no device")
    if user is not None and (scope or team):
        fail("--scope and --team are of a service's token: say --service N instead of --user")
    config_of = load(config, server__data=data).config
    found: dict[str, Any] = {"user": user, "device": device}
    if user is not None:
        text = _made(lambda: development.persons_token(config_of, user, device, lifetime_s), config_of)
    else:
        assert service is not None
        found = {"service": service, "team": team or development.TEAM, "scope": scope or [*development.EVERYTHING]}
        words = (found["team"], found["scope"], lifetime_s)
        text = _made(lambda: development.services_token(config_of, service, *words), config_of)
    if as_json:
        print_json({"token": text, **found, "jti": development.jti_of(text), "expires": int(time.time()) + lifetime_s})
    else:
        print(text)


def _check_ids(**given: int | None) -> None:
    """Ids outside their limits, before anything is done with them."""
    from gateway.development import NoToken, check_ids

    try:
        check_ids(**given)
    except NoToken as error:
        fail(str(error))


def _made(make: Callable[[], str], config: Config) -> str:
    """A development token, or one line that says why there is none."""
    from gateway.auth import DEVELOPMENT_KEY
    from gateway.development import NoToken

    try:
        return make()
    except NoToken as error:
        fail(str(error))
    except OSError as error:
        fail(os_error(error, Path(config.server.data) / DEVELOPMENT_KEY))


def _url_of(config: Config) -> str:
    """Where the server of this configuration is reached from this machine."""
    host, port = split_address(config.server.listen)
    if not port:
        fail(f"server.listen = {config.server.listen!r}: the system chooses the port; name the gateway with --url")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{'wss' if config.tls.certificate else 'ws'}://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _client_token(config: Config, user: int, given: str | None) -> str:
    """The token of a session: the given one, or one of the development key of a server that has been run."""
    if given:
        return given
    from gateway.development import persons_token

    return _made(lambda: persons_token(config, user, otherwise=", or give --token"), config)


@config_app.command
def check(
    *,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: AsJson = False,
) -> None:
    """Checks the configuration, and explains every option: value, unit, limits, source, reloadable."""
    loaded = load(config, server__data=data)
    from gateway.trust import TrustError
    from gateway.trust import check as check_trust

    try:
        check_trust(loaded.config, Path(loaded.config.server.data))
    except TrustError as error:
        fail(str(error))
    rows = configuration.describe(loaded)
    if as_json:
        print_json({"ok": True, "options": rows})
        return
    print_table(
        "Options (● = taken by a reload, SIGHUP)",
        ("option", "value", "unit", "limits", "from", "", "meaning"),
        (
            (
                row.option,
                row.value if row.value != "" else "(empty)",
                row.unit,
                row.limits,
                row.source,
                "●" if row.reloadable else "",
                row.meaning,
            )
            for row in rows
        ),
    )


@app.command
def listen(
    *,
    user: Annotated[int, Parameter(help="who listens")],
    device: Annotated[int, Parameter(help="as which device")] = LISTEN_DEVICE,
    resume: Annotated[bool, Parameter(negative="", help="go on where the last `listen` of this device ended")] = False,
    count: Annotated[int | None, Parameter(help="end after so many events")] = None,
    url: UrlOption = None,
    ca: CaOption = None,
    token: Annotated[str | None, Parameter(help="default: a development token", env_var="GONETS_TOKEN")] = None,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="one JSON object a line")] = False,
) -> None:
    """Prints what a user receives, live."""
    from gateway import tour

    _check_ids(user=user, device=device)
    if count is not None and count < 1:
        fail(f"--count {count}: must be at least 1")
    loaded = load(config, server__data=data)
    place = Path(loaded.config.server.data)
    url = url or _url_of(loaded.config)

    def work() -> Any:
        tour.check_url(url)
        text = _client_token(loaded.config, user, token)
        return tour.listen(url, text, user, device, place, resume, as_json, count, tour.trust_of(ca, url))

    try:
        _connect(work, f"listen --user {user} --device {device}", url, place, bool(token))
    except KeyboardInterrupt:  # the way to end it
        raise SystemExit(0) from None


@app.command
def send(
    text: Annotated[str, Parameter(help="the message")],
    *,
    user: Annotated[int, Parameter(help="who sends")],
    to: Annotated[int | None, Parameter(help="the person it is for")] = None,
    conversation: Annotated[int | None, Parameter(help="or the conversation")] = None,
    device: Annotated[int, Parameter(help="as which device")] = SEND_DEVICE,
    url: UrlOption = None,
    ca: CaOption = None,
    token: Annotated[str | None, Parameter(help="default: a development token", env_var="GONETS_TOKEN")] = None,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Publishes one message and prints its receipt, which comes after the sync."""
    from gateway import tour

    if (to is None) == (conversation is None):
        fail("say either --to USER or --conversation ID")
    _check_ids(user=user, to=to, conversation=conversation, device=device)
    if to == user and not token:
        fail(f"--to {to}: must be another person than --user {user}")
    loaded = load(config, server__data=data)
    url = url or _url_of(loaded.config)

    def work() -> Any:
        tour.check_url(url)
        tour.check_text(text)
        trust = tour.trust_of(ca, url)
        return tour.send(url, _client_token(loaded.config, user, token), device, to, conversation, text, trust)

    what = f"send --to {to}" if conversation is None else f"send --conversation {conversation}"
    receipt = _connect(work, what, url, Path(loaded.config.server.data), bool(token))
    if as_json:
        print_json(receipt)
    else:
        print(
            f"{receipt['status']}: conversation {receipt['conversation']}, its event"
            f" {receipt['conversation_sequence']}, sequence {receipt['sequence']} in the log"
        )
    if receipt["status"] not in ("appended", "repeat"):
        raise SystemExit(1)


def _connect(work: Callable[[], Any], what: str, url: str, data: Path, own_token: bool) -> Any:
    """Runs a piece of client work; trouble that a person can mend is one line."""
    from websockets.exceptions import WebSocketException

    from gateway import tour
    from gateway.client import ClientError

    try:
        return asyncio.run(work())
    except tour.TourError as error:
        fail(str(error))
    except (ClientError, OSError, ValueError, WebSocketException) as error:
        fail(tour.explained(error, what, url, data, own_token))


def main() -> None:
    """Entry point of the `gonets` command."""
    try:
        try:
            run(app)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        if error.errno == errno.EPIPE:  # whoever read has enough
            raise SystemExit(PIPE_CLOSED) from None
        fail(os_error(error, Path("stdout")))


if __name__ == "__main__":
    main()

"""The command line of Gonets, and its composition root: the only file that may import everything.

A verb is a thin function: it reads the configuration, calls one function of the package that does the work, and
prints what comes back, for people or with `--json` for programs. What goes wrong in a way that a person can mend is
one line on stderr and exit code 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from engine import Config
from engine import config as configuration

DEMO_USERS = (1, 2)
DEMO_TOKEN_S = 30 * 86_400
TOKEN_MAX_S = 3_650 * 86_400
INTERRUPTED = 130  # what shells expect of a program that SIGINT ended
LISTEN_DEVICE, SEND_DEVICE = 1, 2  # a session each, so that `send` doesn't replace `listen`

ConfigFile = Annotated[Path | None, Parameter(help="TOML file; see `gonets config check` for what it may hold")]
DataDirectory = Annotated[str | None, Parameter(help="directory of log, state and cursors (default ./data)")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="print one JSON object instead")]


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
log_app = App(name="log", help="What the log holds.")
app.command(config_app)
app.command(log_app)
app.command("bench.cli:app", name="bench", help="Measurements, and the replay of real chats.")


def fail(message: str) -> NoReturn:
    """One clear line, exit code 1."""
    print(f"gonets: {message}", file=sys.stderr)
    raise SystemExit(1)


def _load(config: Path | None, **flags: object) -> configuration.Loaded:
    try:
        return configuration.load(config, os.environ, {name.replace("__", "."): value for name, value in flags.items()})
    except configuration.ConfigError as error:
        fail(str(error))


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "__struct_fields__") or hasattr(value, "__dataclass_fields__"):
        import msgspec

        return msgspec.to_builtins(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@app.command
def serve(
    *,
    data: DataDirectory = None,
    listen: Annotated[str | None, Parameter(help="clients' address, host:port")] = None,
    admin: Annotated[str | None, Parameter(help="operator's address, host:port; empty = none")] = None,
    config: ConfigFile = None,
    demo: Annotated[bool, Parameter(negative="", help="print tokens of two test users and a command to try")] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="print the addresses as one line of JSON once ready")
    ] = False,
) -> None:
    """Runs the log and the gateway until SIGTERM or Ctrl-C; then drains and stops."""
    from gateway import StartError
    from gateway import serve as run

    loaded = _load(config, server__data=data, server__listen=listen, server__admin=admin)

    def ready(addresses: dict[str, str]) -> None:
        if as_json:
            _print_json(addresses)
        else:
            print(
                f"gonets: clients {addresses['url']}  admin {addresses['admin'] or '(none)'}"
                f"  data {addresses['data']}  durability {addresses['durability']}"
            )
            if demo:
                _print_demo(loaded.config, addresses)
        sys.stdout.flush()

    try:
        run(
            loaded.config,
            ready,
            reload=lambda: (
                configuration.load(
                    config,
                    os.environ,
                    {
                        "server.data": data,
                        "server.listen": listen,
                        "server.admin": admin,
                    },
                ).config
            ),
        )
    except StartError as error:
        fail(str(error))


def _print_demo(config: Config, addresses: dict[str, str]) -> None:
    if config.auth.keys:
        print("gonets: --demo makes no tokens, because [auth] keys is set")
        return
    from gateway.auth import development_token

    for user in DEMO_USERS:
        token = development_token(
            Path(config.server.data), user, DEMO_TOKEN_S, config.auth.audience, config.auth.issuer
        )
        print(f"token of user {user}: {token}")
    where = "" if addresses["url"] == DEFAULT_URL else f" --url {addresses['url']}"
    data = "" if config.server.data == "./data" else f" --data {config.server.data}"
    program = os.path.relpath(sys.argv[0])
    print("try in a second terminal, then in a third:")
    print(f"  {program} listen --user {DEMO_USERS[1]}{where}{data}")
    print(f'  {program} send --user {DEMO_USERS[0]} --to {DEMO_USERS[1]}{where}{data} "hello from the log"')


DEFAULT_URL = "ws://127.0.0.1:8800/v1"
UrlOption = Annotated[str, Parameter(help="the gateway", env_var="GONETS_URL")]
CaOption = Annotated[Path | None, Parameter(help="wss: file of the authority to believe (default: the system's)")]


@app.command
def token(
    *,
    user: Annotated[int, Parameter(help="id of the user, 1 to 2^53-1")],
    device: Annotated[int | None, Parameter(help="make it good for this device only")] = None,
    lifetime_s: Annotated[int, Parameter(help="seconds until it expires")] = 86_400,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Makes a development token. Refused when [auth] keys is set: then tokens come from your issuer."""
    loaded = _load(config, server__data=data)
    text = _development_token(loaded.config, user, device, lifetime_s)
    if as_json:
        _print_json({"token": text, "user": user, "device": device, "expires": int(time.time()) + lifetime_s})
    else:
        print(text)


def _check_ids(**given: int | None) -> None:
    """Ids outside their limits, before anything is done with them."""
    from gateway.auth import ID_MAX

    for name, value in given.items():
        if value is not None and not 1 <= value <= ID_MAX:
            fail(f"--{name} {value}: must be 1 to {ID_MAX}")


def _development_token(config: Config, user: int, device: int | None, lifetime_s: int) -> str:
    from gateway.auth import DEVELOPMENT_KEY, KeysError, development_token

    if config.auth.keys:
        fail(f"auth.keys = {config.auth.keys!r} is set: tokens come from your issuer; unset it for development tokens")
    _check_ids(user=user, device=device)
    if not 1 <= lifetime_s <= TOKEN_MAX_S:
        fail(f"--lifetime-s {lifetime_s}: must be 1 to {TOKEN_MAX_S} (10 years)")
    data = Path(config.server.data)
    try:
        is_new = not (data / DEVELOPMENT_KEY).exists()
        text = development_token(data, user, lifetime_s, config.auth.audience, config.auth.issuer, device)
    except KeysError as error:
        fail(str(error))
    except OSError as error:
        why = "not a directory" if data.exists() and not data.is_dir() else error.strerror or error
        fail(f"--data {config.server.data!r}: {why}; name a directory in which the development key can be kept")
    if is_new:
        print(f"gonets: made a new development key in {data / DEVELOPMENT_KEY}", file=sys.stderr)
    return text


def _client_token(config: Config, user: int, given: str | None) -> str:
    """The token of a session: the given one, or one of the development key of a server that has been run."""
    if given:
        return given
    from gateway.auth import DEVELOPMENT_KEY

    # A key made here would be of no server: the refusal would then come from the gateway, and hide the mistake.
    data = config.server.data
    if not config.auth.keys and not os.path.exists(os.path.join(data, DEVELOPMENT_KEY)):
        fail(f"--data {data!r} holds no {DEVELOPMENT_KEY}: name the directory of `gonets serve`, or give --token")
    return _development_token(config, user, None, 86_400)


@config_app.command
def check(
    *,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: AsJson = False,
) -> None:
    """Checks the configuration, and explains every option: value, unit, limits, source, reloadable."""
    loaded = _load(config, server__data=data)
    from gateway.trust import TrustError
    from gateway.trust import check as check_trust

    try:
        check_trust(loaded.config, Path(loaded.config.server.data))
    except TrustError as error:
        fail(str(error))
    rows = configuration.describe(loaded)
    if as_json:
        _print_json({"ok": True, "options": rows})
        return
    _table(
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


def _log_directory(config: Path | None, data: str | None) -> Path:
    path = Path(_load(config, server__data=data).config.server.data)
    try:
        is_there = (path / "log").is_dir()
    except OSError as error:
        fail(f"--data {str(path)!r}: {error.strerror}; run this as the user of the server")
    if not is_there:
        fail(f"{path} holds no log: expected a directory made by `gonets serve`")
    return path


def _of_log(call: Callable[[], Any]) -> Any:
    """Runs a function of engine/log; what it refuses is one line."""
    from engine.errors import EngineError

    try:
        return call()
    except (EngineError, OSError) as error:
        fail(str(error))


@log_app.command
def stat(*, data: DataDirectory = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Segments, sequences, epochs, sizes. Can be used while the server runs."""
    from engine.log.stat import stat_log

    directory = _log_directory(config, data)
    found = _of_log(lambda: stat_log(directory))
    _print_json(found) if as_json else _print_fields(found)


@log_app.command
def read(
    *,
    from_sequence: Annotated[int, Parameter(name="--from", help="first sequence")] = 1,
    limit: Annotated[int, Parameter(help="at most so many events")] = 20,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Events as they are stored. Payloads of messages are shown by their size only."""
    from engine.log.read import read_log

    directory = _log_directory(config, data)
    events = _of_log(lambda: list(read_log(directory, from_sequence, limit)))
    if as_json:
        _print_json({"events": events})
        return
    columns = (
        "sequence",
        "conversation",
        "conversation_sequence",
        "previous",
        "time",
        "sender",
        "device",
        "counter",
        "type",
    )
    _table(f"Events from {from_sequence}", columns, ([event[name] for name in columns] for event in events))


@log_app.command(name="check")
def check_log_command(*, data: DataDirectory = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Derives every invariant again from the bytes; exit code 1 and the places if one doesn't hold."""
    from engine.log.check import check_log

    directory = _log_directory(config, data)
    report = _of_log(lambda: check_log(directory))
    _print_json(report) if as_json else _print_fields(report)
    if report["problems"]:
        raise SystemExit(1)


@log_app.command
def snapshot(
    *,
    only_list: Annotated[bool, Parameter(name="--list", negative="", help="take none, list what there is")] = False,
    data: DataDirectory = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Takes a verified snapshot of the state, which a trimmed log can be opened from. Also while the server runs."""
    from engine.log.snapshot import snapshot_log

    directory = _log_directory(config, data)
    found = _of_log(lambda: snapshot_log(directory, only_list))
    _print_json(found) if as_json else _print_fields(found)


def _print_fields(found: dict[str, Any]) -> None:
    """A mapping for people: plain values as lines, lists of mappings as tables."""
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            _table(name, value[0], (row.values() for row in value))
        else:
            print(f"{name}: {value if value != [] else 'none'}")


@app.command
def listen(
    *,
    user: Annotated[int, Parameter(help="who listens")],
    device: Annotated[int, Parameter(help="as which device")] = LISTEN_DEVICE,
    resume: Annotated[bool, Parameter(negative="", help="go on where the last `listen` of this device ended")] = False,
    count: Annotated[int | None, Parameter(help="end after so many events")] = None,
    url: UrlOption = DEFAULT_URL,
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
    loaded = _load(config, server__data=data)
    place = Path(loaded.config.server.data)

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
    url: UrlOption = DEFAULT_URL,
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
    loaded = _load(config, server__data=data)

    def work() -> Any:
        tour.check_url(url)
        tour.check_text(text)
        trust = tour.trust_of(ca, url)
        return tour.send(url, _client_token(loaded.config, user, token), device, to, conversation, text, trust)

    what = f"send --to {to}" if conversation is None else f"send --conversation {conversation}"
    receipt = _connect(work, what, url, Path(loaded.config.server.data), bool(token))
    if as_json:
        _print_json(receipt)
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
        app()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()

"""What the verbs of the backends' command line share: options, where the door is, one piece of work with a caller.

Used by cli.py and cli_events.py. Trouble that a person can mend is one line on stderr and exit code 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from cyclopts import Parameter

from engine import Config, console, split_address
from gateway.api.caller import Away, Caller, Refused, check_url
from gateway.development import SERVICE, TEAM, NoToken, services_token

T = TypeVar("T")
DOOR: Final = "http://127.0.0.1:8802"  # where `make run` opens it
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SEQUENCE_DIGITS_MAX: Final = 18

Url = Annotated[str | None, Parameter(help="the backends' door (default: by server.api)", env_var="GONETS_API_URL")]
Token = Annotated[
    str | None, Parameter(help="service token (default: a development token)", env_var="GONETS_SERVICE_TOKEN")
]
Team = Annotated[str, Parameter(help="of the development token: subscriptions are a team's")]
Service = Annotated[int, Parameter(help="of the development token: the user that events are sent as")]
Name = Annotated[str, Parameter(help="of the subscription")]
ALLOW: Final = (
    "; narrow what is asked with --type or --conversation-kind, or name the words of a token that allows it: `gonets"
    " token --service N --team TEAM --scope read:* audit subscriptions publish:*`"
)
Many = Parameter(consume_multiple=True, negative="")


def _door(config: Config, url: str | None) -> str:
    if url is None:
        host, port = split_address(config.server.api) if config.server.api else ("", 0)
        if not config.server.api:
            return DOOR
        if not port:
            console.fail(f"server.api = {config.server.api!r}: the system chooses the port; name the door with --url")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        return check_url(url)
    except ValueError as error:
        console.fail(str(error))


@Parameter(name="*")  # its fields are options of the verb
@dataclass(frozen=True)
class Where:
    """The door, and who knocks: what all verbs share."""

    url: Url = None
    token: Token = None
    team: Team = TEAM
    data: console.DataDirectory = None
    config: console.ConfigFile = None


@Parameter(name="*")
@dataclass(frozen=True)
class AsService(Where):
    """The same of verbs that publish or consume: as whom."""

    service: Service = SERVICE


HERE: Final = Where()
HERE_AS_SERVICE: Final = AsService()


def run(work: Callable[[Caller], Coroutine[Any, Any, T]], where: Where) -> T:
    """One piece of work with a caller; trouble that a person can mend is one line."""
    loaded = console.load(where.config, server__data=where.data)
    door = _door(loaded.config, where.url)
    service = where.service if isinstance(where, AsService) else SERVICE
    try:
        text = where.token or services_token(loaded.config, service, where.team, otherwise=", or give --token")
    except NoToken as error:
        console.fail(str(error))
    except OSError as error:
        console.fail(console.os_error(error, Path(loaded.config.server.data)))

    async def with_caller() -> T:
        async with Caller(door, text) as caller:
            return await work(caller)

    try:
        return asyncio.run(with_caller())
    except (Refused, Away) as error:
        allow = ALLOW if isinstance(error, Refused) and error.code == "forbidden" else ""
        console.fail(f"{error}{allow}")


def start_of(text: str, option: str = "--start") -> dict[str, Any]:
    """As the door takes it."""
    if text == "first":
        return {"first": True}
    if text == "last":
        return {}
    if text.isascii() and text.isdecimal() and len(text) <= SEQUENCE_DIGITS_MAX:
        return {"sequence": int(text)}
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.astimezone()
    except (ValueError, OverflowError):
        console.fail(
            f"{option} {text[:80]!r}: must be first, last, the sequence of the event before the first wanted one, or a"
            " time such as 2026-11-25T10:00Z (without a zone: this machine's)"
        )
    if moment < EPOCH:
        console.fail(f"{option} {text!r}: a time must be of 1970 or later")
    return {"time": int((moment - EPOCH).total_seconds() * 1_000_000)}

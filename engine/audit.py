"""The record of what operators did: events of the system conversation, as engine/AUDIT.md says.

Between who administers a server and who reads the log. Two kinds of acts: what a command did is a note
(engine/log/acts.py); what is in force (keys, revocations, options) is compared with what was last told, whoever changed
it and however, while the server ran or not. Turned once a second by the part that serves backends, on its loop.

Invariants: **U1** a note is told once, and then gone: its event has its name as key. **U2** what is in force was told,
or will be: its event is stored, with a key of its own, before it is posted, and posted again after a crash. **U3**
a new log begins with nothing to tell: what was in force at its beginning is what the first change names as before.
**U4** what can't be told stays, is counted, and is tried again. Cost: a look into a directory a second.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from engine import schema
from engine.errors import CallerError, EngineUnable
from engine.log.acts import FOLDER, forget_act, noted_acts, put_aside, read_act, unreadable_acts
from engine.log.files import write_json
from engine.log.place import make_directory

TOLD: Final = "told.json"
VALUE_CHARACTERS_MAX: Final = 200  # ASCII
KIDS_CHARACTERS_MAX: Final = 64
UNTOLD_MAX: Final = 100  # events of what is in force, while the log takes none

Key = tuple[str, str, str]
Tell = Callable[[str, dict[str, Any], str], Awaitable[int]]
"""Posts an event: its type, its fields, the key that makes it one; its sequence, once it is synced."""


class Revocations(Struct, frozen=True):
    """The list in force: the SHA-256 of its document in hex, "" for none, and its entries."""

    sha256: str = ""
    tokens: int = 0
    users: int = 0
    devices: int = 0


class InForce(Struct, frozen=True, kw_only=True):
    """By what a server judges and works. `keys` None: not known now. Options that are not at their default, by dotted
    names, as JSON."""

    keys: list[Key] | None
    revocations: Revocations
    options: dict[str, str]


class Untold(Struct, frozen=True):
    """An event that is to be, and what makes it one."""

    type: str
    fields: dict[str, Any]
    key: str


class Told(Struct, frozen=True, kw_only=True):
    """What the log says is in force, once what is still `untold` has been told."""

    keys: list[Key] | None = None
    revocations: Revocations | None = None
    options: dict[str, str] | None = None
    untold: list[Untold] = []
    format: int = 1


class Audit:
    """Of one data directory, while its log is written. `untold`: what is still to be told, as of the last turn."""

    def __init__(self, data: Path, tell: Tell, in_force: Callable[[], InForce], *, is_new: bool) -> None:
        """`is_new`: the log is empty. Raises EngineUnable."""
        self._data, self._tell, self._in_force = data, tell, in_force
        self.untold = 0
        told = _read(data / FOLDER / TOLD)
        self._told = told if told is not None else Told()
        self._is_stored = told is not None
        if told is None and is_new:
            now = in_force()
            self._told = Told(keys=now.keys, revocations=now.revocations, options=now.options)

    async def turn(self) -> None:
        """Tells what there is to tell. Raises EngineError, OSError: then the rest is still to be told, by what comes
        later nothing is held up but by a log that takes nothing."""
        trouble: Exception | None = None
        try:
            await self._compare()
        except OSError as error:
            trouble = error
        notes, unreadable = await asyncio.to_thread(lambda: (noted_acts(self._data), unreadable_acts(self._data)))
        self.untold = len(notes) + len(self._told.untold) + unreadable
        for path in notes:
            try:
                self.untold -= await self._tell_note(path)
            except (CallerError, OSError) as error:
                trouble = trouble or error
        while self._told.untold:
            first, *rest = self._told.untold
            await self._tell(first.type, first.fields, first.key)
            await asyncio.to_thread(self._store, msgspec.structs.replace(self._told, untold=rest))
            self.untold -= 1
        if trouble is not None:
            raise trouble

    async def _compare(self) -> None:
        """Stores what is to be told of what is in force. Raises OSError."""
        is_full = len(self._told.untold) >= UNTOLD_MAX  # once there is room, all that has changed by then is one event
        changed = None if is_full else _changed(self._told, self._in_force())
        if changed is not None or not self._is_stored:
            await asyncio.to_thread(self._store, changed or self._told)

    async def _tell_note(self, path: Path) -> bool:
        """Whether it is told, and gone. Raises EngineError, OSError."""
        try:
            note = await asyncio.to_thread(read_act, path)
        except FileNotFoundError:
            return True
        except ValueError:
            await asyncio.to_thread(put_aside, path)
            return False
        await self._tell(note.type, note.fields, f"act {path.name}")
        await asyncio.to_thread(forget_act, path)
        return True

    def _store(self, told: Told) -> None:
        make_directory(self._data / FOLDER)
        write_json(self._data / FOLDER / TOLD, told)
        self._told, self._is_stored = told, True


def _read(path: Path) -> Told | None:
    """None where nothing is known: what is in force is then told anew. Raises EngineUnable."""
    try:
        told = msgspec.json.decode(path.read_bytes(), type=Told)
        for one in told.untold:
            msgspec.convert(one.fields, type=schema.SCHEMA[one.type])
    except (FileNotFoundError, ValueError, KeyError, RecursionError):
        return None
    except OSError as error:
        raise EngineUnable(
            f"{path}: {error.strerror}", hint="the user of the server must be able to read it"
        ) from error
    return told if told.format == 1 else None


def _changed(told: Told, now: InForce) -> Told | None:
    """With an event for each kind that differs; None if none does."""
    untold = list(told.untold)

    def add(type_name: str, fields: dict[str, Any]) -> None:
        untold.append(Untold(type_name, fields, f"in force {secrets.token_hex(16)}"))

    if now.keys is not None and now.keys != told.keys:
        add(schema.ADMIN_KEYS, {"keys": _rows(now.keys), "before": _rows(told.keys or [])})
    if now.revocations != told.revocations:
        before = told.revocations or Revocations()
        add(schema.ADMIN_REVOCATIONS, {**msgspec.to_builtins(now.revocations), "before": before.sha256})
    if now.options != told.options:
        rows = _changed_options(told.options or {}, now.options)
        add(schema.ADMIN_OPTIONS, {"changed": rows[: schema.ROWS_MAX], "more": len(rows[schema.ROWS_MAX :])})
    if len(untold) == len(told.untold):
        return None
    keys = told.keys if now.keys is None else now.keys
    return Told(keys=keys, revocations=now.revocations, options=now.options, untold=untold)


def _changed_options(before: dict[str, str], now: dict[str, str]) -> list[tuple[str, str, str]]:
    names = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    return [(name, _shown(now.get(name, "")), _shown(before.get(name, ""))) for name in names]


def _rows(keys: list[Key]) -> list[Key]:
    return [(kid[:KIDS_CHARACTERS_MAX], algorithm, digest) for kid, algorithm, digest in keys[: schema.ROWS_MAX]]


def _shown(value: str) -> str:
    return value if len(value) <= VALUE_CHARACTERS_MAX else value[: VALUE_CHARACTERS_MAX - 1] + "…"

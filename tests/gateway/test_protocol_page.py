"""PROTOCOL.md says what the code does: its tables row by row, its bytes bit by bit, its JSON as commands and pushes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgpack
import pytest

from engine import schema
from engine.config import load
from engine.conversations import KIND_BY_NAME, KINDS, Right
from engine.errors import STATUSES
from ext.jsonevent import json_event
from ext.record import encode
from gateway import close_codes, errors, hello, pushes, requests

PAGE = (Path(__file__).resolve().parents[2] / "gateway" / "PROTOCOL.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, title
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in lines]


def yes(flag: bool) -> str:
    return "yes" if flag else "no"


def test_statuses_errors_and_close_codes_are_those_of_the_code() -> None:
    assert rows(section("Receipts"))[1:] == [
        [row.name, str(row.number), yes(row.retryable), row.hint] for row in STATUSES.values()
    ]
    page = [[cell for cell in row if cell] for row in rows(section("Errors"))[1:]]
    assert page == [
        [cell for cell in (code, yes(row.retryable), str(row.closes or ""), row.hint) if cell]
        for code, row in errors.TABLE.items()
    ]
    assert rows(section("Close codes"))[1:] == [
        [str(row.code), row.name, yes(row.reconnect), row.action] for row in close_codes.TABLE
    ]


def test_every_command_key_and_push_is_on_the_page() -> None:
    commands = "\n".join(" | ".join(row) for row in rows(section("Commands")))
    for request in requests.AnyRequest.__args__:
        tag = request.__struct_config__.tag
        line = next(line for line in commands.splitlines() if re.search(rf"(^|, `?){tag}(`| |,)", line))
        for field in request.__struct_fields__:
            assert field == "id" or re.search(rf"\b{field}\b", line), (tag, field, line)
    numbers = {int(row[0]): row[1] for row in rows(section("Pushes")) if row[0].isdigit()}
    assert numbers == pushes.NAMES
    for name in schema.SCHEMA.keys() - schema.SYSTEM:  # those no client gets
        assert f"`{name}`" in section("Pushes")
    for prefix in schema.RESERVED:
        assert f"`{prefix}`" in section("Commands")
    for name in hello.limits(load(None, {}).config):
        assert f"`{name}`" in section("Limits") or f"limits.{name}" in PAGE, name


def test_the_table_of_roles_is_that_of_the_engine() -> None:
    lines = [row for row in rows(section("Commands")) if row[0] in KIND_BY_NAME]
    assert [[cell.strip("| ") for cell in row] for row in lines] == [
        [
            cell
            for cell in (
                kind.name,
                role.name.lower() if role else "not a member",
                ", ".join(str(right.name).lower().replace("_", " ") for right in Right if right in row.rights),
                ", ".join(given.name.lower() for given in sorted(row.assigns)),
            )
            if cell
        ]
        for kind in KINDS.values()
        for role, row in kind.roles.items()
    ]


def test_the_edit_in_both_encodings() -> None:
    payload = schema.pack(schema.Edited(1042, b"hello!"))
    assert hex_block("edited") == payload
    found = re.search(r"```edited-json\n→ (.*)\n← (.*)\n```", PAGE)
    assert found
    assert requests.decode(pushes.JSON, found.group(1).encode()) == requests.Publish(
        counter=5, conversation=77, type="message.edited", target=1042, text="hello!"
    )
    record = encode(1391, 77, 8, 1101, 1_795_515_700_000_000, 1, 7, 5, "message.edited", payload)
    assert json_event(record).decode() == found.group(2)


def test_the_defaults_and_limits_on_the_page() -> None:
    create = requests.decode(pushes.JSON, b'{"op":"create","counter":1,"kind":"group","title":"t","members":[2]}')
    assert create == requests.Create(counter=1, kind="group", title="t", members=[2], history=True)
    for words in ("`history` is true if not given", "`title` has 1 to 256", "`client` (≤ 128 characters)"):
        assert words in PAGE, words
    for title, fits in (("", False), ("t" * 256, True), ("t" * 257, False)):
        message = msgpack.packb({"op": "rename", "counter": 1, "conversation": 5, "title": title})
        if fits:
            requests.decode(pushes.MSGPACK, message)
        else:
            with pytest.raises(requests.BadRequest):
                requests.decode(pushes.MSGPACK, message)


def hex_block(name: str) -> bytes:
    found = re.search(rf"```{name}\n(.*?)```", PAGE, re.S)
    assert found
    lines = [re.match(r"((?:[0-9a-f]{2} )+)", line) for line in found.group(1).splitlines()]
    assert all(lines)
    return b"".join(bytes.fromhex(line.group(1)) for line in lines if line)


def test_the_annotated_bytes() -> None:
    publish = requests.decode(pushes.MSGPACK, hex_block("publish"))
    assert publish == requests.Publish(counter=3, conversation=77, payload=b"hello")
    assert msgpack.unpackb(hex_block("receipt")) == [2, [3, "appended", 77, 1042, 5, 1_795_515_000_000_000, 0]]
    event = hex_block("event")
    record = encode(1042, 77, 5, 1038, 1_795_515_000_000_000, 1, 7, 3, "message", b"hello")
    values = [1042, 77, 5, 1038, 1_795_515_000_000_000, 1, 7, 3, "message", b"hello"]
    assert msgpack.unpackb(event) == [1, values]
    assert event == b"\x92\x01" + record


def test_the_worked_exchange_is_made_of_commands_and_pushes() -> None:
    lines = re.findall(r"^([→←]) (\{.*\})$", section("A worked exchange, from connect to resume (JSON)"), re.M)
    assert len(lines) > 15
    for direction, text in lines:
        if direction == "→":
            requests.decode(pushes.JSON, text.encode())
        else:
            assert json.loads(text)["op"] in pushes.NAMES.values()
    event = next(text for _, text in lines if text.startswith('{"op":"event","sequence":1042'))
    record = encode(1042, 77, 5, 1038, 1_795_515_000_000_000, 1, 7, 3, "message", b"hello")
    assert json_event(record).decode() == event

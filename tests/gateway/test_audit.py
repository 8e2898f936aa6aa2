"""The record of what operators did (engine/AUDIT.md, U1 to U4), against a log that fails and a process that dies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from engine import Audit, Config, InForce, Revocations, schema
from engine.audit import UNTOLD_MAX, Told
from engine.errors import EngineUnable
from engine.log.acts import FOLDER, Note, note_act, noted_acts
from engine.options import Auth, Server
from gateway.api.in_force import Judging
from gateway.trust import Trust
from tests.support.tokens import Issuer

DER, INFO = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
DEEP = b'{"untold": [{"type": "", "key": "", "fields": {"a": ' + b"[" * 100_000
UNFIT = tuple(
    b'{"untold": [{"type": "%b", "fields": {"changed": 1}, "key": "k"}]}' % name for name in (b"x", b"admin.options")
)
NOTHING = InForce(keys=None, revocations=Revocations(), options={})


class Died(BaseException):
    """The process, at this step."""


class NaiveLog:
    """What is told, once a key; refuses, or dies before or behind it, as it is told to."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.keys: dict[str, int] = {}
        self.trouble = ""

    async def tell(self, type: str, fields: dict[str, Any], key: str) -> int:
        """As Part does, which packs it: a payload that fits no schema is a mistake here."""
        trouble, self.trouble = self.trouble, ""
        if trouble == "refused":
            raise EngineUnable("no")
        if trouble == "before":
            raise Died
        if key not in self.keys:
            packed = schema.pack(msgspec.convert(fields, type=schema.SCHEMA[type]))
            assert len(packed) <= schema.PAYLOAD_BYTES_MAX
            self.events.append((type, schema.as_map(schema.unpack(type, packed))))
            self.keys[key] = len(self.events)
        if trouble == "behind":
            raise Died
        return self.keys[key]

    def told(self, type: str) -> list[dict[str, Any]]:
        """All of a type."""
        return [fields for name, fields in self.events if name == type]


def turn(audit: Audit) -> None:
    """One."""
    asyncio.run(audit.turn())


def test_a_new_log_has_nothing_to_tell_and_the_first_change_names_what_was(tmp_path: Path) -> None:
    """U3."""
    log, now = NaiveLog(), [InForce(keys=[("a", "EdDSA", "1")], revocations=Revocations("x", 1), options={"a.b": "1"})]
    audit = Audit(tmp_path, log.tell, lambda: now[0], is_new=True)
    turn(audit)
    assert log.events == [] and audit.untold == 0
    now[0] = InForce(keys=[("b", "EdDSA", "2")], revocations=Revocations(), options={"a.b": "2", "a.c": '"é"'})
    turn(audit)
    assert log.events == [
        ("admin.keys", {"keys": [("b", "EdDSA", "2")], "before": [("a", "EdDSA", "1")]}),
        ("admin.revocations", {"sha256": "", "tokens": 0, "users": 0, "devices": 0, "before": "x"}),
        ("admin.options", {"changed": [("a.b", "2", "1"), ("a.c", '"é"', "")], "more": 0}),
    ]
    turn(audit)
    turn(Audit(tmp_path, log.tell, lambda: now[0], is_new=False))
    assert len(log.events) == 3


def test_where_nothing_is_known_of_what_was_told_all_is_told(tmp_path: Path) -> None:
    """After a restore, or when the file has been removed or damaged."""
    now = InForce(keys=[("a", "EdDSA", "1")], revocations=Revocations("x", 1), options={"a.b": "1"})
    for damage in (None, b"", b"{", b'{"format": 2}', b'{"untold": "x"}', *UNFIT, DEEP):
        (tmp_path / FOLDER).mkdir(exist_ok=True)
        if damage is not None:
            (tmp_path / FOLDER / "told.json").write_bytes(damage)
        log = NaiveLog()
        audit = Audit(tmp_path, log.tell, lambda: now, is_new=False)
        turn(audit)
        assert [name for name, _ in log.events] == ["admin.keys", "admin.revocations", "admin.options"]
        assert log.told("admin.keys")[0]["before"] == [] and log.told("admin.revocations")[0]["before"] == ""


def test_what_was_told_and_cannot_be_read_is_said(tmp_path: Path) -> None:
    """At the start, in a line; a file that is no JSON is another matter."""
    (tmp_path / FOLDER / "told.json").mkdir(parents=True)
    with pytest.raises(EngineUnable, match=r"told.json: Is a directory"):
        Audit(tmp_path, NaiveLog().tell, lambda: NOTHING, is_new=True)


def test_keys_that_are_not_known_now_are_no_change(tmp_path: Path) -> None:
    """An issuer that doesn't answer is nobody's act."""
    log, keys = NaiveLog(), [("a", "EdDSA", "1")]
    now = [InForce(keys=keys, revocations=Revocations(), options={})]
    audit = Audit(tmp_path, log.tell, lambda: now[0], is_new=True)
    for found in (None, keys):
        now[0] = InForce(keys=found, revocations=Revocations(), options={})
        turn(audit)
    assert log.events == []


def test_what_is_long_fits_into_an_event(tmp_path: Path) -> None:
    """Cut where it must be, and said so; what is told is compared whole."""
    log, long = NaiveLog(), "é" * 1_000
    options = {f"a.{number:03d}": json.dumps(long) for number in range(200)}
    keys = [(long + str(number), "EdDSA", "1" * 64) for number in range(200)]
    now = [InForce(keys=keys, revocations=Revocations(), options=options)]
    audit = Audit(tmp_path, log.tell, lambda: now[0], is_new=False)
    turn(audit)
    (fields,) = log.told("admin.options")
    assert len(fields["changed"]) + fields["more"] == 200 and fields["more"]
    now[0] = InForce(keys=keys, revocations=Revocations(), options={**options, "a.199": "1"})
    turn(audit)
    assert [row[0] for row in log.told("admin.options")[1]["changed"]] == ["a.199"]
    assert audit.untold == 0


def test_what_the_log_refuses_is_counted_and_told_later(tmp_path: Path) -> None:
    """U4. A note that can't be read holds up no other, and is counted until somebody has removed it."""
    log = NaiveLog()
    audit = Audit(tmp_path, log.tell, lambda: NOTHING, is_new=True)
    for first in (1, 2):
        note_act(tmp_path, schema.ADMIN_DUMPED, first=first, last=9)
    log.trouble = "refused"
    with pytest.raises(EngineUnable):
        turn(audit)
    assert audit.untold == 2 and log.events == [] and len(noted_acts(tmp_path)) == 2
    noted_acts(tmp_path)[0].write_text("{")
    turn(audit)
    assert [fields["first"] for fields in log.told("admin.dumped")] == [2] and audit.untold == 1
    turn(audit)
    assert audit.untold == 1
    (left,) = (tmp_path / FOLDER).glob("*.unreadable")
    left.unlink()
    turn(audit)
    assert audit.untold == 0


def test_what_cannot_be_told_holds_up_nothing_else(tmp_path: Path) -> None:
    """U4. A note that nobody may read or name, and what is in force while its file can't be written."""
    log, now = NaiveLog(), [NOTHING]
    audit = Audit(tmp_path, log.tell, lambda: now[0], is_new=True)
    turn(audit)
    long = tmp_path / FOLDER / ("0" * 250 + ".json")  # no room for the name that puts it aside
    long.write_text("{")
    note_act(tmp_path, schema.ADMIN_DUMPED, first=1, last=9)
    now[0] = structs.replace(NOTHING, revocations=Revocations("x"))
    with pytest.raises(OSError, match="too long"):
        turn(audit)
    assert [name for name, _ in log.events] == ["admin.dumped", "admin.revocations"] and audit.untold == 1
    long.unlink()
    (tmp_path / FOLDER / "told.json").unlink()
    (tmp_path / FOLDER / "told.json").mkdir()
    note_act(tmp_path, schema.ADMIN_DUMPED, first=2, last=9)
    now[0] = NOTHING
    with pytest.raises(OSError, match="directory"):
        turn(audit)
    assert [fields["first"] for fields in log.told("admin.dumped")] == [1, 2]
    (tmp_path / FOLDER / "told.json").rmdir()
    turn(audit)
    assert log.told("admin.revocations")[-1]["before"] == "x" and audit.untold == 0


def test_what_a_log_does_not_take_is_bounded(tmp_path: Path) -> None:
    """A list of revocations that changes each second while the disk is full: the last of what waits is the sum."""
    log, now = NaiveLog(), [NOTHING]
    audit = Audit(tmp_path, log.tell, lambda: now[0], is_new=True)
    for number in range(2 * UNTOLD_MAX):
        now[0] = structs.replace(NOTHING, revocations=Revocations(str(number)))
        log.trouble = "refused"
        with pytest.raises(EngineUnable):
            turn(audit)
    assert audit.untold == UNTOLD_MAX
    turn(audit)
    turn(audit)
    said = log.told("admin.revocations")
    assert len(said) == UNTOLD_MAX + 1 and said[-1]["sha256"] == str(2 * UNTOLD_MAX - 1)
    assert said[-1]["before"] == said[-2]["sha256"]


STEPS = st.lists(
    st.sampled_from(["note", "keys", "revocations", "options", "turn", "refused", "before", "behind", "restart"]),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(0, 2**32))
def test_every_act_is_told_once_whatever_dies_when(steps: list[str], seed: int) -> None:
    """U1, U2: notes each once and in order; of what is in force a chain, each event's `before` what the last one said,
    ending with what is in force."""
    rng, log = random.Random(seed), NaiveLog()
    with tempfile.TemporaryDirectory() as name:
        data, now, noted = Path(name), [NOTHING], 0

        def begin(is_new: bool = False) -> Audit:
            return Audit(data, log.tell, lambda: now[0], is_new=is_new)

        audit = begin(True)
        turn(audit)
        for step in [*steps, "restart", "turn"]:
            if step == "note":
                noted += 1
                note_act(data, schema.ADMIN_DUMPED, first=noted, last=noted)
            elif step == "keys":
                now[0] = structs.replace(now[0], keys=[(str(rng.randrange(3)), "EdDSA", "1")])
            elif step == "revocations":
                now[0] = structs.replace(now[0], revocations=Revocations(str(rng.randrange(3))))
            elif step == "options":
                now[0] = structs.replace(now[0], options={"a.b": str(rng.randrange(3))})
            elif step == "restart":
                audit = begin()
            else:
                log.trouble = step if step != "turn" else ""
                try:
                    turn(audit)
                except EngineUnable:
                    pass
                except Died:
                    audit = begin()
                log.trouble = ""
        assert [fields["first"] for fields in log.told("admin.dumped")] == list(range(1, noted + 1))
        said = ""
        for fields in log.told("admin.revocations"):
            assert fields["before"] == said != fields["sha256"]
            said = fields["sha256"]
        assert said == now[0].revocations.sha256
        value = ""
        for fields in log.told("admin.options"):
            ((option, after, before),) = fields["changed"]
            assert (option, before) == ("a.b", value) and after != before
            value = after
        assert value == now[0].options.get("a.b", "")
        keys: list[Any] = []
        for fields in log.told("admin.keys"):
            assert fields["before"] == keys != fields["keys"]
            keys = fields["keys"]
        assert keys == (now[0].keys or [])


def test_what_a_server_judges_by(tmp_path: Path) -> None:
    """By the document's own hash, the keys' public halves, and the options that somebody has set."""
    issuer = Issuer()
    revoked = tmp_path / "revoked.json"
    revoked.write_text('{"tokens": ["a", "b"], "users": {"7": 1}}')
    auth = Auth(keys=str(issuer.write(tmp_path / "keys.json")), revoked=str(revoked))
    config = Config(server=Server(data=str(tmp_path)), auth=auth)
    trust = Trust(config, tmp_path)
    trust.open()
    judging = Judging(trust, lambda: config)
    found = judging()
    assert found.revocations == Revocations(hashlib.sha256(revoked.read_bytes()).hexdigest(), 2, 1, 0)
    options = {"server.data": str(tmp_path), "auth.keys": auth.keys, "auth.revoked": str(revoked)}
    assert found.options == {name: json.dumps(value) for name, value in options.items()}
    assert found.keys == sorted(
        (kid, algorithm, hashlib.sha256(private.public_key().public_bytes(DER, INFO)).hexdigest())
        for kid, (algorithm, private) in issuer.keys.items()
    )
    issuer.write(tmp_path / "keys.json", "ec")
    revoked.write_text("{}")
    trust.reload()
    config = structs.replace(config, auth=structs.replace(auth, leeway_s=7))
    found = judging()
    assert found.keys is not None and [row[0] for row in found.keys] == ["ec"]
    assert found.revocations == Revocations(hashlib.sha256(b"{}").hexdigest())
    assert found.options["auth.leeway_s"] == "7"


def test_what_lets_one_in_is_told_by_its_hash(tmp_path: Path) -> None:
    """The query of a URL, a signed one's say; the next one is another."""
    issuer = Issuer()
    config = Config(auth=Auth(keys=str(issuer.write(tmp_path / "keys.json"))))
    trust = Trust(config, tmp_path)
    trust.open()
    said = []
    for query in ("?signature=geheim", "?signature=secret", ""):
        auth = structs.replace(config.auth, revoked=f"https://issuer.example/revoked.json{query}")
        options = Judging(trust, lambda auth=auth: structs.replace(config, auth=auth))().options  # type: ignore[misc]
        said.append(json.loads(options["auth.revoked"]))
    assert len(set(said)) == 3 and said[-1] == "https://issuer.example/revoked.json"
    assert all(one.startswith("https://issuer.example/revoked.json?sha256=") for one in said[:2])
    assert "geheim" not in str(said) and "secret" not in str(said)


def test_the_page_says_what_there_is() -> None:
    """Every event, the files' fields, the invariants."""
    text = (Path(__file__).resolve().parents[2] / "engine" / "AUDIT.md").read_text()
    named = {word for word in text.replace(",", " ").split() if word.startswith("`admin.")}
    assert {f"`{name}`" for name in schema.OF_OPERATORS} <= named
    of_subscriptions = {name.removeprefix("subscription.") for name in schema.OF_SUBSCRIPTIONS} - {"created"}
    assert all(f"`{name}`" in text for name in (*of_subscriptions, "subscription.created"))
    for struct_type in (Told, Note):
        fields = ", ".join(f'"{name}"' for name in struct_type.__struct_fields__)
        assert "`{" + fields + ": 1}`" in text
    assert all(f"* **{name}** " in text for name in ("U1", "U2", "U3", "U4"))

"""The parser of chat logs, and a seeded maker of logs of the same shape.

Used by replay.py, which drives a gateway with what comes out of here. The form is that of IRC logs of the #ubuntu
kind: `[HH:MM] <nick> text`, `[HH:MM]  * nick text`, `=== nick has joined #x`, `=== nick has left …`,
`=== nick is now known as other`. Logs are what clients really sent: bytes stay bytes (broken UTF-8, control
characters), lines end at LF alone (a CR before it is dropped), and what has none of the forms is passed over, counted.

Invariants: the text of a message is exactly the bytes after the nick; the same person has one nick key whatever the
case (RFC 1459 rules, where {}|^ are the small letters of []\\~) and whatever spaces a formatter put behind a `]`;
minutes never run backwards. Cost: one regular expression a line.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["say", "join", "leave", "rename"]

TRACE_LINES_PART_MIN = 0.05  # of a file's lines must have a known form for it to be a log among others in a directory
DAY_MINUTES = 24 * 60

_TIME = rb"\[([01]\d|2[0-3]):([0-5]\d)(?::[0-5]\d)?\]"
_NICK = rb"((?:[^\s\]]|\] ?)+)"  # a formatter turned [x]y into "[x] y"
_SAY = re.compile(_TIME + rb" <([^<>]+)> ?(.*)\Z", re.DOTALL)
_ACT = re.compile(_TIME + rb" +\* (\S+)(?: (.*))?\Z", re.DOTALL)
_JOIN = re.compile(rb"=== +" + _NICK + rb" +has joined(?: +[#&+!].*)?\s*\Z", re.DOTALL)
_LEAVE = re.compile(rb"=== +" + _NICK + rb" +has (?:left|quit)(?:\s.*)?\Z", re.DOTALL)
_RENAME = re.compile(rb"=== +" + _NICK + rb" +is now known as +" + _NICK + rb"\s*\Z", re.DOTALL)
_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ[]\\~", b"abcdefghijklmnopqrstuvwxyz{}|^")
_SPACE = re.compile(rb"\s+")


class TraceError(Exception):
    """A path that can't be replayed; the text says which, why, and what is expected."""


class Entry(NamedTuple):
    """One line that means something."""

    kind: Kind
    minute: int  # since midnight of the first day, never less than that of the line before
    nick: bytes  # key of the person
    text: bytes = b""  # of a message, as it was sent
    other: bytes = b""  # key of the new nick of a rename


class Trace(NamedTuple):
    """One file: what happened in one group."""

    name: str
    entries: list[Entry]
    lines: int  # that are not blank
    skipped: int  # that have no known form


class Step(NamedTuple):
    """One thing to do, with membership as it must be: what a plan is made of."""

    kind: Literal["say", "join", "leave"]
    minute: int
    nick: bytes
    text: bytes = b""


class Plan(NamedTuple):
    """A trace with membership made explicit."""

    name: str
    start: list[bytes]  # who is there from the start, in the order of appearance
    steps: list[Step]
    nicks: list[bytes]  # everybody, in the order of appearance
    members_max: int


def nick_key(nick: bytes) -> bytes:
    """The person behind a nick: IRC compares without case, and nicks have no spaces."""
    return _SPACE.sub(b"", nick).translate(_FOLD)


def parse(data: bytes, name: str = "") -> Trace:
    """Every line of a log; never fails, because whatever is unknown is passed over."""
    entries: list[Entry] = []
    lines = skipped = 0
    day, last = 0, -1
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = line.removesuffix(b"\r")
        if not line.strip():
            continue
        lines += 1
        entry = _entry(line)
        if entry is None:
            skipped += 1
            continue
        if entry.minute < 0:  # membership lines carry no time: that of the line before
            minute = max(last, 0)
        else:
            minute = day + entry.minute
            if minute < last - DAY_MINUTES // 2:  # past midnight; smaller steps back are a clock set right
                day += DAY_MINUTES
                minute += DAY_MINUTES
            minute = max(minute, last)
            if last < 0:
                entries = [early._replace(minute=minute) for early in entries]
            last = minute
        entries.append(entry._replace(minute=minute))
    return Trace(name, entries, lines, skipped)


def _entry(line: bytes) -> Entry | None:
    """One line; minute is −1 where the line has none."""
    if line.startswith(b"["):
        found = _SAY.match(line) or _ACT.match(line)
        if found is None:
            return None
        key = nick_key(found[3])
        minute = int(found[1]) * 60 + int(found[2])
        return Entry("say", minute, key, found[4] or b"") if key else None
    if not line.startswith(b"==="):
        return None
    found = _RENAME.match(line)
    if found is not None:
        return Entry("rename", -1, nick_key(found[1]), other=nick_key(found[2]))
    found = _JOIN.match(line)
    if found is not None:
        return Entry("join", -1, nick_key(found[1]))
    found = _LEAVE.match(line)
    return Entry("leave", -1, nick_key(found[1])) if found is not None else None


def load(path: Path) -> tuple[list[Trace], list[str]]:
    """The traces of a file or of a directory (any names, also below it), and the names that were no traces."""
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        else:
            files = [path]
        found = [parse(file.read_bytes(), file.name) for file in files]
    except OSError as error:
        raise TraceError(f"{error.filename or path} can't be read: {error.strerror}") from None
    least = TRACE_LINES_PART_MIN if path.is_dir() else 0.0
    good = [trace for trace in found if trace.entries and len(trace.entries) >= least * trace.lines]
    if not good:
        what = f"none of the {len(found)} files in {path} is" if path.is_dir() else f"{path} is not"
        raise TraceError(
            f"{what} a chat log: no line has the form `[HH:MM] <nick> text`, `[HH:MM]  * nick text`, "
            "`=== nick has joined #x`, `=== nick has left` or `=== nick is now known as other`"
        )
    taken = {id(trace) for trace in good}
    return good, [trace.name for trace in found if id(trace) not in taken]


def plan(trace: Trace) -> Plan:
    """Membership made explicit: who was there from the start, and joins and leaves that change something.

    Who speaks, leaves or changes the nick before having joined was there from the start. Who speaks after having
    left has come back unseen: a join is put before. A repeated join and the leave of somebody absent change nothing.
    A nick change is a leave and a join.
    """
    order: dict[bytes, bool] = {}
    for entry in trace.entries:
        order.setdefault(entry.nick, entry.kind != "join")
        if entry.kind == "rename":
            order.setdefault(entry.other, False)
    start = [nick for nick, there in order.items() if there]
    steps = list(_steps(trace.entries, set(start)))
    present = members_max = len(start)
    for step in steps:
        present += (step.kind == "join") - (step.kind == "leave")
        members_max = max(members_max, present)
    return Plan(trace.name, start, steps, list(order), members_max)


def _steps(entries: Iterable[Entry], present: set[bytes]) -> Iterator[Step]:
    for entry in entries:
        nick, minute = entry.nick, entry.minute
        if entry.kind in ("leave", "rename") and nick in present:
            present.remove(nick)
            yield Step("leave", minute, nick)
        joins = entry.other if entry.kind == "rename" else nick
        if entry.kind != "leave" and joins not in present:
            present.add(joins)
            yield Step("join", minute, joins)
        if entry.kind == "say":
            yield Step("say", minute, nick, entry.text)


_WORDS = (
    "the",
    "kernel",
    "of",
    "my",
    "machine",
    "says",
    "no",
    "but",
    "yours",
    "works",
    "how",
    "do",
    "i",
    "mount",
    "this",
    "again",
    "try",
    "with",
    "sudo",
    "thanks",
    "it",
    "boots",
    "now",
    "anyone",
    "here",
    "who",
    "knows",
    "maybe",
    "später",
    "ça",
    "marche",
    "привет",
    "всем",
    "спасибо",
    "谢谢",
    "ok",
    ":)",
    "package",
    "is",
    "broken",
    "see",
    "log",
)
_NOISE = (b"", b"=== mode/#ubuntu [+o crim]  by ChanServ", b"\xff\xfe what is this", b"[25:99] <x> y")


def generate(seed: int, name: str = "", messages: int = 1_300, nicks: int = 100) -> bytes:
    """A log of the same shape as a real day, the same for the same seed."""
    chance = random.Random(f"{seed}/{name}")
    people = [
        f"{chance.choice('abcdefghijklm')}{chance.choice(['ux', '[x]', '|off', '`', 'Linux'])}{number}"
        for number in range(max(nicks, 2))
    ]
    weights = [1 / (rank + 1) for rank in range(len(people))]
    minute, out = chance.randrange(DAY_MINUTES // 2), list[bytes]()
    said = 0
    while said < messages:
        minute += chance.choice((0, 0, 0, 0, 0, 1, 1, 2))
        place = chance.choices(range(len(people)), weights)[0]
        who, dice = people[place], chance.random()
        stamp = f"[{minute // 60 % 24:02}:{minute % 60:02}]"
        if dice < 0.06:
            out.append(f"=== {who}  has joined #{chance.choice(['ubuntu', 'Ubuntu'])}".encode())
        elif dice < 0.08:
            out.append(f'=== {who}  has left #ubuntu ["Leaving"]'.encode())
        elif dice < 0.10:
            people[place] = f"{who.rstrip('_')}{'_' * chance.randrange(1, 3)}"
            out.append(f"=== {who} is now known as {people[place]}".encode())
        elif dice < 0.11:
            out.append(chance.choice(_NOISE))
        else:
            out.append(_spoken(chance, stamp, who))
            said += 1
    return b"\n".join(out) + b"\n"


def _spoken(chance: random.Random, stamp: str, who: str) -> bytes:
    text = " ".join(chance.choices(_WORDS, k=min(int(chance.expovariate(0.09)), 80))).encode()
    dice = chance.random()
    if dice < 0.01:
        text = text[: chance.randrange(len(text) + 1)] + b"\xc3\x28\x80 \x02bold\x0f \x1fx\x00"
    if dice > 0.98:
        return f"{stamp}  * {who} ".encode() + text
    return f"{stamp} <{chance.choice([who, who, who, who.upper()])}> ".encode() + text

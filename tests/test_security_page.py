"""SECURITY.md against what it describes: defaults of limits, and the licences of what is installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

from engine import Config
from tests.support.gateway import ROOT

PAGE = ROOT / "SECURITY.md"
LOCK = ROOT / "requirements.lock"
# Which options the page must list, with what each bounds.
LIMITS = {
    "gateway.sessions_max": "sessions of a process; the next is answered 503",
    "gateway.sessions_per_user_max": "devices of one user",
    "gateway.buffers_bytes_max": "buffers of all sessions",
    "fanout.interest_entries_max": "conversations of connected sessions",
    "gateway.connects_per_s_max": "handshakes a second",
    "admission.unknown_sessions_max": "connections that have not said hello; the one that waited longest goes",
    "admission.address_unknown_max": "the same, of one address",
    "admission.address_connects_per_s_max": "connects a second of one address, while the process is short of time",
    "admission.failed_hello_connects": "what a hello with a bad token counts as, for its address",
    "admission.members_per_s_max": "members of new groups a second, for the process",
    "admission.publish_wait_ms_max": "what a publish may wait; above half of it some are refused at once",
    "gateway.hello_timeout_s": "from connect to hello, TLS included",
    "gateway.idle_timeout_s": "silence",
    "gateway.slow_timeout_s": "taking nothing, or leaving a message unfinished",
    "gateway.handshake_bytes_max": "the HTTP head",
    "gateway.frame_bytes_max": "one message",
    "gateway.rate_per_s": "commands a second of a session, for long",
    "gateway.rate_burst": "commands of a session at once",
    "gateway.unanswered_max": "publishes of a device without an answer",
    "gateway.jobs_per_session_max": "history and resume jobs of a session",
    "gateway.history_page_max": "events of a history page",
    "conversations.group_members_max": "members of a group",
    "log.intake_bytes_max": "publishes that wait for admission",
    "log.free_bytes_min": "disk space that is kept free",
    "fanout.ring_bytes": "frames kept for live sessions",
    "api.connections_max": "connections of backends; the next is answered 503",
    "api.body_bytes_max": "the body of a backend's request",
    "api.streams_max": "open streams of a team",
    "api.consumers_max": "consumers of a team that pull over HTTP",
    "api.subscriptions_max": "subscriptions of a team",
    "api.publishes_per_s_max": "events that a team publishes",
    "api.publish_bytes_per_s_max": "their payloads",
    "api.reads_per_s_max": "events that a team is given",
    "api.read_bytes_per_s_max": "the same in bytes",
}


def without_options() -> dict[str, str]:
    """This process's environment, without options of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GONETS_")}


def test_limits_and_defaults_are_those_of_the_configuration() -> None:
    command = [sys.executable, str(ROOT / "gonets.py"), "config", "check", "--json"]
    run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=without_options())
    rows = {row["option"]: row for row in json.loads(run.stdout)["options"]}
    listed = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE))
    assert listed == {name: f"{rows[name]['default']} {rows[name]['unit']}" for name in LIMITS}


def test_what_half_open_handshakes_may_hold_is_the_product_of_its_limits() -> None:
    """The memory of one, which tests/tls/test_memory.py measures, by the places before hello."""
    found = re.search(r"holds up to (\d+) KB.*?([\d.]+) GB in all and (\d+) MB of one address", PAGE.read_text(), re.S)
    assert found is not None
    one, everybody, address = int(found[1]) * 1e3, float(found[2]) * 1e9, int(found[3]) * 1e6
    admission = Config().admission
    assert one * admission.unknown_sessions_max == everybody
    assert one * admission.address_unknown_max == address


def licence_of(package: importlib.metadata.Distribution) -> str:
    """As the package itself says: an SPDX expression, else its own words, else its classifier."""
    about = package.metadata
    said = [about[key] for key in ("License-Expression", "License") if key in about]
    words = (said[0] if said else "").strip()
    if words and len(words) < 80 and "\n" not in words:  # some put their whole licence there
        return words
    classes = [row.split(" :: ")[-1] for row in about.get_all("Classifier") or [] if row.startswith("License ::")]
    return classes[-1] if classes else "not stated"


def needed_to_run() -> set[str]:
    """What the project asks for at run time, and what that asks for, without extras."""
    found: set[str] = set()
    waiting = ["gonets"]
    while waiting:
        for need in importlib.metadata.requires(waiting.pop()) or []:
            match = re.match(r"[A-Za-z0-9._-]+", need)
            assert match is not None
            name = match[0].lower().replace("_", "-")
            try:
                importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            if "extra ==" not in need and name not in found:
                found.add(name)
                waiting.append(name)
    return found


def licence_rows() -> Iterator[tuple[str, str, str]]:
    """(package, licence, when it is needed) of the lock."""
    runs = needed_to_run() | {"cryptography", "cffi", "pycparser"}  # of pyjwt's extra
    for name in sorted(set(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(), re.MULTILINE))):
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of another system
            continue
        yield name, licence_of(package), "running" if name in runs else "building and testing"


def test_licences_are_listed_as_the_packages_say() -> None:
    """Another Python may have no use for some, or a package in another version: what is listed and here must agree."""
    listed = dict(
        re.findall(
            r"^\| ([a-z0-9-]+) \| ([^|]+) \| (?:running|building and testing) \|", PAGE.read_text(), re.MULTILINE
        )
    )
    here = {name: licence for name, licence, _ in licence_rows()}
    assert len(here) > 30
    assert set(here) <= set(listed), f"not listed: {sorted(set(here) - set(listed))}"
    assert {name: listed[name] for name in here} == here

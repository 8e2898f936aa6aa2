"""The written sum of memory: every option in it or said not to be, and held by a process under hostile load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from engine import config as configuration
from engine import limits
from engine.options import Config
from tests.support.gateway import ROOT

DEFAULT = Config()
NUMBERS = [
    (f"{section}.{field.name}", field.default)
    for section, struct in configuration.SECTIONS.items()
    for field in msgspec.structs.fields(struct)
    if isinstance(field.default, int | float)
]


def with_option(option: str, value: object) -> Config:
    """The defaults but for one option."""
    return configuration.load(None, {}, {option: value}).config


def sums(config: Config) -> tuple[int, int]:
    """Of the process, of a session."""
    return limits.total_bytes(limits.process_rows(config)), limits.total_bytes(limits.session_rows(config))


@pytest.mark.parametrize(("option", "default"), NUMBERS, ids=[option for option, _ in NUMBERS])
def test_every_option_with_a_number_is_in_the_sum_or_said_to_need_no_memory(option: str, default: Any) -> None:
    """One that is new and in neither fails here."""
    for value in (default * 2, default + 1, default / 2, default - 1):
        try:
            changed = with_option(option, type(default)(value))
        except configuration.ConfigError:
            continue
        assert (sums(changed) != sums(DEFAULT)) == (option not in limits.WITHOUT_MEMORY), option
        named = {row.source for row in (*limits.process_rows(changed), *limits.session_rows(changed))}
        assert (option in named) == (option not in limits.WITHOUT_MEMORY), option
        return
    raise AssertionError(f"{option} takes no other value than {default}")


def test_sources_are_options_and_reasons_are_of_options() -> None:
    """Nothing is bounded by an option that there isn't."""
    known = {row.option for row in configuration.describe(configuration.load(None, {}))}
    section = msgspec.structs.replace(DEFAULT.tls, certificate="c.pem", key="k.pem")
    tls = msgspec.structs.replace(DEFAULT, tls=section)
    rows = (*limits.process_rows(tls), *limits.session_rows(tls))
    assert {row.source for row in rows} <= known | {"fixed"}
    assert limits.WITHOUT_MEMORY.keys() <= known
    assert sums(tls)[0] - sums(DEFAULT)[0] > DEFAULT.gateway.sessions_max * 20_000


def test_a_machine_that_is_too_small_is_named_with_what_to_lower() -> None:
    """A warning; an error only where it can't even begin."""
    total = sums(DEFAULT)[0]
    assert limits.shortage(DEFAULT, total) == limits.shortage(DEFAULT, 0) == ""
    words = limits.shortage(DEFAULT, total - 1)
    assert limits.size_text(total) in words and "gateway.buffers_bytes_max (320 MiB)" in words
    large = with_option("fanout.ring_bytes", 4 << 30)
    assert limits.absurdity(DEFAULT, 1 << 30) == limits.absurdity(large, 0) == ""
    assert "fanout.ring_bytes = 4294967296" in limits.absurdity(large, 4 << 30)
    assert 1 << 26 < limits.memory_bytes() < 1 << 60


def test_the_command_prints_the_sum() -> None:
    """For people and for programs, with the options of the environment."""
    argv = [sys.executable, str(ROOT / "gonets.py"), "config", "memory"]
    environment = {**os.environ, "GONETS_FANOUT_RING_BYTES": str(256 << 20)}
    found = json.loads(subprocess.run([*argv, "--json"], check=True, capture_output=True, env=environment).stdout)
    assert found["total_bytes"] == sum(row["total_bytes"] for row in found["process"])
    assert found["total_bytes"] == sums(with_option("fanout.ring_bytes", 256 << 20))[0]
    text = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment).stdout
    assert "fanout.ring_bytes" in text and limits.size_text(found["total_bytes"]) in text

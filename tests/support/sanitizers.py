"""What a child process needs to load modules that were built with sanitizers (tests/sanitize.sh), where they were."""

from __future__ import annotations

import os

import pytest

NAMES = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")


def sanitizers() -> dict[str, str]:
    """For tests that give a child an environment of its own; nothing in an ordinary run."""
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def without_sanitizers() -> dict[str, str]:
    """This process's environment for programs that are not ours and can't bear those libraries."""
    return {name: value for name, value in os.environ.items() if name not in NAMES}


def needs_plain_memory() -> None:
    """For tests of how much a process holds: sanitizers keep what was freed, and shadows of all of it."""
    if "ASAN_OPTIONS" in os.environ:
        pytest.skip("sanitizers hold memory of their own")

"""What a child process needs to load modules that were built with sanitizers (tests/sanitize.sh), where they were."""

from __future__ import annotations

import os

NAMES = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")


def sanitizers() -> dict[str, str]:
    """For tests that give a child an environment of its own; nothing in an ordinary run."""
    return {name: os.environ[name] for name in NAMES if name in os.environ}

"""Fuzzes one target with the coverage of native code: `python -m tests.fuzz.run TARGET [libFuzzer's options] [CORPUS]`.

For modules of ext/ that were built with GONETS_SANITIZE=address,undefined,fuzzer-no-link, and with libFuzzer preloaded
before the sanitizers: tests/fuzz/fuzz.sh does that. What the modules count goes to it.
A crash, a report of a sanitizer, and any exception that a target lets out end it, and leave the input in a file.
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> None:
    """Does not return."""
    import atheris

    with atheris.instrument_imports(include=["gateway.auth", "gateway.revocation", "engine.config"]):  # no native code
        from tests.fuzz.targets import TARGETS

    if len(arguments) < 2 or arguments[1] not in TARGETS:
        sys.exit(f"fuzz: {' '.join(arguments[1:2]) or 'no target'}: name one of {', '.join(TARGETS)}")
    atheris.Setup([arguments[0], *arguments[2:]], TARGETS[arguments[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)

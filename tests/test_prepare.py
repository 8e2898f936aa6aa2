"""What .ci/prepare says of an interpreter that it was told to take."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PREPARE = Path(__file__).resolve().parent.parent / ".ci" / "prepare"


@pytest.mark.parametrize(("python", "words"), [("/nope", "is not there"), ("/bin/cat", "is no Python >= 3.11")])
def test_packages_are_no_advice_while_python_is_set(python: str, words: str) -> None:
    """They would change nothing; and a program that prints something is no Python."""
    run = subprocess.run(
        [str(PREPARE)], check=False, capture_output=True, text=True, env={**os.environ, "PYTHON": python}
    )
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr == f"gonets: PYTHON={python} {words}: unset PYTHON, or name another\n"

"""What fuzzing has found so far, through the ordinary build: every input that ever opened a new path."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
CORPUS_BYTES_MAX = 400_000


@pytest.mark.parametrize("name", TARGETS)
def test_a_corpus_passes(name: str) -> None:
    paths = sorted((CORPUS / name).iterdir())
    assert len(paths) >= 3
    for path in paths:
        try:
            TARGETS[name](path.read_bytes())
        except BaseException as error:
            error.add_note(f"input: {path}")
            raise


def test_the_corpus_is_small_and_of_these_targets() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < CORPUS_BYTES_MAX

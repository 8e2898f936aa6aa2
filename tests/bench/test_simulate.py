"""The seeded simulation in the suite: some seeds, the same story in another process, and how a failure speaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.simulate import run_seed
from bench.simulation.run import Failure
from tests.support.sanitizers import sanitizers

SEEDS, STEPS = 60, 3_000  # of test_mutants.py too
ROOT = Path(__file__).resolve().parent.parent.parent
MUST_BE_SEEN = (  # a simulation in which these don't happen shows nothing
    "advice",
    "crashes",
    "cursor",
    "fences",
    "gap",
    "gaps over what was trimmed",
    "history",
    "jobs",
    "pages that end with what was trimmed",
    "receipt conflict",
    "receipt repeat",
    "receipt unavailable",
    "reset",
    "restores",
    "service appended",
    "service repeat",
    "service unavailable",
    "tombstones that had to be",
    "trims",
)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`gonets bench simulate` as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", "gonets", "bench", "simulate", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        env={"PATH": "", **sanitizers(), **environment},
    )


def test_seeds_pass_and_see_everything() -> None:
    """Nothing is wrong, and nothing that should happen was missing."""
    counts: dict[str, int] = {}
    for seed in range(1, SEEDS + 1):
        for name, count in run_seed(seed, STEPS).counts.items():
            counts[name] = counts.get(name, 0) + count
    missing = [name for name in MUST_BE_SEEN if not counts.get(name)]
    assert not missing, counts


def test_a_seed_is_the_same_story_in_any_process() -> None:
    """The hash over the trace, whatever the order of Python's sets."""
    digest = run_seed(11, 2_000).digest
    for hashing in ("1", "2"):
        done = command("--seed", "11", "--steps", "2000", PYTHONHASHSEED=hashing)
        assert done.returncode == 0, done.stderr
        assert digest in done.stdout


def test_a_failure_names_its_seed_and_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken on purpose: whoever was removed follows on."""
    from bench import simulate
    from engine import Fanout

    monkeypatch.setattr(Fanout, "unfollow", lambda self, conversation, session: None)
    with pytest.raises(SystemExit) as ended:
        simulate.simulate(seeds="1..40", steps=2_000)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "is not for user" in said
    words = said.splitlines()[-1].split()
    seed = int(words[words.index("--seed") + 1])
    with pytest.raises(Failure, match="is not for user"):
        run_seed(seed, int(words[words.index("--steps") + 1]))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seeds", "9..2"),
        ("--seeds", "x"),
        ("--steps", "0"),
        ("--seconds", "-1"),
        ("--seed", "1", "--seeds", "1..3"),
        ("--seed", "1", "--seconds", "3"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...]) -> None:
    """No traceback for what a person can mend."""
    done = command(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("gonets: simulate: ") and done.stderr.count("\n") == 1

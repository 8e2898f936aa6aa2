"""A whole engine over a data directory, for tests of what survives: answers by name, restarts, and a check at the end.

`EngineRig.close()` ends every storage test: it closes the engine and has `engine.log.check` derive the log's
invariants again from the bytes.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from engine.answers import Answer, pack_proposal, unpack_answers
from engine.engine import Engine
from engine.log.check import check_log

DEADLINE_S = 30.0


class EngineRig:
    """An engine whose answers can be waited for."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.options = options
        self.answers: list[Answer] = []
        self.committed: list[int] = []
        self._heard = threading.Condition()
        self.open()

    def open(self) -> None:
        """Opens it (again)."""
        self.engine = Engine.open(self.path, on_answers=self._hear, on_committed=self.committed.append, **self.options)

    def _hear(self, answers: bytes) -> None:
        with self._heard:
            self.answers += unpack_answers(answers)
            self._heard.notify_all()

    def ask(self, *proposals: bytes) -> list[Answer]:
        """Submits one batch; its answers by origin order of arrival."""
        before = len(self.answers)
        assert self.engine.sequencer.submit(b"".join(proposals))
        with self._heard:
            assert self._heard.wait_for(lambda: len(self.answers) >= before + len(proposals), DEADLINE_S), (
                f"{len(self.answers) - before} answers of {len(proposals)}"
            )
            return self.answers[before:]

    def say(self, user: int, counter: int, person: int, **more: Any) -> Answer:
        """One message to a person."""
        return self.ask(pack_proposal(user, 1, counter, person, "message", b"x", person=True, **more))[0]

    def restart(self) -> None:
        """Closes and opens."""
        self.engine.close()
        self.open()

    def close(self) -> None:
        """Closes and checks everything that is on the disk."""
        self.engine.close()
        problems = check_log(self.path)["problems"]
        assert not problems, problems

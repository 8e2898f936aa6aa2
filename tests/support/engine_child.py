"""An engine in a process of its own, told by lines what to do and telling by lines what its callbacks heard.

`python -m tests.support.engine_child DATA OPTIONS` is the process; `EngineChild` is the other end. Everything that
leaves the engine goes through one pipe in the order in which it left, so that "not before" can be seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from engine.answers import Answer, unpack_answers
from engine.engine import Engine
from engine.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 25.0


def tell(**what: Any) -> None:
    """One line, whole."""
    os.write(1, json.dumps(what).encode() + b"\n")


def read_all(engine: Engine) -> dict[str, Any]:
    """What a reader and a view say now."""
    reader = engine.log.reader()
    blocks = reader.blocks_after(0, 1 << 30)
    view = engine.view()
    for block in reader.blocks_after(view.sequence, 1 << 30):
        view.apply(block)
    last = reader.last_sequence()
    newest = reader.record(last)
    return {
        "blocks": [block.hex() for block in blocks],
        "last": last,
        "newest": newest.hex() if newest else None,
        "beyond": reader.record(last + 1) is not None,
        "view": view.sequence,
    }


def serve(data: Path, options: dict[str, Any]) -> None:
    """Until told to close."""
    engine = Engine.open(
        data,
        on_answers=lambda answers: tell(answers=unpack_answers(answers)),
        on_committed=lambda sequence: tell(committed=sequence),
        **options,
    )
    tell(open=engine.log.last_sequence)
    for line in sys.stdin:
        word, _, argument = line.strip().partition(" ")
        if word == "publish":
            tell(took=engine.sequencer.submit(bytes.fromhex(argument)))
        elif word == "look":
            failure = engine.sequencer.failure
            tell(intake=engine.sequencer.intake_bytes, failure=failure and str(failure), stats=engine.stats())
        elif word == "read":
            tell(**read_all(engine))
        else:
            try:
                engine.close()
                tell(closed="")
            except EngineError as error:
                tell(closed=str(error))
            return


class EngineChild:
    """The end of the tests. `answers` and `committed` grow as they are heard."""

    def __init__(self, data: Path, environment: dict[str, str] | None = None, **options: Any) -> None:
        self.answers: list[Answer] = []
        self.committed: list[int] = []
        self._told: list[dict[str, Any]] = []
        self._news = threading.Condition()
        command = [sys.executable, "-m", "tests.support.engine_child", str(data), json.dumps(options)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._take("open")

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what = json.loads(line)
            with self._news:
                if "answers" in what:
                    self.answers += [Answer(*fields) for fields in what["answers"]]
                elif "committed" in what:
                    self.committed.append(what["committed"])
                else:
                    self._told.append(what)
                self._news.notify_all()

    def _take(self, key: str) -> dict[str, Any]:
        with self._news:
            assert self._news.wait_for(lambda: bool(self._told), DEADLINE_S), f"no word of {key}"
            what = self._told.pop(0)
        assert key in what, what
        return what

    def _do(self, line: str, key: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._take(key)

    def publish(self, *proposals: bytes) -> None:
        """Submits a batch; its answers come when they come."""
        assert self._do(f"publish {b''.join(proposals).hex()}", "took")["took"]

    def look(self) -> dict[str, Any]:
        """What waits, what has failed, the counters."""
        return self._do("look", "failure")

    def read(self) -> dict[str, Any]:
        """What readers find."""
        return self._do("read", "blocks")

    def wait(self, count: int) -> list[Answer]:
        """All answers, once there are so many."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.answers) >= count, DEADLINE_S), self.answers
            return list(self.answers)

    def close(self) -> str:
        """Closes the engine; what it said against that."""
        said: str = self._do("close", "closed")["closed"]
        self._end()
        return said

    def kill(self) -> None:
        """As a power cut of the process."""
        self.process.kill()
        self._end()

    def _end(self) -> None:
        self.process.wait(DEADLINE_S)
        self._listener.join(DEADLINE_S)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), json.loads(sys.argv[2]))

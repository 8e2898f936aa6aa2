"""Which of two sessions of a device stays, whatever order the notes of their hellos come in."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from gateway import bus


class Worker:
    """A bus with a door that knows one device, and notes that wait until they are let through."""

    def __init__(self, others: list[Worker]) -> None:
        self.others, self.session, self.at_ns = others, 0, 0
        self.waiting: deque[bytes] = deque()
        self.door = self.sessions = self.poller = self
        self.bus = bus.Shared(self, self)  # type: ignore[arg-type]
        others.append(self)

    def find_device(self, user: int, device: int) -> int:
        return self.session

    def set_hello(self, session: int, at_ns: int) -> None:
        self.at_ns = at_ns

    def hello_ns(self, session: int) -> int:
        return self.at_ns

    def end(self, session: int, code: int) -> None:
        self.session = 0

    def signal(self, body: bytes) -> None: ...

    def note(self, body: bytes) -> None:
        self.waiting.append(body)

    def hello(self, number: int) -> None:
        self.session = number
        self.bus.hello(number, 1, 1)

    def let_through(self) -> bool:
        """One note, to all."""
        if not self.waiting:
            return False
        body = self.waiting.popleft()
        for other in self.others:
            other.bus.on_note(body, other is self)
        return True


@given(st.lists(st.tuples(st.sampled_from(["hello", "note"]), st.integers(0, 2)), max_size=30), st.integers(0, 2))
def test_the_last_hello_stays_and_no_other(steps: list[tuple[str, int]], last: int) -> None:
    """Hellos on three workers, notes let through in any order between them, those of a worker in their order."""
    workers: list[Worker] = []
    for _ in range(3):
        Worker(workers)
    number = 0
    for what, place in [*steps, ("hello", last)]:
        if what == "hello":
            number += 1
            workers[place].hello(number)
        else:
            workers[place].let_through()
    for place in (0, 1, 2):
        for _ in range(50):
            workers[place].let_through()
    while any(worker.let_through() for worker in workers):
        pass
    assert [worker.session for worker in workers] == [number if place == last else 0 for place in (0, 1, 2)]

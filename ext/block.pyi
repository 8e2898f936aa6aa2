from collections.abc import Iterable
from typing import NamedTuple

HEADER_SIZE: int
FAULTS: tuple[str, ...]

class Header(NamedTuple):
    version: int
    flags: int
    count: int  # type: ignore[assignment]  # tuple has a method of this name
    records_bytes: int
    first_sequence: int
    shard: int
    epoch: int
    previous_hash: bytes
    kafka_offset: int

def header(block: bytes | memoryview) -> Header: ...
def check(block: bytes | memoryview) -> tuple[int, int]: ...
def check_header(block: bytes | memoryview) -> int: ...
def copy_checked(block: bytes | memoryview) -> tuple[bytes | None, int, int]: ...
def find(block: bytes | memoryview, sequence: int) -> tuple[bytes | None, int]: ...
def holds(block: bytes | memoryview, sequence: int) -> bool: ...
def records(block: bytes) -> Iterable[bytes]: ...

class BlockBuilder:
    count: int
    def add(self, record: bytes) -> None: ...
    def finish(
        self, *, first_sequence: int, shard: int, epoch: int, previous_hash: bytes, kafka_offset: int = -1
    ) -> bytes: ...

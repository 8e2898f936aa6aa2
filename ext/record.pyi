from typing import NamedTuple

class Record(NamedTuple):
    sequence: int
    conversation: int
    conversation_sequence: int
    previous: int
    time: int
    sender: int
    device: int
    counter: int
    type: str
    payload: bytes

def decode(data: bytes | memoryview) -> Record: ...
def record_key(data: bytes | memoryview) -> bytes: ...
def encode(
    sequence: int,
    conversation: int,
    conversation_sequence: int,
    previous: int,
    time: int,
    sender: int,
    device: int,
    counter: int,
    type: str,
    payload: bytes,
    key: bytes = b"",
) -> bytes: ...

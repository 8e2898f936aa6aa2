def receipt_frame(
    encoding: int,
    counter: int,
    status: int,
    conversation: int,
    sequence: int,
    conversation_sequence: int,
    time: int,
    extra: int,
) -> bytes: ...
def push_frames(encoding: int, id: bytes, retry_after_ms: int) -> tuple[bytes, bytes, bytes]: ...
def status_names() -> dict[int, str]: ...

from collections.abc import Iterable

from ext.picks import Picks
from ext.summary import Summary

class KindTable:
    clears: int
    bytes_max: int
    def __init__(self, bytes_max: int = 67_108_864) -> None: ...
    @property
    def bytes(self) -> int: ...
    def put(self, conversation: int, kind: int) -> None: ...
    def get(self, conversation: int) -> int: ...

class Selection:
    kinds: KindTable | None
    def __init__(
        self,
        *,
        types: Iterable[bytes] = (),
        kinds_mask: int = 0,
        conversations: Iterable[int] = (),
        senders: Iterable[int] = (),
        kinds: KindTable | None = None,
    ) -> None: ...
    def pick(
        self,
        block: bytes,
        after: int,
        upto: int,
        picks: Picks,
        *,
        shares: bytes | None = None,
        events_max: int = 4_294_967_295,
        bytes_max: int = 9_223_372_036_854_775_807,
    ) -> tuple[int, int]: ...
    def unknown(self, block: bytes, after: int, upto: int) -> list[int]: ...
    def skip(self, summaries: list[Summary], start: int, after: int, upto: int) -> tuple[int, int]: ...

def wanting(selections: list[Selection], summary: Summary) -> list[int]: ...

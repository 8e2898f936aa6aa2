FAULTS: tuple[str, ...]

class Trees:
    def __init__(self, descriptor: int) -> None: ...
    def size(self) -> int: ...
    def part(self, at: int, size: int) -> bytes: ...
    def seek(self, page_bytes: int, key: int) -> tuple[int, int, int | None, int | None]: ...
    def path(
        self,
        page_bytes: int,
        root: int,
        depth: int,
        last_page: int,
        key: int,
        is_free: bool,
        free: bytearray | None = None,
    ) -> tuple[int, int, int | None, int | None]: ...
    def tree(
        self, page_bytes: int, root: int, depth: int, last_page: int, is_free: bool, used: bytearray
    ) -> tuple[int, int, int, int, int, int]: ...

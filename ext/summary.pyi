class Summary:
    first: int
    last: int
    block: bytes
    count: int
    is_built: bool
    def __init__(self, first: int, last: int, block: bytes) -> None: ...
    @property
    def own_bytes(self) -> int: ...

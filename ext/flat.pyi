class Flat:
    """A hash table of fixed-size entries; count of entries, bytes of memory."""

    count: int
    bytes: int
    def __len__(self) -> int: ...

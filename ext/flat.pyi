from collections.abc import Callable

def seeds_from(source: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Tables made from now on draw their 8 bytes by source(8); returns the source before.

    By default os.urandom: keys come from clients, who must not choose collisions. Where entries lie then differs from
    run to run; who needs one story every time gives a seeded source, and puts the other one back.
    """

class Flat:
    """A hash table of fixed-size entries; count of entries, bytes of memory."""

    count: int
    bytes: int
    def __len__(self) -> int: ...

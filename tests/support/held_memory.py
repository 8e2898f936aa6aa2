"""What the C library's heap holds: bytes in use, as malloc counts them. glibc only."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


@functools.cache
def heap_bytes() -> Callable[[], int] | None:
    """A function that says how much is in use; None where the heap is another's (a sanitizer's, musl's)."""
    library = ctypes.CDLL(None)
    count = getattr(library, "mallinfo2", None)
    if count is None:
        return None
    count.restype = _Counts

    def in_use() -> int:
        found = count()
        return int(found.uordblks + found.hblkhd)

    before = in_use()
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    kept = library.malloc(50_000)
    counts = in_use() - before >= 50_000
    library.free(kept)
    return in_use if counts else None

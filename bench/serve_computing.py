"""`gonets serve` with a thread beside it that computes in Python without ever waiting.

`python -m bench.serve_computing serve …`, for the case "Python computing beside" of `gonets bench publish`: what is
left of the rate when somebody else's Python holds the GIL as often as it gets it. Arguments and environment are those
of `gonets`, which is run as it is.
"""

from __future__ import annotations

import runpy
import threading


def compute() -> None:
    """Pure Python: takes the GIL back after every switch interval."""
    value = 1
    while True:
        value = value * 1_103_515_245 + 12_345 & 0x7FFF_FFFF


if __name__ == "__main__":
    threading.Thread(target=compute, daemon=True).start()
    runpy.run_module("gonets", run_name="__main__")

"""`gonets serve` with a thread beside it that computes in Python without ever waiting.

`python -m bench.serve_computing`, for the case "Python computing beside" of `gonets bench publish`: what is left of the
rate when somebody else's Python holds the GIL as often as it gets it. The configuration comes from the environment, as
in production.
"""

from __future__ import annotations

import json
import os
import threading

from engine import config as configuration
from gateway import serve


def compute() -> None:
    """Pure Python: takes the GIL back after every switch interval."""
    value = 1
    while True:
        value = value * 1_103_515_245 + 12_345 & 0x7FFF_FFFF


def main() -> None:
    """Serves until SIGTERM; the addresses are one line of JSON, as with `gonets serve --json`."""
    loaded = configuration.load(None, os.environ)
    threading.Thread(target=compute, daemon=True).start()
    serve(loaded.config, lambda addresses: print(json.dumps(addresses), flush=True))


if __name__ == "__main__":
    main()

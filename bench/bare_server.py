"""A bare limit as a process: `python -m bench.bare_server publish|fanout FOLDER PAYLOAD_BYTES`.

Started by harness.py in the place of `gonets serve`, so that both sides of a ratio run as a process of their own, with
the same client. The first line on stdout is JSON with the url; SIGTERM ends it.

publish: a group is one LMDB value under the next number, committed with LMDB's default sync, as the log commits a
block; a group that grows over 1 MiB is still one value. fanout: nothing is written.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

import lmdb
import msgpack

from ext.bare import BareServer

SEGMENT_BYTES = 1 << 30  # as the log rolls
BACKLOG = 4096


def server_frame(number: int, body: object) -> bytes:
    """One unmasked binary frame."""
    payload: bytes = msgpack.packb([number, body])
    if len(payload) < 126:
        return b"\x82" + bytes([len(payload)]) + payload
    return b"\x82\x7e" + struct.pack(">H", len(payload)) + payload


def commit(server: BareServer, folder: Path) -> None:
    """The committing thread: one value a group, a new file when one is full."""
    files = key = written = 0
    env = None
    while (group := server.take()) is not None:
        if env is None or written > SEGMENT_BYTES:
            if env is not None:
                env.close()
            env = lmdb.open(str(folder / f"bare{files}.lmdb"), subdir=False, map_size=4 * SEGMENT_BYTES, lib_version=0)
            files, written = files + 1, 0
        with env.begin(write=True, buffers=True) as transaction:
            transaction.put(struct.pack(">Q", key), group, append=True)
        key, written = key + 1, written + len(group)
        server.synced()
    if env is not None:
        env.close()


def main(kind: str, folder: str, payload_bytes: str) -> None:
    """Serves until SIGTERM."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listening.setblocking(False)
    welcome = server_frame(3, {"server": "bare"}) + server_frame(16, {"positions": []})
    server = BareServer(listening.fileno(), welcome, payload_bytes=int(payload_bytes) if kind == "fanout" else 0)
    loop = threading.Thread(target=server.serve, daemon=True)
    loop.start()
    committer = threading.Thread(target=commit, args=(server, Path(folder)), daemon=True)
    committer.start()
    host, port = listening.getsockname()
    print(json.dumps({"url": f"ws://{host}:{port}/v1", "kind": kind}), flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop()
    loop.join(5)
    committer.join(5)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # before the threads, which inherit it
    main(*sys.argv[1:])

"""The bare limit of a consumer: packed events of one size, sent over TCP by a child as fast as they are taken.

Used by subscribe.py. What is sent is made beforehand: the same frame again and again, with nothing read, chosen,
counted or acked. The reader does what a consumer can't be without: receives, and unpacks each event.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

from engine import StoredEvent
from ext.picks import unpack
from ext.record import encode

HEAD = struct.Struct("<IH")


def frame_of(events: int, payload_bytes: int) -> bytes:
    """So many events of one conversation, packed."""
    parts = []
    for sequence in range(1, events + 1):
        record = encode(sequence, 1, sequence, sequence - 1, 1, 2, 3, 4, "message", bytes(payload_bytes))
        parts += [HEAD.pack(len(record), 1), record]
    return b"".join(parts)


def read(host: str, port: int, frames: int, events: int, payload_bytes: int) -> float:
    """Events a second of one reader."""
    buffer = bytearray(len(frame_of(events, payload_bytes)))
    with socket.create_connection((host, port)) as sock:
        begin, view = time.perf_counter(), memoryview(buffer)
        for _ in range(frames):
            got = 0
            while got < len(buffer):
                more = sock.recv_into(view[got:])
                if not more:
                    raise ConnectionError("the bare sender ended early")
                got += more
            found = unpack(view, StoredEvent)
            if len(found) != events or found[-1].sequence != events:
                raise ValueError("the bare sender's events are not what they were")
        return frames * events / (time.perf_counter() - begin)


def main(frames: int, events: int, payload_bytes: int) -> None:
    """Sends to one reader after the other."""
    frame = frame_of(events, payload_bytes)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(json.dumps({"url": f"tcp://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
        while True:
            sock, _ = listener.accept()
            with sock:
                try:
                    for _ in range(frames):
                        sock.sendall(frame)
                except OSError:
                    pass  # the reader has gone


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

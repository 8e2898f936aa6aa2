# Native code's alone: ext.poller is its face.
from ext.gathered import Gathered
from ext.sockets import Sockets

class Inbound:
    def __init__(
        self,
        sockets: Sockets,
        gathered: Gathered,
        frame_bytes_max: int,
        handshake_bytes_max: int,
        rate_per_s: int,
        rate_burst: int,
        unanswered_max: int,
    ) -> None: ...

# Native code's alone: ext.poller turns it.
from ext.gathered import Gathered
from ext.sockets import Sockets

class Deadlines:
    def __init__(
        self,
        sockets: Sockets,
        gathered: Gathered,
        hello_timeout_ms: int,
        ping_interval_ms: int,
        idle_timeout_ms: int,
        slow_timeout_ms: int,
    ) -> None: ...

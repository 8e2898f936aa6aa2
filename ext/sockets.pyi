# Native code's alone: ext.poller is its face.
from ext.gathered import Gathered
from ext.session_table import SessionTable

class Sockets:
    def __init__(
        self,
        sessions: SessionTable,
        gathered: Gathered,
        connects_per_s_max: int,
        hello_timeout_ms: int,
        close_timeout_ms: int,
    ) -> None: ...

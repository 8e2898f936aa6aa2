# The timing wheel is native code's alone: ext/deadlines turns it.
from ext.session_table import SessionTable

class Wheel:
    def __init__(self, sessions: SessionTable, now_ms: int) -> None: ...

# Native code's alone: ext.poller is its face.
from ext.sockets import Sockets

class Secured:
    def __init__(self, sockets: Sockets) -> None: ...

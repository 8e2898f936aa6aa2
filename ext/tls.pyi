from os import PathLike

VERSIONS: dict[str, int]

def load_library() -> None: ...

class ClientContext:
    def __init__(self, name: str = "") -> None:
        """`name`: of the server, asked for in the ClientHello (RFC 6066); empty where it is an address."""

class Context:
    def __init__(self, certificate: str | PathLike[str], key: str | PathLike[str], minimum: str = "1.3") -> None: ...

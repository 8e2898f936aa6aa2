from os import PathLike

VERSIONS: dict[str, int]

def load_library() -> None: ...

class ClientContext:
    def __init__(self) -> None: ...

class Context:
    def __init__(self, certificate: str | PathLike[str], key: str | PathLike[str], minimum: str = "1.3") -> None: ...

from ext.keys import KeyTable
from ext.tables import DialogTable, HeadTable, WindowTable

def fold(
    block: bytes,
    after: int,
    dialogs_too: bool,
    heads: HeadTable,
    windows: WindowTable,
    dialogs: DialogTable,
    keys: KeyTable | None = None,
) -> tuple[list[tuple[int, bytes]], int]: ...

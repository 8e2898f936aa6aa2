from ext.tables import DialogTable, HeadTable, WindowTable

def fold(
    block: bytes, after: int, dialogs_too: bool, heads: HeadTable, windows: WindowTable, dialogs: DialogTable
) -> tuple[list[tuple[int, bytes]], int]: ...

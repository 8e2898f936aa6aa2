from ext.block import BlockBuilder
from ext.keys import KeyTable
from ext.tables import DialogTable, HeadTable, MemberTable, WindowTable

DONE: int
FULL: int
CONTROL: int

def check_batch(batch: bytes | memoryview) -> int: ...

class Admission:
    sequence: int
    number: int
    position: int
    repeats: int
    answered: int
    deferrals: int
    def __init__(
        self,
        heads: HeadTable,
        windows: WindowTable,
        members: MemberTable,
        dialogs: DialogTable,
        keys: KeyTable,
        builder: BlockBuilder,
        sequence: int,
        number: int,
        shard: int,
        rights: bytes,
        block_bytes_max: int,
        block_events_max: int,
        keys_max: int,
    ) -> None: ...
    def run(self, batch: bytes, position: int, time_us: int) -> int: ...
    def limit_events(self, block_events_max: int) -> None: ...
    def proposal(self, batch: bytes) -> tuple[int, int, int, int, int, int, int, bytes, bytes, bytes]: ...
    def emit(
        self,
        conversation: int,
        time_us: int,
        user: int,
        device: int,
        counter: int,
        type_name: bytes,
        payload: bytes,
        key: bytes = b"",
    ) -> tuple[int, int]: ...
    def allocate(self) -> int: ...
    def answer(
        self,
        origin: int,
        counter: int,
        conversation: int,
        sequence: int,
        conversation_sequence: int,
        time_us: int,
        status: int,
        extra: int,
    ) -> None: ...
    def defer(self, batch: bytes) -> None: ...
    def skip(self, batch: bytes) -> int: ...
    def take_answers(self) -> bytes: ...
    def take_deferred(self) -> tuple[bytes, bytes, bytes, bytes, bytes]: ...
    def deferred_bytes(self) -> int: ...
    def release_waiting(self) -> None: ...

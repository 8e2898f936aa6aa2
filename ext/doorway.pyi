class Doorway:
    places_max: int
    address_max: int
    connects_per_s: int
    connects_burst: int
    failed_cost: int
    pressed: bool
    proxied: bool
    def __init__(
        self,
        *,
        places_max: int = 20_000,
        address_max: int = 2_000,
        connects_per_s: int = 500,
        connects_burst: int = 4_000,
        failed_cost: int = 20,
        addresses_max: int = 65_536,
        proxies: list[tuple[bytes, int]] | None = None,
    ) -> None: ...
    def count(self) -> int: ...
    def count_of(self, address: bytes) -> int: ...
    def memory_bytes(self) -> int: ...

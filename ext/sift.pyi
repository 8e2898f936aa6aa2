from array import array

def sift(
    block: bytes, conversations: array[int], after: int, upto: int, bytes_max: int
) -> tuple[list[bytes], int]: ...

"""Close codes of sessions that native code decides: their reason texts, and the table of them for Python.

Used by whatever ends a session in ext/. What each code asks of a client is in gateway/close_codes.py, which a test
compares.
"""
from libc.stdint cimport uint16_t


cdef const char *close_name(uint16_t code) noexcept nogil:
    if code == CLOSE_NORMAL:
        return b"normal"
    if code == CLOSE_GOING_AWAY:
        return b"going_away"
    if code == CLOSE_PROTOCOL_ERROR:
        return b"protocol_error"
    if code == CLOSE_UNSUPPORTED:
        return b"unsupported"
    if code == CLOSE_BAD_UTF8:
        return b"bad_utf8"
    if code == CLOSE_TOO_BIG:
        return b"too_big"
    if code == CLOSE_IDLE:
        return b"idle"
    if code == CLOSE_SLOW:
        return b"slow_no_progress"
    if code == CLOSE_EXPIRED:
        return b"token_expired"
    if code == CLOSE_OVERLOADED:
        return b"overloaded"
    if code == CLOSE_HELLO_TIMEOUT:
        return b"hello_timeout"
    if code == CLOSE_BAD_COMMAND:
        return b"bad_command"
    return b"rate_abuse" if code == CLOSE_ABUSE else b""


def close_names():
    """Code to reason text of the ends that native code decides."""
    found = {}
    for code in range(1000, 5000):
        name = close_name(code)
        if name[0]:
            found[code] = name.decode()
    return found

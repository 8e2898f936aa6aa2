# Close codes of sessions that native code decides, and the reason texts that go with them.

from libc.stdint cimport uint16_t

cdef enum:  # gateway/close_codes.py has the whole table
    CLOSE_NORMAL = 1000
    CLOSE_GOING_AWAY = 1001
    CLOSE_PROTOCOL_ERROR = 1002
    CLOSE_UNSUPPORTED = 1003
    CLOSE_NONE = 1005  # a close frame that names no code; never on the wire
    CLOSE_BAD_UTF8 = 1007
    CLOSE_TOO_BIG = 1009
    CLOSE_IDLE = 4000
    CLOSE_SLOW = 4002
    CLOSE_EXPIRED = 4003
    CLOSE_OVERLOADED = 4004
    CLOSE_HELLO_TIMEOUT = 4005
    CLOSE_BAD_COMMAND = 4503
    CLOSE_ABUSE = 4505

cdef const char *close_name(uint16_t code) noexcept nogil  # the reason text; empty where native code doesn't use it

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Sessions without a poller, for tests and benchmarks: opened over any descriptor, looked into, closed.

Beside ext/session_table, in the poller's place. Also the bare limit of a fan-out: the same bytes sent to the same
descriptors by a plain C loop, and a loop that drains the other ends.

Nothing in the data path imports this.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ext.c_socket cimport MSG_DONTWAIT, MSG_NOSIGNAL, c_recv, c_send
from ext.session_table cimport F_BLOCKED, S_LIVE, S_READER, Session, SessionTable

cdef enum:
    READ_BYTES = 1 << 20


def probe_open(SessionTable table not None, int32_t fd, uint64_t user, uint8_t encoding, uint64_t position, bint live):
    """An identified session; its origin."""
    cdef uint32_t index = table.acquire(fd)
    cdef Session *s = &table.at[index]
    if index == 0:
        raise MemoryError(f"no place in a table of {table.room}")
    s.encoding = encoding
    s.position = position
    s.state = S_LIVE if live else S_READER
    table.link_user(index, user, index)
    return table.origin_of(index)


def probe_close(SessionTable table not None, uint64_t session):
    """Gives the place back, as the poller does after its report was handled. The descriptor is the caller's."""
    cdef uint32_t index = table.resolve(session)
    if index:
        table.unlink_user(index)
        table.release(index)


def probe_writable(SessionTable table not None, uint64_t session):
    """What the poller does at EPOLLOUT; True if a blocked reader can take more now."""
    cdef uint32_t index = table.resolve(session)
    cdef Session *s = &table.at[index]
    if index == 0 or not s.flags & F_BLOCKED or table.out_flush(s) != 1:
        return False
    s.flags &= ~F_BLOCKED
    return s.state == S_READER


def probe(SessionTable table not None, uint64_t session):
    """What a test wants to know of a session."""
    cdef uint32_t index = table.resolve(session)
    cdef Session *s = &table.at[index]
    if index == 0:
        return None
    return {
        "live": s.state == S_LIVE, "reader": s.state == S_READER, "blocked": bool(s.flags & F_BLOCKED),
        "position": s.position, "ranges": s.ref_count, "out_bytes": s.out_size - s.out_sent,
    }


def bare_sends(const int32_t[::1] fds, const uint8_t[::1] data):
    """One send of the same bytes to each descriptor; bytes taken."""
    cdef Py_ssize_t i
    cdef uint64_t total = 0
    cdef ssize_t sent
    with nogil:  # no Python objects: both buffers are pinned by their views
        for i in range(fds.shape[0]):
            sent = c_send(fds[i], &data[0], <size_t>data.shape[0], MSG_DONTWAIT | MSG_NOSIGNAL)
            total += <uint64_t>sent if sent > 0 else 0
    return total


def bare_drain(const int32_t[::1] fds, uint64_t each_bytes):
    """Reads so many bytes from each (blocking) descriptor; bytes read."""
    cdef Py_ssize_t i
    cdef uint64_t total = 0, got
    cdef ssize_t taken
    cdef uint8_t *room = <uint8_t *>malloc(READ_BYTES)
    if room == NULL:
        raise MemoryError(f"no memory to read {READ_BYTES} bytes")
    with nogil:  # no Python objects: the descriptors are pinned by their view
        for i in range(fds.shape[0]):
            got = 0
            while got < each_bytes:
                taken = c_recv(fds[i], room, READ_BYTES, 0)
                if taken <= 0:
                    break
                got += <uint64_t>taken
            total += got
    free(room)
    return total

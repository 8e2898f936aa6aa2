"""System calls for connections of the load generator that read slowly: small buffers, and no looking for input."""

cdef extern from *:
    """
    #include <sys/epoll.h>
    #include <sys/socket.h>

    /* The kernel doubles it and has a least of its own; window scaling is fixed when connecting, so before that. */
    static inline int slow_receive_buffer(int fd, int bytes) {
        return setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    }
    """
    int receive_buffer "slow_receive_buffer"(int fd, int bytes) nogil

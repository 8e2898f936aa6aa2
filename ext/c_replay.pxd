"""System calls that only the replay's sockets need, beside those of c_load: rude ways to end a connection."""

cdef extern from *:
    """
    #include <sys/epoll.h>
    #include <sys/socket.h>

    static inline int replay_unwatch(int epoll_fd, int fd) {
        struct epoll_event event = {0};
        return epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, &event);
    }

    /* close() will send RST and forget whatever either side still had to say. */
    static inline int replay_reset_on_close(int fd) {
        struct linger at_once = {1, 0};
        return setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }

    """
    int unwatch "replay_unwatch"(int epoll_fd, int fd) nogil
    int reset_on_close "replay_reset_on_close"(int fd) nogil

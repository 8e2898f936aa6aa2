# Foreign C: sockets, epoll, timers, mmap and clocks of Linux, as far as the gateway's native half needs them.
# Nothing here is ours; names and types are those of the manual pages.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #define _GNU_SOURCE 1
    #include <errno.h>
    #include <fcntl.h>
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <linux/tcp.h>
    #include <sys/epoll.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <sys/timerfd.h>
    #include <sys/types.h>
    #include <time.h>
    #include <unistd.h>
    #ifndef SIOCOUTQ
    #define SIOCOUTQ 0x5411
    #endif
    extern int accept4(int, struct sockaddr *, socklen_t *, int);
    """
    int errno
    const int EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EPERM, EPIPE, EINVAL

    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    int c_inet_pton "inet_pton"(int family, const char *text, void *to) nogil
    const int AF_INET, AF_INET6
    ssize_t c_send "send"(int fd, const void *data, size_t size, int flags) nogil
    ssize_t c_recv "recv"(int fd, void *data, size_t size, int flags) nogil
    int c_accept4 "accept4"(int fd, sockaddr *address, socklen_t *size, int flags) nogil
    int c_shutdown "shutdown"(int fd, int how) nogil
    int c_close "close"(int fd) nogil
    ssize_t c_read "read"(int fd, void *data, size_t size) nogil
    int c_open "open"(const char *path, int flags) nogil
    int c_setsockopt "setsockopt"(int fd, int level, int name, const void *value, socklen_t size) nogil
    int c_getsockopt "getsockopt"(int fd, int level, int name, void *value, socklen_t *size) nogil
    int c_ioctl "ioctl"(int fd, unsigned long request, int *value) nogil
    int c_fcntl "fcntl"(int fd, int command, int value) nogil
    const int MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, SHUT_WR, SOCK_NONBLOCK, SOCK_CLOEXEC, IPPROTO_TCP, TCP_NODELAY, TCP_NOTSENT_LOWAT, TCP_INFO
    const int SOL_SOCKET, SO_ERROR, SO_LINGER, O_RDONLY, O_CLOEXEC, O_NONBLOCK, F_GETFL, F_SETFL
    const unsigned long SIOCOUTQ

    struct linger:
        int l_onoff
        int l_linger
    struct tcp_info:
        uint8_t tcpi_retransmits
        uint64_t tcpi_bytes_acked

    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags) nogil
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event) nogil
    int epoll_wait(int epoll_fd, epoll_event *events, int count, int timeout_ms) nogil
    const int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    const uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

    void *c_mmap "mmap"(void *address, size_t size, int protection, int flags, int fd, ssize_t offset) nogil
    int c_munmap "munmap"(void *address, size_t size) nogil
    const int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void *MAP_FAILED

    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now) nogil
    const int CLOCK_MONOTONIC, CLOCK_REALTIME

    struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags) nogil
    int timerfd_settime(int fd, int flags, const itimerspec *value, itimerspec *old) nogil
    const int TFD_NONBLOCK, TFD_CLOEXEC

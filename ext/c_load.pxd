# System calls of the load generator and of the bare limits: sockets, epoll, monotonic time.
#
# Only Linux. `wait_ns` is epoll_pwait2 by its number, because older C libraries lack the wrapper; without it in the
# kernel the wait is rounded up to whole milliseconds.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <arpa/inet.h>
    #include <endian.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <poll.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/prctl.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    #ifndef SYS_epoll_pwait2
    #define SYS_epoll_pwait2 441
    #endif
    #ifndef IP_BIND_ADDRESS_NO_PORT
    #define IP_BIND_ADDRESS_NO_PORT 24
    #endif

    static inline uint64_t load_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
    }

    static inline uint64_t load_thread_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
    }

    /* Kernel timers of ordinary threads are late by 50 us on purpose; a paced generator can't have that. */
    static inline void load_sharp_timers(void) { prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul); }

    static inline int load_wait_ns(int epoll_fd, struct epoll_event *events, int room, uint64_t ns) {
        static int lacking = 0;
        if (!lacking) {
            struct { int64_t seconds; int64_t ns; } limit = {
                (int64_t)(ns / 1000000000ull), (int64_t)(ns % 1000000000ull)};
            long got = syscall(SYS_epoll_pwait2, epoll_fd, events, room, &limit, (void *)0, (size_t)0);
            if (got >= 0 || errno != ENOSYS)
                return (int)got;
            lacking = 1;
        }
        return epoll_wait(epoll_fd, events, room, (int)((ns + 999999ull) / 1000000ull));
    }

    static inline uint32_t load_log2(uint64_t v) { return 63u - (uint32_t)__builtin_clzll(v | 1u); }
    static inline uint64_t load_be64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return be64toh(v); }
    static inline uint32_t load_be32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return be32toh(v); }
    static inline void store_be64(uint8_t *p, uint64_t v) { v = htobe64(v); memcpy(p, &v, 8); }
    static inline uint64_t load_le64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return le64toh(v); }
    static inline uint32_t load_le32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return le32toh(v); }
    static inline void store_le64(uint8_t *p, uint64_t v) { v = htole64(v); memcpy(p, &v, 8); }
    static inline void store_le32(uint8_t *p, uint32_t v) { v = htole32(v); memcpy(p, &v, 4); }

    /* The key as it lies in the frame, so byte order does not matter here. */
    static inline void load_mask(uint8_t *p, size_t size, uint32_t key) {
        uint64_t wide = ((uint64_t)key << 32) | key, eight;
        size_t i = 0;
        for (; i + 8 <= size; i += 8) {
            memcpy(&eight, p + i, 8);
            eight ^= wide;
            memcpy(p + i, &eight, 8);
        }
        for (; i < size; i++)
            p[i] ^= ((const uint8_t *)&key)[i & 3];
    }

    /* A non-blocking socket bound to the source address, connecting; -1 with errno set. The port is chosen by
       connect, among those free for this pair of addresses. */
    static inline int load_connect(uint32_t source, uint32_t address, uint16_t port) {
        struct sockaddr_in from = {0}, to = {0};
        int one = 1, saved;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return -1;
        from.sin_family = to.sin_family = AF_INET;
        from.sin_addr.s_addr = htonl(source);
        to.sin_addr.s_addr = htonl(address);
        to.sin_port = htons(port);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if ((source == 0 || bind(fd, (struct sockaddr *)&from, sizeof from) == 0)
            && (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS))
            return fd;
        saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }

    static inline int load_socket_error(int fd) {
        int error = 0;
        socklen_t size = sizeof error;
        return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? errno : error;
    }

    /* The next connection waiting on the listening socket, non-blocking, without Nagle; -1 if there is none. */
    static inline int load_accept(int fd) {
        int one = 1, got = accept4(fd, (struct sockaddr *)0, (socklen_t *)0, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (got >= 0)
            setsockopt(got, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return got;
    }

    static inline int load_watch(int epoll_fd, int fd, uint32_t events, uint64_t key, int again) {
        struct epoll_event event = {0};
        event.events = events;
        event.data.u64 = key;
        return epoll_ctl(epoll_fd, again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
    }

    static inline void load_await_writable(int fd) {
        struct pollfd waiting = {fd, POLLOUT, 0};
        poll(&waiting, 1, 1000);
    }
    """
    int EAGAIN, EINTR, EINPROGRESS
    int errno
    uint32_t EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR
    int EPOLL_CLOEXEC, MSG_NOSIGNAL, EFD_CLOEXEC, EFD_NONBLOCK

    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags) nogil
    int eventfd(unsigned int count, int flags) nogil
    int close(int fd) nogil
    ssize_t read(int fd, void *to, size_t size) nogil
    ssize_t write(int fd, const void *source, size_t size) nogil
    ssize_t recv(int fd, void *to, size_t size, int flags) nogil
    ssize_t send(int fd, const void *source, size_t size, int flags) nogil

    const uint8_t *find_bytes "memmem"(const void *where, size_t size, const void *what, size_t what_size) nogil
    uint64_t now_ns "load_now_ns"() nogil
    uint64_t thread_ns "load_thread_ns"() nogil
    void sharp_timers "load_sharp_timers"() nogil
    int wait_ns "load_wait_ns"(int epoll_fd, epoll_event *events, int room, uint64_t ns) nogil
    uint32_t log2_floor "load_log2"(uint64_t value) nogil
    uint64_t load_be64(const uint8_t *p) nogil
    uint32_t load_be32(const uint8_t *p) nogil
    void store_be64(uint8_t *p, uint64_t value) nogil
    uint64_t load_le64(const uint8_t *p) nogil
    uint32_t load_le32(const uint8_t *p) nogil
    void store_le64(uint8_t *p, uint64_t value) nogil
    void store_le32(uint8_t *p, uint32_t value) nogil
    void mask_bytes "load_mask"(uint8_t *p, size_t size, uint32_t key) nogil
    int connect_from "load_connect"(uint32_t source, uint32_t address, uint16_t port) nogil
    int socket_error "load_socket_error"(int fd) nogil
    int accept_next "load_accept"(int listen_fd) nogil
    int watch "load_watch"(int epoll_fd, int fd, uint32_t events, uint64_t key, int again) nogil
    void await_writable "load_await_writable"(int fd) nogil

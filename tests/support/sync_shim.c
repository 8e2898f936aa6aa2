/* Syncs that wait or fail on demand: preloaded into a process of the tests, ruled through a shared file.

   Between a program and libc: fsync, fdatasync, msync and sync_file_range, and writes to descriptors that sync by
   themselves (O_DSYNC), which is how LMDB writes its meta page. Only files whose path begins with SYNC_SHIM_BASE and
   ends with the suffix of the control file are concerned; all others pass. The control file is SYNC_SHIM_CONTROL;
   tests/support/sync_shim.py knows the same layout. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PASS = 0, HOLD = 1, FAIL = 2, HOLD_BEHIND = 3 };
enum { SYNC = 0, META = 1 };

struct control {
    volatile uint32_t mode[2];  /* of syncs, of writes that sync by themselves */
    volatile uint32_t error[2]; /* errno of FAIL */
    volatile uint32_t held;     /* calls that wait now */
    volatile uint32_t failed;   /* calls that were made to fail */
    volatile uint32_t count[2]; /* calls that concerned us */
    volatile uint32_t maps;     /* msync and sync_file_range among them */
    volatile uint32_t dirty;    /* plain writes since the last sync of data */
    volatile uint32_t early;    /* self-syncing writes over plain ones that were not synced: the wrong order */
    volatile uint32_t padding;
    char suffix[64];
};

static struct control *control;
static const char *base;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SYNC_SHIM_CONTROL");
    base = getenv("SYNC_SHIM_BASE");
    if (!path || !base) return;
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) abort();
    void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (at == MAP_FAILED) abort();
    close(descriptor);
    control = at;
}

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static int ours(int descriptor) {
    char link[64], path[4096];
    if (!control) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return strncmp(path, base, strlen(base)) == 0;
}

/* Whether the suffix of the control file means this descriptor. */
static int meant(int descriptor) {
    char link[64], path[4096], suffix[64];
    memcpy(suffix, control->suffix, sizeof suffix);
    suffix[sizeof suffix - 1] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1), wanted = (ssize_t)strlen(suffix);
    return size >= wanted && memcmp(path + size - wanted, suffix, wanted) == 0;
}

/* Waits while it is told to; -1 if the call must fail. */
static int ask(int kind, int descriptor) {
    __atomic_add_fetch(&control->count[kind], 1, __ATOMIC_SEQ_CST);
    if (!meant(descriptor)) return 0;
    if (control->mode[kind] == HOLD) {
        __atomic_add_fetch(&control->held, 1, __ATOMIC_SEQ_CST);
        while (control->mode[kind] == HOLD) usleep(500);
        __atomic_sub_fetch(&control->held, 1, __ATOMIC_SEQ_CST);
    }
    if (control->mode[kind] != FAIL) return 0;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = (int)control->error[kind];
    return -1;
}

/* A write that has been done, and does not return while it is told so. */
static ssize_t behind(int descriptor, ssize_t result) {
    if (!control || control->mode[META] != HOLD_BEHIND || !ours(descriptor) || !meant(descriptor)) return result;
    int flags = fcntl(descriptor, F_GETFL);
    if (flags < 0 || !(flags & O_DSYNC)) return result;
    __atomic_add_fetch(&control->held, 1, __ATOMIC_SEQ_CST);
    while (control->mode[META] == HOLD_BEHIND) usleep(500);
    __atomic_sub_fetch(&control->held, 1, __ATOMIC_SEQ_CST);
    return result;
}

static int self_syncing(int descriptor) {
    int flags = fcntl(descriptor, F_GETFL);
    return flags >= 0 && (flags & O_DSYNC);
}

static int ask_write(int descriptor) {
    if (!ours(descriptor)) return 0;
    if (!self_syncing(descriptor)) {
        __atomic_add_fetch(&control->dirty, 1, __ATOMIC_SEQ_CST);
        return 0;
    }
    if (control->dirty) __atomic_add_fetch(&control->early, 1, __ATOMIC_SEQ_CST);
    return ask(META, descriptor);
}

static int synced(int result) {
    if (result == 0) control->dirty = 0;
    return result;
}

int fsync(int descriptor) {
    static int (*next)(int);
    if (!next) next = real("fsync");
    if (!ours(descriptor)) return next(descriptor);
    return ask(SYNC, descriptor) ? -1 : synced(next(descriptor));
}

int fdatasync(int descriptor) {
    static int (*next)(int);
    if (!next) next = real("fdatasync");
    if (!ours(descriptor)) return next(descriptor);
    return ask(SYNC, descriptor) ? -1 : synced(next(descriptor));
}

int sync_file_range(int descriptor, off64_t offset, off64_t size, unsigned int flags) {
    static int (*next)(int, off64_t, off64_t, unsigned int);
    if (!next) next = real("sync_file_range");
    if (!ours(descriptor)) return next(descriptor, offset, size, flags);
    __atomic_add_fetch(&control->maps, 1, __ATOMIC_SEQ_CST);
    return ask(SYNC, descriptor) ? -1 : next(descriptor, offset, size, flags);
}

int msync(void *at, size_t size, int flags) {
    static int (*next)(void *, size_t, int);
    if (!next) next = real("msync");
    if (control) __atomic_add_fetch(&control->maps, 1, __ATOMIC_SEQ_CST);
    return next(at, size, flags);
}

#define WRITER(name, parameters, arguments)                \
    ssize_t name parameters {                              \
        static ssize_t(*next) parameters;                  \
        if (!next) next = real(#name);                     \
        return ask_write(fd) ? -1 : behind(fd, next arguments); \
    }

WRITER(write, (int fd, const void *at, size_t size), (fd, at, size))
WRITER(writev, (int fd, const struct iovec *at, int count), (fd, at, count))
WRITER(pwrite, (int fd, const void *at, size_t size, off_t offset), (fd, at, size, offset))
WRITER(pwrite64, (int fd, const void *at, size_t size, off64_t offset), (fd, at, size, offset))
WRITER(pwritev, (int fd, const struct iovec *at, int count, off_t offset), (fd, at, count, offset))
WRITER(pwritev64, (int fd, const struct iovec *at, int count, off64_t offset), (fd, at, count, offset))

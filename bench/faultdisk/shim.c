/* The fault disk: between a program and libc, below LMDB. Fails, tears, drops, delays or holds chosen calls, kills the
   process at exactly one of them, and keeps a journal of all that would have reached a disk.

   Preloaded. Concerned are files below one base directory; everything else passes. Rules, counters and the lock lie in
   a control file that is mapped shared, so that a test changes them while the program runs and several processes can
   write one journal; bench/faultdisk/disk.py knows the same layout, bench/faultdisk/journal.py that of the journal.
   While a journal is kept, the lock is held over the call itself: the order of the journal is the order of the calls.
   What is written through a mapping is not seen: LMDB writes so only to its lock files, which mean nothing after a
   power cut. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shim.h"

static struct control *control;
static char base[PATH_MAX];
static size_t base_bytes;
static int journal = -1;

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}
#define REAL(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))real(#name);

/* Begins, or begins anew in a process that was forked: another base, other rules, another journal. */
void faultdisk_begin(const char *control_path, const char *base_path, const char *journal_path) {
    REAL(open)
    int descriptor = next(control_path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) abort();
    struct control *at = mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (at == MAP_FAILED) abort();
    close(descriptor);
    if (__sync_bool_compare_and_swap(&at->ready, 0, 1)) {
        pthread_mutexattr_t how;
        pthread_mutexattr_init(&how);
        pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
        pthread_mutex_init(&at->lock, &how);
        __atomic_store_n(&at->ready, 2, __ATOMIC_SEQ_CST);
    }
    while (__atomic_load_n(&at->ready, __ATOMIC_SEQ_CST) != 2) usleep(100);
    if (journal >= 0) close(journal);
    journal = journal_path && *journal_path ? next(journal_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    snprintf(base, sizeof base, "%s", base_path);
    base_bytes = strlen(base);
    control = at;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTDISK_CONTROL"), *where = getenv("FAULTDISK_BASE");
    if (path && where) faultdisk_begin(path, where, getenv("FAULTDISK_JOURNAL"));
}

static void lock(void) {
    if (pthread_mutex_lock(&control->lock) == EOWNERDEAD) pthread_mutex_consistent(&control->lock);
}

static void unlock(void) { pthread_mutex_unlock(&control->lock); }

/* Paths: each gives the part below the base, or NULL if the file is none of ours. */

static const char *below(const char *path) {
    if (strncmp(path, base, base_bytes)) return NULL;
    if (!path[base_bytes]) return ".";
    return path[base_bytes] == '/' ? path + base_bytes + 1 : NULL;
}

static const char *of_descriptor(int descriptor, char *path) {
    char link[64];
    if (!control) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size < 0) return NULL;
    path[size] = 0;
    return below(path);
}

static const char *of_path(int folder, const char *name, char *path) {
    char whole[2 * PATH_MAX], parent[2 * PATH_MAX];
    if (!control || !name) return NULL;
    if (name[0] == '/' || folder == AT_FDCWD)
        snprintf(whole, sizeof whole, "%s", name);
    else {
        char link[64], at[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, at, sizeof at - 1);
        if (size < 0) return NULL;
        at[size] = 0;
        snprintf(whole, sizeof whole, "%s/%s", at, name);
    }
    for (size_t size = strlen(whole); size > 1 && whole[size - 1] == '/';) whole[--size] = 0;
    char *slash = strrchr(whole, '/');
    const char *last = slash ? slash + 1 : whole;
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - whole) + 1 : 1, slash ? whole : ".");
    char resolved[PATH_MAX];
    if (!realpath(parent, resolved)) return NULL;
    if (snprintf(path, PATH_MAX, "%s/%s", resolved[1] ? resolved : "", last) >= PATH_MAX) return NULL;
    return below(path);
}

/* Judging. Called with the lock held; HOLD, HOLD_AFTER and DELAY give it back while they wait. */

struct verdict {
    struct rule *rule;
    enum action action;
    int error;
    uint32_t keep;
    uint64_t free_bytes;
};

static struct rule *rule_of(enum kind kind, const char *path, const char *other) {
    for (struct rule *rule = control->rules; rule < control->rules + RULES; rule++) {
        if (rule->action == PASS || !(rule->kinds >> kind & 1)) continue;
        if (fnmatch(rule->pattern, path, FNM_PATHNAME) && (!other || fnmatch(rule->pattern, other, FNM_PATHNAME))) continue;
        rule->seen++;
        if (rule->seen <= rule->skip || (rule->times && rule->hits >= rule->times)) continue;
        rule->hits++;
        return rule;
    }
    return NULL;
}

static void hold(struct rule *rule, enum action while_it_is) {
    if (rule->action != while_it_is) return;
    rule->held++;
    while (rule->action == while_it_is) {
        unlock();
        usleep(300);
        lock();
    }
    rule->held--;
}

static struct verdict judged(enum kind kind, const char *path, const char *other) {
    control->count[kind]++;
    struct rule *rule = rule_of(kind, path, other);
    if (!rule) return (struct verdict){NULL, PASS, 0, 0, 0};
    if (rule->action == DELAY) {
        unlock();
        usleep(rule->delay_us);
        lock();
        return (struct verdict){NULL, PASS, 0, 0, 0};
    }
    hold(rule, HOLD);
    if (rule->action == KILL) raise(SIGKILL);
    return (struct verdict){rule, rule->action, rule->error, rule->keep, rule->free_bytes};
}

/* The journal. Called with the lock held, after the call. */

static void put(enum kind kind, int error, uint64_t inode, uint64_t at, uint64_t size, const char *path,
                const struct iovec *data, int parts, size_t data_bytes) {
    REAL(writev)
    if (journal < 0 || !control->journaling) return;
    struct entry entry = {kind, error, inode, at, size, path ? strlen(path) : 0, data_bytes};
    struct iovec all[64] = {{&entry, sizeof entry}, {(void *)path, entry.path_bytes}};
    size_t left = data_bytes;
    int count = 2;
    for (int part = 0; part < parts && left; part++) {
        size_t some = data[part].iov_len < left ? data[part].iov_len : left;
        all[count++] = (struct iovec){data[part].iov_base, some};
        left -= some;
        if (count == 64 && left) {
            if (next(journal, all, count) < 0) abort();
            count = 0;
        }
    }
    if (count && next(journal, all, count) < 0) abort();
}

static void note(enum kind kind, int error, const char *path, uint64_t inode, uint64_t size) {
    put(kind, error, inode, 0, size, path, NULL, 0, 0);
}

/* A mark of the program itself: what it had been told by then, for instance that a receipt had left. */
void faultdisk_mark(const void *data, size_t size) {
    struct iovec part = {(void *)data, size};
    if (!control) return;
    lock();
    put(MARK, 0, 0, 0, 0, NULL, &part, 1, size);
    unlock();
}

static long ended(struct verdict verdict, long result) {
    if (verdict.action == KILL_AFTER || verdict.action == TEAR_KILL || verdict.action == FAIL_KILL) raise(SIGKILL);
    int said = errno;
    if (verdict.rule) hold(verdict.rule, HOLD_AFTER);
    errno = said;
    if (verdict.action == FAIL_AFTER || (verdict.action == TEAR && verdict.error)) {
        errno = verdict.error;
        result = -1;
    }
    int error = errno;
    unlock();
    errno = error;
    return result;
}

/* What the journal is told of a call that was done: the device has failed behind the page cache. */
static int device_error(struct verdict verdict) {
    return verdict.action == FAIL_AFTER || verdict.action == FAIL_KILL ? verdict.error : 0;
}

static int refused(struct verdict verdict, long *result, long dropped) {
    if (verdict.action != FAIL && verdict.action != DROP) return 0;
    *result = verdict.action == DROP ? dropped : -1;
    unlock();
    if (verdict.action == FAIL) errno = verdict.error;
    return 1;
}

/* Writes. */

static uint64_t inode_of(int descriptor, struct stat *at) {
    memset(at, 0, sizeof *at);
    return fstat(descriptor, at) ? 0 : at->st_ino;
}

static size_t bytes_of(const struct iovec *parts, int count) {
    size_t size = 0;
    for (int part = 0; part < count; part++) size += parts[part].iov_len;
    return size;
}

/* `offset` −1: where the descriptor stands. Nothing of a call that is torn is written twice. */
static ssize_t written(int fd, const char *path, const struct iovec *parts, int count, off64_t offset) {
    REAL(writev)
    static ssize_t (*at_offset)(int, const struct iovec *, int, off64_t);
    if (!at_offset) at_offset = real("pwritev64");
    int flags = fcntl(fd, F_GETFL);
    enum kind kind = flags >= 0 && (flags & O_DSYNC) ? META : WRITE;
    struct stat at;
    uint64_t inode = inode_of(fd, &at), begin = offset;
    if (offset < 0) begin = flags & O_APPEND ? (uint64_t)at.st_size : (uint64_t)lseek(fd, 0, SEEK_CUR);
    lock();
    if (kind == WRITE) control->dirty++;
    if (kind == META && control->dirty) control->early++;
    struct verdict verdict = judged(kind, path, NULL);
    long result;
    if (refused(verdict, &result, (long)bytes_of(parts, count))) return result;
    struct iovec some[IOV_MAX];
    if (verdict.action == TEAR || verdict.action == TEAR_KILL) {
        size_t left = verdict.keep;
        int kept = 0;
        for (; kept < count && left; kept++) {
            some[kept] = parts[kept];
            if (some[kept].iov_len > left) some[kept].iov_len = left;
            left -= some[kept].iov_len;
        }
        parts = some, count = kept;
    }
    result = !count ? 0 : offset < 0 ? next(fd, parts, count) : at_offset(fd, parts, count, offset);
    if (result > 0) put(kind, device_error(verdict), inode, begin, 0, path, parts, count, result);
    return ended(verdict, result);
}

#define WRITER(name, parameters, plain, parts, count, offset)    \
    ssize_t name parameters {                                    \
        REAL(name)                                               \
        char room[PATH_MAX];                                     \
        const char *path = of_descriptor(fd, room);              \
        if (!path) return next plain;                            \
        return written(fd, path, parts, count, offset);          \
    }
#define ONE (&(struct iovec){(void *)at, size})
WRITER(write, (int fd, const void *at, size_t size), (fd, at, size), ONE, 1, -1)
WRITER(writev, (int fd, const struct iovec *at, int count), (fd, at, count), at, count, -1)
WRITER(pwrite, (int fd, const void *at, size_t size, off_t offset), (fd, at, size, offset), ONE, 1, offset)
WRITER(pwrite64, (int fd, const void *at, size_t size, off64_t offset), (fd, at, size, offset), ONE, 1, offset)
WRITER(pwritev, (int fd, const struct iovec *at, int count, off_t offset), (fd, at, count, offset), at, count, offset)
WRITER(pwritev64, (int fd, const struct iovec *at, int count, off64_t offset), (fd, at, count, offset), at, count, offset)

/* What the kernel copies from file to file goes through here, as writes. */
static ssize_t copied(int to, int from, off64_t *offset, size_t size) {
    char room[1 << 16];
    REAL(read)
    size_t wanted = size < sizeof room ? size : sizeof room;
    ssize_t got = offset ? pread64(from, room, wanted, *offset) : next(from, room, wanted);
    if (got <= 0) return got;
    ssize_t put_bytes = write(to, room, got);
    if (offset && put_bytes > 0) *offset += put_bytes;
    return put_bytes;
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    REAL(sendfile)
    char room[PATH_MAX];
    return of_descriptor(to, room) ? copied(to, from, (off64_t *)offset, size) : next(to, from, offset, size);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
    REAL(sendfile64)
    char room[PATH_MAX];
    return of_descriptor(to, room) ? copied(to, from, offset, size) : next(to, from, offset, size);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned int flags) {
    REAL(copy_file_range)
    char room[PATH_MAX];
    if (!of_descriptor(to, room)) return next(from, from_at, to, to_at, size, flags);
    if (!to_at) return copied(to, from, from_at, size);
    errno = EXDEV; /* "use another way": no program of ours copies to a place of its own choice */
    return -1;
}

/* Syncs. */

#define SYNCER(name)                                                      \
    int name(int descriptor) {                                            \
        REAL(name)                                                        \
        char room[PATH_MAX];                                              \
        struct stat at;                                                   \
        const char *path = of_descriptor(descriptor, room);               \
        if (!path) return next(descriptor);                               \
        uint64_t inode = inode_of(descriptor, &at);                       \
        enum kind kind = S_ISDIR(at.st_mode) ? DIRECTORY : SYNC;          \
        lock();                                                           \
        struct verdict verdict = judged(kind, path, NULL);                \
        long result;                                                      \
        if (verdict.action == FAIL) note(kind, verdict.error, path, inode, 0); \
        if (refused(verdict, &result, 0)) return (int)result;             \
        if (!control->journaling) unlock(); /* others go on meanwhile */  \
        result = next(descriptor);                                        \
        if (!control->journaling) lock();                                 \
        if (result == 0 && kind == SYNC) control->dirty = 0;              \
        note(kind, result ? errno : device_error(verdict), path, inode, 0);  \
        return (int)ended(verdict, result);                               \
    }
SYNCER(fsync)
SYNCER(fdatasync)

int sync_file_range(int descriptor, off64_t offset, off64_t size, unsigned int flags) {
    REAL(sync_file_range)
    char room[PATH_MAX];
    if (of_descriptor(descriptor, room)) __atomic_add_fetch(&control->count[RANGE], 1, __ATOMIC_SEQ_CST);
    return next(descriptor, offset, size, flags); /* promises nothing: no sync of ours */
}

int msync(void *at, size_t size, int flags) {
    REAL(msync)
    if (control) __atomic_add_fetch(&control->count[RANGE], 1, __ATOMIC_SEQ_CST);
    return next(at, size, flags);
}

/* Names. */

#define NAMED(kind, path, other, call, inode, size)                      \
    lock();                                                              \
    struct verdict verdict = judged(kind, path, other);                  \
    long result;                                                         \
    if (refused(verdict, &result, 0)) return (int)result;                \
    result = call;                                                       \
    if (!result) note(kind, 0, path, inode, size);                       \
    return (int)ended(verdict, result);

#define TRUNCATER(name, type)                                             \
    int name(int descriptor, type size) {                                \
        REAL(name)                                                       \
        char room[PATH_MAX];                                             \
        struct stat at;                                                  \
        const char *path = of_descriptor(descriptor, room);              \
        if (!path) return next(descriptor, size);                        \
        uint64_t inode = inode_of(descriptor, &at);                      \
        NAMED(TRUNCATE, path, NULL, next(descriptor, size), inode, size) \
    }
TRUNCATER(ftruncate, off_t)
TRUNCATER(ftruncate64, off64_t)

static int opened(int folder, const char *name, int flags, mode_t mode) {
    REAL(openat64)
    char room[PATH_MAX];
    struct stat before, after;
    int writes = (flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY;
    const char *path = writes ? of_path(folder, name, room) : NULL;
    if (!path) return next(folder, name, flags, mode);
    lock();
    struct verdict verdict = judged(OPEN, path, NULL);
    if (verdict.action == FAIL) {
        unlock();
        errno = verdict.error;
        return -1;
    }
    int was_there = fstatat(folder, name, &before, 0) == 0;
    int descriptor = next(folder, name, flags, mode);
    if (descriptor >= 0) {
        uint64_t inode = inode_of(descriptor, &after);
        if (!was_there) note(OPEN, 0, path, inode, 0);
        else if (flags & O_TRUNC) note(TRUNCATE, 0, path, inode, 0);
    }
    return (int)ended(verdict, descriptor);
}

#define OPENER(name, parameters, folder)                        \
    int name parameters {                                       \
        mode_t mode = 0;                                        \
        if (flags & (O_CREAT | O_TMPFILE)) {                    \
            va_list more;                                       \
            va_start(more, flags);                              \
            mode = va_arg(more, mode_t);                        \
            va_end(more);                                       \
        }                                                       \
        return opened(folder, path, flags, mode);               \
    }
OPENER(open, (const char *path, int flags, ...), AT_FDCWD)
OPENER(open64, (const char *path, int flags, ...), AT_FDCWD)
OPENER(openat, (int at, const char *path, int flags, ...), at)
OPENER(openat64, (int at, const char *path, int flags, ...), at)
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int __open_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(AT_FDCWD, path, flags, 0); }

static int two_names(enum kind kind, int from, const char *old, int to, const char *new_name, int flags) {
    static int (*renamer)(int, const char *, int, const char *, unsigned int);
    static int (*linker)(int, const char *, int, const char *, int);
    if (!renamer) renamer = real("renameat2"), linker = real("linkat");
    char room[PATH_MAX], other_room[PATH_MAX], both[2 * PATH_MAX];
    const char *path = of_path(from, old, room), *other = of_path(to, new_name, other_room);
#define CALL (kind == RENAME ? renamer(from, old, to, new_name, flags) : linker(from, old, to, new_name, flags))
    if (!path || !other) return CALL;
    snprintf(both, sizeof both, "%s\n%s", path, other);
    lock();
    struct verdict verdict = judged(kind, path, other);
    long result;
    if (refused(verdict, &result, 0)) return (int)result;
    result = CALL;
    if (!result) note(kind, 0, both, 0, 0);
    return (int)ended(verdict, result);
}
int rename(const char *old, const char *new_name) { return two_names(RENAME, AT_FDCWD, old, AT_FDCWD, new_name, 0); }
int renameat(int from, const char *old, int to, const char *new_name) { return two_names(RENAME, from, old, to, new_name, 0); }
int renameat2(int from, const char *old, int to, const char *new_name, unsigned int flags) {
    return two_names(RENAME, from, old, to, new_name, (int)flags);
}
int link(const char *old, const char *new_name) { return two_names(LINK, AT_FDCWD, old, AT_FDCWD, new_name, 0); }
int linkat(int from, const char *old, int to, const char *new_name, int flags) {
    return two_names(LINK, from, old, to, new_name, flags);
}

static int one_name(enum kind kind, int folder, const char *name, mode_t mode) {
    static int (*unlinker)(int, const char *, int);
    static int (*maker)(int, const char *, mode_t);
    if (!unlinker) unlinker = real("unlinkat"), maker = real("mkdirat");
    char room[PATH_MAX];
    const char *path = of_path(folder, name, room);
#define MAKE_OR_TAKE (kind == MKDIR ? maker(folder, name, mode) : unlinker(folder, name, kind == RMDIR ? AT_REMOVEDIR : 0))
    if (!path) return MAKE_OR_TAKE;
    NAMED(kind, path, NULL, MAKE_OR_TAKE, 0, 0)
}
int unlink(const char *path) { return one_name(UNLINK, AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) {
    return one_name(flags & AT_REMOVEDIR ? RMDIR : UNLINK, folder, path, 0);
}
int rmdir(const char *path) { return one_name(RMDIR, AT_FDCWD, path, 0); }
int mkdir(const char *path, mode_t mode) { return one_name(MKDIR, AT_FDCWD, path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return one_name(MKDIR, folder, path, mode); }

/* Space. */

#define MEASURER(name, from, type, of)                                                            \
    int name(from what, struct type *found) {                                                     \
        REAL(name)                                                                                \
        char room[PATH_MAX];                                                                      \
        const char *path = of;                                                                    \
        int result = next(what, found);                                                           \
        if (!path || result) return result;                                                       \
        lock();                                                                                   \
        struct verdict verdict = judged(SPACE, path, NULL);                                       \
        if (verdict.action == FREE) found->f_bavail = found->f_bfree = verdict.free_bytes / found->f_frsize; \
        if (verdict.action == FAIL) result = -1;                                                  \
        unlock();                                                                                 \
        if (result) errno = verdict.error;                                                        \
        return result;                                                                            \
    }
MEASURER(statvfs, const char *, statvfs, of_path(AT_FDCWD, what, room))
MEASURER(statvfs64, const char *, statvfs64, of_path(AT_FDCWD, what, room))
MEASURER(fstatvfs, int, statvfs, of_descriptor(what, room))
MEASURER(fstatvfs64, int, statvfs64, of_descriptor(what, room))

/* What shim.c shares with bench/faultdisk/disk.py (the control file) and journal.py (the entries). */
#ifndef FAULTDISK_SHIM_H
#define FAULTDISK_SHIM_H
#include <pthread.h>
#include <stdint.h>

enum kind { OPEN, WRITE, META, SYNC, DIRECTORY, RANGE, TRUNCATE, RENAME, UNLINK, MKDIR, RMDIR, LINK, SPACE, MARK, KINDS };
enum action { PASS, FAIL, FAIL_AFTER, TEAR, DROP, DELAY, HOLD, KILL, KILL_AFTER, TEAR_KILL, FREE, FAIL_KILL, HOLD_AFTER };
enum { RULES = 8, PATTERN = 96 };

struct rule {
    volatile uint32_t action, kinds; /* kinds: a bit for each */
    volatile int32_t error;          /* of FAIL, FAIL_AFTER, FAIL_KILL, TEAR; 0 at TEAR: the call says how much it has written */
    volatile uint32_t skip, times;   /* matching calls that pass before; to which it applies then, 0 = all */
    volatile uint32_t keep;          /* bytes that a torn write writes */
    volatile uint32_t delay_us;
    volatile uint32_t seen, hits, held; /* matching calls, those that it applied to, those that wait now */
    volatile uint64_t free_bytes;       /* FREE: what statvfs says is left */
    char pattern[PATTERN];              /* fnmatch, of the path below the base */
};

struct control {
    volatile uint32_t ready, journaling;
    volatile uint32_t count[16]; /* calls that concerned us, by kind */
    volatile uint32_t dirty;     /* plain writes since the last sync of data */
    volatile uint32_t early;     /* self-syncing writes over plain ones that were not synced: the wrong order */
    pthread_mutex_t lock;
    char room[128 - sizeof(pthread_mutex_t)];
    struct rule rules[RULES];
};

struct entry {
    uint32_t kind;
    int32_t error;
    uint64_t inode, at, size;
    uint32_t path_bytes, data_bytes;
};

#endif

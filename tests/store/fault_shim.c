/* Interposed between a process and the C library: one chosen call that changes files below a directory goes wrong.

   FAULT_BELOW   only calls on files below this directory count
   FAULT_CALL    the number of the call, from 1
   FAULT_TIMES   how many calls in a row fail (only for "error")
   FAULT_KIND    error | after | short | kill-before | kill-half | kill-after
   FAULT_ERRNO   what it fails with
   FAULT_ONLY    only calls of this name count, such as pwritev2
   FAULT_HIT     this file is made when the call is reached

   A process that has changed these variables calls `fault_arm`, from where the calls are counted again.

   Built with: cc -shared -fPIC -O1 -o fault_shim.so fault_shim.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, ERROR, AFTER, SHORT, KILL_BEFORE, KILL_HALF, KILL_AFTER };

static const char *below, *only, *hit;
static long first, times, count;
static int number;
static enum kind kind;

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("FAULT_KIND");
    static const char *const names[] = {"none", "error", "after", "short", "kill-before", "kill-half", "kill-after"};
    below = getenv("FAULT_BELOW");
    only = getenv("FAULT_ONLY");
    hit = getenv("FAULT_HIT");
    first = getenv("FAULT_CALL") ? atol(getenv("FAULT_CALL")) : 0;
    times = getenv("FAULT_TIMES") ? atol(getenv("FAULT_TIMES")) : 1;
    number = getenv("FAULT_ERRNO") ? atoi(getenv("FAULT_ERRNO")) : EIO;
    kind = NONE;
    for (int at = 0; text && at < 7; at++)
        if (!strcmp(text, names[at])) kind = (enum kind)at;
}

void fault_arm(void) {
    count = 0;
    begin();
}

static int is_below_path(const char *path) { return below && path[0] == '/' && !strncmp(path, below, strlen(below)); }

static int is_below(int fd) {
    char link[64], path[PATH_MAX];
    char *to = link;
    const char prefix[] = "/proc/self/fd/";
    char digits[16];
    int length = 0;
    if (!below || fd < 0) return 0;
    memcpy(to, prefix, sizeof prefix - 1);
    to += sizeof prefix - 1;
    do digits[length++] = (char)('0' + fd % 10); while (fd /= 10);
    while (length) *to++ = digits[--length];
    *to = 0;
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_below_path(path);
}

/* What happens to this call. */
static enum kind turn(const char *name, int mine) {
    if (kind == NONE || !mine || (only && *only && strcmp(only, name))) return NONE;
    long at = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (at < first || at >= first + (kind == ERROR ? times : 1)) return NONE;
    if (hit) {
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
        int fd = real(hit, O_WRONLY | O_CREAT, 0600);
        if (fd >= 0) close(fd);
    }
    if (kind == KILL_BEFORE) kill(getpid(), SIGKILL);
    return kind;
}

static int failed(void) { errno = number; return -1; }

#define REAL(name) __typeof__(name) *real = dlsym(RTLD_NEXT, #name)
#define AROUND(name, mine, call)                              \
    do {                                                      \
        REAL(name);                                           \
        enum kind now = turn(#name, mine);                    \
        if (now == ERROR || now == SHORT) return failed();    \
        int result = call;                                    \
        if (now == KILL_AFTER || now == KILL_HALF) kill(getpid(), SIGKILL); \
        return now == AFTER && result == 0 ? failed() : result; \
    } while (0)

int fdatasync(int fd) { AROUND(fdatasync, is_below(fd), real(fd)); }
int fsync(int fd) { AROUND(fsync, is_below(fd), real(fd)); }
int ftruncate(int fd, off_t size) { AROUND(ftruncate, is_below(fd), real(fd, size)); }
int ftruncate64(int fd, off64_t size) { AROUND(ftruncate64, is_below(fd), real(fd, size)); }
int fchmod(int fd, mode_t mode) { AROUND(fchmod, is_below(fd), real(fd, mode)); }
int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    AROUND(renameat, is_below(from_fd), real(from_fd, from, to_fd, to));
}
int unlinkat(int fd, const char *name, int flags) { AROUND(unlinkat, is_below(fd), real(fd, name, flags)); }
int mkdirat(int fd, const char *name, mode_t mode) { AROUND(mkdirat, is_below(fd), real(fd, name, mode)); }

/* Making files: a descriptor that is opened for anything else does not count. */
#define OPENING(name)                                                                    \
    int name(int dir, const char *path, int flags, ...) {                                \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                        \
        va_end(rest);                                                                    \
        REAL(name);                                                                      \
        int mine = flags & O_CREAT && (is_below(dir) || is_below_path(path));            \
        enum kind now = turn("openat", mine);                                            \
        if (now == ERROR || now == SHORT) return failed();                               \
        int result = real(dir, path, flags, mode);                                       \
        if (now == KILL_AFTER || now == KILL_HALF) kill(getpid(), SIGKILL);              \
        if (now == AFTER && result >= 0) { close(result); return failed(); }             \
        return result;                                                                   \
    }
OPENING(openat)
OPENING(openat64)

#define WRITING(name, offset_type)                                                       \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) {            \
        REAL(name);                                                                      \
        enum kind now = turn("pwrite", is_below(fd));                                    \
        if (now == ERROR) return failed();                                               \
        if (now == SHORT) return real(fd, data, (size + 1) / 2, offset);                 \
        if (now == KILL_HALF) { (void)!real(fd, data, size / 2, offset); kill(getpid(), SIGKILL); } \
        ssize_t result = real(fd, data, size, offset);                                   \
        if (now == KILL_AFTER) kill(getpid(), SIGKILL);                                  \
        return now == AFTER && result >= 0 ? failed() : result;                          \
    }
WRITING(pwrite, off_t)
WRITING(pwrite64, off64_t)

#define WRITING_MANY(name, offset_type)                                                  \
    ssize_t name(int fd, const struct iovec *data, int parts, offset_type offset, int flags) { \
        REAL(name);                                                                      \
        enum kind now = turn("pwritev2", is_below(fd));                                  \
        if (now == ERROR) return failed();                                               \
        if ((now == SHORT || now == KILL_HALF) && parts == 1) {                          \
            struct iovec half = {data->iov_base, (data->iov_len + 1) / 2};               \
            ssize_t result = real(fd, &half, 1, offset, flags);                          \
            if (now == KILL_HALF) kill(getpid(), SIGKILL);                               \
            return result;                                                               \
        }                                                                                \
        ssize_t result = real(fd, data, parts, offset, flags);                           \
        if (now == KILL_AFTER) kill(getpid(), SIGKILL);                                  \
        return now == AFTER && result >= 0 ? failed() : result;                          \
    }
WRITING_MANY(pwritev2, off_t)
WRITING_MANY(pwritev64v2, off64_t)

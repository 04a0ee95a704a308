/* Interposed between a process and the C library: writes down every call that changes files below a directory.

   RECORD_BELOW  only calls on files below this directory count, and writes to standard output
   RECORD_TO     the file that they are written to: "<call> <offset> <size of data> <path>\n", the data, "\n"

   SQLite makes its own system calls, so this is how the tests see them in their order.
   Built with: cc -shared -fPIC -O1 -o record_shim.so record_shim.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *below;
static int to = -1;

__attribute__((constructor)) static void begin(void) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    below = getenv("RECORD_BELOW");
    if (getenv("RECORD_TO")) to = real(getenv("RECORD_TO"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size < 0) return 0;
    path[size] = 0;
    char *deleted = strstr(path, " (deleted)");
    if (deleted) return 0;
    return 1;
}

static int is_mine(const char *path) { return below && to >= 0 && !strncmp(path, below, strlen(below)); }

static void note(const char *call, const char *path, long long offset, const void *data, size_t size) {
    char head[PATH_MAX + 100];
    int length = snprintf(head, sizeof head, "%s %lld %zu %s\n", call, offset, size, path);
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    (void)!real(to, head, (size_t)length);
    if (size) (void)!real(to, data, size);
    (void)!real(to, "\n", 1);
}

static void joined(int dir, const char *name, char *path) {
    if (name[0] == '/' || dir == AT_FDCWD || !path_of(dir, path)) { snprintf(path, PATH_MAX, "%s", name); return; }
    size_t length = strlen(path);
    snprintf(path + length, PATH_MAX - length, "/%s", name);
}

#define REAL(name) __typeof__(name) *real = dlsym(RTLD_NEXT, #name)

#define WRITING(name, offset_type)                                                     \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) {          \
        REAL(name);                                                                    \
        char path[PATH_MAX];                                                           \
        ssize_t result = real(fd, data, size, offset);                                 \
        if (result > 0 && path_of(fd, path) && is_mine(path)) note("write", path, offset, data, (size_t)result); \
        return result;                                                                 \
    }
WRITING(pwrite, off_t)
WRITING(pwrite64, off64_t)

#define AROUND(what, call)                                                             \
    do {                                                                               \
        char path[PATH_MAX];                                                           \
        int result = call;                                                             \
        if (result == 0 && path_of(fd, path) && is_mine(path)) note(what, path, size, "", 0); \
        return result;                                                                 \
    } while (0)
int ftruncate(int fd, off_t size) { REAL(ftruncate); AROUND("truncate", real(fd, size)); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); AROUND("truncate", real(fd, size)); }
int fsync(int fd) { REAL(fsync); long long size = 0; AROUND("sync", real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); long long size = 0; AROUND("sync", real(fd)); }

static int opened(int result, int was_there, int flags, const char *path) {
    if (result >= 0 && (flags & O_CREAT) && !was_there && is_mine(path)) note("create", path, 0, "", 0);
    return result;
}

#define MODE                                                                           \
    va_list rest;                                                                      \
    va_start(rest, flags);                                                             \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                          \
    va_end(rest)
#define OPENING(name)                                                                  \
    int name(const char *path, int flags, ...) {                                       \
        MODE;                                                                          \
        REAL(name);                                                                    \
        int was_there = access(path, F_OK) == 0;                                       \
        return opened(real(path, flags, mode), was_there, flags, path);                \
    }
OPENING(open)
OPENING(open64)
#define OPENING_AT(name)                                                               \
    int name(int dir, const char *file, int flags, ...) {                              \
        MODE;                                                                          \
        REAL(name);                                                                    \
        char path[PATH_MAX];                                                           \
        joined(dir, file, path);                                                       \
        int was_there = access(path, F_OK) == 0;                                       \
        return opened(real(dir, file, flags, mode), was_there, flags, path);           \
    }
OPENING_AT(openat)
OPENING_AT(openat64)

int unlink(const char *path) {
    REAL(unlink);
    int result = real(path);
    if (result == 0 && is_mine(path)) note("unlink", path, 0, "", 0);
    return result;
}
int unlinkat(int dir, const char *file, int flags) {
    REAL(unlinkat);
    char path[PATH_MAX];
    joined(dir, file, path);
    int result = real(dir, file, flags);
    if (result == 0 && is_mine(path)) note("unlink", path, 0, "", 0);
    return result;
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    ssize_t result = real(fd, data, size);
    if (fd == 1 && to >= 0 && result > 0) note("said", "-", 0, data, (size_t)result);
    return result;
}

/* A device that fails for a while. FAULTS names a file: while it is there, every line of it
 * ("write 5", "sync 28", "range 5", "read 5": kind and errno; "range" is sync_file_range) makes
 * such calls fail on files below FAULTS_BELOW.
 * The results of syncs of database files are noted in FAULTS_LOG ("failed PATH", "synced PATH"). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static ssize_t path_of(int fd, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, PATH_MAX - 1);
    path[len < 0 ? 0 : len] = 0;
    return len;
}

/* The errno with which this call has to fail, or 0. */
static int fault(int fd, const char *kind) {
    const char *below = getenv("FAULTS_BELOW"), *faults = getenv("FAULTS");
    char path[PATH_MAX], text[128];
    if (!below || !faults || path_of(fd, path) < 0 || strncmp(path, below, strlen(below)))
        return 0;
    int file = open(faults, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    REAL(read);
    ssize_t len = real(file, text, sizeof text - 1);
    close(file);
    text[len < 0 ? 0 : len] = 0;
    char *found = strstr(text, kind);
    return found ? atoi(found + strlen(kind)) : 0;
}

static void note(int fd, int failed) {
    char path[PATH_MAX], line[PATH_MAX + 16];
    const char *log = getenv("FAULTS_LOG");
    ssize_t len = path_of(fd, path);
    if (!log || len < 3 || strcmp(path + len - 3, "/db"))
        return;
    int saved = errno;
    int file = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int n = snprintf(line, sizeof line, "%s %s\n", failed ? "failed" : "synced", path);
    __typeof__(&write) real = (__typeof__(&write))dlsym(RTLD_NEXT, "write");
    if (file >= 0 && real(file, line, n) == n)
        close(file);
    errno = saved;
}

#define FAIL(fd, kind)                     \
    do {                                   \
        int error = fault(fd, kind);       \
        if (error) {                       \
            errno = error;                 \
            return -1;                     \
        }                                  \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t len) {
    REAL(write);
    FAIL(fd, "write");
    return real(fd, bytes, len);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) {
    REAL(pwrite);
    FAIL(fd, "write");
    return real(fd, bytes, len, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    REAL(pwrite64);
    FAIL(fd, "write");
    return real(fd, bytes, len, at);
}

/* A sync that fails has synced nothing. */
int fdatasync(int fd) {
    REAL(fdatasync);
    int error = fault(fd, "sync");
    int result = error ? -1 : real(fd);
    if (error)
        errno = error;
    note(fd, result);
    return result;
}

int fsync(int fd) {
    REAL(fsync);
    FAIL(fd, "sync");
    return real(fd);
}

int sync_file_range(int fd, off_t offset, off_t count, unsigned flags) {
    REAL(sync_file_range);
    FAIL(fd, "range");
    return real(fd, offset, count, flags);
}

ssize_t read(int fd, void *bytes, size_t len) {
    REAL(read);
    FAIL(fd, "read");
    return real(fd, bytes, len);
}

ssize_t pread64(int fd, void *bytes, size_t len, off64_t at) {
    REAL(pread64);
    FAIL(fd, "read");
    return real(fd, bytes, len, at);
}

ssize_t copy_file_range(int fd, off64_t *at, int to, off64_t *to_at, size_t len, unsigned flags) {
    REAL(copy_file_range);
    FAIL(fd, "read");
    return real(fd, at, to, to_at, len, flags);
}

ssize_t sendfile64(int to, int fd, off64_t *at, size_t len) {
    REAL(sendfile64);
    FAIL(fd, "read");
    return real(to, fd, at, len);
}

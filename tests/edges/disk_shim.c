/* Stands between a process and its disk (LD_PRELOAD): lets writes and syncs of one directory fail or wait, and records
 * them.
 *
 * DISK_DIRECTORY  the directory; nothing else is touched
 * DISK_CONTROL    a file of four 32-bit numbers, which may change at any time: errno of writes, errno of syncs (0: none),
 *                 whether syncs wait, how many syncs have begun
 * DISK_TRACE      a file; each operation that was done is appended: kind, length of the name, of the second name,
 *                 offset, length of the data, then the names and the data
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    volatile int32_t write_errno, sync_errno, syncs_wait, syncs_begun;
};

struct __attribute__((packed)) head {
    char kind;
    uint16_t name_length, second_length;
    uint64_t offset, length;
};

static struct control *control;
static const char *directory;
static size_t directory_length;
static int trace_fd = -1;
static pthread_mutex_t trace_lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("DISK_CONTROL");
    if (path) {
        int fd = REAL(open)(path, O_RDWR | O_CLOEXEC);
        void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED)
            control = map;
        close(fd);
    }
    path = getenv("DISK_TRACE");
    if (path)
        trace_fd = REAL(open)(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    directory = getenv("DISK_DIRECTORY");
    directory_length = directory ? strlen(directory) : 0;
}

/* The shared memory of SQLite is no matter of the disk: whoever comes after a crash makes it anew. */
static int is_ours(const char *path)
{
    size_t length = strlen(path);
    if (!directory || strncmp(path, directory, directory_length) || (path[directory_length] && path[directory_length] != '/'))
        return 0;
    return length < 4 || strcmp(path + length - 4, "-shm");
}

static int ours(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0 && is_ours(path);
}

static void record(char kind, const char *name, const char *second, uint64_t offset, const void *data, size_t length)
{
    if (trace_fd < 0)
        return;
    struct head head = {kind, strlen(name), strlen(second), offset, length};
    struct iovec parts[] = {
        {&head, sizeof head}, {(void *)name, strlen(name)}, {(void *)second, strlen(second)}, {(void *)data, data ? length : 0}};
    pthread_mutex_lock(&trace_lock);
    if (writev(trace_fd, parts, 4) < 0)
        abort();
    pthread_mutex_unlock(&trace_lock);
}

static int refused(int error)
{
    if (!error)
        return 0;
    errno = error;
    return 1;
}

static ssize_t positioned(int fd, const void *data, size_t length, off_t offset)
{
    char path[PATH_MAX];
    if (!ours(fd, path))
        return REAL(pwrite)(fd, data, length, offset);
    if (control && refused(control->write_errno))
        return -1;
    ssize_t done = REAL(pwrite)(fd, data, length, offset);
    if (done > 0)
        record('W', path, "", offset, data, done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return positioned(fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return positioned(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length)
{
    char path[PATH_MAX];
    if (!ours(fd, path))
        return REAL(write)(fd, data, length);
    if (control && refused(control->write_errno))
        return -1;
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t done = REAL(write)(fd, data, length);
    if (done > 0)
        record('W', path, "", offset, data, done);
    return done;
}

static int truncated(int fd, off_t length)
{
    char path[PATH_MAX];
    int mine = ours(fd, path);
    if (mine && control && refused(control->write_errno))
        return -1;
    int result = REAL(ftruncate)(fd, length);
    if (mine && !result)
        record('T', path, "", length, NULL, 0);
    return result;
}

int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncated(fd, length); }

static int synced(int fd)
{
    char path[PATH_MAX];
    int mine = ours(fd, path);
    if (mine && control) {
        __sync_fetch_and_add(&control->syncs_begun, 1);
        while (control->syncs_wait)
            usleep(500);
        if (refused(control->sync_errno))
            return -1;
    }
    int result = REAL(fsync)(fd);
    if (mine && !result)
        record('S', path, "", 0, NULL, 0);
    return result;
}

int fsync(int fd) { return synced(fd); }
int fdatasync(int fd) { return synced(fd); }

static int opened(const char *path, int flags, mode_t mode)
{
    int mine = (flags & O_CREAT) && is_ours(path);
    int was_there = mine && !access(path, F_OK);
    int fd = REAL(open)(path, flags, mode);
    if (mine && fd >= 0 && !was_there)
        record('C', path, "", 0, NULL, 0);
    return fd;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                                      \
        va_end(rest);                                                                                                  \
        return opened(path, flags, mode);                                                                              \
    }
OPEN(open)
OPEN(open64)

int unlink(const char *path)
{
    int result = REAL(unlink)(path);
    if (!result && is_ours(path))
        record('U', path, "", 0, NULL, 0);
    return result;
}

int rename(const char *from, const char *to)
{
    int result = REAL(rename)(from, to);
    if (!result && is_ours(from))
        record('R', from, to, 0, NULL, 0);
    return result;
}

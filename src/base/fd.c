// SPDX-License-Identifier: Apache-2.0
// Descriptors: all of a read or of a write, whole files, locks. A file is written beside
// its name, fsynced, renamed, and its folder fsynced: after a power cut either the old or
// the new content is there.
#include "base/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

int steal_fd(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

void fd_close(int fd)
{
    int saved = errno;
    if (fd >= 0)
        close(fd);
    errno = saved;
}

int fd_memory(const char *name)
{
    static const char *const folders[] = {"/dev/shm", "/run"};
    int fd = memfd_create(name, MFD_CLOEXEC);
    // Before 3.17. On no disk: it may be frozen.
    for (size_t i = 0; i < ARRAY_LEN(folders) && fd < 0; i++) {
        struct statfs st;
        if (statfs(folders[i], &st) < 0 || st.f_type != TMPFS_MAGIC)
            continue;
        AUTO(str_free) char *path = xasprintf("%s/%s-XXXXXX", folders[i], name);
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            (void)unlink(path);
    }
    return fd;
}

int fd_pread(int fd, void *buf, size_t len, uint64_t off)
{
    char *p = buf;
    while (len > 0) {
        ssize_t n = pread(fd, p, len, (off_t)off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            return -1;
        p += n;
        len -= (size_t)n;
        off += (uint64_t)n;
    }
    return 0;
}

int fd_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
    const char *p = buf;
    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, (off_t)off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            return -1;
        p += n;
        len -= (size_t)n;
        off += (uint64_t)n;
    }
    return 0;
}

int fd_write(int fd, const void *buf, size_t len)
{
    const char *p = buf;
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            return -1;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int file_read(const char *path, struct buf *b, struct err *e)
{
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return err_errno(e, errno, "open %s", path);
    AUTO(str_free) char *piece = xmalloc(64 * KIB);
    size_t before = b->len;
    for (;;) {
        ssize_t n = read(fd, piece, 64 * KIB);
        if (n < 0 && errno == EINTR)
            continue;
        int errnum = n < 0 ? errno : 0;
        if (n > 0)
            buf_add(b, piece, (size_t)n);
        else if (n == 0 && !b->overflow)
            buf_add(b, "", 0); // an empty file is an empty string
        if (n == 0 && !b->overflow)
            return 0;
        if (n > 0 && !b->overflow)
            continue;
        b->len = before;
        if (b->data)
            b->data[before] = '\0';
        return b->overflow
                   ? err_set(e, ERR_FAILED, "%s is larger than the %zu bytes expected",
                             path, b->limit)
                   : err_errno(e, errnum, "read %s", path);
    }
}

static int sync_dir(const char *dir, struct err *e)
{
    AUTO(fd_close) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return err_errno(e, errno, "sync folder %s", dir);
    return 0;
}

int file_write(const char *path, const void *data, size_t len, mode_t mode, struct err *e)
{
    AUTO(str_free) char *dir = path_dir(path);
    AUTO(str_free) char *temp = xasprintf("%s/.%s.XXXXXX", dir, path_base(path));
    AUTO(fd_close) int fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "make a file in %s", dir);
    if (fchmod(fd, mode) < 0 || fd_write(fd, data, len) < 0 || fsync(fd) < 0 ||
        rename(temp, path) < 0) {
        int errnum = errno;
        unlink(temp);
        return err_errno(e, errnum, "write %s", path);
    }
    return sync_dir(dir, e);
}

void file_write_sweep(const char *path)
{
    AUTO(str_free) char *dir = path_dir(path);
    AUTO(str_free) char *prefix = xasprintf(".%s.", path_base(path));
    size_t len = strlen(prefix);
    DIR *d = opendir(dir);
    for (const struct dirent *x; d && (x = readdir(d));) {
        if (strncmp(x->d_name, prefix, len) == 0 && strlen(x->d_name) == len + 6)
            (void)unlinkat(dirfd(d), x->d_name, 0); // what stays is only untidy
    }
    if (d)
        closedir(d);
}

int lock_take(const char *path, const char *what, int *ret_fd, struct err *e)
{
    AUTO(fd_close)
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(e, errno, "open lock %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK)
            return err_errno(e, errno, "lock %s", path);
        char who[24] = "";
        ssize_t n = pread(fd, who, sizeof(who) - 1, 0);
        who[n > 0 ? n : 0] = '\0';
        who[strspn(who, "0123456789")] = '\0';
        return err_set(e, ERR_REFUSED, "%s is in use by process %s (lock %s)", what,
                       who[0] ? who : "?", path);
    }
    char self[24];
    int n = snprintf(self, sizeof(self), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || fd_pwrite(fd, self, (size_t)n, 0) < 0)
        return err_errno(e, errno, "write lock %s", path);
    *ret_fd = steal_fd(&fd);
    return 0;
}

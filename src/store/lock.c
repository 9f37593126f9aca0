// SPDX-License-Identifier: Apache-2.0
// One process works on a job at a time: DIR/job-ID.lock, locked by an open file
// description lock (fcntl(2), "Open file description locks"), which the kernel drops with
// the process however it ends. Unlike flock it can be asked about without being taken, so
// that `godwit jobs` never makes a starting job fail. The file holds the holder's pid,
// for messages only, and is never removed: a name that another process has open must not
// change its inode.
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int open_lock(struct store *s, uint64_t id, int *ret_fd, struct err *e)
{
    AUTO(str_free)
    char *path = xasprintf("%s/job-%llu.lock", s->dir, (unsigned long long)id);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(e, errno, "opening %s", path);
    *ret_fd = fd;
    return 0;
}

int store_job_lock(struct store *s, uint64_t id, int *ret_fd, struct err *e)
{
    AUTO(fd_close) int fd = -1;
    if (open_lock(s, id, &fd, e))
        return -1;
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &whole) < 0) {
        if (errno != EAGAIN && errno != EACCES)
            return err_errno(e, errno, "locking job %llu", (unsigned long long)id);
        char holder[24] = "";
        ssize_t n = pread(fd, holder, sizeof(holder) - 1, 0);
        holder[n > 0 ? n : 0] = '\0';
        return err_set(e, ERR_REFUSED, "job %llu is being worked on by process %s",
                       (unsigned long long)id, *holder ? str_trim(holder) : "?");
    }
    char pid[24];
    int len = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || fd_pwrite(fd, pid, (size_t)len, 0) < 0)
        return err_errno(e, errno, "writing the lock of job %llu",
                         (unsigned long long)id);
    *ret_fd = steal_fd(&fd);
    return 0;
}

bool store_job_running(struct store *s, uint64_t id)
{
    AUTO(fd_close) int fd = -1;
    struct err e = {0};
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (open_lock(s, id, &fd, &e) || fcntl(fd, F_OFD_GETLK, &whole) < 0)
        return false;
    return whole.l_type != F_UNLCK;
}

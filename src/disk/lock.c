// SPDX-License-Identifier: Apache-2.0
// QEMU's image locks, so that neither of us touches what the other has open. Fact of the
// protocol (QEMU, "image locking" of its POSIX file driver): each permission has a
// number; who uses permission N holds a shared lock on byte 100 + N, who does not let
// others use it holds one on byte 200 + N. Both are taken first and the opposite bytes
// are tested after, so of two that race at least one sees the other. The locks are of the
// open file description: children that inherit no descriptor do not hold them.
#include "disk/disk.h"

#include <errno.h>
#include <fcntl.h>

enum { PERM_CONSISTENT_READ, PERM_WRITE, PERM_WRITE_UNCHANGED, PERM_RESIZE, N_PERMS };
enum { BASE_USED = 100, BASE_DENIED = 200 };

struct lock_role {
    unsigned used, denied; // bit N: permission N
};
static const struct lock_role roles[] = {
    [false] = {.used = 1 << PERM_CONSISTENT_READ,
               .denied = 1 << PERM_WRITE | 1 << PERM_RESIZE},
    [true] = {.used = 1 << PERM_CONSISTENT_READ | 1 << PERM_WRITE | 1 << PERM_RESIZE,
              .denied = 1 << PERM_WRITE | 1 << PERM_RESIZE},
};

static int lock_byte(int fd, int command, short type, off_t byte, short *ret_type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, command, &lock) < 0)
        return -1;
    *ret_type = lock.l_type;
    return 0;
}

static int lock_hold(int fd, unsigned permissions, off_t base)
{
    short ignored;
    for (unsigned i = 0; i < N_PERMS; i++)
        if ((permissions & 1U << i) != 0 &&
            lock_byte(fd, F_OFD_SETLK, F_RDLCK, base + i, &ignored) < 0)
            return -1;
    return 0;
}

static bool lock_held_by_other(int fd, unsigned permissions, off_t base)
{
    for (unsigned i = 0; i < N_PERMS; i++) {
        short found = F_UNLCK;
        if ((permissions & 1U << i) != 0 &&
            lock_byte(fd, F_OFD_GETLK, F_WRLCK, base + i, &found) == 0 &&
            found != F_UNLCK)
            return true;
    }
    return false;
}

int disk_lock(int fd, const char *path, bool writable, struct err *e)
{
    const struct lock_role *role = &roles[writable];
    if (lock_hold(fd, role->used, BASE_USED) < 0 ||
        lock_hold(fd, role->denied, BASE_DENIED) < 0) {
        // A file system without such locks: QEMU goes on without them as well.
        if (errno == EINVAL || errno == ENOSYS || errno == ENOLCK || errno == EOPNOTSUPP)
            return 0;
        if (errno != EAGAIN && errno != EACCES)
            return err_errno(e, errno, "lock %s", path);
        return err_set(e, ERR_REFUSED, "%s is locked by another program", path);
    }
    if (lock_held_by_other(fd, role->used, BASE_DENIED) ||
        lock_held_by_other(fd, role->denied, BASE_USED))
        return err_set(e, ERR_REFUSED,
                       "%s is in use by a running virtual machine or another program; "
                       "shut it down first",
                       path);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
// tracefs and debugfs, where they are mounted or not: a mount that hangs nowhere (fsopen,
// kernel 5.2) is enough for us and changes nothing for others.
#include "agent/tracefs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

static const struct {
    const char *type, *path;
    long magic;
} places[] = {
    {"tracefs", "/sys/kernel/tracing", TRACEFS_MAGIC},
    {"tracefs", "/sys/kernel/debug/tracing", TRACEFS_MAGIC},
    {"tracefs", "/sys/kernel/debug/tracing", DEBUGFS_MAGIC}, // before 4.1
    {"debugfs", "/sys/kernel/debug", DEBUGFS_MAGIC},
};

int tracefs_open(const char *type, int *ret_fd, struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        struct statfs st;
        if (strcmp(places[i].type, type) != 0 || statfs(places[i].path, &st) < 0 ||
            st.f_type != places[i].magic)
            continue;
        *ret_fd = open(places[i].path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (*ret_fd >= 0)
            return 0;
    }
    AUTO(fd_close) int context = fsopen(type, FSOPEN_CLOEXEC);
    if (context < 0 || fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return err_set(e, ERR_REFUSED, "%s is not mounted and cannot be: %s", type,
                       strerror(errno));
    int fd = fsmount(context, FSMOUNT_CLOEXEC,
                     MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    if (fd < 0)
        return err_set(e, ERR_REFUSED, "mounting %s: %s", type, strerror(errno));
    *ret_fd = fd;
    return 0;
}

int tracefs_read(int dir, const char *path, struct buf *b, struct err *e)
{
    AUTO(fd_close) int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, ERR_REFUSED, "opening %s of the kernel's tracer: %s", path,
                       strerror(errno));
    buf_reset(b);
    for (;;) {
        char part[4096];
        ssize_t n = read(fd, part, sizeof(part));
        if (n < 0)
            return err_errno(e, errno, "reading %s of the kernel's tracer", path);
        if (n == 0)
            break;
        buf_add(b, part, (size_t)n);
    }
    if (b->overflow || b->len == 0)
        return err_set(e, ERR_FAILED, "%s of the kernel's tracer is %s", path,
                       b->overflow ? "too long" : "empty");
    return 0;
}

int tracefs_write(int dir, const char *path, const char *text, struct err *e)
{
    AUTO(fd_close) int fd = openat(dir, path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (fd < 0 || fd_write(fd, text, strlen(text)) < 0)
        return err_set(e, ERR_REFUSED, "writing %s of the kernel's tracer: %s", path,
                       strerror(errno));
    return 0;
}

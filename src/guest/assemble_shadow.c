// SPDX-License-Identifier: Apache-2.0
// A writable view of a device that must not be written: md updates a bitmap even of an
// array that is started read-only, wants its members opened for writing, and takes a
// member that fails a write out of the array. So it gets a snapshot (device-mapper's, not
// persistent) whose changed blocks lie in memory:
//
//     member ─► snapshot ◄─ loop device ◄─ memory file
//
// The loop device goes by itself when the snapshot does.
#include "guest/assemble.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

// More than md writes to an array on which nothing else is written. Sparse.
#define CHANGES_MAX (16 * MIB)

// *ret_fd holds the loop device until something else does.
static int loop_open(int memory, char **ret_node, int *ret_fd, struct err *e)
{
    AUTO(fd_close) int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0)
        return err_errno(e, errno, "find a free loop device");
    AUTO(str_free) char *node = xasprintf("/dev/loop%d", number);
    AUTO(fd_close) int fd = open(node, O_RDWR | O_CLOEXEC);
    struct loop_config config = {.fd = (uint32_t)memory,
                                 .info = {.lo_flags = LO_FLAGS_AUTOCLEAR}};
    if (fd < 0 || ioctl(fd, LOOP_CONFIGURE, &config) < 0)
        return err_errno(e, errno, "set up %s", node);
    *ret_node = steal(node);
    *ret_fd = steal_fd(&fd);
    return 0;
}

static int sectors_of(const char *node, uint64_t *ret, struct err *e)
{
    uint64_t bytes = 0;
    AUTO(fd_close) int fd = open(node, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0)
        return err_errno(e, errno, "ask the size of %s", node);
    *ret = bytes / 512;
    return 0;
}

int shadow_open(struct assembly *a, const char *node, char **ret, struct err *e)
{
    uint64_t sectors = 0;
    AUTO(fd_close) int memory = fd_memory("godwit-shadow");
    AUTO(fd_close) int held = -1;
    AUTO(str_free) char *loop = NULL;
    assemble_load_module("loop");
    assemble_load_module("dm-snapshot");
    if (memory < 0 || ftruncate(memory, CHANGES_MAX) < 0)
        return err_errno(e, errno, "make a memory file");
    if (sectors_of(node, &sectors, e) < 0 || loop_open(memory, &loop, &held, e) < 0)
        return -1;
    AUTO(str_free) char *name = xasprintf("shadow-%s", path_base(node));
    AUTO(str_free)
    char *table =
        xasprintf("0 %llu snapshot %s %s N 8", (unsigned long long)sectors, node, loop);
    char *const argv[] = {"dmsetup", "create", name, "--table", table, NULL};
    if (assemble_run(argv, NULL, NULL, e) < 0)
        return err_wrap(e, "put a snapshot over %s", node);
    assembly_undo_later(a, UNDO_SHADOW, name);
    *ret = xasprintf("/dev/mapper/%s", name);
    return 0;
}

int shadow_close(const char *name, struct err *e)
{
    char *const argv[] = {"dmsetup", "remove", "--retry", (char *)name, NULL};
    return assemble_run(argv, NULL, NULL, e);
}

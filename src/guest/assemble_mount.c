// SPDX-License-Identifier: Apache-2.0
// Mounting one device of the guest. Nothing of it is ever run or used as a device. With
// read-only disks no journal is replayed (the kernel would refuse to mount a dirty file
// system otherwise); with writable ones it is, by the mount itself.
#include "guest/assemble.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

// nouuid: clones of one guest share UUIDs.
static const struct {
    const char *content, *type;
    const char *read_only, *writable; // options
} kinds[] = {
    {"ext2", "ext4", "noload", ""},
    {"ext3", "ext4", "noload", ""},
    {"ext4", "ext4", "noload", ""},
    {"xfs", "xfs", "norecovery,nouuid", "nouuid"},
    {"btrfs", "btrfs", "rescue=nologreplay", ""},
    {"vfat", "vfat", "codepage=437,iocharset=iso8859-1,utf8",
     "codepage=437,iocharset=iso8859-1,utf8"},
    {"ntfs", NULL, "ro", "rw"},
};

bool mount_possible(const struct guest_device *d)
{
    for (size_t i = 0; d->content && i < ARRAY_LEN(kinds); i++) {
        if (strcmp(kinds[i].content, d->content) == 0)
            return true;
    }
    return false;
}

#define BTRFS_SCAN_DEV _IOW(0x94, 4, struct btrfs_name) // linux/btrfs.h
#define BTRFS_FORGET_DEV _IOW(0x94, 5, struct btrfs_name)
struct btrfs_name { // struct btrfs_ioctl_vol_args
    int64_t fd;
    char name[4088];
};

// Best effort: the mount says what is missing.
static void tell_btrfs(unsigned long request, const char *node)
{
    struct btrfs_name args = {0};
    AUTO(fd_close) int control = open("/dev/btrfs-control", O_RDWR | O_CLOEXEC);
    if (control < 0 || strlen(node) >= sizeof(args.name))
        return;
    memcpy(args.name, node, strlen(node));
    (void)ioctl(control, request, &args);
}

void mount_know_btrfs(const struct guest *g)
{
    bool loaded = false;
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (!guest_device_holds(d, "btrfs"))
            continue;
        if (!loaded)
            assemble_load_module("btrfs");
        loaded = true;
        tell_btrfs(BTRFS_SCAN_DEV, d->node);
    }
}

void mount_forget_btrfs(void)
{
    tell_btrfs(BTRFS_FORGET_DEV, "");
}

static int mount_ntfs(const char *node, const char *where, const char *options,
                      struct err *e)
{
    AUTO(str_free) char *all = xasprintf("%s,nodev,nosuid,noexec", options);
    assemble_load_module("fuse");
    char *const argv[] = {"ntfs-3g", "-o", all, (char *)node, (char *)where, NULL};
    return assemble_run(argv, NULL, NULL, e);
}

int mount_device(struct assembly *a, const struct guest_device *d, const char *where,
                 const char *options, bool read_only, struct err *e)
{
    size_t kind = 0;
    while (kind < ARRAY_LEN(kinds) &&
           (!d->content || strcmp(kinds[kind].content, d->content) != 0))
        kind++;
    if (kind == ARRAY_LEN(kinds))
        return err_set(e, ERR_REFUSED, "%s holds %s, which cannot be mounted here",
                       d->node, d->content ? d->content : "nothing known");
    if (dir_make(where, 0700, e) < 0)
        return -1;
    const char *own = read_only ? kinds[kind].read_only : kinds[kind].writable;
    AUTO(str_free)
    char *data =
        xasprintf("%s%s%s", own, own[0] && options ? "," : "", options ? options : "");
    int r = 0;
    if (!kinds[kind].type) {
        r = mount_ntfs(d->node, where, own, e);
    } else if (mount(d->node, where, kinds[kind].type,
                     MS_NODEV | MS_NOSUID | MS_NOEXEC | (read_only ? MS_RDONLY : 0),
                     data) < 0) {
        r = err_errno(e, errno, "mount %s (%s, UUID=%s)", d->node, d->content,
                      d->uuid ? d->uuid : "?");
    }
    if (r == 0)
        assembly_undo_later(a, UNDO_MOUNT, where);
    return r;
}

// What was written must be on the disk before the mount goes: umount itself tells nobody
// of a failed write.
int unmount(const char *where, struct err *e)
{
    int failed = 0;
    AUTO(fd_close) int fd = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || syncfs(fd) < 0)
        failed = errno;
    fd_close(steal_fd(&fd));
    for (unsigned try = 0; umount2(where, UMOUNT_NOFOLLOW) < 0; try++) {
        if (errno != EBUSY || try == 50)
            return err_errno(e, errno, "unmount %s", where);
        usleep(20000);
    }
    return failed ? err_errno(e, failed, "write back %s", where) : 0;
}

// SPDX-License-Identifier: Apache-2.0
// Finds disks by serial number: of SCSI disks in VPD page 0x80 (SPC-4 7.8.18: four bytes
// of header), of virtio-blk in its own file. A disk that was just taken away may still be
// listed, so one counts only when it can be read past all caches.
#include "agent/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TICK_US 10000
#define SERIAL_MAX 256

// The content of an attribute in sysfs without its header and white space; NULL: none.
static char *read_serial(const char *disk, const char *file, size_t header)
{
    char text[SERIAL_MAX + 1] = "";
    AUTO(str_free) char *path = xasprintf("/sys/class/block/%s/%s", disk, file);
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, SERIAL_MAX);
    if (n <= (ssize_t)header)
        return NULL;
    return xstrdup(str_trim(text + header));
}

static bool has_serial(const char *disk, const char *serial)
{
    AUTO(str_free) char *virtio = read_serial(disk, "serial", 0);
    AUTO(str_free) char *scsi = virtio ? NULL : read_serial(disk, "device/vpd_pg80", 4);
    const char *got = virtio ? virtio : scsi;
    return got && strcmp(got, serial) == 0;
}

// Is it really there? Reads its partition table again, so that all partitions are known.
static bool look_at(const char *node, struct disk_found *ret)
{
    AUTO(fd_close) int fd = open(node, O_RDONLY | O_CLOEXEC | O_DIRECT);
    AUTO(free) void *block = alloc_aligned(4096);
    int sector = 0, read_only = 0;
    uint64_t size = 0;
    if (fd < 0 || !block || ioctl(fd, BLKGETSIZE64, &size) < 0 ||
        ioctl(fd, BLKSSZGET, &sector) < 0 || ioctl(fd, BLKROGET, &read_only) < 0)
        return false;
    if (size >= 4096 && fd_pread(fd, block, 4096, 0) < 0)
        return false;
    if (ioctl(fd, BLKRRPART) < 0 && errno != EINVAL) // EINVAL: cannot have partitions
        return false;
    *ret = (struct disk_found){.node = xstrdup(node),
                               .size = size,
                               .sector_size = (uint64_t)sector,
                               .read_only = read_only != 0};
    return true;
}

static bool find_once(const char *serial, struct disk_found *ret)
{
    DIR *dir = opendir("/sys/block");
    bool found = false;
    for (const struct dirent *d; dir && !found && (d = readdir(dir));) {
        if (d->d_name[0] == '.' || !has_serial(d->d_name, serial))
            continue;
        AUTO(str_free) char *node = path_join("/dev", d->d_name);
        found = look_at(node, ret);
    }
    if (dir)
        closedir(dir);
    return found;
}

int disk_find(const char *serial, uint64_t timeout_ms, struct disk_found *ret,
              struct err *e)
{
    uint64_t end = clock_ms() + timeout_ms;
    while (!find_once(serial, ret)) {
        if (clock_ms() > end)
            return err_set(e, ERR_FAILED, "no disk with serial number %s after %llu s",
                           serial, (unsigned long long)timeout_ms / 1000);
        usleep(TICK_US);
    }
    ret->serial = xstrdup(serial);
    return 0;
}

void disk_found_done(struct disk_found *d)
{
    free(d->serial);
    free(d->node);
    *d = (struct disk_found){0};
}

// SPDX-License-Identifier: Apache-2.0
// A tracker is believed after it marked a block that was written before its eyes. The
// block belongs to a file without a name (O_TMPFILE) on a file system of the disk; where
// it lies is asked by FIEMAP. What surprises: below LVM, RAID or btrfs the place is not
// told, there only the counts are compared; without a writable file system nothing is
// written at all and the first audit decides.
#include "agent/track_state.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define BLOCK 4096
#define MOUNTS_MAX (4 * MIB)
#define DEPTH_MAX 8 // of devices on devices
#define REST_MS 300
#define PLACE_UNKNOWN UINT64_MAX

static bool lies_on(unsigned major, unsigned minor, const char *disk, unsigned depth,
                    uint64_t *ret_start);

static bool device_number(const char *path, unsigned *ret_major, unsigned *ret_minor)
{
    struct err e;
    AUTO(buf_done) struct buf b = BUF_INIT(64);
    return file_read(path, &b, &e) == 0 && b.len > 0 &&
           sscanf(b.data, "%u:%u", ret_major, ret_minor) == 2;
}

// Is one of those that the device at `path` is made of on the disk?
static bool slave_lies_on(const char *path, const char *disk, unsigned depth)
{
    AUTO(str_free) char *slaves = path_join(path, "slaves");
    DIR *dir = opendir(slaves);
    bool found = false;
    for (const struct dirent *d; dir && !found && (d = readdir(dir));) {
        unsigned major, minor;
        uint64_t ignored;
        AUTO(str_free) char *dev = xasprintf("%s/%s/dev", slaves, d->d_name);
        found = d->d_name[0] != '.' && device_number(dev, &major, &minor) &&
                lies_on(major, minor, disk, depth + 1, &ignored);
    }
    if (dir)
        closedir(dir);
    return found;
}

// Does the device lie on the disk? *ret_start: where on it, or PLACE_UNKNOWN.
static bool lies_on(unsigned major, unsigned minor, const char *disk, unsigned depth,
                    uint64_t *ret_start)
{
    char link[64], path[PATH_MAX];
    (void)snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major, minor);
    if (depth == DEPTH_MAX || realpath(link, path) == NULL)
        return false;
    *ret_start = 0;
    if (strcmp(path_base(path), disk) == 0)
        return true;
    struct err e;
    AUTO(str_free) char *parent = path_dir(path);
    AUTO(str_free) char *start = path_join(path, "start");
    AUTO(buf_done) struct buf b = BUF_INIT(64);
    if (strcmp(path_base(parent), disk) == 0 && file_read(start, &b, &e) == 0 &&
        b.len > 0 && str_to_u64(str_trim(b.data), ret_start) == 0) {
        *ret_start *= 512;
        return true;
    }
    *ret_start = PLACE_UNKNOWN;
    return slave_lies_on(path, disk, depth);
}

// "\040" is a blank in mountinfo.
static void unescape(char *s)
{
    char *to = s;
    for (const char *from = s; *from; from++) {
        if (from[0] == '\\' && from[1] && from[2] && from[3]) {
            *to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 3;
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
}

// A file without a name below `where` if that is a file system on the disk, writable.
static int probe_file(const char *where, const char *source, dev_t dev,
                      const struct track_disk *d, uint64_t *ret_start)
{
    struct stat st;
    dev_t device = dev;
    if (major(dev) == 0) { // btrfs: each subvolume has a number of its own
        if (stat(source, &st) < 0 || !S_ISBLK(st.st_mode))
            return -1;
        device = st.st_rdev;
    }
    if (!lies_on(major(device), minor(device), d->name, 0, ret_start))
        return -1;
    if (device != dev)
        *ret_start = PLACE_UNKNOWN;
    int fd = open(where, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    // Something else may be mounted over it.
    if (fstat(fd, &st) < 0 || (device == dev && st.st_dev != dev)) {
        fd_close(fd);
        return -1;
    }
    return fd;
}

static int find_file(const struct track_disk *d, uint64_t *ret_start)
{
    struct err e;
    AUTO(buf_done) struct buf b = BUF_INIT(MOUNTS_MAX);
    if (file_read("/proc/self/mountinfo", &b, &e) < 0 || b.len == 0)
        return -1;
    for (char *line = b.data, *next; *line; line = next) {
        next = line + strcspn(line, "\n");
        if (*next)
            *next++ = 0;
        unsigned major, minor;
        char where[PATH_MAX], source[PATH_MAX], *rest = strstr(line, " - ");
        if (sscanf(line, "%*u %*u %u:%u %*s %4095s", &major, &minor, where) != 3 ||
            rest == NULL || sscanf(rest, " - %*s %4095s", source) != 1)
            continue;
        unescape(where);
        int fd = probe_file(where, source, makedev(major, minor), d, ret_start);
        if (fd >= 0)
            return fd;
    }
    return -1;
}

// Where on its file system the file's first block lies.
static uint64_t place(int fd)
{
    uint64_t room[(sizeof(struct fiemap) + sizeof(struct fiemap_extent)) / 8] = {0};
    struct fiemap *ask = (struct fiemap *)(void *)room;
    ask->fm_length = BLOCK;
    ask->fm_extent_count = 1;
    ask->fm_flags = FIEMAP_FLAG_SYNC;
    const uint32_t nowhere = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC |
                             FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_INLINE |
                             FIEMAP_EXTENT_DATA_TAIL | FIEMAP_EXTENT_UNWRITTEN;
    if (ioctl(fd, FS_IOC_FIEMAP, ask) < 0 || ask->fm_mapped_extents != 1 ||
        (ask->fm_extents[0].fe_flags & nowhere) != 0)
        return PLACE_UNKNOWN;
    return ask->fm_extents[0].fe_physical;
}

// rested: the counts of the beginning are of one moment.
static int compare(const struct track_disk *d, struct tracker *t, size_t i, bool rested,
                   const struct track_counts *start, struct err *e)
{
    struct track_counts now, most;
    struct err busy;
    bool rest = track_both(d, t, i, REST_MS, &now, &most, &busy) == 0;
    if (!rest && busy.code != ERR_RETRY) {
        *e = busy;
        return -1;
    }
    uint64_t wrote = now.kernel - start->kernel,
             marked = now.seen.sectors - start->seen.sectors;
    if (marked < BLOCK / 512)
        return err_set(e, ERR_REFUSED, "it did not see a write to %s", d->name);
    if (rested && rest && wrote > marked)
        return err_set(e, ERR_REFUSED, "it saw %llu of %llu sectors written to %s",
                       (unsigned long long)marked, (unsigned long long)wrote, d->name);
    return 0;
}

int track_probe(const struct track_disk *d, struct tracker *t, size_t i,
                struct marks *pending, struct err *e)
{
    uint64_t start = 0;
    struct track_counts before, least;
    struct track_kernel k;
    if (track_kernel(d->name, &k, e) < 0)
        return -1;
    AUTO(fd_close) int fd = find_file(d, &start);
    if (fd < 0)
        return 0;
    AUTO(free) void *block = alloc_aligned(BLOCK);
    if (block == NULL)
        return err_set(e, ERR_FAILED, "no memory for a block");
    memset(block, 'g', BLOCK);
    bool rested = track_both(d, t, i, REST_MS, &least, &before, e) == 0;
    if (!rested && e->code != ERR_RETRY)
        return -1;
    if (fd_pwrite(fd, block, BLOCK, 0) < 0 || fdatasync(fd) < 0)
        return 0; // a full or failing file system says nothing about the tracker
    uint64_t at = start == PLACE_UNKNOWN ? PLACE_UNKNOWN : place(fd);
    if (t->ops->harvest(t, i, pending, e) < 0 || compare(d, t, i, rested, &before, e) < 0)
        return -1;
    uint64_t granule = at == PLACE_UNKNOWN ? 0 : (start + at) >> pending->shift;
    if (at != PLACE_UNKNOWN && (granule >= pending->n || !pending->v[granule]))
        return err_set(e, ERR_REFUSED, "it did not mark a write to %s at %llu", d->name,
                       (unsigned long long)(start + at));
    return 0;
}

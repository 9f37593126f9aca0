// SPDX-License-Identifier: Apache-2.0
// Disks in /sys/block, and what lies on which of them (the kernel's
// Documentation/ABI/stable/sysfs-block): a partition lies on its parent, device-mapper,
// md and bcache on their slaves, a loop device on the file system of its file. Where that
// is btrfs the file's device number is made up, and the devices are in /sys/fs/btrfs.

#include "agent/block.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DISKS_MAX 64 // bits of a set
#define STACK_MAX 16 // devices on devices

// --- the list

static bool is_disk(const char *name)
{
    static const char *const others[] = {"loop", "dm-", "md",     "ram",  "zram",
                                         "sr",   "fd",  "bcache", "drbd", "mtdblock"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (str_starts(name, others[i]))
            return false;
    return name[0] != '.';
}

// SCSI keeps it in VPD page 0x80 (SPC-4 7.8.18): four bytes of header, then text.
static char *vpd_serial(const char *name)
{
    char page[260] = "";
    AUTO(str_free) char *path = xasprintf("/sys/block/%s/device/vpd_pg80", name);
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, page, sizeof(page) - 1);
    const char *text = n > 4 ? str_trim(page + 4) : "";
    return *text ? xstrdup(text) : NULL;
}

static char *first_text(const char *name, const char *const *attributes)
{
    char *text = NULL;
    for (size_t i = 0; attributes[i] && !text; i++)
        text = sys_text("/sys/block/%s/%s", name, attributes[i]);
    return text;
}

// By the devices it hangs on, from the nearest kind of disk to the widest.
static char *bus_of(const char *name)
{
    static const struct {
        const char *part, *bus;
    } buses[] = {{"/nvme", "nvme"},    {"/mmc", "mmc"},  {"/vbd-", "xen"},
                 {"/ide", "ide"},      {"/ata", "sata"}, {"/host", "scsi"},
                 {"/virtio", "virtio"}};
    AUTO(str_free) char *link = xasprintf("/sys/block/%s", name);
    AUTO(str_free) char *path = realpath(link, NULL);
    for (size_t i = 0; path && i < ARRAY_LEN(buses); i++) {
        const char *at = strstr(path, buses[i].part);
        if (!at)
            continue;
        // …/ata1/host0/…: the controller before it tells.
        AUTO(str_free)
        char *driver = xasprintf("%.*s/driver", (int)(at - path), path);
        AUTO(str_free) char *real = realpath(driver, NULL);
        bool piix = real && strcmp(path_base(real), "ata_piix") == 0;
        return xstrdup(piix && strcmp(buses[i].bus, "sata") == 0 ? "ide" : buses[i].bus);
    }
    return NULL;
}

static bool disk_describe(const char *name, struct block_disk *ret)
{
    static const char *const serials[] = {"serial", "device/serial", NULL};
    static const char *const models[] = {"device/model", "device/name", NULL};
    AUTO(str_free) char *dev = xasprintf("/sys/block/%s/dev", name);
    dev_t number;
    if (!sys_dev(dev, &number))
        return false;
    *ret = (struct block_disk){
        .name = xstrdup(name),
        .node = path_join("/dev", name),
        .serial = first_text(name, serials),
        .model = first_text(name, models),
        .major = major(number),
        .minor = minor(number),
        .size = sys_number(name, "size") * 512,
        .sector_size = (uint32_t)sys_number(name, "queue/logical_block_size"),
        .removable = sys_number(name, "removable") != 0,
        .read_only = sys_number(name, "ro") != 0,
        .bus = bus_of(name),
    };
    // A name with a slash is written with "!" there (cciss!c0d0).
    for (char *p = ret->node; (p = strchr(p, '!'));)
        *p = '/';
    if (!ret->serial)
        ret->serial = vpd_serial(name);
    if (!ret->sector_size)
        ret->sector_size = 512;
    return true;
}

static int compare(const void *a, const void *b)
{
    const struct block_disk *x = a, *y = b;
    size_t n = strlen(x->name), m = strlen(y->name);
    return n != m ? (n < m ? -1 : 1) : strcmp(x->name, y->name); // sdb before sdaa
}

static void disk_done(struct block_disk *d)
{
    char *texts[] = {d->name, d->node, d->serial, d->model, d->bus};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(texts[i]);
}

void block_disks_done(struct block_disks *d)
{
    for (size_t i = 0; i < d->n; i++)
        disk_done(&d->v[i]);
    vec_done(d);
}

static int list_all(struct block_disks *ret, struct err *e)
{
    DIR *dir = opendir("/sys/block");
    if (!dir)
        return err_errno(e, errno, "cannot list disks in /sys/block");
    for (const struct dirent *x; (x = readdir(dir));) {
        struct block_disk disk;
        // Hidden: a path of an NVMe disk that has several.
        if (!is_disk(x->d_name) || sys_number(x->d_name, "hidden") ||
            !disk_describe(x->d_name, &disk))
            continue;
        if (disk.size)
            vec_push(ret, disk);
        else
            disk_done(&disk);
    }
    closedir(dir);
    return 0;
}

int block_list(const struct strings *only, struct block_disks *ret, struct err *e)
{
    struct block_disks list = {0};
    int r = 0;
    if (!only || !only->n)
        r = list_all(&list, e);
    for (size_t i = 0; r == 0 && only && i < only->n; i++) {
        struct block_disk disk;
        if (disk_describe(only->v[i], &disk))
            vec_push(&list, disk);
        else
            r = err_set(e, ERR_REFUSED, "there is no disk named %s", only->v[i]);
    }
    if (r == 0 && list.n > DISKS_MAX)
        r = err_set(e, ERR_REFUSED, "%zu disks are more than the %d that can be handled",
                    list.n, DISKS_MAX);
    if (r < 0) {
        block_disks_done(&list);
        return -1;
    }
    if (list.n)
        qsort(list.v, list.n, sizeof(*list.v), compare);
    *ret = list;
    return 0;
}

// The multipath device that the disk is a path of; NULL: none.
static char *multipath_of(const char *disk)
{
    AUTO(str_free) char *dir = xasprintf("/sys/block/%s/holders", disk);
    DIR *list = opendir(dir);
    char *found = NULL;
    for (const struct dirent *x; list && !found && (x = readdir(list));) {
        AUTO(str_free) char *uuid = sys_text("%s/%s/dm/uuid", dir, x->d_name);
        if (uuid && str_starts(uuid, "mpath-"))
            found = xstrdup(x->d_name);
    }
    if (list)
        closedir(list);
    return found;
}

int block_check_paths(const struct block_disks *d, struct err *e)
{
    AUTO(strings_done) struct strings devices = {0};
    for (size_t i = 0; i < d->n; i++) {
        AUTO(str_free) char *device = multipath_of(d->v[i].name);
        if (device && strings_have(&devices, device))
            return err_set(e, ERR_REFUSED,
                           "disk %s is one of several paths to the disk %s: changes "
                           "that go by several are not put together; leave it one path",
                           d->v[i].name, device);
        if (device)
            strings_add(&devices, device);
    }
    return 0;
}

// --- what lies below

static int place(const struct block_disks *d, dev_t dev, unsigned stack,
                 struct block_place *ret, struct err *e);

static void place_merge(struct block_place *to, const struct block_place *from)
{
    to->disks |= from->disks;
    if (from->depth > to->depth)
        to->depth = from->depth;
}

// Everything that is listed in `dir` lies below.
static int place_listed(const struct block_disks *d, const char *dir, unsigned stack,
                        struct block_place *ret, dev_t *ret_first, struct err *e)
{
    DIR *list = opendir(dir);
    int r = 0;
    for (const struct dirent *x; r == 0 && list && (x = readdir(list));) {
        struct block_place one = {0};
        dev_t dev;
        AUTO(str_free) char *path = xasprintf("%s/%s/dev", dir, x->d_name);
        if (x->d_name[0] == '.' || !sys_dev(path, &dev))
            continue;
        r = place(d, dev, stack, &one, e);
        place_merge(ret, &one);
        if (!*ret_first)
            *ret_first = dev;
    }
    if (list)
        closedir(list);
    return r;
}

static int place_btrfs(const struct block_disks *d, int fd, unsigned stack,
                       struct block_place *ret, dev_t *ret_dev, struct err *e)
{
    struct btrfs_ioctl_fs_info_args info = {0};
    if (ioctl(fd, BTRFS_IOC_FS_INFO, &info) < 0)
        return 0;
    const uint8_t *u = info.fsid;
    AUTO(str_free)
    char *dir = xasprintf("/sys/fs/btrfs/%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
                          "%02x%02x%02x%02x%02x%02x/devices",
                          u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9],
                          u[10], u[11], u[12], u[13], u[14], u[15]);
    return place_listed(d, dir, stack, ret, ret_dev, e);
}

// The backing file, as whoever set it up named it, in whichever namespace that was. -1:
// it cannot be reached.
static int open_backing(const char *path, const struct loop_info64 *info)
{
    AUTO(strings_done) struct strings pids = {0};
    struct err ignored; // no /proc: nothing is found
    struct stat st;
    (void)namespaces_list(&pids, &ignored);
    for (size_t i = 0; i < pids.n; i++) {
        AUTO(str_free) char *there = xasprintf("/proc/%s/root%s", pids.v[i], path);
        AUTO(fd_close) int fd = open(there, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == info->lo_device &&
            st.st_ino == info->lo_inode)
            return steal_fd(&fd);
    }
    return -1;
}

// A file that cannot be found lies on nothing that is known: whatever holds it is listed
// for itself.
static int place_loop(const struct block_disks *d, const char *sys, const char *backing,
                      unsigned stack, struct block_place *ret, struct err *e)
{
    struct loop_info64 info = {0};
    dev_t first = 0;
    AUTO(str_free) char *real = realpath(sys, NULL); // its minor is not its number
    AUTO(str_free) char *node = real ? path_join("/dev", path_base(real)) : NULL;
    AUTO(fd_close)
    int fd = node ? open(node, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    ret->depth++;
    if (fd < 0 || ioctl(fd, LOOP_GET_STATUS64, &info) < 0)
        return 0;
    if (info.lo_rdevice)
        return place(d, info.lo_rdevice, stack, ret, e);
    if (major(info.lo_device))
        return place(d, info.lo_device, stack, ret, e);
    AUTO(fd_close) int file = open_backing(backing, &info);
    return file < 0 ? 0 : place_btrfs(d, file, stack, ret, &first, e);
}

// bcache: the backing device is a slave, the cache is not.
static int place_stacked(const struct block_disks *d, const char *sys, unsigned stack,
                         struct block_place *ret, struct err *e)
{
    AUTO(str_free) char *slaves = path_join(sys, "slaves");
    AUTO(str_free) char *cache = path_join(sys, "bcache/cache/cache0/../dev");
    struct block_place below = {0};
    dev_t first = 0, dev;
    if (place_listed(d, slaves, stack, ret, &first, e))
        return -1;
    if (sys_dev(cache, &dev) && place(d, dev, stack, &below, e))
        return -1;
    place_merge(ret, &below);
    return 0;
}

static int place(const struct block_disks *d, dev_t dev, unsigned stack,
                 struct block_place *ret, struct err *e)
{
    for (size_t i = 0; i < d->n; i++) {
        if (d->v[i].major != major(dev) || d->v[i].minor != minor(dev))
            continue;
        ret->disks |= UINT64_C(1) << i;
        return 0;
    }
    if (stack == STACK_MAX)
        return err_set(e, ERR_REFUSED, "devices lie on each other more than %d deep",
                       STACK_MAX);
    AUTO(str_free)
    char *at = xasprintf("/sys/dev/block/%u:%u", major(dev), minor(dev));
    AUTO(str_free) char *partition = sys_text("%s/partition", at);
    AUTO(str_free) char *backing = sys_text("%s/loop/backing_file", at);
    if (backing)
        return place_loop(d, at, backing, stack + 1, ret, e);
    AUTO(str_free) char *parent = path_join(at, "../dev");
    dev_t whole;
    if (partition && sys_dev(parent, &whole))
        return place(d, whole, stack + 1, ret, e);
    return place_stacked(d, at, stack + 1, ret, e);
}

int block_place(const struct block_disks *d, unsigned major, unsigned minor,
                struct block_place *ret, struct err *e)
{
    struct block_place found = {0};
    if (place(d, makedev(major, minor), 0, &found, e))
        return -1;
    *ret = found;
    return 0;
}

int block_place_btrfs(const struct block_disks *d, int fd, struct block_place *ret,
                      dev_t *ret_dev, struct err *e)
{
    struct block_place found = {0};
    dev_t first = 0;
    if (place_btrfs(d, fd, 0, &found, &first, e))
        return -1;
    *ret = found;
    *ret_dev = first;
    return 0;
}

int block_below(const struct block_disks *d, unsigned major, unsigned minor,
                uint64_t *ret_disks, struct err *e)
{
    struct block_place found;
    if (block_place(d, major, minor, &found, e))
        return -1;
    *ret_disks = found.disks;
    return 0;
}

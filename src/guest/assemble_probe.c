// SPDX-License-Identifier: Apache-2.0
// Block devices of the guest and what libblkid finds on them, and whether it may be
// touched: a hibernated system's memory still holds file system state that would be
// written over ours; a file system marked with errors needs its own check first.
#include "guest/assemble.h"

#include <blkid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define ESP_TYPE "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
#define ESP_TYPE_MBR "0xef"
#define PARTITIONS_MAX 256

static char *probed_value(blkid_probe probe, const char *name)
{
    const char *value = NULL;
    return blkid_probe_lookup_value(probe, name, &value, NULL) == 0 && value
               ? xstrdup(value)
               : NULL;
}

// Fills content, UUIDs and label; *ret_type: the partition's type, NULL if it is none.
static int probe_content(struct guest_device *d, char **ret_type, struct err *e)
{
    blkid_probe probe = blkid_new_probe_from_filename(d->node);
    if (!probe)
        return err_errno(e, errno, "look at %s", d->node);
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
                                                 BLKID_SUBLKS_LABEL);
    blkid_probe_enable_partitions(probe, 1);
    blkid_probe_set_partitions_flags(probe, BLKID_PARTS_ENTRY_DETAILS);
    // 1: nothing found; -2: two signatures, which counts as unknown.
    if (blkid_do_safeprobe(probe) >= 0) {
        d->content = probed_value(probe, "TYPE");
        d->uuid = probed_value(probe, "UUID");
        d->label = probed_value(probe, "LABEL");
        d->part_uuid = probed_value(probe, "PART_ENTRY_UUID");
        d->part_label = probed_value(probe, "PART_ENTRY_NAME");
        if (ret_type)
            *ret_type = probed_value(probe, "PART_ENTRY_TYPE");
    }
    blkid_free_probe(probe);
    return 0;
}

static int add_device(struct guest *g, struct guest_device d, char **ret_type,
                      struct err *e)
{
    int r = probe_content(&d, ret_type, e);
    vec_push(&g->devices, d);
    return r;
}

// The number in /sys/class/block/DISK/NAME/partition, 0: not a partition.
static unsigned partition_number(const char *disk, const char *name)
{
    AUTO(str_free) char *path = xasprintf("/sys/class/block/%s/%s/partition", disk, name);
    AUTO(buf_done) struct buf b = BUF_INIT(64);
    struct err none; // an entry of another kind has no such file
    uint64_t number = 0;
    if (access(path, R_OK) != 0 || file_read(path, &b, &none) < 0 || !b.data ||
        str_to_u64(str_trim(b.data), &number) < 0 || number > 65535)
        return 0;
    return (unsigned)number;
}

static int by_number(const void *a, const void *b)
{
    const struct guest_device *x = a, *y = b;
    return x->partition < y->partition ? -1 : x->partition > y->partition;
}

static int list_partitions(const char *disk, unsigned index, struct guest_device *list,
                           size_t *ret_n, struct err *e)
{
    AUTO(str_free) char *path = path_join("/sys/class/block", disk);
    DIR *dir = opendir(path);
    if (!dir)
        return err_errno(e, errno, "list the partitions of %s", disk);
    size_t n = 0;
    for (const struct dirent *d; (d = readdir(dir)) && n < PARTITIONS_MAX;) {
        unsigned number = d->d_name[0] == '.' ? 0 : partition_number(disk, d->d_name);
        if (number > 0)
            list[n++] = (struct guest_device){
                .node = path_join("/dev", d->d_name), .disk = index, .partition = number};
    }
    closedir(dir);
    qsort(list, n, sizeof(*list), by_number);
    *ret_n = n;
    return 0;
}

int probe_partitions(struct assembly *a, struct guest *g, const char *node, unsigned disk,
                     const char *array, struct err *e)
{
    AUTO(free) void *memory = xcalloc(PARTITIONS_MAX, sizeof(struct guest_device));
    struct guest_device *list = memory;
    size_t n = 0;
    if (list_partitions(path_base(node), disk, list, &n, e) < 0)
        return -1;
    int r = 0;
    for (size_t i = 0; i < n; i++) {
        AUTO(str_free) char *type = NULL;
        list[i].mapper = array != NULL;
        list[i].array = array ? xstrdup(array) : NULL;
        if (add_device(g, list[i], &type, e) < 0)
            r = -1;
        if (type && (strcasecmp(type, ESP_TYPE) == 0 || strcmp(type, ESP_TYPE_MBR) == 0))
            strings_add(&a->part_esp, list[i].node);
    }
    return r;
}

int probe_disk(struct assembly *a, struct guest *g, const char *node, unsigned disk,
               struct err *e)
{
    struct guest_device whole = {.node = xstrdup(node), .disk = disk};
    if (add_device(g, whole, NULL, e) < 0)
        return -1;
    if (guest_device_holds(&g->devices.v[g->devices.n - 1], "linux_raid_member"))
        return 0;
    return probe_partitions(a, g, node, disk, NULL, e);
}

int probe_array(struct assembly *a, struct guest *g, const char *node, const char *array,
                struct err *e)
{
    struct guest_device whole = {
        .node = xstrdup(node), .mapper = true, .array = xstrdup(array)};
    if (add_device(g, whole, NULL, e) < 0)
        return -1;
    return probe_partitions(a, g, node, 0, array, e);
}

int probe_mapper(struct guest *g, const char *node, struct err *e)
{
    struct guest_device d = {.node = xstrdup(node), .mapper = true};
    return add_device(g, d, NULL, e);
}

// --- health

#define EXT_SUPER 1024
#define EXT_STATE 0x3a
#define EXT_STATE_ERRORS 2

static int check_ext(const struct guest_device *d, struct err *e)
{
    uint8_t super[128];
    AUTO(fd_close) int fd = open(d->node, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fd_pread(fd, super, sizeof(super), EXT_SUPER) < 0)
        return err_errno(e, errno, "read %s", d->node);
    if (get_le16(super + EXT_STATE) & EXT_STATE_ERRORS)
        return err_set(e, ERR_REFUSED,
                       "the %s file system UUID=%s is marked as damaged: run fsck in the "
                       "guest first",
                       d->content, d->uuid ? d->uuid : "?");
    return 0;
}

// ntfs-3g.probe: 14 hibernated (or fast start), 15 not unmounted.
static int check_ntfs(const struct guest_device *d, struct err *e)
{
    struct err why;
    char *const argv[] = {"ntfs-3g.probe", "--readwrite", d->node, NULL};
    if (assemble_run(argv, NULL, NULL, &why) == 0)
        return 0;
    bool asleep = strstr(why.text, "(14)") != NULL;
    if (!asleep && !strstr(why.text, "(15)"))
        return 0; // not a file system that we would mount
    return err_set(e, ERR_REFUSED,
                   asleep
                       ? "the NTFS file system UUID=%s is hibernated: shut Windows down "
                         "fully (shutdown /s /t 0) first"
                       : "the NTFS file system UUID=%s was not unmounted: start Windows "
                         "and shut it down first",
                   d->uuid ? d->uuid : "?");
}

int probe_health(const struct guest_device *d, struct err *e)
{
    if (guest_device_holds(d, "swsuspend"))
        return err_set(
            e, ERR_REFUSED,
            "the guest is hibernated (its memory lies on %s, UUID=%s): start it "
            "and shut it down first",
            d->node, d->uuid ? d->uuid : "?");
    if (guest_device_holds(d, "ext2") || guest_device_holds(d, "ext3") ||
        guest_device_holds(d, "ext4"))
        return check_ext(d, e);
    if (guest_device_holds(d, "ntfs"))
        return check_ntfs(d, e);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
// usage: track_ranges DISK FOLDER
// A disk that takes discards of several ranges at once (NVMe), with a file system on it
// that is mounted with discard: every second one of many files is removed. The kernel
// puts what it discards into few requests, and all of it has to be marked.
#include "../unit/scratch.h"
#include "agent/track.h"
#include "agent/volumes.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#define FILES 400
#define FILE_LEN (128 * KIB)
#define MERGED 12 // of the numbers in a disk's stat: discards that joined others

static struct {
    uint64_t off, len;
} places[FILES];

static void die(const char *what, const struct err *e)
{
    printf("Bail out! %s: %s\n", what, e ? e->text : strerror(errno));
    exit(1);
}

static uint64_t n_merged(const char *disk)
{
    struct err e;
    AUTO(str_free) char *path = xasprintf("/sys/block/%s/stat", disk);
    AUTO(buf_done) struct buf b = BUF_INIT(KIB);
    if (file_read(path, &b, &e) < 0)
        die(path, &e);
    char *at = b.data;
    uint64_t v = 0;
    for (int i = 0; i <= MERGED; i++)
        v = strtoull(at, &at, 10);
    return v;
}

static void make_file(const char *folder, unsigned i)
{
    static char block[FILE_LEN];
    uint64_t room[(sizeof(struct fiemap) + sizeof(struct fiemap_extent)) / 8] = {0};
    struct fiemap *ask = (struct fiemap *)(void *)room;
    AUTO(str_free) char *path = xasprintf("%s/ranges-%u", folder, i);
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    memset(block, (int)i | 1, sizeof(block));
    if (fd < 0 || fd_pwrite(fd, block, sizeof(block), 0) < 0 || fsync(fd) < 0)
        die(path, NULL);
    *ask = (struct fiemap){.fm_length = FILE_LEN, .fm_extent_count = 1};
    if (ioctl(fd, FS_IOC_FIEMAP, ask) < 0 || ask->fm_mapped_extents != 1)
        die(path, NULL);
    places[i].off = ask->fm_extents[0].fe_physical;
    places[i].len = ask->fm_extents[0].fe_length;
}

static uint64_t n_unmarked(struct tracking *t, uint64_t id)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < FILES; i += 2) {
        AUTO(extents_done) struct extents x = {0};
        uint64_t done = 0;
        struct err e;
        if (tracking_extents(t, 0, id, places[i].off, places[i].len, &x, &done, &e) < 0)
            die("what changed", &e);
        n += extents_bytes(&x, EXTENT_DATA) != places[i].len;
    }
    return n;
}

int main(int argc, char **argv)
{
    struct err e;
    struct block_disks d = {0};
    struct tracking *t = NULL;
    AUTO(strings_done) struct strings only = {0};
    if (argc != 3)
        return 2;
    scratch_make();
    strings_add(&only, argv[1]);
    if (block_list(&only, &d, &e) < 0)
        die(argv[1], &e);
    struct track_disk disk = {.name = d.v[0].name,
                              .node = d.v[0].node,
                              .major = d.v[0].major,
                              .minor = d.v[0].minor,
                              .size = d.v[0].size};
    struct tracking_options o = {
        .disks = &disk, .n_disks = 1, .run_dir = in("run"), .only = "bpf"};
    if (tracking_start(&o, &t, &e) < 0)
        die("tracking", &e);
    for (unsigned i = 0; i < FILES; i++)
        make_file(argv[2], i);
    sync();
    uint64_t before = n_merged(argv[1]);
    if (tracking_harvest(t, 1, 0, &e) < 0)
        die("harvest", &e);
    for (unsigned i = 0; i < FILES; i += 2) {
        AUTO(str_free) char *path = xasprintf("%s/ranges-%u", argv[2], i);
        if (unlink(path) < 0)
            die(path, NULL);
    }
    sync();
    sleep(2);
    if (tracking_harvest(t, 2, 1, &e) < 0)
        die("harvest", &e);
    ok(tracking_state(t, 0).known, "the disk is known (%s)", tracking_state(t, 0).why);
    uint64_t merged = n_merged(argv[1]) - before;
    ok(merged > 0, "discards of several ranges: %llu joined others",
       (unsigned long long)merged);
    is_u64(n_unmarked(t, 2), 0, "every file that was discarded is marked");
    tracking_stop(t, false);
    block_disks_done(&d);
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// Runs one reader of file systems on an image, for the shell tests.
//
//     fs_probe used TYPE IMAGE      prints the bytes in use
//     fs_probe scribble TYPE IMAGE  the same, and fills everything else with 0xa5
//     fs_probe list TYPE IMAGE      prints "offset length" of each extent in use
//     fs_probe keep TYPE IMAGE OUT  copies what is in use into OUT, the rest is a hole
//
// A refusal is printed as "refused: reason" with exit code 3.

#include "map/fs.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static const struct fs_reader readers[] = {
    {"ext4", fs_ext_used},
    {"xfs", fs_xfs_used},
    {"btrfs", fs_btrfs_used},
    {"ntfs", fs_ntfs_used},
    {"vfat", fs_fat_used},
};

static uint8_t block[MIB];

static int die(const char *what)
{
    perror(what);
    return 1;
}

static int fill(int fd, uint64_t from, uint64_t to)
{
    for (uint64_t off = from; off < to;) {
        size_t n = (size_t)min_u64(sizeof(block), to - off);
        if (fd_pwrite(fd, block, n, off) < 0)
            return die("write");
        off += n;
    }
    return 0;
}

static int scribble(const char *path, const struct extents *used, uint64_t size)
{
    AUTO(fd_close) int fd = open(path, O_WRONLY | O_CLOEXEC);
    uint64_t at = 0;
    memset(block, 0xa5, sizeof(block));
    if (fd < 0)
        return die(path);
    for (size_t i = 0; i < used->n; i++) {
        if (fill(fd, at, used->v[i].off))
            return 1;
        at = used->v[i].off + used->v[i].len;
    }
    return fill(fd, at, size) || fsync(fd) < 0;
}

static int keep(struct disk *d, const char *path, const struct extents *used)
{
    AUTO(fd_close) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct err e;
    if (fd < 0 || ftruncate(fd, (off_t)d->size) < 0)
        return die(path);
    for (size_t i = 0; i < used->n; i++)
        for (uint64_t off = 0; off < used->v[i].len; off += sizeof(block)) {
            size_t n = (size_t)min_u64(sizeof(block), used->v[i].len - off);
            if (disk_read(d, block, n, used->v[i].off + off, &e) < 0)
                return die("read");
            if (!is_zero(block, n) && fd_pwrite(fd, block, n, used->v[i].off + off) < 0)
                return die("write");
        }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    struct file_options options = {.path = argv[3], .buffered = true};
    struct err e = {0};
    AUTO(disk_close) struct disk *d = NULL;
    if (file_open(&options, &d, &e) < 0) {
        printf("failed: %s\n", e.text);
        return 1;
    }
    AUTO(extents_done) struct extents used = {0};
    int r = 2;
    for (size_t i = 0; i < ARRAY_LEN(readers); i++)
        if (strcmp(argv[2], readers[i].content) == 0)
            r = readers[i].used(d, &used, &e);
    if (r < 0) {
        printf("%s: %s\n", e.code == ERR_REFUSED ? "refused" : "failed", e.text);
        return (int)e.code;
    }
    if (strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < used.n; i++)
            printf("%llu %llu\n", (unsigned long long)used.v[i].off,
                   (unsigned long long)used.v[i].len);
        return 0;
    }
    printf("%llu\n", (unsigned long long)extents_bytes(&used, EXTENT_DATA));
    if (strcmp(argv[1], "keep") == 0 && argc > 4)
        return keep(d, argv[4], &used);
    return strcmp(argv[1], "scribble") == 0 ? scribble(argv[3], &used, d->size) : 0;
}

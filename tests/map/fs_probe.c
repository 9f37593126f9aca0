// SPDX-License-Identifier: Apache-2.0
// Runs one reader of file systems on an image, for the shell tests.
//
//     fs_probe used TYPE IMAGE      prints the bytes in use
//     fs_probe scribble TYPE IMAGE  the same, and fills everything else with 0xa5
//     fs_probe list TYPE IMAGE      prints "offset length" of each extent in use
//     fs_probe seed TYPE IMAGE OUT  writes what the reader reads as a seed for its fuzz
//                                   target (tests/fuzz/memdisk.h says how)
//
// A refusal is printed as "refused: reason" with exit code 3.

#include "map/fs.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static const struct fs_reader readers[] = {
    {"ext4", fs_ext_used},  {"xfs", fs_xfs_used},  {"btrfs", fs_btrfs_used},
    {"ntfs", fs_ntfs_used}, {"vfat", fs_fat_used},
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
    return fill(fd, at, size);
}

// A disk that remembers what is read of it.
struct tracer {
    struct disk disk;
    struct disk *next;
    struct extents seen;
};

static int tracer_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct tracer *t = (struct tracer *)d;
    extents_add(&t->seen, off, len);
    return disk_read(t->next, buf, len, off, e);
}

static const struct disk_ops tracer_ops = {.type = "tracer", .read = tracer_read};

static void put(FILE *out, uint64_t off, const uint8_t *data, size_t len)
{
    uint8_t head[8];
    put_le32(head, (uint32_t)off);
    put_le32(head + 4, (uint32_t)len);
    (void)fwrite(head, 1, 6, out);
    (void)fwrite(data, 1, len, out);
}

// The stretches of `len` bytes that are not zeros, those with short gaps joined.
static void put_nonzero(FILE *out, uint64_t off, const uint8_t *data, size_t len)
{
    size_t from = 0, end = 0; // of the stretch so far
    for (size_t i = 0; i < len; i++) {
        if (!data[i])
            continue;
        if (end > from && i - end > 12) {
            put(out, off + from, data + from, end - from);
            from = i;
        }
        from = end > from ? from : i;
        end = i + 1;
    }
    if (end > from)
        put(out, off + from, data + from, end - from);
}

static int write_seed(const struct tracer *t, const char *path)
{
    FILE *out = fopen(path, "we");
    uint8_t size[4];
    struct err e;
    if (!out)
        return die(path);
    put_le32(size, (uint32_t)(t->next->size / 512));
    (void)fwrite(size, 1, 4, out);
    for (size_t i = 0; i < t->seen.n; i++)
        for (uint64_t off = 0; off < t->seen.v[i].len; off += 32 * KIB) {
            size_t n = (size_t)min_u64(32 * KIB, t->seen.v[i].len - off);
            if (disk_read(t->next, block, n, t->seen.v[i].off + off, &e) < 0)
                return die("read");
            put_nonzero(out, t->seen.v[i].off + off, block, n);
        }
    return fclose(out) ? die(path) : 0;
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
    struct tracer t = {.disk = *d, .next = d};
    t.disk.ops = &tracer_ops;
    int r = 2;
    for (size_t i = 0; i < ARRAY_LEN(readers); i++)
        if (strcmp(argv[2], readers[i].content) == 0)
            r = readers[i].used(&t.disk, &used, &e);
    int seed = strcmp(argv[1], "seed") == 0 && argc > 4 ? write_seed(&t, argv[4]) : 0;
    extents_done(&t.seen);
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
    return strcmp(argv[1], "scribble") == 0 ? scribble(argv[3], &used, d->size) : seed;
}

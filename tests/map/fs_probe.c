// SPDX-License-Identifier: Apache-2.0
// Runs one reader of file systems on an image, for the shell tests.
//
//     fs_probe used TYPE IMAGE      prints the bytes in use
//     fs_probe scribble TYPE IMAGE  the same, and fills everything else with 0xa5
//     fs_probe list TYPE IMAGE      prints "offset length" of each extent in use
//     fs_probe seed TYPE IMAGE OUT  writes what the reader reads as a seed for its fuzz
//                                   target (tests/fuzz/memdisk.h says how)
//     fs_probe mutate TYPE IMAGE N  changes one byte of what the reader reads, N times:
//                                   each time it must refuse or call no less in use;
//                                   prints how often it did what
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

// The same disk with one byte changed.
struct mutant {
    struct disk disk;
    struct disk *next;
    uint64_t at;
    uint8_t flip;
};

static int mutant_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct mutant *m = (struct mutant *)d;
    if (disk_read(m->next, buf, len, off, e) < 0)
        return -1;
    if (m->at >= off && m->at - off < len)
        ((uint8_t *)buf)[m->at - off] ^= m->flip;
    return 0;
}

static const struct disk_ops mutant_ops = {.type = "mutant", .read = mutant_read};

static uint64_t rnd(uint64_t *state, uint64_t below)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state % below;
}

// A byte of what was read; every extent is as likely, so that long ones do not hide the
// short ones.
static uint64_t pick(const struct extents *seen, uint64_t *state)
{
    const struct extent *x = &seen->v[rnd(state, seen->n)];
    return x->off + rnd(state, rnd(state, 2) ? x->len : min_u64(x->len, 512));
}

typedef int used_fn(struct disk *d, struct extents *ret_used, struct err *e);

static int mutate(const struct tracer *t, used_fn *used, const struct extents *right,
                  uint64_t n)
{
    uint64_t refused = 0, same = 0, less = 0, state = 88172645463325252;
    for (uint64_t i = 0; i < n; i++) {
        struct mutant m = {.disk = *t->next, .next = t->next};
        m.disk.ops = &mutant_ops;
        m.at = pick(&t->seen, &state);
        m.flip = (uint8_t)(rnd(&state, 2) ? 1u << rnd(&state, 8) : 1 + rnd(&state, 255));
        struct err e = {0};
        AUTO(extents_done) struct extents x = {0}, both = {0};
        if (used(&m.disk, &x, &e) < 0) {
            refused++;
            continue;
        }
        extents_and(&x, right, &both);
        bool holds =
            extents_bytes(&both, EXTENT_DATA) == extents_bytes(right, EXTENT_DATA);
        if (!holds)
            printf("less with byte %llu ^ 0x%x\n", (unsigned long long)m.at, m.flip);
        same += holds;
        less += !holds;
    }
    printf("%llu refused, %llu nothing lost, %llu lost\n", (unsigned long long)refused,
           (unsigned long long)same, (unsigned long long)less);
    return less > 0;
}

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

static int list(const struct extents *used)
{
    for (size_t i = 0; i < used->n; i++)
        printf("%llu %llu\n", (unsigned long long)used->v[i].off,
               (unsigned long long)used->v[i].len);
    return 0;
}

static int act(char **argv, used_fn *reader, const struct tracer *t,
               const struct extents *used)
{
    uint64_t n = 0;
    if (strcmp(argv[1], "list") == 0)
        return list(used);
    if (strcmp(argv[1], "mutate") == 0)
        return argv[4] && str_to_u64(argv[4], &n) == 0 ? mutate(t, reader, used, n) : 2;
    printf("%llu\n", (unsigned long long)extents_bytes(used, EXTENT_DATA));
    return strcmp(argv[1], "scribble") == 0 ? scribble(argv[3], used, t->next->size) : 0;
}

int main(int argc, char **argv)
{
    used_fn *reader = NULL;
    for (size_t i = 0; argc >= 4 && i < ARRAY_LEN(readers); i++)
        if (strcmp(argv[2], readers[i].content) == 0)
            reader = readers[i].used;
    if (!reader)
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
    int r = reader(&t.disk, &used, &e), seed = 0;
    if (strcmp(argv[1], "seed") == 0 && argc > 4)
        seed = write_seed(&t, argv[4]);
    if (r < 0)
        printf("%s: %s\n", e.code == ERR_REFUSED ? "refused" : "failed", e.text);
    int code = r < 0 ? (int)e.code : act(argv, reader, &t, &used);
    extents_done(&t.seen);
    return code ? code : seed;
}

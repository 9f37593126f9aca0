// SPDX-License-Identifier: Apache-2.0
// A fuzz input as a sparse disk, so that a file system of hundreds of MiB is described in
// a few KiB. All numbers are little-endian:
//
//     size of the disk in sectors, 4 bytes       (modulo 8 Mi: at most 4 GiB)
//     {offset in bytes, 4; length, 2; bytes}…    later ones win; the rest is zeros
//
// fs_probe in tests/map writes such files from images. `memdisk_fuzz` is the whole of a
// target for a reader of file systems.
#pragma once

#include "fuzz.h"
#include "map/fs.h"
#include "map/used_map.h"

struct memdisk {
    struct disk disk;
    const uint8_t *data;
    size_t len;
};

static int memdisk_read(struct disk *d, void *buf, size_t len, uint64_t off,
                        struct err *e)
{
    const struct memdisk *m = (const struct memdisk *)d;
    (void)e;
    memset(buf, 0, len);
    for (size_t at = 4; m->len - at >= 6;) {
        uint64_t from = get_le32(m->data + at);
        size_t n = get_le16(m->data + at + 4);
        at += 6;
        n = n < m->len - at ? n : m->len - at;
        uint64_t a = max_u64(from, off), b = min_u64(from + n, off + len);
        if (a < b)
            memcpy((uint8_t *)buf + (a - off), m->data + at + (a - from),
                   (size_t)(b - a));
        at += n;
    }
    return 0;
}

static void memdisk_close(struct disk *d)
{
    (void)d; // on the stack
}

static const struct disk_ops memdisk_ops = {
    .type = "memory",
    .read = memdisk_read,
    .close = memdisk_close,
};

static int memdisk_fuzz(const uint8_t *data, size_t size,
                        int (*used)(struct disk *, struct extents *, struct err *))
{
    char name[] = "input";
    if (size < 4)
        return 0;
    struct memdisk m = {.data = data, .len = size};
    m.disk = (struct disk){.ops = &memdisk_ops,
                           .name = name,
                           .size = (uint64_t)(get_le32(data) & 0x7fffff) * 512,
                           .sector_size = 512,
                           .alignment = 1,
                           .n_parallel = 1};
    struct err e = {0};
    AUTO(extents_done) struct extents x = {0};
    fs_checksums_ignore();
    if (used(&m.disk, &x, &e) < 0) {
        assert(e.code == ERR_REFUSED && e.text[0] && x.n == 0);
        return 0;
    }
    // Every file system has its first bytes in use.
    assert(x.n > 0 && x.v[0].off == 0);
    for (size_t i = 0; i < x.n; i++) {
        assert(x.v[i].kind == EXTENT_DATA && x.v[i].len > 0);
        assert(x.v[i].off + x.v[i].len <= m.disk.size);
        assert(i == 0 || x.v[i].off > x.v[i - 1].off + x.v[i - 1].len);
    }
    return 0;
}

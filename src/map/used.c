// SPDX-License-Identifier: Apache-2.0
// A filter that shows only the used ranges of a disk. What was proven free reads as
// zeros and is a hole, so whoever copies through it neither reads nor sends it.

#include "map/map.h"

struct used_disk {
    struct disk disk;
    struct disk *next;
    const struct extents *used;
};
_Static_assert(offsetof(struct used_disk, disk) == 0, "cast from struct disk");

// The first used extent that ends behind `off`; n when there is none.
static size_t used_behind(const struct extents *x, uint64_t off)
{
    size_t low = 0, high = x->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (x->v[middle].off + x->v[middle].len > off)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// Is `off` in use, and how many of `len` bytes from there on are the same?
static bool used_at(const struct used_disk *u, uint64_t off, uint64_t len,
                    uint64_t *ret_n)
{
    size_t i = used_behind(u->used, off);
    if (i == u->used->n) {
        *ret_n = len;
        return false;
    }
    const struct extent *x = &u->used->v[i];
    *ret_n = min_u64(len, x->off > off ? x->off - off : x->off + x->len - off);
    return x->off <= off;
}

static int used_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct used_disk *u = (struct used_disk *)d;
    uint8_t *p = buf;
    for (uint64_t n; len > 0; p += n, off += n, len -= (size_t)n) {
        if (!used_at(u, off, len, &n))
            memset(p, 0, (size_t)n);
        else if (disk_read(u->next, p, (size_t)n, off, e))
            return -1;
    }
    return 0;
}

static int used_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                        uint64_t *ret_done, struct err *e)
{
    struct used_disk *u = (struct used_disk *)d;
    uint64_t n;
    if (used_at(u, off, len, &n))
        return disk_extents(u->next, off, n, out, ret_done, e);
    extents_append(out, off, n, EXTENT_HOLE);
    *ret_done = n;
    return 0;
}

static void used_close(struct disk *d)
{
    struct used_disk *u = (struct used_disk *)d;
    disk_close(u->next);
    free(d->name);
    free(u);
}

static const struct disk_ops used_ops = {
    .type = "used", .read = used_read, .close = used_close, .extents = used_extents};

struct disk *used_new(struct disk *next, const struct extents *used)
{
    struct used_disk *u = xcalloc(1, sizeof(*u));
    u->disk = *next;
    u->disk.ops = &used_ops;
    u->disk.name = xstrdup(next->name);
    u->next = next;
    u->used = used;
    return (struct disk *)u;
}

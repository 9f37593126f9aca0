// SPDX-License-Identifier: Apache-2.0
// The smallest driver, and the example to begin a new one from: a disk of any size that
// is one hole and forgets what is written to it.
#include "disk/disk.h"

static int null_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    (void)d, (void)off, (void)e;
    memset(buf, 0, len);
    return 0;
}

static int null_write(struct disk *d, const void *buf, size_t len, uint64_t off,
                      struct err *e)
{
    (void)d, (void)buf, (void)len, (void)off, (void)e;
    return 0;
}

static int null_zero(struct disk *d, uint64_t off, uint64_t len, bool punch,
                     struct err *e)
{
    (void)d, (void)off, (void)len, (void)punch, (void)e;
    return 0;
}

static int null_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                        uint64_t *ret_done, struct err *e)
{
    (void)d, (void)e;
    extents_append(out, off, len, EXTENT_HOLE);
    *ret_done = len;
    return 0;
}

static void null_close(struct disk *d)
{
    free(d->name);
    free(d);
}

static const struct disk_ops null_ops = {
    .type = "null",
    .read = null_read,
    .write = null_write,
    .zero = null_zero,
    .extents = null_extents,
    .close = null_close,
};

struct disk *null_new(uint64_t size)
{
    struct disk *d = xcalloc(1, sizeof(*d));
    *d = (struct disk){
        .ops = &null_ops,
        .name = xstrdup("null"),
        .size = size,
        .sector_size = 512,
        .alignment = 1,
        .n_parallel = 8,
    };
    return d;
}

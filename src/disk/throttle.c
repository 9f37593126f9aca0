// SPDX-License-Identifier: Apache-2.0
// A filter that lets data pass at a given rate. Only bytes that are read or written
// count: zeroing and asking for extents move nothing over the wire that the rate
// protects.
#include "disk/disk.h"

struct throttle {
    struct disk disk;
    struct disk *next;
    struct rate *rate;
};
_Static_assert(offsetof(struct throttle, disk) == 0, "cast from struct disk");

static int throttle_read(struct disk *d, void *buf, size_t len, uint64_t off,
                         struct err *e)
{
    struct throttle *t = (struct throttle *)d;
    rate_wait(t->rate, len);
    return disk_read(t->next, buf, len, off, e);
}

static int throttle_write(struct disk *d, const void *buf, size_t len, uint64_t off,
                          struct err *e)
{
    struct throttle *t = (struct throttle *)d;
    rate_wait(t->rate, len);
    return disk_write(t->next, buf, len, off, e);
}

static int throttle_zero(struct disk *d, uint64_t off, uint64_t len, bool punch,
                         struct err *e)
{
    return disk_zero(((struct throttle *)d)->next, off, len, punch, e);
}

static int throttle_flush(struct disk *d, struct err *e)
{
    return disk_flush(((struct throttle *)d)->next, e);
}

static int throttle_extents(struct disk *d, uint64_t off, uint64_t len,
                            struct extents *out, uint64_t *ret_done, struct err *e)
{
    return disk_extents(((struct throttle *)d)->next, off, len, out, ret_done, e);
}

static void throttle_close(struct disk *d)
{
    struct throttle *t = (struct throttle *)d;
    disk_close(t->next);
    free(d->name);
    free(t);
}

#define THROTTLE_READ_OPS                                               \
    .type = "throttle", .read = throttle_read, .flush = throttle_flush, \
    .close = throttle_close, .extents = throttle_extents
static const struct disk_ops throttle_ops_rw = {
    THROTTLE_READ_OPS,
    .write = throttle_write,
    .zero = throttle_zero,
};
static const struct disk_ops throttle_ops_ro = {THROTTLE_READ_OPS};

struct disk *throttle_new(struct disk *next, struct rate *rate)
{
    struct throttle *t = xcalloc(1, sizeof(*t));
    t->disk = *next;
    t->disk.ops = next->ops->write != NULL ? &throttle_ops_rw : &throttle_ops_ro;
    t->disk.name = xstrdup(next->name);
    t->next = next;
    t->rate = rate;
    return (struct disk *)t;
}

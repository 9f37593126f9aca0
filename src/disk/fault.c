// SPDX-License-Identifier: Apache-2.0
// A filter for tests: the Nth call fails. A loop that raises N until the run succeeds
// proves that every failure is survived (SQLite's way). The counter is shared by all
// disks of a run, and atomic, because the copy engine calls from several threads.
#include "disk/disk.h"

#include <inttypes.h>

struct fault_disk {
    struct disk disk;
    struct disk *next;
    struct fault *fault;
};
_Static_assert(offsetof(struct fault_disk, disk) == 0, "cast from struct disk");

// Counts one call; -1 when it is the one to fail.
static int fault_count(struct fault_disk *f, const char *what, uint64_t off,
                       struct err *e)
{
    uint64_t n = __atomic_add_fetch(&f->fault->n_calls, 1, __ATOMIC_RELAXED);
    uint64_t at = f->fault->fail_at;
    if (at == 0 || (f->fault->every ? n < at : n != at))
        return 0;
    return err_set(e, f->fault->code, "%s at %" PRIu64 ": fault %" PRIu64 " injected",
                   what, off, n);
}

static int fault_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct fault_disk *f = (struct fault_disk *)d;
    if (fault_count(f, "read", off, e) < 0)
        return -1;
    return disk_read(f->next, buf, len, off, e);
}

static int fault_write(struct disk *d, const void *buf, size_t len, uint64_t off,
                       struct err *e)
{
    struct fault_disk *f = (struct fault_disk *)d;
    if (fault_count(f, "write", off, e) < 0)
        return -1;
    return disk_write(f->next, buf, len, off, e);
}

static int fault_zero(struct disk *d, uint64_t off, uint64_t len, bool punch,
                      struct err *e)
{
    struct fault_disk *f = (struct fault_disk *)d;
    if (fault_count(f, "zero", off, e) < 0)
        return -1;
    return disk_zero(f->next, off, len, punch, e);
}

static int fault_flush(struct disk *d, struct err *e)
{
    struct fault_disk *f = (struct fault_disk *)d;
    if (fault_count(f, "flush", 0, e) < 0)
        return -1;
    return disk_flush(f->next, e);
}

static int fault_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                         uint64_t *ret_done, struct err *e)
{
    struct fault_disk *f = (struct fault_disk *)d;
    if (fault_count(f, "extents", off, e) < 0)
        return -1;
    return disk_extents(f->next, off, len, out, ret_done, e);
}

static void fault_close(struct disk *d)
{
    struct fault_disk *f = (struct fault_disk *)d;
    disk_close(f->next);
    free(d->name);
    free(f);
}

#define FAULT_READ_OPS                                                               \
    .type = "fault", .read = fault_read, .flush = fault_flush, .close = fault_close, \
    .extents = fault_extents
static const struct disk_ops fault_ops_rw = {
    FAULT_READ_OPS,
    .write = fault_write,
    .zero = fault_zero,
};
static const struct disk_ops fault_ops_ro = {FAULT_READ_OPS};

struct disk *fault_new(struct disk *next, struct fault *fault)
{
    struct fault_disk *f = xcalloc(1, sizeof(*f));
    f->disk = *next;
    f->disk.ops = next->ops->write != NULL ? &fault_ops_rw : &fault_ops_ro;
    f->disk.name = xstrdup(next->name);
    f->next = next;
    f->fault = fault;
    return (struct disk *)f;
}

// SPDX-License-Identifier: Apache-2.0
// The checking wrappers in front of every driver: ranges are checked once and here, the
// disk's name comes into every error here, and what a driver leaves out is supplied here.
// A filter has the name of the disk below it, so a name is put in front only once.
#include "disk/disk.h"

#include <inttypes.h>

// Never written, so it costs no memory: the kernel maps its one page of zeros.
static uint8_t zeros[256 * KIB] __attribute__((aligned(4096)));

static int named(struct disk *d, int result, struct err *e)
{
    if (result < 0 && !str_starts(e->text, d->name))
        err_wrap(e, "%s", d->name);
    return result;
}

static int check(struct disk *d, const char *what, uint64_t off, uint64_t len,
                 struct err *e)
{
    uint64_t end;
    if (add_fits(off, len, &end) && end <= d->size)
        return 0;
    return err_set(e, ERR_FAILED,
                   "%s: %s of %" PRIu64 " bytes at %" PRIu64
                   " passes the end of the disk (%" PRIu64 " bytes)",
                   d->name, what, len, off, d->size);
}

static int check_writable(struct disk *d, struct err *e)
{
    if (d->ops->write != NULL)
        return 0;
    return err_set(e, ERR_FAILED, "%s: the disk was opened for reading only", d->name);
}

int disk_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    if (check(d, "read", off, len, e) < 0)
        return -1;
    return len == 0 ? 0 : named(d, d->ops->read(d, buf, len, off, e), e);
}

int disk_write(struct disk *d, const void *buf, size_t len, uint64_t off, struct err *e)
{
    if (check_writable(d, e) < 0 || check(d, "write", off, len, e) < 0)
        return -1;
    return len == 0 ? 0 : named(d, d->ops->write(d, buf, len, off, e), e);
}

int disk_write_zeros(struct disk *d, uint64_t off, uint64_t len, struct err *e)
{
    while (len > 0) {
        // Up to the next multiple first, so that all but the first request are aligned.
        uint64_t part = min_u64(len, sizeof(zeros) - off % sizeof(zeros));
        if (disk_write(d, zeros, (size_t)part, off, e) < 0)
            return -1;
        off += part;
        len -= part;
    }
    return 0;
}

int disk_zero(struct disk *d, uint64_t off, uint64_t len, bool punch, struct err *e)
{
    if (check_writable(d, e) < 0 || check(d, "zeroing", off, len, e) < 0)
        return -1;
    if (len == 0)
        return 0;
    if (d->ops->zero == NULL)
        return disk_write_zeros(d, off, len, e);
    return named(d, d->ops->zero(d, off, len, punch, e), e);
}

int disk_flush(struct disk *d, struct err *e)
{
    return d->ops->flush == NULL ? 0 : named(d, d->ops->flush(d, e), e);
}

int disk_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                 uint64_t *ret_done, struct err *e)
{
    if (check(d, "extents", off, len, e) < 0)
        return -1;
    if (len == 0)
        return err_set(e, ERR_FAILED, "%s: extents of an empty range", d->name);
    if (d->ops->extents == NULL) {
        extents_append(out, off, len, EXTENT_DATA);
        *ret_done = len;
        return 0;
    }
    uint64_t done = 0;
    if (named(d, d->ops->extents(d, off, len, out, &done, e), e) < 0)
        return -1;
    if (done == 0 || done > len)
        return err_set(e, ERR_FAILED,
                       "%s: the driver \"%s\" described %" PRIu64 " of %" PRIu64
                       " bytes at %" PRIu64,
                       d->name, d->ops->type, done, len, off);
    *ret_done = done;
    return 0;
}

int disk_extents_all(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                     struct err *e)
{
    while (len > 0) {
        uint64_t done = 0;
        if (disk_extents(d, off, len, out, &done, e) < 0)
            return -1;
        off += done;
        len -= done;
    }
    return 0;
}

void disk_close(struct disk *d)
{
    if (d != NULL)
        d->ops->close(d);
}

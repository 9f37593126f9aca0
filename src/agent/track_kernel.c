// SPDX-License-Identifier: Apache-2.0
// The kernel's own count of what was written to a disk (Documentation/block/stat.rst of
// Linux), and which disk it is. What surprises: the counts of kernel and tracker cannot
// be read in one moment; two equal readings of both say that nothing was written between.
#include "agent/track_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define SECTORS_WRITTEN 6    // fields of `stat`, from 0
#define SECTORS_DISCARDED 13 // from 4.19 on; before that they are among the written
#define FIELDS_MIN 11

static int attribute(const char *name, const char *file, struct buf *b, struct err *e)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "/sys/block/%s/%s", name, file);
    buf_reset(b);
    return file_read(path, b, e);
}

static uint64_t attribute_u64(const char *name, const char *file)
{
    struct err e;
    uint64_t v;
    AUTO(buf_done) struct buf b = BUF_INIT(64);
    if (attribute(name, file, &b, &e) < 0 || b.len == 0 ||
        str_to_u64(str_trim(b.data), &v) < 0)
        return 0;
    return v;
}

static int sectors(const char *name, uint64_t *ret, struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(1024);
    if (attribute(name, "stat", &b, e) < 0)
        return -1;
    uint64_t sum = 0;
    size_t n = 0;
    char *end = b.data;
    for (char *at = b.data; at != NULL; at = end, n++) {
        unsigned long long v = strtoull(at, &end, 10);
        if (end == at)
            break;
        if (n == SECTORS_WRITTEN || n == SECTORS_DISCARDED)
            sum += v;
    }
    if (n < FIELDS_MIN)
        return err_set(e, ERR_FAILED, "/sys/block/%s/stat has %zu fields", name, n);
    *ret = sum;
    return 0;
}

int track_kernel(const char *name, struct track_kernel *ret, struct err *e)
{
    struct track_kernel k = {
        .size = attribute_u64(name, "size") * 512,
        .seq = attribute_u64(name, "diskseq"),
        .counts = attribute_u64(name, "queue/iostats") == 1,
    };
    AUTO(buf_done) struct buf b = BUF_INIT(64);
    if (sectors(name, &k.sectors, e) < 0 || attribute(name, "dev", &b, e) < 0)
        return -1;
    if (b.len == 0 || sscanf(b.data, "%u:%u", &k.major, &k.minor) != 2)
        return err_set(e, ERR_FAILED, "/sys/block/%s/dev says no number", name);
    *ret = k;
    return 0;
}

int track_both(const struct track_disk *d, struct tracker *t, size_t i, uint64_t ms,
               uint64_t *ret_kernel, struct track_seen *ret_seen, struct err *e)
{
    uint64_t until = clock_ms() + ms;
    for (;;) {
        struct track_seen seen, later;
        uint64_t before, after;
        // The kernel's first: an event between makes the tracker's start higher, so that
        // it seems to have missed something. The other way round would hide a loss.
        if (sectors(d->name, &before, e) < 0 || t->ops->seen(t, i, &seen, e) < 0 ||
            sectors(d->name, &after, e) < 0 || t->ops->seen(t, i, &later, e) < 0)
            return -1;
        *ret_kernel = before;
        *ret_seen = later;
        if (before == after && seen.sectors == later.sectors)
            return 0;
        if (clock_ms() >= until)
            return err_set(e, ERR_RETRY, "%s is being written", d->name);
        (void)nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
}

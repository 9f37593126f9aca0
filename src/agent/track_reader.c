// SPDX-License-Identifier: Apache-2.0
// Events from the kernel's buffers become marks. The buffers are read by a thread of its
// own, because nobody may harvest for minutes, and once more by every harvest: an event
// is in its buffer before the writer hears of its write, so what a harvest does not find
// belongs to writes that go on.
#include "agent/track_reader.h"

#include <errno.h>
#include <time.h>

#define PERIOD_NS UINT64_C(50000000)

void track_reader_init(struct track_reader *r, const struct tracker_ops *ops,
                       const struct track_disk *disks, size_t n_disks, unsigned shift,
                       int (*drain)(struct track_reader *r, struct err *e))
{
    r->tracker.ops = ops;
    r->drain = drain;
    r->n_disks = n_disks;
    r->disks = xcalloc(n_disks + 1, sizeof(*r->disks));
    for (size_t i = 0; i < n_disks; i++) {
        uint64_t n = round_up(disks[i].size, UINT64_C(1) << shift) >> shift;
        r->disks[i].dev = track_dev(disks[i].major, disks[i].minor);
        r->disks[i].live = (struct marks){xcalloc(1, n + 8), n, shift};
    }
    (void)pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&r->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
}

// With the lock held.
static void drain(struct track_reader *r)
{
    struct err e;
    if (r->drain(r, &e) < 0)
        r->lost++;
}

static void *run(void *context)
{
    struct track_reader *r = context;
    (void)pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        drain(r);
        uint64_t at = clock_ns() + PERIOD_NS;
        struct timespec until = {(time_t)(at / 1000000000), (long)(at % 1000000000)};
        (void)pthread_cond_timedwait(&r->wake, &r->lock, &until);
    }
    (void)pthread_mutex_unlock(&r->lock);
    return NULL;
}

int track_reader_run(struct track_reader *r, struct err *e)
{
    int error = pthread_create(&r->thread, NULL, run, r);
    if (error != 0)
        return err_errno(e, error, "starting the reader of the trace buffers");
    r->running = true;
    return 0;
}

void track_reader_write(struct track_reader *r, uint32_t dev, uint64_t sector,
                        uint64_t n_sectors)
{
    for (size_t i = 0; i < r->n_disks; i++) {
        struct track_reader_disk *d = &r->disks[i];
        if (d->dev != dev)
            continue;
        d->seen.sectors += n_sectors;
        if (sector > UINT64_MAX / 512 || n_sectors > UINT64_MAX / 512 ||
            sector * 512 >> d->live.shift >= d->live.n)
            d->seen.lost++; // outside of the disk that we know
        else
            marks_set(&d->live, sector * 512, n_sectors * 512);
    }
}

int track_reader_harvest(struct tracker *t, size_t i, struct marks *into, struct err *e)
{
    struct track_reader *r = (struct track_reader *)t;
    (void)e;
    (void)pthread_mutex_lock(&r->lock);
    drain(r);
    marks_take(into, r->disks[i].live.v, r->disks[i].live.n, 0);
    (void)pthread_mutex_unlock(&r->lock);
    return 0;
}

int track_reader_seen(struct tracker *t, size_t i, struct track_seen *ret, struct err *e)
{
    struct track_reader *r = (struct track_reader *)t;
    (void)e;
    (void)pthread_mutex_lock(&r->lock);
    drain(r);
    *ret = r->disks[i].seen;
    ret->lost += r->lost;
    (void)pthread_mutex_unlock(&r->lock);
    return 0;
}

void track_reader_end(struct track_reader *r)
{
    if (!r->running)
        return;
    (void)pthread_mutex_lock(&r->lock);
    r->stop = true;
    (void)pthread_cond_signal(&r->wake);
    (void)pthread_mutex_unlock(&r->lock);
    (void)pthread_join(r->thread, NULL);
    r->running = false;
}

void track_reader_done(struct track_reader *r)
{
    track_reader_end(r);
    for (size_t i = 0; i < r->n_disks; i++)
        free(r->disks[i].live.v);
    free(r->disks);
    (void)pthread_mutex_destroy(&r->lock);
    (void)pthread_cond_destroy(&r->wake);
}

// SPDX-License-Identifier: Apache-2.0
// Reading that gives way: the server's own I/O comes first. The kernel counts requests
// and the time that they took for each disk (Documentation/block/stat.rst); less our own
// that is the others' mean latency. Once a second we pause for a moment and see what it
// is without us; while it is more than a fifth higher with us, we read more slowly, else
// faster. On a disk that nobody else uses there is no limit and no pause.
//
// Means and not the 99th percentile, because that is what every kernel counts. What they
// do not show is the request that waits behind a row of ours: beside a load there is one
// of ours at a time, and a small one. bench/pace holds what the percentile comes to.
#include "agent/block.h"
#include "agent/source.h"

#include <time.h>

// Larger ones would be several requests to the kernel, which counts those.
#define PIECE ((size_t)256 * 1024)
#define PIECE_LOADED ((size_t)64 * 1024)
#define WINDOW_NS (UINT64_C(100) * 1000 * 1000)
#define WINDOWS_PER_ROUND 20 // of which the first two are without us,
#define WINDOWS_ALONE 2      // the first for what is still under way
#define OTHERS_MIN 2         // requests of others in a window that make it a load
#define RATE_MIN (512.0 * 1024)
#define RATE_START (32.0 * 1024 * 1024)
#define RATE_MAX (16.0 * 1024 * 1024 * 1024)
#define WORSE 1.2
#define SLOWER 0.7
#define FASTER 1.15
#define WEIGHT 0.3 // of the newest window

struct pace {
    pthread_mutex_t lock; // for all below
    pthread_cond_t ended; // one of our requests
    unsigned n_busy;      // of our requests
    char *name;           // of the disk in /sys/block
    bool off;
    struct sys_stat at;   // when this window began
    uint64_t window_ns;   // when
    unsigned window;      // of the round
    uint64_t own, own_ns; // our requests in this window, and their time
    bool loaded;          // others use the disk
    double alone, with;   // their mean latency, ms; 0: not known yet
    double rate;          // bytes a second for us, while loaded
    uint64_t next_ns;     // when the next request may go
};

struct pace *pace_new(const char *disk)
{
    struct pace *p = xcalloc(1, sizeof(*p));
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->ended, NULL);
    p->name = xstrdup(disk);
    p->window_ns = clock_ns();
    (void)sys_stat(disk, &p->at, &(struct err){0}); // what was before is no load
    p->rate = RATE_START;
    return p;
}

void pace_free(struct pace *p)
{
    if (!p)
        return;
    free(p->name);
    pthread_cond_destroy(&p->ended);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pace_off(struct pace *p, bool off)
{
    pthread_mutex_lock(&p->lock);
    p->off = off;
    pthread_mutex_unlock(&p->lock);
}

static void blend(double *mean, double value)
{
    *mean = *mean > 0 ? WEIGHT * value + (1 - WEIGHT) * *mean : value;
}

static void adjust(struct pace *p)
{
    if (p->alone <= 0 || p->with <= 0)
        return;
    p->rate *= p->with > p->alone * WORSE ? SLOWER : FASTER;
    p->rate = p->rate < RATE_MIN ? RATE_MIN : p->rate > RATE_MAX ? RATE_MAX : p->rate;
}

// A window is over: what it was like for the others.
static void next_window(struct pace *p, uint64_t now)
{
    struct sys_stat c;
    struct err ignored; // no counters: no pace
    p->window_ns = now;
    if (sys_stat(p->name, &c, &ignored))
        return;
    uint64_t requests = c.requests - p->at.requests, ticks = c.busy_ms - p->at.busy_ms;
    uint64_t own_ms = p->own_ns / 1000000;
    uint64_t others = requests > p->own ? requests - p->own : 0;
    double latency =
        others ? (double)(ticks > own_ms ? ticks - own_ms : 0) / (double)others : 0;
    bool was_loaded = p->loaded;
    p->loaded = others >= OTHERS_MIN;
    if (p->loaded && !was_loaded) {
        p->window = 0; // begins with a look without us
        p->alone = p->with = 0;
    } else if (p->loaded) {
        // A mean of 0 ms is one below the counters' grain.
        if (p->window > 0)
            blend(p->window < WINDOWS_ALONE ? &p->alone : &p->with,
                  latency > 0.01 ? latency : 0.01);
        if (p->window >= WINDOWS_ALONE)
            adjust(p);
        p->window = (p->window + 1) % WINDOWS_PER_ROUND;
    }
    p->at = c;
    p->own = p->own_ns = 0;
}

// How long to wait before reading `len` bytes.
static uint64_t delay(struct pace *p, size_t len, uint64_t now)
{
    if (p->off)
        return 0;
    if (now - p->window_ns >= WINDOW_NS)
        next_window(p, now);
    if (!p->loaded)
        return 0;
    if (p->window < WINDOWS_ALONE)
        return p->window_ns + WINDOW_NS - now;
    if (p->next_ns > now)
        return p->next_ns - now;
    p->next_ns = now + (uint64_t)((double)len * 1e9 / p->rate);
    return 0;
}

// Takes a turn for at most `len` bytes at `off`; for how many it is.
static size_t wait_for_turn(struct pace *p, size_t len, uint64_t off)
{
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->loaded && !p->off && p->n_busy > 0)
            pthread_cond_wait(&p->ended, &p->lock);
        // Pieces begin and end where the disk likes it.
        size_t piece = p->loaded && !p->off ? PIECE_LOADED : PIECE;
        size_t n = (size_t)min_u64(len, piece - off % piece);
        uint64_t ns = delay(p, n, clock_ns());
        if (ns == 0) {
            p->n_busy++;
            pthread_mutex_unlock(&p->lock);
            return n;
        }
        pthread_mutex_unlock(&p->lock);
        struct timespec t = {.tv_nsec = (long)min_u64(ns, WINDOW_NS)};
        nanosleep(&t, NULL);
        pthread_mutex_lock(&p->lock);
    }
}

static void end_turn(struct pace *p, uint64_t ns)
{
    pthread_mutex_lock(&p->lock);
    p->own++;
    p->own_ns += ns;
    p->n_busy--;
    pthread_cond_broadcast(&p->ended);
    pthread_mutex_unlock(&p->lock);
}

// --- the filter

struct paced {
    struct disk disk;
    struct disk *next;
    struct pace *pace;
};
_Static_assert(offsetof(struct paced, disk) == 0, "cast from struct disk");

static int paced_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct paced *p = (struct paced *)d;
    for (size_t done = 0; done < len;) {
        size_t n = wait_for_turn(p->pace, len - done, off + done);
        uint64_t start = clock_ns();
        int status = disk_read(p->next, (char *)buf + done, n, off + done, e);
        end_turn(p->pace, clock_ns() - start);
        if (status)
            return -1;
        done += n;
    }
    return 0;
}

static int paced_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                         uint64_t *ret_done, struct err *e)
{
    return disk_extents(((struct paced *)d)->next, off, len, out, ret_done, e);
}

static void paced_close(struct disk *d)
{
    disk_close(((struct paced *)d)->next);
    free(d->name);
    free(d);
}

static const struct disk_ops paced_ops = {
    .type = "paced", .read = paced_read, .extents = paced_extents, .close = paced_close};

struct disk *paced_new(struct disk *next, struct pace *pace)
{
    struct paced *p = xcalloc(1, sizeof(*p));
    p->disk = *next;
    p->disk.ops = &paced_ops;
    p->disk.name = xstrdup(next->name);
    p->next = next;
    p->pace = pace;
    return (struct disk *)p;
}

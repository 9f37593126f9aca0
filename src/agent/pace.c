// SPDX-License-Identifier: Apache-2.0
// Reading that gives way: the server's own I/O comes first. Twice a second and more
// often the time that others' requests take is judged (latency.c): of those beside ours
// no more than one in a hundred may take a fifth longer than all but one in a hundred
// took while we paused, which is every two seconds for a moment. With too many of them we
// read more slowly, else faster. On a disk that nobody else uses there is no limit and no
// pause. Beside a load there is one request of ours at a time, and a small one, so that
// none waits behind a row of them. bench/pace holds what it comes to.
#include "agent/latency.h"
#include "agent/source.h"

#include <time.h>

// Larger ones would be several requests to the kernel, which counts those.
#define PIECE ((size_t)256 * 1024)
#define PIECE_LOADED ((size_t)64 * 1024)
#define WINDOW_NS (UINT64_C(100) * 1000 * 1000)
#define MIXED_NS (3 * WINDOW_NS) // some of it with us, some of it without
#define WINDOWS_PER_ROUND 20     // of which the first two are without us,
#define WINDOWS_ALONE 2          // the first for what is still under way
#define WINDOWS_JUDGED 10        // at most, for a slow load
#define WINDOWS_QUIET 10         // after so many there is no load any more
#define OTHERS_MIN 2             // requests of others in a window that make it a load
#define OTHERS_JUDGED 200        // requests that are enough to judge
#define OTHERS_ALONE 20          // that are enough to know what it is like without us
#define RATE_MIN (512 * KIB)
#define RATE_START (8.0 * 1024 * 1024)
#define RATE_MAX (16.0 * 1024 * 1024 * 1024)
#define SHARE 0.01 // of the requests that may take longer
#define LONGER 2   // buckets of a histogram: a fifth
#define MEMORY 0.9 // of what was without us two seconds before
#define SLOWER 0.7
#define FASTER 1.25
#define TOO_MANY(n) ((n)*0.0125 > 1.5 ? (n)*0.0125 : 1.5)
#define FEW(n) ((n)*0.0075 > 0.5 ? (n)*0.0075 : 0.5)

struct pace {
    pthread_mutex_t lock; // for all below
    pthread_cond_t ended; // one of our requests
    unsigned n_busy;      // of our requests
    unsigned n_held;      // readers that sleep so as to give way
    uint64_t held_at;     // since when nothing is read for that alone; 0: something is
    uint64_t held_ns;     // in all
    char *name;           // of the disk in /sys/block
    bool off;
    struct latency *latency; // NULL: not looked at yet
    uint64_t window_ns;      // when this window began
    unsigned window;         // of the round
    uint64_t own, own_ns;    // our requests in this window, and their time
    bool loaded;             // others use the disk
    unsigned n_quiet;        // windows without others, in a row
    struct histogram alone;  // others' requests without us
    struct histogram with;   // with us, since we last judged,
    unsigned n_with;         // in so many windows
    double rate;             // bytes a second for us, while loaded
    double least;            // not below that
    uint64_t next_ns;        // when the next request may go
};

struct pace *pace_new(const char *disk)
{
    struct pace *p = xcalloc(1, sizeof(*p));
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->ended, NULL);
    p->name = xstrdup(disk);
    p->window_ns = clock_ns();
    p->rate = RATE_START;
    p->least = RATE_MIN;
    return p;
}

void pace_free(struct pace *p)
{
    if (!p)
        return;
    latency_close(p->latency);
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

void pace_least(struct pace *p, uint64_t bytes_per_second)
{
    pthread_mutex_lock(&p->lock);
    p->least = (double)max_u64(bytes_per_second, RATE_MIN);
    p->rate = p->rate < p->least ? p->least : p->rate;
    pthread_mutex_unlock(&p->lock);
}

// Called whenever n_held or n_busy has become another one.
static void count_held(struct pace *p)
{
    uint64_t now = clock_ns();
    p->held_ns += p->held_at ? now - p->held_at : 0;
    p->held_at = p->n_held > 0 && p->n_busy == 0 ? now : 0;
}

uint64_t pace_held_ms(struct pace *p)
{
    pthread_mutex_lock(&p->lock);
    count_held(p);
    uint64_t ms = p->held_ns / 1000000;
    pthread_mutex_unlock(&p->lock);
    return ms;
}

static void adjust(struct pace *p)
{
    double n = histogram_sum(&p->with, 0);
    if (histogram_sum(&p->alone, 0) < OTHERS_ALONE ||
        (n < OTHERS_JUDGED && p->n_with < WINDOWS_JUDGED))
        return;
    double over = histogram_sum(&p->with, histogram_quantile(&p->alone, SHARE) + LONGER);
    p->rate *= over > TOO_MANY(n) ? SLOWER : over < FEW(n) ? FASTER : 1;
    p->rate = p->rate < p->least ? p->least : p->rate > RATE_MAX ? RATE_MAX : p->rate;
    p->with = (struct histogram){0};
    p->n_with = 0;
}

// A window of a load is over: what it was like for the others. In the first of a round
// requests of ours may still have been under way.
static void look(struct pace *p, const struct histogram *others, bool ours)
{
    if (!ours && p->window > 0) {
        histogram_scale(&p->alone, MEMORY);
        histogram_add(&p->alone, others);
    } else if (p->window > 0) {
        histogram_add(&p->with, others);
        p->n_with++;
        adjust(p);
    }
    p->window = (p->window + 1) % WINDOWS_PER_ROUND;
}

static void next_window(struct pace *p, uint64_t now)
{
    struct histogram others;
    bool mixed = now - p->window_ns > MIXED_NS, ours = p->own > 0;
    p->window_ns = now;
    if (!p->latency)
        p->latency = latency_open(p->name);
    bool known = latency_read(p->latency, p->own, p->own_ns, &others);
    p->own = p->own_ns = 0;
    if (!known || mixed) // without counters there is no pace
        return;
    p->n_quiet = histogram_sum(&others, 0) < OTHERS_MIN ? p->n_quiet + 1 : 0;
    bool was_loaded = p->loaded;
    p->loaded = p->n_quiet < WINDOWS_QUIET && (was_loaded || p->n_quiet == 0);
    if (p->loaded && was_loaded)
        look(p, &others, ours);
    else
        p->window = 0; // a load begins with a look without us
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
            count_held(p);
            pthread_mutex_unlock(&p->lock);
            return n;
        }
        p->n_held++;
        count_held(p);
        pthread_mutex_unlock(&p->lock);
        struct timespec t = {.tv_nsec = (long)min_u64(ns, WINDOW_NS)};
        nanosleep(&t, NULL);
        pthread_mutex_lock(&p->lock);
        p->n_held--;
        count_held(p);
    }
}

static void end_turn(struct pace *p, uint64_t ns)
{
    pthread_mutex_lock(&p->lock);
    p->own++;
    p->own_ns += ns;
    p->n_busy--;
    count_held(p);
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

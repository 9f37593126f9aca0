// SPDX-License-Identifier: Apache-2.0
// A ring of chunks in the order they came:
//
//        tail ─► oldest chunk that is not finished      next ─► first that no worker has
//        head ─► free place
//
// Finished chunks at the tail leave the ring; where the tail stands is the watermark,
// below which everything is done.
#include "copy/pool.h"

#include <pthread.h>
#include <time.h>

#define RING 4096

struct place {
    struct chunk chunk;
    bool finished;
};

struct pool {
    struct pool_options options;
    unsigned n_threads;
    pthread_t *threads;
    pthread_mutex_t lock;    // guards everything below
    pthread_cond_t work;     // workers wait: a chunk, more active workers, the end
    pthread_cond_t finished; // the feeder waits: something finished
    struct place ring[RING];
    size_t tail, next, head; // counted up for ever; place = n % RING
    unsigned n_active, n_busy;
    uint64_t put, done, in_order, watermark;
    bool stop, failed;
    struct err error;
};

static void finish(struct pool *p, size_t n, int result, const struct err *e)
{
    struct place *place = &p->ring[n % RING];
    place->finished = result == 0;
    if (result < 0 && !p->failed) {
        p->failed = true;
        p->error = *e;
    }
    if (result == 0 && place->chunk.parts.n)
        p->done += place->chunk.len;
    while (p->tail < p->next && p->ring[p->tail % RING].finished) {
        struct chunk *c = &p->ring[p->tail++ % RING].chunk;
        p->watermark = c->off + c->len;
        if (c->parts.n)
            p->in_order += c->len;
        extents_done(&c->parts);
    }
    pthread_cond_signal(&p->finished);
}

static void *worker(void *arg)
{
    struct pool *p = arg;
    uint8_t *buffer = alloc_aligned(p->options.max_request);
    struct err e = {0};
    pthread_mutex_lock(&p->lock);
    if (!buffer && !p->failed) {
        p->failed = true;
        err_set(&p->error, ERR_FAILED, "no memory for a buffer of %zu bytes",
                p->options.max_request);
    }
    while (buffer) {
        while (!p->stop && !p->failed && (p->next == p->head || p->n_busy >= p->n_active))
            pthread_cond_wait(&p->work, &p->lock);
        if (p->stop || p->failed)
            break;
        size_t n = p->next++;
        p->n_busy++;
        pthread_mutex_unlock(&p->lock);
        int result =
            p->options.work(p->options.context, &p->ring[n % RING].chunk, buffer, &e);
        pthread_mutex_lock(&p->lock);
        p->n_busy--;
        finish(p, n, result, &e);
        if (p->next < p->head)
            pthread_cond_signal(&p->work);
    }
    pthread_cond_signal(&p->finished);
    pthread_mutex_unlock(&p->lock);
    free(buffer);
    return NULL;
}

int pool_new(const struct pool_options *options, struct pool **ret, struct err *e)
{
    struct pool *p = xcalloc(1, sizeof(*p));
    p->options = *options;
    p->n_active = options->max_workers;
    p->threads = xcalloc(options->max_workers, sizeof(*p->threads));
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, &monotonic);
    pthread_condattr_destroy(&monotonic);
    for (; p->n_threads < options->max_workers; p->n_threads++) {
        int errnum = pthread_create(&p->threads[p->n_threads], NULL, worker, p);
        if (errnum && p->n_threads == 0) {
            pool_free(p);
            return err_errno(e, errnum, "starting a copy thread");
        }
        if (errnum)
            break;
    }
    *ret = p;
    return 0;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    for (size_t n = p->tail; n < p->head; n++)
        extents_done(&p->ring[n % RING].chunk.parts);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->finished);
    pthread_mutex_destroy(&p->lock);
    free(p->threads);
    free(p);
}

void pool_put(struct pool *p, struct chunk *c)
{
    pthread_mutex_lock(&p->lock);
    while (p->head - p->tail == RING && !p->failed)
        pthread_cond_wait(&p->finished, &p->lock);
    if (p->failed) {
        extents_done(&c->parts);
    } else {
        p->ring[p->head++ % RING] = (struct place){.chunk = *c};
        if (c->parts.n)
            p->put += c->len;
        pthread_cond_signal(&p->work);
    }
    *c = (struct chunk){0};
    pthread_mutex_unlock(&p->lock);
}

void pool_set_active(struct pool *p, unsigned n)
{
    pthread_mutex_lock(&p->lock);
    p->n_active = n;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
}

void pool_wait(struct pool *p, unsigned ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&p->lock);
    if (p->tail < p->head && !p->failed)
        pthread_cond_timedwait(&p->finished, &p->lock, &until);
    pthread_mutex_unlock(&p->lock);
}

struct pool_state pool_state(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    struct pool_state s = {
        .put = p->put,
        .finished = p->done,
        .in_order = p->in_order,
        .watermark = p->watermark,
        .n_waiting = p->head - p->next,
        .n_busy = p->n_busy,
        .failed = p->failed,
    };
    pthread_mutex_unlock(&p->lock);
    return s;
}

int pool_error(struct pool *p, struct err *e)
{
    pthread_mutex_lock(&p->lock);
    *e = p->error;
    pthread_mutex_unlock(&p->lock);
    return -1;
}

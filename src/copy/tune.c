// SPDX-License-Identifier: Apache-2.0
// How large requests are and how many are in flight, found by trying. Two phases:
//
// Start: what is in flight doubles, first requests, then workers, as long as each worker
// ends a request in 30 ms. A fast disk is at the most that buffers allow after a fifth of
// a second; a slow link stays at small requests, which show progress and end quickly when
// cancelled.
//
// Then hill climbing with four moves: twice or half the request size, one worker more or
// less. A move is kept when the next window is at least 10 % faster, undone otherwise.
// First, and after four moves in a row that were not worth it, it rests, each time twice
// as long: trying costs, and storage is noisy.
#include "copy/tune.h"

#define START_WINDOW_NS UINT64_C(30000000)
#define WINDOW_NS UINT64_C(250000000)
#define MAX_REST 64 // windows: 16 s
#define START_REQUEST (2 * MIB)
#define START_WORKERS 4
#define MIN_REQUEST (256 * KIB)
#define GAIN 1.1
#define FIRST_REST 8 // windows: a copy of seconds has no time for trials

enum move { MORE_WORKERS, LARGER, FEWER_WORKERS, SMALLER, N_MOVES };

void tune_init(struct tune *t, unsigned max_workers, uint64_t max_request, bool limited)
{
    *t = (struct tune){
        .request = min_u64(limited ? MIN_REQUEST : START_REQUEST, max_request),
        .workers = (unsigned)min_u64(START_WORKERS, max_workers),
        .max_workers = max_workers,
        .max_request = max_request,
        .starting = true,
        .rest = FIRST_REST,
        .resting = FIRST_REST,
    };
}

static bool apply(struct tune *t, enum move m)
{
    t->before_request = t->request;
    t->before_workers = t->workers;
    if (m == MORE_WORKERS && t->workers < t->max_workers)
        t->workers++;
    else if (m == FEWER_WORKERS && t->workers > 1)
        t->workers--;
    else if (m == LARGER && t->request < t->max_request)
        t->request *= 2;
    else if (m == SMALLER && t->request > MIN_REQUEST)
        t->request /= 2;
    else
        return false;
    return true;
}

static bool start_step(struct tune *t, uint64_t bytes)
{
    t->starting = bytes >= t->request * t->workers &&
                  (t->request < t->max_request || t->workers < t->max_workers);
    if (!t->starting)
        return false;
    if (t->request < t->max_request)
        t->request *= 2;
    else
        t->workers = (unsigned)min_u64(2 * (uint64_t)t->workers, t->max_workers);
    return true;
}

// The next move that is possible; after all four in vain, a rest.
static bool try_next(struct tune *t)
{
    for (unsigned i = 0; i < N_MOVES; i++) {
        if (t->in_vain == N_MOVES) {
            t->in_vain = 0;
            t->resting = t->rest;
            t->rest = (unsigned)min_u64(2 * (uint64_t)t->rest, MAX_REST);
            return false;
        }
        if (apply(t, (enum move)t->trying)) {
            t->on_trial = true;
            return true;
        }
        t->trying = (t->trying + 1) % N_MOVES;
        t->in_vain++;
    }
    return false;
}

static bool climb(struct tune *t, double rate)
{
    if (t->on_trial) {
        t->on_trial = false;
        if (rate < t->best * GAIN) {
            t->request = t->before_request;
            t->workers = t->before_workers;
            t->trying = (t->trying + 1) % N_MOVES;
            t->in_vain++;
            return true; // the next window measures the rate without it again
        }
        t->in_vain = 0;
        t->rest = FIRST_REST;
    }
    t->best = rate;
    if (t->resting) {
        t->resting--;
        return false;
    }
    return try_next(t);
}

bool tune_step(struct tune *t, uint64_t bytes, uint64_t now_ns)
{
    if (t->since_ns == 0) {
        t->since_ns = now_ns;
        t->since_bytes = bytes;
        return false;
    }
    uint64_t took = now_ns - t->since_ns;
    if (took < (t->starting ? START_WINDOW_NS : WINDOW_NS))
        return false;
    uint64_t done = bytes - t->since_bytes;
    t->since_ns = now_ns;
    t->since_bytes = bytes;
    if (t->starting)
        return start_step(t, done * START_WINDOW_NS / took);
    return climb(t, (double)done * 1e9 / (double)took);
}

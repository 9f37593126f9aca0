// SPDX-License-Identifier: Apache-2.0
// Hill climbing with four moves: twice or half the request size, one worker more or less.
// A move is kept when the next window is at least 4 % faster, undone otherwise, and then
// the next one is tried. Where it starts is what was fastest on the machines we measured
// (bench/copy): a local disk is near its best with 1 MiB and four workers, an NBD server
// with less; a slow remote source ends at large requests.
#include "copy/tune.h"

#define WINDOW_NS UINT64_C(250000000)
#define START_REQUEST MIB
#define START_WORKERS 4
#define MIN_REQUEST (256 * KIB)
#define GAIN 1.04

enum move { MORE_WORKERS, LARGER, FEWER_WORKERS, SMALLER, N_MOVES };

void tune_init(struct tune *t, unsigned max_workers, uint64_t max_request)
{
    *t = (struct tune){
        .request = min_u64(START_REQUEST, max_request),
        .workers = (unsigned)min_u64(START_WORKERS, max_workers),
        .max_workers = max_workers,
        .max_request = max_request,
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

bool tune_step(struct tune *t, uint64_t bytes, uint64_t now_ns)
{
    if (t->since_ns == 0) {
        t->since_ns = now_ns;
        t->since_bytes = bytes;
        return false;
    }
    uint64_t took = now_ns - t->since_ns;
    if (took < WINDOW_NS)
        return false;
    double rate = (double)(bytes - t->since_bytes) * 1e9 / (double)took;
    t->since_ns = now_ns;
    t->since_bytes = bytes;
    if (t->settled && rate < t->best * GAIN) {
        t->request = t->before_request;
        t->workers = t->before_workers;
        t->trying = (t->trying + 1) % N_MOVES;
        t->settled = false; // the next window measures the base again
        return true;
    }
    t->best = rate;
    t->settled = true;
    for (unsigned i = 0; i < N_MOVES; i++) {
        if (apply(t, (enum move)t->trying))
            return true;
        t->trying = (t->trying + 1) % N_MOVES;
    }
    return false;
}

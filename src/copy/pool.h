// SPDX-License-Identifier: Apache-2.0
// Threads that work on chunks. The one place of godwit that starts threads. Inside copy/
// only.
#pragma once

#include "copy/feed.h"

struct pool;
struct pool_options {
    // Called by the workers, for several chunks at once; `buffer` has room for
    // max_request bytes and belongs to the call.
    int (*work)(void *context, const struct chunk *c, uint8_t *buffer, struct err *e);
    void *context;
    unsigned max_workers;
    size_t max_request;
};
int pool_new(const struct pool_options *options, struct pool **ret, struct err *e);
// Stops the workers after the chunks they are at; what is queued is dropped.
void pool_free(struct pool *p);
DEFINE_AUTO(pool_free, struct pool *)
// Hands a chunk over (its parts are taken). Chunks come in ascending order.
void pool_put(struct pool *p, struct chunk *c);
// How many workers may be busy from now on.
void pool_set_active(struct pool *p, unsigned n);
// Sleeps until something finished, at most `ms`.
void pool_wait(struct pool *p, unsigned ms);
struct pool_state {
    uint64_t put, finished; // bytes of chunks handed in and worked off, in order or not;
                            // holes count nothing
    uint64_t in_order;      // the part of `finished` before the first chunk that is not
    uint64_t watermark;     // offset: every chunk that begins below it is worked off
    size_t n_waiting, n_busy;
    bool failed;
};
struct pool_state pool_state(struct pool *p);
// After `failed`: the first error. Returns -1.
int pool_error(struct pool *p, struct err *e);

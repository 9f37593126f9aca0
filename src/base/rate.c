// SPDX-License-Identifier: Apache-2.0
// A token bucket that may go into debt: who finds tokens passes and pays for everything
// at once, who comes next waits until the debt is refilled. So requests larger than the
// bucket pass, and the average is exact. The bucket holds a tenth of a second.
#include "base/base.h"

#include <poll.h>
#include <pthread.h>

#define NS_PER_S UINT64_C(1000000000)
#define SLICE_NS (NS_PER_S / 10) // a new limit is seen after this at the latest

struct rate {
    pthread_mutex_t lock; // for all below
    uint64_t per_second;  // 0: no limit
    int64_t tokens;       // bytes; negative: debt
    uint64_t filled_ns;   // when tokens were last added
};

struct rate *rate_new(uint64_t bytes_per_second)
{
    struct rate *r = xcalloc(1, sizeof(*r));
    pthread_mutex_init(&r->lock, NULL);
    rate_set(r, bytes_per_second);
    return r;
}

void rate_free(struct rate *r)
{
    if (!r)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void rate_set(struct rate *r, uint64_t bytes_per_second)
{
    pthread_mutex_lock(&r->lock);
    r->per_second = min_u64(bytes_per_second, INT64_MAX);
    r->tokens = 0;
    r->filled_ns = clock_ns();
    pthread_mutex_unlock(&r->lock);
}

// Adds what time has brought. Only whole bytes: their time is taken, the rest stays.
static void refill(struct rate *r)
{
    uint64_t now = clock_ns(), passed = now - r->filled_ns;
    unsigned __int128 bytes = (unsigned __int128)passed * r->per_second / NS_PER_S;
    if (bytes == 0)
        return;
    r->filled_ns += (uint64_t)(bytes * NS_PER_S / r->per_second);
    int64_t most = (int64_t)(r->per_second / 10);
    if (bytes > INT64_MAX || (r->tokens > 0 && (int64_t)bytes > most - r->tokens) ||
        (r->tokens <= 0 && (int64_t)bytes + r->tokens > most)) {
        r->tokens = most;
        r->filled_ns = now;
    } else {
        r->tokens += (int64_t)bytes;
    }
}

// Takes the bytes and returns 0, or the nanoseconds until it is worth asking again.
static uint64_t try_take(struct rate *r, uint64_t bytes)
{
    if (r->per_second == 0)
        return 0;
    refill(r);
    if (r->tokens < 0) {
        unsigned __int128 ns =
            (unsigned __int128)(uint64_t)-r->tokens * NS_PER_S / r->per_second + 1;
        return ns > SLICE_NS ? SLICE_NS : (uint64_t)ns;
    }
    r->tokens -= (int64_t)min_u64(bytes, INT64_MAX);
    return 0;
}

bool rate_limited(struct rate *r)
{
    if (!r)
        return false;
    pthread_mutex_lock(&r->lock);
    bool limited = r->per_second > 0;
    pthread_mutex_unlock(&r->lock);
    return limited;
}

void rate_wait(struct rate *r, uint64_t bytes)
{
    while (r && !cancel_requested()) {
        pthread_mutex_lock(&r->lock);
        uint64_t ns = try_take(r, bytes);
        pthread_mutex_unlock(&r->lock);
        if (ns == 0)
            return;
        struct pollfd cancel = {.fd = cancel_fd(), .events = POLLIN};
        struct timespec wait = {.tv_nsec = (long)ns};
        ppoll(&cancel, 1, &wait, NULL);
    }
}

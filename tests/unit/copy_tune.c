// SPDX-License-Identifier: Apache-2.0
// How the copy engine finds request size and workers, against a model of a disk: a rate
// as a function of what is in flight.
#include "copy/tune.h"

#include "tap.h"

#define MAX_WORKERS 8
#define MAX_REQUEST (4 * MIB)
#define TICK_NS UINT64_C(10000000)

typedef double rate_of(const struct tune *t); // bytes per second

// Steps for `seconds` of the model; returns the bytes it moved.
static uint64_t run(struct tune *t, rate_of *rate, double seconds)
{
    static uint64_t now = 1, bytes;
    uint64_t before = bytes;
    for (double at = 0; at < seconds; at += (double)TICK_NS / 1e9) {
        bytes += (uint64_t)(rate(t) * (double)TICK_NS / 1e9);
        now += TICK_NS;
        (void)tune_step(t, bytes, now);
    }
    return bytes - before;
}

static double fast(const struct tune *t)
{
    return 60e6 * t->workers * ((double)t->request / (double)MIB);
}
static double slow(const struct tune *t)
{
    (void)t;
    return 2e6;
}
// A server that is at its best with two requests of any size.
static double two_are_best(const struct tune *t)
{
    return t->workers <= 2 ? 50e6 * t->workers : 200e6 / t->workers;
}
// Takes turns of a quarter of a second at very different speeds, whatever we do.
static double noisy(const struct tune *t)
{
    return t->since_ns / 250000000 % 3 ? 500e6 : 300e6;
}

int main(void)
{
    struct tune t;
    tune_init(&t, MAX_WORKERS, MAX_REQUEST, false);
    run(&t, fast, 0.3);
    ok(t.workers == MAX_WORKERS && t.request == MAX_REQUEST,
       "a fast disk has all buffers in flight after 0.3 s");
    tune_init(&t, MAX_WORKERS, MAX_REQUEST, false);
    run(&t, slow, 1);
    ok(t.request * t.workers <= 8 * MIB, "a slow link has little in flight");
    run(&t, slow, 300);
    ok(t.workers <= MAX_WORKERS && t.workers >= 1 && t.request <= MAX_REQUEST &&
           t.request >= 64 * KIB,
       "and stays within the limits");
    tune_init(&t, MAX_WORKERS, MAX_REQUEST, false);
    run(&t, two_are_best, 20);
    uint64_t moved = run(&t, two_are_best, 60);
    ok(moved > (uint64_t)(0.85 * 100e6 * 60),
       "a server that wants two requests gets two");
    tune_init(&t, MAX_WORKERS, MAX_REQUEST, false);
    run(&t, noisy, 600);
    ok(t.request * t.workers >= MIB, "noise does not starve it");
    tune_init(&t, 1, 64 * KIB, false);
    run(&t, fast, 10);
    ok(t.workers == 1 && t.request == 64 * KIB, "one small buffer stays one");
    tune_init(&t, MAX_WORKERS, MAX_REQUEST, true);
    run(&t, slow, 1);
    ok(t.request <= 256 * KIB, "under a low limit requests are small");
    return done_testing();
}

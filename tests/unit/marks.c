// SPDX-License-Identifier: Apache-2.0
// Marks of a disk: set, moved, listed.
#include "agent/track.h"

#include "tap.h"

#include <pthread.h>

#define SHIFT 16
#define GRANULE (UINT64_C(1) << SHIFT)

static uint64_t n_extents(const struct marks *m, uint64_t size, struct extents *x)
{
    uint64_t done = 0;
    return marks_extents(m, size, 0, size, x, &done) == 0 && done == size ? x->n : 0;
}

static void sets(void)
{
    uint8_t v[16] = {0};
    struct marks m = {v, 10, SHIFT};
    uint64_t size = 9 * GRANULE + 512;
    marks_set(&m, 0, 0);
    is_u64(marks_bytes(&m, size), 0, "nothing marks nothing");
    marks_set(&m, GRANULE - 1, 2);
    ok(v[0] && v[1] && !v[2], "a range over a border marks both sides");
    marks_set(&m, 9 * GRANULE, UINT64_MAX);
    ok(v[9] && !v[10], "what goes past the end stays inside");
    marks_set(&m, 20 * GRANULE, 512);
    is_u64(marks_bytes(&m, size), 2 * GRANULE + 512, "the last granule counts as it is");
    AUTO(extents_done) struct extents x = {0};
    is_u64(n_extents(&m, size, &x), 3, "marks are data, the rest holes");
    ok(x.n == 3 && x.v[0].kind == EXTENT_DATA && x.v[1].kind == EXTENT_HOLE &&
           x.v[1].off == 2 * GRANULE && x.v[2].off == 9 * GRANULE && x.v[2].len == 512,
       "each where it lies");
    AUTO(extents_done) struct extents part = {0};
    uint64_t done = 0;
    ok(marks_extents(&m, size, GRANULE + 1, GRANULE, &part, &done) == 0 && part.n == 2 &&
           part.v[0].off == GRANULE + 1 && part.v[0].len == GRANULE - 1,
       "a part of the disk is answered as a part");
}

static void shifts(void)
{
    uint64_t small[] = {TIB}, large[] = {8 * TIB, 8 * TIB, 8 * TIB};
    is_u64(marks_shift(small, 1), 16, "a TiB has granules of 64 KiB");
    unsigned shift = marks_shift(large, 3);
    ok(shift > 16 && 3 * 2 * (8 * TIB >> shift) <= MARKS_LIMIT,
       "24 TiB have larger ones, within the limit");
}

static void levels(void)
{
    static uint8_t live[8] __attribute__((aligned(8))), v[200];
    struct marks into = {v, 150, SHIFT};
    live[1] = 1;
    live[2] = 1;
    marks_take(&into, live, 3, 6);
    ok(!v[63] && v[64] && v[149] && !v[150],
       "a mark above stands for 64, cut at the end");
    ok(!live[1] && !live[2], "and is cleared");
}

static uint8_t shared[64] __attribute__((aligned(8)));
static uint64_t set_of[64];
static bool stop;
static void *setter(void *context)
{
    (void)context;
    for (unsigned i = 0; !__atomic_load_n(&stop, __ATOMIC_ACQUIRE); i = (i + 7) % 64) {
        // As the kernel's program does: a plain byte, after what it stands for.
        __atomic_fetch_add(&set_of[i], 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&shared[i], 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

// After the last set of each, a take must have come that saw it.
static void races(void)
{
    pthread_t thread;
    uint8_t v[64] = {0};
    uint64_t seen[64] = {0};
    struct marks into = {v, 64, SHIFT};
    (void)pthread_create(&thread, NULL, setter, NULL);
    for (unsigned round = 0; round < 200000; round++) {
        if (round == 199999) {
            __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
            (void)pthread_join(thread, NULL);
        }
        memset(v, 0, sizeof(v));
        marks_take(&into, shared, 64, 0);
        for (unsigned i = 0; i < 64; i++)
            if (v[i])
                seen[i] = __atomic_load_n(&set_of[i], __ATOMIC_SEQ_CST);
    }
    bool all = true;
    for (unsigned i = 0; i < 64; i++)
        all &= seen[i] == set_of[i];
    ok(all, "no mark is lost that is set while others are taken");
}

static void flipped_bit(void)
{
    uint8_t v[8] = {0};
    struct marks m = {v, sizeof(v), 16};
    bool all = true;
    marks_set(&m, 3 << 16, 1);
    for (unsigned bit = 0; bit < 8; bit++) {
        v[3] ^= (uint8_t)(1U << bit);
        all = all && marks_bytes(&m, 8 << 16) == 1 << 16;
        v[3] ^= (uint8_t)(1U << bit);
    }
    ok(all, "a mark with one bit flipped is a mark");
}

int main(void)
{
    flipped_bit();
    sets();
    shifts();
    levels();
    races();
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What latency.bpf.c in the kernel and latency.c share. Inside agent/.
#pragma once

#include <linux/types.h>

// A bucket is an eighth of an octave (6 to 12 %). The first is of 1 us, the last of 4 s
// and above.
#define LATENCY_STEPS 8
#define LATENCY_OCTAVES 22
#define LATENCY_BUCKETS (LATENCY_STEPS * LATENCY_OCTAVES)

// Ours have the lowest best-effort priority (ioprio_set(2)): whoever else uses that does
// not care either.
#define LATENCY_CLASS 2
#define LATENCY_LEVEL 7
#define LATENCY_CLASS_SHIFT 13
#define LATENCY_OWN (LATENCY_CLASS << LATENCY_CLASS_SHIFT | LATENCY_LEVEL)
#define LATENCY_MASK \
    (7 << LATENCY_CLASS_SHIFT | 7) // hints and levels of devices lie between

static inline __attribute__((always_inline)) __u32 latency_bucket(__u64 ns)
{
    __u64 us = ns / 1000;
    __u32 octave = 0;
    us = us ? us : 1;
    us = us < 1ull << LATENCY_OCTAVES ? us : (1ull << LATENCY_OCTAVES) - 1;
    for (__u32 shift = 16; shift; shift /= 2)
        if (us >> octave >> shift)
            octave += shift;
    return octave * LATENCY_STEPS +
           (__u32)(us * LATENCY_STEPS >> octave & (LATENCY_STEPS - 1));
}

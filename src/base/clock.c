// SPDX-License-Identifier: Apache-2.0
// Time. Intervals are measured on the monotonic clock, which steps for nobody; the wall
// clock is for people.
#include "base/base.h"

#include <stdio.h>
#include <time.h>

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t clock_ms(void)
{
    return clock_ns() / 1000000;
}

uint64_t clock_wall(void)
{
    return (uint64_t)time(NULL);
}

void clock_iso(uint64_t wall, char out[static 24])
{
    time_t t = (time_t)min_u64(wall, 253402300799); // the last second of 9999
    struct tm tm;
    if (!gmtime_r(&t, &tm) || strftime(out, 24, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        out[0] = '\0';
}

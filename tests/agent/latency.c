// SPDX-License-Identifier: Apache-2.0
// What others' requests to a disk take, while we read it too: each of theirs is counted
// and none of ours, with BPF and, where the kernel refuses that, by the counters of the
// disk.
#include "rig.h"

#include "agent/latency.h"

#include <pthread.h>
#include <sys/syscall.h>

#define OURS 50
#define THEIRS 30
#define PIECE 65536

static int device;
static char name[16];

static void read_pieces(unsigned n)
{
    AUTO(free) void *memory = aligned_alloc(4096, PIECE);
    for (unsigned i = 0; i < n; i++)
        if (pread(device, memory, PIECE, (off_t)i * PIECE) != PIECE)
            exit(1);
}

static void *read_as_ours(void *unused)
{
    latency_own();
    read_pieces(OURS);
    return unused;
}

static uint64_t read_both(void)
{
    pthread_t ours;
    uint64_t start = clock_ns();
    if (pthread_create(&ours, NULL, read_as_ours, NULL))
        exit(1);
    read_pieces(THEIRS);
    pthread_join(ours, NULL);
    return clock_ns() - start;
}

static void count_both(bool exact)
{
    AUTO(latency_close) struct latency *l = latency_open(name);
    struct histogram h;
    uint64_t took = read_both();
    // As if all of ours had waited all the time: more than their share is not believed.
    bool known = latency_read(l, OURS, took * OURS, &h);
    ok(latency_is_exact(l) == exact, "the kernel %s each request",
       exact ? "tells of" : "does not tell of");
    ok(known && (unsigned)histogram_sum(&h, 0) == THEIRS,
       "... all requests of others are counted, and none of ours: %u",
       (unsigned)histogram_sum(&h, 0));
    ok(histogram_sum(&h, 1) > 0, "... as longer than nothing");
    ok(latency_read(l, 0, 0, &h) && histogram_sum(&h, 0) < 1, "... and once");
}

static void quantiles(void)
{
    struct histogram h = {0};
    ok(histogram_quantile(&h, 0.01) == 0, "nothing is below everything");
    h.n[10] = 98;
    h.n[20] = 1;
    h.n[30] = 1;
    ok(histogram_quantile(&h, 0.01) == 20, "one in a hundred lies above");
    ok(histogram_quantile(&h, 0.02) == 10, "two in a hundred do");
    ok(latency_bucket(1500) == 0 && latency_bucket(2000) == LATENCY_STEPS &&
           latency_bucket(UINT64_MAX) == LATENCY_BUCKETS - 1,
       "buckets go from a microsecond to the longest there is");
}

int main(void)
{
    rig_world();
    quantiles();
    int backing = memfd_create("disk", MFD_CLOEXEC);
    if (backing < 0 || ftruncate(backing, 64 * MIB) < 0)
        return 1;
    device = rig_loop(backing, name);
    if (device < 0)
        return 1;
    read_both(); // what the kernel reads of a new device by itself
    count_both(access("/sys/kernel/btf/vmlinux", R_OK) == 0);
    rig_refuse(SYS_bpf, NONE, NONE);
    count_both(false);
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// usage: track_stress LOAD TRACKER WHAT
// Under load, rounds of harvest and copy, then frozen a last one: not a block may differ.
// WHAT: disk | partition, crypt, raid1 (tracked through the disk below) | read-then-clear
// (a mistake made on purpose: it must be caught). N=30: so many freezes (2), of each of
// two seeds.
#include "rig.h"

#define ROUNDS 12
#define SEEDS 2

static uint64_t round_of(struct rig *r, struct tracking *t, bool mistake)
{
    struct err e;
    uint64_t id = tracking_last(t) + 1;
    if (tracking_harvest(t, id, id - 1, &e) < 0)
        return UINT64_MAX;
    uint64_t bytes = rig_copy(r, t, id);
    // What comes between reading and clearing is thrown away.
    if (mistake && tracking_harvest(t, id + 1, id, &e) < 0)
        return UINT64_MAX;
    return bytes;
}

// What is frozen still discards: FITRIM and ext4's own are not held back. So until a
// harvest is empty, and compared only between two that are.
static uint64_t compare_at_rest(struct rig *r, struct tracking *t)
{
    uint64_t differences = 0;
    for (int tries = 0; tries < 50; tries++) {
        if (round_of(r, t, false) > 0)
            continue;
        differences = rig_differences(r);
        if (round_of(r, t, false) == 0)
            return differences;
        printf("# something was written while it was frozen\n");
    }
    printf("# it never came to rest\n");
    return UINT64_MAX;
}

struct result {
    uint64_t differences, n_short, unknown, bytes, rounds, frozen_ms;
};

// The load writes on between the freezes.
static void freeze_once(struct rig *r, struct tracking *t, bool mistake,
                        struct result *sum)
{
    struct err e;
    for (int i = 0; i < ROUNDS; i++, sum->rounds++) {
        sum->bytes += round_of(r, t, mistake);
        rig_sleep(15);
    }
    rig_freeze(r, true);
    uint64_t n_short = 0, before = clock_ms();
    (void)round_of(r, t, false);
    if (tracking_audit(t, 0, &n_short, &e) < 0) {
        printf("# audit: %s\n", e.text);
        sum->unknown++;
    }
    sum->frozen_ms = max_u64(sum->frozen_ms, clock_ms() - before);
    sum->n_short += n_short;
    struct tracking_state s = tracking_state(t, 0);
    if (!s.known) {
        printf("# unknown: %s\n", s.why);
        sum->unknown++;
        tracking_rearm(t, 0);
    }
    sum->differences += compare_at_rest(r, t);
    rig_freeze(r, false);
    if (mistake) // what was lost once is not to be counted again
        rig_copy_range(r, 0, r->disk.size);
}

int main(int argc, char **argv)
{
    struct rig r = {0};
    struct result sum = {0};
    uint64_t n = 2;
    if (argc != 4)
        return 2;
    bool mistake = strcmp(argv[3], "read-then-clear") == 0;
    if (getenv("N"))
        (void)str_to_u64(getenv("N"), &n);
    rig_world();
    rig_make(&r, strcmp(argv[3], "read-then-clear") == 0 ? "disk" : argv[3]);
    struct tracking *t = rig_need(&r, argv[2]);
    struct err e;
    for (unsigned seed = 0; seed < SEEDS; seed++) {
        rig_load(&r, argv[1], seed);
        if (tracking_harvest(t, 0, 0, &e) < 0)
            return 1;
        rig_copy_range(&r, 0, r.disk.size);
        for (uint64_t i = 0; i < n; i++)
            freeze_once(&r, t, mistake, &sum);
        proc_end(r.load);
    }
    struct tracking_state s = tracking_state(t, 0);
    printf("# %s: %llu rounds, %llu MiB, %llu sectors seen, last pass at most %llu ms\n",
           tracking_name(t), (unsigned long long)sum.rounds,
           (unsigned long long)(sum.bytes / MIB), (unsigned long long)s.seen.sectors,
           (unsigned long long)sum.frozen_ms);
    if (mistake) {
        ok(sum.differences > 0, "reading before clearing loses blocks, which is seen");
    } else {
        is_u64(sum.differences, 0, "no block differs when frozen");
        is_u64(sum.n_short, 0, "the kernel counted no sector that was not marked");
        is_u64(sum.unknown, 0, "and the disk was known all the time");
        // Half of it where a round takes a second.
        ok(sum.bytes < sum.rounds * r.disk.size / 10 * 9,
           "a round is a part of the disk");
    }
    tracking_stop(t, false);
    return done_testing();
}

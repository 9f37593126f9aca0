// SPDX-License-Identifier: Apache-2.0
// usage: track_kill LOAD TRACKER
// An agent under load is killed at any moment, again and again; the next one takes over
// what is pinned in bpffs and goes on, frozen disk included. Not a block may differ.
// N=100: so many kills (8).
#include "rig.h"

struct shared {    // what the other end of the migration has durably
    uint64_t done; // last round that was copied as a whole
    uint64_t lives, unknown, again, differences, n_short, finished, epoch;
};

static void copy_round(struct rig *r, struct tracking *t, struct shared *s)
{
    struct err e;
    uint64_t last = tracking_last(t);
    if (last > s->done) { // the one before us died while it was copied
        (void)rig_copy(r, t, last);
        s->done = last;
    }
    if (tracking_harvest(t, last + 1, s->done, &e) < 0)
        exit(1);
    (void)rig_copy(r, t, last + 1);
    s->done = last + 1;
}

static void live(struct rig *r, const char *only, struct shared *s, bool last)
{
    struct err e;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct tracking *t = rig_track(r, only, true);
    struct tracking_state state = tracking_state(t, 0);
    s->again += s->lives > 0 && state.epoch == s->epoch;
    s->epoch = state.epoch;
    s->unknown += !state.known;
    s->lives++;
    if (s->lives == 1) {
        if (tracking_harvest(t, 0, 0, &e) < 0)
            exit(1);
        s->epoch = tracking_state(t, 0).epoch;
        rig_copy_range(r, 0, r->disk.size);
        s->finished = 1;
    }
    for (int i = 0; !last || i < 3; i++)
        copy_round(r, t, s);
    rig_freeze(r, true);
    // Until nothing is discarded any more, which freezing does not hold back.
    for (int i = 0; i < 50; i++, copy_round(r, t, s))
        if (tracking_state(t, 0).pending == 0) {
            s->differences = rig_differences(r);
            copy_round(r, t, s);
            if (tracking_state(t, 0).pending == 0)
                break;
        }
    (void)tracking_audit(t, 0, &s->n_short, &e);
    rig_freeze(r, false);
    tracking_stop(t, false);
    s->finished = 2;
    exit(0);
}

int main(int argc, char **argv)
{
    struct rig r = {0};
    uint64_t n = 8;
    if (argc != 3)
        return 2;
    if (getenv("N"))
        (void)str_to_u64(getenv("N"), &n);
    rig_world();
    rig_make(&r, "disk");
    struct shared *s =
        mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    tracking_stop(rig_need(&r, argv[2]), false);
    rig_load(&r, argv[1], 7);
    srand(7);
    for (uint64_t i = 0; i <= n; i++) {
        pid_t agent = fork();
        if (agent == 0) {
            scratch_owner = 0;
            live(&r, argv[2], s, i == n);
        }
        while (i == 0 && !s->finished && waitpid(agent, NULL, WNOHANG) == 0)
            rig_sleep(5);
        if (i < n) {
            rig_sleep((unsigned)(rand() % 1200));
            (void)kill(agent, SIGKILL);
        }
        (void)waitpid(agent, NULL, 0);
    }
    printf("# %llu lives, %llu went on, last round %llu\n", (unsigned long long)s->lives,
           (unsigned long long)s->again, (unsigned long long)s->done);
    ok(s->finished == 2, "the last agent comes to its end");
    is_u64(s->unknown, 0, "the disk is known in every life");
    is_u64(s->again, s->lives - 1, "each goes on with the epoch of the one before");
    is_u64(s->n_short, 0, "no sector was missed in all of them");
    is_u64(s->differences, 0, "no block differs when frozen");
    proc_end(r.load);
    return done_testing();
}

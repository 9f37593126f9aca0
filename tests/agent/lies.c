// SPDX-License-Identifier: Apache-2.0
// Linked in front of the tracker bpf (-Wl,--wrap), for an agent that tests migrate from:
// from the third harvest on it forgets every second mark. GODWIT_LIE=events: it has not
// counted those writes either, so the kernel's counters know better (the audit in the
// freeze). GODWIT_LIE=marks: it counts them, as one that marks at submission or whose
// harvest lost a bit would; only hashes of what is there know better.
#include "agent/track.h"

#define HONEST_HARVESTS 2 // the agent tries a tracker before it believes it
#define SECTORS 8         // of the least write

extern const struct tracker_ops __real_track_bpf_ops, __wrap_track_bpf_ops;

struct liar {
    struct tracker tracker;
    struct tracker *honest;
    uint64_t n_harvests, n_marks, forgotten;
};

static int start(const struct track_disk *disks, size_t n_disks, unsigned shift,
                 const char *dir, struct tracker **ret, bool *ret_again, struct err *e)
{
    struct liar *l = xcalloc(1, sizeof(*l));
    if (__real_track_bpf_ops.start(disks, n_disks, shift, dir, &l->honest, ret_again,
                                   e)) {
        free(l);
        return -1;
    }
    l->tracker.ops = &__wrap_track_bpf_ops;
    *ret = &l->tracker;
    return 0;
}

static int harvest(struct tracker *t, size_t i, struct marks *into, struct err *e)
{
    struct liar *l = (struct liar *)t;
    struct marks all = {xcalloc(1, into->n + 8), into->n, into->shift};
    int status = l->honest->ops->harvest(l->honest, i, &all, e);
    bool lies = l->n_harvests++ >= HONEST_HARVESTS;
    for (uint64_t g = 0; g < all.n; g++) {
        if (all.v[g] && lies && l->n_marks++ % 2)
            l->forgotten++;
        else if (all.v[g])
            into->v[g] = 1;
    }
    free(all.v);
    return status;
}

static int seen(struct tracker *t, size_t i, struct track_seen *ret, struct err *e)
{
    const struct liar *l = (const struct liar *)t;
    const char *lie = getenv("GODWIT_LIE");
    if (l->honest->ops->seen(l->honest, i, ret, e))
        return -1;
    if (lie && strcmp(lie, "events") == 0)
        ret->sectors -= l->forgotten * SECTORS;
    return 0;
}

static void stop(struct tracker *t, bool keep)
{
    struct liar *l = (struct liar *)t;
    l->honest->ops->stop(l->honest, keep);
    free(l);
}

const struct tracker_ops __wrap_track_bpf_ops = {
    .name = "bpf",
    .what = "forgets",
    .start = start,
    .harvest = harvest,
    .seen = seen,
    .stop = stop,
};

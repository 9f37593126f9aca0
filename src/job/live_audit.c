// SPDX-License-Identifier: Apache-2.0
// Is the tracker right? Blocks that no harvest named are held against the map by their
// hashes (copy/audit.c), after every round and once more in the freeze. One that differs
// on a source that runs is under suspicion until a harvest names it; in the freeze the
// one harvest that follows has to.
//
// A round that goes by hashes leaves nothing to be found out; where no tracker is
// believed all of them do.
#include "job/internal.h"

#define ROUND_BLOCKS 256           // of a disk, after a round
#define FREEZE_BLOCKS 16384        // of a disk
#define AUDIT_MS 300               // in a freeze, and at least after a round
#define PART_OF_TIME 10            // that is between two rounds, or left of the freeze
#define AGE_MS 1000                // quick rounds may all lie inside one slow write
#define FRESH_MAX (16 * MAP_BLOCK) // that a round may copy without its being named

static void forget_suspects(struct live_disk *d)
{
    extents_done(&d->suspect[0]);
    extents_done(&d->suspect[1]);
}

void live_audit_forget(struct live_disk *d)
{
    forget_suspects(d);
    extents_done(&d->fresh);
    hot_done(&d->hot);
}

void live_audit_named(struct live_disk *d, uint32_t round)
{
    hot_add(&d->hot, &d->round, round);
    for (size_t k = 0; k < d->round.n; k++) {
        extents_remove(&d->suspect[0], d->round.v[k].off, d->round.v[k].len);
        extents_remove(&d->suspect[1], d->round.v[k].off, d->round.v[k].len);
    }
}

static void add(struct extents *to, const struct extents *more)
{
    struct extents both = {0};
    extents_or(to, more, &both);
    extents_done(to);
    *to = both;
}

void live_audit_widen(struct live_disk *d)
{
    add(&d->round, &d->fresh);
    extents_done(&d->fresh);
}

// --- asking

static int audit_disk(struct job *j, size_t i, const struct audit_options *o,
                      struct err *e)
{
    struct live_disk *d = &j->live.disks[i];
    struct audit_result r = {0};
    if (live_view(j, i, CLOUD_HASH, &d->hash, e))
        return -1;
    if (copy_audit(d->hash, d->replica.map, o, &r, e)) {
        disk_close(steal(d->hash)); // it may be dead
        return -1;
    }
    add(&d->suspect[0], &r.differ);
    for (size_t k = 0; k < r.fresh.n; k++) {
        uint64_t room =
            FRESH_MAX - min_u64(FRESH_MAX, extents_bytes(&d->fresh, EXTENT_DATA));
        extents_add(&d->fresh, r.fresh.v[k].off, min_u64(r.fresh.v[k].len, room));
    }
    audit_result_done(&r);
    return 0;
}

// Every disk gets its part of the time until `end_ms`. all: also what was read a moment
// ago.
static int audit_all(struct job *j, size_t n_blocks, uint64_t end_ms, bool all,
                     struct err *e)
{
    struct live *l = &j->live;
    for (size_t i = 0; i < l->n_disks; i++) {
        uint64_t now = clock_ms(), left = end_ms > now ? end_ms - now : 0;
        struct audit_options o = {.hot = &l->disks[i].hot,
                                  .skip = all ? NULL : &l->disks[i].round,
                                  .n = n_blocks,
                                  .until_ms = now + left / (l->n_disks - i)};
        if (!live_unknown(j, i) && audit_disk(j, i, &o, e))
            return -1;
    }
    return 0;
}

// --- verdicts

static char *lost_text(const struct job *j, size_t i, const struct extents *lost)
{
    return xasprintf("disk %zu: the tracker %s did not see a write at byte %llu", i,
                     j->live.harvest.tracker, (unsigned long long)lost->v[0].off);
}

static void convict(struct job *j, const char *why)
{
    for (size_t i = 0; i < j->live.n_disks; i++)
        forget_suspects(&j->live.disks[i]);
    j->live.forecast.audit_ms = 0;
    live_distrust(j, why);
    (void)store_event(j->store, j->row.id, "error", j->row.phase, why,
                      &(struct err){0}); // the note says it too
}

// What two harvests have not named, and time enough.
static bool age(struct job *j, size_t i)
{
    struct live_disk *d = &j->live.disks[i];
    uint64_t now = clock_ms();
    if (now - d->aged_ms < AGE_MS)
        return false;
    d->aged_ms = now;
    if (d->suspect[1].n) {
        AUTO(str_free) char *why = lost_text(j, i, &d->suspect[1]);
        job_note(j, "%s", why);
        convict(j, why);
        return true;
    }
    extents_done(&d->suspect[1]);
    d->suspect[1] = d->suspect[0];
    d->suspect[0] = (struct extents){0};
    return false;
}

void live_audit_round(struct job *j, uint64_t over_ms)
{
    struct live *l = &j->live;
    struct err e; // a connection that broke: the next round audits too
    uint64_t start = clock_ms();
    bool guilty = false;
    for (size_t i = 0; i < l->n_disks && !guilty; i++)
        guilty = age(j, i);
    if (guilty)
        return;
    uint64_t end = start + max_u64(AUDIT_MS, over_ms / PART_OF_TIME);
    (void)audit_all(j, ROUND_BLOCKS, end, false, &e);
    l->forecast.audit_ms = min_u64(clock_ms() - start, AUDIT_MS);
}

// --- in the freeze

int live_audit_frozen(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    uint64_t start = clock_ms();
    uint64_t left = l->freeze_until_ms > start ? l->freeze_until_ms - start : 0;
    bool full = j->request.verify == VERIFY_FULL;
    uint64_t end = start + (full ? left / 2 : min_u64(AUDIT_MS, left / PART_OF_TIME));
    int status = audit_all(j, FREEZE_BLOCKS, end, full, e);
    live_step(j, "audit", clock_ms() - start);
    return status;
}

int live_audit_verdict(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->live.n_disks; i++) {
        const struct live_disk *d = &j->live.disks[i];
        const struct extents *lost = d->suspect[0].n ? &d->suspect[0] : &d->suspect[1];
        if (!lost->n)
            continue;
        AUTO(str_free) char *why = lost_text(j, i, lost);
        j->live.lost = true;
        return err_set(e, ERR_RETRY, "%s", why);
    }
    return 0;
}

void live_audit_thawed(struct job *j, const struct err *why)
{
    if (j->live.lost)
        convict(j, why->text);
    j->live.lost = false;
}

// SPDX-License-Identifier: Apache-2.0
// One tracker for all disks, chosen by trying, and what it marked until godwit has it.
//
// A disk is *known* from the moment its marks began (tracking_start, harvest 0,
// tracking_rearm) until anything says that one may be missing. Then it gets another
// epoch and stays unknown until it is armed again: better a disk hashed for nothing than
// a block not copied.
//
// What surprises: every step of a harvest may be the last one of this process. Pending
// marks are cleared before the live ones move, and the state says so in between; a mark
// is in the pending ones before it leaves the live ones (marks_take).
#include "agent/track_state.h"

#include <assert.h>
#include <dirent.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#define REST_MS 100 // for two counts that agree, before they are compared later
#define AUDIT_MS 500

const struct tracker_ops *const trackers[] = {
    &track_bpf_ops, &track_ftrace_ops, &track_blktrace_ops, &track_classic_ops, NULL};

struct tracking {
    struct tracking_options o;
    char *bpf_dir; // what o.bpf_dir points to: needed when another tracker is chosen
    struct track_state state;
    struct tracker *tracker; // NULL: none works
    char none[160];          // why
};

static struct track_record *record_of(struct tracking *t, size_t disk)
{
    assert(disk < t->o.n_disks);
    return &t->state.head->disks[disk];
}

__attribute__((format(printf, 2, 3))) static void forget(struct track_record *r,
                                                         const char *why, ...)
{
    if (!r->known && r->why[0])
        return; // the first reason explains most
    va_list ap;
    va_start(ap, why);
    (void)vsnprintf(r->why, sizeof(r->why), why, ap);
    va_end(ap);
    r->known = false;
    r->epoch = track_random();
}

static void arm(struct tracking *t, size_t disk)
{
    struct track_record *r = record_of(t, disk);
    struct track_counts least; // of a disk that never rests: it would seem to miss writes
    struct err e;
    if (t->tracker == NULL || r->broken)
        return;
    if (track_both(&t->o.disks[disk], t->tracker, disk, REST_MS, &least, &r->start, &e) <
            0 &&
        e.code != ERR_RETRY) {
        forget(r, "%.150s", e.text);
        return;
    }
    r->why[0] = 0;
    r->known = true;
}

// --- choosing

static char *pin_dir(const struct tracking *t)
{
    struct statfs st;
    if (t->o.bpf_dir == NULL || statfs(t->o.bpf_dir, &st) < 0 ||
        st.f_type != BPF_FS_MAGIC)
        return NULL;
    return xasprintf("%s/marks-%016llx", t->o.bpf_dir,
                     (unsigned long long)t->state.head->token);
}

// Pins of agents whose state is gone: they would mark for nobody until the next boot.
static void remove_old_pins(const struct tracking *t)
{
    struct err e;
    AUTO(str_free) char *own = pin_dir(t);
    DIR *d = own ? opendir(t->o.bpf_dir) : NULL;
    for (const struct dirent *x; d && (x = readdir(d));) {
        AUTO(str_free) char *path = path_join(t->o.bpf_dir, x->d_name);
        if (str_starts(x->d_name, "marks-"))
            (void)dir_remove(path, &e);
    }
    if (d)
        closedir(d);
}

static bool is_asked(const struct tracking *t, size_t row)
{
    return (t->state.head->distrusted >> row & 1) == 0 &&
           (t->o.only == NULL || strcmp(t->o.only, trackers[row]->name) == 0);
}

static void note(struct tracking *t, const char *name, const char *text)
{
    size_t len = strlen(t->none);
    (void)snprintf(t->none + len, sizeof(t->none) - len, "%s%s: %s", len ? "; " : "",
                   name, text);
}

// The disks that the tracker of this row marks, as it proves; stopped when there is none,
// or not all and `all` is wanted.
static bool try_row(struct tracking *t, size_t row, bool all)
{
    struct track_head *h = t->state.head;
    struct err e;
    AUTO(str_free) char *dir = pin_dir(t);
    struct tracker *tracker = NULL;
    bool again;
    if (trackers[row]->start(t->o.disks, t->o.n_disks, h->shift, dir, &tracker, &again,
                             &e) < 0) {
        note(t, trackers[row]->name, e.text);
        return false;
    }
    size_t n_broken = 0;
    for (size_t i = 0; i < t->o.n_disks; i++) {
        struct marks pending = track_state_pending(&t->state, i);
        struct track_record *r = &h->disks[i];
        r->broken = track_probe(&t->o.disks[i], tracker, i, &pending, &e) < 0;
        if (!r->broken)
            continue;
        n_broken++;
        note(t, trackers[row]->name, e.text);
        (void)snprintf(r->why, sizeof(r->why), "%.150s", e.text);
    }
    if (n_broken > 0 && (all || n_broken == t->o.n_disks)) {
        tracker->ops->stop(tracker, false);
        return false;
    }
    t->tracker = tracker;
    (void)snprintf(h->tracker, sizeof(h->tracker), "%s", trackers[row]->name);
    return true;
}

static bool try_all(struct tracking *t, bool all)
{
    for (size_t row = 0; trackers[row]; row++)
        if (is_asked(t, row) && try_row(t, row, all))
            return true;
    return false;
}

// Another tracker from the beginning. `why`: the reason by which what was known is lost,
// NULL: nothing was. It is said first: whoever is killed behind that may have started a
// tracker, with which the next one goes on.
static void choose(struct tracking *t, const char *why)
{
    struct track_head *h = t->state.head;
    for (size_t i = 0; i < t->o.n_disks && why; i++)
        forget(&h->disks[i], "%s", why);
    remove_old_pins(t);
    h->token = track_random();
    h->tracker[0] = 0;
    t->none[0] = 0;
    t->tracker = NULL;
    if (!try_all(t, true))
        (void)try_all(t, false);
    for (size_t i = 0; i < t->o.n_disks; i++) {
        struct track_record *r = &h->disks[i];
        char broken[sizeof(r->why)];
        memcpy(broken, r->why, sizeof(broken));
        r->why[0] = 0;
        if (t->tracker == NULL)
            forget(r, "no tracker works: %.120s", t->none);
        else if (r->broken)
            forget(r, "%.150s", broken);
        else if (why)
            forget(r, "%s", why);
        else
            r->epoch = track_random();
        if (why == NULL)
            arm(t, i);
    }
}

// Goes on with the tracker that an earlier process of ours left.
static bool go_on(struct tracking *t)
{
    struct track_head *h = t->state.head;
    AUTO(str_free) char *dir = pin_dir(t);
    for (size_t row = 0; dir && trackers[row]; row++) {
        struct err e;
        bool again = false;
        if (strncmp(h->tracker, trackers[row]->name, sizeof(h->tracker)) != 0 ||
            !is_asked(t, row) ||
            trackers[row]->start(t->o.disks, t->o.n_disks, h->shift, dir, &t->tracker,
                                 &again, &e) < 0)
            continue;
        if (again)
            return true;
        t->tracker->ops->stop(t->tracker, false);
    }
    t->tracker = NULL;
    return false;
}

int tracking_start(const struct tracking_options *o, struct tracking **ret, struct err *e)
{
    const char *lost = NULL;
    struct tracking *t = xcalloc(1, sizeof(*t));
    t->o = *o;
    if (track_state_open(o->run_dir, o->disks, o->n_disks, &t->state, &lost, e) < 0) {
        free(t);
        return -1;
    }
    t->bpf_dir = o->bpf_dir ? xstrdup(o->bpf_dir) : NULL;
    t->o.bpf_dir = t->bpf_dir;
    if (lost != NULL)
        choose(t, lost[0] ? lost : NULL);
    else if (!go_on(t))
        choose(t, "the agent was restarted and its marks were gone");
    *ret = t;
    return 0;
}

const char *tracking_name(const struct tracking *t)
{
    return t->tracker ? t->tracker->ops->name : "none";
}

// --- harvests

// Is the disk still the one whose marks we have?
static void check(struct tracking *t, size_t disk)
{
    struct track_record *r = record_of(t, disk);
    const struct track_disk *d = &t->o.disks[disk];
    struct track_kernel k;
    struct track_seen seen;
    struct err e;
    if (!r->known)
        return;
    if (track_kernel(d->name, &k, &e) < 0)
        forget(r, "gone: %.140s", e.text);
    else if (k.major != d->major || k.minor != d->minor || k.seq != r->seq ||
             k.sectors < r->start.kernel)
        forget(r, "another disk has its name");
    else if (k.size != d->size)
        forget(r, "resized");
    else if (t->tracker->ops->seen(t->tracker, disk, &seen, &e) < 0)
        forget(r, "%.150s", e.text);
    else if (seen.lost != r->start.seen.lost)
        forget(r, "events lost: %llu",
               (unsigned long long)(seen.lost - r->start.seen.lost));
}

static int take(struct tracking *t, size_t disk, struct err *e)
{
    struct marks pending = track_state_pending(&t->state, disk);
    if (t->tracker == NULL)
        return 0;
    int done = t->tracker->ops->harvest(t->tracker, disk, &pending, e);
    check(t, disk);
    return done;
}

static void clear_pending(struct tracking *t)
{
    for (size_t i = 0; i < t->o.n_disks; i++) {
        struct marks pending = track_state_pending(&t->state, i);
        memset(pending.v, 0, (size_t)pending.n);
    }
}

// What was written before now is of no interest: all is read after this.
static int arm_all(struct tracking *t, struct err *e)
{
    for (size_t i = 0; i < t->o.n_disks; i++)
        if (take(t, i, e) < 0)
            return -1;
    t->state.head->last = 0;
    clear_pending(t);
    for (size_t i = 0; i < t->o.n_disks; i++) {
        struct track_record *r = record_of(t, i);
        r->epoch = track_random();
        arm(t, i);
    }
    return 0;
}

int tracking_harvest(struct tracking *t, uint64_t id, uint64_t acked, struct err *e)
{
    struct track_head *h = t->state.head;
    if (id == 0)
        return arm_all(t, e);
    if (id == h->last)
        return 0;
    if (id < h->last)
        return err_set(e, ERR_REFUSED, "harvest %llu is asked for after %llu",
                       (unsigned long long)id, (unsigned long long)h->last);
    if (acked != 0 && acked == h->last && !h->acked) {
        clear_pending(t);
        h->acked = true;
    }
    for (size_t i = 0; i < t->o.n_disks; i++)
        if (take(t, i, e) < 0)
            return -1;
    // In this order: killed between, asked again for `id` it changes nothing; the other
    // way round what was taken would be cleared as acknowledged.
    __atomic_store_n(&h->last, id, __ATOMIC_SEQ_CST);
    __atomic_store_n(&h->acked, false, __ATOMIC_SEQ_CST);
    return 0;
}

uint64_t tracking_last(const struct tracking *t)
{
    return t->state.head->last;
}

int tracking_extents(struct tracking *t, size_t disk, uint64_t id, uint64_t off,
                     uint64_t len, struct extents *out, uint64_t *ret_done, struct err *e)
{
    const struct track_record *r = record_of(t, disk);
    if (id == 0 || id != t->state.head->last)
        return err_set(e, ERR_REFUSED, "harvest %llu is not there, the last is %llu",
                       (unsigned long long)id, (unsigned long long)t->state.head->last);
    // An export that was opened when the disk had grown already asks for more.
    if (!r->known || off >= r->size) {
        extents_append(out, off, len, EXTENT_DATA);
        *ret_done = len;
        return 0;
    }
    struct marks pending = track_state_pending(&t->state, disk);
    return marks_extents(&pending, r->size, off, min_u64(len, r->size - off), out,
                         ret_done);
}

struct tracking_state tracking_state(struct tracking *t, size_t disk)
{
    const struct track_record *r = record_of(t, disk);
    struct marks pending = track_state_pending(&t->state, disk);
    struct tracking_state s = {.known = r->known, .epoch = r->epoch};
    struct err e;
    memcpy(s.why, r->why, sizeof(s.why));
    s.pending = marks_bytes(&pending, r->size);
    if (t->tracker)
        (void)t->tracker->ops->seen(t->tracker, disk, &s.seen, &e); // else zeros
    return s;
}

// --- trust

int tracking_audit(struct tracking *t, size_t disk, uint64_t *ret_short, struct err *e)
{
    struct track_record *r = record_of(t, disk);
    const struct track_disk *d = &t->o.disks[disk];
    struct track_kernel k;
    struct track_counts now, most;
    *ret_short = 0;
    if (t->tracker == NULL || !r->known)
        return 0;
    if (track_kernel(d->name, &k, e) < 0)
        return -1;
    if (!k.counts) {
        forget(r, "the kernel does not count its writes (queue/iostats is 0)");
        return 0;
    }
    if (track_both(d, t->tracker, disk, AUDIT_MS, &now, &most, e) < 0)
        return -1;
    uint64_t wrote = now.kernel - r->start.kernel,
             marked = now.seen.sectors - r->start.seen.sectors;
    if (wrote > marked) {
        *ret_short = wrote - marked;
        forget(r, "audit: %llu sectors short", (unsigned long long)*ret_short);
    } else { // of one moment, which those of the start may not have been
        r->start.kernel = now.kernel;
        r->start.seen.sectors = now.seen.sectors;
    }
    return 0;
}

// Another epoch: should the reply be lost that says that something was, the next one
// does.
void tracking_rearm(struct tracking *t, size_t disk)
{
    struct track_record *r = record_of(t, disk);
    if (r->known)
        return;
    r->epoch = track_random();
    arm(t, disk);
}

int tracking_distrust(struct tracking *t, const char *why, struct err *e)
{
    (void)e;
    for (size_t row = 0; t->tracker && trackers[row]; row++)
        if (trackers[row] == t->tracker->ops)
            t->state.head->distrusted |= 1U << row;
    if (t->tracker)
        t->tracker->ops->stop(t->tracker, false);
    choose(t, why);
    return 0;
}

void tracking_stop(struct tracking *t, bool keep)
{
    if (t == NULL)
        return;
    if (t->tracker)
        t->tracker->ops->stop(t->tracker, keep);
    if (!keep)
        track_state_remove(t->o.run_dir);
    track_state_close(&t->state);
    free(t->bpf_dir);
    free(t);
}

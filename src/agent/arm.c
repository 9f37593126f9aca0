// SPDX-License-Identifier: Apache-2.0
// What a job has of this server: its disks, the tracker over them, what of them is in
// use. The order is the rule (DESIGN.md section 6): the tracker first, then every file
// system is frozen and thawed, then its bitmaps are read.
//
// RUN/job.json says whose the disks are, so that an agent that was killed goes on; a
// reboot takes it away, and with it everything that was known.
#include "agent/block.h"
#include "agent/source.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define BPF_FS "/sys/fs/bpf"
#define PACE_APART_MS 500 // harvests that tell how fast the server writes

// --- disks

// Those that are named; else all that stay with this server.
static int list_disks(const struct source *s, struct block_disks *ret, struct err *e)
{
    const struct strings *only = s->o->disks;
    struct block_disks all = {0};
    if (block_list(only, &all, e))
        return -1;
    for (size_t i = 0; i < all.n; i++) {
        struct block_disk *d = &all.v[i];
        if (!(only && only->n) && (d->removable || d->size == 0))
            continue;
        vec_push(ret, *d);
        *d = (struct block_disk){0};
    }
    block_disks_done(&all);
    return 0;
}

static void drop_disks(struct source *s)
{
    free(s->tracked);
    s->tracked = NULL;
    block_disks_done(&s->disks);
    s->disks = (struct block_disks){0};
}

int source_find_disks(struct source *s, struct err *e)
{
    drop_disks(s);
    if (list_disks(s, &s->disks, e))
        return -1;
    if (s->disks.n == 0)
        return err_set(e, ERR_REFUSED, "this server has no disk of its own");
    s->tracked = xcalloc(s->disks.n, sizeof(*s->tracked));
    for (size_t i = 0; i < s->disks.n; i++) {
        const struct block_disk *d = &s->disks.v[i];
        s->tracked[i] = (struct track_disk){.name = d->name,
                                            .node = d->node,
                                            .serial = d->serial,
                                            .major = d->major,
                                            .minor = d->minor,
                                            .size = d->size};
    }
    return 0;
}

static const char *serial_of(const struct block_disk *d)
{
    return d->serial ? d->serial : "none";
}

// The disks as they are now, if they are others than those that are tracked.
static int check_disks(struct source *s, struct err *e)
{
    struct block_disks now = {0};
    if (list_disks(s, &now, e))
        return -1;
    int status = block_check_paths(&now, e);
    for (size_t i = 0; i < now.n && !status; i++) {
        const struct block_disk *d = &now.v[i];
        const struct block_disk *old = i < s->disks.n ? &s->disks.v[i] : NULL;
        if (!old || strcmp(old->name, d->name) != 0)
            status = err_set(e, ERR_REFUSED,
                             "disk %s was not there when job %llu began: discard the job "
                             "and begin anew, or take the disk away",
                             d->name, (unsigned long long)s->job);
        else if (old->size != d->size)
            status = err_set(e, ERR_REFUSED,
                             "disk %s had %llu bytes when job %llu began and has %llu "
                             "now: discard the job and begin anew",
                             d->name, (unsigned long long)old->size,
                             (unsigned long long)s->job, (unsigned long long)d->size);
        else if (strcmp(serial_of(old), serial_of(d)) != 0)
            status = err_set(e, ERR_REFUSED,
                             "disk %s had the serial number %s when job %llu began and "
                             "has %s now: discard the job and begin anew",
                             d->name, serial_of(old), (unsigned long long)s->job,
                             serial_of(d));
    }
    if (!status && now.n < s->disks.n)
        status = err_set(e, ERR_REFUSED, "disk %s is gone since job %llu began",
                         s->disks.v[now.n].name, (unsigned long long)s->job);
    block_disks_done(&now);
    return status;
}

struct pace *source_pace(struct source *s, const char *disk)
{
    for (size_t i = 0; i < s->n_paces; i++) {
        if (strcmp(s->paces[i].disk, disk) == 0)
            return s->paces[i].pace;
    }
    if (s->n_paces == ARRAY_LEN(s->paces))
        return s->paces[0].pace; // gives way to some disk
    s->paces[s->n_paces].disk = xstrdup(disk);
    s->paces[s->n_paces].pace = pace_new(disk);
    return s->paces[s->n_paces++].pace;
}

void source_pace_off(struct source *s, bool off)
{
    for (size_t i = 0; i < s->n_paces; i++)
        pace_off(s->paces[i].pace, off);
}

// --- what is in use

struct used_set *used_take(struct source *s)
{
    pthread_mutex_lock(&s->lock);
    struct used_set *u = s->used;
    if (u)
        u->users++;
    pthread_mutex_unlock(&s->lock);
    return u;
}

static void used_drop(struct used_set *u)
{
    if (!u || --u->users > 0)
        return;
    allocation_done(&u->allocation);
    free(u);
}

void used_put(struct source *s, struct used_set *u)
{
    pthread_mutex_lock(&s->lock);
    used_drop(u);
    pthread_mutex_unlock(&s->lock);
}

static int read_used(struct source *s, const struct strings *settled, struct err *e)
{
    AUTO(free) void *memory = xcalloc(s->disks.n, sizeof(struct disk *));
    struct disk **disks = memory;
    struct used_set *u = xcalloc(1, sizeof(*u));
    const struct allocation_live live = {.uuids = settled};
    int status = 0;
    for (size_t i = 0; i < s->disks.n && !status; i++)
        status =
            file_open(&(struct file_options){.path = s->disks.v[i].node}, &disks[i], e);
    if (!status)
        status = allocation_read(disks, s->disks.n, s->o->offline ? NULL : &live,
                                 &u->allocation, e);
    for (size_t i = 0; i < s->disks.n; i++)
        disk_close(disks[i]);
    if (status) {
        free(u);
        return -1;
    }
    u->users = 1;
    u->harvest = tracking_last(s->tracking);
    used_drop(s->used);
    s->used = u;
    return 0;
}

int source_settle(struct source *s, struct err *e)
{
    struct volume_mounts mounts = {0};
    AUTO(strings_done) struct strings settled = {0};
    if (mounts_list(&s->disks, &mounts, e))
        return -1;
    int status = 0;
    if (source_is_frozen(s))
        freeze_settled(&mounts, &settled);
    else
        status = freeze_settle(&mounts, &settled, e);
    mounts_done(&mounts);
    return status || read_used(s, &settled, e) ? -1 : 0;
}

// Behind the first round what is in use is asked for because marks are not believed: then
// it is what is in use now, or what was allocated without a mark would be nobody's.
int source_settle_again(struct source *s, struct err *e)
{
    return s->used && s->used->harvest != tracking_last(s->tracking) ? source_settle(s, e)
                                                                     : 0;
}

// --- whose it is

static int write_job(struct source *s, struct err *e)
{
    AUTO(str_free) char *path = path_join(s->o->run_dir, "job.json");
    AUTO(json_free)
    json_t *j = json_pack("{s:I, s:s}", "job", (json_int_t)s->job, "owner", s->owner);
    if (!j)
        return err_set(e, ERR_REFUSED, "the job's owner is not text");
    return json_file_write(path, j, e);
}

static int check_owner(const struct source *s, uint64_t job, const char *owner,
                       struct err *e)
{
    if (!s->job || (s->job == job && strcmp(s->owner, owner) == 0))
        return 0;
    return err_set(e, ERR_REFUSED,
                   "this server is being migrated by job %llu of %s already: finish or "
                   "discard that one first",
                   (unsigned long long)s->job, s->owner);
}

// Before a harvest, not after it: what the page cache still held would be left for the
// freeze otherwise, and no forecast would know of it. That is half a minute of writes.
// And before changes are recorded: it would be copied twice.
static int sync_mounts(struct source *s, struct err *e)
{
    struct volume_mounts mounts = {0};
    if (mounts_list(&s->disks, &mounts, e))
        return -1;
    freeze_sync(&mounts);
    mounts_done(&mounts);
    return 0;
}

// In bpffs; NULL: it is not mounted, and nothing outlives us.
static char *bpf_folder(const struct source *s)
{
    struct err ignored; // as said
    AUTO(str_free) char *name = xstrdup(s->o->run_dir);
    for (char *p = name; *p; p++)
        *p = *p == '/' ? '_' : *p;
    AUTO(str_free) char *dir = path_join(BPF_FS, name + (*name == '_'));
    return dir_make(dir, 0700, &ignored) ? NULL : steal(dir);
}

static int start_tracking(struct source *s, struct err *e)
{
    AUTO(str_free) char *bpf = bpf_folder(s);
    struct tracking_options o = {.disks = s->tracked,
                                 .n_disks = s->disks.n,
                                 .run_dir = s->o->run_dir,
                                 .bpf_dir = bpf,
                                 .only = s->o->tracker};
    return tracking_start(&o, &s->tracking, e);
}

int source_arm(struct source *s, uint64_t job, const char *owner, struct err *e)
{
    if (check_owner(s, job, owner, e))
        return -1;
    if (s->tracking && s->used)
        return check_disks(s, e);
    if (!s->tracking && (source_find_disks(s, e) || block_check_paths(&s->disks, e) ||
                         sync_mounts(s, e) || start_tracking(s, e)))
        return -1;
    if (source_settle(s, e)) {
        tracking_stop(s->tracking, false);
        s->tracking = NULL;
        return -1;
    }
    s->job = job;
    char *copy = xstrdup(owner); // may be s->owner itself
    free(s->owner);
    s->owner = copy;
    return write_job(s, e);
}

int source_recall(struct source *s, struct err *e)
{
    AUTO(str_free) char *path = path_join(s->o->run_dir, "job.json");
    AUTO(json_free) json_t *j = NULL;
    if (access(path, F_OK))
        return 0;
    if (json_file_read(path, 4 * KIB, &j, e))
        return -1;
    const char *owner = json_string_value(json_object_get(j, "owner"));
    uint64_t job = (uint64_t)json_integer_value(json_object_get(j, "job"));
    if (!owner || !job)
        return err_set(e, ERR_FAILED, "%s names no job", path);
    return source_arm(s, job, owner, e);
}

void source_forget(struct source *s)
{
    AUTO(str_free) char *path = path_join(s->o->run_dir, "job.json");
    AUTO(str_free) char *bpf = bpf_folder(s);
    struct err ignored; // in folders that a reboot empties
    tracking_stop(s->tracking, false);
    s->tracking = NULL;
    if (bpf)
        (void)dir_remove(bpf, &ignored);
    used_drop(s->used);
    s->used = NULL;
    s->job = 0;
    (void)file_remove(path, &ignored);
}

// --- harvests

// What the kernel counted as written to a disk since it is there, in bytes.
static uint64_t rewritten(const char *disk)
{
    struct sys_stat s;
    struct err ignored; // no counter: no rate is shown
    return sys_stat(disk, &s, &ignored) ? 0 : s.sectors_written * 512;
}

// For how long reading gave way, since this process runs.
static uint64_t held_ms(struct source *s)
{
    uint64_t ms = 0;
    for (size_t i = 0; i < s->n_paces; i++)
        ms += pace_held_ms(s->paces[i].pace);
    return ms;
}

json_t *source_state(struct source *s, uint64_t id, char *const *lost)
{
    json_t *disks = json_array();
    for (size_t i = 0; i < s->disks.n; i++) {
        const struct block_disk *d = &s->disks.v[i];
        struct tracking_state state = tracking_state(s->tracking, i);
        const char *why = lost ? lost[i] : state.known ? NULL : state.why;
        AUTO(str_free)
        char *identity = xasprintf("%s serial %s size %llu", d->name, serial_of(d),
                                   (unsigned long long)d->size);
        json_array_append_new(
            disks, json_pack("{s:s, s:s, s:I, s:b, s:s*, s:I, s:I, s:I}", "name", d->name,
                             "identity", identity, "size", (json_int_t)d->size, "known",
                             (int)(why == NULL), "why", why, "epoch",
                             (json_int_t)(state.epoch & INT64_MAX), "changed",
                             (json_int_t)state.pending, "rewritten",
                             (json_int_t)rewritten(d->name)));
    }
    uint64_t now = clock_ms();
    bool frozen = source_is_frozen(s);
    return json_pack(
        "{s:I, s:s, s:b, s:I, s:I, s:I, s:o}", "id", (json_int_t)id, "tracker",
        tracking_name(s->tracking), "frozen", (int)frozen, "frozen_ms",
        (json_int_t)(frozen ? now - s->frozen_at_ms : 0), "deadline_ms",
        (json_int_t)(frozen && s->deadline_ms > now ? s->deadline_ms - now : 0),
        "held_ms", (json_int_t)held_ms(s), "disks", disks);
}

// Frozen: nothing is written any more, so that the kernel's count and the tracker's must
// agree.
static int audit(struct source *s, struct err *e)
{
    for (size_t i = 0; i < s->disks.n; i++) {
        uint64_t sectors;
        if (tracking_audit(s->tracking, i, &sectors, e))
            return -1;
    }
    return 0;
}

// Rounds shrink if each is read faster than the server writes: twice as fast.
static void keep_pace(struct source *s)
{
    uint64_t before = s->harvested_ms, now = clock_ms();
    s->harvested_ms = now;
    if (!before || now - before < PACE_APART_MS)
        return;
    for (size_t i = 0; i < s->disks.n; i++) {
        struct tracking_state state = tracking_state(s->tracking, i);
        uint64_t changed = state.known ? state.pending : 0;
        pace_least(source_pace(s, s->disks.v[i].name),
                   2 * (changed / (now - before) * 1000));
    }
}

int source_harvest(struct source *s, uint64_t id, uint64_t acked, json_t **ret,
                   struct err *e)
{
    AUTO(strings_done) struct strings whys = {0};
    bool frozen = source_is_frozen(s);
    if (!s->tracking)
        return err_set(e, ERR_REFUSED, "this server is not armed");
    bool again = id == tracking_last(s->tracking);
    if (check_disks(s, e) || (!frozen && sync_mounts(s, e)) ||
        tracking_harvest(s->tracking, id, acked, e) || (frozen && audit(s, e)))
        return -1;
    if (!again && !frozen)
        keep_pace(s);
    AUTO(free) void *memory = xcalloc(s->disks.n, sizeof(char *));
    char **lost = memory;
    for (size_t i = 0; i < s->disks.n; i++) {
        struct tracking_state state = tracking_state(s->tracking, i);
        if (state.known)
            continue;
        lost[i] = xstrdup(state.why);
        strings_take(&whys, lost[i]);
        tracking_rearm(s->tracking, i); // asked for by hashes now, known from here on
    }
    *ret = source_state(s, id, lost);
    return 0;
}

int source_distrust(struct source *s, const char *tracker, const char *why, struct err *e)
{
    if (!s->tracking)
        return err_set(e, ERR_REFUSED, "this server is not armed");
    if (strcmp(tracking_name(s->tracking), tracker) != 0)
        return 0;
    // The next one is tried by writing to the file systems.
    if (source_is_frozen(s))
        return err_set(e, ERR_RETRY, "this server is frozen");
    log_line(LOG_WARN, "the tracker %s is not used again: %s", tracker, why);
    return tracking_distrust(s->tracking, why, e);
}

// SPDX-License-Identifier: Apache-2.0
// One round of a running server: a harvest, and what it says copied. Number and harvest
// are the same: a map says by itself which round its disk is in, so that whoever comes
// after a kill asks for the same harvest again.
//
// What is brought of a disk is what was in use when it was armed, in whole blocks, and
// whatever changed later; every block of that is as it was on the source, byte for byte,
// so that hashes of the source can be held against the map. A disk whose tracker lost
// something (another epoch than the one we began with) is gone through by hashes.
#include "job/internal.h"

#include <stdio.h>
#include <unistd.h>

#define LONG_MS 10000 // an attempt that got somewhere

static json_t *disk_of(const struct job *j, size_t i)
{
    return job_disk((struct job *)j, i); // made if need be: the report is no secret
}

static void set_number(json_t *disk, const char *name, uint64_t value)
{
    json_object_set_new(disk, name, json_integer((json_int_t)value));
}

static void add_number(json_t *disk, const char *name, uint64_t more)
{
    set_number(disk, name, json_u64_at(disk, name) + more);
}

// Epochs have 64 bits, JSON's integers 63.
static void set_epoch(json_t *disk, const char *name, uint64_t epoch)
{
    char text[24];
    (void)snprintf(text, sizeof(text), "%016llx", (unsigned long long)epoch);
    json_object_set_new(disk, name, json_string(text));
}

static bool epoch_is(const json_t *disk, const char *name, uint64_t epoch)
{
    char text[24];
    const char *have = json_string_value(json_object_get(disk, name));
    (void)snprintf(text, sizeof(text), "%016llx", (unsigned long long)epoch);
    return have && strcmp(have, text) == 0;
}

// --- replicas and views

static void close_views(struct live_disk *d)
{
    disk_close(steal(d->exact));
    disk_close(steal(d->hash));
}

void live_replicas_close(struct job *j)
{
    for (size_t i = 0; i < j->live.n_disks; i++) {
        close_views(&j->live.disks[i]);
        replica_close(&j->live.disks[i].replica);
    }
}

static int add_other(void *context, const struct job_row *row, struct err *e)
{
    struct job *j = context;
    size_t i;
    json_t *disk;
    (void)e; // a visitor that cannot fail
    if (strcmp(row->target, j->row.target) != 0 || strcmp(row->state, "discarded") == 0)
        return 0;
    json_array_foreach(json_object_get(row->report, "disks"), i, disk)
    {
        const char *replica = json_string_value(json_object_get(disk, "replica"));
        const char *map = json_string_value(json_object_get(disk, "map"));
        if (!replica || !map || row->id == j->row.id)
            continue;
        strings_add(&j->live.others, replica);
        strings_add(&j->live.others, map);
    }
    return 0;
}

int live_replicas(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    if (!l->disks) {
        l->disks = xcalloc(j->place.n_disks, sizeof(*l->disks));
        l->n_disks = j->place.n_disks;
        if (store_jobs(j->store, add_other, j, e))
            return -1;
    }
    for (size_t i = 0; i < l->n_disks; i++) {
        const struct cloud_disk *d = &j->place.disks[i];
        struct replica *r = &l->disks[i].replica;
        struct replica_options o = {
            .path = d->replica,
            .map_path = d->map,
            .size = d->size,
            .identity = json_string_value(json_object_get(disk_of(j, i), "identity")),
            .hash = MAP_BLAKE2B,
        };
        struct live_disk *at = &l->disks[i];
        if (!r->map && (replica_open(&o, r, e) ||
                        (map_state(r->map).round > 1 && hot_load(&at->hot, r->map, e))))
            return -1;
        // Changes go on top of nothing less than what they are changes to.
        if (map_state(r->map).round < json_u64_at(disk_of(j, i), "round"))
            return err_set(e, ERR_REFUSED,
                           "%s is not the replica that job %llu has copied, or an older "
                           "state of it: put it back with its map, or discard the job "
                           "and begin anew",
                           d->replica, (unsigned long long)j->row.id);
    }
    return 0;
}

int live_view(struct job *j, size_t i, enum cloud_view view, struct disk **at,
              struct err *e)
{
    struct cloud *c = j->live.source;
    if (*at)
        return 0;
    if (c->ops->view(c, i, view, 0, at, e))
        return -1;
    if (view == CLOUD_EXACT && (*at)->size != j->place.disks[i].size)
        return err_set(e, ERR_REFUSED,
                       "disk %zu of the source had %llu bytes and has %llu now: discard "
                       "the job and begin anew",
                       i, (unsigned long long)j->place.disks[i].size,
                       (unsigned long long)(*at)->size);
    return 0;
}

// --- what a round is about

static int list_view(struct job *j, size_t i, enum cloud_view view, uint64_t id,
                     struct extents *ret, struct err *e)
{
    struct cloud *c = j->live.source;
    AUTO(disk_close) struct disk *d = NULL;
    uint64_t size = j->place.disks[i].size, done;
    if (c->ops->view(c, i, view, id, &d, e))
        return -1;
    for (uint64_t off = 0; off < min_u64(size, d->size); off += done)
        if (cancel_check(e) || disk_extents(d, off, d->size - off, ret, &done, e))
            return -1;
    extents_align(ret, MAP_BLOCK, size); // drops what is no data
    return 0;
}

static int list_used(struct job *j, size_t i, struct extents *ret, struct err *e)
{
    if (!j->request.all_blocks)
        return list_view(j, i, CLOUD_USED, 0, ret, e);
    extents_append(ret, 0, j->place.disks[i].size, EXTENT_DATA);
    return 0;
}

// Did its copy run on the replica itself? Then nothing in its map is believed.
static bool has_run(const struct job *j, size_t i)
{
    return json_is_true(json_object_get(disk_of(j, i), "ran"));
}

static int list_replica(struct job *j, size_t i, struct extents *ret, struct err *e)
{
    struct disk *d = j->live.disks[i].replica.disk;
    uint64_t size = j->place.disks[i].size, done;
    for (uint64_t off = 0; off < size; off += done)
        if (cancel_check(e) || disk_extents(d, off, size - off, ret, &done, e))
            return -1;
    extents_align(ret, MAP_BLOCK, size);
    return 0;
}

// What is in use, and what was when it was copied: that is in the replica.
static int list_all(struct job *j, size_t i, struct extents *ret, struct err *e)
{
    AUTO(extents_done) struct extents used = {0};
    AUTO(extents_done) struct extents known = {0};
    if (list_used(j, i, &used, e) ||
        (has_run(j, i) ? list_replica(j, i, &known, e)
                       : copy_known(j->live.disks[i].replica.map, &known, e)))
        return -1;
    extents_or(&used, &known, ret);
    return 0;
}

bool live_unknown(const struct job *j, size_t i)
{
    const struct cloud_live_disk *d = &j->live.harvest.disks[i];
    return live_is_distrusted(j) || !d->known || has_run(j, i) ||
           !epoch_is(disk_of(j, i), "epoch", d->epoch);
}

static int harvest(struct job *j, uint64_t id, struct err *e)
{
    struct live *l = &j->live;
    struct cloud_harvest h = {0};
    uint64_t since = clock_ms();
    bool armed = false;
    while (l->source->ops->harvest(l->source, id, id - 1, &h, e))
        if (!live_armed_again(j, &armed, e) &&
            (!live_patience(j, since, e) || live_poll(j, e)))
            return -1;
    // Another process of the agent's counts anew.
    uint64_t held = h.held_ms - min_u64(h.held_ms, l->harvest.held_ms);
    l->held = l->took_ms ? (double)held / (double)l->took_ms : 0;
    return live_take(j, &h, e);
}

static int list_round(struct job *j, size_t i, uint64_t id, bool hashes,
                      struct extents *ret, struct err *e)
{
    struct live_disk *d = &j->live.disks[i];
    struct map_state s = map_state(d->replica.map);
    if (s.round == id) // begun by an earlier run: as it is in the map
        return map_todo(d->replica.map, ret, e);
    if (id == 1)
        return list_used(j, i, ret, e);
    return hashes ? list_all(j, i, ret, e) : list_view(j, i, CLOUD_CHANGED, id, ret, e);
}

// --- one disk

static int poll(void *context, struct err *e)
{
    return live_poll(context, e);
}

static void progress(void *context, const struct copy_progress *p)
{
    struct job *j = context;
    live_tell(j, false, p);
    if (j->ui && j->ui->progress)
        j->ui->progress(j->ui->context, p);
}

static struct copy_options options_of(struct job *j, size_t i)
{
    struct live_disk *d = &j->live.disks[i];
    return (struct copy_options){.source = d->exact,
                                 .target = d->replica.disk,
                                 .map = d->replica.map,
                                 .target_is_zero = d->replica.is_zero,
                                 .live = true,
                                 .target_changed = has_run(j, i),
                                 .progress = progress,
                                 .progress_context = j,
                                 .poll = poll};
}

// The replicas beside this one, its own machine's first.
static struct copy_other *others_of(const struct job *j, size_t i, size_t *ret_n)
{
    const struct live *l = &j->live;
    struct copy_other *list = xcalloc(l->n_disks + l->others.n / 2, sizeof(*list));
    size_t n = 0;
    for (size_t k = 0; k < l->n_disks; k++)
        if (k != i)
            list[n++] =
                (struct copy_other){j->place.disks[k].replica, j->place.disks[k].map};
    for (size_t k = 0; k + 1 < l->others.n; k += 2)
        list[n++] = (struct copy_other){l->others.v[k], l->others.v[k + 1]};
    *ret_n = n;
    return list;
}

static bool is_open(const struct map *m)
{
    struct map_state s = map_state(m);
    return s.round > 0 && !s.round_complete;
}

// Until it is complete, through connections that break.
static int copy_todo(struct job *j, size_t i, const struct extents *todo, bool hashes,
                     struct copy_result *ret, struct err *e)
{
    struct live_disk *d = &j->live.disks[i];
    size_t n_others = 0;
    AUTO(free) void *memory = others_of(j, i, &n_others);
    uint64_t since = clock_ms();
    bool told = false, armed = false;
    for (;;) {
        uint64_t start = clock_ms();
        bool again = is_open(d->replica.map);
        bool first = map_state(d->replica.map).round == 0;
        bool scan = hashes || again || (first && n_others > 0);
        if (!live_view(j, i, CLOUD_EXACT, &d->exact, e) &&
            (!scan || !live_view(j, i, CLOUD_HASH, &d->hash, e))) {
            struct copy_options o = options_of(j, i);
            o.only = again ? NULL : todo;
            o.scan = scan ? d->hash : NULL;
            o.others = memory;
            o.n_others = n_others;
            if (!copy_run(&o, ret, e))
                return 0;
        }
        close_views(d);
        if (clock_ms() - start > LONG_MS) {
            since = clock_ms();
            armed = false;
        }
        if (live_armed_again(j, &armed, e))
            continue;
        if (!live_patience(j, since, e) || live_poll(j, e))
            return -1;
        if (!told)
            job_note(j, "trying again: %s", e->text);
        told = true;
    }
}

static void begin_disk(struct job *j, size_t i)
{
    j->live.disk = i;
    if (j->ui && j->ui->disk)
        j->ui->disk(j->ui->context,
                    json_string_value(json_object_get(disk_of(j, i), "name")),
                    j->place.disks[i].size);
}

// Through connections that break. The agent's next process may have lost what the first
// one knew, so the harvest is asked for again.
static int list_todo(struct job *j, size_t i, uint64_t id, bool *ret_hashes,
                     struct err *e)
{
    struct live_disk *d = &j->live.disks[i];
    uint64_t since = clock_ms();
    bool armed = false;
    for (;;) {
        *ret_hashes = id > 1 && live_unknown(j, i);
        extents_done(&d->round);
        if (!list_round(j, i, id, *ret_hashes, &d->round, e))
            return 0;
        if (!live_armed_again(j, &armed, e) &&
            (!live_patience(j, since, e) || live_poll(j, e)))
            return -1;
        if (id > 1 && harvest(j, id, e))
            return -1;
    }
}

static int round_disk(struct job *j, size_t i, uint64_t id, struct err *e)
{
    struct live *l = &j->live;
    struct live_disk *d = &l->disks[i];
    json_t *disk = disk_of(j, i);
    struct map_state s = map_state(d->replica.map);
    if (s.round == id && s.round_complete)
        return 0;
    bool hashes;
    struct copy_result r = {0};
    if (list_todo(j, i, id, &hashes, e))
        return -1;
    if (hashes)
        live_audit_forget(d);
    else if (id > 1)
        live_audit_named(d, (uint32_t)id);
    if (s.round != id)
        live_audit_widen(d);
    if (hashes && s.round != id) { // kept: asked again, the source would know it all
        set_number(disk, "hash_round", id);
        set_epoch(disk, "hash_epoch", l->harvest.disks[i].epoch);
        if (job_save(j, e))
            return -1;
    }
    begin_disk(j, i);
    int status = copy_todo(j, i, &d->round, hashes, &r, e);
    if (j->ui && j->ui->disk_done)
        j->ui->disk_done(j->ui->context);
    if (status)
        return -1;
    if (json_u64_at(disk, "hash_round") == id) {
        json_object_set(disk, "epoch", json_object_get(disk, "hash_epoch"));
        json_object_del(disk, "ran");
    }
    set_number(disk, "round", id);
    add_number(disk, "read", r.final.read);
    add_number(disk, "written", r.final.written);
    add_number(disk, "zeros", r.final.zeros);
    add_number(disk, "equal", r.final.equal);
    add_number(disk, "found", r.final.found);
    l->moved += r.final.read;
    return 0;
}

// --- a round

static uint64_t round_id(const struct job *j)
{
    uint64_t top = 0;
    bool complete = true;
    for (size_t i = 0; i < j->live.n_disks; i++)
        top = max_u64(top, map_state(j->live.disks[i].replica.map).round);
    for (size_t i = 0; i < j->live.n_disks; i++) {
        struct map_state s = map_state(j->live.disks[i].replica.map);
        complete = complete && s.round == top && (top == 0 || s.round_complete);
    }
    return complete ? top + 1 : max_u64(top, 1);
}

bool live_has_first(const struct job *j)
{
    return j->live.disks && round_id(j) > 1;
}

// The first harvest is the arming; what the disks are from then on is measured by it.
// Saved before anything is copied: whoever goes on with this round has to know whether
// the agent lost something since it began.
static int first_epochs(struct job *j, struct err *e)
{
    bool new = false;
    for (size_t i = 0; i < j->live.n_disks; i++) {
        if (json_object_get(disk_of(j, i), "epoch"))
            continue;
        set_epoch(disk_of(j, i), "epoch", j->live.harvest.disks[i].epoch);
        new = true;
    }
    return new ? job_save(j, e) : 0;
}

static void measure(struct job *j, uint64_t start, uint64_t before, bool scanned)
{
    struct live *l = &j->live;
    uint64_t now = clock_ms();
    l->took_ms = now - start;
    if (l->round == 1 || !before) {
        if (l->moved > MIB)
            l->forecast.rate = (double)l->moved * 1000 / (double)max_u64(l->took_ms, 1);
        return;
    }
    forecast_add(&l->forecast,
                 &(struct forecast_round){.changed = scanned ? l->moved : l->changed,
                                          .over_ms = start - before,
                                          .moved = l->moved,
                                          .took_ms = l->took_ms,
                                          .held = l->held,
                                          .limit = rate_lowest(l->rate),
                                          .scanned = scanned});
}

int live_round(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    uint64_t id = round_id(j), start = clock_ms(), before = l->harvested_ms;
    bool scanned = false;
    l->moved = l->changed = 0;
    if (id == 1 ? first_epochs(j, e) : harvest(j, id, e))
        return -1;
    l->round = id;
    l->harvested_ms = start;
    for (size_t i = 0; i < l->n_disks; i++) {
        bool unknown = id > 1 && live_unknown(j, i);
        scanned = scanned || unknown;
        l->changed += l->harvest.disks[i].changed;
        if (unknown && !l->freeze_until_ms && !live_is_distrusted(j))
            job_note(j, "disk %zu is gone through by hashes: %s", i,
                     has_run(j, i)             ? "its copy wrote to the replica"
                     : l->harvest.disks[i].why ? l->harvest.disks[i].why
                                               : "its changes were not all recorded");
    }
    if (scanned && l->freeze_until_ms && !l->forecast.scan_ms)
        return err_set(e, ERR_RETRY, "the tracker lost something inside the freeze");
    for (size_t i = 0; i < l->n_disks; i++)
        if (round_disk(j, i, id, e))
            return -1;
    measure(j, start, before, scanned);
    if (id > 1 && !scanned && !l->freeze_until_ms)
        live_audit_round(j, start - min_u64(start, before));
    l->took_ms = clock_ms() - start; // audits give way too
    live_tell(j, true, NULL);
    return l->freeze_until_ms ? 0 : job_save(j, e);
}

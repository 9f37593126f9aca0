// SPDX-License-Identifier: Apache-2.0
// inspect: the source is described and opened, what of it is in use is read, and
// everything that can be refused is refused before a byte moves: from partition tables
// and file systems by ourselves, from the guest's files by the appliance, which boots
// while we read. plan: the target is asked for names and for its consent.
#include "job/internal.h"

static int open_source(struct job *j, struct err *e)
{
    AUTO(strings_done) struct strings words = {0};
    strings_add(&words, j->request.source);
    struct source_options options = {.words = &words,
                                     .state_dir = store_dir(j->store),
                                     .allow_any_path = j->request.allow_any_path,
                                     .name = j->row.name};
    source_done(&j->source);
    if (source_describe(&options, &j->source, e))
        return -1;
    return source_open(&j->source, &options, e);
}

// The source as it is now, and how it is to be copied: another text begins the copy anew.
static char *copy_identity(const struct job *j, size_t i)
{
    return xasprintf("%s, %s", j->source.disks[i].identity,
                     j->request.all_blocks ? "all blocks" : "used blocks");
}

static void report_source(struct job *j)
{
    for (size_t i = 0; i < j->source.n_disks; i++) {
        const struct source_disk *s = &j->source.disks[i];
        AUTO(str_free) char *identity = copy_identity(j, i);
        json_t *disk = job_disk(j, i);
        const char *before = json_string_value(json_object_get(disk, "identity"));
        if (before && strcmp(before, identity) != 0) {
            job_note(j, "disk %zu of the source has changed since: copying it anew", i);
            json_object_del(j->row.report, "guest");
        }
        char name[8];
        machine_disk_target(i, name);
        uint64_t used = j->request.all_blocks
                            ? s->disk->size
                            : extents_bytes(&j->allocation.used[i], EXTENT_DATA);
        // Holes of the image take no room, used or not; how much its compressed clusters
        // hold nobody says beforehand.
        uint64_t needed = s->info.compressed ? used : min_u64(used, s->info.file_bytes);
        json_object_set_new(disk, "name", json_string(name));
        json_object_set_new(disk, "source", json_string(s->disk->name));
        json_object_set_new(disk, "format", json_string(s->info.format));
        json_object_set_new(disk, "identity", json_string(identity));
        json_object_set_new(disk, "size", json_integer((json_int_t)s->disk->size));
        json_object_set_new(disk, "used", json_integer((json_int_t)used));
        json_object_set_new(disk, "needed", json_integer((json_int_t)needed));
    }
    for (size_t i = 0; i < j->allocation.volumes.n; i++) {
        const struct volume *v = &j->allocation.volumes.v[i];
        if (v->whole_because && v->content && !j->request.all_blocks)
            job_note(j, "disk %u, %s %s: every block is copied: %s", v->disk, v->kind,
                     v->name, v->whole_because);
    }
}

// --- the target

// As the appliance saw it; the description may have a guest of its own.
static void take_guest(struct job *j)
{
    json_decref(j->machine->guest);
    j->machine->guest = json_incref(json_object_get(j->row.report, "guest"));
}

static int open_target(struct job *j, struct err *e)
{
    if (j->target)
        return 0;
    if (machine_from_json(json_object_get(j->row.report, "machine"), &j->machine, e))
        return err_wrap(e, "job %llu", (unsigned long long)j->row.id);
    take_guest(j);
    if (cloud_open(j->row.target, store_dir(j->store), &j->target, e))
        return -1;
    if (!j->target->ops->place)
        return err_set(e, ERR_USAGE, "%s cannot be a target", j->row.target);
    const char *why = NULL;
    enum accel accel;
    AUTO(str_free) char *cache = path_join(store_dir(j->store), "cache");
    if (dir_make(cache, 0700, e) ||
        accel_choose(j->request.accel, cache, &accel, &why, e))
        return -1;
    j->place = (struct cloud_machine){
        .machine = j->machine,
        .name = j->row.name,
        .n_disks = j->machine->n_disks,
        .disks = xcalloc(j->machine->n_disks, sizeof(struct cloud_disk)),
        .networks = (const char *const *)j->request.networks.v,
        .n_networks = j->request.networks.n,
        .job = j->row.id,
        .job_created = j->row.created,
        .emulated = accel == ACCEL_TCG,
    };
    for (size_t i = 0; i < j->place.n_disks; i++) {
        const json_t *disk = job_disk(j, i);
        struct cloud_disk *d = &j->place.disks[i];
        d->size = (uint64_t)json_integer_value(json_object_get(disk, "size"));
        d->needed = (uint64_t)json_integer_value(json_object_get(disk, "needed"));
    }
    return 0;
}

int job_target(struct job *j, struct err *e)
{
    if (open_target(j, e))
        return -1;
    if (json_is_true(json_object_get(j->row.report, "made")))
        return 0; // the name and the room are this job's own
    return j->target->ops->check(j->target, &j->place, e);
}

// --- inspect

static int look_at_guest(struct job *j, struct err *e)
{
    if (json_object_get(j->row.report, "guest"))
        return 0; // an earlier process did, and the source is unchanged
    AUTO(free) void *memory = NULL;
    struct vm_disk *disks = NULL;
    if (source_vm_disks(&j->source, &disks, e)) {
        // Not a refusal of the migration: the conversion looks at the replica.
        return e->code == ERR_REFUSED ? 0 : -1;
    }
    memory = disks;
    struct helper_request request = {.call = "inspect",
                                     .disks = disks,
                                     .n_disks = j->source.n_disks,
                                     .machine = j->source.machine,
                                     .luks_key_files = &j->request.luks_key_files,
                                     .root = j->request.root};
    AUTO(json_free) json_t *reply = NULL;
    if (helper_call(j->appliance, &request, &reply, e))
        return -1;
    json_object_set_new(j->row.report, "guest", steal(reply));
    take_guest(j);
    return 0;
}

int phase_inspect(struct job *j, struct err *e)
{
    struct helper_options helper = job_helper_options(j);
    if (!j->request.no_convert && !j->appliance &&
        helper_begin(&helper, &j->appliance, e))
        return -1;
    if (open_source(j, e))
        return -1;
    allocation_done(&j->allocation);
    j->allocation = (struct allocation){0};
    if (source_allocation(&j->source, &j->allocation, e))
        return -1;
    j->have_allocation = true;
    if (!j->request.no_convert &&
        source_check(&j->source, &j->allocation, j->request.luks_key_files.n > 0, e))
        return -1;
    report_source(j);
    json_t *machine = NULL;
    if (machine_json(j->source.machine, &machine, e))
        return -1;
    json_object_set_new(j->row.report, "machine", machine);
    if (j->request.no_convert)
        return 0;
    // What the target refuses is told while the appliance still boots; plan asks again.
    return job_target(j, e) || look_at_guest(j, e) ? -1 : 0;
}

// --- plan

static void set_text(char **at, const json_t *disk, const char *name)
{
    const char *text = json_string_value(json_object_get(disk, name));
    if (!text)
        return;
    char *copy = xstrdup(text);
    free(*at);
    *at = copy;
}

// Where everything lies: as an earlier process placed it, else as the target says now.
static int take_places(struct job *j, struct err *e)
{
    if (!json_object_get(job_disk(j, 0), "replica")) {
        if (j->target->ops->place(j->target, &j->place, e))
            return -1;
        for (size_t i = 0; i < j->place.n_disks; i++) {
            const struct cloud_disk *d = &j->place.disks[i];
            json_t *disk = job_disk(j, i);
            json_object_set_new(disk, "replica", json_string(d->replica));
            json_object_set_new(disk, "map", json_string(d->map));
            json_object_set_new(disk, "overlay", json_string(d->overlay));
            json_object_set_new(disk, "final", json_string(d->final));
            json_object_set_new(disk, "final_format", json_string(d->final_format));
        }
        return 0;
    }
    for (size_t i = 0; i < j->place.n_disks; i++) {
        const json_t *disk = job_disk(j, i);
        struct cloud_disk *d = &j->place.disks[i];
        set_text(&d->replica, disk, "replica");
        set_text(&d->map, disk, "map");
        set_text(&d->overlay, disk, "overlay");
        set_text(&d->final, disk, "final");
        set_text(&d->final_format, disk, "final_format");
        if (!d->replica || !d->map || !d->overlay || !d->final || !d->final_format)
            return err_set(e, ERR_FAILED,
                           "the row of job %llu names no file for disk %zu",
                           (unsigned long long)j->row.id, i);
    }
    return 0;
}

int job_place(struct job *j, struct err *e)
{
    if (j->target && j->place.disks[0].replica)
        return 0;
    return open_target(j, e) || take_places(j, e) ? -1 : 0;
}

int phase_plan(struct job *j, struct err *e)
{
    if (job_target(j, e))
        return -1;
    // From here on the name and the room are this job's own: written down first, because
    // placing makes a folder and a marker.
    json_object_set_new(j->row.report, "made", json_true());
    if (job_save(j, e))
        return -1;
    return take_places(j, e);
}

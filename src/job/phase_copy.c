// SPDX-License-Identifier: Apache-2.0
// copy: every disk to its raw replica, with a map. verify: the replica (and a source that
// is still the same) against the map.
#include "job/internal.h"

#include <errno.h>
#include <unistd.h>

static void set_number(json_t *disk, const char *name, uint64_t value)
{
    json_object_set_new(disk, name, json_integer((json_int_t)value));
}

static uint64_t get_number(const json_t *disk, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(disk, name));
}

static void set_digest(json_t *disk, const uint8_t digest[static HASH_LEN])
{
    char hex[2 * HASH_LEN + 1];
    hash_hex(digest, hex);
    json_object_set_new(disk, "digest", json_string(hex));
}

static struct replica_options replica_of(struct job *j, size_t i)
{
    const struct cloud_disk *d = &j->place.disks[i];
    return (struct replica_options){
        .path = d->replica,
        .map_path = d->map,
        .size = d->size,
        .identity = json_string_value(json_object_get(job_disk(j, i), "identity")),
        .hash = job_is_live(j) ? MAP_BLAKE2B : MAP_XXH3,
    };
}

static void progress(void *context, const struct copy_progress *p)
{
    struct job *j = context;
    if (j->ui && j->ui->progress)
        j->ui->progress(j->ui->context, p);
}

static struct copy_options copy_options_of(struct job *j, struct replica *r, size_t i,
                                           struct rate *rate)
{
    return (struct copy_options){
        .target = r->disk,
        .map = r->map,
        .only =
            j->have_allocation && !j->request.all_blocks ? &j->allocation.used[i] : NULL,
        .target_is_zero = r->is_zero,
        .rate = rate,
        .progress = progress,
        .progress_context = j,
    };
}

static void begin_disk(struct job *j, size_t i)
{
    if (j->ui && j->ui->disk)
        j->ui->disk(j->ui->context,
                    json_string_value(json_object_get(job_disk(j, i), "name")),
                    j->place.disks[i].size);
}

static void end_disk(struct job *j)
{
    if (j->ui && j->ui->disk_done)
        j->ui->disk_done(j->ui->context);
}

static int copy_disk(struct job *j, size_t i, struct err *e)
{
    AUTO(replica_close) struct replica r = {0};
    struct replica_options options = replica_of(j, i);
    json_t *disk = job_disk(j, i);
    if (replica_open(&options, &r, e))
        return -1;
    if (r.complete) {
        set_number(disk, "resumed", get_number(disk, "used"));
        uint8_t digest[HASH_LEN];
        if (map_digest(r.map, digest, e))
            return -1;
        set_digest(disk, digest);
        return 0;
    }
    struct rate *rate = rate_new(j->request.rate);
    struct copy_options copy = copy_options_of(j, &r, i, rate);
    copy.source = j->source.disks[i].disk;
    struct copy_result result = {0};
    begin_disk(j, i);
    int status = copy_run(&copy, &result, e);
    end_disk(j);
    rate_free(rate);
    if (status)
        return -1;
    set_number(disk, "read", get_number(disk, "read") + result.final.read);
    set_number(disk, "written", get_number(disk, "written") + result.final.written);
    set_number(disk, "zeros", result.final.zeros);
    set_number(disk, "resumed", result.final.resumed);
    set_number(disk, "copy_ms", result.copy_ms);
    set_digest(disk, result.digest);
    return 0;
}

int phase_copy(struct job *j, struct err *e)
{
    json_object_del(j->row.report, "copied");
    if (job_save(j, e))
        return -1;
    for (size_t i = 0; i < j->place.n_disks; i++) {
        if (copy_disk(j, i, e) || job_save(j, e))
            return -1;
    }
    json_object_set_new(j->row.report, "copied", json_true());
    return 0;
}

int phase_copy_undo(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->place.n_disks; i++) {
        const struct cloud_disk *d = &j->place.disks[i];
        if (file_remove(d->map, e) || file_remove(d->replica, e))
            return -1;
    }
    // With the disks gone the target lets go of the name.
    if (j->target->ops->remove && j->target->ops->remove(j->target, &j->place, e))
        return -1;
    if (!str_starts(j->row.target, "dir:") || j->place.n_disks == 0)
        return 0;
    AUTO(str_free) char *dir = path_dir(j->place.disks[0].replica);
    AUTO(str_free) char *report = path_join(dir, "report.json");
    if (file_remove(report, e))
        return -1;
    file_write_sweep(report);
    (void)rmdir(dir); // only when nothing else is in it
    return 0;
}

// --- verify

// The source again, if it is still what was copied; without it the map alone counts.
static void reopen_source(struct job *j)
{
    struct err e;
    AUTO(strings_done) struct strings words = {0};
    strings_add(&words, j->request.source);
    struct source_options options = {.words = &words,
                                     .state_dir = store_dir(j->store),
                                     .allow_any_path = j->request.allow_any_path};
    bool same = !source_describe(&options, &j->source, &e) &&
                !source_open(&j->source, &options, &e) &&
                j->source.n_disks == j->place.n_disks;
    for (size_t i = 0; same && i < j->source.n_disks; i++) {
        const char *identity =
            json_string_value(json_object_get(job_disk(j, i), "identity"));
        same = identity && str_starts(identity, j->source.disks[i].identity);
    }
    if (same && !j->request.all_blocks)
        same = !source_allocation(&j->source, &j->allocation, &e);
    j->have_allocation = same && !j->request.all_blocks;
    if (same)
        return;
    source_done(&j->source);
    job_note(j, "the source is not there or has changed since: the replica is compared "
                "with its map alone");
}

int verify_disk(struct job *j, size_t i, enum verify_mode mode, struct copy_result *ret,
                struct err *e)
{
    const struct cloud_disk *d = &j->place.disks[i];
    if (access(d->map, F_OK))
        return err_set(e, ERR_REFUSED,
                       "%s is gone: a job that was finished has nothing to verify "
                       "against",
                       d->map);
    if (!j->source.disks && !job_is_live(j)) // a server that ran is another one now
        reopen_source(j);
    AUTO(disk_close) struct disk *replica = NULL;
    AUTO(map_close) struct map *map = NULL;
    AUTO(disk_close) struct disk *used = NULL;
    struct file_options file = {.path = d->replica};
    struct replica_options options = replica_of(j, i);
    struct map_key key = {
        .replica = d->replica,
        .size = d->size,
        .source = options.identity,
        .hash = options.hash,
    };
    if (file_open(&file, &replica, e) || map_open(d->map, &key, &map, e))
        return -1;
    struct disk *source = j->source.disks ? j->source.disks[i].disk : NULL;
    if (source && j->have_allocation) {
        used = used_new(steal(j->source.disks[i].disk), &j->allocation.used[i]);
        source = used;
    }
    struct copy_options copy = {
        .target = replica, .map = map, .progress = progress, .progress_context = j};
    struct copy_result result = {0};
    begin_disk(j, i);
    int status = copy_verify(source, replica, map, mode, &copy, &result, e);
    end_disk(j);
    if (status)
        return -1;
    *ret = result;
    return map_digest(map, ret->digest, e);
}

int phase_verify(struct job *j, struct err *e)
{
    if (j->request.verify == VERIFY_NONE)
        return 0;
    for (size_t i = 0; i < j->place.n_disks; i++) {
        struct copy_result result = {0};
        if (verify_disk(j, i, j->request.verify, &result, e))
            return -1;
        set_number(job_disk(j, i), "verified", result.verified);
        set_number(job_disk(j, i), "verify_ms", result.verify_ms);
    }
    return 0;
}

// --- when it is asked for

int job_verify(struct store *s, uint64_t id, enum verify_mode mode,
               const struct job_ui *ui, struct copy_result *ret, struct err *e)
{
    AUTO(job_done) struct job j = {.store = s, .ui = ui, .lock_fd = -1};
    if (job_take(&j, id, e))
        return -1;
    if (!json_is_true(json_object_get(j.row.report, "copied")))
        return err_set(e, ERR_REFUSED, "job %llu has not copied its disks yet",
                       (unsigned long long)id);
    if (job_place(&j, e))
        return -1;
    struct copy_result sum = {0};
    for (size_t i = 0; i < j.place.n_disks; i++) {
        struct copy_result one = {0};
        if (verify_disk(&j, i, mode, &one, e))
            return -1;
        sum.verified += one.verified;
        sum.verify_ms += one.verify_ms;
        memcpy(sum.digest, one.digest, HASH_LEN);
    }
    *ret = sum;
    return 0;
}

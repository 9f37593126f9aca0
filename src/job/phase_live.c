// SPDX-License-Identifier: Apache-2.0
// A running server up to the moment it could be cut over. inspect: it is described by its
// agent, armed, and what cannot be migrated is refused. copy: the first round. rounds:
// what changed, again and again, until the downtime is what was asked for, or does not
// get any shorter.
#include "job/internal.h"

#include <unistd.h>

#define CONVERT_GUESS_MS 5000 // until it was rehearsed
#define START_GUESS_MS 10000  // until this store has seen one
#define FAILED_MAX 2 // rehearsals: what is copied of a running server can be torn
#define DELTA_EVERY_MS 60000
#define WAIT_STEP_US 200000

// --- inspect

static int describe(struct job *j, struct err *e)
{
    AUTO(strings_done) struct strings words = {0};
    strings_add(&words, j->request.source);
    struct source_options options = {
        .words = &words, .state_dir = store_dir(j->store), .name = j->row.name};
    source_done(&j->source);
    return source_describe(&options, &j->source, e);
}

// The disks are those that the job began with: another size or serial number means
// another disk, of which the replica is no older state.
static int check_disks(struct job *j, struct err *e)
{
    const struct cloud_harvest *h = &j->live.harvest;
    size_t n = json_array_size(json_object_get(j->row.report, "disks"));
    const char *what = "discard the job and begin anew";
    if (h->n_disks != j->source.machine->n_disks)
        return err_set(e, ERR_FAILED, "%s has %zu disks and tracks %zu",
                       j->request.source, j->source.machine->n_disks, h->n_disks);
    if (n && n != h->n_disks)
        return err_set(e, ERR_REFUSED, "%s had %zu disks and has %zu now: %s",
                       j->request.source, n, h->n_disks, what);
    for (size_t i = 0; i < n; i++) {
        const char *before =
            json_string_value(json_object_get(job_disk(j, i), "tracked"));
        uint64_t size =
            (uint64_t)json_integer_value(json_object_get(job_disk(j, i), "size"));
        if (before &&
            (strcmp(before, h->disks[i].identity) != 0 || size != h->disks[i].size))
            return err_set(e, ERR_REFUSED,
                           "disk %zu of %s was \"%s\" of %llu bytes and is \"%s\" of "
                           "%llu now: %s",
                           i, j->request.source, before, (unsigned long long)size,
                           h->disks[i].identity, (unsigned long long)h->disks[i].size,
                           what);
    }
    return 0;
}

static int used_bytes(struct job *j, size_t i, uint64_t *ret, struct err *e)
{
    AUTO(disk_close) struct disk *d = NULL;
    uint64_t used = 0, done;
    if (j->live.source->ops->view(j->live.source, i, CLOUD_USED, 0, &d, e))
        return -1;
    for (uint64_t off = 0; off < d->size; off += done) {
        AUTO(extents_done) struct extents page = {0};
        if (cancel_check(e) || disk_extents(d, off, d->size - off, &page, &done, e))
            return -1;
        used += extents_bytes(&page, EXTENT_DATA);
    }
    *ret = used;
    return 0;
}

static int ask_used(struct job *j, size_t i, uint64_t *ret, struct err *e)
{
    uint64_t since = clock_ms();
    bool armed = false;
    while (used_bytes(j, i, ret, e))
        if (!live_armed_again(j, &armed, e) && !live_patience(j, since, e))
            return -1;
    return 0;
}

static int report_disks(struct job *j, struct err *e)
{
    for (size_t i = 0; i < j->live.harvest.n_disks; i++) {
        json_t *disk = job_disk(j, i);
        char name[8];
        uint64_t used = j->live.harvest.disks[i].size;
        if (!j->request.all_blocks && ask_used(j, i, &used, e))
            return -1;
        // Armed again, the harvest is another one.
        const struct cloud_live_disk *d = &j->live.harvest.disks[i];
        AUTO(str_free)
        char *identity = xasprintf("%s disk %zu, %s, of job %llu", j->request.source, i,
                                   d->identity, (unsigned long long)j->row.created);
        machine_disk_target(i, name);
        json_object_set_new(disk, "name", json_string(name));
        json_object_set_new(disk, "source", json_string(j->request.source));
        json_object_set_new(disk, "tracked", json_string(d->identity));
        json_object_set_new(disk, "identity", json_string(identity));
        json_object_set_new(disk, "size", json_integer((json_int_t)d->size));
        json_object_set_new(disk, "used", json_integer((json_int_t)used));
        // What is free now may be written to before it is off.
        json_object_set_new(disk, "needed", json_integer((json_int_t)used));
    }
    return 0;
}

// What partitions and file systems tell, as of a machine that is off.
static int check_guest(struct job *j, struct err *e)
{
    struct source *s = &j->source;
    int status = 0;
    if (j->request.no_convert)
        return 0;
    s->disks = xcalloc(s->machine->n_disks, sizeof(*s->disks));
    s->n_disks = s->machine->n_disks;
    for (size_t i = 0; i < s->n_disks && !status; i++)
        status = j->live.source->ops->view(j->live.source, i, CLOUD_EXACT, 0,
                                           &s->disks[i].disk, e);
    AUTO(allocation_done) struct allocation a = {0};
    if (status || source_allocation(s, &a, e))
        return -1;
    return source_check(s, &a, j->request.luks_key_files.n > 0, e);
}

// A cutover that was under way when its process ended.
static int recover(struct job *j, struct err *e)
{
    enum live_state state = live_state(j);
    if (state == LIVE_COMMITTING) {
        if (!live_commit(j, e))
            return live_set_state(j, LIVE_FENCED, e);
        if (e->code != ERR_REFUSED)
            return -1;
    }
    if (state != LIVE_COMMITTING && state != LIVE_QUIESCED)
        return 0;
    job_note(j, "the source serves again: its cutover did not come to its end");
    return live_release(j, false, e) || live_set_state(j, LIVE_READY, e) ? -1 : 0;
}

static int look(struct job *j, struct err *e)
{
    json_t *machine = NULL;
    if (check_guest(j, e) || report_disks(j, e) ||
        machine_json(j->source.machine, &machine, e))
        return -1;
    json_object_set_new(j->row.report, "machine", machine);
    if (j->source.machine->guest)
        json_object_set(j->row.report, "guest", j->source.machine->guest);
    return 0;
}

int phase_live_inspect(struct job *j, struct err *e)
{
    if (describe(j, e) || live_open(j, e) || check_disks(j, e) || recover(j, e))
        return -1;
    if (!json_object_get(j->row.report, "machine") && look(j, e))
        return -1;
    if (job_target(j, e))
        return -1;
    if (live_state(j) < LIVE_FENCED)
        live_find_probes(j);
    if (j->request.start && !j->target->ops->launch)
        return err_set(e, ERR_REFUSED, "%s only keeps files: --start is for libvirt",
                       j->row.target);
    // The views are closed, the description is kept.
    source_done(&j->source);
    return 0;
}

// --- copy

int phase_live_copy(struct job *j, struct err *e)
{
    if (live_state(j) >= LIVE_FENCED)
        return 0;
    if (live_replicas(j, e) || (live_has_first(j) ? 0 : live_round(j, e)))
        return -1;
    json_object_set_new(j->row.report, "copied", json_true());
    return 0;
}

// --- rounds

// Of "phases" or "steps".
static uint64_t took_ms(const struct job_row *row, const char *list, const char *name)
{
    size_t i;
    json_t *p;
    json_array_foreach(json_object_get(row->report, list), i, p)
    {
        if (strcmp(json_string_value(json_object_get(p, "name")), name) == 0)
            return (uint64_t)json_integer_value(json_object_get(p, "ms"));
    }
    return 0;
}

struct measured {
    bool start;
    uint64_t convert_ms, start_ms;
};

// The newest job that came so far counts; of one that was live its last cutover.
static int measure(void *context, const struct job_row *row, struct err *e)
{
    struct measured *m = context;
    (void)e; // a visitor that cannot fail
    const char *list = json_object_get(row->report, "steps") ? "steps" : "phases";
    uint64_t answer_ms = took_ms(row, list, "answer");
    if (took_ms(row, list, "convert"))
        m->convert_ms = took_ms(row, list, "convert");
    if (m->start && answer_ms)
        m->start_ms = took_ms(row, list, "import and launch") + answer_ms;
    return 0;
}

static int fixed_part(struct job *j, struct err *e)
{
    struct measured m = {.start = j->request.start,
                         .convert_ms = CONVERT_GUESS_MS,
                         .start_ms = j->request.start ? START_GUESS_MS : 0};
    if (store_jobs(j->store, measure, &m, e))
        return -1;
    if (j->live.rehearsed_ms || j->request.no_convert)
        m.convert_ms = j->live.rehearsed_ms;
    j->live.forecast.fixed_ms = m.convert_ms + m.start_ms;
    return 0;
}

static int never(const struct job *j, struct err *e)
{
    const struct forecast *f = &j->live.forecast;
    char dirty[16], rate[16], freeze[24], fixed[24], down[24], most[24];
    return err_set(
        e, ERR_REFUSED,
        "the downtime does not get shorter than %s: the server changes %s a second, %s "
        "a second arrive, so the last round takes %s, and converting and starting %s; "
        "%s %s is not possible. The source goes on running; changes are recorded",
        str_duration(forecast_downtime_ms(f), down), str_bytes((uint64_t)f->dirty, dirty),
        str_bytes((uint64_t)f->rate, rate), str_duration(forecast_final_ms(f), freeze),
        str_duration(f->fixed_ms, fixed),
        j->request.max_downtime_ms ? "--max-downtime" : "a freeze of less than",
        str_duration(j->request.max_downtime_ms ? j->request.max_downtime_ms
                                                : FORECAST_FREEZE_MS,
                     most));
}

static void say_forecast(struct job *j)
{
    const struct forecast *f = &j->live.forecast;
    char dirty[16], rate[16], changed[16];
    if (!f->n_rounds || !j->ui || !j->ui->note)
        return;
    AUTO(str_free)
    char *text = xasprintf(
        "round %llu: %s; %s/s change, %s/s arrive; a cutover now: %.1f s, of which %.1f "
        "s frozen",
        (unsigned long long)j->live.round, str_bytes(j->live.moved, changed),
        str_bytes((uint64_t)f->dirty, dirty), str_bytes((uint64_t)f->rate, rate),
        (double)forecast_downtime_ms(f) / 1000, (double)forecast_final_ms(f) / 1000);
    j->ui->note(j->ui->context, text);
}

// The replicas against their maps, while the source still runs: a bad disk at the target
// is seen before anything is frozen.
static int verify(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    for (size_t i = 0; i < l->n_disks && j->request.verify != VERIFY_NONE; i++) {
        struct live_disk *d = &l->disks[i];
        struct copy_result r = {0};
        struct copy_options o = {.target = d->replica.disk, .map = d->replica.map};
        if (copy_verify(NULL, d->replica.disk, d->replica.map, j->request.verify, &o, &r,
                        e))
            return -1;
        json_object_set_new(job_disk(j, i), "verified",
                            json_integer((json_int_t)r.verified));
        json_object_set_new(job_disk(j, i), "verify_ms",
                            json_integer((json_int_t)r.verify_ms));
    }
    l->verified = true;
    return 0;
}

static int begin_appliance(struct job *j, struct err *e)
{
    struct helper_options helper = job_helper_options(j);
    return j->request.no_convert || j->appliance
               ? 0
               : helper_begin(&helper, &j->appliance, e);
}

// The conversion, tried on what has arrived, while the source still runs: what cannot be
// converted is refused before anything is frozen, and the appliance has loaded what the
// true one needs. It is not known whether a failure of the guest's is due to a copy that
// is torn, so it is tried once more after another round. The appliance that met one is
// not used again: a kernel may have suffered.
static int try_convert(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    static const char what[] = "the conversion, tried on what has arrived so far";
    bool asked;
    if (j->request.no_convert)
        return 0;
    live_replicas_close(j);
    if (!convert_rehearse(j, &l->rehearsed_ms, &asked, e)) {
        l->n_failed = 0;
        return live_replicas(j, e) || fixed_part(j, e) ? -1 : 0;
    }
    l->n_failed++;
    if (e->code == ERR_CANCELLED)
        return -1;
    if (!asked || (e->code == ERR_REFUSED && l->n_failed >= FAILED_MAX))
        return err_wrap(e, "%s", what);
    l->verified = l->n_failed >= FAILED_MAX;
    job_note(j, "%s, failed: %s", what, e->text);
    appliance_end(steal(j->appliance));
    return begin_appliance(j, e) || live_replicas(j, e) ? -1 : 0;
}

// Until the next delta is due, or something is asked for.
static int wait(struct job *j, struct err *e)
{
    uint64_t every =
        j->request.delta_every_ms ? j->request.delta_every_ms : DELTA_EVERY_MS;
    uint64_t end = clock_ms() + every;
    while (clock_ms() < end && !j->live.cutover) {
        if (cancel_check(e) || live_poll(j, e))
            return -1;
        live_tell(j, false, NULL);
        usleep(WAIT_STEP_US);
    }
    return 0;
}

int phase_live_rounds(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    bool waiting = j->request.until_ready;
    if (live_state(j) >= LIVE_FENCED)
        return 0;
    // It is up before anything is frozen.
    if (begin_appliance(j, e) || live_replicas(j, e) || fixed_part(j, e))
        return -1;
    for (;;) {
        if (cancel_check(e) || live_poll(j, e) || live_round(j, e))
            return -1;
        say_forecast(j);
        enum forecast_verdict v =
            forecast_verdict(&l->forecast, j->request.max_downtime_ms);
        if (v == FORECAST_AGAIN)
            continue;
        if (live_state(j) == LIVE_COPYING && live_set_state(j, LIVE_READY, e))
            return -1;
        if (!l->verified) {
            if (verify(j, e) || try_convert(j, e))
                return -1;
            continue; // what changed meanwhile
        }
        if (waiting && !l->cutover) {
            if (wait(j, e))
                return -1;
            continue;
        }
        return v == FORECAST_READY ? 0 : never(j, e);
    }
}

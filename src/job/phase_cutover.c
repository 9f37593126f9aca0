// SPDX-License-Identifier: Apache-2.0
// cutover: the order of DESIGN.md section 7, each step timed:
//
//     READY ─► token saved ─► quiesce ─► harvest, copy ─► harvest: empty ─► verify
//       ▲                        │                                            │
//       └──── release ◄──────────┴── anything that fails ◄────────────────────┤
//       └──── refused: it has thawed by itself ◄── commit ◄── COMMITTING saved┘
//                                                    └─► FENCED
//
// Behind COMMITTING only the source knows whether it is fenced: it is asked, and nothing
// is started before it has answered. Behind FENCED a failure leaves it fenced: `resume`
// goes on, `rollback` goes back.
#include "job/internal.h"

#include <sys/stat.h>

#define CUTOVERS_MAX 5
#define LAST_ROUNDS_MAX 3 // until a harvest of what is frozen is empty
#define MARGIN_MS 1000    // of the freeze, that verification leaves

// --- frozen

static void report_forecast(struct job *j)
{
    const struct forecast *f = &j->live.forecast;
    json_object_set_new(
        j->row.report, "forecast",
        json_pack("{s:I, s:I, s:I, s:I}", "freeze_ms", (json_int_t)forecast_final_ms(f),
                  "downtime_ms", (json_int_t)forecast_downtime_ms(f), "dirty_rate",
                  (json_int_t)f->dirty, "throughput", (json_int_t)f->rate));
}

// The deadline counts from the end of the operator's hooks, which have a time of their
// own.
static uint64_t hooks_ms(const json_t *steps)
{
    size_t i;
    json_t *s;
    json_array_foreach(steps, i, s)
    {
        const char *name = json_string_value(json_object_get(s, "name"));
        if (name && strcmp(name, "hooks") == 0)
            return (uint64_t)json_number_value(json_object_get(s, "ms"));
    }
    return 0;
}

static int quiesce(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    json_t *steps = NULL;
    uint64_t deadline = forecast_deadline_ms(&l->forecast, j->request.max_downtime_ms);
    uint64_t start = clock_ms();
    json_object_set_new(j->row.report, "steps", json_array());
    report_forecast(j);
    if (live_new_token(j, e) || live_set_state(j, LIVE_QUIESCED, e))
        return -1;
    l->freeze_until_ms = start + deadline;
    while (l->source->ops->quiesce(l->source, live_token(j), deadline, &steps, e))
        if (!live_patience(j, start, e))
            return -1;
    l->freeze_until_ms += hooks_ms(steps);
    live_step(j, "quiesce", clock_ms() - start);
    json_object_set_new(j->row.report, "quiesce", steps);
    return 0;
}

// Nothing was said to have changed, by trackers that know, on a source that is frozen.
static bool nothing_left(const struct job *j)
{
    const struct live *l = &j->live;
    bool none = l->harvest.frozen;
    for (size_t i = 0; none && i < l->n_disks; i++)
        none = l->forecast.scan_ms
                   ? l->moved == 0
                   : l->harvest.disks[i].changed == 0 && !live_unknown(j, i);
    return none;
}

static int last_rounds(struct job *j, struct extents *ret_changed, struct err *e)
{
    struct live *l = &j->live;
    for (unsigned n = 0; n <= LAST_ROUNDS_MAX; n++) {
        uint64_t start = clock_ms();
        if (live_round(j, e))
            return -1;
        live_step(j, n == 0 ? "last round" : "empty harvest", clock_ms() - start);
        if (!l->harvest.frozen)
            return err_set(e, ERR_RETRY, "the source was not frozen long enough");
        if (n > 0 && nothing_left(j))
            return live_audit_verdict(j, e);
        for (size_t i = 0; i < l->n_disks; i++) {
            struct extents both = {0};
            extents_or(&ret_changed[i], &l->disks[i].round, &both);
            extents_done(&ret_changed[i]);
            ret_changed[i] = both;
        }
        if (n == 0 && live_audit_frozen(j, e))
            return -1;
    }
    return err_set(e, ERR_RETRY, "the frozen source is still being written to");
}

// What came last, once more: the replica's bytes against the map. The audit has held the
// source's hashes against it.
static int verify_changed(struct job *j, const struct extents *changed, struct err *e)
{
    struct live *l = &j->live;
    uint64_t start = clock_ms();
    if (j->request.verify != VERIFY_FULL)
        return 0;
    for (size_t i = 0; i < l->n_disks; i++) {
        struct live_disk *d = &l->disks[i];
        struct copy_result r = {0};
        struct copy_options o = {.target = d->replica.disk,
                                 .map = d->replica.map,
                                 .verify_only = &changed[i],
                                 .verify_until_ms = l->freeze_until_ms - MARGIN_MS};
        if (copy_verify(NULL, d->replica.disk, d->replica.map, VERIFY_FULL, &o, &r, e))
            return -1;
    }
    live_step(j, "verify", clock_ms() - start);
    return 0;
}

static int freeze_and_copy(struct job *j, struct err *e)
{
    size_t n = j->live.n_disks;
    struct extents *changed = xcalloc(n, sizeof(*changed));
    int status =
        quiesce(j, e) || last_rounds(j, changed, e) || verify_changed(j, changed, e) ? -1
                                                                                     : 0;
    for (size_t i = 0; i < n; i++)
        extents_done(&changed[i]);
    free(changed);
    return status;
}

// Before the fence: the source serves again, whatever went wrong. Also who wants godwit
// to end does not want the source to wait for its deadline.
static int thaw(struct job *j, struct err *e)
{
    struct err cause = *e, later;
    j->live.leaving = cancel_requested();
    cancel_hold(true);
    bool released = live_release(j, false, &later) == 0;
    cancel_hold(false);
    if (!released)
        job_note(j, "the source thaws by itself at its deadline: %s", later.text);
    live_audit_thawed(j, &cause); // a silent agent is told by who goes on
    cancel_hold(true);
    if (released && live_set_state(j, LIVE_READY, &later))
        job_note(j, "%s", later.text);
    cancel_hold(false);
    *e = cause;
    return -1;
}

// 0: FENCED. ERR_RETRY and ERR_REFUSED of a commit: the source serves, try again.
static int cut_over(struct job *j, bool *ret_again, struct err *e)
{
    *ret_again = false;
    if (freeze_and_copy(j, e)) {
        *ret_again = e->code == ERR_RETRY && !cancel_requested();
        return thaw(j, e);
    }
    uint64_t start = clock_ms();
    j->live.freeze_until_ms = 0; // from here on the row has to be written
    if (live_set_state(j, LIVE_COMMITTING, e))
        return thaw(j, e);
    if (live_commit(j, e)) {
        if (e->code != ERR_REFUSED)
            return -1;
        *ret_again = true;
        return thaw(j, e);
    }
    live_step(j, "commit", clock_ms() - start);
    return live_set_state(j, LIVE_FENCED, e);
}

int phase_live_cutover(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    bool again = false;
    if (live_state(j) >= LIVE_FENCED) { // it was asked whether it is
        live_close(j);
        return 0;
    }
    for (unsigned n = 0; n < CUTOVERS_MAX; n++) {
        if (again) {
            job_note(j, "the cutover did not come to its end, the source serves: %s",
                     e->text);
            if (phase_live_rounds(j, e))
                return -1;
        }
        if (!j->request.no_convert && appliance_wait(j->appliance, e))
            return -1;
        // For the freeze: these connections are open before it.
        for (size_t i = 0; i < l->n_disks; i++)
            if (live_view(j, i, CLOUD_HASH, &l->disks[i].hash, e))
                return -1;
        if (!cut_over(j, &again, e)) {
            AUTO(json_free) json_t *done = json_pack("{s:n}", "cutover");
            // Before its copy runs: a connection left open has the source's kernel ask
            // whether we are still there, and a switch then sends it what is meant for
            // the copy, which has the same MAC. And QEMU opens the replicas next.
            live_close(j);
            return store_wish_change(j->store, j->row.id, done, e);
        }
        if (!again)
            return -1;
    }
    return -1;
}

// --- fenced

static int step_phase(struct job *j, const char *name, enum live_state next,
                      int (*run)(struct job *j, struct err *e), struct err *e)
{
    uint64_t start = clock_ms();
    if (run(j, e))
        return -1;
    live_step(j, name, clock_ms() - start);
    return live_state(j) < next ? live_set_state(j, next, e) : job_save(j, e);
}

int phase_live_convert(struct job *j, struct err *e)
{
    live_replicas_close(j);
    return step_phase(j, "convert", LIVE_CONVERTED, phase_convert, e);
}

static int import_and_launch(struct job *j, struct err *e)
{
    uint64_t written = 0;
    if (phase_import(j, e))
        return -1;
    if (json_object_get(j->row.report, "launched_with"))
        return phase_launch(j, e); // an earlier process did, or was about to
    // What a rollback says is lost is counted from here.
    for (size_t i = 0; i < j->place.n_disks; i++) {
        struct stat st;
        if (!stat(j->place.disks[i].overlay, &st))
            written += (uint64_t)st.st_blocks * 512;
    }
    json_object_set_new(j->row.report, "launched_with",
                        json_integer((json_int_t)written));
    return job_save(j, e) || phase_launch(j, e) ? -1 : 0;
}

int phase_live_launch(struct job *j, struct err *e)
{
    if (j->request.start)
        return step_phase(j, "import and launch", LIVE_LAUNCHED, import_and_launch, e);
    return step_phase(j, "import", LIVE_CONVERTED, import_and_launch, e);
}

int phase_live_serve(struct job *j, struct err *e)
{
    bool seen = false;
    if (j->request.start && live_state(j) < LIVE_SERVING && live_probe(j, &seen, e))
        return -1;
    for (size_t i = 0; i < j->place.n_disks; i++) {
        AUTO(map_close) struct map *m = NULL;
        uint8_t digest[HASH_LEN];
        char hex[2 * HASH_LEN + 1];
        if (map_peek(j->place.disks[i].map, &m, e) || map_digest(m, digest, e))
            return -1;
        hash_hex(digest, hex);
        json_object_set_new(job_disk(j, i), "digest", json_string(hex));
    }
    if (!j->request.start)
        job_note(j,
                 "the source is fenced and %s was not started: start it yourself, or "
                 "`godwit rollback %llu`",
                 j->row.name, (unsigned long long)j->row.id);
    return seen ? live_set_state(j, LIVE_SERVING, e) : 0;
}

static bool wants_convert(const struct job_request *r)
{
    return !r->no_convert;
}

static bool wants_start(const struct job_request *r)
{
    return r->start;
}

const struct phase live_phases[] = {
    {"inspect", "asking the agent what the server is; from now on changes are recorded",
     phase_live_inspect, NULL, NULL},
    {"plan", "checking the target", phase_plan, NULL, NULL},
    {"copy", "moving what is in use", phase_live_copy, phase_copy_undo, NULL},
    {"rounds", "moving what changed meanwhile", phase_live_rounds, NULL, NULL},
    {"cutover", "freezing the source and moving the rest", phase_live_cutover, NULL,
     NULL},
    {"convert", "making the guest boot on virtio, on an overlay", phase_live_convert,
     phase_convert_undo, wants_convert},
    {"launch", "defining the machine", phase_live_launch, phase_import_undo, NULL},
    {"serve", "waiting for the machine to answer", phase_live_serve, NULL, wants_start},
    {0},
};

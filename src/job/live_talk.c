// SPDX-License-Identifier: Apache-2.0
// What other terminals ask of a running job, and what they see of it: two columns of its
// row (store/live.c). A wish is removed when it is fulfilled, not when it is read.
#include "job/internal.h"

#include <unistd.h>

#define POLL_MS 100
#define TELL_MS 500

static int fulfilled(struct job *j, const char *wish, struct err *e)
{
    AUTO(json_free) json_t *change = json_pack("{s:n}", wish);
    return store_wish_change(j->store, j->row.id, change, e);
}

static bool asked(const json_t *wish, const char *name)
{
    return json_is_true(json_object_get(wish, name));
}

static int new_rate(struct job *j, const json_t *rate, struct err *e)
{
    char text[16];
    j->request.rate = (uint64_t)json_integer_value(rate);
    if (j->live.rate) // the source has been opened
        rate_set(j->live.rate, j->request.rate);
    json_object_set_new(j->row.request, "rate",
                        json_integer((json_int_t)j->request.rate));
    if (j->request.rate)
        job_note(j, "from now on at most %s a second", str_bytes(j->request.rate, text));
    else
        job_note(j, "from now on without a limit");
    return job_save(j, e) || fulfilled(j, "rate", e) ? -1 : 0;
}

int live_poll(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    AUTO(json_free) json_t *wish = NULL;
    struct err busy;
    // Inside the freeze nobody is listened to: it is short, and its end is near.
    if (l->freeze_until_ms || clock_ms() - l->polled_ms < POLL_MS)
        return 0;
    l->polled_ms = clock_ms();
    if (store_wish(j->store, j->row.id, &wish, &busy))
        return 0; // asked again soon
    l->cutover = asked(wish, "cutover");
    const json_t *rate = json_object_get(wish, "rate");
    if (json_is_integer(rate) && new_rate(j, rate, e))
        return -1;
    if (asked(wish, "cancel"))
        return fulfilled(j, "cancel", e)
                   ? -1
                   : err_set(e, ERR_CANCELLED, "stopped from another terminal");
    if (asked(wish, "rollback"))
        return err_set(e, ERR_CANCELLED, "stopped for a rollback");
    if (asked(wish, "pause"))
        return err_set(e, ERR_CANCELLED,
                       "paused: `godwit resume %llu` goes on, changes are recorded "
                       "meanwhile",
                       (unsigned long long)j->row.id);
    return 0;
}

static void set(json_t *o, const char *name, uint64_t value)
{
    json_object_set_new(o, name, json_integer((json_int_t)value));
}

// Behind the source's end what was told of the rounds stays; the state goes on.
static void tell_state(struct job *j)
{
    AUTO(json_free) json_t *o = NULL;
    struct err ignored; // it is for the eye
    if (store_live(j->store, j->row.id, &o, &ignored))
        return;
    json_object_set_new(o, "state", json_string(live_state_names[live_state(j)]));
    json_object_set_new(o, "phase", json_string(j->row.phase));
    set(o, "at", clock_wall());
    (void)store_live_save(j->store, j->row.id, o, &ignored);
}

void live_tell(struct job *j, bool now, const struct copy_progress *p)
{
    struct live *l = &j->live;
    const struct forecast *f = &l->forecast;
    // Nothing inside the freeze waits for the store's disk.
    if (l->freeze_until_ms || (!now && clock_ms() - l->told_ms < TELL_MS))
        return;
    l->told_ms = clock_ms();
    if (!l->source) {
        tell_state(j);
        return;
    }
    AUTO(json_free)
    json_t *o = json_pack("{s:s, s:s*, s:s*}", "state", live_state_names[live_state(j)],
                          "phase", j->row.phase, "tracker", l->harvest.tracker);
    set(o, "at", clock_wall());
    set(o, "round", l->round);
    set(o, "changed", l->changed);
    if (f->n_rounds) {
        set(o, "dirty_rate", (uint64_t)f->dirty);
        set(o, "throughput", (uint64_t)f->rate);
        set(o, "freeze_ms", forecast_final_ms(f));
        set(o, "downtime_ms", forecast_downtime_ms(f));
    }
    if (p) {
        char name[8];
        machine_disk_target(l->disk, name);
        json_object_set_new(o, "disk", json_string(name));
        set(o, "done", p->done);
        set(o, "total", p->total);
        set(o, "throughput", p->bytes_per_second);
        if (p->left_ms != UINT64_MAX)
            set(o, "left_ms", p->left_ms);
    }
    struct err ignored; // it is for the eye
    (void)store_live_save(j->store, j->row.id, o, &ignored);
}

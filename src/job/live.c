// SPDX-License-Identifier: Apache-2.0
// The running source of a job, and how far its cutover is. The token that freezes and
// fences it is in the row before it is used, so that whoever comes after a kill can ask
// and undo.
#include "job/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#define TOKEN_BYTES 16
#define PATIENCE_MS (UINT64_C(3) * 60 * 1000) // an agent that does not answer

const char *const live_state_names[] = {
    [LIVE_COPYING] = "COPYING",   [LIVE_READY] = "READY",
    [LIVE_QUIESCED] = "QUIESCED", [LIVE_COMMITTING] = "COMMITTING",
    [LIVE_FENCED] = "FENCED",     [LIVE_CONVERTED] = "CONVERTED",
    [LIVE_LAUNCHED] = "LAUNCHED", [LIVE_SERVING] = "SERVING",
    [LIVE_FINISHED] = "FINISHED", NULL};

// --- the source

static int open_rates(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    if (l->rate)
        return 0;
    AUTO(str_free) char *path = path_join(store_dir(j->store), "rate");
    if (rate_shared(path, &l->shared, e))
        return -1;
    l->rate = rate_child(l->shared, j->request.rate);
    return 0;
}

static char *owner_of(const struct job *j)
{
    char host[256] = "";
    (void)gethostname(host, sizeof(host) - 1);
    return xasprintf("%s:%s", host, store_dir(j->store));
}

int live_take(struct job *j, struct cloud_harvest *h, struct err *e)
{
    struct live *l = &j->live;
    bool same = !l->harvest.n_disks || h->n_disks == l->harvest.n_disks;
    for (size_t i = 0; same && i < l->harvest.n_disks; i++)
        same = strcmp(h->disks[i].identity, l->harvest.disks[i].identity) == 0 &&
               h->disks[i].size == l->harvest.disks[i].size;
    if (!same) {
        cloud_harvest_done(h);
        return err_set(e, ERR_REFUSED,
                       "the disks of %s are others than before: put them back, or "
                       "discard the job and begin anew",
                       j->request.source);
    }
    cloud_harvest_done(&l->harvest);
    l->harvest = *h;
    *h = (struct cloud_harvest){0};
    return 0;
}

int live_arm(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    AUTO(str_free) char *owner = owner_of(j);
    struct cloud_live live = {.job = j->row.id, .owner = owner};
    struct cloud_harvest h = {0};
    uint64_t since = clock_ms();
    while (l->source->ops->arm(l->source, &live, &h, e))
        if (!live_patience(j, since, e))
            return -1;
    if (live_take(j, &h, e))
        return -1;
    if (live_is_distrusted(j))
        live_distrust(j, NULL);
    return 0;
}

bool live_armed_again(struct job *j, bool *armed, const struct err *why)
{
    struct err e;
    if (*armed || why->code != ERR_REFUSED || live_arm(j, &e))
        return false;
    *armed = true;
    return true;
}

int live_open(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    uint64_t ignored;
    if (l->source)
        return 0;
    if (open_rates(j, e) ||
        cloud_open(j->request.source, store_dir(j->store), &l->source, e))
        return -1;
    l->source->ops->limit(l->source, l->rate, &ignored);
    // To be let go it need not be what it was: a disk more or less keeps nobody.
    if (!live_arm(j, e) || (l->leaving && e->code == ERR_REFUSED))
        return 0;
    cloud_close(steal(l->source));
    return -1;
}

bool live_is_distrusted(const struct job *j)
{
    return json_object_get(json_object_get(j->row.report, "distrusted"),
                           j->live.harvest.tracker);
}

void live_distrust(struct job *j, const char *why)
{
    struct live *l = &j->live;
    struct err e;
    json_t *all = json_object_get(j->row.report, "distrusted");
    if (!all) {
        all = json_object();
        json_object_set_new(j->row.report, "distrusted", all);
    }
    if (why)
        json_object_set_new(all, l->harvest.tracker, json_string(why));
    else
        why = json_string_value(json_object_get(all, l->harvest.tracker));
    AUTO(str_free) char *next = NULL;
    if (l->source->ops->distrust(l->source, l->harvest.tracker, why, &next, &e))
        job_note(j, "until the agent can be told every round is found by hashes: %s",
                 e.text);
    else
        job_note(j, "from now on the agent uses %s",
                 strcmp(next, "none") == 0 ? "no tracker, every round is found by hashes"
                                           : next);
}

void live_close(struct job *j)
{
    struct live *l = &j->live;
    live_replicas_close(j);
    for (size_t i = 0; i < l->n_disks; i++) {
        extents_done(&l->disks[i].round);
        live_audit_forget(&l->disks[i]);
    }
    free(l->disks);
    cloud_harvest_done(&l->harvest);
    cloud_close(l->source);
    rate_free(l->rate);
    rate_free(l->shared);
    strings_done(&l->others);
    *l = (struct live){0};
}

bool live_patience(const struct job *j, uint64_t since_ms, const struct err *e)
{
    const struct live *l = &j->live;
    uint64_t now = clock_ms();
    uint64_t end = l->freeze_until_ms ? l->freeze_until_ms : since_ms + PATIENCE_MS;
    if (e->code != ERR_RETRY || now >= end || cancel_requested() || l->leaving)
        return false;
    usleep(l->freeze_until_ms ? 100000 : 1000000); // ends early when cancelled
    return true;
}

// --- where the cutover stands

static json_t *cutover(const struct job *j)
{
    json_t *c = json_object_get(j->row.report, "cutover");
    if (!c) {
        c = json_object();
        json_object_set_new(j->row.report, "cutover", c);
    }
    return c;
}

enum live_state live_state(const struct job *j)
{
    const char *name = json_string_value(json_object_get(cutover(j), "state"));
    for (size_t i = 0; name && live_state_names[i]; i++)
        if (strcmp(live_state_names[i], name) == 0)
            return (enum live_state)i;
    return LIVE_COPYING;
}

int live_set_state(struct job *j, enum live_state state, struct err *e)
{
    json_object_set_new(cutover(j), "state", json_string(live_state_names[state]));
    if (job_save(j, e))
        return -1;
    live_tell(j, true, NULL);
    job_stop_after(live_state_names[state]);
    return 0;
}

const char *live_token(const struct job *j)
{
    return json_string_value(json_object_get(cutover(j), "token"));
}

int live_new_token(struct job *j, struct err *e)
{
    uint8_t bytes[TOKEN_BYTES];
    char text[2 * TOKEN_BYTES + 1];
    static_assert(TOKEN_BYTES == HASH_LEN, "written by hash_hex");
    if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
        return err_errno(e, errno, "getting random bytes");
    hash_hex(bytes, text);
    json_object_set_new(cutover(j), "token", json_string(text));
    return 0;
}

int live_release(struct job *j, bool forget, struct err *e)
{
    struct live *l = &j->live;
    uint64_t since = clock_ms();
    l->freeze_until_ms = 0;
    while (l->source->ops->release(l->source, live_token(j), forget, e))
        if (!live_patience(j, since, e))
            return -1;
    return 0;
}

int live_commit(struct job *j, struct err *e)
{
    struct live *l = &j->live;
    uint64_t since = clock_ms();
    l->freeze_until_ms = 0; // it is asked until it answers, deadline or not
    while (l->source->ops->commit(l->source, live_token(j), e)) {
        if (live_patience(j, since, e))
            continue;
        if (e->code != ERR_REFUSED)
            (void)err_wrap(e, "whether the source is fenced is not known, and nothing is "
                              "started before it is");
        return -1;
    }
    return 0;
}

void live_step(struct job *j, const char *name, uint64_t ms)
{
    json_t *steps = json_object_get(j->row.report, "steps");
    if (!steps) {
        steps = json_array();
        json_object_set_new(j->row.report, "steps", steps);
    }
    json_array_append_new(steps,
                          json_pack("{s:s, s:I}", "name", name, "ms", (json_int_t)ms));
    uint64_t sum = 0;
    size_t i;
    json_t *step;
    json_array_foreach(steps, i, step)
    {
        sum += (uint64_t)json_integer_value(json_object_get(step, "ms"));
    }
    json_object_set_new(j->row.report, "downtime_ms", json_integer((json_int_t)sum));
}

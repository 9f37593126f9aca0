// SPDX-License-Identifier: Apache-2.0
// godwit status JOB: one job with its figures and what happened to it.
#include "cmd/session.h"

static int add_json(void *context, const struct event_row *event, struct err *e)
{
    char when[24];
    clock_iso(event->when, when);
    json_array_append_new(context, json_pack("{s:s, s:s, s:s?, s:s}", "when", when,
                                             "level", event->level, "phase", event->phase,
                                             "text", event->text));
    (void)e; // a visitor that cannot fail
    return 0;
}

static int add_row(void *context, const struct event_row *event, struct err *e)
{
    struct table *t = context;
    char when[24];
    clock_iso(event->when, when);
    table_cell(t, when);
    table_cell(t, event->level);
    table_cell(t, event->phase);
    table_cell(t, event->text);
    (void)e; // a visitor that cannot fail
    return 0;
}

static int show(struct store *s, const struct globals *g, const struct job_row *job,
                struct err *e)
{
    if (g->json) {
        AUTO(json_free) json_t *row = job_row_json(s, job);
        json_t *events = json_array();
        json_object_set_new(row, "events", events);
        if (store_events(s, job->id, add_json, events, e))
            return -1;
        print_json(steal(row));
        return 0;
    }
    AUTO(json_free) json_t *live = NULL;
    AUTO(table_done) struct table t = {.n_columns = 4};
    AUTO(buf_done) struct buf out = BUF_INIT(16 * MIB);
    if (store_events(s, job->id, add_row, &t, e) || store_live(s, job->id, &live, e))
        return -1;
    job_print(s, g, job);
    if (json_u64_at(live, "round") && strcmp(job_state(s, job), "running") == 0) {
        buf_str(&out, "\n");
        watch_draw(s, job, live, &out);
    }
    buf_str(&out, "\n");
    table_print(&t, &out);
    print_buf(&out);
    return 0;
}

struct status_options {
    bool watch;
};

static const struct opt options[] = {
    {.name = "watch",
     .letter = 'w',
     .type = OPT_FLAG,
     .help = "go on showing how far it is, whoever runs it, until it is over",
     .offset = offsetof(struct status_options, watch)},
    {0},
};

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    const struct status_options *o = values;
    uint64_t id;
    AUTO(store_close) struct store *s = NULL;
    if (session_job(g, args, &id, &s, e))
        return -1;
    if (o->watch && watch_job(s, g, id, e))
        return -1;
    struct job_row job = {0};
    if (store_job_get(s, id, &job, e))
        return -1;
    int status = show(s, g, &job, e);
    job_row_done(&job);
    return status;
}

const struct command command_status = {
    .name = "status",
    .args = "JOB",
    .summary = "one job: how far it is, its figures, what happened to it",
    .help =
        "Shows one job with the seconds of each phase, what was moved of each disk, "
        "what was changed in the guest, and its events. Of a running server that is "
        "being migrated a table says what the job does now: the state of the cutover, "
        "the round, how much changes and arrives a second, and how long a cutover would "
        "take.\n\n"
        "With --watch that table comes first and goes on until the job is over. It works "
        "from any terminal, also when the process of the job was killed.",
    .examples = "godwit status 7\ngodwit status 7 --json | jq .report.phases\n"
                "godwit status 7 --watch\n",
    .options = options,
    .options_size = sizeof(struct status_options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};

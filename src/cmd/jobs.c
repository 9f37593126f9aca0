// SPDX-License-Identifier: Apache-2.0
// godwit jobs: every job in the store, oldest first.
#include "cmd/session.h"

struct listing {
    struct store *store;
    json_t *array;
    struct table table;
};

static int add_json(void *context, const struct job_row *job, struct err *e)
{
    struct listing *l = context;
    json_t *row = job_row_json(l->store, job);
    json_object_del(row, "report"); // `status` has it
    json_object_del(row, "request");
    json_array_append_new(l->array, row);
    (void)e; // a visitor that cannot fail
    return 0;
}

static int add_row(void *context, const struct job_row *job, struct err *e)
{
    struct listing *l = context;
    AUTO(json_free) json_t *row = job_row_json(l->store, job);
    char updated[24];
    clock_iso(job->updated, updated);
    table_cellf(&l->table, "%llu", (unsigned long long)job->id);
    table_cell(&l->table, json_string_value(json_object_get(row, "state")));
    table_cell(&l->table, job->phase);
    table_cell(&l->table, job->name);
    table_cell(&l->table, job->source);
    table_cell(&l->table, job->target);
    table_cell(&l->table, updated);
    (void)e; // a visitor that cannot fail
    return 0;
}

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    (void)values; // no options, no arguments
    (void)args;
    AUTO(store_close) struct store *s = NULL;
    if (session_store(g, &s, e))
        return -1;
    if (g->json) {
        struct listing l = {.store = s, .array = json_array()};
        if (store_jobs(s, add_json, &l, e)) {
            json_decref(l.array);
            return -1;
        }
        print_json(l.array);
        return 0;
    }
    struct listing l = {.store = s, .table = {.n_columns = 7, .right = "r"}};
    static const char *const head[] = {"job",    "state",  "phase",  "machine",
                                       "source", "target", "updated"};
    for (size_t i = 0; i < ARRAY_LEN(head); i++)
        table_cell(&l.table, head[i]);
    AUTO(buf_done) struct buf out = BUF_INIT(16 * MIB);
    int status = store_jobs(s, add_row, &l, e);
    if (!status)
        table_print(&l.table, &out);
    table_done(&l.table);
    print_buf(&out);
    return status;
}

const struct command command_jobs = {
    .name = "jobs",
    .args = "",
    .summary = "list all jobs",
    .help = "Lists the jobs of the state directory, the oldest first. A job that was "
            "killed is \"stopped\": run its line again, or `godwit resume JOB`.",
    .run = run,
};

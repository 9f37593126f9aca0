// SPDX-License-Identifier: Apache-2.0
// What a job does now: from its row alone, so it is the same from every terminal and
// after a kill. Watched, on a terminal the table is written over twice a second;
// elsewhere a line comes when something has changed.
//
//     job  state    cutover  round  changed   dirty/s   arrives/s  left  freeze  downtime
#include "cmd/session.h"

#include <stdio.h>
#include <unistd.h>

#define EVERY_US 500000

static void bytes_cell(struct table *t, const json_t *live, const char *name)
{
    char text[16];
    table_cell(t, json_object_get(live, name) ? str_bytes(json_u64_at(live, name), text)
                                              : NULL);
}

static void time_cell(struct table *t, const json_t *live, const char *name)
{
    if (json_object_get(live, name))
        table_cellf(t, "%.1f s", (double)json_u64_at(live, name) / 1000);
    else
        table_cell(t, NULL);
}

void watch_draw(struct store *s, const struct job_row *job, const json_t *live,
                struct buf *out)
{
    static const char *const head[] = {
        "job",  "state",   "phase",     "cutover", "round",  "changed", "disk",
        "done", "dirty/s", "arrives/s", "left",    "freeze", "downtime"};
    AUTO(table_done)
    struct table t = {.n_columns = ARRAY_LEN(head), .right = "r   rr rrrrrr"};
    for (size_t i = 0; i < ARRAY_LEN(head); i++)
        table_cell(&t, head[i]);
    table_cellf(&t, "%llu", (unsigned long long)job->id);
    table_cell(&t, job_state(s, job));
    table_cell(&t, job->phase);
    table_cell(&t, json_string_value(json_object_get(live, "state")));
    table_cellf(&t, "%llu", (unsigned long long)json_u64_at(live, "round"));
    bytes_cell(&t, live, "changed");
    table_cell(&t, json_string_value(json_object_get(live, "disk")));
    if (json_u64_at(live, "total"))
        table_cellf(&t, "%.0f %%",
                    (double)json_u64_at(live, "done") * 100 /
                        (double)json_u64_at(live, "total"));
    else
        table_cell(&t, NULL);
    bytes_cell(&t, live, "dirty_rate");
    bytes_cell(&t, live, "throughput");
    time_cell(&t, live, "left_ms");
    time_cell(&t, live, "freeze_ms");
    time_cell(&t, live, "downtime_ms");
    table_print(&t, out);
}

// What changed since the last time is shown; *ret_over: nothing more will.
static int show(struct store *s, const struct globals *g, uint64_t id, char **last,
                bool *ret_over, struct err *e)
{
    struct job_row job = {0};
    AUTO(json_free) json_t *live = NULL;
    AUTO(buf_done) struct buf out = BUF_INIT(64 * KIB);
    bool terminal = isatty(STDOUT_FILENO) == 1;
    if (store_job_get(s, id, &job, e))
        return -1;
    if (store_live(s, id, &live, e)) {
        job_row_done(&job);
        return -1;
    }
    *ret_over = strcmp(job_state(s, &job), "running") != 0;
    if (g->json) {
        json_object_set_new(live, "job", json_integer((json_int_t)id));
        AUTO(str_free) char *text = json_text(live);
        buf_printf(&out, "%s\n", text);
    } else {
        watch_draw(s, &job, live, &out);
    }
    job_row_done(&job);
    if (*last && strcmp(*last, out.data) == 0)
        return 0;
    bool first = *last == NULL;
    free(*last);
    *last = xstrdup(out.data);
    if (!g->json && !first && terminal) {
        AUTO(str_free) char *over = xasprintf("\033[2A\033[J%s", *last);
        buf_reset(&out);
        buf_str(&out, over);
    } else if (!g->json && !first) {
        buf_reset(&out);
        buf_str(&out, strchr(*last, '\n') + 1);
    }
    print_buf(&out);
    return 0;
}

int watch_job(struct store *s, const struct globals *g, uint64_t id, struct err *e)
{
    char *last = NULL;
    bool over = false;
    int status = 0;
    while (!status && !over && !print_gone()) {
        status = cancel_check(e) || show(s, g, id, &last, &over, e) || print_check(e);
        if (!status && !over)
            usleep(EVERY_US);
    }
    free(last);
    return status ? -1 : 0;
}

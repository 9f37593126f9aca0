// SPDX-License-Identifier: Apache-2.0
// A job for people and for programs. A job whose row says "running" but that no process
// holds was killed: it is shown as stopped.
#include "cmd/session.h"

const char *job_state(struct store *s, const struct job_row *job)
{
    if (strcmp(job->state, "running") == 0 && !store_job_running(s, job->id))
        return "stopped";
    // A refusal before anything was made: nothing is left of the job but why.
    if (strcmp(job->state, "discarded") == 0 && job->error)
        return "refused";
    return job->state;
}

static json_t *time_json(uint64_t wall)
{
    char text[24];
    clock_iso(wall, text);
    return json_string(text);
}

json_t *job_row_json(struct store *s, const struct job_row *job)
{
    json_t *j =
        json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:s?, s:b, s:s?}", "id",
                  (json_int_t)job->id, "name", job->name, "kind", job->kind, "source",
                  job->source, "target", job->target, "state", job_state(s, job), "phase",
                  job->phase, "phase_done", (int)job->phase_done, "error", job->error);
    json_object_set_new(j, "created", time_json(job->created));
    json_object_set_new(j, "updated", time_json(job->updated));
    if (job->report)
        json_object_set(j, "report", job->report);
    json_t *live = NULL;
    struct err none; // a job of another kind says nothing
    if (!store_live(s, job->id, &live, &none) && json_object_size(live))
        json_object_set(j, "live", live);
    json_decref(live);
    if (job->request)
        json_object_set(j, "request", job->request);
    return j;
}

static void add_phases(const json_t *phases, struct buf *out)
{
    AUTO(table_done) struct table t = {.n_columns = 2, .right = " r"};
    uint64_t total = 0;
    size_t i;
    json_t *phase;
    json_array_foreach((json_t *)phases, i, phase)
    {
        table_cellf(&t, "  %s", json_text_at(phase, "name"));
        table_cellf(&t, "%.2f s", (double)json_u64_at(phase, "ms") / 1000.0);
        total += json_u64_at(phase, "ms");
    }
    if (!i)
        return;
    table_cell(&t, "  all");
    table_cellf(&t, "%.2f s", (double)total / 1000.0);
    buf_str(out, "\n");
    table_print(&t, out);
}

// What a running server's users had to do without it.
static void add_steps(const json_t *report, struct buf *out)
{
    AUTO(table_done) struct table t = {.n_columns = 2, .right = " r"};
    size_t i;
    json_t *step;
    json_array_foreach(json_object_get(report, "steps"), i, step)
    {
        table_cellf(&t, "  %s", json_text_at(step, "name"));
        table_cellf(&t, "%.2f s", (double)json_u64_at(step, "ms") / 1000.0);
    }
    if (!i)
        return;
    table_cell(&t, "  downtime");
    table_cellf(&t, "%.2f s", (double)json_u64_at(report, "downtime_ms") / 1000.0);
    buf_str(out, "\n");
    table_print(&t, out);
}

static void add_disks(const json_t *disks, struct buf *out)
{
    AUTO(table_done) struct table t = {.n_columns = 8, .right = " rrrrrr "};
    static const char *const head[] = {"disk",    "size",    "used",     "read",
                                       "written", "resumed", "verified", "file"};
    for (size_t i = 0; i < ARRAY_LEN(head); i++)
        table_cell(&t, head[i]);
    static const char *const sizes[] = {"size",    "used",    "read",
                                        "written", "resumed", "verified"};
    size_t i;
    json_t *disk;
    json_array_foreach((json_t *)disks, i, disk)
    {
        char bytes[16];
        table_cell(&t, json_text_at(disk, "name"));
        for (size_t n = 0; n < ARRAY_LEN(sizes); n++)
            table_cell(&t, json_object_get(disk, sizes[n])
                               ? str_bytes(json_u64_at(disk, sizes[n]), bytes)
                               : NULL);
        table_cell(&t, json_text_at(disk, "final"));
    }
    if (!i)
        return;
    buf_str(out, "\n");
    table_print(&t, out);
}

static void add_list(const json_t *list, const char *title, const char *member,
                     struct buf *out)
{
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)list, i, item)
    {
        const char *line =
            json_is_string(item) ? json_string_value(item) : json_text_at(item, member);
        AUTO(table_done) struct table t = {.n_columns = 1};
        table_cellf(&t, "%s: %s", title, line ? line : "?");
        table_print(&t, out);
    }
}

void job_print(struct store *s, const struct globals *g, const struct job_row *job)
{
    if (g->json) {
        print_json(job_row_json(s, job));
        return;
    }
    AUTO(buf_done) struct buf out = BUF_INIT(4 * MIB);
    AUTO(table_done) struct table t = {.n_columns = 2};
    char updated[24];
    clock_iso(job->updated, updated);
    table_cell(&t, "job");
    table_cellf(&t, "%llu", (unsigned long long)job->id);
    table_cell(&t, "machine");
    table_cell(&t, job->name);
    table_cell(&t, "source");
    table_cell(&t, job->source);
    table_cell(&t, "target");
    table_cell(&t, job->target);
    table_cell(&t, "state");
    table_cellf(&t, "%s%s%s%s", job_state(s, job), job->phase ? ", last phase " : "",
                job->phase ? job->phase : "",
                job->phase && !job->phase_done ? " (not finished)" : "");
    const json_t *cutover = json_object_get(job->report, "cutover");
    if (cutover) {
        table_cell(&t, "cutover");
        table_cell(&t, json_text_at(cutover, "state"));
    }
    table_cell(&t, "updated");
    table_cell(&t, updated);
    const char *system = json_text_at(json_object_get(job->report, "guest"), "pretty");
    if (system) {
        table_cell(&t, "guest");
        table_cell(&t, system);
    }
    if (job->error) {
        table_cell(&t, "error");
        table_cell(&t, job->error);
    }
    table_print(&t, &out);
    add_phases(json_object_get(job->report, "phases"), &out);
    add_steps(job->report, &out);
    add_disks(json_object_get(job->report, "disks"), &out);
    add_list(json_object_get(job->report, "fixes"), "fixed", "fix", &out);
    add_list(json_object_get(job->report, "notes"), "note", "", &out);
    print_buf(&out);
}

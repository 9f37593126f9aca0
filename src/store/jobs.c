// SPDX-License-Identifier: Apache-2.0
// Rows of the job table. One list of columns serves every statement; the order of
// `JOB_COLUMNS`, bind_job and read_job is the same.
#include "store/internal.h"

#include <stdio.h>

#define JSON_MAX (16 * MIB)
#define JOB_COLUMNS                                                          \
    "name, kind, source, target, request, phase, phase_done, state, error, " \
    "created, updated, report"

void job_row_done(struct job_row *job)
{
    char **texts[] = {&job->name,  &job->kind,  &job->source, &job->target,
                      &job->phase, &job->state, &job->error};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        free(*texts[i]);
        *texts[i] = NULL;
    }
    json_decref(job->request);
    json_decref(job->report);
    job->request = job->report = NULL;
}

static void bind_text(sqlite3_stmt *q, int at, const char *text)
{
    sqlite3_bind_text(q, at, text, -1, SQLITE_TRANSIENT); // NULL binds NULL
}

static void bind_json(sqlite3_stmt *q, int at, const json_t *value)
{
    AUTO(str_free) char *text = value ? json_text(value) : NULL;
    bind_text(q, at, text);
}

static void bind_job(sqlite3_stmt *q, const struct job_row *job)
{
    bind_text(q, 1, job->name);
    bind_text(q, 2, job->kind);
    bind_text(q, 3, job->source);
    bind_text(q, 4, job->target);
    bind_json(q, 5, job->request);
    bind_text(q, 6, job->phase);
    sqlite3_bind_int(q, 7, job->phase_done);
    bind_text(q, 8, job->state);
    bind_text(q, 9, job->error);
    sqlite3_bind_int64(q, 10, (sqlite3_int64)job->created);
    sqlite3_bind_int64(q, 11, (sqlite3_int64)job->updated);
    bind_json(q, 12, job->report);
}

static char *column_text(sqlite3_stmt *q, int at)
{
    const unsigned char *text = sqlite3_column_text(q, at);
    return text ? xstrdup((const char *)text) : NULL;
}

static int column_json(sqlite3_stmt *q, int at, json_t **ret, struct err *e)
{
    const char *text = (const char *)sqlite3_column_text(q, at);
    size_t len = (size_t)sqlite3_column_bytes(q, at);
    if (!text)
        return 0;
    if (len > JSON_MAX)
        return err_set(e, ERR_FAILED, "a column of the store is %zu bytes long", len);
    return json_parse(text, len, "a job's row", ret, e);
}

// Columns: id, then JOB_COLUMNS.
static int read_job(sqlite3_stmt *q, struct job_row *ret, struct err *e)
{
    struct job_row job = {.id = (uint64_t)sqlite3_column_int64(q, 0)};
    job.name = column_text(q, 1);
    job.kind = column_text(q, 2);
    job.source = column_text(q, 3);
    job.target = column_text(q, 4);
    job.phase = column_text(q, 6);
    job.phase_done = sqlite3_column_int(q, 7) != 0;
    job.state = column_text(q, 8);
    job.error = column_text(q, 9);
    job.created = (uint64_t)sqlite3_column_int64(q, 10);
    job.updated = (uint64_t)sqlite3_column_int64(q, 11);
    if (column_json(q, 5, &job.request, e) || column_json(q, 12, &job.report, e)) {
        err_wrap(e, "job %llu", (unsigned long long)job.id);
        job_row_done(&job);
        return -1;
    }
    *ret = job;
    return 0;
}

int store_job_add(struct store *s, struct job_row *job, struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    if (store_prepare(s,
                      "INSERT INTO job (" JOB_COLUMNS
                      ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                      &q, e))
        return -1;
    job->created = job->updated = clock_wall();
    bind_job(q, job);
    int code = sqlite3_step(q);
    if (code == SQLITE_CONSTRAINT)
        return err_set(e, ERR_REFUSED,
                       "another job brings a machine named %s to %s (see `godwit jobs`)",
                       job->name, job->target);
    if (code != SQLITE_DONE)
        return store_fail(s, code, "adding a job", e);
    job->id = (uint64_t)sqlite3_last_insert_rowid(s->db);
    return 0;
}

int store_job_save(struct store *s, struct job_row *job, struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    if (store_prepare(s,
                      "UPDATE job SET (" JOB_COLUMNS
                      ") = (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) "
                      "WHERE id = ?13",
                      &q, e))
        return -1;
    job->updated = clock_wall();
    bind_job(q, job);
    sqlite3_bind_int64(q, 13, (sqlite3_int64)job->id);
    int code = sqlite3_step(q);
    if (code == SQLITE_CONSTRAINT)
        return err_set(e, ERR_REFUSED,
                       "another job brings a machine named %s to %s (see `godwit jobs`)",
                       job->name, job->target);
    if (code != SQLITE_DONE)
        return store_fail(s, code, "saving a job", e);
    if (sqlite3_changes(s->db) != 1)
        return err_set(e, ERR_FAILED, "job %llu is not in %s any more",
                       (unsigned long long)job->id, s->path);
    return 0;
}

// One row at most of a prepared statement.
static int one_job(struct store *s, sqlite3_stmt *q, struct job_row *ret, bool *ret_found,
                   struct err *e)
{
    int code = sqlite3_step(q);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return store_fail(s, code, "reading a job", e);
    *ret_found = code == SQLITE_ROW;
    return *ret_found ? read_job(q, ret, e) : 0;
}

int store_job_get(struct store *s, uint64_t id, struct job_row *ret, struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    if (store_prepare(s, "SELECT id, " JOB_COLUMNS " FROM job WHERE id = ?1", &q, e))
        return -1;
    sqlite3_bind_int64(q, 1, (sqlite3_int64)id);
    bool found = false;
    if (one_job(s, q, ret, &found, e))
        return -1;
    if (!found)
        return err_set(e, ERR_USAGE, "there is no job %llu in %s (see `godwit jobs`)",
                       (unsigned long long)id, s->dir);
    return 0;
}

int store_job_find(struct store *s, const char *kind, const char *source,
                   const char *target, const char *name, struct job_row *ret,
                   bool *ret_found, struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    if (store_prepare(s,
                      "SELECT id, " JOB_COLUMNS
                      " FROM job WHERE kind = ?1 AND source = ?2 AND target = ?3 AND "
                      "name = ?4 AND state <> 'discarded' ORDER BY id DESC LIMIT 1",
                      &q, e))
        return -1;
    bind_text(q, 1, kind);
    bind_text(q, 2, source);
    bind_text(q, 3, target);
    bind_text(q, 4, name);
    return one_job(s, q, ret, ret_found, e);
}

int store_jobs(struct store *s, store_job_visitor *visit, void *context, struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    if (store_prepare(s, "SELECT id, " JOB_COLUMNS " FROM job ORDER BY id", &q, e))
        return -1;
    for (;;) {
        int code = sqlite3_step(q);
        if (code == SQLITE_DONE)
            return 0;
        if (code != SQLITE_ROW)
            return store_fail(s, code, "listing jobs", e);
        struct job_row job = {0};
        int status = read_job(q, &job, e);
        if (!status)
            status = visit(context, &job, e);
        job_row_done(&job);
        if (status)
            return -1;
    }
}

int store_event(struct store *s, uint64_t job, const char *level, const char *phase,
                const char *text, struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    if (store_prepare(s,
                      "INSERT INTO event (job, at, level, phase, text) "
                      "VALUES (?1, ?2, ?3, ?4, ?5)",
                      &q, e))
        return -1;
    sqlite3_bind_int64(q, 1, (sqlite3_int64)job);
    sqlite3_bind_int64(q, 2, (sqlite3_int64)clock_wall());
    bind_text(q, 3, level);
    bind_text(q, 4, phase);
    bind_text(q, 5, text);
    int code = sqlite3_step(q);
    return code == SQLITE_DONE ? 0 : store_fail(s, code, "adding an event", e);
}

int store_events(struct store *s, uint64_t job, store_event_visitor *visit, void *context,
                 struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    if (store_prepare(
            s, "SELECT at, level, phase, text FROM event WHERE job = ?1 ORDER BY id", &q,
            e))
        return -1;
    sqlite3_bind_int64(q, 1, (sqlite3_int64)job);
    for (;;) {
        int code = sqlite3_step(q);
        if (code == SQLITE_DONE)
            return 0;
        if (code != SQLITE_ROW)
            return store_fail(s, code, "listing events", e);
        struct event_row row = {.when = (uint64_t)sqlite3_column_int64(q, 0)};
        row.level = column_text(q, 1);
        row.phase = column_text(q, 2);
        row.text = column_text(q, 3);
        int status = visit(context, &row, e);
        free(row.level);
        free(row.phase);
        free(row.text);
        if (status)
            return -1;
    }
}

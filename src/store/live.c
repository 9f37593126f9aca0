// SPDX-License-Identifier: Apache-2.0
// What is said to a running job and what it says of itself: two columns of its row, each
// written by one statement, so that nothing is lost between two terminals (json_patch of
// SQLite, RFC 7396). Polling needs no daemon, no socket and no file that a kill leaves.
#include "store/internal.h"

static int read_column(struct store *s, uint64_t id, const char *sql, json_t **ret,
                       struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    if (store_prepare(s, sql, &q, e))
        return -1;
    sqlite3_bind_int64(q, 1, (sqlite3_int64)id);
    int code = sqlite3_step(q);
    if (code == SQLITE_DONE)
        return err_set(e, ERR_USAGE, "there is no job %llu in %s (see `godwit jobs`)",
                       (unsigned long long)id, s->dir);
    if (code != SQLITE_ROW)
        return store_fail(s, code, "reading a job", e);
    const char *text = (const char *)sqlite3_column_text(q, 0);
    if (!text) {
        *ret = json_object();
        return 0;
    }
    AUTO(json_free) json_t *value = NULL;
    if (json_parse(text, (size_t)sqlite3_column_bytes(q, 0), "a job's row", &value, e))
        return -1;
    if (!json_is_object(value))
        return err_set(e, ERR_FAILED, "what is said of job %llu in %s is no object",
                       (unsigned long long)id, s->path);
    *ret = steal(value);
    return 0;
}

static int write_column(struct store *s, uint64_t id, const char *sql,
                        const json_t *value, struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    AUTO(str_free) char *text = json_text(value);
    if (store_prepare(s, sql, &q, e))
        return -1;
    sqlite3_bind_int64(q, 1, (sqlite3_int64)id);
    sqlite3_bind_text(q, 2, text, -1, SQLITE_TRANSIENT);
    int code = sqlite3_step(q);
    if (code != SQLITE_DONE)
        return store_fail(s, code, "writing to a job", e);
    if (sqlite3_changes(s->db) != 1)
        return err_set(e, ERR_USAGE, "there is no job %llu in %s (see `godwit jobs`)",
                       (unsigned long long)id, s->dir);
    return 0;
}

int store_wish(struct store *s, uint64_t id, json_t **ret, struct err *e)
{
    return read_column(s, id, "SELECT wish FROM job WHERE id = ?1", ret, e);
}

int store_wish_change(struct store *s, uint64_t id, const json_t *change, struct err *e)
{
    return write_column(s, id,
                        "UPDATE job SET wish = json_patch(coalesce(wish, '{}'), ?2) "
                        "WHERE id = ?1",
                        change, e);
}

int store_live(struct store *s, uint64_t id, json_t **ret, struct err *e)
{
    return read_column(s, id, "SELECT live FROM job WHERE id = ?1", ret, e);
}

int store_live_save(struct store *s, uint64_t id, const json_t *live, struct err *e)
{
    return write_column(s, id, "UPDATE job SET live = ?2 WHERE id = ?1", live, e);
}

// SPDX-License-Identifier: Apache-2.0
// Jobs and events in one SQLite database, DIR/godwit.db.
//
// WAL with synchronous=FULL: a committed transition survives a power cut, and readers
// (`godwit jobs`) never wait for a writer. Many processes share the file: every write is
// one IMMEDIATE transaction, so that the busy timeout covers it (a transaction that began
// as a reader is refused at once when it wants to write). user_version is the schema's
// version; `schema` has one row a version, run in order.
#include "store/store.h"

#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUSY_TIMEOUT_MS 15000

static const char *const schema[] = {
    // 1: jobs and their events. One living job a name and target: two processes that
    // start the same line at once meet here.
    "CREATE TABLE job ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, kind TEXT NOT NULL,"
    " source TEXT NOT NULL, target TEXT NOT NULL, request TEXT, phase TEXT,"
    " phase_done INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL, error TEXT,"
    " created INTEGER NOT NULL, updated INTEGER NOT NULL, report TEXT);"
    "CREATE UNIQUE INDEX job_living ON job(target, name)"
    " WHERE state NOT IN ('done', 'discarded');"
    "CREATE INDEX job_source ON job(source, target);"
    "CREATE TABLE event ("
    " id INTEGER PRIMARY KEY, job INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,"
    " at INTEGER NOT NULL, level TEXT NOT NULL, phase TEXT, text TEXT NOT NULL);"
    "CREATE INDEX event_job ON event(job, id);",
    // 2: what is said to a running job, and what it says: live.c.
    "ALTER TABLE job ADD COLUMN wish TEXT;"
    "ALTER TABLE job ADD COLUMN live TEXT;",
};

int store_fail(struct store *s, int code, const char *what, struct err *e)
{
    int primary = code & 0xff;
    bool again = primary == SQLITE_BUSY || primary == SQLITE_LOCKED;
    return err_set(e, again ? ERR_RETRY : ERR_FAILED, "%s in %s: %s", what, s->path,
                   s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(code));
}

int store_exec(struct store *s, const char *sql, const char *what, struct err *e)
{
    int code = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? 0 : store_fail(s, code, what, e);
}

int store_prepare(struct store *s, const char *sql, sqlite3_stmt **ret, struct err *e)
{
    int code = sqlite3_prepare_v2(s->db, sql, -1, ret, NULL);
    return code == SQLITE_OK ? 0 : store_fail(s, code, "preparing a statement", e);
}

static int read_version(struct store *s, int *ret, struct err *e)
{
    AUTO(stmt_done) sqlite3_stmt *q = NULL;
    if (store_prepare(s, "PRAGMA user_version", &q, e))
        return -1;
    int code = sqlite3_step(q);
    if (code != SQLITE_ROW)
        return store_fail(s, code, "reading the schema's version", e);
    *ret = sqlite3_column_int(q, 0);
    return 0;
}

// Brings the schema up to date; several processes may try at once.
static int upgrade(struct store *s, struct err *e)
{
    int version = 0;
    if (read_version(s, &version, e))
        return -1;
    if (version == (int)ARRAY_LEN(schema))
        return 0;
    if (store_exec(s, "BEGIN IMMEDIATE", "upgrading the schema", e))
        return -1;
    int status = read_version(s, &version, e);
    if (!status && version > (int)ARRAY_LEN(schema))
        status =
            err_set(e, ERR_REFUSED,
                    "%s has schema %d, this godwit knows %zu: use the newer godwit that "
                    "wrote it",
                    s->path, version, ARRAY_LEN(schema));
    for (; !status && version < (int)ARRAY_LEN(schema); version++) {
        AUTO(str_free) char *mark = xasprintf("PRAGMA user_version = %d", version + 1);
        status = store_exec(s, schema[version], "upgrading the schema", e);
        if (!status)
            status = store_exec(s, mark, "upgrading the schema", e);
    }
    if (!status)
        status = store_exec(s, "COMMIT", "upgrading the schema", e);
    if (status)
        (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL); // the first error counts
    return status;
}

// journal_mode=WAL is answered with SQLITE_BUSY without waiting while another process
// makes the same change.
static int set_modes(struct store *s, struct err *e)
{
    uint64_t start = clock_ms();
    for (;;) {
        if (!store_exec(s, "PRAGMA journal_mode = WAL", "switching to WAL", e))
            break;
        if (e->code != ERR_RETRY || clock_ms() - start > BUSY_TIMEOUT_MS)
            return -1;
        usleep(20000);
    }
    return store_exec(s, "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON",
                      "setting modes", e);
}

int store_open(const char *dir, struct store **ret, struct err *e)
{
    if (dir_make(dir, 0700, e))
        return err_wrap(e, "state directory");
    AUTO(store_close) struct store *s = xcalloc(1, sizeof(*s));
    if (path_real(dir, &s->dir, e))
        return -1;
    s->path = path_join(s->dir, "godwit.db");
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
    mode_t mask = umask(0077);
    int code = sqlite3_open_v2(s->path, &s->db, flags, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_busy_timeout(s->db, BUSY_TIMEOUT_MS);
    int status =
        code == SQLITE_OK ? set_modes(s, e) : store_fail(s, code, "opening the store", e);
    umask(mask);
    if (status || upgrade(s, e))
        return -1;
    *ret = steal(s);
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    sqlite3_close_v2(s->db);
    free(s->dir);
    free(s->path);
    free(s);
}

const char *store_dir(const struct store *s)
{
    return s->dir;
}

char *store_default_dir(void)
{
    const char *given = getenv("GODWIT_STATE");
    if (given && *given)
        return xstrdup(given);
    if (geteuid() == 0)
        return xstrdup("/var/lib/godwit");
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (xdg && *xdg)
        return path_join(xdg, "godwit");
    return path_join(home && *home ? home : "/tmp", ".local/state/godwit");
}

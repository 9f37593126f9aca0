// SPDX-License-Identifier: Apache-2.0
// What the files of store/ share.
#pragma once

#include "store/store.h"

#include <sqlite3.h>

struct store {
    sqlite3 *db;
    char *dir, *path; // absolute
};

__attribute__((unused)) static inline void stmt_done(sqlite3_stmt *q)
{
    sqlite3_finalize(q);
}
DEFINE_AUTO(stmt_done, sqlite3_stmt *)

// Fills *e from SQLite's last error; `what` is what was tried.
int store_fail(struct store *s, int code, const char *what, struct err *e);
int store_exec(struct store *s, const char *sql, const char *what, struct err *e);
int store_prepare(struct store *s, const char *sql, sqlite3_stmt **ret, struct err *e);

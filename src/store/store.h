// SPDX-License-Identifier: Apache-2.0
// Jobs and what happened to them, in SQLite under the state directory. Every transition
// is committed before it is acted upon.
#pragma once

#include "base/base.h"

struct job_row {
    uint64_t id;
    char *name; // of the machine at the target, unique among living jobs of one target
    char *kind; // "migrate" "copy"
    char *source, *target; // as given on the command line, made absolute
    json_t *request;       // every option that matters, so that resume needs nothing else
    char *phase;           // the last phase that was begun
    bool phase_done;
    char *state;               // "running" "stopped" "failed" "done" "discarded"
    char *error;               // of the last failure, NULL: none
    uint64_t created, updated; // wall clock
    json_t *report;            // figures by phase
};
struct event_row {
    uint64_t when;
    char *level, *phase, *text;
};
struct store;
// DIR is made (0700). WAL mode, full sync, foreign keys; a newer schema than ours is
// ERR_REFUSED.
int store_open(const char *dir, struct store **ret, struct err *e);
void store_close(struct store *s);
DEFINE_AUTO(store_close, struct store *)
const char *store_dir(const struct store *s);
// $GODWIT_STATE, else /var/lib/godwit for root, else $XDG_STATE_HOME/godwit or
// ~/.local/state/godwit. free() it.
char *store_default_dir(void);

int store_job_add(struct store *s,
                  struct job_row *job /* id, created, updated are filled */,
                  struct err *e);
int store_job_save(struct store *s, struct job_row *job,
                   struct err *e); // all columns, in one transaction
int store_job_get(struct store *s, uint64_t id, struct job_row *ret,
                  struct err *e); // none: ERR_USAGE
// The newest job with this source, target and name that is not discarded; *ret_found.
int store_job_find(struct store *s, const char *kind, const char *source,
                   const char *target, const char *name, struct job_row *ret,
                   bool *ret_found, struct err *e);
// Two columns that store_job_save leaves alone, so that others may write and read them
// while the job runs; polled a few times a second. Both outlive any process. *ret is an
// object, empty when there is none.
//   wish  what another terminal asks for: {"pause": true, "cutover": true, "rate": N,
//         "rollback": true, "cancel": true}
//   live  how far the job is: phase, round, dirty rate, forecast…
int store_wish(struct store *s, uint64_t id, json_t **ret, struct err *e);
// Adds the members of `change` to it; those that are null are removed. In one step,
// whoever else does the same.
int store_wish_change(struct store *s, uint64_t id, const json_t *change, struct err *e);
int store_live(struct store *s, uint64_t id, json_t **ret, struct err *e);
int store_live_save(struct store *s, uint64_t id, const json_t *live, struct err *e);
typedef int store_job_visitor(void *context, const struct job_row *job, struct err *e);
int store_jobs(struct store *s, store_job_visitor *visit, void *context, struct err *e);
void job_row_done(struct job_row *job);

int store_event(struct store *s, uint64_t job, const char *level, const char *phase,
                const char *text, struct err *e);
typedef int store_event_visitor(void *context, const struct event_row *event,
                                struct err *e);
int store_events(struct store *s, uint64_t job, store_event_visitor *visit, void *context,
                 struct err *e);
// One process works on a job at a time: a lock file that dies with the process.
// ERR_REFUSED names the holder.
int store_job_lock(struct store *s, uint64_t id, int *ret_fd, struct err *e);
bool store_job_running(struct store *s, uint64_t id);

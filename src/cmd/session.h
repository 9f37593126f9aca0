// SPDX-License-Identifier: Apache-2.0
// What several commands share: the store and the accelerator of the global options,
// progress, and the tables of jobs.
#pragma once

#include "cmd/cmd.h"
#include "job/job.h"

// --- session.c

int session_store(const struct globals *g, struct store **ret, struct err *e);
enum accel session_accel(const struct globals *g);
char *session_state_dir(const struct globals *g); // free() it
// JOB, the first argument, and the store it is in.
int session_job(const struct globals *g, const struct strings *args, uint64_t *ret_id,
                struct store **ret, struct err *e);
// Does something to JOB that takes a while, with progress, and shows the job afterwards.
int session_run_job(const struct globals *g, const struct strings *args,
                    int (*act)(struct store *s, uint64_t id, const struct job_ui *ui,
                               struct job_row *ret, struct err *e),
                    struct err *e);
// Tells the process that runs JOB, which is the first argument; `then` is said on stdout
// when there is one, `else_` when there is none now.
int session_ask(const struct globals *g, const struct strings *args,
                json_t *wish /* taken */, const char *then, const char *else_,
                struct err *e);
// How a guest boots whose description does not say: as the appliance saw it.
enum firmware firmware_of_guest(const json_t *guest);

// --- progress.c

struct progress {
    bool silent, terminal;
    char name[64]; // of the disk
    uint64_t size, printed_ms, started_ms;
    bool open; // a line without its end stands on the terminal
};
void progress_init(struct progress *p, const struct globals *g);
void progress_disk(struct progress *p, const char *name, uint64_t size);
void progress_update(void *progress, const struct copy_progress *c);
void progress_disk_done(struct progress *p);
void progress_note(struct progress *p, const char *text);
struct job_ui progress_ui(struct progress *p);

// --- job_table.c

json_t *job_row_json(struct store *s, const struct job_row *job);
// A live table of JOB on stdout until it is over, or interrupted. --json: a line each
// time.
int watch_job(struct store *s, const struct globals *g, uint64_t id, struct err *e);
// The same table, as it stands.
void watch_draw(struct store *s, const struct job_row *job, const json_t *live,
                struct buf *out);
const char *job_state(struct store *s, const struct job_row *job); // as it is shown
void job_print(struct store *s, const struct globals *g, const struct job_row *job);

// --- info_running.c

// A server that its agent has described, on stdout.
int info_running(const struct globals *g, const struct machine *m, struct err *e);

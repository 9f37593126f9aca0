// SPDX-License-Identifier: Apache-2.0
// What the phases of one job share. job.row.report is what earlier phases found, made or
// measured; it is saved with every transition, so that a later process can go on:
//
//     {"machine": {…}, "phases": [{"name", "ms"}], "guest": {…}, "fixes": […],
//      "notes": ["…"], "disks": [{"name": "vda", "source", "identity", "size", "used",
//      "needed", "replica", "map", "overlay", "final", "final_format", "read", "written",
//      "zeros", "resumed", "verified", "digest", "copied": true, "converted": digest}]}
#pragma once

#include "job/job.h"
#include "job/live.h"

struct job {
    struct store *store;
    struct job_row row;
    struct job_request request; // strings belong to row.request
    const struct job_ui *ui;
    int lock_fd;
    // Opened when a phase needs them, closed with the job.
    struct source source;
    struct allocation allocation;
    bool have_allocation;
    struct machine *machine; // what is brought to the target
    struct cloud *target;
    struct cloud_machine place;
    struct appliance *appliance;
    struct live live; // of a source that runs
};

// --- job.c

void job_note(struct job *j, const char *fmt, ...) PRINTF(2, 3); // event, screen, report
json_t *job_disk(struct job *j, size_t i); // the disk's object in the report (borrowed)
int job_save(struct job *j, struct err *e);
bool job_is_live(const struct job *j); // its source runs
// The job's row, locked; job_done ends it.
int job_take(struct job *j, uint64_t id, struct err *e);
void job_done(struct job *j);
__attribute__((unused)) static inline void auto_job_done(struct job *j)
{
    job_done(j);
}
void job_hand_over(struct job *j, struct job_row *ret);
void job_add_ms(struct job *j, const char *name, uint64_t ms); // to "phases"
void job_set_text(char **at, const char *text);
// For tests: dies as kill -9 would when $GODWIT_STOP_AFTER says so.
void job_stop_after(const char *what);

// --- phase_*.c

int phase_inspect(struct job *j, struct err *e);
int phase_plan(struct job *j, struct err *e);
int phase_copy(struct job *j, struct err *e);
int phase_copy_undo(struct job *j, struct err *e);
int phase_verify(struct job *j, struct err *e);
int phase_convert(struct job *j, struct err *e);
int phase_convert_undo(struct job *j, struct err *e);
// The same on the replicas, which have to be closed, while nothing is kept of it; the
// appliance has begun to boot. How long it took. -1 and *ret_asked: what is wrong is what
// was copied; else it is something here.
int convert_rehearse(struct job *j, uint64_t *ret_ms, bool *ret_asked, struct err *e);
// ERR_REFUSED: the machine runs.
int overlays_unused(struct job *j, struct err *e);
int phase_flatten(struct job *j, struct err *e);
int phase_import(struct job *j, struct err *e);
int phase_import_undo(struct job *j, struct err *e);
int phase_launch(struct job *j, struct err *e);

// Verifies one disk that was copied, against its source too while that is unchanged.
int verify_disk(struct job *j, size_t i, enum verify_mode mode, struct copy_result *ret,
                struct err *e);
// The target, asked whether it takes the machine.
int job_target(struct job *j, struct err *e);
// Fills j->machine, j->target and j->place from the row's report.
int job_place(struct job *j, struct err *e);
// Writes the report beside the disks (dir: targets).
int job_write_report(struct job *j, struct err *e);
struct helper_options job_helper_options(const struct job *j);

// SPDX-License-Identifier: Apache-2.0
// One migration: what was asked, the table of phases, how far it got, how each step is
// undone. kill -9 anywhere, run the same line again, same outcome.
//
//     inspect ─► plan ─► copy ─► verify ─► convert ─► import ─► launch ─► done ─►
//     (finish)
#pragma once

#include "cloud/cloud.h"
#include "copy/copy.h"
#include "store/store.h"
#include "vm/vm.h"

// What the operator asked for: filled from options, kept in job_row.request, so that
// `resume` needs no more.
struct job_request {
    const char *source, *target;
    const char *name; // NULL: the source's
    uint64_t rate;    // bytes/s, 0: none
    enum verify_mode verify;
    bool all_blocks, allow_any_path, start, no_convert;
    const char *format; // "raw" "qcow2": flatten at once; NULL: replica + overlay
    enum accel accel;
    struct strings networks;       // "MAC=NET"
    struct strings luks_key_files; // "UUID=FILE" or "FILE": never the key itself
    const char *root; // root file system's UUID where a disk holds two systems
};

struct job; // job.c: the running job, all phases share it
struct phase {
    const char *name;
    const char *why; // one line, shown while it runs
    int (*run)(struct job *j,
               struct err *e); // repeatable: it may have been killed half way
    int (*undo)(struct job *j, struct err *e); // for discard; NULL: nothing to undo
};
extern const struct phase job_phases[];

// Finds the living job of this request or makes one, and runs its phases from where it
// stands.
int job_migrate(struct store *s, const struct job_request *request, struct job_row *ret,
                struct err *e);
int job_resume(struct store *s, uint64_t id, struct job_row *ret, struct err *e);
// Commits the overlay into the replica and forgets the maps: what is left is one file a
// disk.
int job_finish(struct store *s, uint64_t id, struct job_row *ret, struct err *e);
// Undoes every phase, replica included: the one thing that deletes it.
int job_discard(struct store *s, uint64_t id, struct job_row *ret, struct err *e);
// Compares replica and source (if it is still there) with the map.
int job_verify(struct store *s, uint64_t id, enum verify_mode mode,
               struct copy_result *ret, struct err *e);

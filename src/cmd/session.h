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
int session_job_id(const char *word, uint64_t *ret, struct err *e);

// One or more disks named on the command line as a machine, opened.
struct opened {
    struct machine *machine;
    struct cloud *cloud; // when the source is a platform's
    struct image_info *infos;
    struct disk **disks;
    size_t n;
};
struct open_options {
    const struct strings *words; // a machine description or platform, or disks
    bool allow_any_path;
    const char *name, *snapshot;
};
int opened_open(const struct open_options *options, struct opened *ret, struct err *e);
void opened_close(struct opened *o);
__attribute__((unused)) static inline void auto_opened_close(struct opened *o)
{
    opened_close(o);
}
int enum_firmware(const char *word, enum firmware *ret); // "bios" "uefi"
const char *firmware_name(enum firmware f);
// The machine's disks as QEMU is to open them, read-only for good: writes are thrown
// away. Refuses what QEMU cannot open by path (a disk inside an OVA).
int opened_vm_disks(const struct opened *o, struct vm_disk **ret, struct err *e);

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
void job_print(struct store *s, const struct globals *g, const struct job_row *job);

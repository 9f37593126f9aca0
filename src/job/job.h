// SPDX-License-Identifier: Apache-2.0
// One migration: what was asked, the table of phases, how far it got, how each step is
// undone. kill -9 anywhere, run the same line again, same outcome.
//
//     inspect ─► plan ─► copy ─► verify ─► convert ─► flatten ─► import ─► launch
//     └───── again in every process ─────┘                      (done)    (finish)
//            until verify is done
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
    const char *root;   // root file system's UUID where a disk holds two systems
    const char *method; // "auto" "offline" "block"; of a job never "auto"
    // Of a running source, 0: not said.
    uint64_t max_downtime_ms, delta_every_ms;
    uint64_t probe_timeout_ms; // for a started machine to answer
    bool until_ready;          // stays there until `godwit cutover`
};
json_t *job_request_json(const struct job_request *r);
// The strings of *ret belong to `j`, which must outlive it; job_request_done frees the
// lists.
int job_request_read(const json_t *j, struct job_request *ret, struct err *e);
void job_request_done(struct job_request *r);
__attribute__((unused)) static inline void auto_job_request_done(struct job_request *r)
{
    job_request_done(r);
}
extern const char *const verify_names[]; // "none" "sample" "full", by enum verify_mode
int verify_from_name(const char *name, enum verify_mode *ret);

// Who watches; every member may be NULL.
struct job_ui {
    void (*phase)(void *context, const struct job_row *job, const char *name,
                  const char *why);
    void (*disk)(void *context, const char *name, uint64_t size); // the next to move
    void (*progress)(void *context, const struct copy_progress *p);
    void (*disk_done)(void *context);
    void (*note)(void *context, const char *text);
    void *context;
};

struct job; // internal.h: the running job, all phases share it
struct phase {
    const char *name;
    const char *why; // one line, shown while it runs
    int (*run)(struct job *j,
               struct err *e); // repeatable: it may have been killed half way
    int (*undo)(struct job *j, struct err *e); // for discard; NULL: nothing to undo
    // Was it asked for? NULL: always. Only for what is shown: run decides by itself.
    bool (*wanted)(const struct job_request *r);
};
// Of a source that is off; live.h has those of one that runs. Ends with a row without
// name.
extern const struct phase job_phases[];

// Finds the job of this request or makes one, and runs its phases from where it stands. A
// job that is done already is returned as it is.
int job_migrate(struct store *s, const struct job_request *request,
                const struct job_ui *ui, struct job_row *ret, struct err *e);
int job_resume(struct store *s, uint64_t id, const struct job_ui *ui, struct job_row *ret,
               struct err *e);
// Commits the overlay into the replica and forgets the maps: what is left is one file a
// disk.
int job_finish(struct store *s, uint64_t id, const struct job_ui *ui, struct job_row *ret,
               struct err *e);
// Undoes every phase, replica included: the one thing that deletes it.
int job_discard(struct store *s, uint64_t id, const struct job_ui *ui,
                struct job_row *ret, struct err *e);
// Of a source that runs: it serves again, the target does not. Before the fence: thaws;
// afterwards: stops the target, drops what it wrote, un-fences. The job can go on.
int job_rollback(struct store *s, uint64_t id, const struct job_ui *ui,
                 struct job_row *ret, struct err *e);
// Asks the process that runs a live job for something (store.h, "wish"). *ret_running:
// there is one now; otherwise `resume` will see it.
int job_ask(struct store *s, uint64_t id, const json_t *wish, bool *ret_running,
            struct err *e);
// Compares replica and source (if it is still there) with the map; *ret sums all disks.
int job_verify(struct store *s, uint64_t id, enum verify_mode mode,
               const struct job_ui *ui, struct copy_result *ret, struct err *e);

// --- source.c: the disks to read

struct source_disk {
    struct image_info info;
    struct disk *disk; // exact: every byte of the image
    char *identity;    // path, size, inode and modification time of every file, and the
                       // snapshot: the same text means that what was copied still holds
};
struct source {
    struct machine *machine;
    bool runs;                 // it is in use: its disks are not opened here (live.h)
    struct source_disk *disks; // NULL before source_open
    size_t n_disks;
};
struct source_options {
    const struct strings *words; // one machine (description, image, platform's address),
                                 // or several images that make up one
    bool allow_any_path;
    const char *name, *snapshot, *format; // may be NULL
    const char *state_dir;                // for cloud_open
};
// Reads the description; nothing of the disks.
int source_describe(const struct source_options *options, struct source *ret,
                    struct err *e);
// Opens every disk.
int source_open(struct source *s, const struct source_options *options, struct err *e);
void source_done(struct source *s);
__attribute__((unused)) static inline void auto_source_done(struct source *s)
{
    source_done(s);
}
int source_allocation(const struct source *s, struct allocation *ret, struct err *e);
// The disks as QEMU opens them itself, what is written thrown away; serials "gw0", "gw1"…
// Refused where only we can open them (inside an OVA). free() the list; its strings
// belong to `s`.
int source_vm_disks(const struct source *s, struct vm_disk **ret, struct err *e);
// Refuses what cannot be migrated or converted as far as partitions and file systems
// tell: encrypted without a key, hibernated, 4096-byte sectors, nothing to boot.
int source_check(const struct source *s, const struct allocation *a, bool have_luks_key,
                 struct err *e);

// --- replica.c: a target with its map

struct replica_options {
    const char *path, *map_path;
    uint64_t size;
    const char *identity; // of the source and of what is copied of it
    enum map_hash hash;   // of its map
    bool qcow2;           // a qcow2 file instead of a raw file or device
};
struct replica {
    struct disk *disk;
    struct map *map;
    bool is_zero;  // made by us, sparse: what was not written reads as zeros
    bool complete; // an earlier run finished it
};
// Opens what an earlier run began, if it is of the same source; else makes it anew. A
// file with contents that is no replica of ours is ERR_REFUSED.
int replica_open(const struct replica_options *options, struct replica *ret,
                 struct err *e);
void replica_close(struct replica *r);
__attribute__((unused)) static inline void auto_replica_close(struct replica *r)
{
    replica_close(r);
}

// --- helper.c: what the appliance does for us

struct helper_options {
    enum accel accel;
    const char *state_dir; // caches lie below it
    bool luks;             // volumes are to be opened: their key derivation takes memory
};
// Begins to boot an appliance; helper_call waits for it.
int helper_begin(const struct helper_options *options, struct appliance **ret,
                 struct err *e);
struct helper_request {
    const char *call;            // "inspect" "convert" "serial-console" (docs/control.md)
    const struct vm_disk *disks; // plugged in this order, and unplugged whatever happens
    size_t n_disks;
    const struct machine *machine; // its NICs are told; NULL: none
    const struct strings *luks_key_files;
    const char *root;
    bool *asked; // NULL, or becomes true once the guest was asked: what fails is its own
};
int helper_call(struct appliance *a, const struct helper_request *request, json_t **ret,
                struct err *e);
// MACs that the description left out and the guest's configuration knows.
void helper_learn_macs(struct machine *m, const json_t *facts);

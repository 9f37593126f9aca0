// SPDX-License-Identifier: Apache-2.0
// One account on one platform, as source or target of a migration. A folder a platform:
// files/ (dir:PATH and image files), libvirt/. Adding one is adding a row to
// cloud_platforms.
#pragma once

#include "disk/disk.h"
#include "machine/machine.h"

struct cloud;
// How a machine is to arrive: what a target needs to check, place and define it.
struct cloud_disk {
    uint64_t size;      // of the replica, bytes
    uint64_t needed;    // bytes it will take at most (allocation)
    char *replica;      // path of the raw replica; filled by place
    char *map;          // its map
    char *overlay;      // path of the converted overlay
    char *final;        // what the domain uses in the end: the overlay, or the file after
                        // `finish`/--format
    char *final_format; // "qcow2" or "raw"
};
struct cloud_machine {
    const struct machine *machine;
    const char *name;
    struct cloud_disk *disks;
    size_t n_disks;
    const char *const *networks; // "MAC=NET" from --network
    size_t n_networks;
    uint64_t job;         // with job_created the tag of everything that is made
    uint64_t job_created; // wall clock: another store counts its jobs from 1 again
    bool emulated;        // no KVM: type='qemu'
};
// --- a machine that runs while it is copied

struct cloud_live {    // what is to be tracked and read
    uint64_t job;      // one job a machine: a second is ERR_REFUSED and names the first
    const char *owner; // who runs that job, for such a message
};
struct cloud_live_disk {
    char *identity; // serial, size: another one is another disk
    uint64_t size;
    bool known;     // its changes since the last harvest are all there; false: everything
    char *why;      // may have changed, and why
    uint64_t epoch; // the same as before: nothing was lost in between
    uint64_t changed;   // bytes of this harvest
    uint64_t rewritten; // bytes written there in all, by the kernel's own counter
};
struct cloud_harvest {
    uint64_t id;
    struct cloud_live_disk *disks;
    size_t n_disks;
    char *tracker; // its name
    bool frozen;
    uint64_t frozen_ms, deadline_ms; // for how long, and how long it may go on
    uint64_t held_ms; // for how long reading gave way to the server's own, in all
};
void cloud_harvest_done(struct cloud_harvest *h);
enum cloud_view {
    CLOUD_EXACT,   // every byte
    CLOUD_USED,    // free space reads as zeros and is a hole
    CLOUD_HASH,    // STRONG_LEN bytes per MAP_BLOCK
    CLOUD_CHANGED, // as EXACT; extents: EXTENT_DATA where harvest `id` says it changed
};
struct cloud_ops {
    const char *scheme; // "dir:" "libvirt+"
    const char *what;   // "a folder" for help
    // `address` is the whole SOURCE or TARGET word. state_dir: where godwit keeps what it
    // knows of agents; NULL: nowhere.
    int (*open)(const char *address, const char *state_dir, struct cloud **ret,
                struct err *e);
    void (*close)(struct cloud *c);
    // As target. check refuses before anything is copied: no room, not writable, name
    // taken by something that is not this job's. place fills the paths of every disk and
    // takes the name for the job: the folder and the hidden marker `.NAME.godwit` in it
    // are made (remove deletes it once no disk is left), so that a run after kill -9
    // knows its own files. Both are repeatable. NULL: cannot be a target.
    int (*check)(struct cloud *c, const struct cloud_machine *m, struct err *e);
    int (*place)(struct cloud *c, struct cloud_machine *m, struct err *e);
    // Makes the machine known (NAME.xml; a defined domain). Repeatable: a second call
    // replaces the first.
    int (*import)(struct cloud *c, const struct cloud_machine *m, struct err *e);
    int (*launch)(struct cloud *c, const struct cloud_machine *m, struct err *e);
    // Stops and forgets the machine; never touches disks. Repeatable; call it again once
    // the disks are gone, and nothing of the job is left.
    int (*remove)(struct cloud *c, const struct cloud_machine *m, struct err *e);
    // As source: the machine that `address` names, off; running: ERR_REFUSED. NULL:
    // cannot be a source.
    int (*describe)(struct cloud *c, struct machine **ret, struct err *e);
    // As a source that runs; NULL: this platform has no such. All may be repeated: a lost
    // answer (ERR_RETRY) is asked again with the same arguments.
    //   arm       tracks, settles the file systems, reads what is in use; again: goes on
    //   view      a disk as it is now, read-only
    //   harvest   see agent/track.h; `acked` is on the target durably
    //   quiesce   hooks, isolates, syncs, freezes: undone by itself at the deadline;
    //             *ret_steps says how long each took, [{name, ms}]
    //   commit    the token's freeze becomes a fence that only `release` or the server's
    //             console lifts; ERR_REFUSED: the deadline has come first
    //   distrust  a tracker (as the harvest called it) that missed a write is not used
    //             again for this job: another one begins, or none, and no disk is
    //             known. *ret_tracker: what is used now, free() it
    //   release   thaws, un-isolates, un-fences; `forget`: stops tracking, the job ends
    int (*arm)(struct cloud *c, const struct cloud_live *live, struct cloud_harvest *ret,
               struct err *e);
    int (*view)(struct cloud *c, size_t disk, enum cloud_view view, uint64_t id,
                struct disk **ret, struct err *e);
    int (*harvest)(struct cloud *c, uint64_t id, uint64_t acked,
                   struct cloud_harvest *ret, struct err *e);
    int (*distrust)(struct cloud *c, const char *tracker, const char *why,
                    char **ret_tracker, struct err *e);
    int (*quiesce)(struct cloud *c, const char *token, uint64_t deadline_ms,
                   json_t **ret_steps, struct err *e);
    int (*commit)(struct cloud *c, const char *token, struct err *e);
    int (*release)(struct cloud *c, const char *token, bool forget, struct err *e);
    // Bytes a second that may pass to and from it, TLS included; counted so far in
    // *ret_bytes.
    void (*limit)(struct cloud *c, struct rate *rate /* borrowed */, uint64_t *ret_bytes);
};
struct cloud {
    const struct cloud_ops *ops;
};
extern const struct cloud_ops *const cloud_platforms[]; // ends with NULL
// The platform of an address, NULL when it is a plain file name.
const struct cloud_ops *cloud_find(const char *address);
int cloud_open(const char *address, const char *state_dir, struct cloud **ret,
               struct err *e); // ERR_USAGE: lists the known schemes
void cloud_close(struct cloud *c);
DEFINE_AUTO(cloud_close, struct cloud *)

// --- agent/: servers that run, each by the agent that was enrolled on it

struct agent_row {
    char *name;
    char *address;     // where it listens, NULL: it dials us…
    char *listen;      // …here
    uint8_t pin[32];   // of its key, see net/net.h
    uint64_t enrolled; // wall clock
};
void agent_row_done(struct agent_row *row);
typedef int agent_row_visitor(void *context, const struct agent_row *row, struct err *e);
int agent_rows(const char *state_dir, agent_row_visitor *visit, void *context,
               struct err *e);
// By name or by address. ERR_REFUSED: none.
int agent_row_find(const char *state_dir, const char *word, struct agent_row *ret,
                   struct err *e);
int agent_row_write(const char *state_dir, const struct agent_row *row, struct err *e);
int agent_row_remove(const char *state_dir, const char *name, struct err *e);

#define AGENT_TOKEN_LEN 40
void agent_token(char out[static AGENT_TOKEN_LEN + 1]); // a new one, about 198 bits
struct agent_enrolment {
    const char *state_dir, *name, *token;
    const char *address; // numeric, where the agent waits; NULL: we wait…
    const char *listen;  // …here, and it dials us from now on
    uint64_t timeout_ms;
};
// Until the agent has its certificate and is written down.
int agent_enroll(const struct agent_enrolment *n, struct err *e);

// SPDX-License-Identifier: Apache-2.0
// What changes on the disks of a running server. A tracker says which blocks were
// written; struct tracking chooses one, keeps what was not yet acknowledged and knows
// when nothing may be believed. Inside agent/ only.
//
//     kernel ─► live marks ──harvest──► pending marks ──ack──► gone
//              (tracker's)    clear first,  (ours, pinned with
//                             read after)    the live ones in bpffs)
//
// Rules (DESIGN.md section 6): a change is marked when its write completes; arm before
// the first read; a harvest clears first; counters of the kernel must agree.
#pragma once

#include "disk/disk.h"

// --- marks.c: a byte per granule of a disk

#define MARKS_LIMIT (36 * MIB) // of all live and pending marks together
// Memory that may be shared with the kernel (a BPF array's mmap) or private.
struct marks {
    uint8_t *v;
    uint64_t n;     // bytes
    unsigned shift; // a granule is 1 << shift bytes of the disk, 64 KiB at least
};
// The shift at which live and pending marks of these disks stay below MARKS_LIMIT.
unsigned marks_shift(const uint64_t *sizes, size_t n_disks);
void marks_set(struct marks *m, uint64_t off, uint64_t len);
uint64_t marks_bytes(const struct marks *m, uint64_t disk_size); // of the disk, marked
// Moves marks out of memory that others (the kernel) set at the same time: n bytes at
// `live`, rounded up to 8 there, each for 1 << above granules of `into`. A mark is in
// `into` before it is cleared, so that nobody's end in between loses one.
void marks_take(struct marks *into, uint8_t *live, uint64_t n, unsigned above);
// As disk_ops.extents: EXTENT_DATA where marked, else EXTENT_HOLE.
int marks_extents(const struct marks *m, uint64_t disk_size, uint64_t off, uint64_t len,
                  struct extents *out, uint64_t *ret_done);

// --- one tracker a file: track_bpf.c track_ftrace.c track_blktrace.c
//     track_classic.c

struct track_disk {
    char *name;   // "sda": of the whole disk in /sys/block
    char *node;   // /dev/sda
    char *serial; // NULL: none
    unsigned major, minor;
    uint64_t size; // bytes
};
// The kernel's number of a device in its events, unlike that of stat().
static inline uint32_t track_dev(unsigned major, unsigned minor)
{
    return major << 20 | minor;
}
struct track_seen {   // since the tracker started, of one disk
    uint64_t sectors; // of 512 bytes that it marked: written, discarded, zeroed
    uint64_t lost;    // events it knows to have missed
};
struct tracker;
struct tracker_ops {
    const char *name; // "bpf" "ftrace" "blktrace" "bpf-classic"
    const char *what; // one line for people
    // Marks from now on. `dir` is a folder in bpffs for what shall outlive us (NULL:
    // nothing does); what lies there already is taken over when *ret_again is set then.
    // ERR_REFUSED: this kernel cannot, and the text says what is missing.
    int (*start)(const struct track_disk *disks, size_t n_disks, unsigned shift,
                 const char *dir, struct tracker **ret, bool *ret_again, struct err *e);
    // Moves what is marked of disk i into `into` (OR) and clears it, clearing first.
    int (*harvest)(struct tracker *t, size_t i, struct marks *into, struct err *e);
    int (*seen)(struct tracker *t, size_t i, struct track_seen *ret, struct err *e);
    // `keep`: what is pinned goes on by itself.
    void (*stop)(struct tracker *t, bool keep);
};
struct tracker {
    const struct tracker_ops *ops;
};
extern const struct tracker_ops track_bpf_ops, track_ftrace_ops, track_blktrace_ops,
    track_classic_ops;
// In the order in which they are tried; ends with NULL.
extern const struct tracker_ops *const trackers[];

// --- tracking.c: the chosen tracker and what is pending

struct tracking;
struct tracking_options {
    const struct track_disk *disks; // borrowed while it lives
    size_t n_disks;
    const char *run_dir; // for our state, survives us but no reboot (/run/godwit-agent)
    const char *bpf_dir; // a folder in bpffs, ours alone; NULL: nothing outlives us
    const char *only; // a tracker by name (tests, --tracker), NULL: the best that works
};
struct tracking_state { // of one disk
    bool known;         // false: everything may have changed since the last harvest
    char why[160];      // why it is not known: "reboot" "events lost" "audit: 8 sectors
                        // short" "resized" …
    uint64_t epoch;     // random, another one whenever what was known is lost
    uint64_t pending;   // bytes of the last harvest, not acknowledged
    struct track_seen seen;
};
// Finds the first tracker that marks a block which it is shown (an O_DIRECT read is not
// enough: a write of a block of its own, of a file on each disk where one can be made,
// else of none and the audit decides), or goes on with one that an earlier process left.
// None works: *ret is a tracking whose disks are never known (hash scan).
int tracking_start(const struct tracking_options *o, struct tracking **ret,
                   struct err *e);
const char *tracking_name(const struct tracking *t); // of the tracker; "none"
// Harvest `id` of all disks at once: what an earlier harvest gave is kept unless `acked`
// names it, which says that the target has all of it durably. Asked again with the same
// id it changes nothing; a lower one is ERR_REFUSED. 0 arms: all disks are read after it,
// so what is marked is dropped and each disk is known, with another epoch. Like all here
// for one thread at a time.
int tracking_harvest(struct tracking *t, uint64_t id, uint64_t acked, struct err *e);
uint64_t tracking_last(const struct tracking *t); // id of the last harvest, 0: none
// Of the last harvest only. All data while the disk is not known.
int tracking_extents(struct tracking *t, size_t disk, uint64_t id, uint64_t off,
                     uint64_t len, struct extents *out, uint64_t *ret_done,
                     struct err *e);
struct tracking_state tracking_state(struct tracking *t, size_t disk);
// While nothing is written, after a harvest: the kernel's own count of sectors written
// and discarded against what was marked. A shortfall makes the disk unknown. *ret_short:
// sectors. ERR_RETRY: something is written.
int tracking_audit(struct tracking *t, size_t disk, uint64_t *ret_short, struct err *e);
// After this disk was unknown: from now on it is known again; what was before has to be
// found by hashes.
void tracking_rearm(struct tracking *t, size_t disk);
// What was reported wrongly: this tracker is not used again until the job ends, the next
// one is started, every disk is unknown.
int tracking_distrust(struct tracking *t, const char *why, struct err *e);
void tracking_stop(struct tracking *t, bool keep);

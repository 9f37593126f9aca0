// SPDX-License-Identifier: Apache-2.0
// What tracking.c knows, kept where neither our end nor a kill can take it. Inside agent/
// only.
#pragma once

#include "agent/track.h"

// --- track_state.c: a file in run_dir, mapped; only ever read again on the same boot

struct track_counts {
    uint64_t kernel; // sectors of 512 bytes written and discarded since the disk is there
    struct track_seen seen;
};
struct track_record { // of one disk
    char name[32], serial[80];
    uint64_t size, seq; // seq: the kernel's number of this very disk
    uint32_t major, minor;
    bool known;
    bool broken; // the tracker failed its test here: never known
    char why[160];
    uint64_t epoch;
    struct track_counts start; // the kernel's lead over the tracker was not greater
    uint64_t pending_off;      // in the file
};
struct track_head {
    char magic[16];
    uint64_t len; // of the file
    char boot_id[40];
    uint64_t token;      // names this tracker's folder in bpffs
    char tracker[16];    // "": none
    uint32_t distrusted; // a bit a row of trackers[]
    uint32_t shift, n_disks;
    uint64_t last; // harvest
    bool acked;    // it is, and its marks are gone
    struct track_record disks[];
};
struct track_state {
    struct track_head *head; // mapped
    int lock;
};
// *ret_lost: why what an earlier process left cannot be gone on with, "": there was
// nothing; NULL: it can, and `ret` is it.
int track_state_open(const char *run_dir, const struct track_disk *disks, size_t n_disks,
                     struct track_state *ret, const char **ret_lost, struct err *e);
struct marks track_state_pending(const struct track_state *s, size_t disk);
void track_state_close(struct track_state *s);
void track_state_remove(const char *run_dir);
uint64_t track_random(void);

// --- track_kernel.c: what the kernel says of a disk

struct track_kernel {
    uint64_t sectors; // of 512 bytes, written and discarded since it is there
    uint64_t size, seq;
    unsigned major, minor;
    bool counts; // queue/iostats
};
int track_kernel(const char *name, struct track_kernel *ret, struct err *e);
// Both counts at a moment of rest. ERR_RETRY: there was none within `ms`; then the
// kernel's lead over the tracker is not below that of *ret_least, nor above that of
// *ret_most.
int track_both(const struct track_disk *d, struct tracker *t, size_t i, uint64_t ms,
               struct track_counts *ret_least, struct track_counts *ret_most,
               struct err *e);

// --- track_probe.c: does it mark what it is shown?

// Writes a file without a name to a file system on the disk, if there is one. `pending`
// gets what is marked. ERR_REFUSED: the tracker did not see it.
int track_probe(const struct track_disk *d, struct tracker *t, size_t i,
                struct marks *pending, struct err *e);

// SPDX-License-Identifier: Apache-2.0
// Moves the blocks of one disk: rounds, workers, zero detection, hashes into the map,
// resume, verification, audits.
#pragma once

#include "disk/disk.h"
#include "map/map.h"

// Blocks in one request at most.
#define COPY_MAX_BLOCKS 64

enum verify_mode { VERIFY_NONE, VERIFY_SAMPLE, VERIFY_FULL };

struct copy_progress {    // a snapshot, taken now and then
    uint64_t done, total; // bytes of the disk, or of its used part, gone through
    uint64_t read, written,
        zeros; // bytes read from the source, written to the target, found to be zeros
    uint64_t equal, found;     // bytes not read: the target had them, another replica had
    uint64_t resumed;          // bytes that an earlier run had finished
    uint64_t bytes_per_second; // read, over the last seconds
    uint64_t left_ms;          // as far as it went lately, UINT64_MAX: not known yet
    unsigned workers;          // in use now
    uint64_t request_size;
    bool verifying;
};
struct copy_other { // another replica at the same target, and its map: paths
    const char *replica, *map;
};
struct copy_options {
    struct disk *source, *target; // borrowed; the target is at least as large
    struct map *map;              // of the target, borrowed; NULL: no resume, no hashes
    const struct extents *only; // allocation: what to copy; NULL: every byte. The rest of
                                // the target is zeroed
    bool target_is_zero; // a sparse file that this copy itself made; otherwise holes are
                         // zeroed explicitly
    // The source is in use. Then `only` names whole blocks, read as they are; a round
    // after the first touches nothing else. An open round: with `only` NULL it is gone on
    // with, else what is left of it is merged into the round that begins.
    bool live;
    // Of a live one by hashes: somebody else wrote to the target since the map was made,
    // so that its own bytes decide everywhere.
    bool target_changed;
    // The source's hashes (hashed_new); the map has BLAKE2b-256. Asked before a block is
    // read: what the target has is left alone. NULL: everything is read.
    struct disk *scan;
    const struct copy_other *others; // with scan: what they have is taken from there
    size_t n_others;
    struct rate *rate; // may be NULL
    enum verify_mode verify;
    uint64_t buffer_limit; // bytes of buffers in all, 0: 32 MiB
    void (*progress)(
        void *context,
        const struct copy_progress *p); // about five times a second, from one thread
    void *progress_context;
    // Asked all the time, from the caller's thread: -1 ends the copy, after a checkpoint
    // when it is ERR_CANCELLED. May be NULL; gets progress_context.
    int (*poll)(void *context, struct err *e);
    // Of copy_verify alone: these blocks (NULL: all of them), until clock_ms() is this
    // (0: to the end).
    const struct extents *verify_only;
    uint64_t verify_until_ms;
};
struct copy_result {
    struct copy_progress final;
    uint64_t copy_ms, verify_ms;
    uint64_t verified;        // bytes compared
    uint64_t mismatched;      // blocks that differ: the copy is failed then
    uint8_t digest[HASH_LEN]; // of the map, when there is one; of a live round zeros
};
// Resumes by the map's watermark. Cancelled: ERR_CANCELLED after a checkpoint. At most 64
// MiB or 5 s of work is ever not behind a checkpoint.
int copy_run(const struct copy_options *options, struct copy_result *ret, struct err *e);
// Reads the replica (and the source, when not NULL; its hashes, when options->scan) and
// compares with the map. SAMPLE:
// 1/64 of the blocks, seeded, and all metadata-sized extents at both ends; FULL: every
// block that has an entry, and that blocks without one read as zeros.
int copy_verify(struct disk *source, struct disk *replica, struct map *map,
                enum verify_mode mode, const struct copy_options *options,
                struct copy_result *ret, struct err *e);
// --- hot.c: where lost writes live

// Blocks that harvests named, with the round of the last one that did. At most HOT_MAX:
// the oldest are forgotten. Begins with zeros.
#define HOT_MAX 16384
struct hot_block {
    uint64_t block;
    uint32_t round;
};
struct hot {
    struct hot_block *v; // sorted by block
    size_t n, cap;
};
void hot_add(struct hot *h, const struct extents *named, uint32_t round);
// What the map knows of them, for a process that comes later: entries of all rounds after
// the first.
int hot_load(struct hot *h, struct map *map, struct err *e);
bool hot_has(const struct hot *h, uint64_t block);
void hot_done(struct hot *h);

// --- audit.c: the map against the source

struct audit_options {
    const struct hot *hot;      // asked about first; may be NULL
    const struct extents *skip; // not asked about; may be NULL
    size_t n;                   // blocks at most
    uint64_t until_ms;          // clock_ms() when the last request begins; 0: any time
};
struct audit_result {
    struct extents differ; // known, and other than the map says
    struct extents fresh;  // near hot blocks, and never copied: with data now
    size_t n_asked;        // blocks
};
// Compares blocks with the source's hashes. What differs a source that is in use has
// changed, and the next harvests have to say so. One that they do not know of: the
// tracker is wrong.
int copy_audit(struct disk *hashes, struct map *map, const struct audit_options *o,
               struct audit_result *ret, struct err *e);
void audit_result_done(struct audit_result *r);
// The blocks that have an entry.
int copy_known(struct map *map, struct extents *ret, struct err *e);

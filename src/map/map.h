// SPDX-License-Identifier: Apache-2.0
// What is known about a disk beside its bytes: the replica map (a hash and a round per
// block, so that a copy can be resumed, verified and compared) and the allocation (what
// of a disk is in use).
#pragma once

#include "disk/disk.h"

// --- map.c: the replica map
// -----------------------------------------------------------------------

#define MAP_BLOCK (64 * KIB)

// On disk: a header (magic, version, algorithm, block size, replica size, source
// identity, replica's inode and size, round, watermark, checksum) in two alternating
// sectors, then the rounds' extents, then one entry {hash, round} a block at a fixed
// place, in a sparse file: a block of zeros has no entry and takes no room. The layout is
// drawn at the top of map.c.
struct map;

// XXH3-128 proves a copy; BLAKE2b-256 is for where an equal hash means that a block is
// not sent.
enum map_hash { MAP_XXH3, MAP_BLAKE2B };
#define MAP_HASH_MAX 32 // bytes; HASH_LEN or STRONG_LEN of them are used

struct map_key {
    const char *replica; // path of the replica; its inode is kept
    uint64_t size;       // of the disk, bytes
    const char *source;  // free text that names source and state (path, size, mtime,
                         // snapshot): another one means that nothing may be resumed
    enum map_hash hash;  // another one than the map has: as another source
};
struct map_state {
    uint32_t round; // 0: nothing yet; rounds count from 1
    bool round_complete;
    uint64_t watermark; // bytes: everything of the open round below it is durable on the
                        // replica
};

// Opens PATH, or makes it when there is none. When it belongs to another source, size or
// inode, or is damaged: ERR_REFUSED, and the text says which; map_create begins anew.
int map_open(const char *path, const struct map_key *key, struct map **ret,
             struct err *e);
int map_create(const char *path, const struct map_key *key, struct map **ret,
               struct err *e);
// Is PATH a sound map of the replica that lies there now, whatever its source was? What
// it says yes to was made by us and may be made anew. No map at PATH: ERR_FAILED.
int map_is_of(const char *path, const char *replica, bool *ret, struct err *e);
// May the file at PATH be replaced by a map? Only a map, of whatever replica and state,
// one that was just begun, or nothing at all; everything else is somebody's: ERR_REFUSED.
int map_may_replace(const char *path, struct err *e);
// Another job's map, to be read while its owner may be writing: without its lock, without
// what it belongs to. What its entries say is a hint, map_state and map_todo say nothing.
int map_peek(const char *path, struct map **ret, struct err *e);
void map_close(struct map *m);
DEFINE_AUTO(map_close, struct map *)
struct map_state map_state(const struct map *m);
uint64_t map_size(const struct map *m); // of the disk, as in its key

// Rule: a round's extents are durable before its first write reaches the replica. Opens
// round state.round + 1.
int map_begin(struct map *m, const struct extents *todo, struct err *e);
// The extents of the open round, as given to map_begin.
int map_todo(struct map *m, struct extents *ret, struct err *e);
// The hash of a block as this map keeps it.
void map_hash(const struct map *m, const void *data, size_t len,
              uint8_t ret_hash[static MAP_HASH_MAX]);
enum map_hash map_algorithm(const struct map *m);
// Remembers a block of the open round (thread safe, memory bounded; not durable before
// map_checkpoint). hash NULL: the block is zeros.
int map_set(struct map *m, uint64_t block, const uint8_t *hash, struct err *e);
// The replica was flushed up to `watermark`: makes the entries durable, then the
// watermark.
int map_checkpoint(struct map *m, uint64_t watermark, struct err *e);
// The replica was flushed: the round is complete.
int map_complete(struct map *m, struct err *e);
// Entries of `n` blocks from `block` on.
struct map_entry {
    uint8_t hash[MAP_HASH_MAX];
    uint32_t round; // 0: no entry, the block is zeros or was never in use
};
int map_get(struct map *m, uint64_t block, size_t n, struct map_entry *ret,
            struct err *e);
// The first block from `block` on that may have an entry, or the number of blocks: what
// lies before it is zeros or was never in use, found without reading entries.
int map_next(struct map *m, uint64_t block, uint64_t *ret, struct err *e);
// One hash over all entries: equal maps of equal disks give the same, whatever the order
// of copying.
int map_digest(struct map *m, uint8_t ret_hash[static HASH_LEN], struct err *e);

// --- allocation.c: what of a set of disks is in use
// -----------------------------------------------

// One thing found on a disk, in the order found; a tree by `parent`.
struct volume {
    int parent;    // index in allocation.volumes, -1: a disk itself
    unsigned disk; // index of the disk that holds it (the first, for volume groups)
    char *kind;    // "disk" "partition" "lv" "pv" …
    char *name;    // "1" for a partition, "vg/root" for a logical volume
    char *table;   // of a disk: "gpt" "dos" or NULL
    uint32_t table_sector; // size of the sectors the table counts in; 0: not known
    char *content;         // "ext4" "xfs" "btrfs" "ntfs" "vfat" "swap" "LVM2_member"
                           // "crypto_LUKS" or NULL
    char *uuid, *label, *part_uuid; // NULL when none
    uint64_t off, len;   // on its disk (partitions); off is 0 for logical volumes
    uint64_t used;       // bytes counted as in use, metadata included
    char *whole_because; // not NULL: counted as wholly used, and why ("file system is
                         // dirty")
    bool esp, bios_boot, active; // partition flags
};
struct allocation {
    struct extents *
        used; // one per disk: data extents that must be copied; the rest is provably free
    size_t n_disks;
    VEC(struct volume) volumes;
};
// Of a server that runs: these file systems were frozen and thawed while every write to
// their disks was being recorded already. Their journals are not empty, which proves
// nothing against their bitmaps then (DESIGN.md section 6): whatever a bitmap calls free
// was free at some time after the freeze, and what was written there since is recorded.
struct allocation_live {
    const struct strings *uuids; // of file systems, as in volume.uuid
};
// Never fails because of what is on the disks (that is "wholly used" with a reason);
// fails when a disk cannot be read. The disks of one guest together: volume groups and
// btrfs span them. Reads are bounded: memory stays under 32 MiB whatever the disks hold.
// live NULL: the machine is off. A UUID that two volumes have counts for neither.
int allocation_read(struct disk *const *disks, size_t n_disks,
                    const struct allocation_live *live, struct allocation *ret,
                    struct err *e);
void allocation_done(struct allocation *a);
__attribute__((unused)) static inline void auto_allocation_done(struct allocation *a)
{
    allocation_done(a);
}
json_t *allocation_json(const struct allocation *a);

// A disk that shows only the used ranges of `next`: the rest reads as zeros and is
// reported as a hole.
struct disk *used_new(struct disk *next /* taken */,
                      const struct extents *used /* borrowed */);

// --- one reader a file system: fs_ext.c fs_xfs.c fs_btrfs.c fs_ntfs.c fs_fat.c fs_swap.c
// ----------

struct fs_reader {
    const char *content; // as in volume.content; ext2, ext3 and ext4 have a row each
    // Appends what is in use of the file system on `d` (which begins at 0 and has the
    // volume's size) to `ret_used`, data extents in any order. ERR_REFUSED: cannot be
    // trusted (dirty, hibernated, unknown feature, damaged); the text becomes
    // whole_because. ERR_FAILED: the disk cannot be read.
    int (*used)(struct disk *d, struct extents *ret_used, struct err *e);
    // The same of one that is mounted and was settled (allocation_live). NULL: never.
    int (*used_live)(struct disk *d, struct extents *ret_used, struct err *e);
    bool shows_mounted; // `used` refuses it from the moment it is mounted for writing
};
// All readers, ended by a row without content.
extern const struct fs_reader fs_readers[];

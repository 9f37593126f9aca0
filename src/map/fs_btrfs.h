// SPDX-License-Identifier: Apache-2.0
// btrfs chunks, nodes and trees, for fs_btrfs.c.
#pragma once

#include "used_map.h"

#define BTRFS_MAX_LEVELS 8
#define BTRFS_MAX_CHUNKS 65536
#define BTRFS_KEY_LEN 17
#define BTRFS_CHUNK_HEAD 48 // bytes of a chunk item before its stripes, 32 bytes each

enum btrfs_object {
    BTRFS_ROOT_TREE = 1,
    BTRFS_EXTENT_TREE = 2,
    BTRFS_CHUNK_TREE = 3,
    BTRFS_BLOCK_GROUP_TREE = 11,
    BTRFS_FIRST_CHUNK = 256,
};
enum btrfs_item {
    BTRFS_ROOT_ITEM = 132,
    BTRFS_EXTENT_ITEM = 168,
    BTRFS_METADATA_ITEM = 169,
    BTRFS_EXTENT_OWNER_REF = 172,
    BTRFS_TREE_BLOCK_REF = 176,
    BTRFS_EXTENT_DATA_REF = 178,
    BTRFS_SHARED_BLOCK_REF = 182,
    BTRFS_SHARED_DATA_REF = 184,
    BTRFS_BLOCK_GROUP_ITEM = 192,
    BTRFS_CHUNK_ITEM = 228,
};

struct btrfs_key {
    uint64_t object, offset;
    uint8_t type;
};
// A range of logical addresses and where it lies on the device, once or twice (DUP).
struct btrfs_chunk {
    uint64_t logical, len, type;
    uint64_t physical[2];
    unsigned n_copies;
    bool counted;           // has its block group item
    uint64_t claimed, used; // bytes in use by that item, and by the extents
};
struct btrfs_chunks { // ascending by logical address
    VEC(struct btrfs_chunk) list;
};
void btrfs_chunks_done(struct btrfs_chunks *c);
__attribute__((unused)) static inline void auto_btrfs_chunks_done(struct btrfs_chunks *c)
{
    btrfs_chunks_done(c);
}

struct btrfs {
    struct disk *d;
    unsigned checksum; // type
    uint32_t node, sector;
    uint64_t generation;
    uint64_t device_id, device_size;
    uint8_t device_uuid[16];
    uint8_t node_uuid[16]; // what nodes carry as the file system's id
    struct btrfs_chunks chunks;
};

// Can `type` be verified here?
bool btrfs_checksum_known(unsigned type);
// Is the checksum in the first 32 bytes right for the rest?
bool btrfs_checksum_ok(unsigned type, const uint8_t *data, size_t len);

struct btrfs_key btrfs_get_key(const uint8_t *p);
// Takes a chunk item apart and appends it; chunks come in ascending order.
int btrfs_add_chunk(const struct btrfs *fs, uint64_t logical, const uint8_t *item,
                    size_t len, struct btrfs_chunks *to, struct err *e);
// The chunk that holds all of [logical, logical + len); NULL: none.
struct btrfs_chunk *btrfs_find_chunk(const struct btrfs_chunks *c, uint64_t logical,
                                     uint64_t len);

struct btrfs_root {
    uint64_t owner, address, generation;
    unsigned level;
};
typedef int btrfs_item_fn(void *arg, const struct btrfs_key *key, const uint8_t *item,
                          size_t len, struct err *e);
// Calls `fn` for every item of a tree in the order of keys. Every node is verified:
// checksum, place, owner, generation, level, and that all keys ascend, which also bounds
// the walk.
int btrfs_walk(const struct btrfs *fs, const struct btrfs_root *root, btrfs_item_fn *fn,
               void *arg, struct err *e);

// SPDX-License-Identifier: Apache-2.0
// A thin pool counts the references to each of its data blocks in a space map: two bits a
// block (3: more than two), in bitmap blocks that a B-tree lists. A block with none is
// free; that covers all thin volumes and their snapshots at once, without reading their
// own trees. The kernel commits by writing the superblock last, so what it names is
// whole. Described by the kernel's drivers/md/dm-thin-metadata.c and persistent-data/:
//
//     superblock  0 CRC  4 flags  8 its number  32 magic  40 version  64 root of the data
//                 space map {blocks 8, allocated 8, B-tree 8, …}  336 sectors a data
//                 block
//     node        0 CRC  4 flags: 1 internal 2 leaf  8 its number  16 entries  20 room
//                 24 size of a value  32 keys 8 …, then the values
//     bitmap      0 CRC  8 its number  16 two bits a block

#include "lvm_thin.h"

#include "fs.h"
#include "used_map.h"

#define BLOCK ((size_t)4096)
#define NODE_HEADER 32
#define BITMAP_HEADER 16
#define PER_BITMAP ((BLOCK - BITMAP_HEADER) * 4)
#define DEPTH_MAX 8
#define SUPERBLOCK_XOR 160774
#define NODE_XOR 121107
#define BITMAP_XOR 240779
#define SUPERBLOCK_MAGIC 27022010
#define NEEDS_CHECK 1

struct thin {
    struct disk *meta;
    uint64_t chunk, size;
    uint64_t n_blocks, n_bitmaps, n_seen; // bitmaps follow each other by their keys
    uint64_t n_used;
    struct extents *used;
};

static int damaged(const char *what, struct err *e)
{
    return err_set(e, ERR_REFUSED, "the thin pool's metadata is damaged (%s)", what);
}

static int read_block(struct thin *t, uint64_t number, uint32_t xor, size_t number_at,
                      uint8_t *block, struct err *e)
{
    if (number >= t->meta->size / BLOCK)
        return damaged("a block lies outside", e);
    if (disk_read(t->meta, block, BLOCK, number * BLOCK, e))
        return -1;
    uint32_t sum = ~fs_crc32c(block + 4, BLOCK - 4, 0, 0) ^ xor;
    if ((get_le32(block) != sum && !fs_checksums_ignored()) ||
        get_le64(block + number_at) != number)
        return damaged("a checksum is wrong", e);
    return 0;
}

static int add_bitmap(struct thin *t, uint64_t number, struct err *e)
{
    uint8_t block[BLOCK];
    uint64_t first = t->n_seen * PER_BITMAP;
    if (read_block(t, number, BITMAP_XOR, 8, block, e))
        return -1;
    for (size_t i = 0; i < PER_BITMAP && first + i < t->n_blocks; i++) {
        if (!(block[BITMAP_HEADER + i / 4] >> i % 4 * 2 & 3))
            continue;
        uint64_t off = (first + i) * t->chunk;
        if (off >= t->size)
            return damaged("it maps what lies outside the pool", e);
        fs_add(t->used, off, min_u64(t->chunk, t->size - off));
        t->n_used++;
    }
    t->n_seen++;
    return 0;
}

static int walk(struct thin *t, uint64_t number, unsigned depth, struct err *e)
{
    AUTO(free) void *memory = xmalloc(BLOCK);
    uint8_t *node = memory;
    if (depth > DEPTH_MAX)
        return damaged("its tree is too deep", e);
    if (cancel_check(e) || read_block(t, number, NODE_XOR, 8, node, e))
        return -1;
    uint32_t flags = get_le32(node + 4), n = get_le32(node + 16),
             room = get_le32(node + 20);
    bool leaf = flags == 2;
    uint32_t value = leaf ? 16 : 8;
    if ((!leaf && flags != 1) || get_le32(node + 24) != value || n > room ||
        room > (BLOCK - NODE_HEADER) / (8 + value) || n == 0)
        return damaged("a node is", e);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *v = node + NODE_HEADER + (size_t)room * 8 + (size_t)i * value;
        if (t->n_seen >= t->n_bitmaps)
            return damaged("it has too many bitmaps", e);
        if (leaf && get_le64(node + NODE_HEADER + (size_t)i * 8) != t->n_seen)
            return damaged("a bitmap is missing", e);
        if (leaf ? add_bitmap(t, get_le64(v), e) : walk(t, get_le64(v), depth + 1, e))
            return -1;
    }
    return 0;
}

int lvm_thin_used(struct disk *meta, uint64_t chunk, uint64_t size,
                  struct extents *ret_used, struct err *e)
{
    uint8_t sb[BLOCK];
    struct thin t = {.meta = meta, .chunk = chunk, .size = size, .used = ret_used};
    if (read_block(&t, 0, SUPERBLOCK_XOR, 8, sb, e))
        return -1;
    if (get_le64(sb + 32) != SUPERBLOCK_MAGIC || get_le32(sb + 40) < 1 ||
        get_le32(sb + 40) > 2)
        return damaged("it is of another version", e);
    if (get_le32(sb + 4) & NEEDS_CHECK)
        return err_set(e, ERR_REFUSED, "the thin pool needs a check");
    if (chunk == 0 || (uint64_t)get_le32(sb + 336) * 512 != chunk)
        return damaged("its block size is not LVM's", e);
    t.n_blocks = get_le64(sb + 64);
    if (t.n_blocks > size / chunk + 1)
        return damaged("it is larger than the pool", e);
    t.n_bitmaps = (t.n_blocks + PER_BITMAP - 1) / PER_BITMAP;
    if (t.n_bitmaps && walk(&t, get_le64(sb + 80), 0, e))
        return -1;
    if (t.n_seen != t.n_bitmaps || t.n_used != get_le64(sb + 72))
        return damaged("its counts disagree", e);
    return 0;
}

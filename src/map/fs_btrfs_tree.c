// SPDX-License-Identifier: Apache-2.0
// btrfs B-trees (btrfs documentation, "On-disk Format"): nodes at logical addresses,
// which chunks map to the device.
//
//     header  checksum 32, fs uuid 16, address 8, flags 8, chunk tree uuid 16,
//             generation 8, owner 8, number of items 4, level 1
//     node    {key 17, child's address 8, child's generation 8}…
//     leaf    {key 17, offset 4, size 4}…          …data of the items, from the end
//
// A key is object 8, type 1, offset 8. The first key of a child is its key in the parent.

#include "fs_btrfs.h"

#include <xxhash.h>

#define HEADER 101
#define POINTER (BTRFS_KEY_LEN + 16)
#define ITEM (BTRFS_KEY_LEN + 8)
#define CHECKSUM 32

// Bits of a chunk's type.
#define TYPE_KNOWN 0x7ff
#define TYPE_PROFILES 0x7f8
#define TYPE_DUP 0x20

void btrfs_chunks_done(struct btrfs_chunks *c)
{
    vec_done(&c->list);
}

static bool crc32c_ok(const uint8_t *data, size_t len)
{
    return get_le32(data) == fs_crc32c(data + CHECKSUM, len - CHECKSUM, 0, 0);
}

static bool xxhash_ok(const uint8_t *data, size_t len)
{
    return get_le64(data) == XXH64(data + CHECKSUM, len - CHECKSUM, 0);
}

static bool (*const checksums[])(const uint8_t *data, size_t len) = {crc32c_ok,
                                                                     xxhash_ok};

bool btrfs_checksum_known(unsigned type)
{
    return type < ARRAY_LEN(checksums);
}

bool btrfs_checksum_ok(unsigned type, const uint8_t *data, size_t len)
{
    return fs_checksums_ignored() || checksums[type](data, len);
}

struct btrfs_key btrfs_get_key(const uint8_t *p)
{
    return (struct btrfs_key){get_le64(p), get_le64(p + 9), p[8]};
}

static int compare(const struct btrfs_key *a, const struct btrfs_key *b)
{
    if (a->object != b->object)
        return a->object < b->object ? -1 : 1;
    if (a->type != b->type)
        return a->type < b->type ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

int btrfs_add_chunk(const struct btrfs *fs, uint64_t logical, const uint8_t *item,
                    size_t len, struct btrfs_chunks *to, struct err *e)
{
    struct btrfs_chunk c = {.logical = logical};
    if (len < BTRFS_CHUNK_HEAD)
        return err_set(e, ERR_REFUSED, "a btrfs chunk is damaged");
    c.len = get_le64(item);
    c.type = get_le64(item + 24);
    c.n_copies = get_le16(item + 44);
    uint64_t profile = c.type & TYPE_PROFILES;
    if (c.type & ~(uint64_t)TYPE_KNOWN || (profile && profile != TYPE_DUP))
        return err_set(e, ERR_REFUSED,
                       "btrfs keeps chunks as type 0x%llx; only single and DUP are read",
                       (unsigned long long)c.type);
    uint64_t end, before = 0; // of the chunk in front
    if (to->list.n)
        before = to->list.v[to->list.n - 1].logical + to->list.v[to->list.n - 1].len;
    if (c.n_copies != (profile ? 2 : 1) || len != BTRFS_CHUNK_HEAD + c.n_copies * 32 ||
        !c.len || c.len % fs->sector || logical % fs->sector ||
        !add_fits(logical, c.len, &end) || logical < before ||
        to->list.n == BTRFS_MAX_CHUNKS)
        return err_set(e, ERR_REFUSED, "a btrfs chunk is damaged");
    for (unsigned i = 0; i < c.n_copies; i++) {
        const uint8_t *stripe = item + BTRFS_CHUNK_HEAD + i * 32;
        c.physical[i] = get_le64(stripe + 8);
        if (get_le64(stripe) != fs->device_id ||
            memcmp(stripe + 16, fs->device_uuid, 16) != 0 ||
            c.physical[i] > fs->device_size || c.len > fs->device_size - c.physical[i])
            return err_set(e, ERR_REFUSED, "a btrfs chunk lies on another device");
    }
    vec_push(&to->list, c);
    return 0;
}

struct btrfs_chunk *btrfs_find_chunk(const struct btrfs_chunks *c, uint64_t logical,
                                     uint64_t len)
{
    size_t low = 0, high = c->list.n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c->list.v[middle].logical <= logical)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return NULL;
    struct btrfs_chunk *found = &c->list.v[low - 1];
    uint64_t in = logical - found->logical;
    return in < found->len && len <= found->len - in ? found : NULL;
}

struct walk {
    const struct btrfs *fs;
    const struct btrfs_root *root;
    btrfs_item_fn *fn;
    void *arg;
    bool any;
    struct btrfs_key last; // of the items so far, if any
    // The path from the root: level 0 is the leaf.
    struct {
        uint8_t *data;
        uint32_t n, at; // items; the next one
    } path[BTRFS_MAX_LEVELS];
};

static int damaged(const struct walk *w, uint64_t address, const char *how, struct err *e)
{
    return err_set(e, ERR_REFUSED, "btrfs tree %llu is damaged: the node at %llu %s",
                   (unsigned long long)w->root->owner, (unsigned long long)address, how);
}

// Reads the node at `address` into its level of the path and verifies its header.
static int read_node(struct walk *w, uint64_t address, uint64_t generation,
                     unsigned level, struct err *e)
{
    const struct btrfs *fs = w->fs;
    uint8_t *p = w->path[level].data;
    const struct btrfs_chunk *c = btrfs_find_chunk(&fs->chunks, address, fs->node);
    if (address % fs->sector || !c)
        return damaged(w, address, "lies nowhere", e);
    if (fs_read(fs->d, p, fs->node, c->physical[0] + (address - c->logical),
                "a btrfs node", e) < 0)
        return -1;
    if (!btrfs_checksum_ok(fs->checksum, p, fs->node))
        return damaged(w, address, "has a wrong checksum", e);
    if (memcmp(p + 32, fs->node_uuid, 16) != 0 || get_le64(p + 48) != address ||
        get_le64(p + 88) != w->root->owner || p[100] != level)
        return damaged(w, address, "is another one", e);
    if (get_le64(p + 80) != generation || generation > fs->generation)
        return damaged(w, address, "is of another time", e);
    uint32_t n = get_le32(p + 96);
    size_t most = (fs->node - HEADER) / (level ? POINTER : ITEM);
    if (n > most || (!n && (level || w->root->level)))
        return damaged(w, address, "has a wrong number of items", e);
    w->path[level].n = n;
    w->path[level].at = 0;
    return 0;
}

static int walk_leaf(struct walk *w, struct err *e)
{
    const uint8_t *p = w->path[0].data;
    uint64_t address = get_le64(p + 48);
    for (uint32_t i = 0; i < w->path[0].n; i++) {
        const uint8_t *item = p + HEADER + i * ITEM;
        struct btrfs_key key = btrfs_get_key(item);
        size_t off = get_le32(item + 17), len = get_le32(item + 21);
        if (w->any && compare(&w->last, &key) >= 0)
            return damaged(w, address, "is out of order", e);
        if (off > w->fs->node - HEADER || len > w->fs->node - HEADER - off)
            return damaged(w, address, "has an item outside itself", e);
        w->any = true;
        w->last = key;
        if (w->fn(w->arg, &key, p + HEADER + off, len, e) < 0)
            return -1;
    }
    return 0;
}

// Steps to the next child of the lowest inner node that has one left. *ret_level: the
// level of what was read last, and then of what was read now; BTRFS_MAX_LEVELS at the
// end of the tree.
static int next_child(struct walk *w, unsigned *ret_level, struct err *e)
{
    unsigned level = *ret_level ? *ret_level : 1;
    while (level <= w->root->level && w->path[level].at == w->path[level].n)
        level++;
    if (level > w->root->level) {
        *ret_level = BTRFS_MAX_LEVELS;
        return 0;
    }
    const uint8_t *pointer = w->path[level].data + HEADER + w->path[level].at++ * POINTER;
    struct btrfs_key key = btrfs_get_key(pointer), first;
    uint64_t address = get_le64(pointer + 17);
    if (w->any && compare(&w->last, &key) >= 0)
        return damaged(w, address, "is out of order", e);
    if (read_node(w, address, get_le64(pointer + 25), level - 1, e) < 0)
        return -1;
    first = btrfs_get_key(w->path[level - 1].data + HEADER);
    if (compare(&first, &key) != 0)
        return damaged(w, address, "does not begin with its key", e);
    *ret_level = level - 1;
    return 0;
}

int btrfs_walk(const struct btrfs *fs, const struct btrfs_root *root, btrfs_item_fn *fn,
               void *arg, struct err *e)
{
    struct walk w = {.fs = fs, .root = root, .fn = fn, .arg = arg};
    if (root->level >= BTRFS_MAX_LEVELS)
        return err_set(e, ERR_REFUSED, "btrfs tree %llu is too high",
                       (unsigned long long)root->owner);
    AUTO(free) void *nodes = xmalloc((size_t)fs->node * (root->level + 1));
    for (unsigned i = 0; i <= root->level; i++)
        w.path[i].data = (uint8_t *)nodes + (size_t)i * fs->node;
    unsigned level = root->level;
    if (read_node(&w, root->address, root->generation, level, e) < 0)
        return -1;
    while (level < BTRFS_MAX_LEVELS) {
        if (cancel_check(e) < 0 || (level == 0 && walk_leaf(&w, e) < 0) ||
            next_child(&w, &level, e) < 0)
            return -1;
    }
    return 0;
}

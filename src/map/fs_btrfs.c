// SPDX-License-Identifier: Apache-2.0
// btrfs on one device, profiles single and DUP (btrfs documentation, "On-disk Format").
//
//     superblock ─► chunks of the system ─► chunk tree: logical → device
//          └──────► root tree ─► extent tree: what is allocated, by logical address
//
// In use are the extents of the extent tree at each of their copies, the first MiB, and
// every place of a superblock. The free space tree and cache say the same for others'
// benefit; the extent tree is what they are made from. Each block group states how many
// bytes of it are in use; the extents found must add up to that, and all to what the
// superblock says. A log tree (fsync since the last commit) lies in blocks that the
// extent tree calls free: refused.
//
// Live and settled: freezing committed everything, so the superblock is of that commit or
// a later one, and a log tree was written after it. Nodes are never changed in place; one
// that was freed and written again since has another generation than what points to it,
// so a walk that comes to its end saw one commit. When it does not and there has been
// another commit, it is tried again.

#include "fs.h"
#include "fs_btrfs.h"

#include <unistd.h>

#define LIVE_TRIES 5
#define LIVE_PAUSE_US 20000
#define SUPER_OFF (64 * KIB)
#define SUPER_LEN 4096
#define SUPER_STRIPE (64 * KIB) // never allocated around a superblock
#define HEAD_LEN MIB            // reserved
#define SYS_ARRAY_OFF 811
#define SYS_ARRAY_MAX 2048

// Features that do not change how allocation is stored. Incompatible: mixed back
// references, default subvolume, mixed groups, LZO, zstd, big metadata, extended
// references, RAID5/6 and RAID1C3/4 (seen in the chunks), skinny metadata, no holes,
// metadata UUID, simple quotas. Read-only compatible: free space tree (valid), verity,
// block group tree.
#define INCOMPAT_KNOWN 0x10fff
#define INCOMPAT_METADATA_UUID 0x400
#define RO_COMPAT_KNOWN 0xf
#define RO_COMPAT_BLOCK_GROUP_TREE 0x8
#define FLAGS_KNOWN 0x3 // written, relocated

static const uint64_t super_offs[] = {64 * KIB, 64 * MIB, 256 * GIB, 1024 * TIB};

struct super {
    struct btrfs_root root_tree, chunk_tree;
    uint64_t bytes_used;
    bool has_group_tree;
    uint8_t sys_array[SYS_ARRAY_MAX];
    size_t sys_len;
};

static bool is_power_of_2(uint64_t v)
{
    return v && !(v & (v - 1));
}

static int check_features(const uint8_t *sb, bool live, struct err *e)
{
    uint64_t incompat = get_le64(sb + 188), ro = get_le64(sb + 180);
    if (incompat & ~(uint64_t)INCOMPAT_KNOWN || ro & ~(uint64_t)RO_COMPAT_KNOWN ||
        get_le64(sb + 56) & ~(uint64_t)FLAGS_KNOWN)
        return err_set(e, ERR_REFUSED,
                       "btrfs features are not known: 0x%llx 0x%llx 0x%llx",
                       (unsigned long long)incompat, (unsigned long long)ro,
                       (unsigned long long)get_le64(sb + 56));
    if (get_le64(sb + 136) != 1)
        return err_set(e, ERR_REFUSED, "btrfs is spread over %llu devices",
                       (unsigned long long)get_le64(sb + 136));
    if (!live && get_le64(sb + 96))
        return err_set(e, ERR_REFUSED, "btrfs was not cleanly unmounted (it has a log)");
    return 0;
}

static int parse_super(const uint8_t *sb, bool live, struct btrfs *fs, struct super *s,
                       struct err *e)
{
    if (memcmp(sb + 64, "_BHRfS_M", 8) != 0 || get_le64(sb + 48) != SUPER_OFF)
        return err_set(e, ERR_REFUSED, "the btrfs superblock makes no sense");
    fs->checksum = get_le16(sb + 196);
    if (!btrfs_checksum_known(fs->checksum))
        return err_set(e, ERR_REFUSED, "btrfs checksums of type %u cannot be verified",
                       fs->checksum);
    if (!btrfs_checksum_ok(fs->checksum, sb, SUPER_LEN))
        return err_set(e, ERR_REFUSED, "the btrfs superblock has a wrong checksum");
    if (check_features(sb, live, e) < 0)
        return -1;
    fs->sector = get_le32(sb + 144);
    fs->node = get_le32(sb + 148);
    fs->generation = get_le64(sb + 72);
    fs->device_id = get_le64(sb + 201);
    fs->device_size = get_le64(sb + 209);
    memcpy(fs->device_uuid, sb + 267, 16);
    bool own_uuid = get_le64(sb + 188) & INCOMPAT_METADATA_UUID;
    memcpy(fs->node_uuid, sb + (own_uuid ? 571 : 32), 16);
    s->sys_len = get_le32(sb + 160);
    s->bytes_used = get_le64(sb + 120);
    s->has_group_tree = get_le64(sb + 180) & RO_COMPAT_BLOCK_GROUP_TREE;
    s->root_tree =
        (struct btrfs_root){BTRFS_ROOT_TREE, get_le64(sb + 80), fs->generation, sb[198]};
    s->chunk_tree = (struct btrfs_root){BTRFS_CHUNK_TREE, get_le64(sb + 88),
                                        get_le64(sb + 164), sb[199]};
    if (!is_power_of_2(fs->sector) || fs->sector < 512 || fs->sector > 64 * KIB ||
        !is_power_of_2(fs->node) || fs->node < fs->sector || fs->node < 4 * KIB ||
        fs->node > 64 * KIB || s->sys_len > SYS_ARRAY_MAX)
        return err_set(e, ERR_REFUSED, "the btrfs superblock makes no sense");
    memcpy(s->sys_array, sb + SYS_ARRAY_OFF, s->sys_len);
    if (fs->device_size > fs->d->size)
        return err_set(e, ERR_REFUSED, "the btrfs file system is larger than its volume");
    return 0;
}

// The chunks that hold the chunk tree stand in the superblock.
static int read_system_chunks(struct btrfs *fs, const struct super *s, struct err *e)
{
    const uint8_t *p = s->sys_array, *end = p + s->sys_len;
    while (p < end) {
        size_t left = (size_t)(end - p);
        if (left < BTRFS_KEY_LEN + BTRFS_CHUNK_HEAD)
            return err_set(e, ERR_REFUSED, "the btrfs superblock's chunks are damaged");
        struct btrfs_key key = btrfs_get_key(p);
        size_t len = BTRFS_CHUNK_HEAD + 32 * (size_t)get_le16(p + BTRFS_KEY_LEN + 44);
        if (key.type != BTRFS_CHUNK_ITEM || len > left - BTRFS_KEY_LEN)
            return err_set(e, ERR_REFUSED, "the btrfs superblock's chunks are damaged");
        if (btrfs_add_chunk(fs, key.offset, p + BTRFS_KEY_LEN, len, &fs->chunks, e) < 0)
            return -1;
        p += BTRFS_KEY_LEN + len;
    }
    return 0;
}

struct collect {
    const struct btrfs *fs;
    struct btrfs_chunks chunks;
};

static int chunk_item(void *arg, const struct btrfs_key *key, const uint8_t *item,
                      size_t len, struct err *e)
{
    struct collect *c = arg;
    if (key->type != BTRFS_CHUNK_ITEM) // the device's own item
        return 0;
    if (key->object != BTRFS_FIRST_CHUNK)
        return err_set(e, ERR_REFUSED, "a btrfs chunk is damaged");
    return btrfs_add_chunk(c->fs, key->offset, item, len, &c->chunks, e);
}

static int read_chunks(struct btrfs *fs, const struct super *s, struct err *e)
{
    struct collect c = {.fs = fs};
    if (btrfs_walk(fs, &s->chunk_tree, chunk_item, &c, e) < 0) {
        btrfs_chunks_done(&c.chunks);
        return -1;
    }
    btrfs_chunks_done(&fs->chunks);
    fs->chunks = c.chunks;
    return 0;
}

struct find_root {
    uint64_t wanted;
    struct btrfs_root found; // owner 0: not found
};

static int root_item(void *arg, const struct btrfs_key *key, const uint8_t *item,
                     size_t len, struct err *e)
{
    struct find_root *f = arg;
    if (key->type != BTRFS_ROOT_ITEM || key->object != f->wanted)
        return 0;
    if (len < 239 || key->offset)
        return err_set(e, ERR_REFUSED, "a root of btrfs is damaged");
    f->found = (struct btrfs_root){f->wanted, get_le64(item + 176), get_le64(item + 160),
                                   item[238]};
    return 0;
}

struct mark {
    struct btrfs *fs;
    struct used_map *m;
    uint64_t end;   // of the last extent
    uint64_t total; // bytes of all extents
};

static int mark_extent(struct mark *k, const struct btrfs_key *key, uint64_t len,
                       struct err *e)
{
    struct btrfs_chunk *c = btrfs_find_chunk(&k->fs->chunks, key->object, len);
    if (!len || len % k->fs->sector || key->object % k->fs->sector ||
        key->object < k->end || !c)
        return err_set(e, ERR_REFUSED, "the btrfs extent at %llu is damaged",
                       (unsigned long long)key->object);
    k->end = key->object + len;
    k->total += len;
    c->used += len;
    for (unsigned i = 0; i < c->n_copies; i++)
        used_map_add(k->m, c->physical[i] + (key->object - c->logical), len);
    return 0;
}

static int block_group(struct mark *k, const struct btrfs_key *key, const uint8_t *item,
                       size_t len, struct err *e)
{
    struct btrfs_chunk *c = btrfs_find_chunk(&k->fs->chunks, key->object, key->offset);
    if (!c || len < 24 || c->logical != key->object || c->len != key->offset ||
        c->type != get_le64(item + 16) || c->counted)
        return err_set(e, ERR_REFUSED, "the btrfs block group at %llu is damaged",
                       (unsigned long long)key->object);
    c->counted = true;
    c->claimed = get_le64(item);
    return 0;
}

static int extent_item(void *arg, const struct btrfs_key *key, const uint8_t *item,
                       size_t len, struct err *e)
{
    struct mark *k = arg;
    switch (key->type) {
    case BTRFS_EXTENT_ITEM:
        return mark_extent(k, key, key->offset, e);
    case BTRFS_METADATA_ITEM:
        return mark_extent(k, key, k->fs->node, e);
    case BTRFS_BLOCK_GROUP_ITEM:
        return block_group(k, key, item, len, e);
    case BTRFS_EXTENT_OWNER_REF:
    case BTRFS_TREE_BLOCK_REF:
    case BTRFS_EXTENT_DATA_REF:
    case BTRFS_SHARED_BLOCK_REF:
    case BTRFS_SHARED_DATA_REF:
        return 0;
    }
    return err_set(e, ERR_REFUSED, "btrfs has an unknown item of type %u", key->type);
}

static int walk_root(struct btrfs *fs, const struct super *s, uint64_t tree,
                     struct mark *k, struct err *e)
{
    struct find_root f = {.wanted = tree};
    if (btrfs_walk(fs, &s->root_tree, root_item, &f, e) < 0)
        return -1;
    if (!f.found.owner)
        return err_set(e, ERR_REFUSED, "btrfs tree %llu is missing",
                       (unsigned long long)tree);
    return btrfs_walk(fs, &f.found, extent_item, k, e);
}

static int read_extents(struct btrfs *fs, const struct super *s, struct used_map *m,
                        struct err *e)
{
    struct mark k = {.fs = fs, .m = m};
    if (walk_root(fs, s, BTRFS_EXTENT_TREE, &k, e) < 0 ||
        (s->has_group_tree && walk_root(fs, s, BTRFS_BLOCK_GROUP_TREE, &k, e) < 0))
        return -1;
    for (size_t i = 0; i < fs->chunks.list.n; i++) {
        const struct btrfs_chunk *c = &fs->chunks.list.v[i];
        if (!c->counted || c->claimed != c->used)
            return err_set(e, ERR_REFUSED,
                           "the btrfs block group at %llu does not add up",
                           (unsigned long long)c->logical);
    }
    if (k.total != s->bytes_used)
        return err_set(e, ERR_REFUSED, "the btrfs extents do not add up");
    return 0;
}

static void mark_reserved(const struct btrfs *fs, struct used_map *m)
{
    used_map_add(m, 0, HEAD_LEN);
    for (size_t i = 0; i < ARRAY_LEN(super_offs); i++)
        used_map_add(m, super_offs[i], SUPER_STRIPE);
    used_map_add(m, fs->device_size, fs->d->size - fs->device_size);
}

// One commit: that of the superblock, whose generation is *ret_generation.
static int read_commit(struct disk *d, bool live, struct used_map *m,
                       uint64_t *ret_generation, struct err *e)
{
    uint8_t sb[SUPER_LEN];
    struct btrfs fs = {.d = d};
    struct super s = {0};
    if (fs_read(d, sb, sizeof(sb), SUPER_OFF, "the btrfs superblock", e) < 0 ||
        parse_super(sb, live, &fs, &s, e) < 0)
        return -1;
    *ret_generation = fs.generation;
    int r = 0;
    if (read_system_chunks(&fs, &s, e) < 0 || read_chunks(&fs, &s, e) < 0 ||
        read_extents(&fs, &s, m, e) < 0)
        r = -1;
    btrfs_chunks_done(&fs.chunks);
    if (r == 0)
        mark_reserved(&fs, m);
    return r;
}

int fs_btrfs_used(struct disk *d, struct extents *ret_used, struct err *e)
{
    AUTO(used_map_free) struct used_map *m = used_map_new(d->size);
    uint64_t generation;
    if (read_commit(d, false, m, &generation, e) < 0)
        return -1;
    used_map_emit(m, ret_used);
    return 0;
}

// Is there another commit than that of `generation`? A superblock that is being written
// counts as one.
static bool committed_since(struct disk *d, uint64_t generation)
{
    uint8_t sb[SUPER_LEN];
    struct btrfs fs = {.d = d};
    struct super s = {0};
    struct err ignored; // the next try tells
    usleep(LIVE_PAUSE_US);
    return fs_read(d, sb, sizeof(sb), SUPER_OFF, "the btrfs superblock", &ignored) < 0 ||
           parse_super(sb, true, &fs, &s, &ignored) < 0 || fs.generation != generation;
}

int fs_btrfs_used_live(struct disk *d, struct extents *ret_used, struct err *e)
{
    for (unsigned tries = 1;; tries++) {
        AUTO(used_map_free) struct used_map *m = used_map_new(d->size);
        uint64_t generation = 0;
        if (read_commit(d, true, m, &generation, e) == 0) {
            used_map_emit(m, ret_used);
            return 0;
        }
        if (e->code != ERR_REFUSED || tries == LIVE_TRIES ||
            !committed_since(d, generation))
            return -1;
    }
}

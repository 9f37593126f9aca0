// SPDX-License-Identifier: Apache-2.0
// XFS, versions 4 and 5 ("XFS Algorithms & Data Structures", kernel.org). The volume is
// cut into allocation groups; each has two B+trees of its free extents. What is in none
// of them is in use: everything but the leaves of the tree by block number.
//
//     group:  superblock | AGF | AGI | AGFL | …      a sector each
//     AGF  →  root … leaf ⇄ leaf ⇄ leaf              records {start, length}, ascending
//
// The leaves are read along their sibling links, which is safe because their sum must be
// what the AGF says, and their order strictly ascending. Blocks kept in reserve for the
// trees (AGFL) and the trees themselves are in use. A file system whose log has to be
// replayed is refused: its trees on disk are old. Numbers are big-endian, checksums
// little-endian.
//
// Live and settled: freezing brought the trees to their places, and each block that was
// written since is one of a later tree. But a block that has just joined a tree may still
// be in the log alone, and where it belongs an old block of the same tree may stand,
// sound and wrong. Therefore the second tree (by length) is read too: both must hold the
// same extents, and as many blocks as the AGF says. A group for which that does not come
// out in a few tries is in use as a whole.

#include "fs.h"
#include "fs_xfs.h"

#include <unistd.h>

#define SECTOR 512
#define BLOCK_MAX (64 * KIB)
#define SECTOR_MAX (32 * KIB)
#define LEVELS_MAX 9
#define AG_BYTES_MIN (16 * MIB)
#define LIVE_TRIES 5
#define LIVE_PAUSE_US 20000

// Features that change nothing about free space. Version 5's bits: ftype, sparse inodes,
// meta UUID, big times, large extent counts, exchange range, parent pointers; and free
// inode tree, reverse map, reference counts, inode tree counts. Needs-repair is not
// among them.
#define INCOMPAT_KNOWN 0xef
#define RO_COMPAT_KNOWN 0x0f
#define INCOMPAT_META_UUID 0x04
#define INCOMPAT_NEEDS_REPAIR 0x10
#define LOG_INCOMPAT_KNOWN 0x01

static bool is_power_of_2(uint64_t v)
{
    return v && !(v & (v - 1));
}

static bool checksum_ok(const uint8_t *data, size_t len, size_t at)
{
    return fs_checksums_ignored() || fs_crc32c(data, len, at, 4) == get_le32(data + at);
}

static int check_features(const uint8_t *sb, struct xfs *fs, struct err *e)
{
    unsigned version = get_be16(sb + 100) & 15;
    if (version != 4 && version != 5)
        return err_set(e, ERR_REFUSED, "XFS version %u is not known", version);
    fs->v5 = version == 5;
    memcpy(fs->uuid, sb + 32, 16);
    memcpy(fs->meta_uuid, sb + 32, 16);
    if (sb[126])
        return err_set(e, ERR_REFUSED, "mkfs of this XFS did not finish");
    if (get_be64(sb + 16))
        return err_set(e, ERR_REFUSED, "XFS with a realtime section is not read");
    if (!get_be64(sb + 48))
        return err_set(e, ERR_REFUSED,
                       "XFS with an external log: it cannot be seen "
                       "whether that is clean");
    if (!fs->v5)
        return 0;
    uint32_t ro = get_be32(sb + 212), incompat = get_be32(sb + 216),
             log = get_be32(sb + 220);
    if (incompat & INCOMPAT_NEEDS_REPAIR)
        return err_set(e, ERR_REFUSED, "XFS is marked as damaged: xfs_repair");
    if (incompat & ~(uint32_t)INCOMPAT_KNOWN || ro & ~(uint32_t)RO_COMPAT_KNOWN ||
        log & ~(uint32_t)LOG_INCOMPAT_KNOWN)
        return err_set(e, ERR_REFUSED, "XFS features are not known: 0x%x 0x%x 0x%x",
                       incompat, ro, log);
    if (incompat & INCOMPAT_META_UUID)
        memcpy(fs->meta_uuid, sb + 248, 16);
    return 0;
}

static int parse_super(const uint8_t *sb, struct xfs *fs, struct err *e)
{
    fs->block = get_be32(sb + 4);
    fs->n_blocks = get_be64(sb + 8);
    fs->ag_blocks = get_be32(sb + 84);
    fs->n_ags = get_be32(sb + 88);
    fs->log_blocks = get_be32(sb + 96);
    fs->sector = get_be16(sb + 102);
    fs->ag_log = sb[124];
    if (memcmp(sb, "XFSB", 4) != 0 || !is_power_of_2(fs->block) || fs->block < 512 ||
        fs->block > BLOCK_MAX || !is_power_of_2(fs->sector) || fs->sector < SECTOR ||
        fs->sector > SECTOR_MAX || fs->sector > fs->block || !fs->n_ags ||
        fs->ag_blocks < 8 || fs->ag_log > 31 || fs->ag_blocks > UINT64_C(1) << fs->ag_log)
        return err_set(e, ERR_REFUSED, "the XFS superblock makes no sense");
    if (fs->n_blocks > fs->d->size / fs->block)
        return err_set(e, ERR_REFUSED, "the XFS file system is larger than its volume");
    uint64_t before_last = (uint64_t)fs->ag_blocks * (fs->n_ags - 1);
    if (fs->n_blocks <= before_last || fs->n_blocks - before_last > fs->ag_blocks ||
        fs->n_blocks - before_last < 8 ||
        (fs->n_ags > 1 && (uint64_t)fs->ag_blocks * fs->block < AG_BYTES_MIN))
        return err_set(e, ERR_REFUSED, "the XFS superblock makes no sense");
    return check_features(sb, fs, e);
}

static uint32_t ag_length(const struct xfs *fs, uint32_t ag)
{
    uint64_t before = (uint64_t)fs->ag_blocks * ag;
    return (uint32_t)min_u64(fs->ag_blocks, fs->n_blocks - before);
}

// Where the log is; a block number is group << ag_log | block.
static int place_log(const uint8_t *sb, struct xfs *fs, struct err *e)
{
    uint64_t start = get_be64(sb + 48);
    uint64_t ag = start >> fs->ag_log, in_ag = start & ((UINT64_C(1) << fs->ag_log) - 1);
    if (ag >= fs->n_ags || in_ag >= ag_length(fs, (uint32_t)ag) || !fs->log_blocks ||
        fs->log_blocks > ag_length(fs, (uint32_t)ag) - in_ag)
        return err_set(e, ERR_REFUSED, "the XFS log lies outside the file system");
    fs->log_off = (ag * fs->ag_blocks + in_ag) * fs->block;
    return 0;
}

static int read_super(struct xfs *fs, struct err *e)
{
    AUTO(free) void *buf = xcalloc(1, SECTOR_MAX);
    uint8_t *sb = buf;
    if (fs_read(fs->d, sb, SECTOR, 0, "the XFS superblock", e) < 0 ||
        parse_super(sb, fs, e) < 0)
        return -1;
    if (fs->v5) {
        if (fs_read(fs->d, sb, fs->sector, 0, "the XFS superblock", e) < 0)
            return -1;
        if (!checksum_ok(sb, fs->sector, 224))
            return err_set(e, ERR_REFUSED, "the XFS superblock has a wrong checksum");
    }
    return place_log(sb, fs, e);
}

enum tree { BY_BLOCK, BY_LENGTH };

// One group's free space as its AGF describes it.
struct ag {
    uint32_t number, length;
    uint64_t off;                // bytes
    uint32_t root[2], levels[2]; // of enum tree
    uint32_t free;
    uint32_t n_free[2];  // blocks found in the leaves
    uint64_t extents[2]; // found in the leaves: their fingerprints, added up
    uint32_t end;        // of the last free extent
    uint64_t used_to;    // bytes: how far used_map knows
};

static int read_agf(const struct xfs *fs, struct ag *ag, struct err *e)
{
    AUTO(free) void *buf = xmalloc(SECTOR_MAX);
    uint8_t *agf = buf;
    if (fs_read(fs->d, agf, fs->sector, ag->off + fs->sector, "an XFS AGF", e) < 0)
        return -1;
    if (fs->v5 &&
        (!checksum_ok(agf, fs->sector, 216) || memcmp(agf + 64, fs->meta_uuid, 16) != 0))
        return err_set(e, ERR_REFUSED, "the AGF of XFS group %u has a wrong checksum",
                       ag->number);
    for (size_t t = 0; t < 2; t++) {
        ag->root[t] = get_be32(agf + 16 + 4 * t);
        ag->levels[t] = get_be32(agf + 28 + 4 * t);
    }
    ag->free = get_be32(agf + 52);
    if (memcmp(agf, "XAGF", 4) != 0 || get_be32(agf + 4) != 1 ||
        get_be32(agf + 8) != ag->number || get_be32(agf + 12) != ag->length ||
        !ag->levels[0] || ag->levels[0] > LEVELS_MAX || !ag->levels[1] ||
        ag->levels[1] > LEVELS_MAX || ag->free > ag->length)
        return err_set(e, ERR_REFUSED, "the AGF of XFS group %u is damaged", ag->number);
    return 0;
}

// One block of a tree of free extents.
struct node {
    uint8_t *data;
    size_t header, n; // bytes; records
    uint32_t left, right;
};

static int read_node(const struct xfs *fs, const struct ag *ag, enum tree tree,
                     uint32_t block, uint32_t level, struct node *n, struct err *e)
{
    static const char *const magics[2][2] = {{"ABTB", "ABTC"}, {"AB3B", "AB3C"}};
    if (block == 0 || block >= ag->length)
        return err_set(e, ERR_REFUSED,
                       "the free space tree of XFS group %u points outside", ag->number);
    uint64_t off = ag->off + (uint64_t)block * fs->block;
    if (fs_read(fs->d, n->data, fs->block, off, "an XFS free space tree", e) < 0)
        return -1;
    n->header = fs->v5 ? 56 : 16;
    n->n = get_be16(n->data + 6);
    n->left = get_be32(n->data + 8);
    n->right = get_be32(n->data + 12);
    size_t record = level ? 12 : 8;
    if (memcmp(n->data, magics[fs->v5][tree], 4) != 0 || get_be16(n->data + 4) != level ||
        n->n > (fs->block - n->header) / record || (level && !n->n))
        return err_set(e, ERR_REFUSED, "the free space tree of XFS group %u is damaged",
                       ag->number);
    if (fs->v5 &&
        (!checksum_ok(n->data, fs->block, 52) || get_be64(n->data + 16) != off / SECTOR ||
         memcmp(n->data + 32, fs->meta_uuid, 16) != 0 ||
         get_be32(n->data + 48) != ag->number))
        return err_set(e, ERR_REFUSED,
                       "the free space tree of XFS group %u has a wrong checksum",
                       ag->number);
    return 0;
}

// Equal sums of it mean equal sets of extents.
static uint64_t fingerprint(uint32_t start, uint32_t len)
{
    uint64_t v = (uint64_t)start << 32 | len;
    v = (v ^ v >> 31) * UINT64_C(0x7fb5d329728ea185);
    v = (v ^ v >> 27) * UINT64_C(0x81dadef4bc2dd44d);
    return v ^ v >> 33;
}

// Counts the free extents of a leaf of the second tree.
static int count_leaf(const struct ag *ag, const struct node *n, uint32_t *n_free,
                      uint64_t *extents, struct err *e)
{
    for (size_t i = 0; i < n->n; i++) {
        const uint8_t *record = n->data + n->header + i * 8;
        uint32_t start = get_be32(record), len = get_be32(record + 4);
        // Which also ends a walk in a circle.
        if (!len || len > ag->length - *n_free)
            return err_set(e, ERR_REFUSED,
                           "the free space tree of XFS group %u is damaged", ag->number);
        *n_free += len;
        *extents += fingerprint(start, len);
    }
    return 0;
}

// Takes over the free extents of a leaf; everything between them is in use.
static int add_leaf(const struct xfs *fs, struct ag *ag, const struct node *n,
                    struct used_map *m, struct err *e)
{
    // The group's header: four sectors.
    uint32_t header = (4 * fs->sector + fs->block - 1) / fs->block;
    for (size_t i = 0; i < n->n; i++) {
        const uint8_t *record = n->data + n->header + i * 8;
        uint32_t start = get_be32(record), len = get_be32(record + 4);
        // Neighbours are one extent, so there is a block in use between any two.
        if (!len || start < header || (ag->end && start <= ag->end) ||
            start >= ag->length || len > ag->length - start)
            return err_set(e, ERR_REFUSED,
                           "the free space tree of XFS group %u is damaged", ag->number);
        ag->end = start + len;
        ag->n_free[BY_BLOCK] += len;
        ag->extents[BY_BLOCK] += fingerprint(start, len);
        uint64_t off = ag->off + (uint64_t)start * fs->block,
                 bytes = (uint64_t)len * fs->block;
        if (off < fs->log_off + (uint64_t)fs->log_blocks * fs->block &&
            fs->log_off < off + bytes)
            return err_set(e, ERR_REFUSED, "XFS group %u calls the log free", ag->number);
        used_map_add_until(m, &ag->used_to, off, bytes);
    }
    return 0;
}

// m NULL: only counts.
static int walk_tree(const struct xfs *fs, struct ag *ag, enum tree tree,
                     struct used_map *m, struct err *e)
{
    AUTO(free) void *buf = xmalloc(BLOCK_MAX);
    struct node n = {.data = buf};
    uint32_t block = ag->root[tree], left = UINT32_MAX;
    for (uint32_t level = ag->levels[tree] - 1; level > 0; level--) {
        if (read_node(fs, ag, tree, block, level, &n, e) < 0)
            return -1;
        // Pointers stand behind room for as many keys as a block can hold.
        size_t most = (fs->block - n.header) / 12;
        block = get_be32(n.data + n.header + most * 8);
    }
    // Ends: every leaf but a lone root has records, and their order or sum is checked.
    while (block != UINT32_MAX) {
        if (cancel_check(e) < 0 || read_node(fs, ag, tree, block, 0, &n, e) < 0)
            return -1;
        if (n.left != left || (!n.n && ag->levels[tree] > 1))
            return err_set(e, ERR_REFUSED,
                           "the free space tree of XFS group %u is damaged", ag->number);
        if (m ? add_leaf(fs, ag, &n, m, e)
              : count_leaf(ag, &n, &ag->n_free[tree], &ag->extents[tree], e))
            return -1;
        if (ag->levels[tree] == 1 && n.right != UINT32_MAX)
            return err_set(e, ERR_REFUSED,
                           "the free space tree of XFS group %u is damaged", ag->number);
        left = block;
        block = n.right;
    }
    if (ag->n_free[tree] != ag->free)
        return err_set(e, ERR_REFUSED, "XFS group %u has %u free blocks but counts %u",
                       ag->number, ag->n_free[tree], ag->free);
    return 0;
}

static void ag_init(const struct xfs *fs, uint32_t number, struct ag *ret)
{
    uint64_t off = (uint64_t)number * fs->ag_blocks * fs->block;
    *ret = (struct ag){
        .number = number, .length = ag_length(fs, number), .off = off, .used_to = off};
}

static int add_ag(const struct xfs *fs, uint32_t number, struct used_map *m,
                  struct err *e)
{
    struct ag ag;
    ag_init(fs, number, &ag);
    if (read_agf(fs, &ag, e) < 0 || walk_tree(fs, &ag, BY_BLOCK, m, e) < 0)
        return -1;
    used_map_add_until(m, &ag.used_to, ag.off + (uint64_t)ag.length * fs->block, 0);
    return 0;
}

// What a failed try has added stays: it is more than is in use, never less.
static int add_ag_live(const struct xfs *fs, uint32_t number, struct used_map *m,
                       struct err *e)
{
    struct ag first, again;
    ag_init(fs, number, &first);
    if (read_agf(fs, &first, e) < 0 || walk_tree(fs, &first, BY_LENGTH, NULL, e) < 0)
        return -1;
    again = first;
    if (walk_tree(fs, &again, BY_BLOCK, m, e) < 0)
        return -1;
    if (again.extents[BY_BLOCK] != first.extents[BY_LENGTH])
        return err_set(e, ERR_REFUSED, "the free space trees of XFS group %u disagree",
                       number);
    used_map_add_until(m, &again.used_to, again.off + (uint64_t)again.length * fs->block,
                       0);
    return 0;
}

int fs_xfs_used(struct disk *d, struct extents *ret_used, struct err *e)
{
    struct xfs fs = {.d = d};
    if (read_super(&fs, e) < 0 || xfs_log_check(&fs, e) < 0)
        return -1;
    AUTO(used_map_free) struct used_map *m = used_map_new(d->size);
    for (uint32_t i = 0; i < fs.n_ags; i++)
        if (add_ag(&fs, i, m, e) < 0)
            return -1;
    uint64_t end = fs.n_blocks * fs.block;
    used_map_add(m, end, d->size - end);
    used_map_emit(m, ret_used);
    return 0;
}

// May another try help? Waits for it.
static bool again(unsigned *tries, const struct err *e)
{
    if (e->code != ERR_REFUSED || ++*tries == LIVE_TRIES)
        return false;
    usleep(LIVE_PAUSE_US);
    return true;
}

int fs_xfs_used_live(struct disk *d, struct extents *ret_used, struct err *e)
{
    struct xfs fs = {.d = d};
    for (unsigned tries = 0; read_super(&fs, e) < 0;) {
        if (!again(&tries, e))
            return -1;
        fs = (struct xfs){.d = d};
    }
    AUTO(used_map_free) struct used_map *m = used_map_new(d->size);
    for (uint32_t i = 0; i < fs.n_ags; i++) {
        unsigned tries = 0;
        int r;
        while ((r = add_ag_live(&fs, i, m, e)) < 0 && again(&tries, e))
            ;
        if (r < 0 && e->code != ERR_REFUSED)
            return -1;
        uint64_t ag = (uint64_t)i * fs.ag_blocks * fs.block;
        if (r < 0)
            used_map_add(m, ag, (uint64_t)ag_length(&fs, i) * fs.block);
    }
    uint64_t end = fs.n_blocks * fs.block;
    used_map_add(m, end, d->size - end);
    used_map_emit(m, ret_used);
    return 0;
}

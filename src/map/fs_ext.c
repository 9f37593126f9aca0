// SPDX-License-Identifier: Apache-2.0
// ext2, ext3 and ext4 by libext2fs, which reads through struct disk. Only the block
// bitmaps are read, a few groups at a time: the library's own loader would hold all of
// them. A group without a bitmap (BLOCK_UNINIT) has nothing but metadata, and metadata
// (superblock copies, descriptors, bitmaps, inode tables) is added for every group,
// whatever the bitmaps say. The bitmaps are believed only when the file system was
// unmounted cleanly, has no feature that the library does not know, every checksum is
// right and every group's free count agrees with its bitmap. With bigalloc a bit stands
// for a cluster. See the kernel's Documentation/filesystems/ext4.
//
// Live and settled: freezing brought everything to its place, and what has been written
// to a bitmap since is a later state, so a bit that says free was free at some time after
// the freeze, also when the block was read while it was being written. So was everything
// in a group that still, or in an old descriptor, is BLOCK_UNINIT, whatever stands where
// its bitmap will be. A bitmap and its descriptor (checksum, free count) are written at
// different times, though: where they disagree both are read again a few times, and then
// the whole group counts as in use.

#include "fs.h"
#include "used_map.h"

#include <errno.h>
#include <et/com_err.h>
#include <ext2fs/ext2fs.h>
#include <unistd.h>

#define DESCRIPTORS_MAX (16 * MIB) // memory for group descriptors: 16 TiB need 8
#define BITMAPS_PER_READ 64        // block bitmaps that lie one after another
#define LIVE_TRIES 5
#define LIVE_PAUSE_US 20000

// --- the library's I/O: read-only, over a struct disk
// -----------------------------------

struct channel {
    struct disk *disk;
    struct err failure; // of the last read that the disk refused
};

// io_manager.open is given a name and nothing else: this is where it finds the disk.
static _Thread_local struct channel *opening;

static errcode_t io_open(const char *name, int flags, io_channel *ret);

static errcode_t io_close(io_channel c)
{
    free(c->name);
    free(c);
    return 0;
}

static errcode_t io_set_blksize(io_channel c, int blksize)
{
    if (blksize < 512 || blksize > 65536)
        return EINVAL;
    c->block_size = blksize;
    return 0;
}

// A negative count is bytes.
static errcode_t io_read64(io_channel c, unsigned long long block, int count, void *data)
{
    struct channel *priv = c->private_data;
    uint64_t off, len;
    len = count < 0 ? (uint64_t) - (int64_t)count
                    : (uint64_t)count * (uint64_t)c->block_size;
    if (__builtin_mul_overflow((uint64_t)block, (uint64_t)c->block_size, &off) ||
        off > priv->disk->size || len > priv->disk->size - off)
        return EXT2_ET_SHORT_READ;
    return disk_read(priv->disk, data, len, off, &priv->failure) ? EIO : 0;
}

static errcode_t io_read(io_channel c, unsigned long block, int count, void *data)
{
    return io_read64(c, block, count, data);
}

static errcode_t io_write64(io_channel c, unsigned long long block, int count,
                            const void *data)
{
    (void)c, (void)block, (void)count, (void)data;
    return EROFS;
}

static errcode_t io_write(io_channel c, unsigned long block, int count, const void *data)
{
    return io_write64(c, block, count, data);
}

static errcode_t io_flush(io_channel c)
{
    (void)c;
    return 0;
}

static struct struct_io_manager disk_io = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "godwit disk",
    .open = io_open,
    .close = io_close,
    .set_blksize = io_set_blksize,
    .read_blk = io_read,
    .write_blk = io_write,
    .flush = io_flush,
    .read_blk64 = io_read64,
    .write_blk64 = io_write64,
};

static errcode_t io_open(const char *name, int flags, io_channel *ret)
{
    (void)flags;
    // The library's own type, freed by io_close; the struct has no public constructor.
    io_channel c = xcalloc(1, sizeof(*c));
    c->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    c->manager = &disk_io;
    c->name = xstrdup(name);
    c->block_size = 1024;
    c->refcount = 1;
    c->private_data = opening;
    *ret = c;
    return 0;
}

static void fs_free(ext2_filsys fs)
{
    if (fs)
        ext2fs_free(fs);
}
DEFINE_AUTO(fs_free, ext2_filsys)

// --- may the bitmaps be believed?
// -------------------------------------------------------

static int refuse_superblock(const struct ext2_super_block *sb, uint64_t size, bool live,
                             struct err *e)
{
    uint64_t blocks = sb->s_blocks_count;
    if (sb->s_feature_incompat & EXT4_FEATURE_INCOMPAT_64BIT)
        blocks |= (uint64_t)sb->s_blocks_count_hi << 32;
    uint64_t block_size = UINT64_C(1024) << sb->s_log_block_size;
    if (!live && sb->s_feature_incompat & EXT3_FEATURE_INCOMPAT_RECOVER)
        return err_set(e, ERR_REFUSED,
                       "not cleanly unmounted: its journal needs recovery");
    if (!live && !(sb->s_state & EXT2_VALID_FS))
        return err_set(e, ERR_REFUSED, "not cleanly unmounted");
    if (sb->s_state & EXT2_ERROR_FS)
        return err_set(e, ERR_REFUSED, "marked as having errors");
    if (sb->s_feature_ro_compat & ~(uint32_t)EXT2_LIB_FEATURE_RO_COMPAT_SUPP ||
        sb->s_feature_ro_compat & EXT4_FEATURE_RO_COMPAT_HAS_SNAPSHOT)
        return err_set(e, ERR_REFUSED, "has features that are not known (%#x)",
                       sb->s_feature_ro_compat);
    if (blocks > size / block_size)
        return err_set(e, ERR_REFUSED, "is larger than what it lies on");
    return 0;
}

// Before the library allocates by what the superblock says.
static int check_superblock(struct disk *d, bool live, struct err *e)
{
    struct ext2_super_block sb;
    if (d->size < 2048 + sizeof(sb))
        return err_set(e, ERR_REFUSED, "is too small");
    if (disk_read(d, &sb, sizeof(sb), 1024, e))
        return -1;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    ext2fs_swap_super(&sb);
#endif
    if (sb.s_magic != EXT2_SUPER_MAGIC || sb.s_log_block_size > 6 ||
        sb.s_blocks_per_group < 8)
        return err_set(e, ERR_REFUSED, "superblock is damaged");
    if (refuse_superblock(&sb, d->size, live, e))
        return -1;
    uint64_t blocks = sb.s_blocks_count;
    if (sb.s_feature_incompat & EXT4_FEATURE_INCOMPAT_64BIT)
        blocks |= (uint64_t)sb.s_blocks_count_hi << 32;
    uint64_t descriptor = sb.s_feature_incompat & EXT4_FEATURE_INCOMPAT_64BIT
                              ? max_u64(sb.s_desc_size, 32)
                              : 32;
    if (descriptor > 1024 ||
        blocks / sb.s_blocks_per_group + 1 > DESCRIPTORS_MAX / descriptor)
        return err_set(e, ERR_REFUSED, "has too many block groups");
    return 0;
}

// --- groups
// -----------------------------------------------------------------------------

struct reader {
    ext2_filsys fs;
    struct channel *channel;
    struct extents *used;
    uint64_t n_blocks, n_groups;
    bool live;
    VEC(dgrp_t) torn; // groups whose bitmap disagreed with its descriptor
};

static void reader_done(struct reader *r)
{
    fs_free(r->fs);
    vec_done(&r->torn);
}
__attribute__((unused)) static inline void auto_reader_done(struct reader *r)
{
    reader_done(r);
}

static int damaged(struct reader *r, errcode_t code, const char *what, struct err *e)
{
    if (r->channel->failure.code) {
        *e = r->channel->failure;
        return -1;
    }
    if (code == 0)
        return err_set(e, ERR_REFUSED, "is damaged: %s", what);
    initialize_ext2_error_table();
    return err_set(e, ERR_REFUSED, "is damaged: %s (%s)", what, error_message(code));
}

static int open_once(struct reader *r, struct err *e)
{
    AUTO(fs_free) ext2_filsys fs = NULL;
    struct disk *d = r->channel->disk;
    if (check_superblock(d, r->live, e))
        return -1;
    int flags =
        EXT2_FLAG_64BITS | (fs_checksums_ignored() ? EXT2_FLAG_IGNORE_CSUM_ERRORS : 0);
    opening = r->channel;
    errcode_t code = ext2fs_open2(d->name, NULL, flags, 0, 0, &disk_io, &fs);
    opening = NULL;
    if (code)
        return damaged(r, code, "it cannot be opened", e);
    // Again by what the library made of it, with checksums verified.
    if (refuse_superblock(fs->super, d->size, r->live, e))
        return -1;
    for (dgrp_t g = 0; g < fs->group_desc_count; g++) {
        if (ext2fs_has_group_desc_csum(fs) && !ext2fs_group_desc_csum_verify(fs, g) &&
            !fs_checksums_ignored())
            return damaged(r, 0, "the checksum of a group descriptor is wrong", e);
    }
    uint64_t n_blocks = ext2fs_blocks_count(fs->super);
    if (r->fs && (n_blocks != r->n_blocks || fs->blocksize != r->fs->blocksize ||
                  fs->group_desc_count != r->n_groups))
        return err_set(e, ERR_REFUSED, "was resized while it was read");
    fs_free(r->fs);
    r->fs = steal(fs);
    r->n_blocks = n_blocks;
    r->n_groups = r->fs->group_desc_count;
    return 0;
}

// Opens it, or what it has become since.
static int reader_open(struct reader *r, struct err *e)
{
    for (unsigned tries = 1;; tries++) {
        if (open_once(r, e) == 0)
            return 0;
        if (!r->live || e->code != ERR_REFUSED || tries == LIVE_TRIES)
            return -1;
        usleep(LIVE_PAUSE_US);
    }
}

static void add_blocks(struct reader *r, uint64_t block, uint64_t n)
{
    if (block >= r->n_blocks)
        return;
    n = min_u64(n, r->n_blocks - block);
    fs_add(r->used, block * r->fs->blocksize, n * r->fs->blocksize);
}

// What a group has of its own: its bitmaps and inode table (anywhere, with flex_bg), and
// the copies of superblock and descriptors, with the room kept for their growth.
static int add_metadata(struct reader *r, dgrp_t group, struct err *e)
{
    ext2_filsys fs = r->fs;
    blk64_t super = 0, old_desc = 0, new_desc = 0;
    blk_t n_unused = 0;
    uint64_t places[] = {ext2fs_block_bitmap_loc(fs, group),
                         ext2fs_inode_bitmap_loc(fs, group),
                         ext2fs_inode_table_loc(fs, group)};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        if (places[i] < fs->super->s_first_data_block || places[i] >= r->n_blocks)
            return damaged(r, 0, "a group's metadata lies outside", e);
        add_blocks(r, places[i], i == 2 ? fs->inode_blocks_per_group : 1);
    }
    ext2fs_super_and_bgd_loc2(fs, group, &super, &old_desc, &new_desc, &n_unused);
    if (super || group == 0)
        add_blocks(r, super, 1);
    if (old_desc)
        add_blocks(r, old_desc,
                   (uint64_t)fs->desc_blocks + fs->super->s_reserved_gdt_blocks);
    if (new_desc)
        add_blocks(r, new_desc, 1);
    return 0;
}

static bool bit(const uint8_t *bitmap, uint64_t i)
{
    return bitmap[i / 8] >> i % 8 & 1;
}

// The end of the run of equal bits that begins at i.
static uint64_t run_end(const uint8_t *bitmap, uint64_t i, uint64_t n)
{
    bool value = bit(bitmap, i);
    uint8_t same = value ? 0xff : 0;
    while (i < n && bit(bitmap, i) == value)
        i += i % 8 == 0 && i + 8 <= n && bitmap[i / 8] == same ? 8 : 1;
    return i;
}

static int add_bitmap(struct reader *r, dgrp_t group, uint8_t *bitmap, struct err *e)
{
    ext2_filsys fs = r->fs;
    uint64_t first = ext2fs_group_first_block2(fs, group);
    uint64_t ratio = UINT64_C(1) << fs->cluster_ratio_bits;
    uint64_t n_blocks = ext2fs_group_last_block2(fs, group) - first + 1;
    uint64_t n = (n_blocks + ratio - 1) / ratio, n_free = 0;
    uint64_t full = fs->super->s_clusters_per_group;
    if (n > full || full > (uint64_t)fs->blocksize * 8)
        return damaged(r, 0, "a group is larger than its bitmap", e);
    // As long as the kernel writes it: a bit a cluster of a full group.
    int bytes = (int)(full / 8);
    if (!ext2fs_block_bitmap_csum_verify(fs, group, (char *)bitmap, bytes) &&
        !fs_checksums_ignored())
        return damaged(r, 0, "the checksum of a block bitmap is wrong", e);
    for (uint64_t i = 0; i < n;) {
        uint64_t end = run_end(bitmap, i, n);
        if (bit(bitmap, i))
            add_blocks(r, first + i * ratio,
                       min_u64((end - i) * ratio, n_blocks - i * ratio));
        else
            n_free += end - i;
        i = end;
    }
    if (n_free != ext2fs_bg_free_blocks_count(fs, group))
        return damaged(r, 0, "a block bitmap disagrees with the free count", e);
    return 0;
}

static bool has_bitmap(struct reader *r, dgrp_t group)
{
    return !(ext2fs_has_group_desc_csum(r->fs) &&
             ext2fs_bg_flags_test(r->fs, group, EXT2_BG_BLOCK_UNINIT));
}

// As many groups before `end` as have their bitmaps in a row (with flex_bg, 16 and more).
static int add_groups(struct reader *r, dgrp_t group, dgrp_t end, uint8_t *bitmaps,
                      dgrp_t *ret_n, struct err *e)
{
    ext2_filsys fs = r->fs;
    blk64_t at = ext2fs_block_bitmap_loc(fs, group);
    dgrp_t n = 1;
    while (n < BITMAPS_PER_READ && group + n < end && has_bitmap(r, group + n) &&
           ext2fs_block_bitmap_loc(fs, group + n) == at + n)
        n++;
    errcode_t code = io_channel_read_blk64(fs->io, at, (int)n, bitmaps);
    if (code)
        return damaged(r, code, "a block bitmap cannot be read", e);
    for (dgrp_t i = 0; i < n; i++) {
        if (add_bitmap(r, group + i, bitmaps + (size_t)i * fs->blocksize, e) == 0)
            continue;
        if (!r->live || e->code != ERR_REFUSED)
            return -1;
        vec_push(&r->torn, group + i);
    }
    *ret_n = n;
    return 0;
}

// What was torn, again with new descriptors; what stays torn is in use as a whole.
static int add_torn(struct reader *r, uint8_t *bitmaps, struct err *e)
{
    for (unsigned tries = 0; r->torn.n && tries < LIVE_TRIES; tries++) {
        size_t n = r->torn.n;
        usleep(LIVE_PAUSE_US);
        if (reader_open(r, e))
            return -1;
        for (size_t i = 0; i < n; i++) {
            dgrp_t g = r->torn.v[i], one = g + 1;
            if (has_bitmap(r, g) && add_groups(r, g, one, bitmaps, &one, e))
                return -1;
        }
        // What was torn again stands behind the others.
        memmove(r->torn.v, r->torn.v + n, (r->torn.n - n) * sizeof(*r->torn.v));
        r->torn.n -= n;
    }
    for (size_t i = 0; i < r->torn.n; i++) {
        uint64_t first = ext2fs_group_first_block2(r->fs, r->torn.v[i]);
        add_blocks(r, first, ext2fs_group_last_block2(r->fs, r->torn.v[i]) - first + 1);
    }
    return 0;
}

static int add_all(struct reader *r, uint64_t size, struct err *e)
{
    ext2_filsys fs = r->fs;
    AUTO(free) void *bitmaps = xmalloc((size_t)BITMAPS_PER_READ * fs->blocksize);
    // In rising order, nearly: what is out of order lies in the part added last.
    for (dgrp_t g = 0, n; g < r->n_groups; g += n) {
        n = 1;
        if (cancel_check(e) ||
            (has_bitmap(r, g) && add_groups(r, g, (dgrp_t)r->n_groups, bitmaps, &n, e)))
            return -1;
        for (dgrp_t i = 0; i < n; i++)
            if (add_metadata(r, g + i, e))
                return -1;
    }
    // The boot block, and what lies behind the file system and is not its own.
    fs_add(r->used, 0, 4096);
    uint64_t end = r->n_blocks * fs->blocksize;
    if (end < size)
        fs_add(r->used, end, size - end);
    return add_torn(r, bitmaps, e);
}

static int ext_used(struct disk *d, bool live, struct extents *ret_used, struct err *e)
{
    AUTO(extents_done) struct extents used = {0};
    struct channel channel = {.disk = d};
    AUTO(reader_done)
    struct reader r = {.channel = &channel, .used = &used, .live = live};
    if (reader_open(&r, e) || add_all(&r, d->size, e))
        return -1;
    extents_align(&used, 1, d->size);
    for (size_t i = 0; i < used.n; i++)
        extents_add(ret_used, used.v[i].off, used.v[i].len);
    return 0;
}

int fs_ext_used(struct disk *d, struct extents *ret_used, struct err *e)
{
    return ext_used(d, false, ret_used, e);
}

int fs_ext_used_live(struct disk *d, struct extents *ret_used, struct err *e)
{
    return ext_used(d, true, ret_used, e);
}

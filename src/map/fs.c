// SPDX-License-Identifier: Apache-2.0
// The table of file system readers. `content` is what libblkid calls the file system
// (TYPE); what has no row here counts as wholly used.

#include "fs.h"

const struct fs_reader fs_readers[] = {
    {"ext2", fs_ext_used, fs_ext_used_live, true},
    {"ext3", fs_ext_used, fs_ext_used_live, true},
    {"ext4", fs_ext_used, fs_ext_used_live, true},
    // Clean until its first transaction reaches the log.
    {"xfs", fs_xfs_used, fs_xfs_used_live, false},
    // Whole after every commit, mounted or not.
    {"btrfs", fs_btrfs_used, fs_btrfs_used_live, false},
    // Marked by Windows, not by all drivers of Linux.
    {"ntfs", fs_ntfs_used, NULL, false},
    {"vfat", fs_fat_used, NULL, true},
    {"swap", fs_swap_used, NULL, true},
    {NULL, NULL, NULL, false},
};

void fs_add_max(struct extents *used, uint64_t off, uint64_t len, size_t max)
{
    struct extent *last = used->n ? &used->v[used->n - 1] : NULL;
    if (last && off >= last->off + last->len && off - last->off - last->len < MAP_BLOCK)
        last->len = off + len - last->off;
    else
        extents_add(used, off, len);
    for (uint64_t granule = 2 * MAP_BLOCK; used->n > max; granule *= 2)
        extents_align(used, granule, INT64_MAX);
}

void fs_add(struct extents *used, uint64_t off, uint64_t len)
{
    fs_add_max(used, off, len, FS_EXTENTS_MAX);
}

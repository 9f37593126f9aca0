// SPDX-License-Identifier: Apache-2.0
// The table of file system readers. `content` is what libblkid calls the file system
// (TYPE); what has no row here counts as wholly used.

#include "fs.h"

const struct fs_reader fs_readers[] = {
    {"ext2", fs_ext_used}, {"ext3", fs_ext_used},    {"ext4", fs_ext_used},
    {"xfs", fs_xfs_used},  {"btrfs", fs_btrfs_used}, {"ntfs", fs_ntfs_used},
    {"vfat", fs_fat_used}, {"swap", fs_swap_used},   {NULL, NULL},
};

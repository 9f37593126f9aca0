// SPDX-License-Identifier: Apache-2.0
// The file system readers behind fs_readers, one a file. Private to this folder; the
// contract of each is fs_reader.used in map.h.
#pragma once

#include "map/map.h"

int fs_ext_used(struct disk *d, struct extents *ret_used, struct err *e);
int fs_xfs_used(struct disk *d, struct extents *ret_used, struct err *e);
int fs_btrfs_used(struct disk *d, struct extents *ret_used, struct err *e);
int fs_ntfs_used(struct disk *d, struct extents *ret_used, struct err *e);
int fs_fat_used(struct disk *d, struct extents *ret_used, struct err *e);
int fs_swap_used(struct disk *d, struct extents *ret_used, struct err *e);

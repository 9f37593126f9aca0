// SPDX-License-Identifier: Apache-2.0
// The file system readers behind fs_readers, one a file. Private to this folder; the
// contract of each is fs_reader.used in map.h.
#pragma once

#include "map/map.h"

// Adds a range in use, for readers: nearest to free when called in rising order. Gaps
// too small to be worth a seek (below MAP_BLOCK) are closed, and when the list grows
// past FS_EXTENTS_MAX it is made coarser, so that no file system can fill the memory.
#define FS_EXTENTS_MAX 200000
void fs_add(struct extents *used, uint64_t off, uint64_t len);
// The same with another ceiling.
void fs_add_max(struct extents *used, uint64_t off, uint64_t len, size_t max);

int fs_ext_used(struct disk *d, struct extents *ret_used, struct err *e);
int fs_xfs_used(struct disk *d, struct extents *ret_used, struct err *e);
int fs_btrfs_used(struct disk *d, struct extents *ret_used, struct err *e);
// As allocation_live says: mounted, and settled before.
int fs_ext_used_live(struct disk *d, struct extents *ret_used, struct err *e);
int fs_xfs_used_live(struct disk *d, struct extents *ret_used, struct err *e);
int fs_btrfs_used_live(struct disk *d, struct extents *ret_used, struct err *e);
int fs_ntfs_used(struct disk *d, struct extents *ret_used, struct err *e);
int fs_fat_used(struct disk *d, struct extents *ret_used, struct err *e);
int fs_swap_used(struct disk *d, struct extents *ret_used, struct err *e);

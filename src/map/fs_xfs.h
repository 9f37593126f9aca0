// SPDX-License-Identifier: Apache-2.0
// What the two halves of the XFS reader share: the superblock, taken apart.
#pragma once

#include "used_map.h"

struct xfs {
    struct disk *d;
    bool v5;
    uint32_t block, sector; // bytes
    uint64_t n_blocks;
    uint32_t ag_blocks, n_ags;
    unsigned ag_log;       // bits of a block number that count within a group
    uint64_t log_off;      // bytes; of the log inside the file system
    uint32_t log_blocks;   // in file system blocks
    uint8_t uuid[16];      // what users see; log records carry it
    uint8_t meta_uuid[16]; // what v5 structures carry
};

// fs_xfs_log.c: 0 when the log ends with the record of a clean unmount.
int xfs_log_check(const struct xfs *fs, struct err *e);

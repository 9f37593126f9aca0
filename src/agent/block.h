// SPDX-License-Identifier: Apache-2.0
// What block.c and mounts.c share with each other: where a device lies, and the mount
// namespaces. Inside agent/ only; others use volumes.h.
#pragma once

#include "agent/volumes.h"

struct block_place {
    uint64_t disks; // bits, as block_below says
    unsigned depth; // loop files on the longest way down
};
int block_place(const struct block_disks *d, unsigned major, unsigned minor,
                struct block_place *ret, struct err *e);
// Of the btrfs that holds this open file, whose device numbers name no device. *ret_dev:
// its first device. Another file system, or one that has gone: no disks.
int block_place_btrfs(const struct block_disks *d, int fd, struct block_place *ret,
                      dev_t *ret_dev, struct err *e);
// The first line of a file below /sys, trimmed; NULL: not there, or empty. free() it.
char *sys_text(const char *fmt, ...) PRINTF(1, 2);
// The numbers in a "dev" file. false: not there.
bool sys_dev(const char *path, dev_t *ret);

// A process of each mount namespace, ours first, as it stands in /proc: "self", "1"…
int namespaces_list(struct strings *ret_pids, struct err *e);

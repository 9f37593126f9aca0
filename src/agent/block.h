// SPDX-License-Identifier: Apache-2.0
// What the agent's files that look at /sys and /proc share: where a device lies, its
// attributes and counters, the mount namespaces. Inside agent/ only.
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
// An attribute of a disk in /sys/block; not there, or no number: 0.
uint64_t sys_number(const char *disk, const char *attribute);
// The kernel's counters of a disk since it is there (Documentation/block/stat.rst).
struct sys_stat {
    uint64_t requests, busy_ms; // reads and writes, and the time that they took together
    uint64_t sectors_written;   // of 512 bytes
    uint64_t sectors_discarded; // 0 before 4.19, when they were among the written
};
int sys_stat(const char *disk, struct sys_stat *ret, struct err *e);
// The numbers in a "dev" file. false: not there.
bool sys_dev(const char *path, dev_t *ret);

// A process of each mount namespace, ours first, as it stands in /proc: "self", "1"…
int namespaces_list(struct strings *ret_pids, struct err *e);

// SPDX-License-Identifier: Apache-2.0
// The block devices and file systems of the server we run on: what lies on which disk,
// and freezing all of it for a moment. Inside agent/ only.
#pragma once

#include "disk/disk.h"

// --- block.c: /sys/class/block

struct block_disk { // a whole disk that holds data: no loop, dm, md, ram, zram, cd,
                    // floppy
    char *name, *node, *serial, *model; // serial, model: NULL when none
    unsigned major, minor;
    uint64_t size;
    uint32_t sector_size; // logical
    bool removable, read_only;
    char *bus; // "virtio" "scsi" "sata" "ide" "nvme" "mmc" "xen" NULL
};
struct block_disks {
    struct block_disk *v;
    size_t n, cap;
};
// only: these alone, by name, loop devices too; NULL or empty: all that there are.
int block_list(const struct strings *only, struct block_disks *ret, struct err *e);
void block_disks_done(struct block_disks *d);
// Is each of them a disk of its own? What is written through one of several paths to a
// disk is no change of the others. ERR_REFUSED: two are paths of one multipath device.
int block_check_paths(const struct block_disks *d, struct err *e);
// The disks (indices into d) below a device, through partitions, device-mapper, md,
// bcache and loop files; bits of *ret_disks. A device that lies on none: 0.
int block_below(const struct block_disks *d, unsigned major, unsigned minor,
                uint64_t *ret_disks, struct err *e);

// --- mounts.c: every mounted file system of every mount namespace, once

struct volume_mount {
    unsigned major, minor;       // of its superblock (btrfs: found by its source)
    char *type, *source, *where; // where: as /proc/PID/root/… when in another namespace
    char *uuid;                  // NULL: not known
    uint64_t disks;              // bits, see block_below
    unsigned depth;              // 0: on disks; 1: on a loop file of such a one; …
    bool read_only, root, can_freeze; // can_freeze: not for vfat, exfat, …
};
struct volume_mounts {
    struct volume_mount *v;
    size_t n, cap;
};
// Only those with `disks`. In the order of freezing: deepest first, root last.
int mounts_list(const struct block_disks *d, struct volume_mounts *ret, struct err *e);
void mounts_done(struct volume_mounts *m);

// --- freeze.c

// What is written but not yet on the disks goes there, while everybody goes on.
void freeze_sync(const struct volume_mounts *m);
// Freezes and thaws each at once, so that what was written lies where the bitmaps say.
// *ret_settled: UUIDs of those that it worked for.
int freeze_settle(const struct volume_mounts *m, struct strings *ret_settled,
                  struct err *e);
// The same of those that freeze_begin has frozen, while it holds.
void freeze_settled(const struct volume_mounts *m, struct strings *ret);
// Locks this process's memory, so that nothing of it has to be read from a frozen file
// system. False: not allowed.
bool freeze_lock_memory(void);
struct freeze;
// sync, then all of them; what cannot be frozen is synced. From the first on an
// independent, memory-locked process thaws everything at the deadline, which counts from
// this call on, or when we die.
// Nothing stays frozen when this fails. Needs no memory, no file and no program
// afterwards.
int freeze_begin(const struct volume_mounts *m, uint64_t deadline_ms, struct freeze **ret,
                 struct err *e);
bool freeze_holds(struct freeze *f); // false: the watchdog has thawed
// Takes the deadline away, if it has not come yet (ERR_RETRY: it has).
int freeze_commit(struct freeze *f, struct err *e);
// *ret_ms: for how long it was frozen.
int freeze_end(struct freeze *f, uint64_t *ret_ms, struct err *e);

// SPDX-License-Identifier: Apache-2.0
// What the files assemble_*.c share. Internal to guest/.
#pragma once

#include "guest/guest.h"

#define ASSEMBLE_ROOT "/run/godwit-guest" // where the guest's root is mounted

// What has to be undone, last first.
enum undo_kind { UNDO_MOUNT, UNDO_LVM, UNDO_LUKS, UNDO_MD, UNDO_SHADOW };
struct undo {
    enum undo_kind kind;
    char *name; // mount point, - , mapper name, /dev/mdN, mapper name
};
struct assembly {
    const struct assemble_options *options; // only during assemble_open
    bool read_only;
    VEC(struct undo) undo;
    struct strings nodes;    // the disks
    struct strings part_esp; // nodes of EFI system partitions
    struct strings probed;   // LUKS, RAID member and PV nodes already dealt with
    char *lvm_config;        // --config of every lvm call since the first activation
};
void assembly_undo_later(struct assembly *a, enum undo_kind kind, const char *name);
// Undoes the last ones until `left` are left, all of them also after an error.
int assembly_undo(struct assembly *a, size_t left, struct err *e);

// --- assemble_probe.c: block devices and what is on them

// Adds the disk and its partitions to g->devices. Those of a disk that is a RAID member
// as a whole are the array's, or nobody's.
int probe_disk(struct assembly *a, struct guest *g, const char *node, unsigned disk,
               struct err *e);
// The partitions that the kernel found on a device; `array` NULL: it is disk number
// `disk`.
int probe_partitions(struct assembly *a, struct guest *g, const char *node, unsigned disk,
                     const char *array, struct err *e);
// Adds an array and its partitions; `array` is its line of mdadm.conf.
int probe_array(struct assembly *a, struct guest *g, const char *node, const char *array,
                struct err *e);
// Adds one mapper device.
int probe_mapper(struct guest *g, const char *node, struct err *e);
// ERR_REFUSED for a hibernated system and for damage that a journal does not mend.
int probe_health(const struct guest_device *d, struct err *e);

// --- assemble_lvm.c, assemble_luks.c, assemble_md.c: each opens what is new and sets
// *ret_more if it did

int luks_open_all(struct assembly *a, struct guest *g, bool *ret_more, struct err *e);
int luks_close(const char *name, struct err *e);
int lvm_activate(struct assembly *a, struct guest *g, bool *ret_more, struct err *e);
int lvm_deactivate(struct assembly *a, struct err *e);
int md_assemble_all(struct assembly *a, struct guest *g, bool *ret_more, struct err *e);
int md_stop(const char *node, struct err *e);

// --- assemble_shadow.c

// A device that may be written in place of `node`, which is not; what was written is
// forgotten. *ret is its node.
int shadow_open(struct assembly *a, const char *node, char **ret, struct err *e);
int shadow_close(const char *name, struct err *e);

// --- assemble_mount.c

// Mounts a device of the guest; `options` are those of the file system ("subvol=@"),
// NULL: none. In read-only mode no journal is replayed.
int mount_device(struct assembly *a, const struct guest_device *d, const char *where,
                 const char *options, bool read_only, struct err *e);
bool mount_possible(const struct guest_device *d); // a file system that we mount
int unmount(const char *where, struct err *e);
// A btrfs of several devices is mounted by any of them once the kernel knows all; what it
// knows must not reach the next guest, which may be a clone.
void mount_know_btrfs(const struct guest *g);
void mount_forget_btrfs(void);

// --- assemble_root.c: which device holds the operating system

struct root_choice {
    const struct guest_device *device;
    char *options; // "subvol=@", NULL
    char *title;   // "Debian GNU/Linux 12 (bookworm)"
};
void root_choice_done(struct root_choice *c);
int root_find(struct assembly *a, const struct guest *g, struct root_choice *ret,
              struct err *e);

// --- assemble_fstab.c: everything below the root

int fstab_mount_all(struct assembly *a, struct guest *g, struct err *e);

// Asks for a kernel module; whether it came shows in what is tried next.
void assemble_load_module(const char *name);
// A program with `input` (secret, may be NULL) on its stdin, without udev; its stdout
// into *out (may be NULL), the last line of stderr into the error.
int assemble_run(char *const *argv, const char *input, struct buf *out, struct err *e);

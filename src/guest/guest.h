// SPDX-License-Identifier: Apache-2.0
// What is installed on a set of disks, and the table of fixes that make it boot
// elsewhere. Runs only inside the appliance, as the agent's helper role, on guest file
// systems that are hostile input: every path inside the guest goes through
// openat2(RESOLVE_IN_ROOT), every file read is bounded, no guest program is ever run.
#pragma once

#include "base/base.h"

// --- tree.c: files of a guest, below one root
// -----------------------------------------------------

struct tree;
int tree_open(const char *root, struct tree **ret, struct err *e);
void tree_close(struct tree *t);
DEFINE_AUTO(tree_close, struct tree *)
int tree_root_fd(const struct tree *t);
// Paths are as the guest sees them ("/etc/fstab"); links are followed inside the root.
bool tree_exists(struct tree *t, const char *path);
int tree_fd(struct tree *t, const char *path, int flags, mode_t mode, int *ret_fd,
            struct err *e);
int tree_read(struct tree *t, const char *path, struct buf *out, struct err *e);
// Replaced as a whole: written beside, owner, mode and extended attributes kept, fsynced,
// renamed. New: 0644 root.
int tree_write(struct tree *t, const char *path, const void *data, size_t len,
               struct err *e);
int tree_mkdir(struct tree *t, const char *path, struct err *e);  // with parents
int tree_remove(struct tree *t, const char *path, struct err *e); // missing: fine
// A folder and what is in it, which may be files and links and such folders; missing:
// fine. Follows no link.
int tree_remove_folder(struct tree *t, const char *path, struct err *e);
int tree_link(struct tree *t, const char *target, const char *path,
              struct err *e); // symbolic
// A file too large for memory: written through *ret_fd, in place after commit. Ended
// without commit, the old one stays. tree_write is built from these.
struct tree_new;
int tree_replace(struct tree *t, const char *path, struct tree_new **ret, int *ret_fd,
                 struct err *e);
int tree_replace_commit(struct tree_new *n, struct err *e);
void tree_replace_end(struct tree_new *n);
DEFINE_AUTO(tree_replace_end, struct tree_new *)
// Appends the names in a folder without . and .., sorted; a missing folder gives none.
int tree_list(struct tree *t, const char *path, struct strings *ret, struct err *e);

// --- guest.c: a guest, opened
// ---------------------------------------------------------------------

// A block device of the guest, as the appliance sees it and as the guest called it.
struct guest_device {
    char *node;               // in the appliance: "/dev/vdb1", "/dev/mapper/vg-root"
    unsigned disk, partition; // disk index in the machine, partition number (0: whole
                              // disk); for mapper: disk 0, partition of an array
    // as libblkid says; NULL when none
    char *content, *uuid, *label, *part_uuid, *part_label;
    bool mapper; // LVM, LUKS or md: its names do not change
    char *array; // md: the line of mdadm.conf(5) that its superblock makes; else NULL
};
static inline bool guest_device_holds(const struct guest_device *d, const char *content)
{
    return d->content && strcmp(d->content, content) == 0;
}
struct guest_nic { // network interface of the machine, from its description
    char *mac;     // "52:54:…", NULL when not known
    char *place;   // what udev made of its place on the old bus, NULL when not known
};
struct guest_address { // from the guest's own configuration
    char *interface;   // "ens192"
    char *mac;         // when the configuration names it, else NULL
    char *address;     // "192.0.2.10/24" or "2001:db8::1/64" or "dhcp"
    char *gateway;     // NULL: none
};
struct guest {
    struct tree *tree; // its root, everything mounted below
    VEC(struct guest_device) devices;
    unsigned first, second; // disks that the guest's names count the other way round
                            // than the machine; equal: none
    VEC(struct guest_nic) nics;
    VEC(struct guest_address) addresses;
    struct strings
        kernels;  // versions that have a folder in /lib/modules and an image in /boot
    char *family; // "debian" "redhat" "suse" "arch" … NULL: unknown
    char *distro, *version, *pretty,
        *hostname;          // os-release; "debian" "12" "Debian GNU/Linux 12 (bookworm)"
    bool uefi;              // has an EFI system partition with a loader
    bool bios;              // has a BIOS boot loader
    char *bootloader;       // "grub2" "grub1" "extlinux" "systemd-boot"
                            // "unified-kernel-image" …, NULL: unknown
    struct strings drivers; // parameter: modules that the target's disks and NICs need
                            // ("virtio_blk" …)
};
// Fills everything that is read from the tree (os-release, kernels, addresses, boot
// loader). The tree and devices are set by the caller: assemble_open in the appliance, a
// test's folder otherwise.
int guest_inspect(struct guest *g, struct err *e);
// Frees all of it, the tree too (assemble_close has closed it before and left NULL).
void guest_done(struct guest *g);
void guest_devices_done(struct guest *g); // the devices alone
__attribute__((unused)) static inline void auto_guest_done(struct guest *g)
{
    guest_done(g);
} // AUTO(guest_done) struct guest g = {0};
json_t *guest_json(const struct guest *g);
// UUID= name of a device as the guest called it ("/dev/sda1", "/dev/xvda1",
// "/dev/disk/by-path/…", "/dev/mapper/…" → NULL for names that hold everywhere). free()
// it.
char *guest_stable_name(const struct guest *g, const char *device);
// The same for a partition whose content does not last: PARTUUID=, NULL: it has none.
char *guest_part_name(const struct guest *g, const char *device);

// --- assemble.c: from bare disks to mounted trees
// -------------------------------------------------

struct assemble_options {
    const char *const
        *nodes; // "/dev/vdb"… in the machine's disk order, read-write or read-only
    size_t n_nodes;
    bool read_only;
    const json_t *luks_keys; // {"UUID or *": "passphrase"}; NULL: none
    const char *root; // root device by UUID, NULL: the only one found; two or more:
                      // ERR_REFUSED, listing them
};
// LVM of these disks only (a devices file, no auto-activation), LUKS with the given keys
// (without: ERR_REFUSED naming the volume), root found by its content, everything of its
// fstab mounted below. Hibernated or dirty beyond the journal: ERR_REFUSED. Fills g->tree
// and g->devices. Undone by assemble_close, always.
struct assembly;
int assemble_open(const struct assemble_options *options, struct guest *g,
                  struct assembly **ret, struct err *e);
int assemble_close(struct assembly *a, struct guest *g,
                   struct err *e); // unmounts, syncs, deactivates, closes

// --- fix.c: the table of fixes
// --------------------------------------------------------------------

struct fix {
    const char *name; // "initramfs-drivers"
    const char *why;  // one line for the report
    bool (*applies)(const struct guest *g);
    // Refuses what apply could not do; runs for all fixes before any changes something.
    // NULL: nothing to check.
    int (*check)(struct guest *g, struct err *e);
    // Changes the tree; a line a change is appended to `done` ("/etc/fstab: /dev/sda1 →
    // UUID=…"). Idempotent: a second run changes nothing.
    int (*apply)(struct guest *g, struct strings *done, struct err *e);
};
extern const struct fix fixes[]; // in the order they run; ends with a row without name
// Runs all that apply; *ret is [{"fix", "why", "changes": […]}…]. Refuses first what
// cannot be made to boot (unknown family, no kernel, unified kernel image, a driver that
// a kernel has not). Without g->drivers: virtio's.
int guest_convert(struct guest *g, json_t **ret, struct err *e);
// Only for a rehearsal's throw-away overlay: kernel messages and a login on ttyS0.
int guest_add_serial_console(struct guest *g, struct strings *done, struct err *e);

// --- initramfs.c
// ----------------------------------------------------------------------------------

// Adds `drivers` with what they depend on, from the guest's /lib/modules/VERSION, to the
// initramfs at `path`, as one more cpio archive (DESIGN.md idea 6). *ret_added: modules
// that were not there before (none: the file stays as it is).
int initramfs_add_modules(struct tree *t, const char *path, const char *kernel_version,
                          const struct strings *drivers, struct strings *ret_added,
                          struct err *e);
// cpio.c, initramfs segments: see initramfs.h

// SPDX-License-Identifier: Apache-2.0
// One account on one platform, as source or target of a migration. A folder a platform:
// files/ (dir:PATH and image files), libvirt/. Adding one is adding a row to
// cloud_platforms.
#pragma once

#include "disk/disk.h"
#include "machine/machine.h"

struct cloud;
// How a machine is to arrive: what a target needs to check, place and define it.
struct cloud_disk {
    uint64_t size;      // of the replica, bytes
    uint64_t needed;    // bytes it will take at most (allocation)
    char *replica;      // path of the raw replica; filled by place
    char *map;          // its map
    char *overlay;      // path of the converted overlay
    char *final;        // what the domain uses in the end: the overlay, or the file after
                        // `finish`/--format
    char *final_format; // "qcow2" or "raw"
};
struct cloud_machine {
    const struct machine *machine;
    const char *name;
    struct cloud_disk *disks;
    size_t n_disks;
    const char *const *networks; // "MAC=NET" from --network
    size_t n_networks;
    uint64_t job;         // with job_created the tag of everything that is made
    uint64_t job_created; // wall clock: another store counts its jobs from 1 again
    bool emulated;        // no KVM: type='qemu'
};
struct cloud_ops {
    const char *scheme; // "dir:" "libvirt+"
    const char *what;   // "a folder" for help
    // `address` is the whole SOURCE or TARGET word.
    int (*open)(const char *address, struct cloud **ret, struct err *e);
    void (*close)(struct cloud *c);
    // As target. check refuses before anything is copied: no room, not writable, name
    // taken by something that is not this job's. place fills the paths of every disk and
    // takes the name for the job: the folder and the hidden marker `.NAME.godwit` in it
    // are made (remove deletes it once no disk is left), so that a run after kill -9
    // knows its own files. Both are repeatable. NULL: cannot be a target.
    int (*check)(struct cloud *c, const struct cloud_machine *m, struct err *e);
    int (*place)(struct cloud *c, struct cloud_machine *m, struct err *e);
    // Makes the machine known (NAME.xml; a defined domain). Repeatable: a second call
    // replaces the first.
    int (*import)(struct cloud *c, const struct cloud_machine *m, struct err *e);
    int (*launch)(struct cloud *c, const struct cloud_machine *m, struct err *e);
    // Stops and forgets the machine; never touches disks. Repeatable; call it again once
    // the disks are gone, and nothing of the job is left.
    int (*remove)(struct cloud *c, const struct cloud_machine *m, struct err *e);
    // As source: the machine that `address` names, off; running: ERR_REFUSED. NULL:
    // cannot be a source.
    int (*describe)(struct cloud *c, struct machine **ret, struct err *e);
};
struct cloud {
    const struct cloud_ops *ops;
};
extern const struct cloud_ops *const cloud_platforms[]; // ends with NULL
// The platform of an address, NULL when it is a plain file name.
const struct cloud_ops *cloud_find(const char *address);
int cloud_open(const char *address, struct cloud **ret,
               struct err *e); // ERR_USAGE: lists the known schemes
void cloud_close(struct cloud *c);
DEFINE_AUTO(cloud_close, struct cloud *)

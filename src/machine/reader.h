// SPDX-License-Identifier: Apache-2.0
// What the readers of machine descriptions share. Private to this folder.
#pragma once

#include "machine/machine.h"

#define MACHINE_HEAD (64 * KIB) // what a reader that is not `text` is given

// --- machine.c: filling a machine within its limits
// ----------------------------------------------------------------

// Appends *disk, whose strings are taken even on failure. ERR_REFUSED: too many.
int machine_add_disk(struct machine *m, struct machine_disk *disk, struct err *e);
int machine_add_nic(struct machine *m, struct machine_nic *nic, struct err *e);
void machine_disk_done(struct machine_disk *disk);
void machine_nic_done(struct machine_nic *nic);
__attribute__((unused)) static inline void auto_machine_disk_done(struct machine_disk *d)
{
    machine_disk_done(d);
}
__attribute__((unused)) static inline void auto_machine_nic_done(struct machine_nic *n)
{
    machine_nic_done(n);
}

// --- reference.c: names that descriptions use for things outside of them
// -------------------------------------------

// The file that `ref` names, seen from the description's folder: it must exist and lie
// below that folder, links resolved, unless options->allow_any_path. An absolute name
// that does not exist here, but has a namesake beside the description, means that one: a
// folder that was taken along keeps its paths.
int reference_resolve(const struct machine_options *options, const char *ref, char **ret,
                      struct err *e);
char *reference_uuid(const char *text); // 8-4-4-4-12 lower case, NULL: not a UUID
// QEMU's name of the format that a file name's ending stands for, NULL: none.
const char *reference_format(const char *path);

// --- manifest.c: the checksums beside an OVF (DSP0243 9.2)
// ---------------------------------------------------------

// Compares `text`, the content of file `name`, with its line in the manifest. A manifest
// that has no line for it is fine. ERR_REFUSED: differs.
int manifest_check(const char *manifest, size_t manifest_len, const char *name,
                   const char *text, size_t len, struct err *e);

// --- read_ovf.c: the part that an OVA shares
// -----------------------------------------------------------------------

// Finds the file that an OVF's reference names.
struct ovf_files {
    int (*find)(void *context, const char *href, struct machine_disk *disk,
                struct err *e);
    void *context;
};
int ovf_parse(const char *text, size_t len, const char *what,
              const struct ovf_files *files, struct machine *m, struct err *e);

// --- the readers: rows of machine_readers
// ----------------------------------------------------------

bool image_is(const char *path, const char *text, size_t len); // by its name
bool ova_is(const char *path, const char *text, size_t len);
bool ovf_is(const char *path, const char *text, size_t len);
bool libvirt_is(const char *path, const char *text, size_t len);
bool vmx_is(const char *path, const char *text, size_t len);
bool json_is(const char *path, const char *text, size_t len);
#define READER(fn)                                                              \
    int fn(const char *text, size_t len, const struct machine_options *options, \
           struct machine *m, struct err *e)
READER(image_read);
READER(ova_read);
READER(ovf_read);
READER(libvirt_read);
READER(vmx_read);
READER(json_read_machine);

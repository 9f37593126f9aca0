// SPDX-License-Identifier: Apache-2.0
// A server without a cloud: firmware, CPUs, memory, disks, network interfaces, and what
// is known of its operating system. Read from OVF, OVA, VMX, libvirt XML, a bare image or
// JSON; written as libvirt XML or JSON.
#pragma once

#include "base/base.h"

enum firmware { FIRMWARE_BIOS, FIRMWARE_UEFI };

struct machine_disk {
    char *path;   // image file; for a disk in an OVA the OVA itself
    char *format; // QEMU's name, NULL when the description does not say
    char *bus;    // "virtio" "scsi" "sata" "ide" "nvme", NULL when not known
    uint64_t part_off, part_len; // where in `path` the image lies (OVA), 0, 0: all of it
    uint32_t sector_size;        // 512 or 4096; 0: not known
    bool boot;
};
struct machine_nic {
    char *mac;     // "52:54:00:12:34:56" lower case, NULL when not known
    char *model;   // "e1000" "vmxnet3" "virtio" …, NULL when not known
    char *network; // name of the network there, NULL when none
    char *bridge;  // libvirt: type='bridge', NULL otherwise
};
struct machine {
    char *name; // [A-Za-z0-9._-]+, made safe from whatever the description says
    char *uuid; // NULL: none
    char *arch; // "x86_64"
    enum firmware firmware;
    bool firmware_known; // the description said it; otherwise conversion tells (ESP or
                         // not)
    bool secure_boot;
    unsigned cpus;   // >= 1
    uint64_t memory; // bytes
    struct machine_disk *disks;
    size_t n_disks;
    struct machine_nic *nics;
    size_t n_nics;
    json_t *guest; // facts as guest/ reports them (distribution, kernels, addresses),
                   // NULL: not looked at
    char *
        running_as; // libvirt XML of a live domain: not NULL when its disks may be in use
};

struct machine_options {
    const char *path;    // .vmx .ovf .ova .xml .json or an image
    bool allow_any_path; // --allow-path: disks may lie outside the description's folder
    const char *name;    // --name, NULL: from the description or the file
};
// Chooses the reader by the file's content, then its name. Disks that are not there,
// `../` in references, no disk at all: ERR_REFUSED. Nothing is read of the disks
// themselves. For a bare image: 2 CPUs, 2 GiB, one NIC without MAC.
int machine_read(const struct machine_options *options, struct machine **ret,
                 struct err *e);
void machine_free(struct machine *m);
DEFINE_AUTO(machine_free, struct machine *)

// One reader a format; each parses `text` into an empty machine. `dir` is the folder
// references are relative to.
struct machine_reader {
    const char *name;
    bool (*is)(const char *path, const char *text, size_t len);
    int (*parse)(const char *text, size_t len, const struct machine_options *options,
                 struct machine *m, struct err *e);
};
extern const struct machine_reader machine_readers[]; // ends with a row without name

int machine_json(const struct machine *m, json_t **ret, struct err *e);
int machine_from_json(const json_t *j, struct machine **ret, struct err *e);

// A libvirt domain (formatdomain of libvirt 9) for KVM with virtio, or TCG when
// `emulated` (type='qemu'). q35, virtio-blk, virtio-net, serial console, virtio-rng, no
// graphics but VNC on a Unix socket off; OVMF for UEFI (code and vars by libvirt's
// firmware='efi' selection). Disks in order as vda, vdb…; `overlay_of` names the backing
// file, stated explicitly with its format.
struct domain_disk {
    const char *path, *format;
    const char *backing_path, *backing_format; // NULL: none
};
struct domain_options {
    const struct machine *machine;
    const struct domain_disk *disks;
    size_t n_disks;
    bool emulated;
    const char *network; // libvirt network or NULL: "user" networking
};
void machine_domain_xml(const struct domain_options *options, struct buf *out);
// A locally administered MAC that depends on `seed` only, so that a second run gives the
// same.
void machine_make_mac(const char *seed, unsigned index, char out[static 18]);

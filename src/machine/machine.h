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
    char *place;   // what udev calls a NIC at its place of the bus ("ens192"), NULL: not
                   // known
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
                   // NULL: not looked at; of a server that runs its addresses and the
                   // ports that it listens on ("listening")
    char *
        running_as; // libvirt XML of a live domain: not NULL when its disks may be in use
};

struct machine_reader;
struct machine_options {
    const char *path;    // .vmx .ovf .ova .xml .json or an image
    bool allow_any_path; // --allow-path: disks may lie outside the description's folder
    const char *name;    // --name, NULL: from the description or the file
    // libvirt XML: where volume `volume` of pool `pool` lies; free() it. NULL: a disk
    // that is a volume is refused.
    int (*volume_path)(void *context, const char *pool, const char *volume,
                       char **ret_path, struct err *e);
    void *context; // of volume_path
};
#define MACHINE_TEXT_MAX (16 * MIB) // of a description
#define MACHINE_DISKS_MAX 64
#define MACHINE_NICS_MAX 64
// Chooses the reader by the file's content, then its name. Disks that are not there,
// `../` in references, no disk at all: ERR_REFUSED. Nothing is read of the disks
// themselves. For a bare image: 2 CPUs, 2 GiB, one NIC without MAC.
int machine_read(const struct machine_options *options, struct machine **ret,
                 struct err *e);
void machine_free(struct machine *m);
DEFINE_AUTO(machine_free, struct machine *)

// A description that is at hand as text (a domain from libvirtd): options->path says what
// it is called in errors, and its folder is where relative references start.
int machine_parse(const struct machine_reader *reader, const char *text, size_t len,
                  const struct machine_options *options, struct machine **ret,
                  struct err *e);

// One reader a format; each parses `text` into an empty machine. References are relative
// to the folder of options->path.
struct machine_reader {
    const char *name;
    const char *suffix; // of file names, where the content does not tell
    bool text;          // parse is given the whole file, else only its first 64 KiB
    bool (*is)(const char *path, const char *text, size_t len);
    int (*parse)(const char *text, size_t len, const struct machine_options *options,
                 struct machine *m, struct err *e);
};
extern const struct machine_reader machine_readers[]; // ends with a row without name
const struct machine_reader *machine_reader_find(const char *name); // NULL: no such one
// [A-Za-z0-9._-]{1,64} from anything, starting with a letter or digit; free() it.
char *machine_safe_name(const char *text);
// Is it safe as it stands? ERR_USAGE otherwise, with one that would be.
int machine_check_name(const char *name, struct err *e);
// "52:54:00:12:34:56" from any way of writing it; NULL: not a MAC; free() it.
char *machine_mac(const char *text);

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
#define GODWIT_XML_NAMESPACE "https://godwit.dev/xmlns/domain/1.0"
struct domain_network {
    const char *mac; // of the NIC, as the machine has it
    const char *net; // libvirt network, "bridge:NAME", or "user"
};
struct domain_options {
    const struct machine *machine;
    const char *name; // NULL: the machine's
    const char *uuid; // NULL: the machine's; "": none, libvirt makes one
    const char *tag;  // of the job, kept as metadata (<godwit:job tag='…'>); NULL: none
    const struct domain_disk *disks;
    size_t n_disks;
    bool emulated;
    const struct domain_network *networks; // by MAC
    size_t n_networks;
    const char *network; // of all other NICs: as domain_network.net; NULL: "user"
};
// The target name of disk `index`: vda, vdb … vdz, vdaa….
void machine_disk_target(size_t index, char out[static 8]);
void machine_domain_xml(const struct domain_options *options, struct buf *out);
// A locally administered MAC that depends on `seed` only, so that a second run gives the
// same.
void machine_make_mac(const char *seed, unsigned index, char out[static 18]);

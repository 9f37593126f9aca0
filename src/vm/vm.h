// SPDX-License-Identifier: Apache-2.0
// QEMU as a child process: starting it, QMP, the appliance (a small Debian with our agent
// that works on guests' file systems), and rehearsals (a throw-away boot that is
// watched).
#pragma once

#include "disk/disk.h"
#include "machine/machine.h"
#include "net/net.h"

// --- accel.c: is KVM usable?
// ----------------------------------------------------------------------

enum accel { ACCEL_AUTO, ACCEL_KVM, ACCEL_TCG };
// AUTO: $GODWIT_ACCEL if set, else KVM if a tiny kernel starts under it within 5 seconds
// (answer kept per machine in `cache_dir`, keyed by kernel release, QEMU version and boot
// id), else TCG. *ret_why says it in a line. cache_dir NULL: the user's cache.
int accel_choose(enum accel wish, const char *cache_dir, enum accel *ret,
                 const char **ret_why, struct err *e);

// --- vm.c, qmp.c: a running QEMU
// ------------------------------------------------------------------

struct vm_disk {
    const char *path;   // file, or NULL with socket
    const char *image;  // QEMU's name of what lies in it (image_info.qemu_name), to be
                        // opened instead; with discard_writes only, NULL: path is all
    const char *socket; // Unix socket of an NBD export
    const char *format; // "raw" "qcow2"; where nothing is written, any of a source
    const char *serial; // at most 20 characters
    const char
        *bus; // "virtio" "sata" "scsi" "nvme"; NULL: virtio (hot-plug: always scsi)
    bool read_only;
    bool discard_writes; // what is written goes to a file in run_dir and ends with the VM
    uint32_t sector_size; // 512 or 4096 as the guest sees it; 0: 512
};
struct vm_nic {
    const char *mac, *model; // model NULL: virtio-net-pci
    const char *net;         // "10.0.2.0/24" of the user network; NULL: QEMU's own
    const char *host;        // address of the host in it; NULL: the .2 (QEMU's rule)
    const char *dns, *dhcp;  // name server and first leased address in it; NULL: .3, .15
    const char *forward;     // "tcp:127.0.0.1:PORT-ADDRESS:PORT", NULL: none; restrict=on
                             // always: nothing leaves
};
struct vm_options {
    const char *name;
    enum accel accel;
    unsigned cpus;
    uint64_t memory; // bytes
    enum firmware firmware;
    const char *kernel, *initrd, *cmdline; // direct boot; NULL: from disk
    const struct vm_disk *disks;
    size_t n_disks;
    const struct vm_nic *nics;
    size_t n_nics;
    const char *run_dir; // sockets and logs, mode 0700; must exist and outlive the VM
    bool serial_port;    // a virtio-serial port named "godwit"
    bool display;        // a VGA card, so that a screen can be kept
};
// A running QEMU. It dies with the *thread* that started it (kill -9 of godwit leaves
// none), so that thread has to live on. It is confined: seccomp, no default devices, no
// way to a network. Waits end with a timeout and with cancellation.
struct vm;
int vm_start(const struct vm_options *options, struct vm **ret, struct err *e);
// Hot-plug through QMP. The disk is gone after vm_remove_disk returns.
int vm_add_disk(struct vm *v, const struct vm_disk *disk, struct err *e);
int vm_remove_disk(struct vm *v, const char *serial, struct err *e);
int vm_qmp(struct vm *v, const char *command, const json_t *arguments, json_t **ret,
           struct err *e);
int vm_port_fd(const struct vm *v); // the virtio-serial port's stream, owned by the VM
const char *
vm_console_path(const struct vm *v); // what came out of ttyS0 so far is in this file
int vm_screenshot(struct vm *v, const char *png_path, struct err *e);
bool vm_running(struct vm *v);
int vm_last_words(
    struct vm *v,
    struct err *e); // puts QEMU's last line of stderr into *e as the cause, returns -1
void vm_end(struct vm *v); // quit by QMP, then by signal; NULL is fine
DEFINE_AUTO(vm_end, struct vm *)

// --- appliance.c: our helper system
// ---------------------------------------------------------------

struct appliance_options {
    enum accel accel;
    const char *dir; // where kernel and initramfs are; NULL: $GODWIT_APPLIANCE, the
                     // installed place, the cache
    const char *cache_dir;
    uint64_t memory; // 0: 512 MiB; LUKS2 with its usual settings wants 2 GiB
};
// The folder where they are, for who makes other use of them; free() it.
int appliance_find(const char *dir, const char *cache_dir, char **ret, struct err *e);
struct appliance;
// In two steps, for a caller with something else to do meanwhile (copying): begin returns
// as soon as QEMU runs, wait when the agent has answered. ERR_FAILED says what is missing
// and how to get it.
int appliance_begin(const struct appliance_options *options, struct appliance **ret,
                    struct err *e);
int appliance_wait(struct appliance *a, struct err *e);
// Both in one.
int appliance_start(const struct appliance_options *options, struct appliance **ret,
                    struct err *e);
int appliance_add_disk(struct appliance *a, const struct vm_disk *disk, struct err *e);
int appliance_remove_disk(struct appliance *a, const char *serial, struct err *e);
// A control call (docs/control.md lists them).
int appliance_call(struct appliance *a, const char *path, const json_t *request,
                   uint64_t timeout_ms, json_t **ret, struct err *e);
uint64_t appliance_boot_ms(const struct appliance *a);
void appliance_end(struct appliance *a);
DEFINE_AUTO(appliance_end, struct appliance *)

// --- rehearse.c: boot it and say
// ------------------------------------------------------------------

struct rehearsal_options {
    const struct machine *machine; // firmware, CPUs, memory, NICs (MACs are kept)
    const struct vm_disk *disks;   // overlays: written to and thrown away by the caller
    size_t n_disks;
    enum accel accel;
    uint64_t timeout_ms; // for all of it
    const char *expect;  // text on the console; NULL: "login:"
    const char *address; // "192.0.2.10/24": where a TCP port must answer; NULL: not asked
    unsigned port;       // 0: not asked
    const char *run_dir;
    const char *picture; // path of the PNG of the screen, NULL: none
};
struct rehearsal {
    bool kernel, root, expected, port;                 // what was seen
    uint64_t kernel_ms, root_ms, expected_ms, port_ms; // since power on
    char *login_line;                                  // the line that matched
    char *console;                                     // the last 64 KiB of the console
    bool passed;
};
// 0 also when the guest did not boot: that is in *ret.
int rehearse(const struct rehearsal_options *options, struct rehearsal *ret,
             struct err *e);
void rehearsal_done(struct rehearsal *r);
json_t *rehearsal_json(const struct rehearsal *r);

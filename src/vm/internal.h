// SPDX-License-Identifier: Apache-2.0
// What the files of vm/ share: the QMP connection, and QEMU's command line.
#pragma once

#include "vm/vm.h"

#define VM_QEMU "qemu-system-x86_64"
#define VM_QEMU_PACKAGE "qemu-system-x86"
#define VM_SERIAL_MAX 20
#define VM_QMP_TIMEOUT_MS 60000 // an answer is a matter of ms, but cores may be busy

// --- qmp.c: QEMU's control connection (docs/interop/qmp-spec of QEMU)

struct qmp {
    int fd; // owned
    struct buf in;
    struct strings deleted; // ids of DEVICE_DELETED events that nobody waited for yet
};
void qmp_init(struct qmp *q, int fd /* taken */);
void qmp_done(struct qmp *q);
// Greeting and capabilities; the first thing that QEMU does once its devices are there.
int qmp_hello(struct qmp *q, uint64_t timeout_ms, struct err *e);
int qmp_call(struct qmp *q, const char *command, const json_t *arguments,
             uint64_t timeout_ms, json_t **ret, struct err *e);
// Until QEMU has said that the device is gone.
int qmp_wait_deleted(struct qmp *q, const char *id, uint64_t timeout_ms, struct err *e);

// --- vm_argv.c: options to arguments

// The format node of a disk as blockdev-add takes it; its name is "n-ID".
json_t *vm_blockdev(const struct vm_disk *disk, const char *id);
// device_add's arguments for a disk on a SCSI bus.
json_t *vm_scsi_device(const struct vm_disk *disk, const char *id);
int vm_check_disk(const struct vm_disk *disk, struct err *e);
struct vm_argv {
    const struct vm_options *options;
    const char *console;     // path of the file that ttyS0 goes to
    int qmp_fd, port_fd;     // port_fd -1: no serial port
    const char *code, *vars; // OVMF; NULL: BIOS
};
void vm_make_argv(const struct vm_argv *a, struct strings *ret);

// --- appliance.c

// $GODWIT_CACHE, /var/cache/godwit for root, else $XDG_CACHE_HOME/godwit or
// ~/.cache/godwit.
char *vm_default_cache(void);
// The folder with the appliance's files; NULL: none. The first of: dir (then only that),
// $GODWIT_APPLIANCE (same), cache_dir/appliance, the build's cache, the installed places.
char *vm_appliance_dir(const char *dir, const char *cache_dir);

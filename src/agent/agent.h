// SPDX-License-Identifier: Apache-2.0
// `godwit-agent`, at both ends: on a server that runs (source.h, one static program), and
// in the appliance, where it is process 1 and answers control calls.
#pragma once

#include "net/net.h"

// --- calls.c: control calls as a table that documents itself

struct call {
    struct route route;
    const char *what, *request, *reply; // for the documentation
};
void calls_print(const struct call *calls, size_t n);
// Answers on `fd` until the peer closes; see http_serve.
int calls_serve(int fd, const struct call *calls, size_t n, void *context, struct err *e);

// --- boot.c: process 1

// Mounts what programs need and loads the modules that /etc/modules lists.
void boot_system(void);
// The word of NAME=word on the kernel's command line, into `out`; false: not there.
bool boot_parameter(const char *name, char *out, size_t size);
// Loads the drivers of all hardware that was not there at the call before (real machines;
// a driver may bring devices that want drivers of their own).
void boot_find_hardware(void);
__attribute__((noreturn)) void boot_power_off(void);

// --- disks.c: disks by their serial numbers

struct disk_found {
    char *serial, *node;
    uint64_t size;
    uint64_t sector_size;
    bool read_only;
};
// Waits until the disk is there and its partitions are known.
int disk_find(const char *serial, uint64_t timeout_ms, struct disk_found *ret,
              struct err *e);
void disk_found_done(struct disk_found *d);

// --- helper.c: the calls of the appliance (docs/control.md)

extern const struct call helper_calls[];
extern const size_t n_helper_calls;
// Answers on the virtio-serial port "godwit"; returns only on failure.
int helper_serve(struct err *e);

// --- metal.c: a real machine, which becomes a source

__attribute__((noreturn)) void metal_run(void);

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What the BPF programs in the kernel and track_*.c share. Inside agent/.
#pragma once

#include <linux/types.h>

#define TRACK_PAGE 4096 // bytes of marks a map entry
#define TRACK_MARK 0xff // a byte of marks: with one bit flipped it still is one
#define TRACK_FAN 64    // marks below one of the next level
#define TRACK_LEVELS 3
#define TRACK_FLIGHT 16384 // requests
#define TRACK_NO_PLACE 32  // from this op on: nobody knows what it changed (SG_IO)

struct track_bpf_disk {
    __u32 index;        // in struct tracker's order
    __u32 sector_shift; // a granule's, minus 9
    __u64 n_granules;
    __u32 base[TRACK_LEVELS]; // first map entry of each level
    __u32 n_disks;
    __u32 dev, unused;
};
struct track_bpf_flight { // a request that was issued and not seen to end
    __u64 sector, when;
    __u32 n_bytes, dev;
    __u64 op;
};
// Entry CPU * n_disks + index: no CPU waits for another's. Behind the last CPU's are
// ours.
struct track_bpf_count {
    __u64 sectors, lost;
    __u64 unused[6];
};
// Stand-ins for the fields of a record in track_classic.bpf.c.
#define TRACK_FIELDS 0x7000
#define TRACK_FIELD_DEV 0x7000
#define TRACK_FIELD_N_SECTORS 0x7004
#define TRACK_FIELD_SECTOR 0x7008
#define TRACK_FIELD_RWBS 0x7010

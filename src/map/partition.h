// SPDX-License-Identifier: Apache-2.0
// The partition table of a disk: MBR with logical partitions, GPT, or both (hybrid).
// Private to this folder.
#pragma once

#include "map/map.h"

#define PARTITIONS_MAX 1024

struct partition {
    unsigned number;           // as Linux counts: logical ones from 5
    uint64_t off, len;         // within the disk
    char uuid[40];             // "" when none
    const char *whole_because; // its contents are not to be looked at; NULL: they may be
    bool esp, bios_boot, active;
};
struct partition_table {
    const char *kind;    // "gpt" "dos", NULL: none
    uint32_t sector;     // of the disk that it was made for: 512 or 4096
    const char *damaged; // the whole disk counts as used, and why; NULL: it is fine
    VEC(struct partition) v;
    // Sectors of the tables themselves, and what a second table says that the first does
    // not: in use whatever partitions say.
    struct extents own;
};
// Never fails because of what is on the disk.
int partition_read(struct disk *d, struct partition_table *ret, struct err *e);
void partition_table_done(struct partition_table *t);
__attribute__((unused)) static inline void
auto_partition_table_done(struct partition_table *t)
{
    partition_table_done(t);
}

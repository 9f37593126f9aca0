// SPDX-License-Identifier: Apache-2.0
// What of a volume is in use, gathered in any order in bounded memory; and the reads and
// checksums that the readers of file systems share. Private to this folder.
#pragma once

#include "map/map.h"

// A bit a granule, at most 8 MiB of bits: the granule is 4 KiB up to 256 GiB and grows
// with the volume. Ranges are rounded outwards, so that rounding never makes anything
// free.
struct used_map;
struct used_map *used_map_new(uint64_t size);
void used_map_free(struct used_map *m);
DEFINE_AUTO(used_map_free, struct used_map *)
// What lies beyond the volume's end is cut off.
void used_map_add(struct used_map *m, uint64_t off, uint64_t len);
// Is any of what shares a granule with `off` in use?
bool used_map_has(const struct used_map *m, uint64_t off);
// The free ranges of [from, to) in ascending order are easier to come by in some file
// systems: used is what lies between. `*at` starts as `from` and is moved to the end of
// the free range; at the end call it with an empty range at `to`.
void used_map_add_until(struct used_map *m, uint64_t *at, uint64_t free_off,
                        uint64_t free_len);
// Adds everything to `ret` as data. Small gaps count as used when there would be more
// than 128 Ki extents.
void used_map_emit(const struct used_map *m, struct extents *ret);

// Reads `len` bytes that the file system places at `off`; ERR_REFUSED when they would
// lie beyond the disk's end. `what` names the structure.
int fs_read(struct disk *d, void *buf, size_t len, uint64_t off, const char *what,
            struct err *e);
// The checksum of a structure, as all file systems here define it: CRC-32C from ~0,
// inverted at the end. `skip` bytes from `skip_at` on (the field itself) count as zeros.
uint32_t fs_crc32c(const uint8_t *data, size_t len, size_t skip_at, size_t skip);
// Fuzz targets only: from now on every checksum counts as right.
void fs_checksums_ignore(void);
bool fs_checksums_ignored(void);

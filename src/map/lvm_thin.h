// SPDX-License-Identifier: Apache-2.0
// The metadata of a thin pool (device-mapper's). Private to this folder.
#pragma once

#include "map/map.h"

// What of the pool's data is mapped by any of its thin volumes or snapshots, added to
// `ret_used`. `meta` is the pool's metadata, `chunk` the size of its blocks in bytes,
// `size` that of its data. ERR_REFUSED: it cannot be trusted.
int lvm_thin_used(struct disk *meta, uint64_t chunk, uint64_t size,
                  struct extents *ret_used, struct err *e);

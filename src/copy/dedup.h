// SPDX-License-Identifier: Apache-2.0
// Blocks that another replica at the same target holds already. Inside copy/ only.
#pragma once

#include "copy/copy.h"

struct dedup;
// What cannot be opened, or has other hashes, is passed over. At most 18 MiB of memory
// and 128 descriptors, whatever they hold: see dedup.c.
#define DEDUP_OTHERS_MAX 64
struct dedup *dedup_new(const struct copy_other *others, size_t n);
void dedup_free(struct dedup *d);
// Block `block`, or any other, whose bytes have this hash: read into `buffer` and hashed
// again here. What a map says is only where to look. Thread safe.
bool dedup_find(struct dedup *d, uint64_t block, const uint8_t hash[static STRONG_LEN],
                uint8_t *buffer, size_t len);

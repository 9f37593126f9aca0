// SPDX-License-Identifier: Apache-2.0
// The entries of a replica map: a small write-back cache over a part of the map's file.
// Private to this folder.
#pragma once

#include <pthread.h>

#include "map/map.h"

#define ENTRY_LEN(hash_len) ((hash_len) + 8) // hash, round 4, check 4

struct entries;
// `fd` stays the caller's; `at` is where entry 0 lies; `salt` makes the checks of two
// maps differ, so that what is left of an older file is never taken for ours.
struct entries_options {
    int fd;
    const char *path;
    uint64_t at, n_blocks, salt;
    size_t hash_len;
    bool peek; // another process writes them: what is read is forgotten at once
};
struct entries *entries_new(const struct entries_options *options);
void entries_free(struct entries *s);

// All thread safe. Entries of a round above `max_round` are damage.
int entries_set(struct entries *s, uint64_t block, const uint8_t *hash, uint32_t round,
                struct err *e);
int entries_get(struct entries *s, uint64_t block, size_t n, uint32_t max_round,
                struct map_entry *ret, struct err *e);
// The first block from `block` on that may have an entry; n_blocks: none has.
int entries_next(struct entries *s, uint64_t block, uint64_t *ret, struct err *e);
// Hands what is only in memory to the kernel (no sync).
int entries_write(struct entries *s, struct err *e);
// Adds every block that has an entry, as {block 8, hash}, in order.
int entries_hash(struct entries *s, uint32_t max_round, struct hash *h, struct err *e);

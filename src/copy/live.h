// SPDX-License-Identifier: Apache-2.0
// A round of a source that is in use: which blocks it is about, and which of them need
// not be read. Inside copy/ only.
#pragma once

#include "copy/dedup.h"
#include "copy/feed.h"

// What is known of a block, from the first to the last step.
enum block_state {
    BLOCK_READ,  // is to be read from the source
    BLOCK_FOUND, // another replica had it: it is in the buffer
    BLOCK_SAME,  // the target has it
    BLOCK_ZERO,  // is zeros
    BLOCK_DATA,  // in the buffer, and to be written
};
struct live {
    struct extents todo;  // of the round, whole blocks
    struct extents doubt; // parts where the target may hold what its map does not say
    struct dedup *dedup;
    uint64_t from; // an open round goes on here
    bool delta;    // a round after the first: nothing but `todo` is touched
    bool again;    // somebody began this round before
};
// Opens the round in the map, or finds where the open one stopped.
int live_begin(struct live *l, const struct copy_options *o, struct err *e);
void live_done(struct live *l);
// By the source's hashes (o->scan): what need not be read. Found blocks are in `buffer`,
// which is used as memory for the others too.
int live_sift(const struct live *l, const struct copy_options *o, const struct chunk *k,
              uint8_t *buffer, enum block_state *ret, struct err *e);

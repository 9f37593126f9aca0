// SPDX-License-Identifier: Apache-2.0
// What is to be copied, in order, cut into chunks that workers take. Inside copy/ only.
#pragma once

#include "copy/copy.h"

// A run of whole map blocks. `parts` are the ranges in it that hold data and must be
// read; the rest is zeros. No parts: a hole.
struct chunk {
    uint64_t off, len;
    struct extents parts;
};
// Walks the source's extents a page at a time, so that a disk of any size and
// fragmentation takes little memory.
struct feed {
    struct disk *source;
    const struct extents *only; // NULL: everything
    bool holes;                 // report holes too, as chunks without parts
    bool blind;                 // the source is not asked: all of it counts as data
    uint64_t cursor;            // multiple of MAP_BLOCK; everything below was handed out
    uint64_t end;               // size of the source
    size_t i_only;
    struct extents page; // what the source said of [page_from, page_to)
    size_t i_page;
    uint64_t page_to;
    struct extent piece; // the next data range, len 0: none fetched
};
// From `start`, a multiple of MAP_BLOCK. `only` is borrowed.
void feed_init(struct feed *f, struct disk *source, const struct extents *only,
               bool holes, uint64_t start);
void feed_done(struct feed *f);
// At most max_len bytes (a multiple of MAP_BLOCK; holes are cut at 1 GiB). *ret_end when
// nothing is left.
int feed_next(struct feed *f, uint64_t max_len, struct chunk *ret, bool *ret_end,
              struct err *e);

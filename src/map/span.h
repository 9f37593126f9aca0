// SPDX-License-Identifier: Apache-2.0
// A partition or a logical volume as a disk of its own: segments that lie on parts of
// the guest's disks, one after another (linear) or in turns (striped). Private to this
// folder.
#pragma once

#include "map/map.h"

struct span_area {
    unsigned disk; // index among the guest's disks
    uint64_t off;  // on it
};
struct span;

// `disks` are borrowed and must outlive the span. `name` is for messages.
struct span *span_new(struct disk *const *disks, const char *name);
void span_close(struct span *s);
DEFINE_AUTO(span_close, struct span *)
// Appends a segment of `len` bytes: round robin over n areas in chunks of `stripe` bytes
// (n == 1: linear, stripe is not looked at). len is a multiple of n * stripe, and the
// areas lie within their disks: both are the caller's to check.
void span_add(struct span *s, uint64_t len, uint64_t stripe,
              const struct span_area *areas, size_t n);
// The span as a disk; closed with the span, never by disk_close().
struct disk *span_disk(struct span *s);
// Where [off, off + len) of the span lies: one call for each area that is touched, in
// ranges that hold every byte of it and, where it is striped, nothing but the bytes
// between its first and its last.
typedef void span_visitor(void *context, unsigned disk, uint64_t off, uint64_t len);
void span_map(const struct span *s, uint64_t off, uint64_t len, span_visitor *visit,
              void *context);

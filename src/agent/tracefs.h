// SPDX-License-Identifier: Apache-2.0
// What tracefs tells: where fields of an event lie, and the pages of its ring buffers;
// what blktrace does.
// Inside agent/ only.
#pragma once

#include "base/base.h"

// --- tracefs.c: the file systems of the kernel's tracers

// A folder descriptor of "tracefs" or "debugfs": where it is mounted, else a mount that
// nobody else sees. ERR_REFUSED: the kernel has none.
int tracefs_open(const char *type, int *ret_fd, struct err *e);
int tracefs_read(int dir, const char *path, struct buf *b, struct err *e);
int tracefs_write(int dir, const char *path, const char *text, struct err *e);

// --- trace_format.c: events/block/block_rq_complete/format, events/header_page

struct trace_field {
    uint32_t off, size; // size 0: not there
};
struct trace_format {
    uint16_t id;
    struct trace_field type; // common_type
    struct trace_field dev, sector, n_sectors, rwbs;
};
struct trace_header { // of a page of the ring buffer
    struct trace_field commit, data;
};
#define TRACE_TEXT_MAX (64 * KIB)
#define TRACE_PAGE_MAX (1 * MIB)
// Numbers are those of a little-endian machine. ERR_REFUSED: fields are missing or of an
// absurd size.
int trace_format_parse(const char *text, struct trace_format *ret, struct err *e);
int trace_header_parse(const char *text, struct trace_header *ret, struct err *e);

// --- trace_page.c: one page of a ring buffer, as trace_pipe_raw gives it

struct trace_write { // a completed request that may have changed the disk
    uint32_t dev;
    uint64_t sector, n_sectors;
};
// Calls `write` for each; *ret_lost: events that the kernel says are missing in front of
// this page, at least. ERR_FAILED: it is no such page; what came before was called.
int trace_page(const uint8_t *page, size_t len, const struct trace_header *h,
               const struct trace_format *f,
               void (*write)(void *context, const struct trace_write *w), void *context,
               uint64_t *ret_lost, struct err *e);

// --- trace_blk.c: what blktrace's relay files give

// Calls `write` for each request that may have changed the disk. *sequence: the number of
// the last record of this CPU, 0 before the first. *ret_used: so many bytes were whole
// records. *ret_lost: records that are missing in between, and commands whose place
// nobody knows. ERR_FAILED: there is no record where one should be.
int trace_blk(const uint8_t *p, size_t len,
              void (*write)(void *context, const struct trace_write *w), void *context,
              uint32_t *sequence, size_t *ret_used, uint64_t *ret_lost, struct err *e);

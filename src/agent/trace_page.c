// SPDX-License-Identifier: Apache-2.0
// A page of the kernel's trace ring buffer (Documentation/trace/ring-buffer-map.rst,
// include/linux/ring_buffer.h of Linux): a header with how much of it is used, then
// records. Each starts with 32 bits, type and length in the low 5, a time difference in
// the others:
//
//     0         the next 32 bits say the length, themselves included
//     1 … 28    length in units of 4 bytes
//     29        nothing: until the end, or as long as the next 32 bits say
//     30, 31    times, 8 bytes
//
// What surprises: bit 31 of `commit` says that events were lost before this page, bit 30
// that their number stands behind the records.
#include "agent/tracefs.h"

#define MISSED (UINT64_C(1) << 31)
#define MISSED_STORED (UINT64_C(1) << 30)
enum { LENGTH_BEHIND = 0, PADDING = 29, TIME_EXTEND = 30, TIME_STAMP = 31 };

static uint64_t value(const uint8_t *p, struct trace_field f)
{
    switch (f.size) {
    case 2:
        return get_le16(p + f.off);
    case 4:
        return get_le32(p + f.off);
    default:
        return get_le64(p + f.off);
    }
}

// Is the field inside a record of this length?
static bool holds(size_t len, struct trace_field f)
{
    return f.off <= len && f.size <= len - f.off;
}

// 0: an event of another kind, or one that changes nothing.
static int record(const uint8_t *p, size_t len, const struct trace_format *f,
                  struct trace_write *ret)
{
    if (!holds(len, f->type))
        return -1;
    if (value(p, f->type) != f->id)
        return 0;
    if (!holds(len, f->dev) || !holds(len, f->sector) || !holds(len, f->n_sectors) ||
        !holds(len, f->rwbs))
        return -1;
    *ret = (struct trace_write){(uint32_t)value(p, f->dev), value(p, f->sector),
                                value(p, f->n_sectors)};
    // Everything but reads: a flush before a write is F, old kernels' write-zeroes are N.
    return p[f->rwbs.off] != 'R' && ret->n_sectors > 0;
}

int trace_page(const uint8_t *page, size_t len, const struct trace_header *h,
               const struct trace_format *f,
               void (*write)(void *context, const struct trace_write *w), void *context,
               uint64_t *ret_lost, struct err *e)
{
    if (len < h->data.off || !holds(len, h->commit))
        return err_set(e, ERR_FAILED, "a page of the trace buffer is %zu bytes", len);
    uint64_t commit = value(page, h->commit) & UINT32_MAX;
    uint64_t used = commit & ~(MISSED | MISSED_STORED);
    const uint8_t *p = page + h->data.off;
    if (used > len - h->data.off)
        return err_set(e, ERR_FAILED, "a page of the trace buffer claims %llu bytes",
                       (unsigned long long)used);
    *ret_lost = commit & MISSED ? 1 : 0;
    if (commit & MISSED && commit & MISSED_STORED && len - h->data.off - used >= 8)
        *ret_lost = max_u64(1, get_le64(p + used));
    for (uint64_t at = 0; used - at >= 4;) {
        uint32_t head = get_le32(p + at), type = head & 31, delta = head >> 5;
        uint64_t data = at + 4, n = (uint64_t)type * 4;
        if (type == PADDING && delta == 0)
            break;
        if (type == LENGTH_BEHIND || type == PADDING) {
            n = used - data >= 4 ? get_le32(p + data) : 0;
            if (n < 4)
                return err_set(e, ERR_FAILED, "a record of the trace has no length");
        } else if (type == TIME_EXTEND || type == TIME_STAMP) {
            n = 4;
        }
        if (n > used - data)
            return err_set(e, ERR_FAILED,
                           "a record of the trace is longer than its page");
        struct trace_write w;
        uint64_t skip = type == LENGTH_BEHIND ? 4 : 0;
        int is = type < PADDING ? record(p + data + skip, (size_t)(n - skip), f, &w) : 0;
        if (is < 0)
            return err_set(e, ERR_FAILED, "a record of the trace is cut short");
        if (is > 0)
            write(context, &w);
        at = round_up(data + n, 4);
        if (at > used)
            break;
    }
    return 0;
}

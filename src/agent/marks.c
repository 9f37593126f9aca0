// SPDX-License-Identifier: Apache-2.0
// A byte per granule of a disk. Bytes, not bits: a BPF program can set one without an
// atomic operation. What surprises: granules grow with the disks, so that the kernel's
// marks and ours together stay small on servers with large disks.
#include "agent/track.h"
#include "agent/track_bpf.h"

#include <assert.h>

#define SHIFT_MIN 16

unsigned marks_shift(const uint64_t *sizes, size_t n_disks)
{
    for (unsigned shift = SHIFT_MIN;; shift++) {
        uint64_t bytes = 0;
        for (size_t i = 0; i < n_disks; i++)
            bytes += 2 * ((sizes[i] >> shift) + 1); // live and pending
        if (bytes <= MARKS_LIMIT || shift == 40)
            return shift;
    }
}

void marks_set(struct marks *m, uint64_t off, uint64_t len)
{
    uint64_t from = off >> m->shift;
    if (len == 0 || from >= m->n)
        return;
    uint64_t end = off + (len - 1);
    uint64_t last = end < off ? UINT64_MAX >> m->shift : end >> m->shift;
    memset(m->v + from, TRACK_MARK, (size_t)(min_u64(last, m->n - 1) - from + 1));
}

void marks_take(struct marks *into, uint8_t *live, uint64_t n, unsigned above)
{
    for (uint64_t at = 0; at < n; at += 8) {
        uint64_t *word = (uint64_t *)(void *)(live + at);
        uint64_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        while (seen != 0) {
            for (unsigned i = 0; i < 8; i++) {
                uint64_t from = (at + i) << above, fan = UINT64_C(1) << above;
                if ((seen >> 8 * i & 0xff) != 0 && from < into->n)
                    memset(into->v + from, TRACK_MARK,
                           (size_t)min_u64(fan, into->n - from));
            }
            // Fails when another mark of the word came meanwhile; `seen` has it then.
            if (__atomic_compare_exchange_n(word, &seen, 0, false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_ACQUIRE))
                break;
        }
    }
}

// The first granule from `g` on, before `end`, that is marked or not as asked; else end.
static uint64_t marks_next(const struct marks *m, uint64_t g, uint64_t end, bool marked)
{
    while (g < end && (m->v[g] != 0) != marked) {
        // Long runs without a mark are the rule: eight at a time.
        uint64_t word;
        while (marked && end - g >= 8 && (memcpy(&word, m->v + g, 8), word == 0))
            g += 8;
        if (g < end && (m->v[g] != 0) != marked)
            g++;
    }
    return g;
}

uint64_t marks_bytes(const struct marks *m, uint64_t disk_size)
{
    uint64_t bytes = 0;
    for (uint64_t g = 0; (g = marks_next(m, g, m->n, true)) < m->n; g++) {
        uint64_t off = g << m->shift;
        if (off < disk_size)
            bytes += min_u64(disk_size - off, UINT64_C(1) << m->shift);
    }
    return bytes;
}

int marks_extents(const struct marks *m, uint64_t disk_size, uint64_t off, uint64_t len,
                  struct extents *out, uint64_t *ret_done)
{
    assert(len > 0 && off <= disk_size && len <= disk_size - off);
    uint64_t at = off, end = off + len;
    while (at < end) {
        uint64_t g = at >> m->shift;
        bool marked = g < m->n && m->v[g] != 0;
        uint64_t next = g < m->n ? marks_next(m, g, m->n, !marked) : UINT64_MAX;
        uint64_t stop = next < m->n ? min_u64(end, next << m->shift) : end;
        extents_append(out, at, stop - at, marked ? EXTENT_DATA : EXTENT_HOLE);
        at = stop;
    }
    *ret_done = len;
    return 0;
}

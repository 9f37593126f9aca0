// SPDX-License-Identifier: Apache-2.0
// A bitmap of what is in use. File systems with two copies of everything (btrfs DUP) or
// with tables in no order report ranges out of order; a sorted list of extents would
// cost a move a range, a bitmap costs a bit. Its memory does not depend on the volume
// (the granule does), and neither does the size of the list it is turned into.

#include "used_map.h"

#include <assert.h>
#include <ext2fs/ext2fs.h>

#define MAX_BITS (8 * MIB * 8)
#define MIN_GRANULE (4 * KIB)
#define MAX_EXTENTS (128 * KIB)

struct used_map {
    uint64_t size, granule, n_bits;
    uint64_t *words;
};

struct used_map *used_map_new(uint64_t size)
{
    struct used_map *m = xcalloc(1, sizeof(*m));
    m->size = size;
    m->granule = MIN_GRANULE;
    while (size / m->granule >= MAX_BITS)
        m->granule *= 2;
    m->n_bits = size / m->granule + (size % m->granule != 0);
    m->words = xcalloc((size_t)(m->n_bits / 64 + 1), sizeof(*m->words));
    return m;
}

void used_map_free(struct used_map *m)
{
    if (!m)
        return;
    free(m->words);
    free(m);
}

void used_map_add(struct used_map *m, uint64_t off, uint64_t len)
{
    if (!len || off >= m->size)
        return;
    len = min_u64(len, m->size - off);
    uint64_t first = off / m->granule, last = (off + len - 1) / m->granule;
    uint64_t head = ~UINT64_C(0) << first % 64, tail = ~UINT64_C(0) >> (63 - last % 64);
    if (first / 64 == last / 64) {
        m->words[first / 64] |= head & tail;
        return;
    }
    m->words[first / 64] |= head;
    for (uint64_t w = first / 64 + 1; w < last / 64; w++)
        m->words[w] = ~UINT64_C(0);
    m->words[last / 64] |= tail;
}

bool used_map_has(const struct used_map *m, uint64_t off)
{
    uint64_t bit = off / m->granule;
    return off < m->size && m->words[bit / 64] >> bit % 64 & 1;
}

void used_map_add_until(struct used_map *m, uint64_t *at, uint64_t free_off,
                        uint64_t free_len)
{
    if (free_off > *at)
        used_map_add(m, *at, free_off - *at);
    *at = free_off + free_len;
}

// The first bit from `from` on whose value is `value`; n_bits: none.
static uint64_t find_bit(const struct used_map *m, uint64_t from, bool value)
{
    while (from < m->n_bits) {
        uint64_t word = m->words[from / 64];
        word = (value ? word : ~word) >> from % 64;
        if (word)
            return min_u64(from + (uint64_t)__builtin_ctzll(word), m->n_bits);
        from = round_down(from, 64) + 64;
    }
    return m->n_bits;
}

// Walks the runs of used bits, gaps of at most max_gap bits included, into `ret` (NULL:
// only counts).
static uint64_t walk_runs(const struct used_map *m, uint64_t max_gap, struct extents *ret)
{
    uint64_t n = 0;
    uint64_t next = find_bit(m, 0, true);
    while (next < m->n_bits) {
        uint64_t start = next, end = next;
        while (next < m->n_bits && next - end <= max_gap) {
            end = find_bit(m, next, false);
            next = find_bit(m, end, true);
        }
        n++;
        if (!ret)
            continue;
        uint64_t off = start * m->granule, stop = min_u64(end * m->granule, m->size);
        if (ret->n == 0 || off >= ret->v[ret->n - 1].off + ret->v[ret->n - 1].len)
            extents_append(ret, off, stop - off, EXTENT_DATA);
        else
            extents_add(ret, off, stop - off);
    }
    return n;
}

void used_map_emit(const struct used_map *m, struct extents *ret)
{
    uint64_t max_gap = 0;
    while (walk_runs(m, max_gap, NULL) > MAX_EXTENTS)
        max_gap = max_gap * 2 + 1;
    walk_runs(m, max_gap, ret);
}

int fs_read(struct disk *d, void *buf, size_t len, uint64_t off, const char *what,
            struct err *e)
{
    if (off > d->size || len > d->size - off)
        return err_set(e, ERR_REFUSED, "%s lies beyond the end of the volume", what);
    return disk_read(d, buf, len, off, e);
}

static bool checksums_ignored;

void fs_checksums_ignore(void)
{
    checksums_ignored = true;
}

bool fs_checksums_ignored(void)
{
    return checksums_ignored;
}

uint32_t fs_crc32c(const uint8_t *data, size_t len, size_t skip_at, size_t skip)
{
    static const uint8_t zeros[32];
    assert(skip <= sizeof(zeros) && skip_at + skip <= len);
    uint32_t crc = ext2fs_crc32c_le(~UINT32_C(0), data, skip_at);
    crc = ext2fs_crc32c_le(crc, zeros, skip);
    return ~ext2fs_crc32c_le(crc, data + skip_at + skip, len - skip_at - skip);
}

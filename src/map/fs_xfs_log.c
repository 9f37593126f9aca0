// SPDX-License-Identifier: Apache-2.0
// Was an XFS file system cleanly unmounted? Then the youngest record of its log is an
// unmount record, and nothing follows it ("XFS Algorithms & Data Structures", chapter
// "Journaling Log").
//
// The log is a ring of 512-byte blocks. The first word of each is the number of the turn
// (cycle) it was written in, or, where a record begins, the magic number and then the
// cycle:
//
//     | 7 7 7 7 7 7 7 7 R U | 6 6 6 6 6 6 6 6 |      R, U: record header, unmount
//                           ^ head: the first block of the previous turn (or never
//                             written: 0)
//
// All blocks of one cycle: the head is at the end, that is, at 0. After a crash young
// blocks may stand behind the head, because records are written out of order; therefore
// what follows the head is looked at too.

#include "fs_xfs.h"

#define SECTOR 512
#define MAGIC 0xfeedbabe
#define RECORD_MAX (256 * KIB)          // of one record's data
#define HEADER_SPAN (32 * KIB)          // a header block covers that much data
#define BACK (RECORD_MAX / SECTOR + 16) // blocks that the last record may take
#define AHEAD (8 * RECORD_MAX / SECTOR) // blocks that may be in flight
#define UNMOUNT 0x20                    // operation flag

struct log {
    const struct xfs *fs;
    uint64_t n; // blocks of 512
};

static int read_blocks(const struct log *l, uint64_t first, size_t n, uint8_t *buf,
                       struct err *e)
{
    return fs_read(l->fs->d, buf, n * SECTOR, l->fs->log_off + first * SECTOR,
                   "the XFS log", e);
}

static uint32_t cycle_of(const uint8_t *block)
{
    return get_be32(block) == MAGIC ? get_be32(block + 4) : get_be32(block);
}

static int cycle_at(const struct log *l, uint64_t i, uint32_t *ret, struct err *e)
{
    uint8_t block[SECTOR];
    if (read_blocks(l, i, 1, block, e) < 0)
        return -1;
    *ret = cycle_of(block);
    return 0;
}

// The first block of the previous turn; 0 when all are of one.
static int find_head(const struct log *l, uint64_t *ret_head, uint32_t *ret_cycle,
                     struct err *e)
{
    uint32_t first, last, middle;
    uint64_t low = 0, high = l->n - 1;
    if (cycle_at(l, 0, &first, e) < 0 || cycle_at(l, l->n - 1, &last, e) < 0)
        return -1;
    if (!first || (last && last != first && last != first - 1))
        return err_set(e, ERR_REFUSED, "the XFS log is damaged");
    *ret_cycle = first;
    *ret_head = 0;
    if (first == last)
        return 0;
    while (high - low > 1) {
        uint64_t at = low + (high - low) / 2;
        if (cycle_at(l, at, &middle, e) < 0)
            return -1;
        // xfs_repair -L leaves blocks never written behind its record.
        if (middle && middle != first && middle != last)
            return err_set(e, ERR_REFUSED, "the XFS log is damaged");
        if (middle == first)
            low = at;
        else
            high = at;
    }
    *ret_head = high;
    return 0;
}

// No block that follows the head may be of the head's turn. (At head 0 all are.)
static int check_ahead(const struct log *l, uint64_t head, uint32_t cycle, struct err *e)
{
    AUTO(free) void *buf = xmalloc(AHEAD * SECTOR);
    size_t n = head ? (size_t)min_u64(AHEAD, l->n - head) : 0;
    if (n && read_blocks(l, head, n, buf, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (cycle_of((uint8_t *)buf + i * SECTOR) >= cycle)
            return err_set(e, ERR_REFUSED, "the XFS log is dirty: mount and unmount it");
    return 0;
}

// The unmount record that ends at `head`: its header begins `back` blocks before it.
static int check_record(const struct log *l, const uint8_t *h, uint64_t start,
                        uint64_t back, struct err *e)
{
    uint8_t data[SECTOR];
    uint64_t len = get_be32(h + 12), h_size = get_be32(h + 320);
    uint64_t headers = 1;
    if (get_be32(h + 8) & 2 && h_size > HEADER_SPAN)
        headers = (min_u64(h_size, RECORD_MAX) + HEADER_SPAN - 1) / HEADER_SPAN;
    static const uint8_t no_uuid[16];
    if (memcmp(h + 304, l->fs->uuid, 16) != 0 && memcmp(h + 304, no_uuid, 16) != 0)
        return err_set(e, ERR_REFUSED, "the XFS log is another file system's");
    // Operation header: transaction 4, length 4, client 1, flags 1.
    if (len > RECORD_MAX || headers + (len + SECTOR - 1) / SECTOR != back ||
        get_be32(h + 40) != 1)
        return err_set(e, ERR_REFUSED, "the XFS log is dirty: mount and unmount it");
    if (read_blocks(l, (start + headers) % l->n, 1, data, e) < 0)
        return -1;
    if (!(data[9] & UNMOUNT))
        return err_set(e, ERR_REFUSED, "the XFS log is dirty: mount and unmount it");
    return 0;
}

int xfs_log_check(const struct xfs *fs, struct err *e)
{
    struct log l = {fs, (uint64_t)fs->log_blocks * fs->block / SECTOR};
    uint64_t head = 0;
    uint32_t cycle = 0;
    uint8_t block[SECTOR];
    if (l.n < 2 * BACK)
        return err_set(e, ERR_REFUSED, "the XFS log is too small");
    if (find_head(&l, &head, &cycle, e) < 0 || check_ahead(&l, head, cycle, e) < 0)
        return -1;
    for (uint64_t back = 1; back <= BACK; back++) {
        uint64_t at = (head + l.n - back) % l.n;
        if (read_blocks(&l, at, 1, block, e) < 0)
            return -1;
        if (get_be32(block) == MAGIC)
            return check_record(&l, block, at, back, e);
    }
    return err_set(e, ERR_REFUSED, "the XFS log is damaged: no record before its head");
}

// SPDX-License-Identifier: Apache-2.0
// The hashes of a disk as a disk (BLAKE2b, RFC 7693, 32 bytes of digest, no key). Nothing
// is kept: a hash is computed when it is read, so what is read is always of now. A block
// that lies in a hole of the disk below costs nothing, its hash is all zeros; the last
// block is hashed as long as it is, without padding.
#include "disk/disk.h"

#include <assert.h>
#include <pthread.h>
#include <sodium.h>

#define PART MIB // what is read at once, blocks being smaller

struct hashed {
    struct disk disk;
    struct disk *next;
    uint64_t block;
};
_Static_assert(offsetof(struct hashed, disk) == 0, "cast from struct disk");

static pthread_once_t once = PTHREAD_ONCE_INIT;

// Chooses the fastest code for this processor; without it the portable one runs.
static void begin(void)
{
    if (sodium_init() < 0)
        abort();
}

void strong_hash(const void *data, size_t len, uint8_t ret[static STRONG_LEN])
{
    (void)pthread_once(&once, begin);
    (void)crypto_generichash(ret, STRONG_LEN, data, len, NULL, 0); // fails for no length
}

// Does disk_extents() say that all of the range reads as zeros?
static int reads_as_zeros(struct disk *d, uint64_t off, uint64_t len, bool *ret,
                          struct err *e)
{
    AUTO(extents_done) struct extents x = {0};
    uint64_t done = 0;
    if (disk_extents(d, off, len, &x, &done, e) < 0)
        return -1;
    *ret = done == len && extents_bytes(&x, EXTENT_DATA) == 0;
    return 0;
}

// The hashes of the blocks that lie in `len` bytes at `off`, one behind the other.
static int hash_blocks(struct hashed *h, uint8_t *buf, uint64_t off, size_t len,
                       uint8_t *hashes, struct err *e)
{
    bool zeros;
    if (cancel_check(e) < 0 || reads_as_zeros(h->next, off, len, &zeros, e) < 0 ||
        (!zeros && disk_read(h->next, buf, len, off, e) < 0))
        return -1;
    for (size_t at = 0, part; at < len; at += part, hashes += STRONG_LEN) {
        part = (size_t)min_u64(h->block, len - at);
        if (zeros || is_zero(buf + at, part))
            memset(hashes, 0, STRONG_LEN);
        else
            strong_hash(buf + at, part, hashes);
    }
    return 0;
}

static int hashed_read(struct disk *d, void *out, size_t len, uint64_t off, struct err *e)
{
    struct hashed *h = (struct hashed *)d;
    uint64_t most = max_u64(PART / h->block, 1);
    AUTO(free) void *buf = alloc_aligned((size_t)(most * h->block));
    AUTO(free) void *hashes = xmalloc((size_t)most * STRONG_LEN);
    if (buf == NULL)
        return err_set(e, ERR_RETRY, "read: out of memory");
    for (size_t done = 0, part; done < len; done += part) {
        uint64_t at = off + done, first = at / STRONG_LEN, skip = at % STRONG_LEN;
        part = (size_t)min_u64(len - done, most * STRONG_LEN - skip);
        uint64_t n = (skip + part - 1) / STRONG_LEN + 1, from = first * h->block;
        size_t bytes = (size_t)min_u64(n * h->block, h->next->size - from);
        if (hash_blocks(h, buf, from, bytes, hashes, e) < 0)
            return -1;
        memcpy((uint8_t *)out + done, (uint8_t *)hashes + skip, part);
    }
    return 0;
}

// A block of which a part is data has a hash; what the disk below did not describe to
// the end of a block counts as data.
static int hashed_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                          uint64_t *ret_done, struct err *e)
{
    struct hashed *h = (struct hashed *)d;
    AUTO(extents_done) struct extents x = {0};
    uint64_t first = off / STRONG_LEN, end = (off + len - 1) / STRONG_LEN + 1, done;
    uint64_t from = first * h->block, to = h->next->size;
    to = end * STRONG_LEN >= d->size ? to : end * h->block;
    if (disk_extents(h->next, from, to - from, &x, &done, e) < 0)
        return -1;
    extents_align(&x, h->block, h->next->size);
    uint64_t whole = from + done == to ? end : (from + done) / h->block;
    uint64_t at = off, until = min_u64(max_u64(whole, first + 1) * STRONG_LEN, off + len);
    if (whole == first)
        extents_append(out, off, until - off, EXTENT_DATA);
    for (size_t i = 0; i < x.n && whole > first; i++) {
        uint64_t start = max_u64(x.v[i].off / h->block * STRONG_LEN, off);
        uint64_t stop = (x.v[i].off + x.v[i].len - 1) / h->block + 1;
        start = min_u64(start, until);
        stop = min_u64(stop * STRONG_LEN, until);
        extents_append(out, at, start - at, EXTENT_ZERO);
        extents_append(out, start, stop - start, EXTENT_DATA);
        at = stop;
    }
    if (whole > first)
        extents_append(out, at, until - at, EXTENT_ZERO);
    *ret_done = until - off;
    return 0;
}

static void hashed_close(struct disk *d)
{
    struct hashed *h = (struct hashed *)d;
    disk_close(h->next);
    free(d->name);
    free(h);
}

static const struct disk_ops hashed_ops = {
    .type = "hashed",
    .read = hashed_read,
    .extents = hashed_extents,
    .close = hashed_close,
};

struct disk *hashed_new(struct disk *next, uint64_t block)
{
    assert(block > 0 && block <= GIB);
    struct hashed *h = xcalloc(1, sizeof(*h));
    h->disk = (struct disk){
        .ops = &hashed_ops,
        .name = xstrdup(next->name),
        .size = (next->size / block + (next->size % block > 0)) * STRONG_LEN,
        .sector_size = 512,
        .alignment = STRONG_LEN,
        .n_parallel = next->n_parallel,
    };
    h->next = next;
    h->block = block;
    return (struct disk *)h;
}

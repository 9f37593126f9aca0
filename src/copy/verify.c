// SPDX-License-Identifier: Apache-2.0
// Reads a replica back and holds it against its map, block by block: a block with an
// entry must have that hash, a block without one must read as zeros. Where the replica
// has a hole only the entries are looked at, so a sparse disk of many terabytes takes
// seconds. With the source at hand its blocks are read as well and must have the same
// hash.
#include "copy/copy.h"

#include "copy/feed.h"
#include "copy/pool.h"

#include <inttypes.h>
#include <stdatomic.h>

#define REQUEST (1 * MIB)
#define BLOCKS (REQUEST / MAP_BLOCK)
#define WORKERS 4
#define SAMPLE_OF 64
#define ENDS (1 * MIB) // both ends of a disk hold its tables: always looked at
#define SEED UINT64_C(0x9e3779b97f4a7c15)

struct verify {
    struct disk *source, *replica;
    struct disk *scan; // the source's hashes, NULL: not asked
    struct map *map;
    uint64_t size; // of what was copied: a device may be larger
    enum verify_mode mode;
    struct rate *rate;
    uint64_t start_ms;
    _Atomic uint64_t read, verified, mismatched, first_bad;
};

// The same blocks in every run, spread evenly.
static bool wanted(const struct verify *v, uint64_t block)
{
    uint64_t off = block * MAP_BLOCK;
    if (v->mode == VERIFY_FULL || off < ENDS || off + ENDS >= v->size)
        return true;
    return ((block + 1) * SEED >> 32) % SAMPLE_OF == 0;
}

static void miss(struct verify *v, uint64_t block)
{
    uint64_t off = block * MAP_BLOCK;
    v->mismatched++;
    uint64_t first = v->first_bad;
    while (off < first && !atomic_compare_exchange_weak(&v->first_bad, &first, off))
        ;
}

static bool matches(const struct verify *v, const struct map_entry *entry,
                    const uint8_t *data, size_t len)
{
    if (entry->round == 0)
        return is_zero(data, len);
    uint8_t hash[MAP_HASH_MAX];
    map_hash(v->map, data, len, hash);
    return memcmp(hash, entry->hash, MAP_HASH_MAX) == 0;
}

static int verify_range(struct verify *v, struct disk *d, uint64_t block, size_t n,
                        const struct map_entry *entries, uint8_t *buffer, struct err *e)
{
    uint64_t off = block * MAP_BLOCK;
    size_t len = (size_t)min_u64(n * MAP_BLOCK, v->size - off);
    rate_wait(v->rate, len);
    if (cancel_check(e) < 0 || disk_read(d, buffer, len, off, e) < 0)
        return -1;
    v->read += len;
    for (size_t i = 0; i < n; i++)
        if (!matches(v, &entries[i], buffer + i * MAP_BLOCK,
                     (size_t)min_u64(MAP_BLOCK, len - i * MAP_BLOCK)))
            miss(v, block + i);
    return 0;
}

static int verify_hashes(struct verify *v, uint64_t block, size_t n,
                         const struct map_entry *entries, struct err *e)
{
    uint8_t hashes[BLOCKS * STRONG_LEN];
    if (disk_read(v->scan, hashes, n * STRONG_LEN, block * STRONG_LEN, e) < 0)
        return -1;
    // No entry and all zeros say the same.
    for (size_t i = 0; i < n; i++)
        if (memcmp(hashes + i * STRONG_LEN, entries[i].hash, STRONG_LEN) != 0)
            miss(v, block + i);
    return 0;
}

static int verify_data(struct verify *v, const struct chunk *k, uint8_t *buffer,
                       struct err *e)
{
    uint64_t first = k->off / MAP_BLOCK;
    size_t n = (size_t)((k->len + MAP_BLOCK - 1) / MAP_BLOCK);
    struct map_entry entries[BLOCKS];
    if (map_get(v->map, first, n, entries, e) < 0)
        return -1;
    for (size_t i = 0, run; i < n; i += run) { // runs of wanted blocks, one read each
        run = 1;
        if (!wanted(v, first + i))
            continue;
        while (i + run < n && wanted(v, first + i + run))
            run++;
        if (verify_range(v, v->replica, first + i, run, entries + i, buffer, e) < 0)
            return -1;
        if (v->source &&
            verify_range(v, v->source, first + i, run, entries + i, buffer, e) < 0)
            return -1;
        if (v->scan && verify_hashes(v, first + i, run, entries + i, e) < 0)
            return -1;
        v->verified += run * MAP_BLOCK;
    }
    return 0;
}

// A hole of the replica: no block of it may have an entry.
static int verify_hole(struct verify *v, const struct chunk *k, struct err *e)
{
    enum { N = 1024 };
    AUTO(free) void *memory = xcalloc(N, sizeof(struct map_entry));
    struct map_entry *entries = memory;
    uint64_t end = (k->off + k->len + MAP_BLOCK - 1) / MAP_BLOCK;
    for (uint64_t block = k->off / MAP_BLOCK;;) {
        if (map_next(v->map, block, &block, e) < 0)
            return -1;
        if (block >= end)
            return 0;
        size_t n = (size_t)min_u64(N, end - block);
        if (cancel_check(e) < 0 || map_get(v->map, block, n, entries, e) < 0)
            return -1;
        for (size_t i = 0; i < n; i++)
            if (entries[i].round)
                miss(v, block + i);
        block += n;
    }
}

static int verify_chunk(void *context, const struct chunk *k, uint8_t *buffer,
                        struct err *e)
{
    struct verify *v = context;
    return k->parts.n ? verify_data(v, k, buffer, e) : verify_hole(v, k, e);
}

static void report(const struct verify *v, const struct copy_options *o, uint64_t at)
{
    if (!o || !o->progress)
        return;
    uint64_t ms = max_u64(clock_ms() - v->start_ms, 1), total = v->size;
    struct copy_progress p = {
        .done = at,
        .total = total,
        .read = v->read,
        .bytes_per_second = (uint64_t)((double)v->read * 1000 / (double)ms),
        .left_ms = at == 0 ? UINT64_MAX
                           : (uint64_t)((double)(total - at) / (double)at * (double)ms),
        .workers = WORKERS,
        .request_size = REQUEST,
        .verifying = true,
    };
    o->progress(o->progress_context, &p);
}

static int run(struct verify *v, struct feed *f, struct pool *pool,
               const struct copy_options *o, struct err *e)
{
    uint64_t shown = clock_ms();
    bool end = false;
    for (;;) {
        struct pool_state s = pool_state(pool);
        if (s.failed)
            return pool_error(pool, e);
        end = end || (o && o->verify_until_ms && clock_ms() >= o->verify_until_ms);
        while (!end && s.n_waiting < 64) {
            struct chunk k;
            if (cancel_check(e) < 0 || feed_next(f, REQUEST, &k, &end, e) < 0)
                return -1;
            if (!end)
                pool_put(pool, &k);
            s = pool_state(pool);
        }
        if (end && s.n_waiting == 0 && s.n_busy == 0)
            return s.failed ? pool_error(pool, e) : 0;
        if (clock_ms() - shown >= 200) {
            shown = clock_ms();
            report(v, o, s.watermark);
        }
        pool_wait(pool, 50);
    }
}

int copy_verify(struct disk *source, struct disk *replica, struct map *map,
                enum verify_mode mode, const struct copy_options *options,
                struct copy_result *ret, struct err *e)
{
    if (!map)
        return err_set(e, ERR_USAGE, "verifying %s needs a map of it", replica->name);
    uint64_t size = map_size(map);
    uint64_t blocks = size / MAP_BLOCK + (size % MAP_BLOCK > 0);
    if (options && options->scan &&
        (map_algorithm(map) != MAP_BLAKE2B || options->scan->size != blocks * STRONG_LEN))
        return err_set(e, ERR_FAILED, "verifying %s: the hashes of %s are not its map's",
                       replica->name, options->scan->name);
    if (replica->size < size || (source && source->size != size))
        return err_set(e, ERR_FAILED,
                       "verifying %s: its map is of a disk of %" PRIu64 " bytes",
                       replica->name, size);
    struct verify v = {
        .source = source,
        .replica = replica,
        .scan = options ? options->scan : NULL,
        .map = map,
        .size = size,
        .mode = mode,
        .rate = options ? options->rate : NULL,
        .start_ms = clock_ms(),
        .first_bad = UINT64_MAX,
    };
    struct pool_options pool_options = {.work = verify_chunk,
                                        .context = &v,
                                        .max_workers = WORKERS,
                                        .max_request = REQUEST};
    AUTO(pool_free) struct pool *pool = NULL;
    struct feed f;
    if (pool_new(&pool_options, &pool, e) < 0)
        return -1;
    const struct extents *only = options ? options->verify_only : NULL;
    feed_init(&f, replica, only, !only, 0);
    f.blind = only != NULL; // holes of the replica are looked at too
    f.end = size;
    int failed = run(&v, &f, pool, options, e);
    feed_done(&f);
    if (failed)
        return -1;
    ret->verify_ms = clock_ms() - v.start_ms;
    ret->verified = v.verified;
    ret->mismatched = v.mismatched;
    report(&v, options, size);
    if (ret->mismatched)
        return err_set(e, ERR_FAILED,
                       "verifying %s: %" PRIu64
                       " blocks of 64 KiB differ, the first at byte %" PRIu64,
                       replica->name, ret->mismatched, (uint64_t)v.first_bad);
    return 0;
}

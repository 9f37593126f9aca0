// SPDX-License-Identifier: Apache-2.0
// The map against the source's hashes: the one way to notice that a tracker did not see a
// write. Asked about first is where a lost write is likely: blocks that were named in
// earlier rounds, those of the last ones first, each with what lies around it, since a
// file that grows has the mark that is missing beside one that is not. One in eight is at
// random, of all that was ever copied.
//
// What surprises: a neighbour without an entry was free when the disk was armed, and what
// lay there then is not known. Has it data now, that proves nothing, so it is no
// difference but fresh: to be copied.
#include "copy/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sys/random.h>

#define BATCH ((uint64_t)512)
#define TRIES_EACH 4     // random places for each block that is wanted
#define RANDOM_MOST 64   // blocks at random,
#define RANDOM_OF 8      // one of so many that are asked about
#define REACH_MOST 8     // blocks on either side of a hot one
#define WINDOW 64        // blocks of about the same weight, asked about in order of place
#define REQUEST_BLOCKS 8 // that lie side by side
#define WORKERS 4

struct asked {
    uint64_t weight; // less is sooner
    uint64_t block;
};
struct audit {
    struct disk *hashes;
    struct map *map;
    const struct audit_options *o;
    VEC(struct asked) asked; // in order
    uint64_t random;
    pthread_mutex_t lock; // of:
    struct audit_result result;
};

static uint64_t n_blocks(struct map *map)
{
    return map_size(map) / MAP_BLOCK + (map_size(map) % MAP_BLOCK > 0);
}

static uint64_t next_random(uint64_t *state) // xorshift64
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

// Anything of the block.
static bool touches(const struct extents *x, uint64_t block)
{
    uint64_t off = block * MAP_BLOCK;
    size_t low = 0, high = x ? x->n : 0;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (x->v[mid].off + x->v[mid].len <= off)
            low = mid + 1;
        else
            high = mid;
    }
    return x && low < x->n && x->v[low].off < off + MAP_BLOCK;
}

// --- what is asked about

static int by_weight(const void *a, const void *b)
{
    const struct asked *x = a, *y = b;
    return (x->weight > y->weight) - (x->weight < y->weight);
}

static int by_block(const void *a, const void *b) // of the same block the lightest first
{
    const struct asked *x = a, *y = b;
    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    return by_weight(a, b);
}

static void want(struct audit *a, uint64_t block, uint64_t weight)
{
    if (block < n_blocks(a->map) && !touches(a->o->skip, block)) // also before the first
        vec_push(&a->asked, ((struct asked){weight, block}));
}

// Hot blocks by age, and what lies around them by age and distance, as far as there is
// room; of the same weight in any order, so that what does not come to its turn is
// another in every round.
static void pick_hot(struct audit *a, size_t most)
{
    const struct hot *h = a->o->hot;
    uint32_t newest = 0;
    for (size_t i = 0; h && i < h->n; i++)
        newest = newest > h->v[i].round ? newest : h->v[i].round;
    for (size_t i = 0; h && i < h->n; i++) {
        uint64_t weight = (uint64_t)(newest - h->v[i].round) * 2;
        uint64_t reach = min_u64(REACH_MOST, most / h->n + 1);
        for (uint64_t d = 0; d <= reach; d++, weight++) {
            want(a, h->v[i].block + d, weight << 32 | next_random(&a->random) >> 32);
            want(a, h->v[i].block - d, weight << 32 | next_random(&a->random) >> 32);
        }
    }
    if (!a->asked.n)
        return;
    qsort(a->asked.v, a->asked.n, sizeof(*a->asked.v), by_block);
    size_t n = 0;
    for (size_t i = 0; i < a->asked.n; i++)
        if (n == 0 || a->asked.v[n - 1].block != a->asked.v[i].block)
            a->asked.v[n++] = a->asked.v[i];
    qsort(a->asked.v, n, sizeof(*a->asked.v), by_weight);
    a->asked.n = min_u64(n, most);
}

// The first block with an entry in the batch that begins at `block` or at the next one
// that may have one; *ret_found false: none there.
static int entry_from(struct map *map, uint64_t block, uint64_t *ret, bool *ret_found,
                      struct err *e)
{
    struct map_entry entries[BATCH];
    *ret_found = false;
    if (map_next(map, block, &block, e))
        return -1;
    size_t n = (size_t)min_u64(BATCH, n_blocks(map) - block);
    if (map_get(map, block, n, entries, e))
        return -1;
    for (size_t i = 0; i < n && !*ret_found; i++) {
        *ret_found = entries[i].round > 0;
        *ret = block + i;
    }
    return 0;
}

// Up to `n` that have an entry: what was never in use was never copied.
static int pick_random(struct audit *a, size_t n, struct err *e)
{
    for (size_t done = 0, tries = 0; done < n && tries < n * TRIES_EACH; tries++) {
        uint64_t block = next_random(&a->random) % n_blocks(a->map);
        bool found;
        if (cancel_check(e) || entry_from(a->map, block, &block, &found, e))
            return -1;
        size_t before = a->asked.n;
        if (found)
            want(a, block, 0);
        done += a->asked.n - before;
    }
    return 0;
}

// In the order of asking: windows of seven hot to one at random, as long as there are of
// both.
static int pick(struct audit *a, struct err *e)
{
    VEC(struct asked) order = {0};
    if (getrandom(&a->random, sizeof(a->random), 0) != sizeof(a->random))
        return err_errno(e, errno, "cannot get random bytes");
    a->random |= 1;
    size_t n_random = (size_t)min_u64(RANDOM_MOST, a->o->n / RANDOM_OF + 1);
    pick_hot(a, a->o->n - min_u64(n_random, a->o->n));
    size_t n_hot = a->asked.n, hot = 0;
    if (n_blocks(a->map) &&
        pick_random(a, (size_t)min_u64(RANDOM_MOST, a->o->n - n_hot), e))
        return -1;
    for (size_t random = n_hot; hot < n_hot || random < a->asked.n;) {
        bool at_random =
            hot == n_hot || (random < a->asked.n && order.n % RANDOM_OF == RANDOM_OF - 1);
        vec_push(&order, a->asked.v[at_random ? random++ : hot++]);
    }
    for (size_t i = 0; i < order.n; i += WINDOW)
        qsort(order.v + i, min_u64(WINDOW, order.n - i), sizeof(*order.v), by_block);
    vec_done(&a->asked);
    a->asked.v = order.v;
    a->asked.n = order.n;
    a->asked.cap = order.cap;
    return 0;
}

// --- asking

static int compare(void *context, const struct chunk *k, uint8_t *buffer, struct err *e)
{
    struct audit *a = context;
    struct map_entry entries[REQUEST_BLOCKS];
    uint64_t first = k->off / MAP_BLOCK, size = map_size(a->map);
    size_t n = (size_t)(k->len / MAP_BLOCK);
    if (a->o->until_ms && clock_ms() >= a->o->until_ms)
        return 0;
    if (cancel_check(e) ||
        disk_read(a->hashes, buffer, n * STRONG_LEN, first * STRONG_LEN, e) ||
        map_get(a->map, first, n, entries, e))
        return -1;
    pthread_mutex_lock(&a->lock);
    a->result.n_asked += n;
    for (size_t i = 0; i < n; i++) {
        // No entry and all zeros say the same.
        if (memcmp(buffer + i * STRONG_LEN, entries[i].hash, STRONG_LEN) == 0)
            continue;
        bool known = entries[i].round || (a->o->hot && hot_has(a->o->hot, first + i));
        uint64_t off = (first + i) * MAP_BLOCK;
        extents_add(known ? &a->result.differ : &a->result.fresh, off,
                    min_u64(MAP_BLOCK, size - off));
    }
    pthread_mutex_unlock(&a->lock);
    return 0;
}

static int ask(struct audit *a, struct err *e)
{
    struct pool_options options = {.work = compare,
                                   .context = a,
                                   .max_workers = WORKERS,
                                   .max_request = REQUEST_BLOCKS * STRONG_LEN};
    AUTO(pool_free) struct pool *pool = NULL;
    if (pool_new(&options, &pool, e))
        return -1;
    for (size_t i = 0, n; i < a->asked.n; i += n) {
        uint64_t first = a->asked.v[i].block;
        for (n = 1; n < REQUEST_BLOCKS && i + n < a->asked.n; n++)
            if (a->asked.v[i + n].block != first + n)
                break;
        struct chunk k = {.off = first * MAP_BLOCK, .len = n * MAP_BLOCK};
        pool_put(pool, &k);
    }
    for (;;) {
        struct pool_state s = pool_state(pool);
        if (s.failed)
            return pool_error(pool, e);
        if (s.n_waiting == 0 && s.n_busy == 0)
            return 0;
        pool_wait(pool, 50);
    }
}

int copy_audit(struct disk *hashes, struct map *map, const struct audit_options *o,
               struct audit_result *ret, struct err *e)
{
    struct audit a = {.hashes = hashes, .map = map, .o = o};
    if (map_algorithm(map) != MAP_BLAKE2B || hashes->size != n_blocks(map) * STRONG_LEN)
        return err_set(e, ERR_FAILED, "%s does not have the hashes of this map's disk",
                       hashes->name);
    pthread_mutex_init(&a.lock, NULL);
    int status = pick(&a, e) || ask(&a, e) ? -1 : 0;
    pthread_mutex_destroy(&a.lock);
    vec_done(&a.asked);
    if (!status)
        *ret = a.result;
    else
        audit_result_done(&a.result);
    return status;
}

void audit_result_done(struct audit_result *r)
{
    extents_done(&r->differ);
    extents_done(&r->fresh);
}

int copy_known(struct map *map, struct extents *ret, struct err *e)
{
    struct map_entry entries[BATCH];
    AUTO(extents_done) struct extents known = {0};
    uint64_t blocks = n_blocks(map), size = map_size(map);
    for (uint64_t block = 0;;) {
        if (map_next(map, block, &block, e))
            return -1;
        if (block >= blocks)
            break;
        size_t n = (size_t)min_u64(BATCH, blocks - block);
        if (map_get(map, block, n, entries, e))
            return -1;
        for (size_t i = 0; i < n; i++) {
            uint64_t off = (block + i) * MAP_BLOCK;
            if (entries[i].round)
                extents_append(&known, off, min_u64(MAP_BLOCK, size - off), EXTENT_DATA);
        }
        block += n;
    }
    *ret = known;
    known = (struct extents){0};
    return 0;
}

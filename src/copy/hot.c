// SPDX-License-Identifier: Apache-2.0
// Blocks that harvests named, a list of bounded length: with more of them than it holds
// those of the last rounds stay. Sorted by block.
#include "copy/copy.h"

#define BATCH ((uint64_t)512)

static int by_block(const void *a, const void *b) // of the same block the newest first
{
    const struct hot_block *x = a, *y = b;
    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    return (x->round < y->round) - (x->round > y->round);
}

static int by_round(const void *a, const void *b)
{
    const struct hot_block *x = a, *y = b;
    return (x->round < y->round) - (x->round > y->round);
}

// Every block once, and not too many of them.
static void settle(struct hot *h)
{
    size_t n = 0;
    qsort(h->v, h->n, sizeof(*h->v), by_block);
    for (size_t i = 0; i < h->n; i++)
        if (n == 0 || h->v[n - 1].block != h->v[i].block)
            h->v[n++] = h->v[i];
    h->n = n;
    if (n <= HOT_MAX)
        return;
    qsort(h->v, n, sizeof(*h->v), by_round);
    h->n = HOT_MAX;
    qsort(h->v, h->n, sizeof(*h->v), by_block);
}

void hot_add(struct hot *h, const struct extents *named, uint32_t round)
{
    // Of a round that names more than there is room for, some of everywhere.
    uint64_t step = extents_bytes(named, EXTENT_DATA) / MAP_BLOCK / HOT_MAX + 1;
    for (size_t i = 0; i < named->n; i++) {
        uint64_t block = named->v[i].off / MAP_BLOCK;
        uint64_t end = (named->v[i].off + named->v[i].len - 1) / MAP_BLOCK;
        for (; block <= end; block += step)
            vec_push(h, ((struct hot_block){block, round}));
        if (h->n > 2 * HOT_MAX)
            settle(h);
    }
    if (named->n)
        settle(h);
}

int hot_load(struct hot *h, struct map *map, struct err *e)
{
    struct map_entry entries[BATCH];
    uint64_t blocks = map_size(map) / MAP_BLOCK + (map_size(map) % MAP_BLOCK > 0);
    for (uint64_t block = 0;;) {
        if (cancel_check(e) || map_next(map, block, &block, e))
            return -1;
        if (block >= blocks)
            break;
        size_t n = (size_t)min_u64(BATCH, blocks - block);
        if (map_get(map, block, n, entries, e))
            return -1;
        for (size_t i = 0; i < n; i++)
            if (entries[i].round > 1)
                vec_push(h, ((struct hot_block){block + i, entries[i].round}));
        if (h->n > 2 * HOT_MAX)
            settle(h);
        block += n;
    }
    settle(h);
    return 0;
}

bool hot_has(const struct hot *h, uint64_t block)
{
    size_t low = 0, high = h->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (h->v[mid].block < block)
            low = mid + 1;
        else
            high = mid;
    }
    return low < h->n && h->v[low].block == block;
}

void hot_done(struct hot *h)
{
    vec_done(h);
}

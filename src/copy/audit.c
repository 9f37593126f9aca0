// SPDX-License-Identifier: Apache-2.0
// The map against the source's hashes at random places: the one way to notice that a
// tracker did not see a write. Only blocks with an entry are asked about: what was never
// in use was never copied.
#include "copy/copy.h"

#include <errno.h>
#include <sys/random.h>

#define BATCH ((uint64_t)512)
#define TRIES_EACH 4 // random places for each block that is wanted

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

// The first block with an entry in the batch that begins at `block` or at the next one
// that may have one; *ret_found false: none there.
static int pick(struct map *map, uint64_t block, uint64_t *ret,
                struct map_entry *ret_entry, bool *ret_found, struct err *e)
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
        *ret_entry = entries[i];
    }
    return 0;
}

// Anything of the block at `off`.
static bool touches(const struct extents *x, uint64_t off)
{
    for (size_t i = 0; x && i < x->n && x->v[i].off < off + MAP_BLOCK; i++)
        if (off < x->v[i].off + x->v[i].len)
            return true;
    return false;
}

static int compare(struct disk *hashes, uint64_t block, const struct map_entry *entry,
                   uint64_t size, struct extents *differ, struct err *e)
{
    uint8_t hash[STRONG_LEN];
    if (disk_read(hashes, hash, STRONG_LEN, block * STRONG_LEN, e))
        return -1;
    if (memcmp(hash, entry->hash, STRONG_LEN) != 0)
        extents_add(differ, block * MAP_BLOCK,
                    min_u64(MAP_BLOCK, size - block * MAP_BLOCK));
    return 0;
}

int copy_audit(struct disk *hashes, struct map *map, const struct extents *skip, size_t n,
               struct extents *ret, struct err *e)
{
    uint64_t random = 0, blocks = n_blocks(map);
    AUTO(extents_done) struct extents differ = {0};
    if (map_algorithm(map) != MAP_BLAKE2B || hashes->size != blocks * STRONG_LEN)
        return err_set(e, ERR_FAILED, "%s does not have the hashes of this map's disk",
                       hashes->name);
    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return err_errno(e, errno, "cannot get random bytes");
    random |= 1;
    for (size_t done = 0, tries = 0; done < n && tries < n * TRIES_EACH && blocks;
         tries++) {
        struct map_entry entry;
        uint64_t block;
        bool found;
        if (cancel_check(e) ||
            pick(map, next_random(&random) % blocks, &block, &entry, &found, e))
            return -1;
        if (!found || touches(skip, block * MAP_BLOCK))
            continue;
        if (compare(hashes, block, &entry, map_size(map), &differ, e))
            return -1;
        done++;
    }
    *ret = differ;
    differ = (struct extents){0};
    return 0;
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

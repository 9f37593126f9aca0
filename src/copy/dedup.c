// SPDX-License-Identifier: Apache-2.0
// Where a block with a given hash may lie: first at the same place of another replica
// (clones of one image, without any memory, and as its owner goes on filling it), then by
// a table of the hashes that the other maps had when the round began.
//
// The table has 2^20 slots of 16 bytes, three quarters of them used at most: 16 MiB know
// 48 GiB of blocks. What does not fit is not in it, and is found at the same place or
// sent.
#include "copy/dedup.h"

#include <fcntl.h>
#include <unistd.h>

#define SLOTS ((size_t)1 << 20)
#define MOST (SLOTS / 4 * 3)
#define OTHER_SHIFT 48 // the other's index above the number of the block
#define BATCH ((size_t)512)

struct slot {
    uint64_t key; // the hash's first bytes; 0: empty
    uint64_t where;
};
struct other {
    struct map *map;
    int fd;
    uint64_t n_blocks;
};
struct dedup {
    struct other others[DEDUP_OTHERS_MAX];
    size_t n_others, n_used;
    struct slot *slots;
};

static uint64_t key_of(const uint8_t *hash)
{
    uint64_t key = get_le64(hash);
    return key ? key : 1;
}

static void remember(struct dedup *d, const uint8_t *hash, uint64_t where)
{
    uint64_t key = key_of(hash);
    size_t i = key % SLOTS;
    for (; d->slots[i].key; i = (i + 1) % SLOTS)
        if (d->slots[i].key == key)
            return;
    d->slots[i] = (struct slot){.key = key, .where = where};
    d->n_used++;
}

static void remember_all(struct dedup *d, size_t other)
{
    struct map_entry entries[BATCH];
    struct other *o = &d->others[other];
    struct err ignored; // of a map that is somebody else's: what is not found is sent
    for (uint64_t block = 0; d->n_used < MOST;) {
        if (cancel_requested() || map_next(o->map, block, &block, &ignored) ||
            block >= o->n_blocks)
            return;
        size_t n = (size_t)min_u64(BATCH, o->n_blocks - block);
        if (map_get(o->map, block, n, entries, &ignored))
            return;
        for (size_t i = 0; i < n && d->n_used < MOST; i++)
            if (entries[i].round)
                remember(d, entries[i].hash,
                         (uint64_t)other << OTHER_SHIFT | (block + i));
        block += n;
    }
}

static void add_other(struct dedup *d, const struct copy_other *paths)
{
    AUTO(map_close) struct map *map = NULL;
    AUTO(fd_close) int fd = open(paths->replica, O_RDONLY | O_CLOEXEC);
    struct err ignored; // as above
    if (fd < 0 || map_peek(paths->map, &map, &ignored) ||
        map_algorithm(map) != MAP_BLAKE2B)
        return;
    uint64_t size = map_size(map);
    d->others[d->n_others++] =
        (struct other){.map = steal(map),
                       .fd = steal_fd(&fd),
                       .n_blocks = size / MAP_BLOCK + (size % MAP_BLOCK > 0)};
}

struct dedup *dedup_new(const struct copy_other *others, size_t n)
{
    struct dedup *d = xcalloc(1, sizeof(*d));
    for (size_t i = 0; i < n && d->n_others < DEDUP_OTHERS_MAX; i++)
        add_other(d, &others[i]);
    if (d->n_others)
        d->slots = xcalloc(SLOTS, sizeof(*d->slots));
    for (size_t i = 0; i < d->n_others; i++)
        remember_all(d, i);
    return d;
}

void dedup_free(struct dedup *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->n_others; i++) {
        map_close(d->others[i].map);
        fd_close(d->others[i].fd);
    }
    free(d->slots);
    free(d);
}

// Read here, hashed here.
static bool proven(const struct other *o, uint64_t block, const uint8_t *hash,
                   uint8_t *buffer, size_t len)
{
    uint8_t have[STRONG_LEN];
    if (fd_pread(o->fd, buffer, len, block * MAP_BLOCK))
        return false;
    strong_hash(buffer, len, have);
    return memcmp(have, hash, STRONG_LEN) == 0;
}

static bool entry_is(const struct other *o, uint64_t block, const uint8_t *hash)
{
    struct map_entry entry;
    struct err ignored; // as above
    return block < o->n_blocks && map_get(o->map, block, 1, &entry, &ignored) == 0 &&
           entry.round && memcmp(entry.hash, hash, STRONG_LEN) == 0;
}

bool dedup_find(struct dedup *d, uint64_t block, const uint8_t hash[static STRONG_LEN],
                uint8_t *buffer, size_t len)
{
    for (size_t i = 0; i < d->n_others; i++) {
        const struct other *o = &d->others[i];
        if (entry_is(o, block, hash) && proven(o, block, hash, buffer, len))
            return true;
    }
    uint64_t key = key_of(hash);
    for (size_t i = key % SLOTS; d->slots && d->slots[i].key; i = (i + 1) % SLOTS)
        if (d->slots[i].key == key) {
            uint64_t where = d->slots[i].where;
            return proven(&d->others[where >> OTHER_SHIFT],
                          where & ((UINT64_C(1) << OTHER_SHIFT) - 1), hash, buffer, len);
        }
    return false;
}

// SPDX-License-Identifier: Apache-2.0
// Rounds of a source that is in use, and blocks that need not cross the network.
//
// A round that was interrupted is never skipped: its extents are in the map. Below its
// watermark all is durable; beyond it the target may hold newer blocks than the entries
// say, or entries newer blocks than the target has (power loss keeps what it likes), so
// there an entry proves nothing and the target's own bytes are read and hashed instead.
//
//     hash of the source ─┬─ zeros                        → zeros
//                         ├─ entry is equal, no doubt     → nothing
//                         ├─ doubt, target's bytes equal  → entry
//                         ├─ another replica's bytes equal → written from there
//                         └─ else                         → read from the source
#include "copy/live.h"

#include <inttypes.h>

static int begin_next(struct live *l, const struct copy_options *o, uint32_t round,
                      struct err *e)
{
    AUTO(extents_done) struct extents wanted = {0};
    uint64_t size = o->source->size;
    if (!o->only && size)
        extents_append(&wanted, 0, size, EXTENT_DATA);
    for (size_t i = 0; o->only && i < o->only->n; i++)
        extents_append(&wanted, o->only->v[i].off, o->only->v[i].len, EXTENT_DATA);
    extents_align(&wanted, MAP_BLOCK, size);
    extents_or(&wanted, &l->doubt, &l->todo);
    if (o->target_changed) {
        static const struct extents none;
        extents_done(&l->doubt);
        extents_or(&l->todo, &none, &l->doubt);
    }
    l->delta = round > 0;
    return map_begin(o->map, &l->todo, e);
}

// What is left of the open round.
static int load_open(struct live *l, const struct copy_options *o, uint64_t from,
                     struct err *e)
{
    if (map_todo(o->map, &l->doubt, e))
        return -1;
    if (from)
        extents_remove(&l->doubt, 0, from);
    return 0;
}

static int check(const struct copy_options *o, struct err *e)
{
    uint64_t blocks = o->source->size / MAP_BLOCK + (o->source->size % MAP_BLOCK > 0);
    if (!o->map)
        return err_set(e, ERR_USAGE, "a round of %s needs a map", o->source->name);
    if (!o->scan)
        return 0;
    if (map_algorithm(o->map) != MAP_BLAKE2B)
        return err_set(e, ERR_USAGE, "hashes of %s need a map of BLAKE2b-256",
                       o->source->name);
    if (o->scan->size != blocks * STRONG_LEN)
        return err_set(e, ERR_FAILED,
                       "%s has %" PRIu64 " bytes of hashes for %" PRIu64 " blocks",
                       o->scan->name, o->scan->size, blocks);
    return 0;
}

int live_begin(struct live *l, const struct copy_options *o, struct err *e)
{
    if (check(o, e))
        return -1;
    struct map_state s = map_state(o->map);
    bool open = s.round && !s.round_complete;
    l->from = open ? round_down(s.watermark, MAP_BLOCK) : 0;
    if (open && load_open(l, o, l->from, e))
        return -1;
    if (o->n_others && o->scan)
        l->dedup = dedup_new(o->others, o->n_others);
    if (open && !o->only) {
        static const struct extents none;
        extents_or(&l->doubt, &none, &l->todo);
        l->delta = s.round > 1;
        l->again = true;
        return 0;
    }
    // The first round also made zeros of what it left out, which the next one does not.
    if (open && s.round == 1 && !o->target_is_zero && l->from < o->source->size) {
        l->doubt.n = 0;
        extents_append(&l->doubt, l->from, o->source->size - l->from, EXTENT_DATA);
    }
    l->from = 0;
    return begin_next(l, o, s.round, e);
}

void live_done(struct live *l)
{
    extents_done(&l->todo);
    extents_done(&l->doubt);
    dedup_free(l->dedup);
    *l = (struct live){0};
}

static bool covers(const struct extents *x, uint64_t off)
{
    size_t low = 0, high = x->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (x->v[mid].off + x->v[mid].len <= off)
            low = mid + 1;
        else
            high = mid;
    }
    return low < x->n && x->v[low].off <= off;
}

// Where the map is in doubt: do the target's bytes have this hash?
static int target_has(const struct copy_options *o, uint64_t off, size_t len,
                      const uint8_t *hash, uint8_t *buffer, bool *ret, struct err *e)
{
    uint8_t have[STRONG_LEN];
    if (disk_read(o->target, buffer, len, off, e))
        return -1;
    strong_hash(buffer, len, have);
    *ret = memcmp(have, hash, STRONG_LEN) == 0;
    return *ret ? map_set(o->map, off / MAP_BLOCK, hash, e) : 0;
}

int live_sift(const struct live *l, const struct copy_options *o, const struct chunk *k,
              uint8_t *buffer, enum block_state *ret, struct err *e)
{
    uint8_t hashes[COPY_MAX_BLOCKS * STRONG_LEN];
    struct map_entry entries[COPY_MAX_BLOCKS];
    uint64_t first = k->off / MAP_BLOCK;
    size_t n = (size_t)((k->len + MAP_BLOCK - 1) / MAP_BLOCK);
    if (disk_read(o->scan, hashes, n * STRONG_LEN, first * STRONG_LEN, e) ||
        map_get(o->map, first, n, entries, e))
        return -1;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *hash = hashes + i * STRONG_LEN;
        uint64_t off = k->off + i * MAP_BLOCK;
        size_t len = (size_t)min_u64(MAP_BLOCK, k->off + k->len - off);
        uint8_t *at = buffer + i * MAP_BLOCK;
        bool doubt = covers(&l->doubt, off), same = false;
        if (is_zero(hash, STRONG_LEN)) {
            ret[i] = BLOCK_ZERO;
            continue;
        }
        if (!doubt)
            same = entries[i].round && memcmp(hash, entries[i].hash, STRONG_LEN) == 0;
        else if (target_has(o, off, len, hash, at, &same, e))
            return -1;
        if (same)
            ret[i] = BLOCK_SAME;
        else if (l->dedup && dedup_find(l->dedup, first + i, hash, at, len))
            ret[i] = BLOCK_FOUND;
    }
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
// A record: 64 bytes of header, all numbers little-endian, then a pseudo-random body.
//
//   0 magic  8 place  16 off  24 seq  32 writer, len (32 bits each)  40 seed  48 sum  56
//   zero
//
// The body follows from the seed, so a reader needs nothing but the record. The sum takes
// every word by an invertible step: a change within one word is always seen.
#include "records.h"

#include <string.h>

#define HEADER 64
#define MAGIC UINT64_C(0x44524f4345524457)
#define SUM_AT 48

// Ordered as they are written; what each promises is in records.h.
const struct mode modes[] = {
    {"buffered", LAYOUT_SLOTS, .torn_cut = 1, .torn_frozen = 0, .window = 16},
    {"direct", LAYOUT_SLOTS, .torn_cut = 1, .torn_frozen = 0, .window = 16},
    {"mmap", LAYOUT_SLOTS, .torn_cut = 1, .torn_frozen = 1, .window = 16},
    {"append", LAYOUT_LOG, .torn_cut = 1, .torn_frozen = 0, .erases = 1, .window = 16},
    {"files", LAYOUT_FILES, .erases = 1, .window = 1},
    {"punch", LAYOUT_SLOTS, .torn_cut = 1, .torn_frozen = 0, .erases = 1, .window = 1},
    {"raw", LAYOUT_SLOTS, .torn_cut = 1, .torn_frozen = 1, .window = 16},
};
const size_t n_modes = ARRAY_LEN(modes);

const struct mode *mode_of(const char *place)
{
    const char *slash = strrchr(place, '/');
    const char *name = slash ? slash + 1 : place;
    size_t len = strcspn(name, ".");
    for (size_t i = 0; i < n_modes; i++)
        if (strlen(modes[i].name) == len && memcmp(modes[i].name, name, len) == 0)
            return &modes[i];
    return NULL;
}

static void put(uint8_t *buf, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        buf[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get(const uint8_t *buf)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v |= (uint64_t)buf[i] << 8 * i;
    return v;
}

uint64_t place_id(const char *place)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *place; place++)
        h = (h ^ (uint8_t)*place) * UINT64_C(0x100000001b3);
    return h;
}

// Over buf, with the sum's own word as zero; a last piece of a word counts as filled up.
static uint64_t sum_of(const uint8_t *buf, size_t len)
{
    uint64_t h = len;
    for (size_t i = 0; i < len; i += 8) {
        uint8_t word[8] = {0};
        if (i != SUM_AT)
            memcpy(word, buf + i, len - i < 8 ? len - i : 8);
        h = (h ^ get(word)) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return h;
}

static void body_fill(uint8_t *buf, size_t len, uint64_t seed)
{
    uint8_t word[8];
    for (size_t i = HEADER; i < len; i += 8) {
        put(word, mix(&seed));
        memcpy(buf + i, word, len - i < 8 ? len - i : 8);
    }
}

void record_write(struct record *r, uint8_t *buf)
{
    memset(buf, 0, HEADER);
    put(buf, MAGIC);
    put(buf + 8, r->place);
    put(buf + 16, r->off);
    put(buf + 24, r->seq);
    put(buf + 32, r->writer | (uint64_t)r->len << 32);
    put(buf + 40, r->seed);
    body_fill(buf, r->len, r->seed);
    r->sum = sum_of(buf, r->len);
    put(buf + SUM_AT, r->sum);
}

enum content record_read(const uint8_t *buf, size_t len, struct record *ret)
{
    static const uint8_t zeros[RECORD_MAX];
    if (len <= sizeof(zeros) && memcmp(buf, zeros, len) == 0)
        return CONTENT_ZERO;
    if (len < RECORD_MIN || get(buf) != MAGIC)
        return CONTENT_GARBAGE;
    struct record r = {.place = get(buf + 8),
                       .off = get(buf + 16),
                       .seq = get(buf + 24),
                       .writer = (uint32_t)get(buf + 32),
                       .len = (uint32_t)(get(buf + 32) >> 32),
                       .seed = get(buf + 40),
                       .sum = get(buf + SUM_AT)};
    if (r.len < RECORD_MIN || r.len > len || sum_of(buf, r.len) != r.sum)
        return CONTENT_GARBAGE;
    *ret = r;
    return CONTENT_RECORD;
}

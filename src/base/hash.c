// SPDX-License-Identifier: Apache-2.0
// XXH3-128 (xxhash.h) in its canonical form, which is the same on every machine, and the
// test for zeros.
#include "base/base.h"

#include <xxhash.h>

struct hash {
    XXH3_state_t *state;
};

static void canonical(XXH128_hash_t h, uint8_t ret_hash[static HASH_LEN])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, h);
    memcpy(ret_hash, c.digest, HASH_LEN);
}

void hash_block(const void *data, size_t len, uint8_t ret_hash[static HASH_LEN])
{
    canonical(XXH3_128bits(data, len), ret_hash);
}

// Most blocks with data show it in their first bytes. After that every byte is compared
// with the one 16 before it: memcmp is the fastest loop that libc has.
bool is_zero(const void *data, size_t len)
{
    static const uint8_t zero[16];
    const uint8_t *p = data;
    if (len <= sizeof(zero))
        return memcmp(p, zero, len) == 0;
    return memcmp(p, zero, sizeof(zero)) == 0 &&
           memcmp(p, p + sizeof(zero), len - sizeof(zero)) == 0;
}

struct hash *hash_new(void)
{
    struct hash *h = xcalloc(1, sizeof(*h));
    h->state = XXH3_createState();
    if (!h->state)
        abort();
    XXH3_128bits_reset(h->state);
    return h;
}

void hash_add(struct hash *h, const void *data, size_t len)
{
    XXH3_128bits_update(h->state, data, len);
}

void hash_end(struct hash *h, uint8_t ret_hash[static HASH_LEN])
{
    canonical(XXH3_128bits_digest(h->state), ret_hash);
}

void hash_free(struct hash *h)
{
    if (!h)
        return;
    XXH3_freeState(h->state);
    free(h);
}

void hash_hex(const uint8_t hash[static HASH_LEN], char out[static 2 * HASH_LEN + 1])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < HASH_LEN; i++) {
        out[2 * i] = digits[hash[i] >> 4];
        out[2 * i + 1] = digits[hash[i] & 15];
    }
    out[2 * HASH_LEN] = '\0';
}

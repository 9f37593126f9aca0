// SPDX-License-Identifier: Apache-2.0
// this exercises: extent lists, against a plain array of bytes
#include "disk/disk.h"
#include "tap.h"

#define SPACE 200

static bool same(const struct extents *x, const bool *bytes)
{
    bool got[SPACE] = {0};
    for (size_t i = 0; i < x->n; i++) {
        if (x->v[i].len == 0 || x->v[i].off + x->v[i].len > SPACE)
            return false;
        if (i > 0 && x->v[i - 1].off + x->v[i - 1].len >= x->v[i].off)
            return false; // not joined, or not sorted
        for (uint64_t b = 0; b < x->v[i].len; b++)
            got[x->v[i].off + b] = true;
    }
    return memcmp(got, bytes, sizeof(got)) == 0;
}

static void random_list(struct extents *x, bool *bytes, unsigned *seed, bool *ret_same)
{
    memset(bytes, 0, SPACE);
    for (int i = 0; i < 30; i++) {
        unsigned off = (unsigned)rand_r(seed) % SPACE;
        unsigned len = (unsigned)rand_r(seed) % 20;
        len = off + len > SPACE ? SPACE - off : len;
        bool add = rand_r(seed) % 3 != 0;
        if (add)
            extents_add(x, off, len);
        else
            extents_remove(x, off, len);
        memset(bytes + off, add, len);
        *ret_same = *ret_same && same(x, bytes);
    }
}

static void test_random(void)
{
    bool lists = true, ands = true, ors = true, aligned = true;
    for (unsigned seed = 1; seed < 3000; seed++) {
        bool a_bytes[SPACE], b_bytes[SPACE], or_bytes[SPACE];
        unsigned state = seed;
        AUTO(extents_done) struct extents a = {0};
        AUTO(extents_done) struct extents b = {0};
        AUTO(extents_done) struct extents both = {0};
        random_list(&a, a_bytes, &state, &lists);
        random_list(&b, b_bytes, &state, &lists);
        AUTO(extents_done) struct extents any = {0};
        extents_and(&a, &b, &both);
        extents_or(&a, &b, &any);
        for (int i = 0; i < SPACE; i++) {
            or_bytes[i] = b_bytes[i] || a_bytes[i];
            b_bytes[i] = b_bytes[i] && a_bytes[i];
        }
        ands = ands && same(&both, b_bytes);
        ors = ors && same(&any, or_bytes);
        bool grown[SPACE] = {0};
        for (unsigned i = 0; i < SPACE; i++)
            if (a_bytes[i] && i < SPACE - 3)
                for (unsigned g = i / 8 * 8; g < i / 8 * 8 + 8 && g < SPACE - 3; g++)
                    grown[g] = true;
        extents_align(&a, 8, SPACE - 3);
        aligned = aligned && same(&a, grown);
    }
    ok(lists, "adding and removing agree with an array, 3000 seeds");
    ok(ands, "so does the intersection");
    ok(ors, "and the union");
    ok(aligned, "and growing to a granule with a cut at the end");
}

int main(void)
{
    AUTO(extents_done) struct extents x = {0};
    extents_append(&x, 0, 10, EXTENT_DATA);
    extents_append(&x, 10, 10, EXTENT_DATA);
    extents_append(&x, 20, 5, EXTENT_HOLE);
    extents_append(&x, 25, 5, EXTENT_ZERO);
    extents_append(&x, 40, 5, EXTENT_ZERO);
    extents_append(&x, 45, 0, EXTENT_DATA);
    is_u64(x.n, 4, "neighbours of one kind are joined, others are not");
    is_u64(extents_bytes(&x, EXTENT_ZERO), 10, "bytes of one kind are summed");
    AUTO(extents_done) struct extents top = {0};
    extents_add(&top, UINT64_MAX - 100, 50);
    extents_align(&top, 4096, UINT64_MAX - 60);
    is_u64(top.v[0].off + top.v[0].len, UINT64_MAX - 60,
           "aligning does not wrap at 2^64");
    AUTO(extents_done) struct extents falling = {0};
    for (uint64_t i = 20000; i > 0; i--)
        extents_add(&falling, i * 10, 5);
    is_u64(falling.n, 20000, "20000 extents in falling order");
    test_random();
    return done_testing();
}

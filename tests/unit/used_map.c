// SPDX-License-Identifier: Apache-2.0
// The bitmap of what is in use: rounding outwards, volumes of any size, a bounded list.
#include "map/used_map.h"
#include "tap.h"

static void is_extents(const struct used_map *m, const char *want, const char *name)
{
    AUTO(extents_done) struct extents x = {0};
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    used_map_emit(m, &x);
    for (size_t i = 0; i < x.n; i++)
        buf_printf(&b, "%s%llu+%llu", i ? " " : "", (unsigned long long)x.v[i].off,
                   (unsigned long long)x.v[i].len);
    is_str(b.data ? b.data : "", want, name);
}

static void test_small(void)
{
    AUTO(used_map_free) struct used_map *m = used_map_new(MIB + 100);
    is_extents(m, "", "nothing is in use at first");
    used_map_add(m, 8191, 2);
    is_extents(m, "4096+8192", "ranges are rounded outwards");
    used_map_add(m, MIB - 1, 1);
    used_map_add(m, MIB + 99, 1000);
    is_extents(m, "4096+8192 1044480+4196", "the last piece ends with the volume");
    used_map_add(m, 5 * MIB, MIB);
    used_map_add(m, 40000, 0);
    is_extents(m, "4096+8192 1044480+4196", "what lies outside is left out");
    ok(used_map_has(m, 4096) && used_map_has(m, 12287) && !used_map_has(m, 12288) &&
           !used_map_has(m, UINT64_MAX),
       "single places can be asked for");
    used_map_add(m, 0, UINT64_MAX);
    is_extents(m, "0+1048676", "a length beyond everything is the whole volume");
}

static void test_until(void)
{
    AUTO(used_map_free) struct used_map *m = used_map_new(MIB);
    uint64_t at = 65536;
    used_map_add_until(m, &at, 65536, 4096);
    used_map_add_until(m, &at, 81920, 8192);
    used_map_add_until(m, &at, 98304, 0);
    is_extents(m, "69632+12288 90112+8192", "used is what lies between free ranges");
}

static void test_huge(void)
{
    AUTO(used_map_free) struct used_map *m = used_map_new(16 * 1024 * TIB);
    used_map_add(m, 16 * 1024 * TIB - 1, 1);
    AUTO(extents_done) struct extents x = {0};
    used_map_emit(m, &x);
    ok(x.n == 1 && x.v[0].off + x.v[0].len == 16 * 1024 * TIB && x.v[0].len <= GIB,
       "16 PiB fit");
}

// Every second granule in use, and a hole in the middle: the list stays short, holds all
// of them, and still leaves the big hole out.
static void test_bounded(void)
{
    enum { N = 400000 };
    AUTO(used_map_free) struct used_map *m = used_map_new(N * 3 * 4096ULL);
    for (uint64_t i = 0; i < N / 2; i++) {
        used_map_add(m, i * 8192, 4096);
        used_map_add(m, N * 2 * 4096ULL + i * 8192, 4096);
    }
    AUTO(extents_done) struct extents x = {0};
    used_map_emit(m, &x);
    ok(x.n > 0 && x.n <= 128 * KIB, "the list is bounded");
    size_t at = 0;
    bool all = true;
    for (uint64_t i = 0; i < N / 2; i++) {
        while (at < x.n && x.v[at].off + x.v[at].len <= i * 8192)
            at++;
        all &= at < x.n && x.v[at].off <= i * 8192;
    }
    ok(all, "what is in use is in the list");
    ok(extents_bytes(&x, EXTENT_DATA) < N * 2 * 4096ULL + MIB,
       "what is far from anything in use is not");
}

int main(void)
{
    test_small();
    test_until();
    test_huge();
    test_bounded();
    uint8_t text[] = "123456789";
    is_u64(fs_crc32c(text, 9, 0, 0), 0xe3069283, "CRC-32C of the standard text");
    uint8_t zeroed[] = "12\0\0\0\0\0\0"
                       "9";
    is_u64(fs_crc32c(text, 9, 2, 6), fs_crc32c(zeroed, 9, 0, 0),
           "a skipped field is zeros");
    return done_testing();
}

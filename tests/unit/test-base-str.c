// SPDX-License-Identifier: Apache-2.0
// str.c and vec.c: sizes, durations, numbers, buffers with a ceiling, lists.
#include "base/base.h"
#include "tap.h"

// So that ASan too returns NULL for an allocation that cannot be.
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

#define BAD UINT64_C(0xbad)

static void test_to_bytes(void)
{
    static const struct {
        const char *in;
        uint64_t out;
    } rows[] = {{"0", 0},
                {"4096", 4096},
                {"10B", 10},
                {"64k", 64 * KIB},
                {"64KiB", 64 * KIB},
                {"10M", 10 * MIB},
                {"10MB", 10 * MIB},
                {"10MiB", 10 * MIB},
                {"10mib", 10 * MIB},
                {"1.5G", 1536 * MIB},
                {"0.5k", 512},
                {"2T", 2 * TIB},
                {"1P", 1024 * TIB},
                {"15.5E", 0xf800000000000000},
                {"18446744073709551615", UINT64_MAX},
                {"1.00000000000000000001K", 1024},
                {"", BAD},
                {"K", BAD},
                {"-1", BAD},
                {"+1", BAD},
                {" 1", BAD},
                {"1 ", BAD},
                {"1 K", BAD},
                {"1.5", BAD},
                {"1.", BAD},
                {".5K", BAD},
                {"1.K", BAD},
                {"16E", BAD},
                {"18446744073709551616", BAD},
                {"1KK", BAD},
                {"1iB", BAD},
                {"1Ki", BAD},
                {"0x10", BAD},
                {"1e3", BAD},
                {"1.2.3K", BAD}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t v = BAD;
        int r = str_to_bytes(rows[i].in, &v);
        ok(v == rows[i].out && (r == 0) == (rows[i].out != BAD), "size \"%s\"",
           rows[i].in);
    }
}

static void test_to_ms(void)
{
    static const struct {
        const char *in;
        uint64_t out;
    } rows[] = {{"30", 30000},
                {"30s", 30000},
                {"250ms", 250},
                {"5m", 300000},
                {"1h", 3600000},
                {"1.5h", 5400000},
                {"1d", 86400000},
                {"0.25s", 250},
                {"0", 0},
                {"", BAD},
                {"s", BAD},
                {"-1s", BAD},
                {"1S", BAD},
                {"1w", BAD},
                {"18446744073709551615", BAD},
                {"18446744073709551615ms", UINT64_MAX}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t v = BAD;
        int r = str_to_ms(rows[i].in, &v);
        ok(v == rows[i].out && (r == 0) == (rows[i].out != BAD), "time \"%s\"",
           rows[i].in);
    }
}

static void test_to_u64(void)
{
    static const struct {
        const char *in;
        uint64_t out;
    } rows[] = {{"0", 0},
                {"007", 7},
                {"18446744073709551615", UINT64_MAX},
                {"", BAD},
                {"18446744073709551616", BAD},
                {"-1", BAD},
                {"1.0", BAD},
                {"1k", BAD},
                {" 1", BAD},
                {"1x", BAD}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t v = BAD;
        int r = str_to_u64(rows[i].in, &v);
        ok(v == rows[i].out && (r == 0) == (rows[i].out != BAD), "number \"%s\"",
           rows[i].in);
    }
}

static void test_print(void)
{
    static const struct {
        uint64_t v;
        const char *text;
    } bytes[] = {{0, "0 B"},
                 {1023, "1023 B"},
                 {1024, "1.0 KiB"},
                 {64 * KIB, "64.0 KiB"},
                 {MIB - 1, "1.0 MiB"},
                 {1288490188, "1.2 GiB"},
                 {UINT64_MAX, "16.0 EiB"}},
      times[] = {{0, "0 s"},
                 {999, "0 s"},
                 {4000, "4 s"},
                 {59999, "59 s"},
                 {60000, "1 m 00 s"},
                 {200000, "3 m 20 s"},
                 {3599999, "59 m 59 s"},
                 {7500000, "2 h 05 m"},
                 {UINT64_MAX, "5124095576030 h 25 m"}};
    char out[24];
    for (size_t i = 0; i < ARRAY_LEN(bytes); i++)
        is_str(str_bytes(bytes[i].v, out), bytes[i].text, bytes[i].text);
    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        is_str(str_duration(times[i].v, out), times[i].text, times[i].text);
}

static void test_words(void)
{
    ok(str_starts("abc", "ab") && str_starts("abc", "") && !str_starts("ab", "abc"),
       "str_starts");
    ok(str_ends("abc", "bc") && str_ends("abc", "") && !str_ends("bc", "abc"),
       "str_ends");
    char a[] = " \t a b\n", b[] = "   ", c[] = "";
    is_str(str_trim(a), "a b", "trimmed at both ends");
    is_str(str_trim(b), "", "nothing but space");
    is_str(str_trim(c), "", "nothing");
}

static void test_buf(void)
{
    AUTO(buf_done) struct buf b = BUF_INIT(10);
    buf_str(&b, "");
    is_str(b.data, "", "an empty append terminates");
    buf_str(&b, "hello");
    buf_printf(&b, "%d", 12345);
    is_str(b.data, "hello12345", "up to the ceiling");
    ok(!b.overflow, "the ceiling itself is allowed");
    buf_add(&b, "x", 1);
    ok(b.overflow && b.len == 10, "one more is not, and nothing changed");
    buf_add(&b, "x", SIZE_MAX);
    ok(b.overflow && b.len == 10, "nor is more than memory");
    is_str(b.data, "hello12345", "the contents stay");
    buf_reset(&b);
    ok(!b.overflow && b.len == 0 && b.data[0] == '\0', "reset");
    AUTO(str_free) char *s = buf_steal(&b);
    is_str(s, "", "stolen");
    AUTO(str_free) char *t = buf_steal(&b);
    is_str(t, "", "stolen again is never NULL");
    buf_str(&b, "0123456789");
    ok(!b.overflow && b.limit == 10, "the ceiling survives stealing");
    AUTO(buf_done) struct buf big = BUF_INIT(SIZE_MAX);
    for (int i = 0; i < 10000; i++)
        buf_add(&big, "abcdefg", 7);
    ok(big.len == 70000 && memcmp(big.data + 69993, "abcdefg", 8) == 0, "a buffer grows");
}

static void test_numbers(void)
{
    const uint8_t p[8] = {1, 2, 3, 4, 5, 6, 7, 0xf8};
    is_u64(get_le16(p), 0x0201, "get_le16");
    is_u64(get_le32(p), 0x04030201, "get_le32");
    is_u64(get_le64(p), 0xf807060504030201, "get_le64");
    is_u64(get_be16(p), 0x0102, "get_be16");
    is_u64(get_be32(p + 4), 0x050607f8, "get_be32");
    is_u64(get_be64(p), 0x01020304050607f8, "get_be64");
    uint8_t out[8];
    put_le64(out, 0xf807060504030201);
    ok(memcmp(out, p, 8) == 0, "put_le64");
    put_le32(out, 0xf8070605);
    ok(memcmp(out, p + 4, 4) == 0, "put_le32");
    uint64_t sum = 0;
    ok(add_fits(UINT64_MAX - 1, 1, &sum) && sum == UINT64_MAX, "a sum that fits");
    ok(!add_fits(UINT64_MAX, 1, &sum), "a sum that does not");
    is_u64(round_up(4097, 4096), 8192, "round_up");
    is_u64(round_up(4096, 4096), 4096, "round_up of a multiple");
    is_u64(round_down(4097, 4096), 4096, "round_down");
}

static void test_lists(void)
{
    VEC(uint64_t) list = {0};
    for (uint64_t i = 0; i < 1000; i++)
        vec_push(&list, i * i);
    ok(list.n == 1000 && list.v[999] == 999 * 999 && list.v[0] == 0, "a vector grows");
    vec_done(&list);
    ok(list.v == NULL && list.n == 0, "and is empty after vec_done");
    AUTO(strings_done) struct strings s = {0};
    ok(!strings_have(&s, "a"), "an empty list has nothing");
    for (int i = 0; i < 50; i++) {
        strings_take(&s, xasprintf("s%d", i));
        if (s.v[s.n] != NULL)
            ok(false, "NULL ends the list of %zu", s.n);
    }
    strings_add(&s, "last");
    ok(s.v[s.n] == NULL && s.n == 51, "NULL ends the list");
    ok(strings_have(&s, "s49") && strings_have(&s, "last") && !strings_have(&s, "s50"),
       "strings_have");
}

static void test_memory(void)
{
    AUTO(str_free) char *p = xcalloc(0, 8);
    AUTO(str_free) char *q = xrealloc(NULL, 0);
    ok(p && q, "nothing is something to free");
    AUTO(str_free) char *a = alloc_aligned(100);
    is_u64((uintptr_t)a % 4096, 0, "aligned for O_DIRECT");
    ok(alloc_aligned(SIZE_MAX / 2) == NULL, "NULL when memory is short");
    AUTO(str_free) char *s = xstrndup("abc", 2);
    AUTO(str_free) char *owner = xstrdup("x");
    AUTO(str_free) char *taken = steal(owner);
    ok(owner == NULL && taken[0] == 'x', "steal leaves NULL behind");
    is_str(s, "ab", "xstrndup");
}

int main(void)
{
    test_to_bytes();
    test_to_ms();
    test_to_u64();
    test_print();
    test_words();
    test_buf();
    test_numbers();
    test_lists();
    test_memory();
    return done_testing();
}

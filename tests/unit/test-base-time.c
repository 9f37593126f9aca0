// SPDX-License-Identifier: Apache-2.0
// clock.c, rate.c and hash.c: time goes on, limits hold with many threads, hashes are the
// published ones.
#include "base/base.h"
#include "tap.h"

#include <pthread.h>

static void test_clock(void)
{
    char text[24];
    clock_iso(1714564800, text);
    is_str(text, "2024-05-01T12:00:00Z", "a date");
    clock_iso(0, text);
    is_str(text, "1970-01-01T00:00:00Z", "the first");
    clock_iso(UINT64_MAX, text);
    is_str(text, "9999-12-31T23:59:59Z", "beyond the last");
    uint64_t a = clock_ns(), b = clock_ns();
    ok(b >= a && clock_ms() >= a / 1000000 && clock_wall() > 1700000000, "time goes on");
}

struct load {
    struct rate *rate;
    uint64_t bytes, step;
};

static void *worker(void *arg)
{
    struct load *l = arg;
    for (uint64_t done = 0; done < l->bytes; done += l->step)
        rate_wait(l->rate, l->step);
    return NULL;
}

// Milliseconds for four threads to pass `bytes` each in steps.
static uint64_t time_for(struct rate *r, uint64_t bytes, uint64_t step)
{
    pthread_t threads[4];
    struct load l = {r, bytes, step};
    uint64_t start = clock_ms();
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_create(&threads[i], NULL, worker, &l);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    return clock_ms() - start;
}

static void test_rate(void)
{
    AUTO(rate_free) struct rate *r = rate_new(0);
    ok(time_for(r, 100 * MIB, MIB) < 500, "no limit does not wait");
    uint64_t start = clock_ms();
    rate_wait(NULL, GIB);
    ok(clock_ms() - start < 100, "nor does no object");
    rate_set(r, 8 * MIB);
    uint64_t ms = time_for(r, MIB, 64 * KIB); // 4 MiB at 8 MiB/s: 500 ms
    // Less is a broken limit; more may be a busy machine, so that bound is wide.
    if (!ok(ms >= 450 && ms < 3000, "four threads share a limit"))
        printf("# %llu ms\n", (unsigned long long)ms);
    rate_set(r, MIB);
    rate_wait(r,
              300 * KIB); // larger than the bucket: passes, and is paid for by the next
    start = clock_ms();
    rate_wait(r, 1);
    ms = clock_ms() - start;
    if (!ok(ms >= 150 && ms < 3000, "a large request is paid for by the next"))
        printf("# %llu ms\n", (unsigned long long)ms);
}

static void *raise_limit(void *arg)
{
    rate_wait(NULL, 0);
    struct timespec t = {.tv_nsec = 100 * 1000 * 1000};
    nanosleep(&t, NULL);
    rate_set(arg, 0);
    return NULL;
}

static void test_rate_changed(void)
{
    AUTO(rate_free) struct rate *r = rate_new(1);
    rate_wait(r, 1000 * 1000);
    pthread_t thread;
    uint64_t start = clock_ms();
    pthread_create(&thread, NULL, raise_limit, r);
    rate_wait(r, 1);
    pthread_join(thread, NULL);
    ok(clock_ms() - start < 3000, "who sleeps sees a new limit");
    AUTO(rate_free) struct rate *huge = rate_new(UINT64_MAX);
    for (int i = 0; i < 100; i++)
        rate_wait(huge, UINT64_MAX / 200);
    rate_free(NULL);
    ok(true, "the largest numbers");
}

static void test_hash(void)
{
    // XXH3-128 without seed, as `xxhsum -H2` prints it.
    static const struct {
        const char *text, *hex;
    } rows[] = {{"", "99aa06d3014798d86001c324468d497f"},
                {"abc", "06b05ab6733a618578af5f94892f3950"}};
    uint8_t h[HASH_LEN], g[HASH_LEN];
    char hex[2 * HASH_LEN + 1];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        hash_block(rows[i].text, strlen(rows[i].text), h);
        hash_hex(h, hex);
        is_str(hex, rows[i].hex, rows[i].text);
    }
    AUTO(str_free) char *data = xmalloc(100000);
    for (size_t i = 0; i < 100000; i++)
        data[i] = (char)(i * 7);
    hash_block(data, 100000, h);
    AUTO(hash_free) struct hash *run = hash_new();
    for (size_t at = 0; at < 100000; at += 1000)
        hash_add(run, data + at, 1000);
    hash_end(run, g);
    ok(memcmp(g, h, HASH_LEN) == 0, "in pieces it is the same");
    hash_free(NULL);
}

static void test_zero(void)
{
    AUTO(str_free) char *data = xcalloc(1, 5000);
    bool right = is_zero(data, 0);
    for (size_t len = 1; len < 100; len++) {
        right = right && is_zero(data, len);
        for (size_t at = 0; at < len; at++) {
            data[at] = 1;
            right = right && !is_zero(data, len);
            data[at] = 0;
        }
        data[len] = 1; // behind the end it does not matter
        right = right && is_zero(data, len);
        data[len] = 0;
    }
    data[4999] = 1;
    ok(right && !is_zero(data, 5000) && is_zero(data, 4999), "is_zero sees every byte");
}

int main(void)
{
    test_clock();
    test_rate();
    test_rate_changed();
    test_hash();
    test_zero();
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// The replica map: what it refuses, what it keeps, how much memory it takes, and that
// kill -9 at any moment leaves one that opens to a state that was true.

#include "map/map.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"

static char *dir, *map_path, *replica_path;
static enum map_hash algorithm; // every test runs with each

static struct map_key key_of(uint64_t size)
{
    return (struct map_key){
        .replica = replica_path, .size = size, .source = "a source", .hash = algorithm};
}

static void fresh(uint64_t size)
{
    unlink(map_path);
    unlink(replica_path);
    int fd = open(replica_path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)size))
        abort();
    close(fd);
}

static struct map *must_open(uint64_t size)
{
    struct err e = {0};
    struct map *m = NULL;
    struct map_key key = key_of(size);
    if (map_open(map_path, &key, &m, &e)) {
        printf("# %s\n", e.text);
        return NULL;
    }
    return m;
}

static void hash_of(uint64_t value, uint8_t hash[static MAP_HASH_MAX])
{
    memset(hash, 0, MAP_HASH_MAX);
    if (algorithm == MAP_BLAKE2B)
        strong_hash(&value, sizeof(value), hash);
    else
        hash_block(&value, sizeof(value), hash);
}

static bool entry_is(struct map *m, uint64_t block, uint64_t value, uint32_t round)
{
    struct map_entry got;
    struct err e = {0};
    uint8_t want[MAP_HASH_MAX] = {0};
    if (round)
        hash_of(value, want);
    return map_get(m, block, 1, &got, &e) == 0 && got.round == round &&
           memcmp(got.hash, want, MAP_HASH_MAX) == 0;
}

static bool same_extents(const struct extents *a, const struct extents *b)
{
    bool same = a->n == b->n;
    for (size_t i = 0; i < a->n && same; i++)
        same = a->v[i].off == b->v[i].off && a->v[i].len == b->v[i].len &&
               a->v[i].kind == b->v[i].kind;
    return same;
}

static void test_rounds(void)
{
    struct err e = {0};
    uint64_t size = 100 * MIB + 1; // no multiple of anything
    fresh(size);
    AUTO(map_close) struct map *m = must_open(size);
    ok(m && map_state(m).round == 0, "a new map has no round");
    AUTO(extents_done) struct extents todo = {0}, got = {0};
    extents_append(&todo, 0, MIB + 7, EXTENT_DATA);
    extents_append(&todo, 50 * MIB, 512, EXTENT_HOLE);
    extents_append(&todo, 99 * MIB, MIB + 1, EXTENT_DATA);
    ok(map_begin(m, &todo, &e) == 0 && map_state(m).round == 1, "a round begins");
    uint8_t hash[MAP_HASH_MAX];
    hash_of(5, hash);
    map_set(m, 5, hash, &e);
    hash_of(1600, hash);
    ok(map_set(m, 1600, hash, &e) == 0, "the last, short block is set");
    map_checkpoint(m, MIB, &e);
    map_close(steal(m));
    m = must_open(size);
    struct map_state s = map_state(m);
    ok(s.round == 1 && !s.round_complete && s.watermark == MIB, "a checkpoint is kept");
    ok(map_todo(m, &got, &e) == 0 && same_extents(&got, &todo),
       "the round's extents are kept, with their kinds");
    ok(entry_is(m, 5, 5, 1) && entry_is(m, 1600, 1600, 1) && entry_is(m, 6, 0, 0),
       "entries are kept");
    map_complete(m, &e);
    ok(map_begin(m, &got, &e) == 0 && map_state(m).round == 2 &&
           map_state(m).watermark == 0,
       "the second round begins");
    map_set(m, 5, NULL, &e);
    map_complete(m, &e);
    map_close(steal(m));
    m = must_open(size);
    ok(map_state(m).round == 2 && map_state(m).round_complete, "completion is kept");
    ok(entry_is(m, 5, 0, 0) && entry_is(m, 1600, 1600, 1), "a block became zeros");
}

static void test_many_extents(void)
{
    struct err e = {0};
    fresh(GIB);
    AUTO(map_close) struct map *m = must_open(GIB);
    bool same = true;
    size_t counts[] = {9000, 3, 5000, 20000, 1};
    for (size_t k = 0; k < ARRAY_LEN(counts); k++) {
        AUTO(extents_done) struct extents todo = {0}, got = {0};
        for (size_t i = 0; i < counts[k]; i++)
            extents_append(&todo, i * 4096, 1000 + k, EXTENT_DATA);
        same = same && map_begin(m, &todo, &e) == 0;
        map_close(steal(m));
        m = must_open(GIB);
        same = same && m && map_todo(m, &got, &e) == 0 && same_extents(&got, &todo);
    }
    ok(same, "lists of extents of all lengths follow each other");
}

static void refused(const struct map_key *key, const char *word, const char *name)
{
    struct err e = {0};
    AUTO(map_close) struct map *m = NULL;
    int result = map_open(map_path, key, &m, &e);
    if (!ok(result != 0 && e.code == ERR_REFUSED && strstr(e.text, word), "%s", name))
        printf("# %d %d %s\n", result, e.code, e.text);
}

static void test_refusals(void)
{
    struct err e = {0};
    fresh(10 * MIB);
    struct map_key key = key_of(10 * MIB), other = key;
    AUTO(map_close) struct map *m = must_open(10 * MIB);
    refused(&key, "in use", "a map in use is refused");
    map_close(steal(m));
    other.source = "another source";
    refused(&other, "another source", "another source is refused");
    other = key_of(11 * MIB);
    refused(&other, "11534336", "another size is refused");
    // The inode number may well be the same: the new file comes at once.
    unlink(replica_path);
    int fd = open(replica_path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    close(fd);
    refused(&key, "replaced", "a replaced replica is refused");
    ok(map_create(map_path, &key, &m, &e) == 0 && map_state(m).round == 0,
       "map_create begins anew");
    map_close(steal(m));
    ok(truncate(map_path, 9000) == 0, "cut");
    refused(&key, "cut off", "a truncated map is refused");
    ok(truncate(map_path, 0) == 0, "cut to nothing");
    m = must_open(10 * MIB);
    ok(m && map_state(m).round == 0, "an empty file is a new map");
    map_close(steal(m));
    ok(file_write(map_path, "hello", 5, 0600, &e) == 0, "other content");
    refused(&key, "not a map", "a file that is no map is refused");
    unlink(map_path);
    key.replica = "/nonexistent";
    ok(map_open(map_path, &key, &m, &e) != 0 && strstr(e.text, "/nonexistent"),
       "a missing replica is an error that names it");
}

// Flips bits all over a small map. Whatever opens says the same as before, or an older
// truth of the same round; whatever an entry says is what was set.
static void test_bit_flips(void)
{
    struct err e = {0};
    uint64_t size = 2 * MIB;
    fresh(size);
    AUTO(map_close) struct map *m = must_open(size);
    AUTO(extents_done) struct extents todo = {0};
    extents_append(&todo, 0, size, EXTENT_DATA);
    map_begin(m, &todo, &e);
    for (uint64_t b = 0; b < 32; b += 2) {
        uint8_t hash[MAP_HASH_MAX];
        hash_of(b, hash);
        map_set(m, b, hash, &e);
    }
    map_complete(m, &e);
    map_close(steal(m));
    AUTO(buf_done) struct buf good = BUF_INIT(MIB);
    file_read(map_path, &good, &e);
    struct map_key key = key_of(size);
    size_t wrong = 0, n_refused = 0, n_lost = 0;
    unsigned seed = 1;
    for (size_t at = 0; at < good.len; at += 1 + (size_t)rand_r(&seed) % 13) {
        AUTO(fd_close) int fd = open(map_path, O_RDWR | O_TRUNC | O_CLOEXEC);
        uint8_t flipped = (uint8_t)(good.data[at] ^ 1 << rand_r(&seed) % 8);
        if (fd_write(fd, good.data, good.len) || fd_pwrite(fd, &flipped, 1, at))
            abort();
        if (map_open(map_path, &key, &m, &e)) {
            n_refused += e.code == ERR_REFUSED;
            wrong += e.code != ERR_REFUSED;
            continue;
        }
        wrong += map_state(m).round != 1;
        for (uint64_t b = 0; b < 32; b++) {
            struct map_entry got;
            uint8_t want[MAP_HASH_MAX] = {0};
            if (b % 2 == 0)
                hash_of(b, want);
            if (map_get(m, b, 1, &got, &e))
                n_lost++;
            else
                wrong += memcmp(want, got.hash, MAP_HASH_MAX) != 0;
        }
        map_close(steal(m));
    }
    is_u64(wrong, 0, "no flipped bit makes the map say something false");
    ok(n_lost > 0, "damaged entries are noticed (%zu, and %zu maps refused)", n_lost,
       n_refused);
}

static void test_digest(void)
{
    struct err e = {0};
    uint8_t a[HASH_LEN], b[HASH_LEN], c[HASH_LEN], hash[MAP_HASH_MAX];
    fresh(GIB);
    AUTO(map_close) struct map *m = must_open(GIB);
    AUTO(extents_done) struct extents todo = {0};
    map_begin(m, &todo, &e);
    for (uint64_t i = 0; i < 16384; i += 5) {
        hash_of(i, hash);
        map_set(m, i, hash, &e);
    }
    map_digest(m, a, &e);
    map_close(steal(m));
    fresh(GIB);
    m = must_open(GIB);
    map_begin(m, &todo, &e);
    map_begin(m, &todo, &e);
    for (uint64_t i = 16380; i < 16384; i -= 5) {
        hash_of(i, hash);
        map_set(m, i, hash, &e);
    }
    map_set(m, 1, hash, &e);
    map_digest(m, c, &e);
    map_set(m, 1, NULL, &e);
    map_digest(m, b, &e);
    ok(memcmp(a, b, HASH_LEN) == 0, "the digest knows neither order nor rounds");
    ok(memcmp(a, c, HASH_LEN) != 0, "the digest sees one block more");
}

static uint64_t peak_kib(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)u.ru_maxrss;
}

// In a child: ru_maxrss is a high-water mark of the process.
static void test_huge(void)
{
    fresh(16 * TIB - 4096);
    pid_t pid = fork();
    if (pid == 0) {
        struct err e = {0};
        uint64_t before = peak_kib(), start = clock_ms();
        struct map *m = must_open(16 * TIB - 4096);
        struct extents todo = {0};
        uint8_t hash[MAP_HASH_MAX];
        unsigned seed = 7;
        if (!m || map_begin(m, &todo, &e))
            _exit(1);
        for (size_t i = 0; i < 20000; i++) {
            uint64_t block = (uint64_t)rand_r(&seed) % (16 * TIB / MAP_BLOCK);
            hash_of(block, hash);
            if (map_set(m, block, hash, &e))
                _exit(2);
        }
        if (map_complete(m, &e) || map_digest(m, hash, &e))
            _exit(3);
        uint64_t used = peak_kib() - before, ms = clock_ms() - start;
        printf("# 16 TiB: %llu KiB more, %llu ms\n", (unsigned long long)used,
               (unsigned long long)ms);
        fflush(stdout);
#ifdef __SANITIZE_ADDRESS__
        used = 0; // the sanitizer's own memory is in the figure
#endif
        _exit(used > 8 * 1024 ? 4 : 0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    is_u64((unsigned)status, 0, "a 16 TiB disk takes less than 8 MiB of memory");
    struct stat st;
    stat(map_path, &st);
    ok(st.st_size > (off_t)(6 * GIB) && (uint64_t)st.st_blocks * 512 < GIB,
       "its map is sparse");
}

static void test_next(void)
{
    struct err e = {0};
    struct extents todo = {0};
    uint64_t far = 100 * 1000 * 1000, n = 15 * TIB / MAP_BLOCK, block = 0;
    uint8_t hash[MAP_HASH_MAX];
    fresh(15 * TIB);
    AUTO(map_close) struct map *m = must_open(15 * TIB);
    hash_of(far, hash);
    ok(m && map_begin(m, &todo, &e) == 0 && map_next(m, 0, &block, &e) == 0 && block == n,
       "a map without entries has no next one");
    ok(map_set(m, far, hash, &e) == 0 && map_next(m, 0, &block, &e) == 0 &&
           block <= far && block > far - MIB,
       "the next entry is found, not yet durable, without reading all before it");
    ok(map_next(m, far, &block, &e) == 0 && block == far, "... and found from itself");
    ok(map_next(m, far + MIB, &block, &e) == 0 && block == n, "... and is the last");
    ok(map_next(m, n, &block, &e) == 0 && block == n, "... nothing follows the end");
}

struct setter {
    struct map *m;
    uint64_t first;
    bool failed;
};

static void *set_blocks(void *arg)
{
    struct setter *s = arg;
    struct err e = {0};
    for (uint64_t b = s->first; b < 40000; b += 4) {
        uint8_t hash[MAP_HASH_MAX];
        hash_of(b, hash);
        s->failed = s->failed || map_set(s->m, b, hash, &e) ||
                    (b % 4000 == 0 && map_checkpoint(s->m, b, &e));
    }
    return NULL;
}

static void test_threads(void)
{
    struct err e = {0};
    fresh(4 * GIB);
    AUTO(map_close) struct map *m = must_open(4 * GIB);
    AUTO(extents_done) struct extents todo = {0};
    map_begin(m, &todo, &e);
    pthread_t threads[4];
    struct setter setters[4];
    for (size_t i = 0; i < 4; i++) {
        setters[i] = (struct setter){.m = m, .first = i};
        pthread_create(&threads[i], NULL, set_blocks, &setters[i]);
    }
    bool good = true;
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        good = good && !setters[i].failed;
    }
    for (uint64_t b = 0; b < 40000; b++)
        good = good && entry_is(m, b, b, 1);
    ok(good, "four threads set 40000 blocks, with checkpoints between");
}

// --- kill -9
// ----------------------------------------------------------------------------

#define CRASH_BLOCKS ((uint64_t)700)
#define CRASH_SIZE (CRASH_BLOCKS * MAP_BLOCK)

// A replica in small: one 8-byte value a block, 0 means zeros; block b of round r has
// value(b, r) when the round's extents hold it.
static uint64_t value(uint64_t block, uint32_t round)
{
    return (block * 31 + round) % 5 ? block << 32 | round : 0;
}

static bool in_round(uint64_t block, uint32_t round)
{
    return round == 1 || (block * 7 + round) % 3 == 0;
}

// Works for ever: resumes the open round, or begins the next.
static void crash_child(void)
{
    struct err e = {0};
    struct map *m = must_open(CRASH_SIZE);
    int fd = open(replica_path, O_RDWR | O_CLOEXEC);
    if (!m || fd < 0)
        _exit(1);
    for (;;) {
        struct map_state s = map_state(m);
        if (s.round == 0 || s.round_complete) {
            struct extents todo = {0};
            for (uint64_t b = 0; b < CRASH_BLOCKS; b++)
                if (in_round(b, s.round + 1))
                    extents_add(&todo, b * MAP_BLOCK, MAP_BLOCK);
            if (map_begin(m, &todo, &e))
                _exit(1);
            extents_done(&todo);
            s = map_state(m);
        }
        for (uint64_t b = s.watermark / MAP_BLOCK; b < CRASH_BLOCKS; b++) {
            uint64_t v = value(b, s.round);
            uint8_t hash[MAP_HASH_MAX];
            if (!in_round(b, s.round))
                continue;
            hash_of(v, hash);
            if (fd_pwrite(fd, &v, sizeof(v), b * 8) ||
                map_set(m, b, v ? hash : NULL, &e) ||
                (b % 50 == 49 && map_checkpoint(m, b * MAP_BLOCK, &e)))
                _exit(2);
        }
        if (map_complete(m, &e))
            _exit(3);
    }
}

// The watermark's promise: what of the open round lies below it is on the replica and in
// the map; everything else is as the round before left it, or is of this round.
static bool crash_state_true(struct map *m, int fd, uint32_t *last_round)
{
    struct map_state s = map_state(m);
    bool good = s.round >= *last_round;
    *last_round = s.round;
    for (uint64_t b = 0; b < CRASH_BLOCKS && good; b++) {
        uint64_t v = 0;
        struct err e = {0};
        struct map_entry got;
        uint8_t hash[MAP_HASH_MAX] = {0};
        good = map_get(m, b, 1, &got, &e) == 0 && fd_pread(fd, &v, sizeof(v), b * 8) == 0;
        bool durable = s.round_complete || b * MAP_BLOCK < s.watermark;
        if (v)
            hash_of(v, hash);
        if (durable && in_round(b, s.round))
            good = good && v == value(b, s.round);
        if (durable || !in_round(b, s.round))
            good = good && memcmp(hash, got.hash, MAP_HASH_MAX) == 0;
    }
    if (!good)
        printf("# round %u complete %d watermark %llu\n", s.round, s.round_complete,
               (unsigned long long)s.watermark);
    return good;
}

static void test_kill(void)
{
    fresh(CRASH_SIZE);
    int fd = open(replica_path, O_RDWR | O_CLOEXEC);
    unsigned seed = 42, n_good = 0;
    uint32_t last_round = 0;
    const unsigned n = 60;
    for (unsigned i = 0; i < n; i++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0)
            crash_child();
        usleep((unsigned)rand_r(&seed) % 30000);
        kill(pid, SIGKILL);
        int status = 0;
        waitpid(pid, &status, 0);
        AUTO(map_close) struct map *m = must_open(CRASH_SIZE);
        n_good += m && WIFSIGNALED(status) && crash_state_true(m, fd, &last_round);
    }
    close(fd);
    is_u64(n_good, n, "kill -9 at 60 moments leaves a true map");
    ok(last_round > 1, "and the work went on (round %u)", last_round);
}

// What another process sees of a map that is being written.
static void test_peek(void)
{
    struct err e = {0};
    struct extents todo = {0};
    fresh(64 * MIB);
    AUTO(map_close) struct map *m = must_open(64 * MIB);
    AUTO(map_close) struct map *p = NULL;
    uint8_t hash[MAP_HASH_MAX];
    ok(map_peek("/nonexistent", &p, &e) != 0, "a map that is not there cannot be peeked");
    map_begin(m, &todo, &e);
    ok(map_peek(map_path, &p, &e) == 0 && map_algorithm(p) == algorithm &&
           entry_is(p, 5, 0, 0),
       "a map in use can be peeked, and tells its algorithm");
    hash_of(5, hash);
    ok(map_set(m, 5, hash, &e) == 0 && map_checkpoint(m, MIB, &e) == 0 &&
           entry_is(p, 5, 5, 1),
       "what its owner adds is seen");
    ok(map_complete(m, &e) == 0 && map_begin(m, &todo, &e) == 0 &&
           map_set(m, 6, hash, &e) == 0 && map_complete(m, &e) == 0 &&
           entry_is(p, 6, 5, 2),
       "... and what later rounds add");
}

static void test_hashes(void)
{
    struct err e = {0};
    uint8_t got[MAP_HASH_MAX], want[MAP_HASH_MAX] = {0};
    algorithm = MAP_XXH3;
    fresh(MIB);
    AUTO(map_close) struct map *m = must_open(MIB);
    hash_block("abc", 3, want);
    map_hash(m, "abc", 3, got);
    ok(memcmp(got, want, MAP_HASH_MAX) == 0, "map_hash is XXH3 where the map says so");
    map_close(steal(m));
    struct map_key key = key_of(MIB);
    key.hash = MAP_BLAKE2B;
    refused(&key, "BLAKE2b", "a map with other hashes than wanted is refused");
    ok(map_create(map_path, &key, &m, &e) == 0, "a map of BLAKE2b is made");
    strong_hash("abc", 3, want);
    map_hash(m, "abc", 3, got);
    ok(memcmp(got, want, MAP_HASH_MAX) == 0, "map_hash is BLAKE2b there");
}

int main(void)
{
    struct err e = {0};
    if (dir_temp(&dir, &e)) {
        printf("Bail out! %s\n", e.text);
        return 1;
    }
    map_path = path_join(dir, "map");
    replica_path = path_join(dir, "replica");
    test_hashes();
    for (algorithm = MAP_XXH3; algorithm <= MAP_BLAKE2B; algorithm++) {
        printf("# hashes of %s\n", algorithm == MAP_XXH3 ? "XXH3-128" : "BLAKE2b-256");
        test_rounds();
        test_next();
        test_many_extents();
        test_refusals();
        test_bit_flips();
        test_digest();
        test_threads();
        test_huge();
        test_kill();
        test_peek();
    }
    dir_remove(dir, &e);
    free(dir);
    free(map_path);
    free(replica_path);
    return done_testing();
}

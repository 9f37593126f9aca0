// SPDX-License-Identifier: Apache-2.0
// Power loss under the replica map, simulated: every write to its file is logged (the
// linker puts the two functions below between the map and the real ones), and the file
// is rebuilt as it may look after the power went at some moment: what was flushed is
// there, of the rest each sector is there or not by the toss of a coin. What opens must
// be true of that moment.

#include <fcntl.h>
#include <unistd.h>

#include "map/map.h"
#include "tap.h"

#define BLOCKS ((uint64_t)300)
#define SIZE (BLOCKS * MAP_BLOCK)
#define SECTOR ((size_t)512)
#define N_TRIALS 600

struct event {
    uint64_t off;
    size_t at, len;            // of the bytes in `bytes`
    size_t n_flushed;          // events that are durable now
    uint32_t begun, beginning; // rounds whose map_begin has returned, was called
    uint64_t watermark;        // asked for last, in round `beginning`
    bool completing;           // map_complete was called in that round
};

static VEC(struct event) events;
static struct buf bytes = BUF_INIT(64 * MIB);
static struct event now;
static bool recording;

int __real_fd_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int __wrap_fd_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

int __wrap_fd_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
    if (recording) {
        now.off = off;
        now.at = bytes.len;
        now.len = len;
        buf_add(&bytes, buf, len);
        vec_push(&events, now);
    }
    return __real_fd_pwrite(fd, buf, len, off);
}

int __wrap_fdatasync(int fd)
{
    if (recording)
        now.n_flushed = events.n;
    return __real_fdatasync(fd);
}

static uint64_t value(uint64_t block, uint32_t round)
{
    return (block * 31 + round) % 5 ? block << 32 | round : 0;
}

static bool in_round(uint64_t block, uint32_t round)
{
    return round == 1 || (block * 7 + round) % 3 == 0;
}

static int run_round(struct map *m, uint32_t round, struct err *e)
{
    AUTO(extents_done) struct extents todo = {0};
    for (uint64_t b = 0; b < BLOCKS; b++)
        if (in_round(b, round))
            extents_add(&todo, b * MAP_BLOCK, MAP_BLOCK);
    now.beginning = round;
    now.watermark = 0;
    now.completing = false;
    if (map_begin(m, &todo, e))
        return -1;
    now.begun = round;
    for (uint64_t b = 0; b < BLOCKS; b++) {
        uint64_t v = value(b, round);
        uint8_t hash[MAP_HASH_MAX];
        hash_block(&v, sizeof(v), hash);
        if (in_round(b, round) && map_set(m, b, v ? hash : NULL, e))
            return -1;
        if (b % 40 == 39) {
            now.watermark = (b + 1) * MAP_BLOCK;
            if (map_checkpoint(m, now.watermark, e))
                return -1;
        }
    }
    now.completing = true;
    return map_complete(m, e);
}

// The file as it may be when the power goes after events[n - 1] was handed to the kernel.
static void rebuild(int fd, const struct buf *start, size_t n, unsigned *seed)
{
    if (ftruncate(fd, 0) || __real_fd_pwrite(fd, start->data, start->len, 0))
        abort();
    size_t n_flushed = events.v[n - 1].n_flushed;
    for (size_t i = 0; i < n; i++) {
        const struct event *v = &events.v[i];
        for (size_t done = 0; done < v->len;) {
            size_t part = min_u64(SECTOR - (v->off + done) % SECTOR, v->len - done);
            if ((i < n_flushed || rand_r(seed) % 2) &&
                __real_fd_pwrite(fd, bytes.data + v->at + done, part, v->off + done))
                abort();
            done += part;
        }
    }
}

// What the newest round at or below `round` left in a block.
static uint64_t value_at(uint64_t block, uint32_t round)
{
    for (; round > 0; round--)
        if (in_round(block, round))
            return value(block, round);
    return 0;
}

static bool is_true(struct map *m, const struct event *at)
{
    struct map_state s = map_state(m);
    bool good = s.round >= at->begun && s.round <= at->beginning;
    // No write of a later round can have reached the replica, and this one was flushed.
    if (s.round_complete)
        good = good && (s.round < at->beginning || at->completing);
    else if (s.round == at->beginning)
        good = good && s.watermark <= at->watermark;
    for (uint64_t b = 0; b < BLOCKS && good; b++) {
        bool durable = s.round_complete || b * MAP_BLOCK < s.watermark;
        if (!durable && in_round(b, s.round))
            continue;
        struct map_entry got;
        struct err e = {0};
        uint8_t hash[MAP_HASH_MAX] = {0};
        uint64_t v = value_at(b, s.round);
        if (v)
            hash_block(&v, sizeof(v), hash);
        good = map_get(m, b, 1, &got, &e) == 0 && memcmp(got.hash, hash, HASH_LEN) == 0;
    }
    return good;
}

int main(void)
{
    struct err e = {0};
    char *dir = NULL;
    if (dir_temp(&dir, &e)) {
        printf("Bail out! %s\n", e.text);
        return 1;
    }
    AUTO(str_free) char *replica = path_join(dir, "replica");
    AUTO(str_free) char *path = path_join(dir, "map");
    AUTO(buf_done) struct buf start = BUF_INIT(MIB);
    struct map_key key = {.replica = replica, .size = SIZE, .source = "power"};
    AUTO(map_close) struct map *m = NULL;
    bool ran = file_write(replica, "", 0, 0600, &e) == 0 &&
               map_open(path, &key, &m, &e) == 0 && file_read(path, &start, &e) == 0;
    recording = true;
    for (uint32_t round = 1; ran && round <= 4; round++)
        ran = run_round(m, round, &e) == 0;
    recording = false;
    map_close(steal(m));
    ok(ran && !bytes.overflow && events.n > 50, "four rounds, %zu writes", events.n);

    unsigned seed = 2026, n_opened = 0, n_true = 0;
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CLOEXEC);
    for (unsigned i = 0; ran && i < N_TRIALS; i++) {
        size_t n = 1 + (size_t)rand_r(&seed) % events.n;
        rebuild(fd, &start, n, &seed);
        if (map_open(path, &key, &m, &e)) {
            printf("# after %zu writes: %s\n", n, e.text);
            continue;
        }
        n_opened++;
        n_true += is_true(m, &events.v[n - 1]);
        map_close(steal(m));
    }
    is_u64(n_opened, N_TRIALS, "the map opens after every power loss");
    is_u64(n_true, N_TRIALS, "and what it says is true");
    dir_remove(dir, &e);
    free(dir);
    vec_done(&events);
    buf_done(&bytes);
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// this exercises: the NBD driver on streams that its caller connects, against our own
// server: exports that are refused, contexts, dead connections, silent servers; and the
// hashes of a disk, here and through both
#include "serve_peer.h"

#include <sodium.h>

#define SIZE (8 * MIB)

// Every connection is a peer of its own.
struct peers {
    struct peer v[16];
    int fds[16]; // the servers' ends, to be cut
    size_t n;
    bool refuse;
};

static int connect_peer(void *context, int *ret_fd, struct err *e)
{
    struct peers *p = context;
    if (p->refuse)
        return err_set(e, ERR_RETRY, "the network is down");
    *ret_fd = peer_begin(&p->v[p->n]);
    p->fds[p->n] = p->v[p->n].fd;
    p->n++;
    return 0;
}

static struct peers *peers_new(bool writable)
{
    struct peers *p = xcalloc(1, sizeof(*p));
    for (size_t i = 0; i < ARRAY_LEN(p->v); i++)
        p->v[i] = (struct peer){.path = in("disk"), .writable = writable};
    return p;
}

static void peers_free(struct peers *p)
{
    for (size_t i = 0; i < p->n; i++)
        (void)peer_end(&p->v[i]);
    free(p);
}

static int open_on(struct peers *p, const char *export, const char *meta, bool writable,
                   struct disk **ret, struct err *e)
{
    struct nbd_options o = {.connect = connect_peer,
                            .context = p,
                            .peer = "crm01",
                            .export_name = export,
                            .connections = 2,
                            .writable = writable,
                            .meta_context = meta};
    return nbd_open(&o, ret, e);
}

static void test_io(void)
{
    struct err e = {0};
    struct peers *p = peers_new(true);
    struct disk *d = NULL;
    static uint8_t want[SIZE], got[SIZE];
    pattern_sparse(want, SIZE, 0, 7, 4);
    ok(open_on(p, "disk", NULL, true, &d, &e) == 0, "open %s", e.text);
    ok(d->size == SIZE && disk_read(d, got, SIZE, 0, &e) == 0 &&
           memcmp(got, want, SIZE) == 0,
       "all of it is read");
    ok(disk_write(d, want, 70000, 33, &e) == 0 && disk_read(d, got, 70000, 33, &e) == 0 &&
           memcmp(got, want, 70000) == 0 && disk_write(d, want, MIB, 0, &e) == 0 &&
           disk_flush(d, &e) == 0,
       "written and read back");
    AUTO(extents_done) struct extents x = {0};
    ok(disk_extents_all(d, 0, SIZE, &x, &e) == 0 && x.n > 5, "extents");
    disk_close(d);
    peers_free(p);
}

static void test_refusals(void)
{
    struct err e = {0};
    struct disk *d = NULL;
    struct peers *p = peers_new(false);
    ok(open_on(p, "none", NULL, false, &d, &e) < 0 && e.code == ERR_REFUSED &&
           strstr(e.text, "crm01"),
       "no such export: %s", e.text);
    ok(open_on(p, "broken", NULL, false, &d, &e) < 0 && e.code == ERR_RETRY &&
           strstr(e.text, "crm01"),
       "one that does not open: %s", e.text);
    ok(open_on(p, "disk", "test:even", false, &d, &e) < 0 && e.code == ERR_REFUSED &&
           strstr(e.text, "test:even"),
       "no such context: %s", e.text);
    ok(open_on(p, "disk", NULL, true, &d, &e) < 0, "not writable: %s", e.text);
    p->refuse = true;
    ok(open_on(p, "disk", NULL, false, &d, &e) < 0 && e.code == ERR_RETRY &&
           strstr(e.text, "network"),
       "no connection: %s", e.text);
    peers_free(p);
}

static void test_context(void)
{
    struct err e = {0};
    struct disk *d = NULL;
    struct peers *p = peers_new(false);
    AUTO(extents_done) struct extents x = {0};
    ok(open_on(p, "disk", "test:odd", false, &d, &e) == 0, "a context by name %s",
       e.text);
    bool good = disk_extents_all(d, 0, SIZE, &x, &e) == 0 && x.n == SIZE / BLOCK;
    for (size_t i = 0; i < x.n && good; i++)
        good = x.v[i].off == i * BLOCK && x.v[i].len == BLOCK &&
               x.v[i].kind == (i % 2 ? EXTENT_DATA : EXTENT_HOLE);
    ok(good, "what it calls something is data, the rest a hole");
    disk_close(d);
    peers_free(p);
}

static void test_death(void)
{
    struct err e = {0};
    struct disk *d = NULL;
    uint8_t got[512];
    struct peers *p = peers_new(false);
    ok(open_on(p, "disk", NULL, false, &d, &e) == 0, "open %s", e.text);
    (void)shutdown(p->fds[0], SHUT_RDWR);
    p->refuse = true;
    ok(disk_read(d, got, 512, 0, &e) < 0 && e.code == ERR_RETRY &&
           strstr(e.text, "crm01"),
       "a connection that was cut: %s", e.text);
    ok(disk_read(d, got, 512, 0, &e) < 0 && e.code == ERR_RETRY, "and no new one: %s",
       e.text);
    p->refuse = false;
    ok(disk_read(d, got, 512, 0, &e) == 0 && p->n == 2, "until there is one");
    disk_close(d);
    peers_free(p);
}

static void test_hash(void)
{
    uint8_t hash[STRONG_LEN];
    // BLAKE2b with 32 bytes of digest of "abc", as b2sum -l 256 computes it.
    static const uint8_t abc[STRONG_LEN] = {
        0xbd, 0xdd, 0x81, 0x3c, 0x63, 0x42, 0x39, 0x72, 0x31, 0x71, 0xef,
        0x3f, 0xee, 0x98, 0x57, 0x9b, 0x94, 0x96, 0x4e, 0x3b, 0xb1, 0xcb,
        0x3e, 0x42, 0x72, 0x62, 0xc8, 0xc0, 0x68, 0xd5, 0x23, 0x19};
    strong_hash("abc", 3, hash);
    ok(memcmp(hash, abc, STRONG_LEN) == 0, "BLAKE2b-256");
}

// Every hash of a file of this size, in pieces of `step`.
static bool hashes_right(uint64_t size, uint64_t block, size_t step)
{
    struct err e = {0};
    struct disk *next = NULL;
    pattern_file(in("hashed"), size, 7, 4);
    struct file_options o = {.path = in("hashed")};
    if (file_open(&o, &next, &e) < 0)
        return false;
    AUTO(disk_close) struct disk *d = hashed_new(next, block);
    uint64_t n = (size + block - 1) / block;
    bool good = d->size == n * STRONG_LEN && disk_write(d, "", 1, 0, &e) < 0;
    uint8_t *got = xmalloc((size_t)d->size), *data = xmalloc((size_t)block);
    for (uint64_t off = 0, part; off < d->size && good; off += part) {
        part = min_u64(step, d->size - off);
        good = disk_read(d, got + off, (size_t)part, off, &e) == 0;
    }
    for (uint64_t i = 0; i < n && good; i++) {
        uint8_t want[STRONG_LEN] = {0};
        size_t len = (size_t)min_u64(block, size - i * block);
        pattern_sparse(data, len, i * block, 7, 4);
        if (!is_zero(data, len))
            (void)crypto_generichash(want, STRONG_LEN, data, len, NULL, 0);
        good = memcmp(got + i * STRONG_LEN, want, STRONG_LEN) == 0;
    }
    free(got);
    free(data);
    return good;
}

static void test_hashed(void)
{
    ok(hashes_right(SIZE, BLOCK, 1 * MIB), "hashes of a disk");
    ok(hashes_right(SIZE - 12345, BLOCK, 1000), "whose last block is shorter");
    ok(hashes_right(1, BLOCK, 5), "of one byte");
    ok(hashes_right(SIZE + 1, 4096, 777), "of small blocks");
    ok(hashes_right(SIZE + 1, 3 * MIB, 32), "of large ones");
}

// Says what reads as zeros, never of what does not.
static void test_hashed_extents(uint64_t block, uint64_t size)
{
    struct err e = {0};
    struct disk *next = NULL;
    pattern_file(in("hashed"), size, 7, 4);
    struct file_options o = {.path = in("hashed")};
    if (file_open(&o, &next, &e) < 0)
        return;
    AUTO(disk_close) struct disk *d = hashed_new(next, block);
    bool good = true;
    static uint8_t hashes[MIB];
    uint64_t zeros = 0;
    for (uint64_t from = 0; from < d->size && good; from += 29) {
        AUTO(extents_done) struct extents x = {0};
        uint64_t len = min_u64(from % 3000 + 1, d->size - from), at = from;
        good = disk_extents_all(d, from, len, &x, &e) == 0 &&
               disk_read(d, hashes, (size_t)len, from, &e) == 0;
        for (size_t i = 0; i < x.n && good; i++) {
            good = x.v[i].off == at && (x.v[i].kind == EXTENT_DATA ||
                                        is_zero(hashes + at - from, (size_t)x.v[i].len));
            at += x.v[i].len;
            zeros += x.v[i].kind != EXTENT_DATA;
        }
        good = good && at == from + len;
    }
    ok(good && zeros > 0, "extents of hashes, blocks of %llu, disk of %llu",
       (unsigned long long)block, (unsigned long long)size);
}

static void test_hashed_hole(void)
{
    struct err e = {0};
    AUTO(disk_close) struct disk *d = hashed_new(null_new(TIB), BLOCK);
    AUTO(extents_done) struct extents x = {0};
    ok(d->size == TIB / BLOCK * STRONG_LEN &&
           disk_extents_all(d, 0, d->size, &x, &e) == 0 && x.n == 1 &&
           x.v[0].kind == EXTENT_ZERO,
       "the hashes of a hole are zeros without a look");
    struct fault fault = {.fail_at = 2, .code = ERR_FAILED};
    AUTO(disk_close)
    struct disk *bad = hashed_new(fault_new(null_new(MIB), &fault), BLOCK);
    uint8_t got[STRONG_LEN];
    ok(disk_read(bad, got, STRONG_LEN, 0, &e) == 0 &&
           disk_read(bad, got, STRONG_LEN, 0, &e) < 0,
       "an error below: %s", e.text);
}

int main(void)
{
    scratch_make();
    (void)signal(SIGPIPE, SIG_IGN);
    pattern_file(in("disk"), SIZE, 7, 4);
    test_io();
    pattern_file(in("disk"), SIZE, 7, 4);
    test_refusals();
    test_context();
    test_death();
    test_hash();
    test_hashed();
    test_hashed_extents(BLOCK, SIZE + 100);
    test_hashed_extents(5000, MIB);
    test_hashed_hole();
    return done_testing();
}

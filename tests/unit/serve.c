// SPDX-License-Identifier: Apache-2.0
// this exercises: the NBD server with libnbd as its client: every command, every error by
// its name, metadata contexts, every alignment, disks of odd sizes, simple replies
#include "serve_peer.h"

#include <errno.h>
#include <libnbd.h>

#define SIZE (8 * MIB)

static struct nbd_handle *client_of(struct peer *p, const char *export, bool structured)
{
    struct nbd_handle *h = nbd_create();
    if (nbd_set_export_name(h, export) < 0 ||
        nbd_add_meta_context(h, "base:allocation") ||
        nbd_add_meta_context(h, "test:odd") || nbd_set_strict_mode(h, 0) < 0 ||
        nbd_set_request_structured_replies(h, structured) < 0 ||
        nbd_set_pread_initialize(h, false) < 0)
        abort();
    if (nbd_connect_socket(h, peer_begin(p)) < 0)
        printf("# %s\n", nbd_get_error());
    return h;
}

static int client_end(struct peer *p, struct nbd_handle *h)
{
    (void)nbd_shutdown(h, 0);
    nbd_close(h);
    return peer_end(p);
}

static void test_facts(void)
{
    struct peer p = {.path = in("disk"), .writable = true};
    struct nbd_handle *h = client_of(&p, "disk", true);
    is_u64((uint64_t)nbd_get_size(h), SIZE, "the size");
    ok(nbd_is_read_only(h) == 0 && nbd_can_flush(h) == 1 && nbd_can_fua(h) == 1 &&
           nbd_can_trim(h) == 1 && nbd_can_zero(h) == 1 && nbd_can_df(h) == 1 &&
           nbd_can_cache(h) == 1 && nbd_can_multi_conn(h) == 1,
       "a writable disk can all that is asked of one");
    ok(nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM) == 1 &&
           nbd_get_block_size(h, LIBNBD_SIZE_PREFERRED) == 4096 &&
           nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM) == 32 * MIB,
       "sizes of blocks");
    ok(client_end(&p, h) == 0, "the client's farewell ends it");
    p.writable = false;
    h = client_of(&p, "disk", true);
    ok(nbd_is_read_only(h) == 1 && nbd_can_trim(h) == 0 && nbd_can_zero(h) == 0,
       "a read-only one says so");
    client_end(&p, h);
}

static bool reads_right(struct nbd_handle *h, uint64_t size, uint64_t off, size_t len,
                        uint32_t flags)
{
    uint8_t *got = xmalloc(len), *want = xmalloc(len);
    memset(got, 0xee, len);
    pattern_sparse(want, len, off, 7, 4);
    bool same = off + len <= size && nbd_pread(h, got, len, off, flags) == 0 &&
                memcmp(got, want, len) == 0;
    free(got);
    free(want);
    return same;
}

static void test_reads(bool structured)
{
    static const struct {
        uint64_t off;
        size_t len;
    } reads[] = {{0, 4096},          {4096, 4096},
                 {512, 512},         {1, 1},
                 {4095, 2},          {12345, 54321},
                 {SIZE - 1, 1},      {SIZE - 513, 513},
                 {0, SIZE},          {1, SIZE - 1},
                 {65535, 65538},     {3, 3 * MIB},
                 {MIB - 1, MIB + 2}, {SIZE - 3 * MIB, 3 * MIB}};
    struct peer p = {.path = in("disk")};
    struct nbd_handle *h = client_of(&p, "disk", structured);
    bool good = true;
    for (size_t i = 0; i < ARRAY_LEN(reads); i++) {
        if (!reads_right(h, SIZE, reads[i].off, reads[i].len, 0)) {
            printf("# read of %zu at %llu: %s\n", reads[i].len,
                   (unsigned long long)reads[i].off, nbd_get_error());
            good = false;
        }
    }
    ok(good, "reads of every alignment, %s replies",
       structured ? "structured" : "simple");
    if (structured)
        ok(reads_right(h, SIZE, 3, 300 * KIB, LIBNBD_CMD_FLAG_DF) &&
               reads_right(h, SIZE, 0, MIB, LIBNBD_CMD_FLAG_DF),
           "reads in one chunk");
    ok(client_end(&p, h) == 0, "and a quiet end");
}

static void test_odd_sizes(void)
{
    static const uint64_t sizes[] = {1, 511, 513, 4097, 65537, 1000003};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        pattern_file(in("odd"), sizes[i], 7, 4);
        struct peer p = {.path = in("odd")};
        struct nbd_handle *h = client_of(&p, "disk", true);
        uint8_t byte;
        ok((uint64_t)nbd_get_size(h) == sizes[i] &&
               reads_right(h, sizes[i], 0, sizes[i], 0) &&
               reads_right(h, sizes[i], sizes[i] - 1, 1, 0) &&
               nbd_pread(h, &byte, 1, sizes[i], 0) < 0 && nbd_get_errno() == EINVAL,
           "a disk of %llu bytes, to its end and no further",
           (unsigned long long)sizes[i]);
        client_end(&p, h);
    }
}

static bool change(struct nbd_handle *h, uint8_t *model, unsigned *seed)
{
    static uint8_t buf[3 * MIB];
    uint64_t off = (uint64_t)rand_r(seed) % SIZE;
    unsigned most = rand_r(seed) % 8 == 0 ? sizeof(buf) : 100 * KIB;
    size_t len = min_u64((uint64_t)rand_r(seed) % most + 1, SIZE - off);
    uint32_t fua = rand_r(seed) % 4 == 0 ? LIBNBD_CMD_FLAG_FUA : 0;
    switch (rand_r(seed) % 5) {
    case 0:
        pattern(buf, len, off, (uint64_t)rand_r(seed));
        memcpy(model + off, buf, len);
        return nbd_pwrite(h, buf, len, off, fua) == 0;
    case 1:
        memset(model + off, 0, len);
        return nbd_zero(h, len, off, fua) == 0;
    case 2:
        memset(model + off, 0, len);
        return nbd_zero(h, len, off, fua | LIBNBD_CMD_FLAG_NO_HOLE) == 0;
    case 3: // of ours, trimmed is zero
        memset(model + off, 0, len);
        return nbd_trim(h, len, off, fua) == 0;
    default:
        return nbd_pread(h, buf, len, off, 0) == 0 && memcmp(buf, model + off, len) == 0;
    }
}

static void test_changes(void)
{
    unsigned seed = 4;
    uint8_t *model = xmalloc(SIZE), *got = xmalloc(SIZE);
    pattern_file(in("changed"), SIZE, 7, 4);
    pattern_sparse(model, SIZE, 0, 7, 4);
    struct peer p = {.path = in("changed"), .writable = true};
    struct nbd_handle *h = client_of(&p, "disk", true);
    bool good = true;
    for (int i = 0; i < 400 && good; i++)
        good = change(h, model, &seed);
    ok(good, "400 random requests agree with memory");
    ok(nbd_flush(h, 0) == 0, "flush");
    ok(nbd_cache(h, SIZE, 0, 0) == 0, "cache");
    client_end(&p, h);
    AUTO(fd_close) int fd = open(in("changed"), O_RDONLY | O_CLOEXEC);
    ok(fd_pread(fd, got, SIZE, 0) == 0 && memcmp(got, model, SIZE) == 0,
       "and the file is what memory says");
    free(model);
    free(got);
}

// Every error of a request; after each the connection is as good as before.
static int one_extent(void *context, const char *meta, uint64_t off, uint32_t *entries,
                      size_t n, int *error)
{
    (void)context, (void)meta, (void)off, (void)entries, (void)n, (void)error;
    return 0;
}
static const nbd_extent_callback no_extents = {.callback = one_extent};
static uint8_t much[33 * MIB];

static int read_beyond(struct nbd_handle *h)
{
    return nbd_pread(h, much, 2, SIZE - 1, 0);
}
static int read_far(struct nbd_handle *h)
{
    return nbd_pread(h, much, 512, INT64_MAX - 5, 0);
}
static int read_wraps(struct nbd_handle *h)
{
    return nbd_pread(h, much, 4096, UINT64_MAX - 512, 0);
}
static int write_beyond(struct nbd_handle *h)
{
    return nbd_pwrite(h, much, 100000, SIZE - 1, 0);
}
static int zero_beyond(struct nbd_handle *h)
{
    return nbd_zero(h, 2 * SIZE, 0, 0);
}
static int status_beyond(struct nbd_handle *h)
{
    return nbd_block_status(h, 2, SIZE - 1, no_extents, 0);
}
static int cache_beyond(struct nbd_handle *h)
{
    return nbd_cache(h, 2, SIZE - 1, 0);
}
static int read_too_large(struct nbd_handle *h)
{
    return nbd_pread(h, much, sizeof(much), 0, 0);
}
static int write_too_large(struct nbd_handle *h)
{
    return nbd_pwrite(h, much, sizeof(much), 0, 0);
}
static int read_unfragmented(struct nbd_handle *h)
{
    return nbd_pread(h, much, MIB + 1, 0, LIBNBD_CMD_FLAG_DF);
}
static int read_with_flag(struct nbd_handle *h)
{
    return nbd_pread(h, much, 512, 0, LIBNBD_CMD_FLAG_NO_HOLE);
}
static int zero_fast(struct nbd_handle *h)
{
    return nbd_zero(h, 512, 0, LIBNBD_CMD_FLAG_FAST_ZERO);
}
static int status_empty(struct nbd_handle *h)
{
    return nbd_block_status(h, 0, 0, no_extents, 0);
}

static const struct {
    const char *name;
    int (*call)(struct nbd_handle *h);
    int want;
} wrong[] = {
    {"a read beyond the end: EINVAL", read_beyond, EINVAL},
    {"a read far away: EINVAL", read_far, EINVAL},
    {"a read whose end wraps: EINVAL", read_wraps, EINVAL},
    {"a write beyond the end: ENOSPC", write_beyond, ENOSPC},
    {"zeroing beyond the end: ENOSPC", zero_beyond, ENOSPC},
    {"block status beyond the end: EINVAL", status_beyond, EINVAL},
    {"cache beyond the end: EINVAL", cache_beyond, EINVAL},
    {"a read of 33 MiB: EINVAL", read_too_large, EINVAL},
    {"a write of 33 MiB: EINVAL", write_too_large, EINVAL},
    {"a large read in one chunk: EOVERFLOW", read_unfragmented, EOVERFLOW},
    {"a flag that does not go with a read: EINVAL", read_with_flag, EINVAL},
    {"fast zeroing: EINVAL", zero_fast, EINVAL},
    {"block status of nothing: EINVAL", status_empty, EINVAL},
};

static void test_errors(void)
{
    pattern_file(in("e"), SIZE, 7, 4);
    struct peer p = {.path = in("e"), .writable = true};
    struct nbd_handle *h = client_of(&p, "disk", true);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        bool failed = wrong[i].call(h) < 0 && nbd_get_errno() == wrong[i].want;
        if (!ok(failed && reads_right(h, SIZE, 0, BLOCK, 0), "%s, and on it goes",
                wrong[i].name))
            printf("# %s\n", nbd_get_error());
    }
    is_u64(p.n_connected, 1, "on one connection");
    client_end(&p, h);
}

static void test_read_only(void)
{
    struct peer p = {.path = in("disk")};
    struct nbd_handle *h = client_of(&p, "disk", false);
    ok(nbd_pwrite(h, much, 4096, 0, 0) < 0 && nbd_get_errno() == EPERM &&
           nbd_zero(h, 4096, 0, 0) < 0 && nbd_get_errno() == EPERM &&
           nbd_trim(h, 4096, 0, 0) < 0 && nbd_get_errno() == EPERM &&
           reads_right(h, SIZE, 0, BLOCK, 0),
       "changes of a read-only export: EPERM, and on it goes");
    ok(nbd_pread(h, much, 4096, 0, LIBNBD_CMD_FLAG_DF) < 0 && nbd_get_errno() == EINVAL,
       "one chunk without structured replies: EINVAL");
    client_end(&p, h);
}

static void test_disk_errors(void)
{
    static const struct {
        enum err_code code;
        int errnum, want;
    } rows[] = {{ERR_FAILED, EIO, EIO},
                {ERR_FAILED, ENOSPC, ENOSPC},
                {ERR_REFUSED, EACCES, EPERM},
                {ERR_RETRY, ETIMEDOUT, EIO},
                {ERR_CANCELLED, EINTR, ESHUTDOWN}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct peer p = {.writable = true,
                         .words = strerror(rows[i].errnum),
                         .words_code = rows[i].code};
        struct nbd_handle *h = client_of(&p, "words", true);
        ok(nbd_pwrite(h, much, 3 * MIB, 0, 0) < 0 && nbd_get_errno() == ENOSPC &&
               nbd_pwrite(h, much, MIB, 0, 0) < 0 && nbd_get_errno() == rows[i].want &&
               nbd_pread(h, much, 512, 0, 0) < 0 && nbd_get_errno() == rows[i].want &&
               nbd_aio_is_ready(h) == 1,
           "a disk that fails with \"%s\"", strerror(rows[i].errnum));
        client_end(&p, h);
    }
}

// The Nth operation of the disk fails, for every N there is.
static void test_faults(bool structured)
{
    bool good = true, lives = true;
    unsigned n;
    for (n = 1; n < 100; n++) {
        struct peer p = {.path = in("e"), .writable = true};
        p.fault = (struct fault){.fail_at = n, .code = ERR_FAILED};
        struct nbd_handle *h = client_of(&p, "fault", structured);
        unsigned failed = 0;
        failed += nbd_pread(h, much, 3 * MIB, 5, 0) < 0;
        // Without chunks a read that has begun can only fail with its connection.
        bool dead = nbd_aio_is_ready(h) != 1;
        good = good && (!dead || (!structured && failed == 1));
        failed += !dead && nbd_pwrite(h, much, 3 * MIB, 5, LIBNBD_CMD_FLAG_FUA) < 0;
        failed += !dead && nbd_zero(h, MIB, 5, LIBNBD_CMD_FLAG_FUA) < 0;
        failed += !dead && nbd_trim(h, MIB, 5, 0) < 0;
        failed += !dead && nbd_flush(h, 0) < 0;
        if (structured)
            failed += nbd_block_status(h, SIZE, 0, no_extents, 0) < 0;
        good = good && failed == (p.fault.n_calls >= n);
        p.fault.fail_at = 0;
        lives = lives && (dead || nbd_pread(h, much, 512, 0, 0) == 0);
        client_end(&p, h);
        if (failed == 0)
            break;
    }
    ok(good && n > 10 && n < 20, "one fault, one error, %s replies",
       structured ? "structured" : "simple");
    ok(lives, "and the connection serves on");
}

struct seen {
    const char *meta;
    uint64_t at;
    size_t n;
    bool good;
};

static int see(void *context, const char *meta, uint64_t off, uint32_t *entries, size_t n,
               int *error)
{
    struct seen *s = context;
    (void)error;
    if (strcmp(meta, s->meta) != 0)
        return 0;
    for (size_t i = 0; i < n; i += 2) {
        uint32_t want = strcmp(meta, "test:odd") == 0 ? off / BLOCK % 2
                        : pattern_block(off, 7, 4)    ? 0
                                                      : 3;
        s->good = s->good && off == s->at && entries[i] > 0 && entries[i + 1] == want;
        off += entries[i];
        s->at = off;
        s->n++;
    }
    return 0;
}

static void test_contexts(void)
{
    struct peer p = {.path = in("disk")};
    struct nbd_handle *h = client_of(&p, "disk", true);
    ok(nbd_can_meta_context(h, "base:allocation") == 1 &&
           nbd_can_meta_context(h, "test:odd") == 1 &&
           nbd_can_meta_context(h, "test:even") == 0,
       "contexts that were asked for, and are there");
    struct seen odd = {.meta = "test:odd", .good = true};
    struct seen allocation = {.meta = "base:allocation", .good = true};
    nbd_extent_callback odd_callback = {.callback = see, .user_data = &odd};
    nbd_extent_callback allocation_callback = {.callback = see, .user_data = &allocation};
    ok(nbd_block_status(h, SIZE, 0, odd_callback, 0) == 0 && odd.good && odd.at == SIZE &&
           odd.n == SIZE / BLOCK,
       "the caller's context, gathered from many answers");
    ok(nbd_block_status(h, SIZE, 0, allocation_callback, 0) == 0 && allocation.good &&
           allocation.at == SIZE && allocation.n > 10,
       "base:allocation, holes where the file has some");
    odd = (struct seen){.meta = "test:odd", .good = true, .at = BLOCK + 77};
    ok(nbd_block_status(h, 5 * BLOCK, BLOCK + 77, odd_callback,
                        LIBNBD_CMD_FLAG_REQ_ONE) == 0 &&
           odd.good && odd.n == 1 && odd.at == 2 * BLOCK,
       "one extent when one is asked for");
    client_end(&p, h);
    h = client_of(&p, "holes", true);
    allocation = (struct seen){.meta = "base:allocation", .good = true};
    uint64_t most = UINT64_C(0xfffffe00);
    ok(nbd_block_status(h, most, 0, allocation_callback, LIBNBD_CMD_FLAG_REQ_ONE) == 0 &&
           allocation.n == 1 && allocation.at == most,
       "a hole of 4 GiB is one extent");
    ok(nbd_can_meta_context(h, "test:odd") == 0, "a context is one of an export");
    client_end(&p, h);
}

static int count_name(void *context, const char *name, const char *description)
{
    struct strings *names = context;
    (void)description;
    strings_add(names, name);
    return 0;
}

static void test_options(void)
{
    struct peer p = {.path = in("disk")};
    AUTO(strings_done) struct strings names = {0};
    struct nbd_handle *h = nbd_create();
    nbd_list_callback list = {.callback = count_name, .user_data = &names};
    ok(nbd_set_opt_mode(h, true) == 0 && nbd_connect_socket(h, peer_begin(&p)) == 0 &&
           nbd_opt_list(h, list) == 2 && strings_have(&names, "disk"),
       "the list of exports");
    ok(nbd_set_export_name(h, "none") == 0 && nbd_opt_info(h) < 0 &&
           nbd_get_errno() == ENOENT,
       "information on no export");
    ok(nbd_set_export_name(h, "broken") == 0 && nbd_opt_info(h) < 0 &&
           nbd_get_errno() == ENOTSUP,
       "on one that does not open");
    ok(nbd_set_export_name(h, "holes") == 0 && nbd_opt_info(h) == 0 &&
           nbd_get_size(h) == INT64_C(5) << 40,
       "on one that is there");
    ok(nbd_set_export_name(h, "disk") == 0 && nbd_opt_go(h) == 0 &&
           nbd_get_size(h) == SIZE && reads_right(h, SIZE, 5, 5000, 0),
       "and another is used");
    ok(client_end(&p, h) == 0, "to the end");
    h = nbd_create();
    ok(nbd_set_opt_mode(h, true) == 0 && nbd_connect_socket(h, peer_begin(&p)) == 0 &&
           nbd_opt_abort(h) == 0,
       "a handshake is called off");
    nbd_close(h);
    ok(peer_end(&p) == 0, "which is no error");
}

int main(void)
{
    scratch_make();
    pattern_file(in("disk"), SIZE, 7, 4);
    test_facts();
    test_reads(true);
    test_reads(false);
    test_odd_sizes();
    test_changes();
    test_errors();
    test_read_only();
    test_disk_errors();
    test_faults(true);
    test_faults(false);
    test_contexts();
    test_options();
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// The copy engine on real files: every block lands where it was, zeros stay holes, what a
// fault stops goes on where it was, and verification sees a flipped bit.
#include "copy/copy.h"

#include "tap.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

static char *dir;

struct pair {
    char *source_path, *target_path, *map_path;
    struct disk *source, *target;
    struct map *map;
};

static void must(int result, const struct err *e, const char *what)
{
    if (result < 0) {
        printf("Bail out! %s: %s\n", what, e->text);
        exit(1);
    }
}

// Blocks that say where they belong: offset and seed in every 512 bytes, so that a
// misplaced one is seen.
static void fill_block(uint8_t *p, size_t len, uint64_t off, uint64_t seed)
{
    for (size_t i = 0; i < len; i += 16) {
        uint64_t words[2] = {off + i, seed * UINT64_C(0x9e3779b97f4a7c15) ^ (off + i)};
        memcpy(p + i, words, min_u64(16, len - i));
    }
}

// A sparse file in which about one 64 KiB block in `one_in` holds data, and some of those
// only in 4 KiB of it.
static void make_source(const char *path, uint64_t size, unsigned one_in, uint64_t seed)
{
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint8_t block[64 * 1024];
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        exit(1);
    uint64_t random = seed * 2 + 1;
    for (uint64_t off = 0; off < size; off += sizeof(block)) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        if (random >> 33 & 0xffff && (random >> 33) % one_in)
            continue;
        size_t at = (random >> 60) % 4 == 0 ? 4096 * ((random >> 50) % 16) : 0;
        size_t len = at ? 4096 : sizeof(block);
        if (off + at >= size)
            continue;
        len = (size_t)min_u64(len, size - off - at);
        fill_block(block, len, off + at, seed);
        if (fd_pwrite(fd, block, len, off + at) < 0)
            exit(1);
    }
}

static void open_pair(struct pair *p, const char *name, bool target_exists)
{
    struct err e = {0};
    p->source_path = xasprintf("%s/%s.src", dir, name);
    p->target_path = xasprintf("%s/%s.dst", dir, name);
    p->map_path = xasprintf("%s/%s.map", dir, name);
    must(file_open(&(struct file_options){.path = p->source_path}, &p->source, &e), &e,
         "source");
    must(file_open(&(struct file_options){.path = p->target_path,
                                          .writable = true,
                                          .create = !target_exists,
                                          .size = p->source->size},
                   &p->target, &e),
         &e, "target");
    struct map_key key = {
        .replica = p->target_path, .size = p->source->size, .source = "test"};
    must(map_open(p->map_path, &key, &p->map, &e), &e, "map");
}

static void close_pair(struct pair *p)
{
    map_close(p->map);
    disk_close(p->target);
    disk_close(p->source);
    free(p->source_path);
    free(p->target_path);
    free(p->map_path);
}

static bool same_files(const char *a, const char *b)
{
    AUTO(fd_close) int x = open(a, O_RDONLY | O_CLOEXEC);
    AUTO(fd_close) int y = open(b, O_RDONLY | O_CLOEXEC);
    struct stat sx, sy;
    if (fstat(x, &sx) < 0 || fstat(y, &sy) < 0 || sx.st_size != sy.st_size)
        return false;
    uint8_t bx[65536], by[65536];
    for (uint64_t off = 0; off < (uint64_t)sx.st_size; off += sizeof(bx)) {
        size_t len = (size_t)min_u64(sizeof(bx), (uint64_t)sx.st_size - off);
        if (fd_pread(x, bx, len, off) < 0 || fd_pread(y, by, len, off) < 0 ||
            memcmp(bx, by, len) != 0) {
            printf("# differ at %" PRIu64 "\n", off);
            return false;
        }
    }
    return true;
}

static void test_sizes(void)
{
    static const uint64_t sizes[] = {512,     4096,           65536,   65537,
                                     1000003, 10 * MIB + 511, 64 * MIB};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        AUTO(free) void *path = xasprintf("%s/size%zu.src", dir, i);
        AUTO(free) void *name = xasprintf("size%zu", i);
        make_source(path, sizes[i], 3, i + 1);
        struct pair p;
        struct err e = {0};
        struct copy_result r;
        open_pair(&p, name, false);
        struct copy_options o = {.source = p.source,
                                 .target = p.target,
                                 .map = p.map,
                                 .target_is_zero = true,
                                 .verify = VERIFY_FULL};
        must(copy_run(&o, &r, &e), &e, "copy");
        ok(same_files(p.source_path, p.target_path),
           "a disk of %" PRIu64 " bytes arrives as it was", sizes[i]);
        struct stat s, t;
        stat(p.source_path, &s);
        stat(p.target_path, &t);
        ok(r.final.read <= (uint64_t)s.st_blocks * 512 + 4096,
           "only what is allocated was read");
        close_pair(&p);
    }
}

static void test_target_not_zero(void)
{
    AUTO(free) void *path = xasprintf("%s/dirty.src", dir);
    AUTO(free) void *target = xasprintf("%s/dirty.dst", dir);
    make_source(path, 16 * MIB, 5, 99);
    AUTO(fd_close) int fd = open(target, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    uint8_t junk[65536];
    memset(junk, 0xA5, sizeof(junk));
    for (uint64_t off = 0; off < 16 * MIB; off += sizeof(junk))
        if (fd_pwrite(fd, junk, sizeof(junk), off) < 0)
            exit(1);
    struct pair p;
    struct err e = {0};
    struct copy_result r;
    open_pair(&p, "dirty", true);
    struct copy_options o = {
        .source = p.source, .target = p.target, .map = p.map, .verify = VERIFY_FULL};
    must(copy_run(&o, &r, &e), &e, "copy");
    ok(same_files(p.source_path, p.target_path),
       "a target full of 0xA5 is zeroed where the source has holes");
    close_pair(&p);
}

// A device, or a qcow2 file, is larger than an image whose size it cannot have.
static void test_target_larger(void)
{
    static const uint64_t sizes[] = {1000003, 2 * MIB};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        AUTO(free) void *name = xasprintf("larger%zu", i);
        AUTO(free) void *path = xasprintf("%s/%s.src", dir, (char *)name);
        AUTO(free) void *target = xasprintf("%s/%s.dst", dir, (char *)name);
        make_source(path, sizes[i], 2, 11);
        make_source(target, 4 * MIB + 512, 1, 12);
        struct pair p;
        struct err e = {0};
        struct copy_result r;
        open_pair(&p, name, true);
        struct copy_options o = {
            .source = p.source, .target = p.target, .map = p.map, .verify = VERIFY_FULL};
        must(copy_run(&o, &r, &e), &e, "copy");
        AUTO(free) void *got = xmalloc(4 * MIB);
        AUTO(free) void *want = xcalloc(1, 4 * MIB);
        must(disk_read(p.target, got, 4 * MIB, 0, &e), &e, "read");
        must(disk_read(p.source, want, (size_t)sizes[i], 0, &e), &e, "read");
        ok(memcmp(got, want, 4 * MIB) == 0,
           "a disk of %" PRIu64 " bytes on a larger target, zeros behind it", sizes[i]);
        close_pair(&p);
    }
}

static void test_no_limit(void)
{
    AUTO(free) void *path = xasprintf("%s/nolimit.src", dir);
    make_source(path, 4096, 1, 13);
    struct pair p;
    struct err e = {0};
    struct copy_result free_run, unlimited;
    open_pair(&p, "nolimit", false);
    AUTO(rate_free) struct rate *rate = rate_new(0);
    struct copy_options o = {.source = p.source, .target = p.target};
    must(copy_run(&o, &free_run, &e), &e, "copy");
    o.rate = rate;
    must(copy_run(&o, &unlimited, &e), &e, "copy");
    ok(unlimited.final.request_size == free_run.final.request_size,
       "a rate of 0 is no limit: requests begin as large");
    close_pair(&p);
}

static void test_only(void)
{
    AUTO(free) void *path = xasprintf("%s/only.src", dir);
    make_source(path, 8 * MIB, 1, 7);
    struct pair p;
    struct err e = {0};
    struct copy_result r;
    open_pair(&p, "only", false);
    AUTO(extents_done) struct extents only = {0};
    extents_append(&only, 4096, 8192, EXTENT_DATA);
    extents_append(&only, MIB + 512, 100000, EXTENT_DATA);
    extents_append(&only, 7 * MIB, MIB, EXTENT_DATA);
    struct copy_options o = {.source = p.source,
                             .target = p.target,
                             .map = p.map,
                             .only = &only,
                             .target_is_zero = true,
                             .verify = VERIFY_FULL};
    must(copy_run(&o, &r, &e), &e, "copy");
    ok(r.final.read <= 8192 + 100000 + MIB, "of an allocated part nothing else is read");
    AUTO(free) void *got = xmalloc(8 * MIB);
    AUTO(free) void *want = xmalloc(8 * MIB);
    AUTO(free) void *masked = xcalloc(1, 8 * MIB);
    must(disk_read(p.target, got, 8 * MIB, 0, &e), &e, "read");
    must(disk_read(p.source, want, 8 * MIB, 0, &e), &e, "read");
    for (size_t i = 0; i < only.n; i++)
        memcpy((uint8_t *)masked + only.v[i].off, (uint8_t *)want + only.v[i].off,
               only.v[i].len);
    ok(memcmp(got, masked, 8 * MIB) == 0,
       "allocated ranges arrive, the rest reads as zeros");
    close_pair(&p);
}

// SQLite's way: fail the Nth request, then run again without the fault, for every N until
// nothing fails.
static void test_faults(void)
{
    AUTO(free) void *path = xasprintf("%s/fault.src", dir);
    make_source(path, 12 * MIB, 2, 5);
    unsigned n_faults = 0, n_same = 0;
    for (uint64_t n = 1;; n++) {
        struct fault fault = {.fail_at = n, .code = ERR_FAILED};
        struct pair p;
        struct err e = {0};
        struct copy_result r;
        open_pair(&p, "fault", false);
        p.source = fault_new(p.source, &fault);
        p.target = fault_new(p.target, &fault);
        struct copy_options o = {
            .source = p.source, .target = p.target, .map = p.map, .target_is_zero = true};
        bool failed = copy_run(&o, &r, &e) < 0;
        close_pair(&p);
        if (failed) {
            n_faults++;
            open_pair(&p, "fault", true);
            o = (struct copy_options){.source = p.source,
                                      .target = p.target,
                                      .map = p.map,
                                      .target_is_zero = true,
                                      .verify = VERIFY_FULL};
            must(copy_run(&o, &r, &e), &e, "resume");
            n_same += same_files(p.source_path, p.target_path);
            close_pair(&p);
        }
        AUTO(free) void *target = xasprintf("%s/fault.dst", dir);
        AUTO(free) void *map = xasprintf("%s/fault.map", dir);
        unlink(target);
        unlink(map);
        if (!failed)
            break;
    }
    ok(n_faults > 20, "%u different requests were made to fail", n_faults);
    is_u64(n_same, n_faults, "after each of them a second run finished the same disk");
}

static void test_verify_sees(void)
{
    AUTO(free) void *path = xasprintf("%s/flip.src", dir);
    make_source(path, 4 * MIB, 1, 3);
    struct pair p;
    struct err e = {0};
    struct copy_result r;
    open_pair(&p, "flip", false);
    struct copy_options o = {
        .source = p.source, .target = p.target, .map = p.map, .target_is_zero = true};
    must(copy_run(&o, &r, &e), &e, "copy");
    uint8_t block[4096];
    must(disk_read(p.target, block, sizeof(block), 3 * MIB + 8192, &e), &e, "read");
    block[77] ^= 0x10;
    must(disk_write(p.target, block, sizeof(block), 3 * MIB + 8192, &e), &e, "write");
    ok(copy_verify(NULL, p.target, p.map, VERIFY_FULL, NULL, &r, &e) < 0 &&
           r.mismatched == 1,
       "one flipped bit is one block that differs: %s", e.text);
    must(disk_zero(p.target, 3 * MIB, 64 * KIB, true, &e), &e, "punch");
    ok(copy_verify(NULL, p.target, p.map, VERIFY_FULL, NULL, &r, &e) < 0,
       "a hole where data was is seen");
    must(disk_read(p.source, block, sizeof(block), 0, &e), &e, "read");
    close_pair(&p);
}

static void test_huge_sparse(void)
{
    AUTO(free) void *path = xasprintf("%s/huge.src", dir);
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    uint64_t size = 15 * TIB;
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        skip("15 TiB sparse", "this file system has no files of that size");
        return;
    }
    for (uint64_t off = 0; off < size; off += TIB + 12345 * 4096)
        if (fd_pwrite(fd, "data that is far out", 20, off) < 0)
            exit(1);
    struct pair p;
    struct err e = {0};
    struct copy_result r;
    open_pair(&p, "huge", false);
    struct copy_options o = {
        .source = p.source, .target = p.target, .map = p.map, .target_is_zero = true};
    uint64_t start = clock_ms();
    must(copy_run(&o, &r, &e), &e, "copy");
    ok(r.final.read < MIB && clock_ms() - start < 10000,
       "15 TiB with 15 blocks: %" PRIu64 " bytes in %" PRIu64 " ms", r.final.read,
       clock_ms() - start);
    close_pair(&p);
}

// --- the time left

struct seen {
    unsigned n;
    uint64_t most_left_ms, total;
};
static void see(void *context, const struct copy_progress *p)
{
    struct seen *s = context;
    s->total = p->total;
    if (p->left_ms == UINT64_MAX || p->done == 0 || p->done == p->total)
        return;
    s->n++;
    s->most_left_ms = max_u64(s->most_left_ms, p->left_ms);
}

static void test_time_left(void)
{
    struct err e = {0};
    AUTO(str_free) char *path = xasprintf("%s/left", dir);
    AUTO(disk_close) struct disk *source = NULL;
    AUTO(disk_close) struct disk *target = null_new(GIB);
    AUTO(rate_free) struct rate *rate = rate_new(16 * MIB);
    AUTO(extents_done) struct extents used = {0};
    extents_append(&used, 0, 24 * MIB, EXTENT_DATA);
    make_source(path, 24 * MIB, 1, 5);
    if (truncate(path, (off_t)GIB))
        exit(1);
    must(file_open(&(struct file_options){.path = path}, &source, &e), &e, "source");
    struct seen seen = {0};
    struct copy_options o = {.source = source,
                             .target = target,
                             .only = &used,
                             .target_is_zero = true,
                             .rate = rate,
                             .progress = see,
                             .progress_context = &seen};
    struct copy_result r;
    must(copy_run(&o, &r, &e), &e, "copying the used part");
    ok(seen.n > 0 && seen.most_left_ms < 10000,
       "the time left counts the used part alone: at most %llu ms, told %u times",
       (unsigned long long)seen.most_left_ms, seen.n);
    ok(seen.total == 24 * MIB, "and so does the total");
}

int main(void)
{
    struct err e = {0};
    must(dir_temp(&dir, &e), &e, "temporary folder");
    test_sizes();
    test_target_not_zero();
    test_target_larger();
    test_no_limit();
    test_only();
    test_faults();
    test_verify_sees();
    test_huge_sparse();
    test_time_left();
    must(dir_remove(dir, &e), &e, "cleaning up");
    free(dir);
    return done_testing();
}

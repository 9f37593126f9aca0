// SPDX-License-Identifier: Apache-2.0
// Rounds of a source that changes: a delta touches what changed and nothing else, an
// interrupted round is never skipped, hashes save reading, blocks of other replicas are
// taken from there, an audit sees what a tracker did not.
#include "copy/copy.h"

#include "tap.h"

#include <fcntl.h>
#include <unistd.h>

#define SIZE (6 * MIB + 4096) // the last block is short
#define BLOCKS (SIZE / MAP_BLOCK + 1)

static char *dir;

struct rig {
    char *source_path, *target_path, *map_path;
    int fd; // of the source, to change it
    struct disk *source, *target, *hashes;
    struct map *map;
};

static void must(int result, const struct err *e, const char *what)
{
    if (result < 0) {
        printf("Bail out! %s: %s\n", what, e->text);
        exit(1);
    }
}

// Block `block` as `seed` makes it; seed 0: zeros.
static void put(struct rig *r, uint64_t block, uint64_t seed)
{
    uint8_t bytes[MAP_BLOCK] = {0};
    size_t len = (size_t)min_u64(MAP_BLOCK, SIZE - block * MAP_BLOCK);
    for (size_t i = 0; seed && i < len; i += 16) {
        put_le64(bytes + i, seed * UINT64_C(0x9e3779b97f4a7c15));
        put_le64(bytes + i + 8, i);
    }
    if (fd_pwrite(r->fd, bytes, len, block * MAP_BLOCK) < 0)
        exit(1);
}

static struct disk *open_disk(const char *path, bool writable)
{
    struct err e = {0};
    struct disk *d = NULL;
    must(file_open(&(struct file_options){.path = path, .writable = writable}, &d, &e),
         &e, path);
    return d;
}

static void rig_open(struct rig *r)
{
    struct err e = {0};
    struct map_key key = {
        .replica = r->target_path, .size = SIZE, .source = "test", .hash = MAP_BLAKE2B};
    r->source = open_disk(r->source_path, false);
    r->hashes = hashed_new(open_disk(r->source_path, false), MAP_BLOCK);
    r->target = open_disk(r->target_path, true);
    must(map_open(r->map_path, &key, &r->map, &e), &e, "map");
}

static void rig_close(struct rig *r)
{
    map_close(r->map);
    disk_close(r->target);
    disk_close(r->hashes);
    disk_close(r->source);
}

// A source of blocks that say where they belong, an empty target.
static struct rig rig_new(const char *name)
{
    struct rig r = {.source_path = xasprintf("%s/%s.src", dir, name),
                    .target_path = xasprintf("%s/%s.dst", dir, name),
                    .map_path = xasprintf("%s/%s.map", dir, name)};
    unlink(r.map_path);
    r.fd = open(r.source_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    AUTO(fd_close)
    int target = open(r.target_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (r.fd < 0 || ftruncate(r.fd, (off_t)SIZE) < 0 ||
        ftruncate(target, (off_t)SIZE) < 0)
        exit(1);
    for (uint64_t b = 0; b < BLOCKS; b++)
        put(&r, b, b % 5 == 4 ? 0 : b + 1);
    rig_open(&r);
    return r;
}

static void rig_done(struct rig *r)
{
    rig_close(r);
    close(r->fd);
    free(r->source_path);
    free(r->target_path);
    free(r->map_path);
}

static struct copy_options options_of(const struct rig *r)
{
    return (struct copy_options){.source = r->source,
                                 .target = r->target,
                                 .map = r->map,
                                 .target_is_zero = true,
                                 .live = true};
}

static struct copy_result run(const struct copy_options *o)
{
    struct err e = {0};
    struct copy_result result = {0};
    must(copy_run(o, &result, &e), &e, "copy");
    return result;
}

static bool equal(struct rig *r)
{
    struct err e = {0};
    uint8_t a[MAP_BLOCK], b[MAP_BLOCK];
    for (uint64_t off = 0; off < SIZE; off += MAP_BLOCK) {
        size_t len = (size_t)min_u64(MAP_BLOCK, SIZE - off);
        must(disk_read(r->source, a, len, off, &e), &e, "source");
        must(disk_read(r->target, b, len, off, &e), &e, "target");
        if (memcmp(a, b, len) != 0) {
            printf("# block %llu differs\n", (unsigned long long)(off / MAP_BLOCK));
            return false;
        }
    }
    struct copy_result result = {0};
    struct copy_options o = {.scan = r->hashes};
    if (copy_verify(r->source, r->target, r->map, VERIFY_FULL, &o, &result, &e) == 0)
        return true;
    printf("# %s\n", e.text);
    return false;
}

static void change(struct rig *r, struct extents *changed, uint64_t block, uint64_t seed)
{
    put(r, block, seed);
    extents_add(changed, block * MAP_BLOCK + 512, 512); // as small as a tracker may say
}

static void test_delta(void)
{
    struct rig r = rig_new("delta");
    AUTO(extents_done) struct extents changed = {0};
    struct copy_options o = options_of(&r);
    run(&o);
    ok(equal(&r), "the first round brings everything");
    change(&r, &changed, 3, 1000);       // other data
    change(&r, &changed, 7, 0);          // data becomes zeros
    change(&r, &changed, 9, 1001);       // zeros become data
    change(&r, &changed, BLOCKS - 1, 7); // the short one
    o.only = &changed;
    struct copy_result result = run(&o);
    ok(equal(&r), "a delta brings changed blocks, and those that are zeros now");
    is_u64(result.final.read, 3 * MAP_BLOCK + 4096, "... reading nothing else");
    is_u64(map_state(r.map).round, 2, "... as round 2");
    struct map_entry entries[10];
    struct err e = {0};
    must(map_get(r.map, 0, 10, entries, &e), &e, "map");
    ok(entries[3].round == 2 && entries[7].round == 0 && entries[9].round == 2 &&
           entries[1].round == 1,
       "the map says which round each block is of");
    put(&r, 20, 5);
    AUTO(extents_done) struct extents nothing = {0};
    o.only = &nothing;
    result = run(&o);
    ok(result.final.read == 0 && !equal(&r) && map_state(r.map).round_complete,
       "a round without changes is complete and touches nothing");
    rig_done(&r);
}

// Every request of a delta fails once; meanwhile the source goes on changing. Merged:
// what is left of the round comes with the next changes.
static void test_faults(bool scan, bool merged)
{
    unsigned n_failed = 0, n_same = 0;
    for (uint64_t n = 1; n < 400; n++) {
        struct rig r = rig_new("fault");
        AUTO(extents_done) struct extents changed = {0}, next = {0};
        struct fault fault = {.fail_at = n, .code = ERR_FAILED};
        struct err e = {0};
        struct copy_options o = options_of(&r);
        struct copy_result result;
        run(&o);
        for (uint64_t b = 0; b < BLOCKS; b += 9)
            change(&r, &changed, b, b % 2 ? 0 : 2000 + b);
        o.only = &changed;
        o.source = r.source = fault_new(r.source, &fault);
        o.target = r.target = fault_new(r.target, &fault);
        o.scan = scan ? r.hashes : NULL;
        bool failed = copy_run(&o, &result, &e) < 0;
        rig_close(&r);
        rig_open(&r);
        o = options_of(&r);
        o.scan = scan ? r.hashes : NULL;
        for (uint64_t b = 0; b < BLOCKS; b += 18) // some as before that round
            change(&r, &next, b, b % 5 == 4 ? 0 : b + 1);
        if (failed && !merged)
            run(&o);
        o.only = &next;
        run(&o);
        n_failed += failed;
        n_same += failed && equal(&r);
        rig_done(&r);
        if (!failed)
            break;
    }
    ok(n_failed > 10, "%u requests of a round were made to fail", n_failed);
    is_u64(n_same, n_failed,
           merged ? "what was left came with the next round, every time"
                  : "the round was gone on with, every time");
}

// The power went: the target has a newer block, the map the older entry, and the source
// is back at the older content.
static void test_doubt(bool merged)
{
    struct rig r = rig_new("doubt");
    struct err e = {0};
    AUTO(extents_done) struct extents changed = {0};
    struct copy_options o = options_of(&r);
    run(&o);
    extents_add(&changed, 2 * MAP_BLOCK, 4 * MAP_BLOCK);
    must(map_begin(r.map, &changed, &e), &e, "begin");
    uint8_t newer[MAP_BLOCK];
    memset(newer, 0x5A, sizeof(newer));
    must(disk_write(r.target, newer, sizeof(newer), 3 * MAP_BLOCK, &e), &e, "write");
    must(disk_write(r.target, newer, sizeof(newer), 4 * MAP_BLOCK, &e), &e, "write");
    rig_close(&r);
    rig_open(&r);
    o = options_of(&r);
    o.scan = r.hashes;
    AUTO(extents_done) struct extents next = {0};
    change(&r, &next, 50, 77);
    if (!merged)
        run(&o);
    o.only = &next;
    struct copy_result result = run(&o);
    ok(equal(&r), "an entry of an interrupted round is not believed (%s)",
       merged ? "merged" : "gone on with");
    if (merged)
        is_u64(result.final.equal, 2 * MAP_BLOCK,
               "what the target has is not sent again");
    rig_done(&r);
}

// The target ran as a machine of its own: what its map says holds nowhere.
static void test_target_changed(void)
{
    struct rig r = rig_new("ran");
    struct err e = {0};
    AUTO(extents_done) struct extents all = {0};
    struct copy_options o = options_of(&r);
    run(&o);
    uint8_t theirs[MAP_BLOCK];
    memset(theirs, 0x5A, sizeof(theirs));
    for (uint64_t b = 2; b < 8; b++) // one of them has no entry
        must(disk_write(r.target, theirs, sizeof(theirs), b * MAP_BLOCK, &e), &e,
             "write");
    put(&r, 20, 3000);
    extents_add(&all, 0, SIZE);
    o.only = &all;
    o.scan = r.hashes;
    o.target_changed = true;
    struct copy_result result = run(&o);
    ok(equal(&r), "a target that was written to is as its source again");
    is_u64(result.final.read, 6 * MAP_BLOCK, "... what it still has is not sent again");
    rig_done(&r);
}

static void test_scan(void)
{
    struct rig r = rig_new("scan");
    AUTO(extents_done) struct extents all = {0};
    struct copy_options o = options_of(&r);
    run(&o);
    put(&r, 10, 3000);
    put(&r, 11, 0);
    put(&r, 14, 3001);
    extents_add(&all, 0, SIZE);
    o.only = &all;
    o.scan = r.hashes;
    struct copy_result result = run(&o);
    ok(equal(&r), "by hashes everything that differs is found");
    is_u64(result.final.read, 2 * MAP_BLOCK, "... and only that is read, zeros are not");
    struct err e = {0};
    o.map = NULL;
    ok(copy_run(&o, &result, &e) < 0 && e.code == ERR_USAGE, "a round needs a map");
    rig_done(&r);
}

static void test_dedup(void)
{
    struct rig a = rig_new("clone-a"), b = rig_new("clone-b");
    struct copy_options o = options_of(&a);
    run(&o);
    struct copy_other other = {a.target_path, a.map_path};
    struct copy_other gone = {"/nonexistent/replica", "/nonexistent/map"};
    struct copy_other others[] = {gone, other};
    put(&b, 30, 4000);  // the clone's own
    put(&b, 31, 1 + 2); // what the other has elsewhere
    o = options_of(&b);
    o.scan = b.hashes;
    o.others = others;
    o.n_others = 2;
    struct copy_result result = run(&o);
    ok(equal(&b), "a clone arrives");
    is_u64(result.final.read, MAP_BLOCK, "... of which one block was read, its own");
    ok(result.final.found > 4 * MIB, "... the others came from the other's replica");
    rig_done(&b);

    // The other's replica is not what its map says.
    struct err e = {0};
    uint8_t junk[MAP_BLOCK];
    memset(junk, 1, sizeof(junk));
    must(disk_write(a.target, junk, sizeof(junk), 5 * MAP_BLOCK, &e), &e, "write");
    b = rig_new("clone-b");
    o = options_of(&b);
    o.scan = b.hashes;
    o.others = &other;
    o.n_others = 1;
    result = run(&o);
    ok(equal(&b), "what a map says is only where to look");
    is_u64(result.final.read, MAP_BLOCK, "... what is not there is read");
    rig_done(&b);
    rig_done(&a);
}

// What an audit of `n` blocks finds, of what `hot` and `skip` say.
static struct audit_result audit(struct rig *r, const struct hot *hot,
                                 const struct extents *skip, size_t n)
{
    struct err e = {0};
    struct audit_result result = {0};
    struct audit_options o = {.hot = hot, .skip = skip, .n = n};
    must(copy_audit(r->hashes, r->map, &o, &result, &e), &e, "audit");
    return result;
}

static bool is_block(const struct extents *x, uint64_t block)
{
    return x->n == 1 && x->v[0].off == block * MAP_BLOCK && x->v[0].len == MAP_BLOCK;
}

static void test_audit(void)
{
    struct rig r = rig_new("audit");
    struct err e = {0};
    AUTO(extents_done) struct extents changed = {0};
    struct copy_options o = options_of(&r);
    run(&o);
    struct audit_result a = audit(&r, NULL, NULL, 500);
    ok(a.differ.n == 0 && a.fresh.n == 0 && a.n_asked == 64,
       "an audit of an honest tracker finds nothing at 64 random places");
    change(&r, &changed, 40, 5000);
    a = audit(&r, NULL, &changed, 500);
    ok(a.differ.n == 0, "blocks that are known to have changed are not asked about");
    for (uint64_t b = 0; b < BLOCKS; b++)
        if (b % 5 != 4)
            put(&r, b, 6000 + b);
    a = audit(&r, NULL, NULL, 8);
    ok(a.differ.n > 0 && a.n_asked == 8, "writes that no tracker told of are found");
    audit_result_done(&a);
    AUTO(extents_done) struct extents known = {0};
    ok(copy_known(r.map, &known, &e) == 0 && known.n == BLOCKS / 5 + 1 &&
           known.v[0].len == 4 * MAP_BLOCK,
       "the blocks that have an entry are known");
    rig_done(&r);
}

// Block 20 was named in round 2, and is written to again; 24 was never in use.
static void test_audit_hot(void)
{
    struct rig r = rig_new("hot");
    struct hot hot = {0}, loaded = {0};
    struct err e = {0};
    AUTO(extents_done) struct extents first = {0}, second = {0};
    struct copy_options o = options_of(&r);
    run(&o);
    change(&r, &first, 20, 7000);
    change(&r, &first, 60, 7001);
    o.only = &first;
    run(&o);
    hot_add(&hot, &first, 2);
    change(&r, &second, 23, 7002);
    o.only = &second;
    run(&o);
    hot_add(&hot, &second, 3);
    ok(audit(&r, &hot, &second, 9).differ.n == 0, "hot blocks are as they were");
    put(&r, 20, 7003);
    struct audit_result a = audit(&r, &hot, &second, 9);
    ok(is_block(&a.differ, 20) && a.n_asked == 9,
       "what was named once is asked about first");
    audit_result_done(&a);
    put(&r, 20, 7000);
    put(&r, 22, 7004);
    a = audit(&r, &hot, &second, 3);
    ok(is_block(&a.differ, 22), "... after what lies beside the newest");
    audit_result_done(&a);
    put(&r, 22, 23);
    put(&r, 24, 7005);
    a = audit(&r, &hot, &second, 3);
    ok(a.differ.n == 0 && is_block(&a.fresh, 24),
       "what lies there and was never copied proves nothing, and is to be copied");
    audit_result_done(&a);
    put(&r, 24, 0);
    put(&r, 29, 7005);
    a = audit(&r, &hot, &second, 40);
    ok(is_block(&a.fresh, 29), "as far around as there is room");
    audit_result_done(&a);
    put(&r, 29, 0);
    ok(hot_load(&loaded, r.map, &e) == 0 && loaded.n == 3 && loaded.v[1].block == 23 &&
           loaded.v[1].round == 3 && loaded.v[2].round == 2,
       "a later process knows them from the map");
    put(&r, 60, 0);
    o.only = &first;
    run(&o);
    hot_add(&hot, &first, 4);
    put(&r, 60, 7006);
    a = audit(&r, &hot, NULL, 100);
    ok(is_block(&a.differ, 60), "zeros that were named are known");
    audit_result_done(&a);
    struct audit_options late = {.hot = &hot, .n = 100, .until_ms = 1};
    must(copy_audit(r.hashes, r.map, &late, &a, &e), &e, "audit");
    ok(a.n_asked == 0 && a.differ.n == 0, "an audit ends in time");
    hot_done(&hot);
    hot_done(&loaded);
    rig_done(&r);
}

static void test_hot_bounds(void)
{
    struct hot hot = {0};
    AUTO(extents_done) struct extents huge = {0}, many = {0}, few = {0};
    extents_add(&huge, 0, UINT64_C(1) << 50);
    hot_add(&hot, &huge, 2);
    ok(hot.n <= HOT_MAX && hot.n > HOT_MAX / 2 &&
           hot.v[hot.n - 1].block > (UINT64_C(1) << 50) / MAP_BLOCK / 2,
       "of a round that names everything some of everywhere is kept");
    for (uint64_t i = 0; i < HOT_MAX; i++)
        extents_add(&many, (2 * i + 1) * MAP_BLOCK, 512);
    hot_add(&hot, &many, 3);
    size_t newest = 0;
    for (size_t i = 0; i < hot.n; i++)
        newest += hot.v[i].round == 3;
    ok(hot.n == HOT_MAX && newest > HOT_MAX / 2, "... and goes for what is newer");
    extents_add(&few, 8 * MAP_BLOCK, 512);
    hot_add(&hot, &few, 4);
    ok(hot.n == HOT_MAX && hot_has(&hot, 8) && hot.cap <= 4 * HOT_MAX,
       "there are never more");
    hot_done(&hot);
}

static void test_verify(void)
{
    struct rig r = rig_new("verify");
    struct err e = {0};
    struct copy_result result = {0};
    AUTO(extents_done) struct extents part = {0};
    struct copy_options o = options_of(&r);
    run(&o);
    put(&r, 60, 1);
    extents_add(&part, 10 * MAP_BLOCK, 10 * MAP_BLOCK);
    struct copy_options v = {.scan = r.hashes, .verify_only = &part};
    ok(copy_verify(NULL, r.target, r.map, VERIFY_FULL, &v, &result, &e) == 0 &&
           result.verified == 10 * MAP_BLOCK,
       "a part alone is verified");
    put(&r, 12, 1);
    ok(copy_verify(NULL, r.target, r.map, VERIFY_FULL, &v, &result, &e) < 0 &&
           result.mismatched == 1,
       "... against the source's hashes too");
    v = (struct copy_options){.verify_until_ms = 1};
    ok(copy_verify(NULL, r.target, r.map, VERIFY_FULL, &v, &result, &e) == 0 &&
           result.verified == 0,
       "verification ends in time");
    rig_done(&r);
}

static int stop(void *context, struct err *e)
{
    unsigned *calls = context;
    return ++*calls > 2 ? err_set(e, ERR_CANCELLED, "paused") : 0;
}

static void test_poll(void)
{
    struct rig r = rig_new("poll");
    struct err e = {0};
    struct copy_result result;
    unsigned calls = 0;
    AUTO(rate_free) struct rate *rate = rate_new(4 * MIB);
    struct copy_options o = options_of(&r);
    o.rate = rate;
    o.poll = stop;
    o.progress_context = &calls;
    ok(copy_run(&o, &result, &e) < 0 && e.code == ERR_CANCELLED,
       "a caller that says so ends a round");
    o = options_of(&r);
    run(&o);
    ok(equal(&r), "... which can be gone on with");
    rig_done(&r);
}

int main(void)
{
    struct err e = {0};
    must(dir_temp(&dir, &e), &e, "temporary folder");
    test_delta();
    for (unsigned i = 0; i < 4; i++)
        test_faults(i & 1, i & 2);
    test_doubt(false);
    test_doubt(true);
    test_target_changed();
    test_scan();
    test_dedup();
    test_audit();
    test_audit_hot();
    test_hot_bounds();
    test_verify();
    test_poll();
    must(dir_remove(dir, &e), &e, "cleaning up");
    free(dir);
    return done_testing();
}

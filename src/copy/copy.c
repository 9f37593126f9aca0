// SPDX-License-Identifier: Apache-2.0
// One round: what the source calls data, and the allocation calls used, goes to the
// target; the hash of every block goes to the map.
//
//     feed ─► pool ─► [read parts, find zeros, hash, write] × workers
//       ▲                                  │ watermark
//       └── at most 64 MiB ahead of the checkpoint: flush target ─► map entries ─► map
//       header
//
// The caller's thread feeds, checkpoints, tunes and reports; workers only move blocks. A
// checkpoint is taken while the workers go on with what is queued, so it costs little;
// what a kill -9 makes the next run send again is what was handed out since the last one,
// 64 MiB at most.
//
// Why blocks of 64 KiB are the unit of zero detection and not 4 KiB: a hash covers a
// block, and writing a block that is partly zeros costs less than two requests.
#include "copy/copy.h"

#include "copy/feed.h"
#include "copy/live.h"
#include "copy/pool.h"
#include "copy/tune.h"

#include <inttypes.h>

#define AHEAD (64 * MIB)
#define CHECKPOINT_BYTES (24 * MIB)
#define CHECKPOINT_MS 5000
#define BUFFERS (32 * MIB)
#define MAX_REQUEST (COPY_MAX_BLOCKS * MAP_BLOCK)
#define TICK_MS 50
#define PROGRESS_MS 200

struct copy {
    const struct copy_options *o;
    const struct extents *only; // o->only, or what live_begin made of it
    struct live live;           // of o->live
    bool zero_known;            // what was not written reads as zeros
    struct feed feed;
    struct pool *pool;
    struct tune tune;
    bool fed; // the feed is empty
    uint64_t start_ms, checkpoint_ms, progress_ms;
    uint64_t checkpoint_bytes; // pool_state.in_order at the last checkpoint
    uint64_t resumed;          // watermark this run began at
    // Counted by the workers.
    _Atomic uint64_t read, written, zeros, equal, found;
    // For the rate and the time left that are shown.
    uint64_t rate_ms, rate_read, rate_done; // when and where the last second began
    double rate, pace; // of read and of done, bytes a second, smoothed over some seconds
    bool paced;        // for a second at least
    size_t i_scope;    // extents of `only` that lie wholly below the watermark…
    uint64_t scope;    // …and their bytes
};

// --- a worker's part
// --------------------------------------------------------------------------------------------

// The data of [from, to), zeros between its parts.
static int read_range(struct copy *c, const struct chunk *k, uint64_t from, uint64_t to,
                      uint8_t *buffer, struct err *e)
{
    uint64_t reached = from;
    for (size_t i = 0; i < k->parts.n; i++) {
        const struct extent *x = &k->parts.v[i];
        uint64_t off = max_u64(x->off, from), end = min_u64(x->off + x->len, to);
        if (off >= end)
            continue;
        memset(buffer + (reached - k->off), 0, off - reached);
        rate_wait(c->o->rate, end - off);
        if (cancel_check(e) < 0 ||
            disk_read(c->o->source, buffer + (off - k->off), end - off, off, e) < 0)
            return -1;
        c->read += end - off;
        reached = end;
    }
    memset(buffer + (reached - k->off), 0, to - reached);
    return 0;
}

// Where the next run of blocks of one state begins; both are offsets from the chunk's.
static uint64_t run_end(const struct chunk *k, const enum block_state *state, uint64_t at)
{
    uint64_t end = at + MAP_BLOCK;
    while (end < k->len && state[end / MAP_BLOCK] == state[at / MAP_BLOCK])
        end += MAP_BLOCK;
    return min_u64(end, k->len);
}

static int read_chunk(struct copy *c, const struct chunk *k, uint8_t *buffer,
                      const enum block_state *state, struct err *e)
{
    for (uint64_t at = 0, end; at < k->len; at = end) {
        end = run_end(k, state, at);
        if (state[at / MAP_BLOCK] == BLOCK_READ &&
            read_range(c, k, k->off + at, k->off + end, buffer, e) < 0)
            return -1;
    }
    return 0;
}

// Remembers block by block; afterwards each is BLOCK_SAME, ZERO or DATA.
static int note_blocks(struct copy *c, const struct chunk *k, const uint8_t *buffer,
                       enum block_state *state, struct err *e)
{
    struct map *map = c->o->map;
    for (uint64_t at = 0, i = 0; at < k->len; at += MAP_BLOCK, i++) {
        size_t len = (size_t)min_u64(MAP_BLOCK, k->len - at);
        uint8_t hash[MAP_HASH_MAX];
        c->equal += state[i] == BLOCK_SAME ? len : 0;
        c->found += state[i] == BLOCK_FOUND ? len : 0;
        if (state[i] == BLOCK_SAME)
            continue;
        if (state[i] != BLOCK_ZERO)
            state[i] = is_zero(buffer + at, len) ? BLOCK_ZERO : BLOCK_DATA;
        if (map && state[i] == BLOCK_DATA)
            map_hash(map, buffer + at, len, hash);
        if (map && map_set(map, (k->off + at) / MAP_BLOCK,
                           state[i] == BLOCK_ZERO ? NULL : hash, e) < 0)
            return -1;
    }
    return 0;
}

static int write_run(struct copy *c, const struct chunk *k, const uint8_t *buffer,
                     uint64_t at, uint64_t len, enum block_state state, struct err *e)
{
    if (state == BLOCK_SAME)
        return 0;
    if (state == BLOCK_DATA) {
        c->written += len;
        return disk_write(c->o->target, buffer + at, len, k->off + at, e);
    }
    c->zeros += len;
    return c->zero_known ? 0 : disk_zero(c->o->target, k->off + at, len, true, e);
}

static int copy_chunk(void *context, const struct chunk *k, uint8_t *buffer,
                      struct err *e)
{
    struct copy *c = context;
    if (k->parts.n == 0)
        return disk_zero(c->o->target, k->off, k->len, true, e);
    enum block_state state[COPY_MAX_BLOCKS] = {0};
    if (c->o->scan && live_sift(&c->live, c->o, k, buffer, state, e) < 0)
        return -1;
    if (read_chunk(c, k, buffer, state, e) < 0 || note_blocks(c, k, buffer, state, e) < 0)
        return -1;
    for (uint64_t at = 0, end; at < k->len; at = end) {
        end = run_end(k, state, at);
        if (write_run(c, k, buffer, at, end - at, state[at / MAP_BLOCK], e) < 0)
            return -1;
    }
    return 0;
}

// --- the feeding thread's part
// ----------------------------------------------------------------------------------

// How much of what is to be gone through lies below the watermark: holes outside of the
// used part take no time and would make the time left a lie.
static uint64_t scope_done(struct copy *c, uint64_t watermark)
{
    const struct extents *only = c->only;
    if (!only)
        return watermark;
    for (; c->i_scope < only->n; c->i_scope++) {
        const struct extent *x = &only->v[c->i_scope];
        if (x->off + x->len > watermark)
            return c->scope + (watermark > x->off ? watermark - x->off : 0);
        c->scope += x->len;
    }
    return c->scope;
}

static void measure_pace(struct copy *c, uint64_t done, uint64_t now)
{
    uint64_t read = c->read, ms = max_u64(now - c->rate_ms, 1);
    if (ms < 1000 && c->paced)
        return;
    const double weight = c->paced ? 0.3 : 1; // of the last second
    double rate = (double)(read - c->rate_read) * 1000 / (double)ms;
    double pace = (double)(done - c->rate_done) * 1000 / (double)ms;
    c->rate = weight * rate + (1 - weight) * c->rate;
    c->pace = weight * pace + (1 - weight) * c->pace;
    if (ms < 1000) // the first second: from the start, until it is over
        return;
    c->paced = true;
    c->rate_ms = now;
    c->rate_read = read;
    c->rate_done = done;
}

static void report(struct copy *c, bool last)
{
    const struct copy_options *o = c->o;
    uint64_t now = clock_ms();
    if (!o->progress || (!last && now - c->progress_ms < PROGRESS_MS))
        return;
    c->progress_ms = now;
    uint64_t total = c->only ? extents_bytes(c->only, EXTENT_DATA) : o->source->size;
    uint64_t watermark = max_u64(pool_state(c->pool).watermark, c->resumed);
    uint64_t done = last ? total : min_u64(scope_done(c, watermark), total);
    measure_pace(c, done, now);
    struct copy_progress p = {
        .done = done,
        .total = total,
        .read = c->read,
        .written = c->written,
        .zeros = c->zeros,
        .equal = c->equal,
        .found = c->found,
        .resumed = c->resumed,
        .bytes_per_second = (uint64_t)c->rate,
        .left_ms = c->pace > 0 ? (uint64_t)((double)(total - done) * 1000 / c->pace)
                               : UINT64_MAX,
        .workers = c->tune.workers,
        .request_size = c->tune.request,
    };
    o->progress(o->progress_context, &p);
}

static int checkpoint(struct copy *c, struct err *e)
{
    if (!c->o->map)
        return 0;
    struct pool_state s =
        pool_state(c->pool); // before the flush: what finishes during it may miss it
    uint64_t watermark = max_u64(s.watermark, c->resumed);
    if (disk_flush(c->o->target, e) < 0 || map_checkpoint(c->o->map, watermark, e) < 0)
        return -1;
    c->checkpoint_bytes = s.in_order;
    c->checkpoint_ms = clock_ms();
    return 0;
}

static bool checkpoint_due(const struct copy *c, const struct pool_state *s)
{
    uint64_t done = s->in_order - c->checkpoint_bytes;
    return done >= CHECKPOINT_BYTES ||
           (done && clock_ms() - c->checkpoint_ms >= CHECKPOINT_MS);
}

// Hands out chunks until the workers have enough, or as far ahead of the checkpoint as is
// allowed.
static int feed_some(struct copy *c, struct err *e)
{
    uint64_t request = c->tune.request;
    while (!c->fed) {
        struct pool_state s = pool_state(c->pool);
        bool too_far = c->o->map && s.put - c->checkpoint_bytes + request > AHEAD;
        if (s.failed || too_far || s.n_waiting >= 256)
            return 0;
        struct chunk k;
        if (feed_next(&c->feed, request, &k, &c->fed, e) < 0)
            return -1;
        if (!c->fed)
            pool_put(c->pool, &k);
    }
    return 0;
}

static int run(struct copy *c, struct err *e)
{
    for (;;) {
        if (cancel_check(e) < 0 ||
            (c->o->poll && c->o->poll(c->o->progress_context, e) < 0) ||
            feed_some(c, e) < 0)
            return -1;
        struct pool_state s = pool_state(c->pool);
        if (s.failed)
            return pool_error(c->pool, e);
        if (checkpoint_due(c, &s) && checkpoint(c, e) < 0)
            return -1;
        if (c->fed && s.n_waiting == 0 && s.n_busy == 0)
            return 0;
        // Under a limit there is nothing to try: only the start looks how much it lets
        // by.
        if ((!rate_limited(c->o->rate) || c->tune.starting) &&
            tune_step(&c->tune, s.finished, clock_ns()))
            pool_set_active(c->pool, c->tune.workers);
        report(c, false);
        pool_wait(c->pool, TICK_MS);
    }
}

// Opens the map's round, or finds where an earlier run stopped.
static int begin(struct copy *c, struct err *e)
{
    const struct copy_options *o = c->o;
    c->only = o->only;
    c->zero_known = o->target_is_zero;
    if (o->live) {
        if (live_begin(&c->live, o, e) < 0)
            return -1;
        c->resumed = c->live.from;
        c->only = &c->live.todo;
        c->zero_known = o->target_is_zero && !c->live.delta && !c->live.again;
        return 0;
    }
    if (!o->map)
        return 0;
    struct map_state s = map_state(o->map);
    if (s.round && !s.round_complete) {
        c->resumed = round_down(s.watermark, MAP_BLOCK);
        return 0;
    }
    AUTO(extents_done) struct extents all = {0};
    if (!o->only && o->source->size)
        extents_append(&all, 0, o->source->size, EXTENT_DATA);
    return map_begin(o->map, o->only ? o->only : &all, e);
}

// A target that is larger than the source and not known to be zero is zeroed behind the
// source's end.
static int zero_tail(struct copy *c, struct err *e)
{
    const struct copy_options *o = c->o;
    uint64_t size = o->source->size;
    if (o->target_is_zero || c->live.delta || o->target->size == size)
        return 0;
    return disk_zero(o->target, size, o->target->size - size, true, e);
}

static int finish(struct copy *c, struct err *e)
{
    if (zero_tail(c, e) < 0 || disk_flush(c->o->target, e) < 0)
        return -1;
    return c->o->map ? map_complete(c->o->map, e) : 0;
}

static void result(struct copy *c, struct copy_result *ret)
{
    ret->copy_ms = clock_ms() - c->start_ms;
    ret->final = (struct copy_progress){
        .done = c->o->source->size,
        .total = c->o->source->size,
        .read = c->read,
        .written = c->written,
        .zeros = c->zeros,
        .equal = c->equal,
        .found = c->found,
        .resumed = c->resumed,
        .workers = c->tune.workers,
        .request_size = c->tune.request,
    };
    uint64_t ms = max_u64(ret->copy_ms, 1);
    ret->final.bytes_per_second =
        ret->final.read / ms * 1000 + ret->final.read % ms * 1000 / ms;
}

static int start_pool(struct copy *c, struct err *e)
{
    const struct copy_options *o = c->o;
    uint64_t buffers = o->buffer_limit ? o->buffer_limit : BUFFERS;
    uint64_t request =
        min_u64(MAX_REQUEST, max_u64(round_down(buffers / 2, MAP_BLOCK), MAP_BLOCK));
    unsigned workers =
        (unsigned)max_u64(min_u64(o->source->n_parallel, buffers / request), 1);
    tune_init(&c->tune, workers, request, rate_limited(o->rate));
    struct pool_options options = {
        .work = copy_chunk,
        .context = c,
        .max_workers = workers,
        .max_request = request,
    };
    if (pool_new(&options, &c->pool, e) < 0)
        return -1;
    pool_set_active(c->pool, c->tune.workers);
    return 0;
}

int copy_run(const struct copy_options *options, struct copy_result *ret, struct err *e)
{
    struct copy c = {.o = options, .start_ms = clock_ms()};
    c.checkpoint_ms = c.rate_ms = c.progress_ms = c.start_ms;
    *ret = (struct copy_result){0};
    if (options->target->size < options->source->size)
        return err_set(e, ERR_REFUSED,
                       "%s has %" PRIu64 " bytes, too small for the %" PRIu64 " of %s",
                       options->target->name, options->target->size,
                       options->source->size, options->source->name);
    if (begin(&c, e) < 0 || start_pool(&c, e) < 0) {
        live_done(&c.live);
        return -1;
    }
    c.rate_done = scope_done(&c, c.resumed); // an earlier run's work is not our pace
    feed_init(&c.feed, options->source, c.only, !options->target_is_zero && !c.live.delta,
              c.resumed);
    c.feed.blind = c.live.delta || c.live.again;
    int failed = run(&c, e);
    struct err ignored;
    if (failed && e->code == ERR_CANCELLED)
        (void)checkpoint(&c, &ignored); // only saves work for the next run
    if (!failed)
        failed = finish(&c, e);
    report(&c, true);
    pool_free(c.pool);
    feed_done(&c.feed);
    live_done(&c.live);
    if (failed)
        return -1;
    result(&c, ret);
    // Of a round nobody asks for it, and the last one must not read all of the map.
    if (options->map && !options->live && map_digest(options->map, ret->digest, e) < 0)
        return -1;
    if (options->verify == VERIFY_NONE)
        return 0;
    // What was read is in the map: only the replica has to be read again.
    return copy_verify(NULL, options->target, options->map, options->verify, options, ret,
                       e);
}

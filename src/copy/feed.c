// SPDX-License-Identifier: Apache-2.0
// Data extents of the source and the allocation meet here: what both call data is read.
// Chunks are cut at map blocks because a block's hash needs the whole block, but only the
// parts that hold data are read: an image with 4 KiB extents costs what it holds, not
// what its blocks span.
#include "copy/feed.h"

#define HOLE_MAX GIB

void feed_init(struct feed *f, struct disk *source, const struct extents *only,
               bool holes, uint64_t start)
{
    *f = (struct feed){
        .source = source,
        .only = only,
        .holes = holes,
        .cursor = start,
        .end = source->size,
        .page_to = start,
    };
}

void feed_done(struct feed *f)
{
    extents_done(&f->page);
}

// The next data range of the source from f->page, fetching pages as needed; len 0 at the
// end.
static int next_data(struct feed *f, struct extent *ret, struct err *e)
{
    for (;;) {
        while (f->i_page < f->page.n) {
            struct extent x = f->page.v[f->i_page++];
            if (x.kind == EXTENT_DATA) {
                *ret = x;
                return 0;
            }
        }
        if (f->blind && f->page_to < f->end) {
            *ret = (struct extent){f->page_to, f->end - f->page_to, EXTENT_DATA};
            f->page_to = f->end;
            return 0;
        }
        if (f->page_to >= f->end) {
            *ret = (struct extent){0};
            return 0;
        }
        uint64_t done;
        f->page.n = f->i_page = 0;
        if (disk_extents(f->source, f->page_to, f->end - f->page_to, &f->page, &done, e) <
            0)
            return -1;
        f->page_to += done;
    }
}

// Cuts f->piece down to its first range that is allocated. False: nothing of it is.
static bool cut_to_only(struct feed *f)
{
    const struct extents *only = f->only;
    while (f->i_only < only->n) {
        const struct extent *o = &only->v[f->i_only];
        if (o->off + o->len <= f->piece.off) {
            f->i_only++;
            continue;
        }
        uint64_t from = max_u64(o->off, f->piece.off);
        if (from >= f->piece.off + f->piece.len)
            return false;
        f->piece.len -= from - f->piece.off;
        f->piece.off = from;
        return true;
    }
    return false;
}

// Makes f->piece the next range to read, of at least a byte; len stays 0 at the end.
static int fetch(struct feed *f, struct err *e)
{
    for (;;) {
        if (f->piece.len == 0) {
            if (next_data(f, &f->piece, e) < 0)
                return -1;
            if (f->piece.len == 0)
                return 0;
        }
        if (!f->only || cut_to_only(f))
            return 0;
        f->piece.len = 0;
    }
}

// The range of f->piece up to `limit` and to the end of the allocated range it starts in,
// taken from it.
static struct extent take(struct feed *f, uint64_t limit)
{
    struct extent x = f->piece;
    if (f->only)
        limit = min_u64(limit, f->only->v[f->i_only].off + f->only->v[f->i_only].len);
    x.len = min_u64(x.len, limit - x.off);
    f->piece.off += x.len;
    f->piece.len -= x.len;
    return x;
}

int feed_next(struct feed *f, uint64_t max_len, struct chunk *ret, bool *ret_end,
              struct err *e)
{
    if (fetch(f, e) < 0)
        return -1;
    *ret = (struct chunk){.off = f->cursor};
    *ret_end = false;
    uint64_t start = f->piece.len ? round_down(f->piece.off, MAP_BLOCK) : f->end;
    if (start > f->cursor && f->holes) {
        ret->len = min_u64(start - f->cursor, HOLE_MAX);
        f->cursor += ret->len;
        return 0;
    }
    if (f->piece.len == 0) {
        *ret_end = true;
        return 0;
    }
    ret->off = start;
    uint64_t limit = min_u64(ret->off + max_len, f->end);
    uint64_t reached = start;
    while (f->piece.len && f->piece.off < limit &&
           round_down(f->piece.off, MAP_BLOCK) <= round_up(reached, MAP_BLOCK)) {
        struct extent x = take(f, limit);
        extents_append(&ret->parts, x.off, x.len, EXTENT_DATA);
        reached = x.off + x.len;
        if (fetch(f, e) < 0) {
            extents_done(&ret->parts);
            return -1;
        }
    }
    f->cursor = min_u64(round_up(reached, MAP_BLOCK), f->end);
    ret->len = f->cursor - ret->off;
    return 0;
}

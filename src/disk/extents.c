// SPDX-License-Identifier: Apache-2.0
// Sorted lists of byte ranges. Appending is the common case (drivers report in order) and
// costs nothing; insertion anywhere (allocation readers report in their own order) finds
// its place by bisection, so that tens of thousands in falling order cost little.
// Overlaps and neighbours melt together, the list is always the shortest that says the
// same.
#include "disk/disk.h"

#include <assert.h>

static uint64_t extent_end(const struct extent *x)
{
    return x->off + x->len;
}

void extents_done(struct extents *x)
{
    vec_done(x);
}

void extents_append(struct extents *x, uint64_t off, uint64_t len, enum extent_kind kind)
{
    if (len == 0)
        return;
    assert(off + len > off);
    struct extent *last = x->n > 0 ? &x->v[x->n - 1] : NULL;
    assert(last == NULL || off >= extent_end(last));
    if (last != NULL && last->kind == kind && extent_end(last) == off)
        last->len += len;
    else
        vec_push(x, ((struct extent){off, len, kind}));
}

// The first extent that ends behind `off`; x->n when there is none.
static size_t first_behind(const struct extents *x, uint64_t off)
{
    size_t low = 0, high = x->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (extent_end(&x->v[middle]) > off)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// Replaces v[at … at + n_old) by the n_new (at most 2) extents of `with`.
static void splice(struct extents *x, size_t at, size_t n_old, const struct extent *with,
                   size_t n_new)
{
    while (x->n + n_new > x->cap + n_old)
        x->v = vec_grow(x->v, &x->cap, sizeof(*x->v));
    if (x->n > at + n_old)
        memmove(x->v + at + n_new, x->v + at + n_old,
                (x->n - at - n_old) * sizeof(*x->v));
    if (n_new > 0)
        memcpy(x->v + at, with, n_new * sizeof(*with));
    x->n = x->n - n_old + n_new;
}

void extents_add(struct extents *x, uint64_t off, uint64_t len)
{
    if (len == 0)
        return;
    assert(off + len > off);
    if (x->n == 0 || off > extent_end(&x->v[x->n - 1])) {
        vec_push(x, ((struct extent){off, len, EXTENT_DATA}));
        return;
    }
    // An extent that ends exactly at `off` melts too, hence off - 1.
    size_t from = off > 0 ? first_behind(x, off - 1) : 0, to = from;
    uint64_t start = off, end = off + len;
    for (; to < x->n && x->v[to].off <= end; to++) {
        assert(x->v[to].kind == EXTENT_DATA);
        start = min_u64(start, x->v[to].off);
        end = max_u64(end, extent_end(&x->v[to]));
    }
    struct extent joined = {start, end - start, EXTENT_DATA};
    splice(x, from, to - from, &joined, 1);
}

void extents_remove(struct extents *x, uint64_t off, uint64_t len)
{
    if (len == 0)
        return;
    assert(off + len > off);
    size_t from = first_behind(x, off), to = from;
    struct extent rest[2];
    size_t n_rest = 0;
    for (; to < x->n && x->v[to].off < off + len; to++) {
        struct extent *at = &x->v[to];
        if (at->off < off)
            rest[n_rest++] = (struct extent){at->off, off - at->off, at->kind};
        if (extent_end(at) > off + len)
            rest[n_rest++] =
                (struct extent){off + len, extent_end(at) - off - len, at->kind};
    }
    splice(x, from, to - from, rest, n_rest);
}

uint64_t extents_bytes(const struct extents *x, enum extent_kind kind)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < x->n; i++)
        sum += x->v[i].kind == kind ? x->v[i].len : 0;
    return sum;
}

void extents_and(const struct extents *a, const struct extents *b, struct extents *out)
{
    for (size_t i = 0, j = 0; i < a->n && j < b->n;) {
        const struct extent *p = &a->v[i], *q = &b->v[j];
        uint64_t start = max_u64(p->off, q->off);
        uint64_t end = min_u64(extent_end(p), extent_end(q));
        if (p->kind == EXTENT_DATA && q->kind == EXTENT_DATA && start < end)
            extents_append(out, start, end - start, EXTENT_DATA);
        if (extent_end(p) <= extent_end(q))
            i++;
        else
            j++;
    }
}

void extents_align(struct extents *x, uint64_t granule, uint64_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < x->n; i++) {
        uint64_t start = round_down(x->v[i].off, granule), end = extent_end(&x->v[i]);
        if (x->v[i].kind != EXTENT_DATA || x->v[i].off >= size)
            continue;
        end = min_u64(end, size);
        // Not by round_up(), which wraps for a disk of nearly 2^64 bytes.
        uint64_t rest = end % granule > 0 ? granule - end % granule : 0;
        end += min_u64(rest, size - end);
        if (n > 0 && extent_end(&x->v[n - 1]) >= start)
            x->v[n - 1].len = max_u64(extent_end(&x->v[n - 1]), end) - x->v[n - 1].off;
        else
            x->v[n++] = (struct extent){start, end - start, EXTENT_DATA};
    }
    x->n = n;
}

static void append_rest(struct extents *out, const struct extent *x)
{
    uint64_t end = out->n ? out->v[out->n - 1].off + out->v[out->n - 1].len : 0;
    uint64_t off = max_u64(x->off, end);
    if (off < x->off + x->len)
        extents_append(out, off, x->off + x->len - off, EXTENT_DATA);
}

void extents_or(const struct extents *a, const struct extents *b, struct extents *out)
{
    size_t i = 0, k = 0;
    while (i < a->n || k < b->n) {
        bool first = k == b->n || (i < a->n && a->v[i].off <= b->v[k].off);
        append_rest(out, first ? &a->v[i++] : &b->v[k++]);
    }
}

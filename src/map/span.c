// SPDX-License-Identifier: Apache-2.0
// Segments of disks as a disk, and the way back from its offsets to theirs. In a striped
// segment chunk k of `stripe` bytes lies on area k % n, as its chunk k / n:
//
//     span     | 0 | 1 | 2 | 3 | 4 | 5 |        n = 2
//     area 0   | 0 | 2 | 4 |
//     area 1   | 1 | 3 | 5 |
//
// so a range of the span is one range of every area it touches.

#include "span.h"

#include <assert.h>

struct segment {
    uint64_t off, len, stripe;
    struct span_area *areas;
    size_t n;
};

struct span {
    struct disk disk;
    struct disk *const *disks;
    VEC(struct segment) segments;
};
_Static_assert(offsetof(struct span, disk) == 0, "cast from struct disk");

// The segment that holds `off`, which lies in the span.
static const struct segment *segment_at(const struct span *s, uint64_t off)
{
    size_t low = 0, high = s->segments.n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (s->segments.v[middle].off <= off)
            low = middle;
        else
            high = middle;
    }
    return &s->segments.v[low];
}

static int span_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct span *s = (struct span *)d;
    uint8_t *p = buf;
    while (len > 0) {
        const struct segment *g = segment_at(s, off);
        uint64_t in = off - g->off, part = g->len - in, at = in;
        const struct span_area *area = g->areas;
        if (g->n > 1) {
            uint64_t chunk = in / g->stripe;
            area += chunk % g->n;
            at = chunk / g->n * g->stripe + in % g->stripe;
            part = g->stripe - in % g->stripe;
        }
        part = min_u64(part, len);
        if (disk_read(s->disks[area->disk], p, (size_t)part, area->off + at, e))
            return -1;
        p += part;
        off += part;
        len -= (size_t)part;
    }
    return 0;
}

static const struct disk_ops span_ops = {.type = "span", .read = span_read};

struct span *span_new(struct disk *const *disks, const char *name)
{
    struct span *s = xcalloc(1, sizeof(*s));
    s->disks = disks;
    s->disk = (struct disk){.ops = &span_ops,
                            .name = xstrdup(name),
                            .sector_size = 512,
                            .alignment = 1,
                            .n_parallel = 1};
    return s;
}

void span_close(struct span *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->segments.n; i++)
        free(s->segments.v[i].areas);
    vec_done(&s->segments);
    free(s->disk.name);
    free(s);
}

void span_add(struct span *s, uint64_t len, uint64_t stripe,
              const struct span_area *areas, size_t n)
{
    assert(n > 0 && len > 0 && (n == 1 || (stripe > 0 && len % (n * stripe) == 0)));
    struct segment g = {.off = s->disk.size, .len = len, .stripe = stripe, .n = n};
    g.areas = xcalloc(n, sizeof(*g.areas));
    memcpy(g.areas, areas, n * sizeof(*g.areas));
    s->disk.sector_size =
        (uint32_t)max_u64(s->disk.sector_size, s->disks[areas[0].disk]->sector_size);
    s->disk.size += len;
    vec_push(&s->segments, g);
}

struct disk *span_disk(struct span *s)
{
    return &s->disk;
}

// The first byte of area i that belongs to byte `at` of the segment or one after it.
static uint64_t area_place(const struct segment *g, size_t i, uint64_t at)
{
    uint64_t width = g->n * g->stripe, row = at / width * g->stripe;
    uint64_t column = at % width / g->stripe;
    if (i < column)
        return row + g->stripe;
    return i == column ? row + at % g->stripe : row;
}

void span_map(const struct span *s, uint64_t off, uint64_t len, span_visitor *visit,
              void *context)
{
    while (len > 0) {
        const struct segment *g = segment_at(s, off);
        uint64_t from = off - g->off, part = min_u64(len, g->len - from);
        for (size_t i = 0; i < g->n; i++) {
            uint64_t start = g->n > 1 ? area_place(g, i, from) : from;
            uint64_t end = g->n > 1 ? area_place(g, i, from + part) : from + part;
            if (start < end)
                visit(context, g->areas[i].disk, g->areas[i].off + start, end - start);
        }
        off += part;
        len -= part;
    }
}

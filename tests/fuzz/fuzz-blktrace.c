// SPDX-License-Identifier: Apache-2.0
// The input is what blktrace's relay files give, read in pieces: the first byte says how
// long they are. What is used of it in pieces is what is used of it at once.
#include "fuzz.h"

#include "agent/tracefs.h"

#include <linux/blktrace_api.h>

struct sum {
    uint64_t n, sectors;
};

static void count(void *context, const struct trace_write *w)
{
    struct sum *s = context;
    assert(w->n_sectors > 0);
    s->n++;
    s->sectors += w->n_sectors ^ w->sector ^ w->dev;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct sum whole = {0}, pieces = {0};
    if (size == 0)
        return 0;
    size_t step = data[0] + 1u, len = size - 1, at = 0, used, part;
    uint64_t lost, lost_part, lost_pieces = 0;
    uint32_t sequence = 0, sequence_pieces = 0;
    uint8_t *p = xmalloc(len ? len : 1); // of its own: one byte too far is seen
    memcpy(p, data + 1, len);
    int done = trace_blk(p, len, count, &whole, &sequence, &used, &lost, &e),
        done_part = 0;
    assert(used <= len && whole.n <= len / sizeof(struct blk_io_trace));
    for (size_t end = 0; done_part == 0 && end < len;) {
        end = min_u64(len, end + step);
        uint8_t *copy = xmalloc(end - at ? end - at : 1);
        memcpy(copy, p + at, end - at);
        done_part = trace_blk(copy, end - at, count, &pieces, &sequence_pieces, &part,
                              &lost_part, &e);
        lost_pieces += lost_part;
        at += part;
        free(copy);
    }
    assert(done == done_part && at == used && lost == lost_pieces);
    assert(pieces.n == whole.n && pieces.sectors == whole.sectors);
    assert(sequence == sequence_pieces);
    free(p);
    return 0;
}

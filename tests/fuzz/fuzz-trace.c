// SPDX-License-Identifier: Apache-2.0
// The input is an event's format and a header_page, each ended by a NUL, then a page of
// the ring buffer. What is reported lies in the page: a sanitizer sees what does not.
#include "fuzz.h"

#include "agent/tracefs.h"

static uint64_t n_writes;
static void count(void *context, const struct trace_write *w)
{
    assert(context == &n_writes && w->n_sectors > 0);
    n_writes++;
}

// The text until the next NUL, which *at is behind afterwards.
static char *text(const uint8_t *data, size_t size, size_t *at)
{
    size_t len = strnlen((const char *)data + *at, size - *at);
    char *s = xstrndup((const char *)data + *at, len);
    *at += len < size - *at ? len + 1 : len;
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct trace_format f = {0};
    struct trace_header h = {0};
    struct err e = {0};
    size_t at = 0;
    AUTO(str_free) char *format = text(data, size, &at);
    AUTO(str_free) char *header = text(data, size, &at);
    if (trace_format_parse(format, &f, &e) < 0 ||
        trace_header_parse(header, &h, &e) < 0) {
        assert(e.code == ERR_REFUSED && e.text[0]);
        return 0;
    }
    assert(f.id > 0 && h.data.off >= h.commit.off + h.commit.size);
    size_t len = size - at;
    uint8_t *page = xmalloc(len ? len : 1); // of its own: one byte too far is seen
    memcpy(page, data + at, len);
    uint64_t lost = 0;
    n_writes = 0;
    if (trace_page(page, len, &h, &f, count, &n_writes, &lost, &e) < 0)
        assert(e.code == ERR_FAILED && e.text[0]);
    assert(n_writes <= len / 8);
    free(page);
    return 0;
}

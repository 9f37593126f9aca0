// SPDX-License-Identifier: Apache-2.0
// The `format` file of an event and `header_page` (Documentation/trace/events.rst of
// Linux): a line a field,
//
//     field:sector_t sector;  offset:16;  size:8;  signed:0;
//
// with the name as the last word before the first semicolon, arrays with [N] behind it.
// Fields move between kernels (an `error` came, an `ioprio` came): nothing is assumed.
#include "agent/tracefs.h"

#define FIELD_END_MAX 4096 // of a field in a record

// The number behind `key` in a line that ends at `end`.
static bool number(const char *line, const char *end, const char *key, uint32_t *ret)
{
    const char *at = memmem(line, (size_t)(end - line), key, strlen(key));
    if (at == NULL)
        return false;
    uint64_t v = 0;
    bool digits = false;
    for (at += strlen(key); at < end && *at >= '0' && *at <= '9'; at++, digits = true)
        if ((v = v * 10 + (uint64_t)(*at - '0')) > UINT32_MAX)
            return false;
    *ret = (uint32_t)v;
    return digits;
}

// Is `name` what the declaration "TYPE NAME" or "TYPE NAME[N]" declares?
static bool declares(const char *from, const char *end, const char *name)
{
    const char *bracket = memchr(from, '[', (size_t)(end - from));
    // A type may have brackets too ("__data_loc char[] cmd"): those come before a blank.
    if (bracket && memchr(bracket, ' ', (size_t)(end - bracket)) == NULL)
        end = bracket;
    size_t len = strlen(name);
    return (size_t)(end - from) > len && memcmp(end - len, name, len) == 0 &&
           end[-(ptrdiff_t)len - 1] == ' ';
}

static struct trace_field field(const char *text, const char *name)
{
    struct trace_field f = {0};
    for (const char *line = text, *next; *line; line = next) {
        const char *end = line + strcspn(line, "\n");
        next = *end ? end + 1 : end;
        const char *from = memmem(line, (size_t)(end - line), "field:", 6);
        const char *stop = from ? memchr(from, ';', (size_t)(end - from)) : NULL;
        uint32_t off, size;
        if (stop && declares(from + 6, stop, name) &&
            number(stop, end, "offset:", &off) && number(stop, end, "size:", &size) &&
            off <= TRACE_PAGE_MAX && size <= TRACE_PAGE_MAX)
            f = (struct trace_field){off, size};
    }
    return f;
}

static bool usable(struct trace_field f, uint32_t a, uint32_t b)
{
    return (f.size == a || f.size == b) && f.off + f.size <= FIELD_END_MAX;
}

int trace_format_parse(const char *text, struct trace_format *ret, struct err *e)
{
    uint32_t id = 0;
    struct trace_format f = {
        .type = field(text, "common_type"),
        .dev = field(text, "dev"),
        .sector = field(text, "sector"),
        .n_sectors = field(text, "nr_sector"),
        .rwbs = field(text, "rwbs"),
    };
    const char *line = strstr(text, "ID:");
    const char *digits = line ? line + 3 + strspn(line + 3, " ") : NULL;
    if (digits == NULL || !number(digits, digits + strcspn(digits, "\n"), "", &id) ||
        id == 0 || id > UINT16_MAX)
        return err_set(e, ERR_REFUSED, "block_rq_complete has no number");
    f.id = (uint16_t)id;
    if (!usable(f.type, 2, 2) || !usable(f.dev, 4, 4) || !usable(f.sector, 8, 4) ||
        !usable(f.n_sectors, 4, 8) || f.rwbs.size == 0 || f.rwbs.size > 64 ||
        f.rwbs.off > FIELD_END_MAX)
        return err_set(e, ERR_REFUSED, "block_rq_complete has not the fields we know");
    *ret = f;
    return 0;
}

int trace_header_parse(const char *text, struct trace_header *ret, struct err *e)
{
    struct trace_header h = {field(text, "commit"), field(text, "data")};
    if (!usable(h.commit, 8, 4) || h.data.size < 64 || h.data.size > TRACE_PAGE_MAX ||
        h.data.off < h.commit.off + h.commit.size || h.data.off > FIELD_END_MAX)
        return err_set(e, ERR_REFUSED, "pages of the trace buffer are not as we know");
    *ret = h;
    return 0;
}

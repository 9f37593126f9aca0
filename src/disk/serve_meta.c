// SPDX-License-Identifier: Apache-2.0
// Metadata contexts: base:allocation, which every export has and disk_extents() answers,
// and those the caller of serve_connection() knows by name. They are asked for by name
// alone, so a client cannot list the caller's without knowing what to ask for.
//
// A driver answers a part of a range at a time, perhaps a small one; a reply holds what
// was gathered over as many calls as it takes, up to its limit of descriptors. The client
// asks again from there.
#include "disk/serve_parts.h"

#include <inttypes.h>

#define ALLOCATION "base:allocation"
#define STATE_HOLE 1
#define STATE_ZERO 2
#define STATE_OTHER 1 // of the caller's contexts
#define FIRST_STEP MIB

static bool known(struct server *s, const char *meta)
{
    return strcmp(meta, ALLOCATION) == 0 ||
           (s->options->has_meta != NULL &&
            s->options->has_meta(s->options->context, s->name, meta));
}

static int reply_meta(struct server *s, const struct serve_option *o, size_t id,
                      const char *meta, struct err *e)
{
    return serve_option_name(s, o, NBD_REP_META_CONTEXT, (uint32_t)id, meta, e);
}

// One query of the client's list.
static int query(struct server *s, const struct serve_option *o, bool set,
                 const char *meta, struct err *e)
{
    if (!set && strcmp(meta, "base:") == 0)
        return reply_meta(s, o, 0, ALLOCATION, e);
    if (!known(s, meta) || (set && strings_have(&s->metas, meta)) ||
        s->metas.n == SERVE_METAS_MAX)
        return 0;
    if (set)
        strings_add(&s->metas, meta);
    return reply_meta(s, o, set ? s->metas.n : 0, meta, e);
}

// A string with its length before it, at *at, which moves behind it. NULL: malformed.
static char *take_string(const struct serve_option *o, size_t *at)
{
    if (o->len - *at < 4)
        return NULL;
    uint32_t len = get_be32(o->data + *at);
    if (len > o->len - *at - 4)
        return NULL;
    char *s = xstrndup((const char *)o->data + *at + 4, len);
    *at += 4 + len;
    return s;
}

static int malformed(struct server *s, const struct serve_option *o, const char *why,
                     struct err *e)
{
    return serve_option_refuse(s, o, NBD_REP_ERR_INVALID, why, e);
}

// The whole list is looked at before the first reply: an option is refused or answered.
static bool read_queries(const struct serve_option *o, size_t at, struct strings *ret)
{
    uint32_t n = o->len - at >= 4 ? get_be32(o->data + at) : UINT32_MAX;
    at += 4;
    if (n > o->len / 4)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        char *one = take_string(o, &at);
        if (one == NULL)
            return false;
        strings_take(ret, one);
    }
    return at == o->len;
}

int serve_meta_option(struct server *s, const struct serve_option *o, bool set,
                      struct err *e)
{
    size_t at = 0;
    struct err why;
    AUTO(strings_done) struct strings queries = {0};
    if (set)
        strings_done(&s->metas); // the last list counts, also when it is refused
    if (!s->structured)
        return malformed(s, o, "needs structured replies", e);
    AUTO(str_free) char *name = take_string(o, &at);
    if (name == NULL || !read_queries(o, at, &queries))
        return malformed(s, o, "malformed", e);
    if (serve_export(s, name, &why) < 0)
        return serve_option_refuse(s, o, NBD_REP_ERR_UNKNOWN, why.text, e);
    if (!set && queries.n == 0)
        strings_add(&queries, ALLOCATION);
    for (size_t i = 0; i < queries.n; i++) {
        if (query(s, o, set, queries.v[i], e) < 0)
            return -1;
    }
    return serve_option_reply(s, o, NBD_REP_ACK, NULL, 0, e);
}

static int ask(struct server *s, const char *meta, uint64_t off, uint64_t len,
               struct extents *out, uint64_t *ret_done, struct err *e)
{
    if (strcmp(meta, ALLOCATION) == 0)
        return disk_extents(s->disk, off, len, out, ret_done, e);
    uint64_t done = 0;
    if (s->options->meta(s->options->context, s->name, meta, off, len, out, &done, e) < 0)
        return -1;
    if (done == 0 || done > len)
        return err_set(e, ERR_FAILED, "%s described %" PRIu64 " of %" PRIu64 " bytes",
                       meta, done, len);
    *ret_done = done;
    return 0;
}

struct pairs {
    uint8_t *out;
    size_t n, most;
};

// p->n above p->most: there was no room for it.
static void pair_add(struct pairs *p, uint64_t len, uint32_t flags)
{
    uint8_t *next = p->out + 8 * p->n;
    if (len == 0 || p->n > p->most)
        return;
    if (p->n > 0 && get_be32(next - 4) == flags) {
        put_be32(next - 8, get_be32(next - 8) + (uint32_t)len);
        return;
    }
    if (p->n < p->most) {
        put_be32(next, (uint32_t)len);
        put_be32(next + 4, flags);
    }
    p->n++;
}

static uint32_t flags_of(bool allocation, enum extent_kind kind)
{
    if (!allocation)
        return kind == EXTENT_DATA ? STATE_OTHER : 0;
    return kind == EXTENT_DATA   ? 0
           : kind == EXTENT_HOLE ? STATE_HOLE | STATE_ZERO
                                 : STATE_ZERO;
}

int serve_meta_status(struct server *s, size_t id, uint64_t off, uint64_t len,
                      size_t most, uint8_t *out, size_t *ret_n, struct err *e)
{
    const char *meta = s->metas.v[id - 1];
    AUTO(extents_done) struct extents x = {0};
    uint64_t at = off, end = off + len, done;
    // Of a fragmented file only as much as is needed for one extent.
    uint64_t step = most == 1 ? FIRST_STEP : len;
    for (; at < end && x.n <= most; at += done, step = min_u64(step * 4, len)) {
        if (cancel_check(e) < 0 ||
            ask(s, meta, at, min_u64(step, end - at), &x, &done, e) < 0)
            return -1;
    }
    struct pairs p = {.out = out, .most = most};
    bool allocation = strcmp(meta, ALLOCATION) == 0;
    uint64_t from = off;
    // What lies between extents was not described: nothing is said of it.
    for (size_t i = 0; i < x.n; i++) {
        uint64_t start = max_u64(x.v[i].off, from);
        uint64_t stop = min_u64(x.v[i].off + x.v[i].len, at);
        if (start >= stop)
            continue;
        pair_add(&p, start - from, 0);
        pair_add(&p, stop - start, flags_of(allocation, x.v[i].kind));
        from = stop;
    }
    pair_add(&p, at - from, 0);
    *ret_n = (size_t)min_u64(p.n, most);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
// The fixed newstyle handshake: the client sends options until one of them begins the
// requests. Whatever an option asks for that we do not know, do not want or do not have
// is refused and the next one is waited for; only what cannot be framed ends the
// connection. Options arrive before the client is known to be anybody: their size and
// their number are bounded.
#include "disk/serve_parts.h"

#define MAGIC_SERVER UINT64_C(0x4e42444d41474943) // "NBDMAGIC"
#define MAGIC_OPTION UINT64_C(0x49484156454f5054) // "IHAVEOPT"
#define MAGIC_REPLY UINT64_C(0x3e889045565a9)

#define FLAG_FIXED_NEWSTYLE 1
#define FLAG_NO_ZEROES 2

#define OPTION_LEN_MAX (64 * KIB)
#define OPTIONS_MAX 1024
#define NAME_MAX_LEN 4096 // of an export, and of any string in the protocol

enum {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_BLOCK_SIZE = 3,
};

static uint16_t transmission_flags(const struct server *s)
{
    enum {
        HAS_FLAGS = 1 << 0,
        READ_ONLY = 1 << 1,
        SEND_FLUSH = 1 << 2,
        SEND_FUA = 1 << 3,
        SEND_TRIM = 1 << 5,
        SEND_WRITE_ZEROES = 1 << 6,
        SEND_DF = 1 << 7,
        CAN_MULTI_CONN = 1 << 8,
        SEND_CACHE = 1 << 10,
    };
    int flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN | SEND_CACHE;
    flags |= s->structured ? SEND_DF : 0;
    flags |= s->writable ? SEND_TRIM | SEND_WRITE_ZEROES : READ_ONLY;
    return (uint16_t)flags;
}

// `n_body` pieces of v behind v[0], which becomes the head.
static int send_reply(struct server *s, const struct serve_option *o, uint32_t type,
                      struct iovec *v, size_t n_body, struct err *e)
{
    uint8_t head[20];
    size_t len = 0;
    for (size_t i = 1; i <= n_body; i++)
        len += v[i].iov_len;
    put_be64(head, MAGIC_REPLY);
    put_be32(head + 8, o->number);
    put_be32(head + 12, type);
    put_be32(head + 16, (uint32_t)len);
    v[0] = (struct iovec){head, sizeof(head)};
    return serve_send(s, v, 1 + n_body, e);
}

int serve_option_reply(struct server *s, const struct serve_option *o, uint32_t type,
                       const void *data, size_t len, struct err *e)
{
    struct iovec v[2] = {{0}, {(void *)data, len}};
    return send_reply(s, o, type, v, 1, e);
}

int serve_option_name(struct server *s, const struct serve_option *o, uint32_t type,
                      uint32_t number, const char *name, struct err *e)
{
    uint8_t first[4];
    put_be32(first, number);
    struct iovec v[3] = {{0}, {first, 4}, {(char *)name, strlen(name)}};
    return send_reply(s, o, type, v, 2, e);
}

int serve_option_refuse(struct server *s, const struct serve_option *o, uint32_t type,
                        const char *why, struct err *e)
{
    return serve_option_reply(s, o, type, why, strlen(why), e);
}

int serve_export(struct server *s, const char *name, struct err *e)
{
    if (s->disk != NULL && strcmp(s->name, name) == 0)
        return 0;
    disk_close(steal(s->disk));
    str_free(steal(s->name));
    strings_done(&s->metas);
    if (s->options->open(s->options->context, name, &s->disk, e) < 0)
        return -1;
    s->name = xstrdup(name);
    s->writable = s->options->writable && s->disk->ops->write != NULL;
    return 0;
}

// NBD_OPT_EXPORT_NAME, the oldest way in: it knows no refusal.
static int option_export_name(struct server *s, const struct serve_option *o,
                              bool *ret_go, struct err *e)
{
    AUTO(str_free) char *name = xstrndup((const char *)o->data, o->len);
    if (o->len > NAME_MAX_LEN)
        return err_set(e, ERR_FAILED, "the NBD client asks for an export by %u bytes",
                       o->len);
    if (serve_export(s, name, e) < 0)
        return -1;
    strings_done(&s->metas); // cannot be used without NBD_OPT_GO
    uint8_t reply[8 + 2 + 124] = {0};
    put_be64(reply, s->disk->size);
    put_be16(reply + 8, transmission_flags(s));
    struct iovec v = {reply, s->no_zeroes ? 10 : sizeof(reply)};
    *ret_go = true;
    return serve_send(s, &v, 1, e);
}

static int option_list(struct server *s, const struct serve_option *o, struct err *e)
{
    AUTO(strings_done) struct strings names = {0};
    if (o->len > 0)
        return serve_option_refuse(s, o, NBD_REP_ERR_INVALID, "a list takes no data", e);
    if (s->options->names != NULL)
        s->options->names(s->options->context, &names);
    for (size_t i = 0; i < names.n; i++) {
        uint32_t len = (uint32_t)strlen(names.v[i]);
        if (serve_option_name(s, o, NBD_REP_SERVER, len, names.v[i], e) < 0)
            return -1;
    }
    return serve_option_reply(s, o, NBD_REP_ACK, NULL, 0, e);
}

// A power of two, as the protocol wants it.
static uint32_t preferred_block(const struct disk *d)
{
    uint32_t size = 512;
    while (size < d->alignment && size < SERVE_REQUEST_MAX)
        size *= 2;
    return size;
}

static int send_info(struct server *s, const struct serve_option *o, struct err *e)
{
    uint8_t export[12], blocks[14];
    put_be16(export, NBD_INFO_EXPORT);
    put_be64(export + 2, s->disk->size);
    put_be16(export + 10, transmission_flags(s));
    put_be16(blocks, NBD_INFO_BLOCK_SIZE);
    put_be32(blocks + 2, 1);
    put_be32(blocks + 6, preferred_block(s->disk));
    put_be32(blocks + 10, SERVE_REQUEST_MAX);
    if (serve_option_reply(s, o, NBD_REP_INFO, export, sizeof(export), e) < 0 ||
        serve_option_reply(s, o, NBD_REP_INFO, blocks, sizeof(blocks), e) < 0)
        return -1;
    return serve_option_reply(s, o, NBD_REP_ACK, NULL, 0, e);
}

// NBD_OPT_INFO and NBD_OPT_GO: a name, then numbers of what the client would like to
// know, which need no look: it gets the size, the flags and the sizes of blocks.
static int option_info(struct server *s, const struct serve_option *o, bool go,
                       bool *ret_go, struct err *e)
{
    struct err why;
    uint32_t len = o->len >= 6 ? get_be32(o->data) : 0;
    if (o->len < 6 || len > o->len - 6 || len > NAME_MAX_LEN ||
        o->len - 6 - len != 2u * get_be16(o->data + 4 + len))
        return serve_option_refuse(s, o, NBD_REP_ERR_INVALID, "malformed", e);
    AUTO(str_free) char *name = xstrndup((const char *)o->data + 4, len);
    // What was chosen for another export would be wrong for this one: serve_export()
    // forgets it.
    if (serve_export(s, name, &why) < 0)
        return serve_option_refuse(
            s, o, why.code == ERR_REFUSED ? NBD_REP_ERR_UNKNOWN : NBD_REP_ERR_POLICY,
            why.text, e);
    *ret_go = go;
    return send_info(s, o, e);
}

static int option_structured(struct server *s, const struct serve_option *o,
                             struct err *e)
{
    if (o->len > 0)
        return serve_option_refuse(s, o, NBD_REP_ERR_INVALID, "takes no data", e);
    s->structured = true;
    return serve_option_reply(s, o, NBD_REP_ACK, NULL, 0, e);
}

enum option_number {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

// *ret_end: the client wants no more.
static int option_run(struct server *s, const struct serve_option *o, bool *ret_go,
                      bool *ret_end, struct err *e)
{
    if (!s->private && o->number == NBD_OPT_EXPORT_NAME)
        return err_set(e, ERR_REFUSED, "the NBD client did not ask for TLS");
    if (!s->private && o->number != NBD_OPT_STARTTLS && o->number != NBD_OPT_ABORT)
        return serve_option_refuse(s, o, NBD_REP_ERR_TLS_REQD, "TLS comes first", e);
    struct err gone; // who ends the handshake need not wait for the answer
    switch (o->number) {
    case NBD_OPT_ABORT:
        (void)serve_option_reply(s, o, NBD_REP_ACK, NULL, 0, &gone);
        *ret_end = true;
        return 0;
    case NBD_OPT_EXPORT_NAME:
        return option_export_name(s, o, ret_go, e);
    case NBD_OPT_LIST:
        return option_list(s, o, e);
    case NBD_OPT_INFO:
        return option_info(s, o, false, ret_go, e);
    case NBD_OPT_GO:
        return option_info(s, o, true, ret_go, e);
    case NBD_OPT_STRUCTURED_REPLY:
        return option_structured(s, o, e);
    case NBD_OPT_LIST_META_CONTEXT:
        return serve_meta_option(s, o, false, e);
    case NBD_OPT_SET_META_CONTEXT:
        return serve_meta_option(s, o, true, e);
    case NBD_OPT_STARTTLS:
        return serve_starttls(s, o, e);
    default:
        return serve_option_refuse(s, o, NBD_REP_ERR_UNSUP, "no such option", e);
    }
}

// *ret_end: the peer closed instead.
static int option_next(struct server *s, bool *ret_go, bool *ret_end, struct err *e)
{
    uint8_t head[16];
    if (serve_recv(s, head, sizeof(head), ret_end, e) < 0 || *ret_end)
        return *ret_end ? 0 : -1;
    struct serve_option o = {.number = get_be32(head + 8), .len = get_be32(head + 12)};
    if (get_be64(head) != MAGIC_OPTION)
        return err_set(e, ERR_FAILED, "the NBD client sent what is no option");
    if (o.len > OPTION_LEN_MAX) {
        if (serve_skip(s, o.len, e) < 0)
            return -1;
        return serve_option_refuse(s, &o, NBD_REP_ERR_TOO_BIG, "too long", e);
    }
    // Not larger than a message's room, which no option outlives.
    o.data = s->data;
    if (serve_recv(s, s->data, o.len, NULL, e) < 0)
        return -1;
    return option_run(s, &o, ret_go, ret_end, e);
}

int serve_handshake(struct server *s, bool *ret_go, struct err *e)
{
    uint8_t hello[18], flags[4];
    bool end = false;
    put_be64(hello, MAGIC_SERVER);
    put_be64(hello + 8, MAGIC_OPTION);
    put_be16(hello + 16, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    struct iovec v = {hello, sizeof(hello)};
    *ret_go = false;
    if (serve_send(s, &v, 1, e) < 0 || serve_recv(s, flags, 4, &end, e) < 0 || end)
        return end ? 0 : -1;
    if ((get_be32(flags) & ~(uint32_t)(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)) != 0)
        return err_set(e, ERR_FAILED, "the NBD client sent unknown flags");
    s->no_zeroes = (get_be32(flags) & FLAG_NO_ZEROES) != 0;
    for (unsigned i = 0; i < OPTIONS_MAX && !*ret_go && !end; i++) {
        if (option_next(s, ret_go, &end, e) < 0)
            return -1;
    }
    if (!*ret_go && !end)
        return err_set(e, ERR_FAILED, "the NBD client sent more than %d options",
                       OPTIONS_MAX);
    return 0;
}

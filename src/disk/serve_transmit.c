// SPDX-License-Identifier: Apache-2.0
// Requests and their replies, one after the other in the order of arrival. A request that
// makes no sense is answered with an error and the connection goes on, after its payload
// has been passed over; only a wrong magic number, with which nothing can be framed any
// more, ends it.
//
// A read is answered in messages of at most SERVE_DATA_MAX, each sent by one system call:
// chunks of data, and of holes wherever a whole granule reads as zeros (which costs a
// look at the first bytes of one that does not). A client without structured replies gets
// one stream of bytes behind a promise that all went well: an error in the middle can
// only end the connection.
#include "disk/serve_parts.h"

#include <assert.h>
#include <errno.h>

#define MAGIC_REQUEST UINT32_C(0x25609513)
#define MAGIC_SIMPLE UINT32_C(0x67446698)
#define MAGIC_CHUNK UINT32_C(0x668e33ef)

#define PAGE 4096
#define GRANULE (64 * KIB)
#define PIECES_MAX (SERVE_DATA_MAX / GRANULE + 1)
#define PAIRS_MAX 4096        // descriptors of one reply
#define ZERO_STEP (128 * MIB) // how much is zeroed before a cancellation is looked for

enum {
    CHUNK_NONE = 0,
    CHUNK_DATA = 1,
    CHUNK_HOLE = 2,
    CHUNK_STATUS = 5,
    CHUNK_ERROR = (1 << 15) + 1,
    CHUNK_DONE = 1, // flag: the last one of its reply
};
enum {
    FLAG_FUA = 1 << 0,
    FLAG_NO_HOLE = 1 << 1,
    FLAG_DF = 1 << 2,
    FLAG_REQ_ONE = 1 << 3,
};
enum command_number {
    CMD_READ = 0,
    CMD_WRITE = 1,
    CMD_DISC = 2,
    CMD_FLUSH = 3,
    CMD_TRIM = 4,
    CMD_CACHE = 5,
    CMD_ZEROES = 6,
    CMD_STATUS = 7,
};

struct request {
    uint16_t flags, number;
    uint32_t len;
    uint64_t off;
    uint8_t cookie[8];
};

// --- replies

static void chunk_head(uint8_t head[static 20], const struct request *r, int flags,
                       int type, size_t len)
{
    put_be32(head, MAGIC_CHUNK);
    put_be16(head + 4, (uint16_t)flags);
    put_be16(head + 6, (uint16_t)type);
    memcpy(head + 8, r->cookie, 8);
    put_be32(head + 16, (uint32_t)len);
}

static void simple_head(uint8_t head[static 16], const struct request *r, uint32_t error)
{
    put_be32(head, MAGIC_SIMPLE);
    put_be32(head + 4, error);
    memcpy(head + 8, r->cookie, 8);
}

static int reply_error(struct server *s, const struct request *r, enum nbd_error error,
                       const char *text, struct err *e)
{
    uint8_t head[26];
    size_t len = strlen(text);
    if (!s->structured) {
        simple_head(head, r, error);
        struct iovec v = {head, 16};
        return serve_send(s, &v, 1, e);
    }
    chunk_head(head, r, CHUNK_DONE, CHUNK_ERROR, 6 + len);
    put_be32(head + 20, error);
    put_be16(head + 24, (uint16_t)len);
    struct iovec v[2] = {{head, sizeof(head)}, {(char *)text, len}};
    return serve_send(s, v, 2, e);
}

// struct err has no errno, so a full disk is known by its words (err_errno() appends
// them).
static enum nbd_error error_of(const struct err *why)
{
    if (why->code == ERR_CANCELLED)
        return NBD_ESHUTDOWN;
    if (str_ends(why->text, strerror(ENOSPC)))
        return NBD_ENOSPC;
    return why->code == ERR_REFUSED ? NBD_EPERM : NBD_EIO;
}

static int reply_failed(struct server *s, const struct request *r, const struct err *why,
                        struct err *e)
{
    return reply_error(s, r, error_of(why), why->text, e);
}

// Of what has no data to reply with.
static int reply_done(struct server *s, const struct request *r, struct err *e)
{
    uint8_t head[16];
    simple_head(head, r, NBD_OK);
    struct iovec v = {head, sizeof(head)};
    return serve_send(s, &v, 1, e);
}

// --- reading

struct message {
    struct iovec v[2 * PIECES_MAX];
    uint8_t heads[PIECES_MAX][32];
    size_t n_v, n_heads;
};

static void message_add(struct message *m, const struct request *r, int flags,
                        uint64_t off, uint8_t *data, size_t len, bool zeros)
{
    uint8_t *head = m->heads[m->n_heads++];
    assert(m->n_heads <= PIECES_MAX);
    chunk_head(head, r, flags, zeros ? CHUNK_HOLE : CHUNK_DATA, zeros ? 12 : 8 + len);
    put_be64(head + 20, off);
    put_be32(head + 28, (uint32_t)len); // a hole's; behind the head of data
    m->v[m->n_v++] = (struct iovec){head, zeros ? 32 : 28};
    if (!zeros)
        m->v[m->n_v++] = (struct iovec){data, len};
}

// Up to the next multiple of the granule, or all when it may not be cut.
static size_t piece_len(const struct request *r, uint64_t off, size_t len)
{
    return (r->flags & FLAG_DF) != 0 ? len
                                     : (size_t)min_u64(len, GRANULE - off % GRANULE);
}

// What was read, as chunks. `last`: the reply ends with it.
static int send_chunks(struct server *s, const struct request *r, uint64_t off,
                       size_t len, bool last, struct err *e)
{
    struct message m;
    m.n_v = m.n_heads = 0;
    for (size_t at = 0, end; at < len; at = end) {
        end = at + piece_len(r, off + at, len - at);
        bool zeros = is_zero(s->data + at, end - at);
        while (end < len) {
            size_t more = piece_len(r, off + end, len - end);
            if (is_zero(s->data + end, more) != zeros)
                break;
            end += more;
        }
        message_add(&m, r, last && end == len ? CHUNK_DONE : 0, off + at, s->data + at,
                    end - at, zeros);
    }
    return serve_send(s, m.v, m.n_v, e);
}

static int send_plain(struct server *s, const struct request *r, bool first, size_t len,
                      struct err *e)
{
    uint8_t head[16];
    simple_head(head, r, NBD_OK);
    struct iovec v[2] = {{head, sizeof(head)}, {s->data, len}};
    return first ? serve_send(s, v, 2, e) : serve_send(s, v + 1, 1, e);
}

static int run_read(struct server *s, const struct request *r, struct err *e)
{
    struct err why;
    if (r->len == 0 && s->structured) {
        uint8_t head[20];
        chunk_head(head, r, CHUNK_DONE, CHUNK_NONE, 0);
        struct iovec v = {head, sizeof(head)};
        return serve_send(s, &v, 1, e);
    }
    if (r->len == 0)
        return reply_done(s, r, e);
    for (size_t done = 0, part; done < r->len; done += part) {
        uint64_t at = r->off + done;
        // All but the first part begin at a page.
        part = (size_t)min_u64(r->len - done, (r->flags & FLAG_DF) != 0
                                                  ? SERVE_DATA_MAX
                                                  : SERVE_DATA_MAX - at % PAGE);
        if (disk_read(s->disk, s->data, part, at, &why) < 0) {
            if (s->structured || done == 0)
                return reply_failed(s, r, &why, e);
            *e = why;
            return -1;
        }
        if ((s->structured ? send_chunks(s, r, at, part, done + part == r->len, e)
                           : send_plain(s, r, done == 0, part, e)) < 0)
            return -1;
    }
    return 0;
}

// --- changing

static int reply_changed(struct server *s, const struct request *r, int result,
                         struct err *why, struct err *e)
{
    if (result == 0 && (r->flags & FLAG_FUA) != 0)
        result = disk_flush(s->disk, why);
    return result < 0 ? reply_failed(s, r, why, e) : reply_done(s, r, e);
}

static int run_write(struct server *s, const struct request *r, struct err *e)
{
    struct err why;
    int result = 0;
    for (size_t done = 0, part; done < r->len; done += part) {
        // In memory as on the disk, so that the pages in the middle need no copy.
        size_t skew = (r->off + done) % PAGE;
        part = (size_t)min_u64(r->len - done, SERVE_DATA_MAX - skew);
        if (serve_recv(s, s->data + skew, part, NULL, e) < 0)
            return -1;
        if (result == 0)
            result = disk_write(s->disk, s->data + skew, part, r->off + done, &why);
    }
    return reply_changed(s, r, result, &why, e);
}

static int zero(struct server *s, const struct request *r, bool punch, struct err *e)
{
    for (uint64_t done = 0, part; done < r->len; done += part) {
        part = min_u64(r->len - done, ZERO_STEP);
        if (cancel_check(e) < 0 || disk_zero(s->disk, r->off + done, part, punch, e) < 0)
            return -1;
    }
    return 0;
}

static int run_zeroes(struct server *s, const struct request *r, struct err *e)
{
    struct err why;
    int result = zero(s, r, (r->flags & FLAG_NO_HOLE) == 0, &why);
    return reply_changed(s, r, result, &why, e);
}

// A wish: nothing is written to a disk that cannot zero by itself.
static int run_trim(struct server *s, const struct request *r, struct err *e)
{
    struct err why;
    int result = s->disk->ops->zero != NULL ? zero(s, r, true, &why) : 0;
    return reply_changed(s, r, result, &why, e);
}

static int run_flush(struct server *s, const struct request *r, struct err *e)
{
    struct err why;
    int result = disk_flush(s->disk, &why);
    return result < 0 ? reply_failed(s, r, &why, e) : reply_done(s, r, e);
}

// --- asking

// A wish too: our disks are read past every cache.
static int run_cache(struct server *s, const struct request *r, struct err *e)
{
    return reply_done(s, r, e);
}

static int run_status(struct server *s, const struct request *r, struct err *e)
{
    size_t most = (r->flags & FLAG_REQ_ONE) != 0 ? 1 : PAIRS_MAX;
    for (size_t id = 1; id <= s->metas.n; id++) {
        struct err why;
        size_t n;
        if (serve_meta_status(s, id, r->off, r->len, most, s->data, &n, &why) < 0)
            return reply_failed(s, r, &why, e);
        uint8_t head[24];
        chunk_head(head, r, id == s->metas.n ? CHUNK_DONE : 0, CHUNK_STATUS, 4 + 8 * n);
        put_be32(head + 20, (uint32_t)id);
        struct iovec v[2] = {{head, sizeof(head)}, {s->data, 8 * n}};
        if (serve_send(s, v, 2, e) < 0)
            return -1;
    }
    return 0;
}

// --- one request after the other

static const struct command {
    int (*run)(struct server *s, const struct request *r, struct err *e);
    uint16_t flags; // that it takes, beside FUA, which goes with all
    bool changes;
    bool data; // is as long as its range, so the length is limited
} commands[] = {
    [CMD_READ] = {run_read, .flags = FLAG_DF, .data = true},
    [CMD_WRITE] = {run_write, .changes = true, .data = true},
    [CMD_FLUSH] = {run_flush},
    [CMD_TRIM] = {run_trim, .changes = true},
    [CMD_CACHE] = {run_cache},
    [CMD_ZEROES] = {run_zeroes, .flags = FLAG_NO_HOLE, .changes = true},
    [CMD_STATUS] = {run_status, .flags = FLAG_REQ_ONE},
};

// NBD_OK, or what is wrong with it, in words too.
static enum nbd_error check(const struct server *s, const struct request *r,
                            const char **ret_why)
{
    uint64_t end;
    bool inside = add_fits(r->off, r->len, &end) && end <= s->disk->size;
    if (r->number >= ARRAY_LEN(commands) || commands[r->number].run == NULL)
        return *ret_why = "no such command", NBD_EINVAL;
    const struct command *c = &commands[r->number];
    if ((r->flags & ~(FLAG_FUA | c->flags)) != 0)
        return *ret_why = "a flag that does not go with this command", NBD_EINVAL;
    if (c->changes && !s->writable)
        return *ret_why = "the export is read-only", NBD_EPERM;
    if (c->data && r->len > SERVE_REQUEST_MAX)
        return *ret_why = "more than 32 MiB at once", NBD_EINVAL;
    if (!inside && r->number != CMD_FLUSH)
        return *ret_why = "beyond the end of the disk",
               c->changes ? NBD_ENOSPC : NBD_EINVAL;
    if ((r->flags & FLAG_DF) != 0 && !s->structured)
        return *ret_why = "needs structured replies", NBD_EINVAL;
    if ((r->flags & FLAG_DF) != 0 && r->len > SERVE_DATA_MAX)
        return *ret_why = "too large for one chunk", NBD_EOVERFLOW;
    if (r->number == CMD_STATUS && (s->metas.n == 0 || r->len == 0))
        return *ret_why = "no range, or no metadata context was chosen", NBD_EINVAL;
    return NBD_OK;
}

static int answer(struct server *s, const struct request *r, struct err *e)
{
    const char *why = NULL;
    enum nbd_error error = check(s, r, &why);
    if (error == NBD_OK)
        return commands[r->number].run(s, r, e);
    if (r->number == CMD_WRITE && serve_skip(s, r->len, e) < 0)
        return -1;
    return reply_error(s, r, error, why, e);
}

int serve_transmit(struct server *s, struct err *e)
{
    for (;;) {
        uint8_t head[28];
        bool end = false;
        if (cancel_check(e) < 0 || serve_recv(s, head, sizeof(head), &end, e) < 0)
            return -1;
        if (end)
            return 0;
        if (get_be32(head) != MAGIC_REQUEST)
            return err_set(e, ERR_FAILED, "the NBD client sent what is no request");
        struct request r = {.flags = get_be16(head + 4),
                            .number = get_be16(head + 6),
                            .off = get_be64(head + 16),
                            .len = get_be32(head + 24)};
        memcpy(r.cookie, head + 8, 8);
        if (r.number == CMD_DISC)
            return 0;
        if (answer(s, &r, e) < 0)
            return -1;
    }
}

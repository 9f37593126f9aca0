// SPDX-License-Identifier: Apache-2.0
// An NBD export by libnbd (protocol: NetworkBlockDevice, doc/proto.md). libnbd serves one
// caller at a time on a connection, so there is a pool of connections, one for every
// request in flight; they are made when they are needed and dropped once dead. The server
// is a child of ours or another machine: it may lie, hang or end at any time, so lengths
// are checked, waits can be cancelled, and its end is ERR_RETRY.
//
// Streams come from a Unix socket or from the caller, who has made them private; nothing
// here says who the peer is but the name that it is given.
#include "disk/disk.h"

#include <errno.h>
#include <inttypes.h>
#include <libnbd.h>
#include <pthread.h>

#define REQUEST_MAX (2 * MIB) // larger ones are split: servers copy them into one buffer
#define STATUS_MAX (2 * GIB)  // block status: lengths are 32 bits on the wire
#define TICK_MS 500           // how late a cancellation is noticed
#define GRACE_MS 10000        // how long a write may go on then
#define HANDSHAKE_MS 30000
#define ALLOCATION "base:allocation"

struct nbd {
    struct disk disk;
    char *socket; // NULL: streams come from connect()
    char *peer;   // what messages call the server
    char *export_name, *meta_context;
    int (*connect)(void *context, int *ret_fd, struct err *e);
    unsigned (*worth)(void *context); // NULL: n_max
    void *context;
    uint64_t request_min, request_max;
    bool has_context, has_zero, has_flush;
    // The mutex guards what follows.
    pthread_mutex_t mutex;
    pthread_cond_t freed;
    struct nbd_handle **idle;
    unsigned n_idle, n_open, n_max;
};
_Static_assert(offsetof(struct nbd, disk) == 0, "cast from struct disk");

static void handle_free(struct nbd_handle *h)
{
    if (h != NULL)
        nbd_close(h);
}
DEFINE_AUTO(handle_free, struct nbd_handle *)

static int nbd_failed(struct nbd *n, struct nbd_handle *h, const char *what,
                      struct err *e)
{
    int errnum = nbd_get_errno();
    const char *text = nbd_get_error();
    if (errnum == ENOSPC || errnum == EDQUOT)
        return err_errno(e, errnum, "%s", what);
    if (h == NULL || nbd_aio_is_dead(h) == 1 || nbd_aio_is_closed(h) == 1)
        return err_set(e, ERR_RETRY, "%s: the NBD server at %s went away (%s)", what,
                       n->peer, text != NULL ? text : "no reason given");
    return err_set(e, errnum == EAGAIN || errnum == EINTR ? ERR_RETRY : ERR_FAILED,
                   "%s: the NBD server says: %s", what,
                   errnum != 0 ? strerror(errnum) : text);
}

static int connect_failed(struct nbd *n, struct err *e)
{
    // The export that is asked for is not there, or not for us: no later call helps. On a
    // Unix socket it is the socket that may not be there yet.
    int errnum = nbd_get_errno();
    bool refused = n->socket == NULL && (errnum == ENOENT || errnum == EPERM);
    return err_set(e, refused ? ERR_REFUSED : ERR_RETRY,
                   "connect to the NBD server at %s: %s", n->peer, nbd_get_error());
}

// Polls until the handshake is over; a server may as well never answer.
static int nbd_handshake(struct nbd *n, struct nbd_handle *h, struct err *e)
{
    uint64_t start = clock_ms();
    while (nbd_aio_is_connecting(h) == 1) {
        if (cancel_check(e) < 0)
            return -1;
        if (clock_ms() - start > HANDSHAKE_MS)
            return err_set(e, ERR_RETRY, "the NBD server at %s does not answer", n->peer);
        if (nbd_poll(h, TICK_MS) < 0)
            return connect_failed(n, e);
    }
    return nbd_aio_is_ready(h) == 1 ? 0 : connect_failed(n, e);
}

static int nbd_reach(struct nbd *n, struct nbd_handle *h, struct err *e)
{
    if (n->socket != NULL)
        return nbd_aio_connect_unix(h, n->socket) < 0 ? connect_failed(n, e) : 0;
    int fd;
    if (n->connect(n->context, &fd, e) < 0)
        return -1;
    return nbd_aio_connect_socket(h, fd) < 0 ? connect_failed(n, e) : 0; // takes fd
}

static int nbd_connect_one(struct nbd *n, struct nbd_handle **ret, struct err *e)
{
    AUTO(handle_free) struct nbd_handle *h = nbd_create();
    if (h == NULL)
        return err_set(e, ERR_FAILED, "connect: %s", nbd_get_error());
    if (nbd_set_export_name(h, n->export_name) < 0 ||
        nbd_add_meta_context(h, n->meta_context) < 0)
        return err_set(e, ERR_FAILED, "connect: %s", nbd_get_error());
    if (nbd_reach(n, h, e) < 0 || nbd_handshake(n, h, e) < 0)
        return -1;
    int64_t size = nbd_get_size(h);
    if (size < 0 || (n->disk.size != 0 && (uint64_t)size != n->disk.size))
        return err_set(e, ERR_FAILED, "the NBD server at %s changed the disk's size",
                       n->peer);
    if (strcmp(n->meta_context, ALLOCATION) != 0 &&
        nbd_can_meta_context(h, n->meta_context) != 1)
        return err_set(e, ERR_REFUSED, "the NBD server at %s has no \"%s\"", n->peer,
                       n->meta_context);
    *ret = steal(h);
    return 0;
}

static bool nbd_may_take(const struct nbd *n)
{
    unsigned n_used = n->n_open - n->n_idle;
    return n_used < n->n_max && (!n->worth || n_used < n->worth(n->context));
}

// A connection for one request; waits for one when all are in use.
static int nbd_take(struct nbd *n, struct nbd_handle **ret, struct err *e)
{
    pthread_mutex_lock(&n->mutex);
    while (!nbd_may_take(n))
        pthread_cond_wait(&n->freed, &n->mutex);
    pthread_cond_signal(&n->freed); // more may be worth it than when the next one looked
    if (n->n_idle > 0) {
        *ret = n->idle[--n->n_idle];
        pthread_mutex_unlock(&n->mutex);
        return 0;
    }
    n->n_open++;
    pthread_mutex_unlock(&n->mutex);
    if (nbd_connect_one(n, ret, e) == 0)
        return 0;
    pthread_mutex_lock(&n->mutex);
    n->n_open--;
    pthread_cond_signal(&n->freed);
    pthread_mutex_unlock(&n->mutex);
    return -1;
}

// `reusable`: no request is left in flight on it.
static void nbd_give_back(struct nbd *n, struct nbd_handle *h, bool reusable)
{
    reusable = reusable && nbd_aio_is_ready(h) == 1;
    if (!reusable)
        nbd_close(h);
    pthread_mutex_lock(&n->mutex);
    if (reusable)
        n->idle[n->n_idle++] = h;
    else
        n->n_open--;
    pthread_cond_signal(&n->freed);
    pthread_mutex_unlock(&n->mutex);
}

// Until command `cookie` (-1: it could not even be sent) has ended. What only reads is
// dropped when cancelled, with its connection; what changes the disk is waited for a
// while, so that a flush can follow and nothing has to be sent again.
static int nbd_finish(struct nbd *n, struct nbd_handle *h, int64_t cookie,
                      const char *what, bool changes, bool *ret_idle, struct err *e)
{
    uint64_t cancelled_ms = 0;
    *ret_idle = true;
    if (cookie < 0)
        return nbd_failed(n, h, what, e);
    for (;;) {
        int done = nbd_aio_command_completed(h, (uint64_t)cookie);
        if (done > 0)
            return 0;
        if (done < 0 || nbd_poll(h, TICK_MS) < 0)
            return nbd_failed(n, h, what, e);
        if (!cancel_requested())
            continue;
        cancelled_ms = cancelled_ms == 0 ? clock_ms() : cancelled_ms;
        if (!changes || clock_ms() - cancelled_ms >= GRACE_MS) {
            *ret_idle = false;
            return cancel_check(e);
        }
    }
}

enum nbd_kind { NBD_READ, NBD_WRITE, NBD_ZERO, NBD_FLUSH, NBD_STATUS };
struct request {
    enum nbd_kind kind;
    void *in;
    const void *out;
    uint64_t off, len;
    bool punch;
    nbd_extent_callback status;
};

static int64_t request_send(struct nbd_handle *h, const struct request *r)
{
    switch (r->kind) {
    case NBD_READ:
        return nbd_aio_pread(h, r->in, (size_t)r->len, r->off, NBD_NULL_COMPLETION, 0);
    case NBD_WRITE:
        return nbd_aio_pwrite(h, r->out, (size_t)r->len, r->off, NBD_NULL_COMPLETION, 0);
    case NBD_ZERO:
        return nbd_aio_zero(h, r->len, r->off, NBD_NULL_COMPLETION,
                            r->punch ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
    case NBD_FLUSH:
        return nbd_aio_flush(h, NBD_NULL_COMPLETION, 0);
    case NBD_STATUS:
        return nbd_aio_block_status(h, r->len, r->off, r->status, NBD_NULL_COMPLETION, 0);
    }
    return -1;
}

static int request_run(struct nbd *n, const struct request *r, struct err *e)
{
    static const char *const names[] = {[NBD_READ] = "read",
                                        [NBD_WRITE] = "write",
                                        [NBD_ZERO] = "zero",
                                        [NBD_FLUSH] = "flush",
                                        [NBD_STATUS] = "block status"};
    struct nbd_handle *h = NULL;
    if (nbd_take(n, &h, e) < 0)
        return -1;
    char what[96];
    snprintf(what, sizeof(what), "%s of %" PRIu64 " bytes at %" PRIu64, names[r->kind],
             r->len, r->off);
    bool idle, changes = r->kind != NBD_READ && r->kind != NBD_STATUS;
    int result = nbd_finish(n, h, request_send(h, r), what, changes, &idle, e);
    nbd_give_back(n, h, idle);
    return result;
}

// The aligned range around a request that the server's smallest block does not divide.
static int nbd_read_around(struct nbd *n, uint8_t *buf, uint64_t len, uint64_t off,
                           struct err *e)
{
    uint64_t start = round_down(off, n->request_min);
    uint64_t end = min_u64(round_up(off + len, n->request_min), n->disk.size);
    AUTO(free) void *bounce = alloc_aligned((size_t)(end - start));
    if (bounce == NULL)
        return err_set(e, ERR_RETRY, "read: out of memory");
    struct request r = {.kind = NBD_READ, .in = bounce, .off = start, .len = end - start};
    if (request_run(n, &r, e) < 0)
        return -1;
    memcpy(buf, (uint8_t *)bounce + (off - start), (size_t)len);
    return 0;
}

static int nbd_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct nbd *n = (struct nbd *)d;
    for (uint64_t done = 0, part; done < len; done += part) {
        uint64_t at = off + done;
        part = min_u64(len - done, n->request_max - at % n->request_min);
        struct request r = {
            .kind = NBD_READ, .in = (uint8_t *)buf + done, .off = at, .len = part};
        bool aligned = at % n->request_min == 0 && part % n->request_min == 0;
        if ((aligned ? request_run(n, &r, e)
                     : nbd_read_around(n, (uint8_t *)buf + done, part, at, e)) < 0)
            return -1;
    }
    return 0;
}

// Whole blocks only: a server with blocks larger than a caller's writes is refused when
// it is opened for writing.
static int nbd_write(struct disk *d, const void *buf, size_t len, uint64_t off,
                     struct err *e)
{
    struct nbd *n = (struct nbd *)d;
    for (uint64_t done = 0, part; done < len; done += part) {
        part = min_u64(len - done, n->request_max);
        struct request r = {.kind = NBD_WRITE,
                            .out = (const uint8_t *)buf + done,
                            .off = off + done,
                            .len = part};
        if (request_run(n, &r, e) < 0)
            return -1;
    }
    return 0;
}

static int nbd_zero_range(struct disk *d, uint64_t off, uint64_t len, bool punch,
                          struct err *e)
{
    struct nbd *n = (struct nbd *)d;
    if (!n->has_zero)
        return disk_write_zeros(d, off, len, e);
    for (uint64_t done = 0, part; done < len; done += part) {
        part = min_u64(len - done, GIB);
        struct request r = {
            .kind = NBD_ZERO, .off = off + done, .len = part, .punch = punch};
        if (request_run(n, &r, e) < 0)
            return -1;
    }
    return 0;
}

static int nbd_flush_all(struct disk *d, struct err *e)
{
    struct nbd *n = (struct nbd *)d;
    struct request r = {.kind = NBD_FLUSH};
    return n->has_flush ? request_run(n, &r, e) : 0;
}

struct status {
    const char *meta_context;
    struct extents *out;
    uint64_t at, end;
};

static enum extent_kind kind_of(const char *meta_context, uint32_t flags)
{
    if (strcmp(meta_context, ALLOCATION) != 0)
        return flags != 0 ? EXTENT_DATA : EXTENT_HOLE;
    return (flags & LIBNBD_STATE_ZERO) == 0   ? EXTENT_DATA
           : (flags & LIBNBD_STATE_HOLE) != 0 ? EXTENT_HOLE
                                              : EXTENT_ZERO;
}

// Runs while the connection is polled. The list is the server's: it may pass the range
// that was asked for, and an entry may be empty.
static int status_entries(void *context, const char *metacontext, uint64_t offset,
                          uint32_t *entries, size_t n_entries, int *error)
{
    struct status *s = context;
    (void)error;
    if (strcmp(metacontext, s->meta_context) != 0 || offset != s->at)
        return 0;
    for (size_t i = 0; i + 1 < n_entries && s->at < s->end; i += 2) {
        uint64_t len = min_u64(entries[i], s->end - s->at);
        enum extent_kind kind = kind_of(s->meta_context, entries[i + 1]);
        extents_append(s->out, s->at, len, kind);
        s->at += len;
    }
    return 0;
}

static int nbd_extents(struct disk *d, uint64_t off, uint64_t len, struct extents *out,
                       uint64_t *ret_done, struct err *e)
{
    struct nbd *n = (struct nbd *)d;
    uint64_t start = round_down(off, n->request_min);
    uint64_t ask = min_u64(round_up(off + len, n->request_min), n->disk.size) - start;
    ask = min_u64(ask, STATUS_MAX);
    if (!n->has_context) {
        extents_append(out, off, len, EXTENT_DATA);
        *ret_done = len;
        return 0;
    }
    AUTO(extents_done) struct extents got = {0};
    struct status s = {
        .meta_context = n->meta_context, .out = &got, .at = start, .end = start + ask};
    struct request r = {.kind = NBD_STATUS,
                        .off = start,
                        .len = ask,
                        .status = {.callback = status_entries, .user_data = &s}};
    if (request_run(n, &r, e) < 0)
        return -1;
    uint64_t end = min_u64(s.at, off + len);
    if (end <= off)
        return err_set(e, ERR_FAILED,
                       "the NBD server's block status at %" PRIu64 " describes nothing",
                       off);
    for (size_t i = 0; i < got.n; i++) {
        uint64_t from = max_u64(got.v[i].off, off);
        uint64_t to = min_u64(got.v[i].off + got.v[i].len, end);
        if (from < to)
            extents_append(out, from, to - from, got.v[i].kind);
    }
    *ret_done = end - off;
    return 0;
}

static void nbd_close_all(struct disk *d)
{
    struct nbd *n = (struct nbd *)d;
    for (unsigned i = 0; i < n->n_idle; i++)
        nbd_close(n->idle[i]); // no shutdown message: the server must not be waited for
    pthread_cond_destroy(&n->freed);
    pthread_mutex_destroy(&n->mutex);
    free(n->idle);
    free(n->socket);
    free(n->peer);
    free(n->export_name);
    free(n->meta_context);
    free(n->disk.name);
    free(n);
}

static const struct disk_ops nbd_ops_ro = {
    .type = "nbd",
    .read = nbd_read,
    .extents = nbd_extents,
    .close = nbd_close_all,
};
static const struct disk_ops nbd_ops_rw = {
    .type = "nbd",
    .read = nbd_read,
    .write = nbd_write,
    .zero = nbd_zero_range,
    .flush = nbd_flush_all,
    .extents = nbd_extents,
    .close = nbd_close_all,
};

static int nbd_learn(struct nbd *n, struct nbd_handle *h, bool writable, struct err *e)
{
    int64_t minimum = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
    int64_t maximum = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);
    n->disk.size = (uint64_t)nbd_get_size(h);
    n->request_min = minimum > 0 ? (uint64_t)minimum : 1;
    n->request_max = maximum > 0 ? min_u64((uint64_t)maximum, REQUEST_MAX) : REQUEST_MAX;
    n->request_max = round_down(n->request_max, n->request_min);
    if (n->request_min > 64 * KIB || n->request_max == 0)
        return err_set(e, ERR_FAILED,
                       "the NBD server at %s wants blocks of %" PRIu64 " bytes", n->peer,
                       n->request_min);
    if (writable && (n->request_min > 512 || nbd_is_read_only(h) != 0))
        return err_set(e, ERR_FAILED, "the NBD server at %s cannot be written to%s",
                       n->peer,
                       n->request_min > 512 ? " in blocks of 512 bytes" : ": read-only");
    n->has_context = nbd_can_meta_context(h, n->meta_context) == 1;
    n->has_zero = nbd_can_zero(h) == 1;
    n->has_flush = nbd_can_flush(h) == 1;
    if (nbd_can_multi_conn(h) != 1)
        n->n_max = 1;
    n->disk.n_parallel = n->n_max;
    n->disk.alignment = (uint32_t)max_u64(n->request_min, 4096);
    return 0;
}

static void nbd_name(struct nbd *n, const struct nbd_options *o)
{
    const char *export = o->export_name != NULL ? o->export_name : "";
    n->export_name = xstrdup(export);
    n->meta_context = xstrdup(o->meta_context != NULL ? o->meta_context : ALLOCATION);
    n->connect = o->connect;
    n->worth = o->worth;
    n->context = o->context;
    n->socket = o->connect == NULL ? xstrdup(o->socket) : NULL;
    n->peer = xstrdup(o->connect == NULL ? o->socket : o->peer);
    n->disk.name = o->connect == NULL ? xasprintf("nbd+unix:%s", o->socket)
                                      : xasprintf("nbd:%s/%s", o->peer, export);
}

int nbd_open(const struct nbd_options *options, struct disk **ret, struct err *e)
{
    struct nbd *n = xcalloc(1, sizeof(*n));
    n->disk = (struct disk){
        .ops = options->writable ? &nbd_ops_rw : &nbd_ops_ro,
        .sector_size = 512,
    };
    nbd_name(n, options);
    n->n_max = options->connections > 0 ? options->connections : 4;
    n->idle = xcalloc(n->n_max, sizeof(struct nbd_handle *));
    pthread_mutex_init(&n->mutex, NULL);
    pthread_cond_init(&n->freed, NULL);
    AUTO(disk_close) struct disk *d = (struct disk *)n;
    AUTO(handle_free) struct nbd_handle *h = NULL;
    if (nbd_connect_one(n, &h, e) < 0 || nbd_learn(n, h, options->writable, e) < 0)
        return -1;
    n->idle[n->n_idle++] = steal(h);
    n->n_open = 1;
    while (options->connect_all && n->n_open < n->n_max) {
        if (nbd_connect_one(n, &h, e) < 0)
            return -1;
        n->idle[n->n_idle++] = steal(h);
        n->n_open++;
    }
    *ret = steal(d);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
// The thread of a wire: between the socket pair and TLS on the TCP socket, one poll loop.
//
//     plain ─► up ─► [frame] ─► SSL_write ─► out ─► send     TCP
//     plain ◄─ down ◄─ [unframe ◄─ in] ◄─ SSL_read ◄─ recv   TCP
//
// TLS writes into `out`, so that many records go by one call of the kernel and TLS never
// stops in the middle of one. Every queue is emptied before it is filled again.
//
// Ends. The caller shut its writing: all of it is sent, then close_notify. The caller
// closed: also what comes is thrown away until the peer ends as well, for a while: TCP
// would answer it with a reset, which may overtake what we sent. The peer's close_notify:
// the caller sees an end of file and may go on writing. TCP ended without close_notify,
// or broken: the caller's socket is closed, after it has got what had come.
#include "net/wire.h"

#include <errno.h>
#include <linux/sockios.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOK_MS 500 // how often the connection is looked at, when nothing moves
#define LINGER_MS 2000
#define LINGER_MAX_MS 30000
#define RECORD_MAX (16 * KIB)
#define RECORD_ROOM (RECORD_MAX + KIB) // with what TLS adds, and a few alerts
#define PIECE_MIN (2 * KIB)

static size_t waiting(const struct queue *q)
{
    return q->end - q->at;
}

static void take(struct queue *q, size_t len)
{
    q->at += len;
    if (q->at == q->end)
        q->at = q->end = 0;
}

// --- the TCP socket

// What may be moved before the rate is asked again: a sixteenth of a second's.
static uint64_t piece(const struct wire *w)
{
    return w->limit ? min_u64(max_u64(w->limit / 16, PIECE_MIN), WIRE_PIECE) : SIZE_MAX;
}

static uint64_t allowed(const struct wire *w)
{
    return piece(w) - min_u64(piece(w), w->used);
}

static void note_moved(struct wire *w, size_t n, _Atomic uint64_t *count)
{
    w->moved += n;
    w->used += n;
    *count += n;
}

static int bio_write(BIO *bio, const char *data, size_t len, size_t *ret_len)
{
    struct wire *w = BIO_get_data(bio);
    size_t room = w->out.size - w->out.end;
    BIO_clear_retry_flags(bio);
    if (room == 0) {
        BIO_set_retry_write(bio);
        return 0;
    }
    *ret_len = min_u64(len, room);
    memcpy(w->out.v + w->out.end, data, *ret_len);
    w->out.end += *ret_len;
    return 1;
}

static int bio_read(BIO *bio, char *data, size_t len, size_t *ret_len)
{
    struct wire *w = BIO_get_data(bio);
    size_t most = min_u64(len, allowed(w));
    BIO_clear_retry_flags(bio);
    ssize_t n = -1;
    errno = EAGAIN;
    if (most > 0)
        n = recv(w->tcp, data, most, MSG_DONTWAIT);
    if (n > 0) {
        note_moved(w, (size_t)n, &w->count->received);
        *ret_len = (size_t)n;
        return 1;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(bio);
    if (n == 0)
        errno = ECONNRESET; // for who tells why a handshake failed
    *ret_len = 0;
    return 0;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH; // nothing else is asked of it that matters
}

static BIO_METHOD *method;
static void make_method(void)
{
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wire");
    if (method && (BIO_meth_set_write_ex(method, bio_write) != 1 ||
                   BIO_meth_set_read_ex(method, bio_read) != 1 ||
                   BIO_meth_set_ctrl(method, bio_ctrl) != 1)) {
        BIO_meth_free(method);
        method = NULL;
    }
}

int relay_attach(struct wire *w, struct err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_method);
    BIO *bio = method ? BIO_new(method) : NULL;
    if (!bio)
        return pki_error(e, ERR_FAILED, "begin TLS");
    BIO_set_data(bio, w);
    BIO_set_init(bio, 1);
    SSL_set_bio(w->ssl, bio, bio);
    return 0;
}

bool relay_flush(struct wire *w)
{
    bool moved = false;
    while (waiting(&w->out) > 0) {
        size_t len = min_u64(waiting(&w->out), allowed(w));
        ssize_t n = len == 0 ? 0
                             : send(w->tcp, w->out.v + w->out.at, len,
                                    MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            w->out.at = w->out.end = 0;
            w->broken = true;
            return true;
        }
        if (n <= 0)
            break;
        note_moved(w, (size_t)n, &w->count->sent);
        take(&w->out, (size_t)n);
        moved = true;
    }
    if (waiting(&w->out) == 0)
        w->read_wants_out = false;
    return moved;
}

static uint64_t arrived(const struct wire *w) // and not yet read
{
    int n = 0;
    return ioctl(w->tcp, SIOCINQ, &n) == 0 && n > 0 ? (uint64_t)n : 0;
}

// What has crossed the network is paid for when it is seen, not when it is read. Returns
// for how much more is to be paid before the next piece is moved: what is read makes room
// for as much, which is on its way before anybody can see it.
static uint64_t settle(struct wire *w)
{
    uint64_t here = arrived(w), crossed = w->moved + here;
    if (crossed > w->paid) {
        rate_pay(w->rate, crossed - w->paid);
        w->paid = crossed;
    }
    uint64_t next = min_u64(here + waiting(&w->out), piece(w)), ahead = w->paid - crossed;
    if (next == 0 && ahead > 0 && w->used == 0) { // the peer had no more
        rate_refund(w->rate, ahead);
        w->paid = crossed;
    }
    return next - min_u64(next, ahead);
}

void relay_pay(struct wire *w)
{
    uint64_t limit = rate_lowest(w->rate), want, ns;
    if (limit != w->limit) {
        if (w->limit == 0)
            w->paid = w->moved + arrived(w);
        w->limit = limit;
        tcp_tune(w->tcp, limit);
    }
    if (limit == 0) {
        w->used = 0;
        return;
    }
    want = settle(w);
    if (w->used == 0)
        return;
    uint64_t start = clock_ns();
    while (!cancel_requested() && (ns = rate_take(w->rate, want)) > 0) {
        rate_sleep(ns);
        want = settle(w);
    }
    w->paid += want;
    w->used = 0;
    if (w->zip)
        zip_waited(w->zip, clock_ns() - start);
}

// --- up: plain to TLS

// One read of the plain end, framed if this wire has frames.
static bool fill_up(struct wire *w)
{
    struct err e;
    size_t head = w->zip ? FRAME_HEAD : 0;
    if (w->plain_ended)
        return false;
    ssize_t n = recv(w->plain, w->up.v + head, WIRE_PIECE - head, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        w->plain_ended = true;
        return true;
    }
    w->count->plain_sent += (uint64_t)n;
    w->up_data = w->up.v;
    w->up_len = (size_t)n;
    if (w->zip && zip_frame(w->zip, w->up.v, (size_t)n, &w->up_data, &w->up_len, &e) < 0)
        w->broken = true;
    return true;
}

static bool pump_up(struct wire *w)
{
    bool moved = false;
    if (w->up_len == 0)
        moved = fill_up(w);
    while (!w->broken && w->up_len > 0 && w->out.size - w->out.end >= RECORD_ROOM) {
        size_t done = 0;
        ERR_clear_error();
        if (SSL_write_ex(w->ssl, w->up_data, min_u64(w->up_len, RECORD_MAX), &done) !=
            1) {
            w->broken = true;
            return true;
        }
        w->up_data += done;
        w->up_len -= done;
        moved = true;
    }
    if (!w->broken && w->plain_ended && w->up_len == 0 && !w->said_bye &&
        w->out.size - w->out.end >= RECORD_ROOM) {
        ERR_clear_error();
        SSL_shutdown(w->ssl);
        w->said_bye = moved = true;
    }
    return moved;
}

// --- down: TLS to plain

// Reads until q is full or there is no more now.
static bool fill_from_tls(struct wire *w, struct queue *q)
{
    bool moved = false;
    while (q->end < q->size && !w->peer_ended && !w->broken) {
        size_t n = 0;
        ERR_clear_error();
        int result = SSL_read_ex(w->ssl, q->v + q->end, q->size - q->end, &n);
        if (result == 1) {
            q->end += n;
            moved = true;
            continue;
        }
        int why = SSL_get_error(w->ssl, result);
        if (why == SSL_ERROR_WANT_WRITE)
            w->read_wants_out = true;
        if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
            break;
        w->peer_ended = why == SSL_ERROR_ZERO_RETURN;
        w->broken = !w->peer_ended;
        moved = true;
    }
    return moved;
}

static bool fill_down(struct wire *w)
{
    if (!w->unzip)
        return fill_from_tls(w, &w->down);
    bool moved = waiting(&w->in) == 0 && fill_from_tls(w, &w->in);
    struct err e;
    const uint8_t *in = w->in.v + w->in.at;
    size_t len = waiting(&w->in), given = 0;
    if (unzip(w->unzip, &in, &len, w->down.v, w->down.size, &given, &e) < 0) {
        w->in.at = w->in.end = 0;
        w->broken = true;
        return true;
    }
    moved |= len != waiting(&w->in) || given > 0;
    take(&w->in, waiting(&w->in) - len);
    w->down.end = given;
    if (w->peer_ended && waiting(&w->in) == 0 && given == 0 && !unzip_between(w->unzip))
        w->broken = true;
    return moved;
}

static bool deliver(struct wire *w)
{
    bool moved = false;
    while (waiting(&w->down) > 0) {
        ssize_t n = (ssize_t)waiting(&w->down);
        if (!w->plain_gone)
            n = send(w->plain, w->down.v + w->down.at, (size_t)n,
                     MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        moved = true;
        if (n < 0) { // the caller reads no more: the rest is thrown away
            w->plain_gone = true;
            continue;
        }
        if (!w->plain_gone)
            w->count->plain_received += (uint64_t)n;
        take(&w->down, (size_t)n);
    }
    return moved;
}

static bool pump_down(struct wire *w)
{
    bool moved = waiting(&w->down) == 0 && fill_down(w);
    moved |= deliver(w);
    if (!moved && w->peer_ended && !w->broken && !w->peer_ended_told &&
        waiting(&w->down) == 0) {
        shutdown(w->plain, SHUT_WR);
        w->peer_ended_told = true;
    }
    return moved;
}

// --- ends

static bool is_done(struct wire *w)
{
    if (w->broken)
        return waiting(&w->down) == 0 && waiting(&w->in) == 0;
    if (!w->said_bye || waiting(&w->out) > 0)
        return false;
    if (w->peer_ended)
        return w->peer_ended_told || w->plain_gone;
    if (!w->plain_gone)
        return false;
    uint64_t now = clock_ms();
    if (w->linger_ms == 0) {
        shutdown(w->tcp, SHUT_WR);
        w->linger_ms = now;
    }
    int queued = 0;
    bool sent = ioctl(w->tcp, SIOCOUTQ, &queued) < 0 || queued == 0;
    return now - w->linger_ms > (sent ? LINGER_MS : LINGER_MAX_MS);
}

static struct pollfd plain_events(const struct wire *w)
{
    struct pollfd p = {.fd = w->plain};
    if (!w->plain_ended && w->up_len == 0 && !w->broken)
        p.events |= POLLIN;
    if (waiting(&w->down) > 0)
        p.events |= POLLOUT;
    // Without any event it still tells when the caller has closed, but over and over.
    if (p.events == 0 && w->plain_gone)
        p.fd = -1;
    return p;
}

static struct pollfd tcp_events(const struct wire *w)
{
    struct pollfd p = {.fd = w->broken || w->tcp_over ? -1 : w->tcp};
    if (!w->peer_ended && !w->read_wants_out && waiting(&w->down) == 0)
        p.events |= POLLIN;
    if (waiting(&w->out) > 0)
        p.events |= POLLOUT;
    return p;
}

static void wait_for_more(struct wire *w)
{
    struct pollfd fds[3] = {
        plain_events(w), tcp_events(w), {.fd = cancel_fd(), .events = POLLIN}};
    bool blocked = w->zip && waiting(&w->out) > 0 && !(fds[0].events & POLLIN);
    uint64_t start = blocked ? clock_ns() : 0;
    int n = poll(fds, ARRAY_LEN(fds), w->linger_ms ? LINGER_MS / 20 : LOOK_MS);
    if (blocked)
        zip_waited(w->zip, clock_ns() - start);
    if (n > 0 && fds[0].revents & (POLLHUP | POLLERR | POLLNVAL))
        w->plain_gone = true;
    // A reset. Who is about to read finds it; behind what waits there may be more to
    // read.
    if (n > 0 && fds[1].revents & (POLLHUP | POLLERR | POLLNVAL)) {
        w->tcp_over = true;
        w->broken = w->broken || (waiting(&w->down) == 0 && !(fds[1].events & POLLIN));
    }
    if (n == 0 && !tcp_alive(w->tcp))
        w->broken = true;
}

void relay_run(struct wire *w)
{
    while (!is_done(w) && !cancel_requested() && !wires_must_end) {
        if (w->broken && !w->plain_ended) { // who writes must not wait for ever
            shutdown(w->plain, SHUT_RD);
            w->plain_ended = true;
        }
        bool moved = !w->broken && pump_up(w);
        moved |= !w->broken && relay_flush(w);
        moved |= pump_down(w);
        moved |= w->used > 0;
        relay_pay(w);
        if (!moved)
            wait_for_more(w);
    }
}

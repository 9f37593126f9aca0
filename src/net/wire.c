// SPDX-License-Identifier: Apache-2.0
// Wires: the handshake in the caller's thread, then a thread that relays (relay.c). The
// threads belong to nobody: each ends by itself when both of its ends have, and
// wire_drain waits for them.
#include "net/wire.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STACK_SIZE (512 * KIB) // the agent locks its memory, stacks too
#define REFUSAL_MS 250         // for the peer to fetch the reason before we close

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // for the next two
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static unsigned n_wires;
_Atomic bool wires_must_end;

static void wire_free(struct wire *w)
{
    if (!w)
        return;
    SSL_free(w->ssl);
    fd_close(w->tcp);
    fd_close(w->plain);
    zip_free(w->zip);
    unzip_free(w->unzip);
    free(w->up.v);
    free(w->out.v);
    free(w->in.v);
    free(w->down.v);
    free(w);
}
DEFINE_AUTO(wire_free, struct wire *)

// --- the handshake

static int list_alpn(const char *const *names, struct tls_check *check, struct err *e)
{
    for (; names && *names; names++) {
        size_t len = strlen(*names);
        if (len == 0 || len >= sizeof(((struct wire_peer *)0)->alpn) ||
            check->alpn_len + 1 + len > sizeof(check->alpn))
            return err_set(e, ERR_FAILED, "\"%s\" is no protocol of a wire", *names);
        check->alpn[check->alpn_len++] = (uint8_t)len;
        memcpy(check->alpn + check->alpn_len, *names, len);
        check->alpn_len += (unsigned)len;
    }
    return 0;
}

static int wait_tcp(struct wire *w, bool writing, uint64_t deadline, struct err *e)
{
    if (cancel_check(e) < 0)
        return -1;
    uint64_t now = clock_ms(), left = deadline > now ? deadline - now : 0;
    struct pollfd fds[2] = {
        {.fd = w->tcp, .events = (short)(POLLIN | (writing ? POLLOUT : 0))},
        {.fd = cancel_fd(), .events = POLLIN}};
    int n = left ? poll(fds, 2, (int)min_u64(left, INT_MAX)) : 0;
    if (n < 0 && errno != EINTR)
        return err_errno(e, errno, "wait for the peer");
    return left == 0 ? err_set(e, ERR_RETRY, "the peer did not agree on TLS in time") : 0;
}

// The next step of TLS: agreeing, then, as a client, waiting for the server's word.
// 1: done.
static int step(struct wire *w, bool server)
{
    ERR_clear_error();
    int result = SSL_do_handshake(w->ssl);
    if (result == 1 && !server && !w->check.accepted) {
        char byte;
        size_t n;
        result = SSL_peek_ex(w->ssl, &byte, 1, &n);
        if (w->check.accepted)
            result = 1;
    }
    return result;
}

static int shake_hands(struct wire *w, bool server, uint64_t timeout_ms, struct err *e)
{
    uint64_t deadline;
    if (!add_fits(clock_ms(), timeout_ms, &deadline))
        deadline = UINT64_MAX;
    for (;;) {
        errno = 0;
        int result = step(w, server);
        int errnum = errno, why = SSL_get_error(w->ssl, result);
        relay_flush(w);
        relay_pay(w);
        if (result == 1 && w->out.end == 0)
            return 0;
        if (result != 1 && why == SSL_ERROR_SYSCALL)
            return err_set(e, ERR_RETRY, "the peer closed while TLS was agreed on: %s",
                           strerror(errnum));
        if (result != 1 && why == SSL_ERROR_ZERO_RETURN)
            return err_set(e, ERR_REFUSED, "the peer ended TLS as soon as it was agreed");
        if (result != 1 && why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
            return tls_handshake_error(&w->check, e);
        if (wait_tcp(w, w->out.end > 0, deadline, e) < 0)
            return -1;
    }
}

// What we said last has to arrive before our close, which would be a reset while there
// are bytes that we have not read.
static void part(struct wire *w)
{
    char piece[KIB];
    uint64_t deadline = clock_ms() + REFUSAL_MS;
    struct err e;
    relay_flush(w);
    shutdown(w->tcp, SHUT_WR);
    while (wait_tcp(w, false, deadline, &e) == 0) {
        ssize_t n = recv(w->tcp, piece, sizeof(piece), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            break;
    }
}

// --- the thread

static void *run(void *arg)
{
    relay_run(arg);
    wire_free(arg);
    pthread_mutex_lock(&lock);
    n_wires--;
    pthread_cond_broadcast(&ended);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static int start(struct wire *w, struct err *e)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    pthread_mutex_lock(&lock);
    n_wires++;
    pthread_mutex_unlock(&lock);
    sigfillset(&all); // signals are for threads that know what to do with them
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attr, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (error == 0)
        return 0;
    pthread_mutex_lock(&lock);
    n_wires--;
    pthread_mutex_unlock(&lock);
    return err_errno(e, error, "start a thread for a wire");
}

void wire_drain(uint64_t timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until); // whatever happens to the time of day
    timeout_ms = min_u64(timeout_ms, 365 * 86400 * UINT64_C(1000));
    until.tv_sec += (time_t)(timeout_ms / 1000);
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&lock);
    while (n_wires > 0 &&
           pthread_cond_clockwait(&ended, &lock, CLOCK_MONOTONIC, &until) == 0) {
    }
    wires_must_end = true;
    while (n_wires > 0)
        pthread_cond_wait(&ended, &lock);
    wires_must_end = false;
    pthread_mutex_unlock(&lock);
}

// --- opening

static void queue_init(struct queue *q, size_t size)
{
    *q = (struct queue){.v = xmalloc(size), .size = size};
}

static struct wire *wire_new(int tcp, const struct wire_options *o)
{
    struct wire *w = xcalloc(1, sizeof(*w));
    w->tcp = tcp;
    w->plain = -1;
    w->rate = o->rate;
    w->limit = rate_lowest(o->rate);
    w->count = o->count ? o->count : &w->own_count;
    w->check.pin = o->pin;
    tcp_tune(tcp, w->limit);
    // A piece and what its records add, and as much as TLS may want to say beside.
    queue_init(&w->out, WIRE_PIECE + 32 * KIB);
    return w;
}

static int make_ends(struct wire *w, const char *alpn, int *ret_fd, struct err *e)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return err_errno(e, errno, "make a socket pair");
    queue_init(&w->up, FRAME_HEAD + WIRE_PIECE);
    queue_init(&w->down, WIRE_PIECE);
    if (str_ends(alpn, "+zstd")) {
        w->zip = zip_new();
        w->unzip = unzip_new();
        queue_init(&w->in, WIRE_PIECE);
    }
    w->plain = fds[0];
    *ret_fd = fds[1];
    return 0;
}

int wire_open(int fd, const struct wire_options *options, struct wire_peer *ret_peer,
              int *ret_fd, struct err *e)
{
    AUTO(wire_free) struct wire *w = wire_new(fd, options);
    AUTO(fd_close) int caller = -1;
    struct wire_peer peer;
    if (list_alpn(options->alpn, &w->check, e) < 0 ||
        tls_session(options->tls, options->server, &w->check, &w->ssl, e) < 0 ||
        relay_attach(w, e) < 0)
        return -1;
    if (shake_hands(w, options->server, options->timeout_ms, e) < 0 ||
        tls_peer(w->ssl, &peer, e) < 0) {
        part(w);
        return -1;
    }
    w->check.pin = NULL; // the caller's
    tcp_peer(w->tcp, peer.address);
    if (make_ends(w, peer.alpn, &caller, e) < 0 || start(w, e) < 0)
        return -1;
    (void)steal(w);
    *ret_peer = peer;
    *ret_fd = steal_fd(&caller);
    return 0;
}

// --- proof

void wire_proof(const struct wire_peer *peer, const char *token, const char *who,
                char out[static PROOF_HEX])
{
    uint8_t data[sizeof(peer->exporter) + 64] = {0}, mac[32] = {0};
    size_t len = min_u64(strlen(who), 64);
    memcpy(data, peer->exporter, sizeof(peer->exporter));
    memcpy(data + sizeof(peer->exporter), who, len);
    pki_init();
    if (!HMAC(EVP_sha256(), token, (int)strlen(token), data, sizeof(peer->exporter) + len,
              mac, NULL))
        abort(); // a proof that everybody can make is none
    for (size_t i = 0; i < sizeof(mac); i++)
        (void)snprintf(out + 2 * i, 3, "%02x", mac[i]);
}

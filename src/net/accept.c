// SPDX-License-Identifier: Apache-2.0
// Whoever connects is greeted in a thread of its own, so that those who say nothing, or
// are strangers, keep nobody out. One more than VISITORS_MAX ends the oldest.
#include "net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define VISITORS_MAX 32
#define STACK_SIZE (512 * KIB) // as of wire.c

struct visitor {
    struct acceptor *at;
    struct greeting greeting;
    int tcp;    // to be greeted
    int own;    // the same socket by another number, for shutdown
    bool ended; // it was shut down
    bool done;  // its thread uses nothing of it any more
    int fd;     // when done: what is inside, -1: turned away
    struct err why;
};
struct acceptor {
    int listener, event;
    pthread_mutex_t lock;
    pthread_cond_t left;
    struct visitor *visitors[VISITORS_MAX]; // oldest first
    size_t n;
};

// --- one connection, of a visitor in its thread

static int greet(const struct greeting *g, int tcp /* taken */, int *ret_fd,
                 struct err *e)
{
    struct wire_peer peer;
    if (wire_open(tcp, &g->wire, &peer, ret_fd, e))
        return -1;
    if (!g->talk || !g->talk(g->context, *ret_fd, &peer, e))
        return 0;
    fd_close(steal_fd(ret_fd));
    return -1;
}

int greeting_dial(const char *address, const struct greeting *g, int *ret_fd,
                  struct err *e)
{
    int tcp;
    return tcp_connect(address, 0, g->wire.timeout_ms, &tcp, e) ||
                   greet(g, tcp, ret_fd, e)
               ? -1
               : 0;
}

static void *visit(void *arg)
{
    struct visitor *v = arg;
    struct acceptor *a = v->at;
    struct err why = {0};
    int fd = -1;
    if (greet(&v->greeting, steal_fd(&v->tcp), &fd, &why))
        fd = -1;
    pthread_mutex_lock(&a->lock);
    fd_close(steal_fd(&v->own));
    v->fd = fd;
    v->why = why;
    v->done = true;
    (void)!write(a->event, &(uint64_t){1}, sizeof(uint64_t)); // never full
    pthread_cond_broadcast(&a->left);
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

// --- all of them, under the lock

static void end_visitor(struct visitor *v)
{
    if (!v->done && !v->ended)
        shutdown(v->own, SHUT_RDWR);
    v->ended = true;
}

static void remove_visitor(struct acceptor *a, size_t i)
{
    struct visitor *v = a->visitors[i];
    fd_close(v->tcp);
    fd_close(v->own);
    fd_close(v->fd);
    free(v);
    a->n--;
    memmove(a->visitors + i, a->visitors + i + 1, (a->n - i) * sizeof(a->visitors[0]));
}

static bool same_greeting(const struct greeting *a, const struct greeting *b)
{
    return a->wire.alpn == b->wire.alpn && a->wire.rate == b->wire.rate;
}

// The first who was let in by this greeting, -1: none yet. Who was turned away, and who
// was let in for something else, has gone.
static int let_in(struct acceptor *a, const struct greeting *g, struct err *why)
{
    int fd = -1;
    for (size_t i = 0; i < a->n && fd < 0;) {
        struct visitor *v = a->visitors[i];
        if (!v->done) {
            i++;
            continue;
        }
        if (v->fd >= 0 && same_greeting(&v->greeting, g))
            fd = steal_fd(&v->fd);
        else if (v->fd < 0 && !v->ended)
            *why = v->why;
        remove_visitor(a, i);
    }
    return fd;
}

// Is there room, or has one to go first?
static bool has_room(struct acceptor *a)
{
    if (a->n < VISITORS_MAX)
        return true;
    end_visitor(a->visitors[0]);
    return false;
}

static void add_visitor(struct acceptor *a, int tcp /* taken */, const struct greeting *g)
{
    pthread_attr_t attr;
    pthread_t thread;
    struct visitor *v = xcalloc(1, sizeof(*v));
    *v = (struct visitor){.at = a,
                          .greeting = *g,
                          .tcp = tcp,
                          .own = fcntl(tcp, F_DUPFD_CLOEXEC, 0),
                          .fd = -1};
    a->visitors[a->n++] = v;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (v->own < 0 || pthread_create(&thread, &attr, visit, v))
        remove_visitor(a, a->n - 1);
    pthread_attr_destroy(&attr);
}

// --- for who waits

int acceptor_new(int listener, struct acceptor **ret, struct err *e)
{
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event < 0)
        return err_errno(e, errno, "waiting for connections");
    struct acceptor *a = xcalloc(1, sizeof(*a));
    a->listener = listener;
    a->event = event;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->left, NULL);
    *ret = a;
    return 0;
}

// Accepts who is there; whom it lets in.
static int look(struct acceptor *a, const struct greeting *g, bool ready, struct err *why)
{
    uint64_t ignored;
    (void)!read(a->event, &ignored, sizeof(ignored)); // before the list is looked at
    pthread_mutex_lock(&a->lock);
    int fd = let_in(a, g, why);
    if (fd < 0 && ready && has_room(a)) {
        int tcp = accept4(a->listener, NULL, NULL, SOCK_CLOEXEC);
        if (tcp >= 0)
            add_visitor(a, tcp, g);
    }
    pthread_mutex_unlock(&a->lock);
    return fd;
}

int acceptor_next(struct acceptor *a, const struct greeting *g, uint64_t timeout_ms,
                  int *ret_fd, struct err *e)
{
    uint64_t end, now;
    bool ready = false, full;
    struct err why = {0};
    if (!add_fits(clock_ms(), timeout_ms, &end))
        end = UINT64_MAX;
    for (;;) {
        int fd = look(a, g, ready, &why);
        if (fd >= 0) {
            *ret_fd = fd;
            return 0;
        }
        pthread_mutex_lock(&a->lock);
        full = a->n == VISITORS_MAX && a->visitors[0]->ended; // until it has gone
        pthread_mutex_unlock(&a->lock);
        struct pollfd p[] = {{.fd = full ? -1 : a->listener, .events = POLLIN},
                             {.fd = a->event, .events = POLLIN},
                             {.fd = cancel_fd(), .events = POLLIN}};
        now = clock_ms();
        int r = poll(p, ARRAY_LEN(p), now < end ? (int)min_u64(end - now, 3600000) : 0);
        if (cancel_check(e))
            return -1;
        if (r == 0 && clock_ms() >= end)
            return err_set(e, ERR_RETRY, "nobody came within %llu s%s%s",
                           (unsigned long long)(timeout_ms / 1000),
                           why.text[0] ? " who was let in: " : "", why.text);
        ready = r > 0 && p[0].revents;
    }
}

void acceptor_free(struct acceptor *a)
{
    if (!a)
        return;
    pthread_mutex_lock(&a->lock);
    while (a->n > 0) {
        for (size_t i = 0; i < a->n; i++)
            end_visitor(a->visitors[i]);
        if (a->visitors[0]->done)
            remove_visitor(a, 0);
        else
            pthread_cond_wait(&a->left, &a->lock);
    }
    pthread_mutex_unlock(&a->lock);
    fd_close(a->event);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->left);
    free(a);
}

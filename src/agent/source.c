// SPDX-License-Identifier: Apache-2.0
// Connections of the agent on a running server. It listens, or dials godwit and keeps one
// idle connection there; either way the agent is the server of what is spoken inside, and
// who was dialled chooses by ALPN what that is. A connection is a thread with a small
// stack: the agent's memory is locked while file systems are frozen.
#include "agent/source.h"

#include "agent/latency.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX (40 + STRANGERS_MAX)
#define PLAIN_MAX 16 // of them, on the port where TLS begins later
#define STACK ((size_t)256 * 1024)
#define HANDSHAKE_MS 10000
#define REDIAL_MS 1000
#define TICK_MS 200
#define LISTEN_TICK_MS 1000 // what came to its deadline is looked for
#define END_MS 2000
#define NICE 5 // of threads that read disks: the server's own work comes first
#define GODWIT_NAME "godwit" // in its certificate (pki_make)

static const char *const protocols[] = {"http/1.1", "nbd+zstd", "nbd", NULL};

struct connection {
    struct source *source;
    int fd;
    bool dialled, plain, control; // control: the idle one of an agent that dials
};

int source_new(const struct source_options *options, struct source **ret, struct err *e)
{
    AUTO(source_free) struct source *s = xcalloc(1, sizeof(*s));
    AUTO(str_free) char *key = path_join(options->dir, "agent.key");
    AUTO(str_free) char *cert = path_join(options->dir, "agent.pem");
    AUTO(str_free) char *ca = path_join(options->dir, "ca.pem");
    struct tls_options tls = {.key_path = key, .cert_path = cert, .ca_path = ca};
    s->o = options;
    s->listener = s->plain_listener = -1;
    pthread_mutex_init(&s->lock, NULL);
    if (gate_new(&s->gate, e) || config_read(options->dir, &s->config, e) ||
        tls_new(&tls, &s->tls, e) || dir_make(options->run_dir, 0700, e))
        return -1;
    *ret = steal(s);
    return 0;
}

void source_free(struct source *s)
{
    if (!s)
        return;
    if (s->tracking)
        tracking_stop(s->tracking, true);
    s->tracking = NULL;
    if (s->n_connections)
        return; // they still use it
    gate_free(s->gate);
    fd_close(s->listener);
    fd_close(s->plain_listener);
    tls_free(s->tls);
    config_done(&s->config);
    block_disks_done(&s->disks);
    free(s->tracked);
    if (s->used) {
        allocation_done(&s->used->allocation);
        free(s->used);
    }
    for (size_t i = 0; i < s->n_paces; i++) {
        free(s->paces[i].disk);
        pace_free(s->paces[i].pace);
    }
    free(s->owner);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

// --- one connection

static uint16_t address_of(const struct sockaddr_storage *a, char *text, size_t size)
{
    if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)a;
        inet_ntop(AF_INET6, &in6->sin6_addr, text, (socklen_t)size);
        return ntohs(in6->sin6_port);
    }
    const struct sockaddr_in *in = (const void *)a;
    inet_ntop(AF_INET, &in->sin_addr, text, (socklen_t)size);
    return ntohs(in->sin_port);
}

// Who is at the other end, and which port stays when everything else is cut off: the one
// that was listened on, so that further connections of the same peer get through.
static struct caller caller_of(const struct connection *c)
{
    struct sockaddr_storage peer = {0}, own = {0};
    socklen_t peer_len = sizeof(peer), own_len = sizeof(own);
    struct caller caller = {.source = c->source};
    (void)getpeername(c->fd, (struct sockaddr *)&peer, &peer_len); // gone: no address
    (void)getsockname(c->fd, (struct sockaddr *)&own, &own_len);
    uint16_t peer_port = address_of(&peer, caller.address, sizeof(caller.address));
    uint16_t own_port = address_of(&own, caller.own, sizeof(caller.own));
    if (c->dialled)
        caller.peer_port = peer_port;
    else
        caller.own_port = own_port;
    return caller;
}

static void give_way(int nice)
{
    (void)setpriority(PRIO_PROCESS, 0,
                      nice); // in Linux of this thread; not allowed: as it is
}

// Whoever opens connections and says nothing keeps nobody out: one too many ends the
// oldest stranger's. Returns the socket it is known by, -1: none.
static int stranger_add(struct source *s, int fd)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return -1;
    pthread_mutex_lock(&s->lock);
    if (s->n_strangers == STRANGERS_MAX) {
        shutdown(s->strangers[0], SHUT_RDWR);
        memmove(s->strangers, s->strangers + 1, --s->n_strangers * sizeof(int));
    }
    s->strangers[s->n_strangers++] = own;
    pthread_mutex_unlock(&s->lock);
    return own;
}

static void stranger_remove(struct source *s, int own)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n_strangers; i++) {
        if (s->strangers[i] != own)
            continue;
        memmove(s->strangers + i, s->strangers + i + 1,
                (--s->n_strangers - i) * sizeof(int));
        break;
    }
    pthread_mutex_unlock(&s->lock);
    fd_close(own);
}

static void serve_wire(struct connection *c, struct err *e)
{
    struct caller caller = caller_of(c);
    struct wire_peer peer;
    struct wire_options o = {.tls = c->source->tls,
                             .server = !c->dialled,
                             .alpn = protocols,
                             .timeout_ms = c->control ? UINT64_MAX : HANDSHAKE_MS};
    int fd, stranger = c->dialled ? -1 : stranger_add(c->source, c->fd);
    give_way(NICE); // so does the wire's thread
    int status = wire_open(steal_fd(&c->fd), &o, &peer, &fd, e);
    stranger_remove(c->source, stranger);
    if (status)
        return;
    // Other agents have certificates of the same authority.
    if (strcmp(peer.name, GODWIT_NAME) != 0) {
        (void)err_set(e, ERR_REFUSED, "%s is not godwit", peer.name); // always -1
        fd_close(fd);
        return;
    }
    if (strcmp(peer.alpn, "http/1.1") == 0) {
        give_way(0); // the freeze waits for these
        (void)calls_serve(fd, source_calls, n_source_calls, &caller, e); // told by e
        fd_close(fd);
        return;
    }
    struct serve_options exports = source_exports(c->source);
    latency_own();
    (void)serve_connection(fd, &exports, e);
}

static void serve_plain(struct connection *c, struct err *e)
{
    struct serve_options exports = source_exports(c->source);
    exports.tls = c->source->tls;
    exports.only_peer = GODWIT_NAME;
    give_way(NICE);
    latency_own();
    (void)serve_connection(steal_fd(&c->fd), &exports, e); // told by e
}

static bool connection_begin(struct source *s, bool plain)
{
    pthread_mutex_lock(&s->lock);
    bool fits = s->n_connections < CONNECTIONS_MAX && (!plain || s->n_plain < PLAIN_MAX);
    s->n_connections += fits;
    s->n_plain += fits && plain;
    pthread_mutex_unlock(&s->lock);
    return fits;
}

static void connection_end(struct source *s, bool plain)
{
    pthread_mutex_lock(&s->lock);
    s->n_connections--;
    s->n_plain -= plain;
    pthread_mutex_unlock(&s->lock);
}

static void *connection_run(void *argument)
{
    struct connection *c = argument;
    struct source *s = c->source;
    struct err e = {0};
    if (c->plain)
        serve_plain(c, &e);
    else
        serve_wire(c, &e);
    if (e.code && e.code != ERR_RETRY)
        log_line(LOG_WARN, "connection: %s", e.text);
    fd_close(c->fd);
    connection_end(s, c->plain);
    free(c);
    return NULL;
}

static int connection_start(struct source *s, struct connection from)
{
    pthread_attr_t attr;
    pthread_t thread;
    struct connection *c = xcalloc(1, sizeof(*c));
    *c = from;
    c->source = s;
    bool fits = connection_begin(s, c->plain);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int error = fits ? pthread_create(&thread, &attr, connection_run, c) : EAGAIN;
    pthread_attr_destroy(&attr);
    if (!error)
        return 0;
    log_line(LOG_WARN, "a connection was refused: %s", strerror(error));
    fd_close(c->fd);
    if (fits)
        connection_end(s, c->plain);
    free(c);
    return -1;
}

// --- the main thread

static void accept_one(struct source *s, int listener, bool plain)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return; // gone before we came
    tcp_tune(fd, 0);
    (void)connection_start(s, (struct connection){.fd = fd, .plain = plain});
}

static void look_after_gate(struct source *s)
{
    pthread_mutex_lock(&s->lock);
    gate_run(s);
    pthread_mutex_unlock(&s->lock);
}

// Not while a call is answered: that knows by itself, and the next tick comes.
static void look_after_deadline(struct source *s)
{
    if (pthread_mutex_trylock(&s->lock))
        return;
    quiesce_recover(s);
    pthread_mutex_unlock(&s->lock);
}

static int listen_loop(struct source *s, struct err *e)
{
    while (!cancel_requested()) {
        struct pollfd p[] = {{.fd = s->listener, .events = POLLIN},
                             {.fd = s->plain_listener, .events = POLLIN},
                             {.fd = gate_fd(s->gate), .events = POLLIN},
                             {.fd = cancel_fd(), .events = POLLIN}};
        if (poll(p, ARRAY_LEN(p), LISTEN_TICK_MS) < 0 && errno != EINTR)
            return err_errno(e, errno, "waiting for connections");
        if (p[0].revents)
            accept_one(s, s->listener, false);
        if (p[1].revents)
            accept_one(s, s->plain_listener, true);
        if (p[2].revents)
            look_after_gate(s);
        look_after_deadline(s);
    }
    return 0;
}

static int dial_one(struct source *s, bool control, struct err *e)
{
    int fd;
    if (tcp_connect(s->config.dial, 0, HANDSHAKE_MS, &fd, e)) {
        pthread_mutex_lock(&s->lock);
        gate_dialled_in_vain(s->gate);
        pthread_mutex_unlock(&s->lock);
        return -1;
    }
    tcp_tune(fd, 0);
    return connection_start(
        s, (struct connection){.fd = fd, .dialled = true, .control = control});
}

// One connection more than are in use is kept: godwit finds it when it wants something.
static int dial_loop(struct source *s, struct err *e)
{
    bool told = false;
    while (!cancel_requested()) {
        pthread_mutex_lock(&s->lock);
        bool control = s->n_connections == 0 && gate_may_dial(s->gate);
        bool asked = s->n_dials > 0;
        s->n_dials -= asked && !control;
        pthread_mutex_unlock(&s->lock);
        unsigned wait = control || asked ? 0 : TICK_MS;
        if (control || asked) {
            bool failed = dial_one(s, control, e) < 0;
            if (failed && !told)
                log_line(LOG_WARN, "%s; trying again every second", e->text);
            told = failed;
            wait = failed ? REDIAL_MS : 0;
        }
        struct pollfd p[] = {{.fd = cancel_fd(), .events = POLLIN},
                             {.fd = gate_fd(s->gate), .events = POLLIN}};
        (void)poll(p, ARRAY_LEN(p), (int)wait);
        if (p[1].revents)
            look_after_gate(s);
        look_after_deadline(s);
    }
    return 0;
}

// Connections notice the cancellation by themselves; one that is in the kernel for long
// keeps what it uses, and ends with the process.
static void end_connections(struct source *s)
{
    wire_drain(1000);
    for (unsigned i = 0; i < END_MS / 10; i++) {
        pthread_mutex_lock(&s->lock);
        bool none = s->n_connections == 0;
        pthread_mutex_unlock(&s->lock);
        if (none)
            return;
        usleep(10000);
    }
}

static int open_listeners(struct source *s, struct err *e)
{
    AUTO(str_free) char *address = NULL;
    AUTO(str_free) char *plain = NULL;
    if (s->config.listen && tcp_listen(s->config.listen, &s->listener, &address, e))
        return -1;
    if (s->config.plain && tcp_listen(s->config.plain, &s->plain_listener, &plain, e))
        return -1;
    if (address)
        log_line(LOG_INFO, "listening on %s", address);
    if (plain)
        log_line(LOG_INFO, "NBD with STARTTLS on %s", plain);
    return 0;
}

int source_run(struct source *s, struct err *e)
{
    struct err why;
    if (fence_apply(s->o->state_dir, &s->fence, e))
        log_line(LOG_ERROR, "%s", e->text); // fenced as far as it went: go on and say so
    memcpy(s->token, s->fence.token, sizeof(s->token));
    s->fenced = s->token[0] != '\0';
    if (s->fenced)
        source_guard(s, false);
    quiesce_recover(s);
    // A job that cannot go on is found out by its next call.
    if (source_recall(s, &why))
        log_line(LOG_WARN, "%s", why.text);
    if (open_listeners(s, e))
        return -1;
    int status = s->config.dial ? dial_loop(s, e) : listen_loop(s, e);
    end_connections(s);
    return status;
}

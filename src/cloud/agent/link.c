// SPDX-License-Identifier: Apache-2.0
// Connections to one agent: we dial it, or wait where it dials. One control connection,
// shared under a mutex; data connections as many as are asked for. The peer's key is
// pinned: another key under the same name is not our agent.
#include "cloud/agent/agent.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_MS 10000
#define DIALLED_MS 20000                   // until an agent that dials has come
#define CALL_MS (UINT64_C(15) * 60 * 1000) // reading what is in use of a large disk
#define AGAIN_MS 500
#define TELL_MS 2000
#define PROTOCOL 1

static const char *const control_alpn[] = {"http/1.1", NULL};
static const char *const data_alpn[] = {"nbd+zstd", "nbd", NULL};

struct link {
    char *name, *address; // address NULL: it dials us
    uint8_t pin[PIN_LEN];
    struct tls *tls;
    int listener;              // -1: none
    struct acceptor *acceptor; // of it
    struct rate *rate;
    struct wire_count count;
    pthread_mutex_t lock; // of the control connection
    struct http_stream control;
    bool connected;
};

// --- addresses

// Numeric, of a name.
static int resolve(const char *address, char **ret, struct err *e)
{
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address)
        return err_set(e, ERR_USAGE, "\"%s\" is not ADDRESS:PORT", address);
    size_t len = (size_t)(colon - address);
    bool brackets = address[0] == '[' && colon[-1] == ']';
    AUTO(str_free)
    char *host = xstrndup(address + brackets, len - 2 * (size_t)brackets);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int code = getaddrinfo(host, colon + 1, &hints, &list);
    if (code)
        return err_set(e, ERR_RETRY, "looking up %s: %s", address, gai_strerror(code));
    char numeric[128], port[16];
    code = getnameinfo(list->ai_addr, list->ai_addrlen, numeric, sizeof(numeric), port,
                       sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
    bool six = list->ai_family == AF_INET6;
    freeaddrinfo(list);
    if (code)
        return err_set(e, ERR_FAILED, "looking up %s: %s", address, gai_strerror(code));
    *ret = xasprintf(six ? "[%s]:%s" : "%s:%s", numeric, port);
    return 0;
}

// --- wires

static struct wire_options wire_of(struct link *l, const char *const *alpn)
{
    return (struct wire_options){.tls = l->tls,
                                 .server = l->acceptor != NULL,
                                 .alpn = alpn,
                                 .pin = l->pin,
                                 .rate = l->rate,
                                 .count = &l->count,
                                 .timeout_ms = CONNECT_MS};
}

static int dial(struct link *l, const char *const *alpn, int *ret_fd, struct err *e)
{
    AUTO(str_free) char *numeric = NULL;
    struct wire_options o = wire_of(l, alpn);
    struct wire_peer peer;
    int fd;
    if (resolve(l->address, &numeric, e) ||
        tcp_connect(numeric, rate_lowest(l->rate), CONNECT_MS, &fd, e) ||
        wire_open(fd, &o, &peer, ret_fd, e))
        return err_wrap(e, "agent %s at %s", l->name, l->address);
    return 0;
}

// The next that comes and is our agent; others are turned away.
static int wait_for(struct link *l, const char *const *alpn, int *ret_fd, struct err *e)
{
    struct greeting g = {.wire = wire_of(l, alpn)};
    tcp_expect(l->listener, rate_lowest(l->rate));
    if (!acceptor_next(l->acceptor, &g, DIALLED_MS, ret_fd, e))
        return 0;
    return err_wrap(e, "waiting for agent %s to dial", l->name);
}

static void disconnect(struct link *l)
{
    if (!l->connected)
        return;
    fd_close(l->control.fd);
    http_stream_done(&l->control);
    l->connected = false;
}

static int check_protocol(struct link *l, const json_t *hello, struct err *e)
{
    json_int_t theirs = json_integer_value(json_object_get(hello, "protocol"));
    const char *version = json_string_value(json_object_get(hello, "agent"));
    if (theirs == PROTOCOL)
        return 0;
    return err_set(e, ERR_REFUSED,
                   "agent %s is version %s and speaks protocol %lld, this godwit %d: "
                   "upgrade %s",
                   l->name, version ? version : "unknown", (long long)theirs, PROTOCOL,
                   theirs < PROTOCOL ? "the agent" : "godwit");
}

static int connect_control(struct link *l, struct err *e)
{
    int fd;
    AUTO(json_free) json_t *hello = NULL;
    if (l->connected)
        return 0;
    if (l->address ? dial(l, control_alpn, &fd, e) : wait_for(l, control_alpn, &fd, e))
        return -1;
    http_stream_init(&l->control, fd);
    l->connected = true;
    if (!http_call(&l->control, "GET", "/v1/hello", NULL, CONNECT_MS, &hello, e) &&
        !check_protocol(l, hello, e))
        return 0;
    disconnect(l);
    return -1;
}

// --- calls

// Once, when it has been a while. *ret_told: said already.
static void tell(const struct link *l, uint64_t since, uint64_t end, bool *ret_told,
                 const struct err *why)
{
    uint64_t now = clock_ms();
    if (*ret_told || now - since < TELL_MS || now >= end)
        return;
    *ret_told = true;
    log_line(LOG_INFO, "agent %s does not answer, trying again for %llu s: %s", l->name,
             (unsigned long long)((end - now + 999) / 1000), why->text);
}

// The stream is out of step after these; an agent's own error is an answer.
static int call_once(struct link *l, const char *method, const char *path,
                     const json_t *body, json_t **ret, bool *ret_answered, struct err *e)
{
    *ret_answered = false;
    if (connect_control(l, e))
        return -1;
    int status = http_call(&l->control, method, path, body, CALL_MS, ret, e);
    *ret_answered = status == 0 || (e->code != ERR_RETRY && e->code != ERR_CANCELLED);
    if (!*ret_answered)
        disconnect(l);
    return status;
}

int link_call(struct link *l, const char *method, const char *path, const json_t *body,
              uint64_t patience_ms, json_t **ret, struct err *e)
{
    uint64_t since = clock_ms(), end = since + patience_ms;
    bool answered, told = false;
    pthread_mutex_lock(&l->lock);
    int status = call_once(l, method, path, body, ret, &answered, e);
    while (status && !answered && e->code == ERR_RETRY && clock_ms() < end) {
        tell(l, since, end, &told, e);
        struct pollfd p = {.fd = cancel_fd(), .events = POLLIN};
        (void)poll(&p, 1, AGAIN_MS);
        status =
            cancel_check(e) ? -1 : call_once(l, method, path, body, ret, &answered, e);
    }
    pthread_mutex_unlock(&l->lock);
    return status;
}

int link_data(void *link, int *ret_fd, struct err *e)
{
    struct link *l = link;
    if (l->address)
        return dial(l, data_alpn, ret_fd, e);
    AUTO(json_free) json_t *one = json_pack("{s:i}", "n", 1);
    bool answered;
    pthread_mutex_lock(&l->lock); // so that no other takes what we asked for
    int status = call_once(l, "POST", "/v1/dial", one, NULL, &answered, e);
    if (!status)
        status = wait_for(l, data_alpn, ret_fd, e);
    pthread_mutex_unlock(&l->lock);
    return status;
}

unsigned link_worth(void *link)
{
    const struct link *l = link;
    return tcp_together(rate_lowest(l->rate));
}

// --- life

int link_open(const struct link_options *options, struct link **ret, struct err *e)
{
    const struct agent_row *row = options->row;
    AUTO(str_free) char *pki = path_join(options->state_dir, "pki");
    AUTO(str_free) char *key = path_join(pki, "own.key");
    AUTO(str_free) char *cert = path_join(pki, "own.pem");
    AUTO(str_free) char *ca = path_join(pki, "ca.pem");
    AUTO(str_free) char *bound = NULL;
    struct tls_options tls = {.key_path = key, .cert_path = cert, .ca_path = ca};
    AUTO(link_close) struct link *l = xcalloc(1, sizeof(*l));
    l->listener = -1;
    pthread_mutex_init(&l->lock, NULL);
    l->name = xstrdup(row->name);
    l->address = row->address ? xstrdup(row->address) : NULL;
    memcpy(l->pin, row->pin, PIN_LEN);
    if (tls_new(&tls, &l->tls, e) ||
        (!l->address && (tcp_listen(row->listen, &l->listener, &bound, e) ||
                         acceptor_new(l->listener, &l->acceptor, e))))
        return -1;
    *ret = steal(l);
    return 0;
}

void link_close(struct link *l)
{
    if (!l)
        return;
    disconnect(l);
    acceptor_free(l->acceptor);
    wire_drain(2000); // they count into us
    fd_close(l->listener);
    tls_free(l->tls);
    pthread_mutex_destroy(&l->lock);
    free(l->name);
    free(l->address);
    free(l);
}

void link_limit(struct link *l, struct rate *rate)
{
    pthread_mutex_lock(&l->lock);
    l->rate = rate;
    disconnect(l); // the next call opens it under the limit
    pthread_mutex_unlock(&l->lock);
}

uint64_t link_bytes(const struct link *l)
{
    return l->count.sent + l->count.received;
}

const char *link_name(const struct link *l)
{
    return l->name;
}

bool link_dials(const struct link *l)
{
    return l->address != NULL;
}

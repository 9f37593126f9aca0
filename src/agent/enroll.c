// SPDX-License-Identifier: Apache-2.0
// A certificate for a one-time token. TLS without certificates first; then each end
// proves that it holds the token over what only this connection's two ends know (its
// exporter), godwit before the agent, so that nobody in between learns or gains anything.
// The key is made here and never leaves.
#include "agent/source.h"

#include <pthread.h>

#define STEP_MS 30000
#define WAIT_MS (UINT64_C(30) * 60 * 1000) // for godwit to come, where we listen

struct enrolment {
    const char *dir, *token;
    const struct agent_config *config; // but for the name
    pthread_mutex_t lock;              // of several who come at once one is godwit
    bool done;
};
struct session { // with one of them
    struct enrolment *n;
    const struct wire_peer *peer;
    char *name; // once it has proven itself
    bool kept;
};

static const char *const protocols[] = {"godwit-enroll", NULL};

// In constant time: a guess must not be told how far it was right.
static bool same_proof(const char *a, const char *b)
{
    unsigned differ = strlen(a) != strlen(b);
    for (size_t i = 0; !differ && a[i]; i++)
        differ |= (unsigned char)(a[i] ^ b[i]);
    return !differ;
}

static int handle_prove(void *context, const json_t *request, json_t **ret, struct err *e)
{
    struct session *x = context;
    char wanted[PROOF_HEX], own[PROOF_HEX];
    const char *proof = json_string_value(json_object_get(request, "proof"));
    const char *name = json_string_value(json_object_get(request, "name"));
    AUTO(str_free) char *key = path_join(x->n->dir, "agent.key");
    AUTO(str_free) char *csr = NULL;
    wire_proof(x->peer, x->n->token, "godwit", wanted);
    if (!proof || !name || strlen(name) > 64 || !same_proof(proof, wanted))
        return err_set(e, ERR_REFUSED, "that is not the token of this enrolment");
    wire_proof(x->peer, x->n->token, "agent", own);
    if (dir_make(x->n->dir, 0700, e) || pki_request(key, name, &csr, e))
        return -1;
    free(x->name);
    x->name = xstrdup(name);
    *ret = json_pack("{s:s, s:s}", "proof", own, "request", csr);
    return 0;
}

static int handle_keep(void *context, const json_t *request, json_t **ret, struct err *e)
{
    struct session *x = context;
    const char *cert = json_string_value(json_object_get(request, "certificate"));
    const char *ca = json_string_value(json_object_get(request, "authority"));
    const char *dir = x->n->dir;
    AUTO(str_free) char *cert_path = path_join(dir, "agent.pem");
    AUTO(str_free) char *ca_path = path_join(dir, "ca.pem");
    AUTO(str_free) char *key_path = path_join(dir, "agent.key");
    AUTO(tls_free) struct tls *tls = NULL;
    struct agent_config config = *x->n->config;
    config.name = x->name;
    if (!x->name || !cert || !ca)
        return err_set(e, ERR_REFUSED, "a certificate comes after the token");
    struct tls_options check = {
        .key_path = key_path, .cert_path = cert_path, .ca_path = ca_path};
    if (file_write(ca_path, ca, strlen(ca), 0600, e) ||
        file_write(cert_path, cert, strlen(cert), 0600, e) || tls_new(&check, &tls, e) ||
        config_write(dir, &config, e))
        return -1;
    x->n->done = x->kept = true;
    *ret = json_object();
    return 0;
}

// One after the other: who has the token may have come twice.
static int in_turn(struct session *x,
                   int (*handle)(void *, const json_t *, json_t **, struct err *),
                   const json_t *request, json_t **ret, struct err *e)
{
    pthread_mutex_lock(&x->n->lock);
    int status = x->n->done
                     ? err_set(e, ERR_REFUSED, "the token of this enrolment is used up")
                     : handle(x, request, ret, e);
    pthread_mutex_unlock(&x->n->lock);
    return status;
}

static int prove_in_turn(void *x, const json_t *request, json_t **ret, struct err *e)
{
    return in_turn(x, handle_prove, request, ret, e);
}

static int keep_in_turn(void *x, const json_t *request, json_t **ret, struct err *e)
{
    return in_turn(x, handle_keep, request, ret, e);
}

static const struct call calls[] = {
    {{"POST", "/v1/prove", prove_in_turn}, NULL, NULL, NULL},
    {{"POST", "/v1/keep", keep_in_turn}, NULL, NULL, NULL},
};

static int talk(void *context, int fd, const struct wire_peer *peer, struct err *e)
{
    struct enrolment *n = context;
    struct session x = {.n = n, .peer = peer};
    int status = calls_serve(fd, calls, ARRAY_LEN(calls), &x, e);
    bool kept = x.kept;
    free(x.name);
    if (status || kept)
        return status;
    return err_set(e, ERR_REFUSED,
                   "the other end closed without a certificate: it did not prove the "
                   "token");
}

static int dial(const struct enrolment *n, const struct greeting *g, struct err *e)
{
    AUTO(fd_close) int fd = -1;
    return greeting_dial(n->config->dial, g, &fd, e);
}

static int wait_for_peer(const struct enrolment *n, const struct greeting *g,
                         struct err *e)
{
    AUTO(fd_close) int listener = -1;
    AUTO(fd_close) int fd = -1;
    AUTO(str_free) char *bound = NULL;
    AUTO(acceptor_free) struct acceptor *a = NULL;
    if (tcp_listen(n->config->listen, &listener, &bound, e) ||
        acceptor_new(listener, &a, e))
        return -1;
    log_line(LOG_INFO, "waiting for godwit on %s", bound);
    if (acceptor_next(a, g, WAIT_MS, &fd, e))
        return err_wrap(e, "waiting for godwit on %s", bound);
    return 0;
}

int enroll(const struct enroll_options *o, struct err *e)
{
    AUTO(tls_free) struct tls *tls = NULL;
    struct tls_options nobody = {0};
    struct agent_config config = {
        .listen = (char *)o->listen, .dial = (char *)o->dial, .plain = (char *)o->plain};
    if (tls_new(&nobody, &tls, e))
        return -1;
    struct enrolment n = {.dir = o->dir,
                          .token = o->token,
                          .config = &config,
                          .lock = PTHREAD_MUTEX_INITIALIZER};
    struct greeting g = {.wire = {.tls = tls,
                                  .server = o->listen != NULL,
                                  .alpn = protocols,
                                  .timeout_ms = STEP_MS},
                         .talk = talk,
                         .context = &n};
    int status = o->listen ? wait_for_peer(&n, &g, e) : dial(&n, &g, e);
    wire_drain(2000);
    return status;
}

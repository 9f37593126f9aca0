// SPDX-License-Identifier: Apache-2.0
// A certificate for a one-time token. TLS without certificates first; then each end
// proves that it holds the token over what only this connection's two ends know (its
// exporter), godwit before the agent, so that nobody in between learns or gains anything.
// The key is made here and never leaves.
#include "agent/source.h"

#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define STEP_MS 30000
#define WAIT_MS (UINT64_C(30) * 60 * 1000) // for godwit to come, where we listen

struct enrolment {
    const char *dir, *token;
    struct agent_config config;
    struct wire_peer peer;
    bool proven, done;
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
    struct enrolment *n = context;
    char wanted[PROOF_HEX], own[PROOF_HEX];
    const char *proof = json_string_value(json_object_get(request, "proof"));
    const char *name = json_string_value(json_object_get(request, "name"));
    AUTO(str_free) char *key = path_join(n->dir, "agent.key");
    AUTO(str_free) char *csr = NULL;
    wire_proof(&n->peer, n->token, "godwit", wanted);
    if (!proof || !name || strlen(name) > 64 || !same_proof(proof, wanted))
        return err_set(e, ERR_REFUSED, "that is not the token of this enrolment");
    wire_proof(&n->peer, n->token, "agent", own);
    if (dir_make(n->dir, 0700, e) || pki_request(key, name, &csr, e))
        return -1;
    free(n->config.name);
    n->config.name = xstrdup(name);
    n->proven = true;
    *ret = json_pack("{s:s, s:s}", "proof", own, "request", csr);
    return 0;
}

static int handle_keep(void *context, const json_t *request, json_t **ret, struct err *e)
{
    struct enrolment *n = context;
    const char *cert = json_string_value(json_object_get(request, "certificate"));
    const char *ca = json_string_value(json_object_get(request, "authority"));
    AUTO(str_free) char *cert_path = path_join(n->dir, "agent.pem");
    AUTO(str_free) char *ca_path = path_join(n->dir, "ca.pem");
    AUTO(str_free) char *key_path = path_join(n->dir, "agent.key");
    AUTO(tls_free) struct tls *tls = NULL;
    if (!n->proven || !cert || !ca)
        return err_set(e, ERR_REFUSED, "a certificate comes after the token");
    struct tls_options check = {
        .key_path = key_path, .cert_path = cert_path, .ca_path = ca_path};
    if (file_write(ca_path, ca, strlen(ca), 0600, e) ||
        file_write(cert_path, cert, strlen(cert), 0600, e) || tls_new(&check, &tls, e) ||
        config_write(n->dir, &n->config, e))
        return -1;
    n->done = true;
    *ret = json_object();
    return 0;
}

static const struct call calls[] = {
    {{"POST", "/v1/prove", handle_prove}, NULL, NULL, NULL},
    {{"POST", "/v1/keep", handle_keep}, NULL, NULL, NULL},
};

static int talk(struct enrolment *n, int fd /* taken */, bool server, struct err *e)
{
    AUTO(tls_free) struct tls *tls = NULL;
    AUTO(fd_close) int tcp = fd, plain = -1;
    struct tls_options nobody = {0};
    if (tls_new(&nobody, &tls, e))
        return -1;
    struct wire_options o = {
        .tls = tls, .server = server, .alpn = protocols, .timeout_ms = STEP_MS};
    if (wire_open(steal_fd(&tcp), &o, &n->peer, &plain, e) ||
        calls_serve(plain, calls, ARRAY_LEN(calls), n, e))
        return -1;
    if (!n->done)
        return err_set(e, ERR_REFUSED,
                       "the other end closed without a certificate: it "
                       "did not prove the token");
    return 0;
}

static int wait_for_peer(const char *address, int *ret_fd, struct err *e)
{
    AUTO(fd_close) int listener = -1;
    AUTO(str_free) char *bound = NULL;
    if (tcp_listen(address, &listener, &bound, e))
        return -1;
    log_line(LOG_INFO, "waiting for godwit on %s", bound);
    struct pollfd p[] = {{.fd = listener, .events = POLLIN},
                         {.fd = cancel_fd(), .events = POLLIN}};
    int r = poll(p, ARRAY_LEN(p), (int)WAIT_MS);
    if (cancel_check(e))
        return -1;
    if (r <= 0)
        return err_set(e, ERR_RETRY, "godwit did not come to %s", bound);
    *ret_fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    return *ret_fd < 0 ? err_set(e, ERR_RETRY, "the peer on %s went away", bound) : 0;
}

int enroll(const struct enroll_options *o, struct err *e)
{
    struct enrolment n = {.dir = o->dir,
                          .token = o->token,
                          .config = {.listen = o->listen ? xstrdup(o->listen) : NULL,
                                     .dial = o->dial ? xstrdup(o->dial) : NULL,
                                     .plain = o->plain ? xstrdup(o->plain) : NULL}};
    int fd, status;
    for (;;) {
        status = o->listen ? wait_for_peer(o->listen, &fd, e)
                           : tcp_connect(o->dial, 0, STEP_MS, &fd, e);
        bool reached = status == 0;
        if (reached)
            status = talk(&n, fd, o->listen != NULL, e);
        // Where we listen others may come first; godwit's own trouble ends with its call.
        if (!status || !o->listen || !reached || cancel_requested())
            break;
        log_line(LOG_WARN, "%s", e->text);
    }
    wire_drain(2000);
    config_done(&n.config);
    return status;
}

// SPDX-License-Identifier: Apache-2.0
// godwit's half of an enrolment: a one-time token proves both ends to each other over
// this very connection, then the agent's key is signed by our own authority.
#include "cloud/agent/agent.h"

#include <poll.h>
#include <pthread.h>
#include <sys/random.h>
#include <unistd.h>

#define STEP_MS 30000
#define AGAIN_MS 1000

static const char *const protocols[] = {"godwit-enroll", NULL};

void agent_token(char out[static AGENT_TOKEN_LEN + 1])
{
    static const char letters[] =
        "abcdefghjkmnpqrstuvwxyz23456789"; // none looks like another
    uint8_t random[AGENT_TOKEN_LEN];
    while (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        continue;
    for (size_t i = 0; i < AGENT_TOKEN_LEN; i++)
        out[i] = letters[random[i] % (sizeof(letters) - 1)];
    out[AGENT_TOKEN_LEN] = '\0';
}

static int prove(struct http_stream *s, const struct wire_peer *peer,
                 const struct agent_enrolment *n, json_t **ret, struct err *e)
{
    char own[PROOF_HEX], theirs[PROOF_HEX];
    wire_proof(peer, n->token, "godwit", own);
    wire_proof(peer, n->token, "agent", theirs);
    AUTO(json_free)
    json_t *ask = json_pack("{s:s, s:s}", "proof", own, "name", n->name);
    AUTO(json_free) json_t *reply = NULL;
    if (http_call(s, "POST", "/v1/prove", ask, STEP_MS, &reply, e))
        return -1;
    const char *proof = json_string_value(json_object_get(reply, "proof"));
    if (!proof || strcmp(proof, theirs) != 0)
        return err_set(e, ERR_REFUSED, "who came for %s does not have its token",
                       n->name);
    *ret = steal(reply);
    return 0;
}

// An enrolment under way. Of several who come at once only one is signed.
struct session {
    const struct agent_enrolment *n;
    pthread_mutex_t lock;
    bool done;
};

static int sign(struct http_stream *s, const struct agent_enrolment *n,
                const char *address, const json_t *reply, uint8_t ret_pin[static PIN_LEN],
                struct err *e)
{
    AUTO(str_free) char *pki = path_join(n->state_dir, "pki");
    AUTO(str_free) char *ca_path = path_join(pki, "ca.pem");
    AUTO(str_free) char *cert = NULL;
    AUTO(buf_done) struct buf ca = BUF_INIT(64 * KIB);
    AUTO(json_free) json_t *answer = NULL;
    const char *csr = json_string_value(json_object_get(reply, "request"));
    if (!csr)
        return err_set(e, ERR_REFUSED, "the agent sent no request for a certificate");
    if (pki_sign(pki, csr, n->name, address, &cert, ret_pin, e) ||
        file_read(ca_path, &ca, e))
        return -1;
    AUTO(json_free)
    json_t *ask = json_pack("{s:s, s:s}", "certificate", cert, "authority", ca.data);
    return http_call(s, "POST", "/v1/keep", ask, STEP_MS, &answer, e);
}

static int keep(struct session *x, struct http_stream *s, const char *address,
                const json_t *reply, struct err *e)
{
    const struct agent_enrolment *n = x->n;
    struct agent_row row = {.name = (char *)n->name,
                            .address = (char *)n->address,
                            .listen = n->address ? NULL : (char *)n->listen,
                            .enrolled = clock_wall()};
    if (x->done)
        return err_set(e, ERR_REFUSED, "another has used the token of %s", n->name);
    if (sign(s, n, address, reply, row.pin, e) || agent_row_write(n->state_dir, &row, e))
        return -1;
    x->done = true;
    return 0;
}

static int talk(void *context, int fd, const struct wire_peer *peer, struct err *e)
{
    struct session *x = context;
    AUTO(json_free) json_t *reply = NULL;
    struct http_stream s;
    http_stream_init(&s, fd);
    int status = prove(&s, peer, x->n, &reply, e);
    if (!status) {
        pthread_mutex_lock(&x->lock);
        status = keep(x, &s, peer->address[0] ? peer->address : NULL, reply, e);
        pthread_mutex_unlock(&x->lock);
    }
    http_stream_done(&s);
    return status;
}

static int by_dialling(const struct agent_enrolment *n, const struct greeting *g,
                       uint64_t end, struct err *e)
{
    AUTO(fd_close) int fd = -1;
    for (;;) {
        if (!greeting_dial(n->address, g, &fd, e))
            return 0;
        if (e->code == ERR_CANCELLED || clock_ms() >= end)
            return -1;
        struct pollfd p = {.fd = cancel_fd(), .events = POLLIN};
        (void)poll(&p, 1, AGAIN_MS);
        if (cancel_check(e))
            return -1;
    }
}

static int by_waiting(const struct agent_enrolment *n, const struct greeting *g,
                      struct err *e)
{
    AUTO(fd_close) int listener = -1;
    AUTO(fd_close) int fd = -1;
    AUTO(str_free) char *bound = NULL;
    AUTO(acceptor_free) struct acceptor *a = NULL;
    if (tcp_listen(n->listen, &listener, &bound, e) || acceptor_new(listener, &a, e))
        return -1;
    if (acceptor_next(a, g, n->timeout_ms, &fd, e))
        return err_wrap(e, "waiting for agent %s to dial", n->name);
    return 0;
}

int agent_enroll(const struct agent_enrolment *n, struct err *e)
{
    AUTO(str_free) char *pki = path_join(n->state_dir, "pki");
    AUTO(tls_free) struct tls *tls = NULL;
    struct tls_options nobody = {0};
    uint64_t end = clock_ms() + n->timeout_ms;
    if (pki_make(pki, e) || tls_new(&nobody, &tls, e))
        return -1;
    struct session x = {.n = n, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct greeting g = {.wire = {.tls = tls,
                                  .server = n->address == NULL,
                                  .alpn = protocols,
                                  .timeout_ms = STEP_MS},
                         .talk = talk,
                         .context = &x};
    return n->address ? by_dialling(n, &g, end, e) : by_waiting(n, &g, e);
}

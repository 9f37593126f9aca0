// SPDX-License-Identifier: Apache-2.0
// godwit's half of an enrolment: a one-time token proves both ends to each other over
// this very connection, then the agent's key is signed by our own authority.
#include "cloud/agent/agent.h"

#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
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

// Numeric, of who is at the other end; NULL: gone.
static char *peer_address(int tcp)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof(a);
    char text[64];
    if (getpeername(tcp, (struct sockaddr *)&a, &len) ||
        getnameinfo((struct sockaddr *)&a, len, text, sizeof(text), NULL, 0,
                    NI_NUMERICHOST))
        return NULL;
    return xstrdup(text);
}

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

static int talk(int tcp /* taken */, bool server, const struct agent_enrolment *n,
                struct err *e)
{
    AUTO(tls_free) struct tls *tls = NULL;
    AUTO(fd_close) int fd = tcp, plain = -1;
    AUTO(str_free) char *address = peer_address(tcp);
    AUTO(json_free) json_t *reply = NULL;
    struct tls_options nobody = {0};
    struct wire_peer peer;
    struct agent_row row = {.name = (char *)n->name,
                            .address = (char *)n->address,
                            .listen = n->address ? NULL : (char *)n->listen,
                            .enrolled = clock_wall()};
    if (tls_new(&nobody, &tls, e))
        return -1;
    struct wire_options o = {
        .tls = tls, .server = server, .alpn = protocols, .timeout_ms = STEP_MS};
    if (wire_open(steal_fd(&fd), &o, &peer, &plain, e))
        return -1;
    struct http_stream s;
    http_stream_init(&s, plain);
    int status = prove(&s, &peer, n, &reply, e) ||
                         sign(&s, n, address, reply, row.pin, e) ||
                         agent_row_write(n->state_dir, &row, e)
                     ? -1
                     : 0;
    http_stream_done(&s);
    return status;
}

static int by_dialling(const struct agent_enrolment *n, uint64_t end, struct err *e)
{
    for (;;) {
        int fd;
        int status = tcp_connect(n->address, 0, STEP_MS, &fd, e);
        if (!status)
            status = talk(fd, false, n, e);
        if (!status || e->code == ERR_CANCELLED || clock_ms() >= end)
            return status;
        struct pollfd p = {.fd = cancel_fd(), .events = POLLIN};
        (void)poll(&p, 1, AGAIN_MS);
        if (cancel_check(e))
            return -1;
    }
}

static int by_waiting(const struct agent_enrolment *n, uint64_t end, struct err *e)
{
    AUTO(fd_close) int listener = -1;
    AUTO(str_free) char *bound = NULL;
    if (tcp_listen(n->listen, &listener, &bound, e))
        return -1;
    for (;;) {
        struct pollfd p[] = {{.fd = listener, .events = POLLIN},
                             {.fd = cancel_fd(), .events = POLLIN}};
        uint64_t now = clock_ms();
        int r = poll(p, ARRAY_LEN(p), now < end ? (int)min_u64(end - now, 3600000) : 0);
        if (cancel_check(e))
            return -1;
        if (r == 0)
            return err_set(e, ERR_RETRY, "no agent came for %s", n->name);
        int fd = r > 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (fd >= 0 && !talk(fd, true, n, e))
            return 0;
    }
}

int agent_enroll(const struct agent_enrolment *n, struct err *e)
{
    AUTO(str_free) char *pki = path_join(n->state_dir, "pki");
    uint64_t end = clock_ms() + n->timeout_ms;
    if (pki_make(pki, e))
        return -1;
    return n->address ? by_dialling(n, end, e) : by_waiting(n, end, e);
}

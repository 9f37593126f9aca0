// SPDX-License-Identifier: Apache-2.0
// Enrolment over real sockets: the agent's half in a child, godwit's here. Whoever dials,
// the agent ends with a certificate that godwit's authority signed and that both accept;
// without the token neither end gets anything.
#include "agent/source.h"
#include "cloud/cloud.h"

#include "../unit/scratch.h"

#include <sys/socket.h>
#include <sys/wait.h>

static const char token[] = "abcdefghjkmnpqrstuvwxyz23456789abcdefghj";

// A free port of the loopback interface.
static char *free_address(void)
{
    struct err e;
    int fd;
    char *address;
    if (tcp_listen("127.0.0.1:0", &fd, &address, &e))
        exit(1);
    fd_close(fd);
    return address;
}

static pid_t agent(const char *dir, const char *address, bool listen, const char *word)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct err e;
        log_setup(LOG_ERROR, false);
        struct enroll_options o = {.dir = dir,
                                   .token = word,
                                   .dial = listen ? NULL : address,
                                   .listen = listen ? address : NULL};
        // Dialling: godwit may need a moment.
        for (int i = 0; i < 50; i++) {
            if (!enroll(&o, &e))
                _exit(0);
            if (listen || e.code != ERR_RETRY)
                break;
            usleep(100000);
        }
        _exit((int)e.code);
    }
    return pid;
}

static int ended(pid_t pid)
{
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int godwit(const char *address, bool dials, const char *word, struct err *e)
{
    struct agent_enrolment n = {.state_dir = in("state"),
                                .name = "crm01",
                                .token = word,
                                .address = dials ? address : NULL,
                                .listen = address,
                                .timeout_ms = 5000};
    return agent_enroll(&n, e);
}

// A wire between the two with what they have now.
static bool wires_open(const char *dir)
{
    int pair[2], fds[2] = {-1, -1};
    struct err e;
    struct wire_peer peer;
    static const char *const alpn[] = {"http/1.1", NULL};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return false;
    pid_t pid = fork();
    AUTO(str_free)
    char *key = path_join(pid ? in("state/pki") : dir, pid ? "own.key" : "agent.key");
    AUTO(str_free)
    char *cert = path_join(pid ? in("state/pki") : dir, pid ? "own.pem" : "agent.pem");
    AUTO(str_free) char *ca = path_join(pid ? in("state/pki") : dir, "ca.pem");
    struct tls_options o = {.key_path = key, .cert_path = cert, .ca_path = ca};
    AUTO(tls_free) struct tls *tls = NULL;
    struct agent_row row = {0};
    close(pair[pid != 0]);
    bool ready = !tls_new(&o, &tls, &e) &&
                 (!pid || !agent_row_find(in("state"), "crm01", &row, &e));
    struct wire_options w = {.tls = tls,
                             .server = pid == 0,
                             .alpn = alpn,
                             .pin = pid ? row.pin : NULL,
                             .timeout_ms = 5000};
    bool opened = ready && !wire_open(pair[pid == 0 ? 1 : 0], &w, &peer, &fds[0], &e);
    bool named = opened && (pid == 0 || strcmp(peer.name, "crm01") == 0);
    fd_close(fds[0]);
    wire_drain(1000);
    agent_row_done(&row);
    if (pid == 0)
        _exit(named ? 0 : 1);
    return ended(pid) == 0 && named;
}

static void test_both_ways(void)
{
    for (int dials = 0; dials < 2; dials++) {
        struct err e = {0};
        AUTO(str_free) char *address = free_address();
        AUTO(str_free) char *dir = xstrdup(in("agent%d", dials));
        struct agent_config c = {0};
        pid_t pid = agent(dir, address, dials, token);
        int status = godwit(address, dials, token, &e);
        ok(ended(pid) == 0 && status == 0, "%s dials: enrolled %s",
           dials ? "godwit" : "the agent", status ? e.text : "");
        ok(config_read(dir, &c, &e) == 0 && strcmp(c.name, "crm01") == 0 &&
               strcmp(dials ? c.listen : c.dial, address) == 0,
           "... the agent knows its name and the address");
        ok(wires_open(dir), "... both accept each other's certificate");
        config_done(&c);
    }
}

static void test_wrong_token(void)
{
    for (int dials = 0; dials < 2; dials++) {
        struct err e = {0};
        AUTO(str_free) char *address = free_address();
        AUTO(str_free) char *dir = xstrdup(in("wrong%d", dials));
        AUTO(str_free) char *pem = path_join(dir, "agent.pem");
        pid_t pid = agent(dir, address, dials, "another-token-that-is-long-enough");
        int status = godwit(address, dials, token, &e);
        kill(pid, SIGKILL);
        ended(pid);
        ok(status != 0, "%s dials, another token: refused",
           dials ? "godwit" : "the agent");
        ok(access(pem, F_OK) != 0, "... the agent got no certificate");
    }
}

int main(void)
{
    scratch_make();
    cancel_setup();
    log_setup(LOG_ERROR, false);
    test_both_ways();
    test_wrong_token();
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// Who may speak over a wire: certificates, pins, protocols; openssl as a stock client
// and server; peers that speak something else.
#include "wire_test.h"

#include <unistd.h>

static struct tls *own, *agent, *foreign, *anybody;
static const char *const nbd[] = {"nbd+zstd", "nbd", NULL},
                         *const http[] = {"http/1.1", NULL},
                         *const both[] = {"http/1.1", "nbd", NULL};

static struct end end_of(struct tls *t, const char *const *alpn)
{
    return (struct end){.o = {.tls = t, .alpn = alpn, .timeout_ms = 10000}};
}

static void end_done(struct end *x)
{
    fd_close(x->fd);
    x->fd = -1;
}

// A handshake that neither end may take for one.
static void refused(struct end client, struct end server, const char *name)
{
    ok(!open_pair(&client, &server) && !client.good && !server.good, "%s: refused", name);
    ok(client.e.code == ERR_REFUSED && server.e.code == ERR_REFUSED,
       "%s: both say that it was", name);
    printf("# client: %s\n# server: %s\n", client.e.text, server.e.text);
    end_done(&client);
    end_done(&server);
}

static void test_peers(void)
{
    struct end a = end_of(own, nbd), b = end_of(agent, both);
    a.o.pin = agent_pin;
    ok(open_pair(&a, &b), "certificates of one authority");
    is_str(a.peer.alpn, "nbd", "what both speak, as the server likes it");
    is_str(a.peer.name, "agent", "the client knows the server's name");
    is_str(b.peer.name, "godwit", "the server the client's");
    ok(memcmp(a.peer.pin, agent_pin, PIN_LEN) == 0, "the pin is that of its certificate");
    char x[PROOF_HEX], y[PROOF_HEX], z[PROOF_HEX];
    wire_proof(&a.peer, "token", "agent", x);
    wire_proof(&b.peer, "token", "agent", y);
    is_str(x, y, "a proof is the same at both ends");
    wire_proof(&b.peer, "token", "godwit", y);
    wire_proof(&b.peer, "other", "agent", z);
    ok(strcmp(x, y) != 0 && strcmp(x, z) != 0, "another for each end and each token");
    end_done(&a);
    end_done(&b);
    ok(open_pair(&a, &b), "connected again");
    wire_proof(&a.peer, "token", "agent", y);
    ok(strcmp(x, y) != 0, "another for another connection");
    end_done(&a);
    end_done(&b);
    a = end_of(anybody, http);
    b = end_of(anybody, http);
    ok(open_pair(&a, &b), "without certificates anybody may");
    end_done(&a);
    end_done(&b);
}

static void test_refused(void)
{
    refused(end_of(foreign, nbd), end_of(agent, nbd), "a client of another authority");
    refused(end_of(own, nbd), end_of(foreign, nbd), "a server of another authority");
    refused(end_of(anybody, nbd), end_of(agent, nbd), "a client that nobody signed");
    refused(end_of(own, http), end_of(agent, nbd), "nothing in common to speak");
    struct end pinned = end_of(own, nbd);
    static const uint8_t wrong[PIN_LEN] = {1};
    pinned.o.pin = wrong;
    refused(pinned, end_of(agent, nbd), "the server's key is not the pinned one");
    pinned.o.tls = agent;
    refused(end_of(own, nbd), pinned, "the client's key is not the pinned one");
    pinned = end_of(anybody, nbd);
    pinned.o.pin = wrong;
    refused(end_of(anybody, nbd), pinned, "a pin without an authority");
}

// --- stock programs

// Our server, and a line of the shell that connects to $ADDRESS.
static void stock_client(const char *line, enum err_code wanted, const char *name)
{
    AUTO(str_free) char *address = NULL;
    AUTO(fd_close) int listener = -1;
    struct err e;
    listen_any(&listener, &address);
    AUTO(str_free)
    char *script =
        xasprintf("exec 2>/dev/null; cd '%s' && ADDRESS=%s HOST=%.*s PORT=%s && %s",
                  scratch, address, (int)(strrchr(address, ':') - address), address,
                  strrchr(address, ':') + 1, line);
    char *argv[] = {"bash", "-c", script, NULL};
    AUTO(proc_end) struct proc *p = NULL;
    if (proc_start(&(struct proc_options){.argv = argv, .in = -1, .out = -1, .err = -1},
                   &p, &e) < 0)
        return;
    struct end s = end_of(agent, http);
    s.o.server = true;
    s.tcp = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    open_end(&s);
    char got[16] = "";
    if (s.good)
        (void)!read(s.fd, got, sizeof(got) - 1);
    if (s.good && wanted == ERR_NONE)
        is_str(got, "hello\n", name);
    else if (!ok(!s.good && s.e.code == wanted, "%s", name))
        printf("# good %d code %d\n", s.good, s.e.code);
    printf("# %s\n", s.e.text);
    end_done(&s);
}

#define S_CLIENT \
    "openssl s_client -quiet -connect $ADDRESS -alpn http/1.1 -CAfile pki/ca.pem "

static void test_stock_clients(void)
{
    stock_client("(echo hello; sleep 1) | " S_CLIENT "-cert pki/own.pem -key pki/own.key",
                 ERR_NONE, "openssl as a client");
    stock_client("sleep 1 | " S_CLIENT, ERR_REFUSED, "a client without a certificate");
    sh("openssl req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout "
       "evil.key "
       "-subj /CN=godwit -out evil.csr 2>/dev/null; openssl x509 -req -in evil.csr -CA "
       "pki/agent.pem -CAkey pki/agent.key -CAcreateserial -out evil.pem 2>/dev/null");
    stock_client("sleep 1 | " S_CLIENT
                 "-cert evil.pem -key evil.key -cert_chain pki/agent.pem",
                 ERR_REFUSED, "a certificate that an agent signed");
    stock_client("sleep 1 | " S_CLIENT "-tls1_2 -cert pki/own.pem -key pki/own.key",
                 ERR_FAILED, "TLS 1.2");
    stock_client(
        "sleep 1 | openssl s_client -quiet -connect $ADDRESS -cert pki/own.pem -key "
        "pki/own.key",
        ERR_REFUSED, "a client that names no protocol");
    stock_client("exec 3<>/dev/tcp/$HOST/$PORT; printf 'GET / HTTP/1.1\\r\\nHost: "
                 "x\\r\\n\\r\\n' >&3; sleep 1",
                 ERR_FAILED, "plain HTTP");
    stock_client("exec 3<>/dev/tcp/$HOST/$PORT; head -c 100000 /dev/urandom >&3; sleep 1",
                 ERR_FAILED, "noise");
    stock_client("exec 3<>/dev/tcp/$HOST/$PORT; exec 3>&-", ERR_RETRY,
                 "a client that goes away");
}

static void test_no_resumption(void)
{
    struct err e;
    AUTO(str_free) char *address = NULL;
    AUTO(fd_close) int listener = -1;
    listen_any(&listener, &address);
    AUTO(str_free)
    char *script = xasprintf("cd '%s'; s='openssl s_client -connect %s -alpn http/1.1 "
                             "-CAfile pki/ca.pem -cert "
                             "pki/own.pem -key pki/own.key'; sleep 1 | $s -sess_out "
                             "session >first 2>&1; sleep 1 | "
                             "$s -sess_in session >second 2>&1",
                             scratch, address);
    char *argv[] = {"sh", "-c", script, NULL};
    AUTO(proc_end) struct proc *p = NULL;
    if (proc_start(&(struct proc_options){.argv = argv, .in = -1, .out = -1, .err = -1},
                   &p, &e) < 0)
        return;
    bool good = true;
    for (int i = 0; i < 2; i++) {
        struct end s = end_of(agent, http);
        char c;
        s.o.server = true;
        s.tcp = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        open_end(&s);
        good = good && s.good && read(s.fd, &c, 1) == 0;
        end_done(&s);
    }
    int status;
    (void)proc_wait(p, 10000, false, &status, &e);
    sh("grep -q ^New, second && ! grep -q ^Reused, second && test -s session");
    ok(good, "a session is not resumed");
}

static void test_stock_server(void)
{
    struct err e;
    AUTO(str_free) char *address = NULL;
    AUTO(fd_close) int listener = -1;
    listen_any(&listener, &address); // for a free port
    fd_close(steal_fd(&listener));
    AUTO(str_free)
    char *script =
        xasprintf("exec 2>/dev/null; cd '%s' && (sleep 3; echo hello; sleep 3) | exec "
                  "openssl s_server "
                  "-quiet -accept %s -cert pki/agent.pem -key pki/agent.key -CAfile "
                  "pki/ca.pem -Verify 1 -verify_return_error -alpn nbd",
                  scratch, address);
    char *argv[] = {"sh", "-c", script, NULL};
    AUTO(proc_end) struct proc *p = NULL;
    if (proc_start(&(struct proc_options){.argv = argv, .in = -1, .out = -1, .err = -1},
                   &p, &e) < 0)
        return;
    struct end c = end_of(own, nbd);
    uint64_t deadline = clock_ms() + 10000;
    while (tcp_connect(address, 0, 1000, &c.tcp, &e) < 0 && clock_ms() < deadline) {
        struct timespec t = {.tv_nsec = 50000000};
        nanosleep(&t, NULL);
    }
    open_end(&c);
    char got[16] = "";
    if (c.good)
        (void)!read(c.fd, got, sizeof(got) - 1);
    is_str(got, "hello\n", "openssl as a server");
    printf("# %s\n", c.e.text);
    end_done(&c);
}

// --- TCP

static void test_tcp(void)
{
    static const char *const bad[] = {"localhost:1",
                                      "127.0.0.1",
                                      "127.0.0.1:65536",
                                      "::1:80",
                                      "[127.0.0.1]:80",
                                      "[::1]",
                                      "",
                                      ":",
                                      "1.2.3.4:x"};
    struct err e;
    int fd = -1;
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        n += tcp_connect(bad[i], 0, 100, &fd, &e) < 0 && e.code == ERR_USAGE;
    is_u64(n, ARRAY_LEN(bad), "only numeric addresses with a port");
    AUTO(str_free) char *address = NULL;
    AUTO(str_free) char *six = NULL;
    AUTO(fd_close) int listener = -1;
    AUTO(fd_close) int other = -1;
    listen_any(&listener, &address);
    ok(str_starts(address, "127.0.0.1:") && !str_ends(address, ":0"), "says its port");
    fd_close(steal_fd(&listener));
    ok(tcp_connect(address, 0, 1000, &fd, &e) < 0 && e.code == ERR_RETRY,
       "nobody listens");
    if (tcp_listen("[::]:0", &other, &six, &e) < 0) {
        skip("IPv6 and IPv4 by one listener", e.text);
        return;
    }
    AUTO(str_free) char *v4 = xasprintf("127.0.0.1:%s", strrchr(six, ':') + 1);
    AUTO(str_free) char *v6 = xasprintf("[::1]:%s", strrchr(six, ':') + 1);
    int fds[2] = {-1, -1};
    ok(tcp_connect(v4, 0, 1000, &fds[0], &e) == 0 &&
           tcp_connect(v6, 0, 1000, &fds[1], &e) == 0,
       "IPv6 and IPv4 by one listener");
    fd_close(fds[0]);
    fd_close(fds[1]);
}

static void test_silence(void)
{
    int fds[2];
    tcp_pair(fds);
    struct end s = end_of(agent, http);
    s.tcp = fds[1];
    s.o.server = true;
    s.o.timeout_ms = 300;
    uint64_t start = clock_ms();
    open_end(&s);
    ok(!s.good && s.e.code == ERR_RETRY && clock_ms() - start < 3000,
       "a peer that says nothing is not waited for");
    close(fds[0]);
}

int main(void)
{
    struct err e;
    scratch_make();
    sign_agent("other", "agent");
    sign_agent("pki", "agent");
    own = tls_of("pki", "own", "pki");
    agent = tls_of("pki", "agent", "pki");
    foreign = tls_of("other", "agent", "pki");
    ok(tls_new(&(struct tls_options){0}, &anybody, &e) == 0, "a key of the moment");
    struct tls *none = NULL;
    ok(tls_new(&(struct tls_options){in("pki/own.key"), in("pki/agent.pem"), NULL}, &none,
               &e) < 0,
       "a key and another's certificate");
    test_peers();
    test_refused();
    test_stock_clients();
    test_no_resumption();
    test_stock_server();
    test_tcp();
    test_silence();
    wire_drain(10000);
    tls_free(own);
    tls_free(agent);
    tls_free(foreign);
    tls_free(anybody);
    return done_testing();
}

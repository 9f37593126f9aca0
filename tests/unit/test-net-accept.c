// SPDX-License-Identifier: Apache-2.0
// Waiting for the one that is to come, whoever else comes before it.
#include "wire_test.h"

#include <unistd.h>

#define SILENT 60

static struct tls *own, *agent, *foreign;
static const char *const nbd[] = {"nbd", NULL}, *const http[] = {"http/1.1", NULL};
static int listener;
static char *address;

static struct greeting greeting_of(const char *const *alpn)
{
    return (struct greeting){.wire = {.tls = own,
                                      .server = true,
                                      .alpn = alpn,
                                      .pin = agent_pin,
                                      .timeout_ms = 20000}};
}

// An end that dials, in a thread of its own; its tcp: an address is dialled first.
struct dialler {
    struct end end;
    pthread_t thread;
};

static int dial_tcp(void)
{
    struct err e = {0};
    int fd = -1;
    if (tcp_connect(address, 0, 5000, &fd, &e)) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
    return fd;
}

static void dial(struct dialler *d, struct tls *t, const char *const *alpn)
{
    *d = (struct dialler){
        .end = {.o = {.tls = t, .alpn = alpn, .timeout_ms = 10000}, .tcp = dial_tcp()}};
    pthread_create(&d->thread, NULL, open_end, &d->end);
}

static void hang_up(struct dialler *d)
{
    pthread_join(d->thread, NULL);
    fd_close(d->end.fd);
}

static bool comes_through(struct acceptor *a, const struct greeting *g, uint64_t ms,
                          struct err *e)
{
    int fd = -1;
    bool through = acceptor_next(a, g, ms, &fd, e) == 0;
    fd_close(fd);
    return through;
}

static void test_silent(struct acceptor *a)
{
    struct err e = {0};
    struct greeting g = greeting_of(nbd);
    struct dialler d;
    int silent[SILENT];
    uint64_t start = clock_ms();
    for (size_t i = 0; i < SILENT; i++)
        silent[i] = dial_tcp();
    dial(&d, agent, nbd);
    ok(comes_through(a, &g, 20000, &e), "behind %d that say nothing one comes in %s",
       SILENT, e.text);
    ok(clock_ms() - start < 5000, "... at once");
    hang_up(&d);
    for (size_t i = 0; i < SILENT; i++)
        fd_close(silent[i]);
}

static void test_strangers(struct acceptor *a)
{
    struct err e = {0};
    struct greeting g = greeting_of(nbd);
    struct dialler d;
    int plain = dial_tcp();
    (void)!write(plain, "GET / HTTP/1.1\r\n\r\n", 18);
    ok(!comes_through(a, &g, 500, &e) && e.code == ERR_RETRY && strstr(e.text, "TLS"),
       "who speaks no TLS is turned away: %s", e.text);
    fd_close(plain);
    dial(&d, foreign, nbd);
    ok(!comes_through(a, &g, 500, &e) && strstr(e.text, "let in"),
       "another authority's agent too: %s", e.text);
    hang_up(&d);
    dial(&d, agent, http);
    ok(!comes_through(a, &g, 500, &e), "and ours that wants something else");
    hang_up(&d);
}

static int says_no(void *context, int fd, const struct wire_peer *peer, struct err *e)
{
    (void)fd;
    ++*(_Atomic int *)context;
    return err_set(e, ERR_REFUSED, "no, %s at %s", peer->name, peer->address);
}

static void test_talk(struct acceptor *a)
{
    struct err e = {0};
    _Atomic int n = 0;
    struct greeting g = greeting_of(nbd);
    struct dialler d;
    g.talk = says_no;
    g.context = &n;
    dial(&d, agent, nbd);
    ok(!comes_through(a, &g, 500, &e) && n == 1 &&
           strstr(e.text, "no, agent at 127.0.0.1"),
       "who is behind TLS is judged by name and address: %s", e.text);
    hang_up(&d);
}

static void test_free(struct acceptor *a)
{
    struct err e = {0};
    struct greeting g = greeting_of(nbd);
    int silent = dial_tcp();
    uint64_t start = clock_ms();
    (void)comes_through(a, &g, 200, &e);
    acceptor_free(a);
    ok(clock_ms() - start < 2000, "whoever is being greeted does not hold up the end");
    fd_close(silent);
}

int main(void)
{
    struct err e = {0};
    struct acceptor *a = NULL;
    scratch_make();
    sign_agent("other", "agent");
    foreign = tls_of("other", "agent", "other");
    sign_agent("pki", "agent");
    own = tls_of("pki", "own", "pki");
    agent = tls_of("pki", "agent", "pki");
    listen_any(&listener, &address);
    ok(acceptor_new(listener, &a, &e) == 0, "waiting for who comes");
    test_silent(a);
    test_strangers(a);
    test_talk(a);
    test_free(a);
    wire_drain(2000);
    fd_close(listener);
    free(address);
    tls_free(own);
    tls_free(agent);
    tls_free(foreign);
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// this exercises: the NBD server with bytes that no decent client sends, halves of
// messages, silence, ends in the wrong moment, and cancellation
#include "serve_peer.h"

#include <errno.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define SIZE (2 * MIB)
#define REQUEST "\x25\x60\x95\x13"
#define HELLO "\0\0\0\3"
// An option's magic number, then the number and the length as text.
#define OPTION "IHAVEOPT\0\0\0"
#define GO OPTION "\7\0\0\0\xa\0\0\0\4disk\0\0"
#define READ REQUEST "\0\0\0\0cookie-1\0\0\0\0\0\0\0\0\0\0\2\0"

static void put(int fd, const char *bytes, size_t len)
{
    if (fd_write(fd, bytes, len) < 0)
        printf("# write: %s\n", strerror(errno));
}
#define PUT(fd, text) put(fd, text, sizeof(text) - 1)

// Passes over `len` bytes; false when the server has closed before.
static bool pass(int fd, size_t len)
{
    char byte;
    while (len > 0 && read(fd, &byte, 1) == 1)
        len--;
    return len == 0;
}

// The reply to an option: its type, 0 when the server has closed.
static uint32_t reply(int fd)
{
    uint8_t head[20];
    if (recv(fd, head, sizeof(head), MSG_WAITALL) != sizeof(head) ||
        get_be64(head) != UINT64_C(0x3e889045565a9) || !pass(fd, get_be32(head + 16)))
        return 0;
    return get_be32(head + 12);
}

// A simple reply's error; UINT32_MAX when the server has closed.
static uint32_t answer(int fd, size_t data)
{
    uint8_t head[16];
    if (recv(fd, head, sizeof(head), MSG_WAITALL) != sizeof(head) ||
        get_be32(head) != UINT32_C(0x67446698) || memcmp(head + 8, "cookie-1", 8) != 0)
        return UINT32_MAX;
    return get_be32(head + 4) != 0 || pass(fd, data) ? get_be32(head + 4) : UINT32_MAX;
}

static int hello(struct peer *p)
{
    *p = (struct peer){.path = in("disk"), .writable = true};
    int fd = peer_begin(p);
    if (!pass(fd, 18))
        printf("# no greeting\n");
    PUT(fd, HELLO);
    return fd;
}

static int go(struct peer *p)
{
    int fd = hello(p);
    PUT(fd, GO);
    while (reply(fd) == 3)
        continue;
    return fd;
}

static bool ended(struct peer *p, int fd, enum err_code want)
{
    close(fd);
    (void)peer_end(p);
    if (p->e.code != want)
        printf("# %d %s\n", (int)p->e.code, p->e.text);
    return p->e.code == want;
}

static void test_options(void)
{
    struct peer p;
    int fd = hello(&p);
    PUT(fd, OPTION "\x63\0\0\0\3abc");
    is_u64(reply(fd), 0x80000001, "an unknown option is unsupported");
    PUT(fd, OPTION "\x0b\0\0\0\0");
    is_u64(reply(fd), 0x80000001, "extended headers are");
    PUT(fd, OPTION "\5\0\0\0\0");
    is_u64(reply(fd), 0x80000002, "TLS inside of what is private is against the policy");
    PUT(fd, OPTION "\3\0\0\0\1x");
    is_u64(reply(fd), 0x80000003, "a list with data is invalid");
    PUT(fd, OPTION "\x8\0\0\0\1x");
    is_u64(reply(fd), 0x80000003, "structured replies with data are");
    PUT(fd, OPTION "\7\0\0\0\6\xff\xff\xff\xff\0\0");
    is_u64(reply(fd), 0x80000003, "a name longer than its option is");
    PUT(fd, OPTION "\7\0\0\0\xa\0\0\0\4disk\0\1");
    is_u64(reply(fd), 0x80000003, "a number of requests without them is");
    PUT(fd, OPTION "\xa\0\0\0\xc\0\0\0\4disk\0\0\0\0");
    is_u64(reply(fd), 0x80000003, "contexts before structured replies are");
    PUT(fd, OPTION "\x8\0\0\0\0");
    is_u64(reply(fd), 1, "structured replies");
    PUT(fd, OPTION "\xa\0\0\0\x10\0\0\0\4disk\0\0\0\1\xff\0\0\0");
    is_u64(reply(fd), 0x80000003, "a query longer than its option is invalid");
    PUT(fd, OPTION "\xa\0\0\0\xc\0\0\0\4none\0\0\0\0");
    is_u64(reply(fd), 0x80000006, "contexts of no export: unknown");
    PUT(fd, OPTION "\x9\0\0\0\x15\0\0\0\4disk\0\0\0\1\0\0\0\5base:");
    ok(reply(fd) == 4 && reply(fd) == 1, "a name space is listed");
    PUT(fd, OPTION "\x9\0\0\0\xc\0\0\0\4disk\0\0\0\0");
    ok(reply(fd) == 4 && reply(fd) == 1, "and everything");
    char *big = xcalloc(1, 200000);
    PUT(fd, OPTION "\6\0\3\x0d\x40");
    put(fd, big, 200000);
    is_u64(reply(fd), 0x80000009, "an option of 200000 bytes is too big");
    PUT(fd, GO);
    ok(reply(fd) == 3 && reply(fd) == 3 && reply(fd) == 1, "after all that it goes");
    ok(ended(&p, fd, ERR_NONE), "and ends");
    free(big);
    fd = hello(&p);
    for (int i = 0; i < 1024; i++) {
        PUT(fd, OPTION "\x63\0\0\0\0");
        (void)reply(fd);
    }
    ok(!pass(fd, 1) && ended(&p, fd, ERR_FAILED), "who never comes to the point is left");
}

static void test_export_name(void)
{
    struct peer p;
    int fd = hello(&p);
    PUT(fd, OPTION "\1\0\0\0\4disk" READ);
    ok(pass(fd, 10) && answer(fd, 512) == 0, "the oldest way in, with a request at once");
    ok(ended(&p, fd, ERR_NONE), "and out");
    fd = hello(&p);
    PUT(fd, OPTION "\1\0\0\0\4none");
    ok(!pass(fd, 1) && ended(&p, fd, ERR_REFUSED),
       "it has no other refusal than the end");
    p = (struct peer){.path = in("disk")};
    fd = peer_begin(&p);
    (void)pass(fd, 18);
    PUT(fd, "\0\0\0\1" OPTION "\1\0\0\0\4disk");
    ok(pass(fd, 10 + 124) && ended(&p, fd, ERR_NONE),
       "zeros for who did not decline them");
}

static void test_garbage(void)
{
    struct peer p = {.path = in("disk")};
    int fd = peer_begin(&p);
    (void)pass(fd, 18);
    PUT(fd, "GET ");
    ok(!pass(fd, 1) && ended(&p, fd, ERR_FAILED), "unknown flags end the connection");
    fd = hello(&p);
    PUT(fd, "IHAVENOT\0\0\0\7\0\0\0\0");
    ok(!pass(fd, 1) && ended(&p, fd, ERR_FAILED), "what is no option does: %s", p.e.text);
    fd = go(&p);
    PUT(fd, "0123456789abcdefghijklmnopqr");
    ok(!pass(fd, 1) && ended(&p, fd, ERR_FAILED), "what is no request does: %s",
       p.e.text);
    fd = go(&p);
    PUT(fd, REQUEST "\0\0\0\x9"
                    "cookie-1\0\0\0\0\0\0\0\0\0\0\2\0");
    is_u64(answer(fd, 0), EINVAL, "an unknown command is invalid");
    PUT(fd, REQUEST "\0\0\xff\xff"
                    "cookie-1\0\0\0\0\0\0\0\0\0\0\2\0");
    is_u64(answer(fd, 0), EINVAL, "the last of them too");
    PUT(fd, REQUEST "\0\0\0\7"
                    "cookie-1\0\0\0\0\0\0\0\0\0\0\2\0");
    is_u64(answer(fd, 0), EINVAL, "block status without a context is");
    PUT(fd, REQUEST "\0\0\0\0"
                    "cookie-1\0\0\0\0\0\0\0\0\0\0\0\0" READ);
    ok(answer(fd, 0) == 0 && answer(fd, 512) == 0, "a read of nothing is none");
    ok(ended(&p, fd, ERR_NONE), "all on one connection");
}

static void test_pipelined(void)
{
    struct peer p;
    int fd = go(&p);
    for (int i = 0; i < 500; i++)
        PUT(fd, READ);
    bool good = true;
    for (int i = 0; i < 500; i++)
        good = good && answer(fd, 512) == 0;
    ok(good, "500 requests at once, 500 answers");
    PUT(fd, READ REQUEST "\0\0\0\1"
                         "cookie-1\0\0\0\0\0\0\0\0\0\0\0\5hello" READ REQUEST "\0\0\0\2"
                         "cookie-1\0\0\0\0\0\0\0\0\0\0\0\0");
    ok(answer(fd, 512) == 0 && answer(fd, 0) == 0 && answer(fd, 512) == 0 && !pass(fd, 1),
       "a write between reads, and a farewell behind");
    ok(ended(&p, fd, ERR_NONE), "which is no error");
}

static int hello_stranger(struct peer *p, struct tls *tls)
{
    *p = (struct peer){.path = in("disk"), .tls = tls};
    int fd = peer_begin(p);
    (void)pass(fd, 18);
    PUT(fd, HELLO);
    return fd;
}

static void test_strangers(void)
{
    struct peer p;
    struct err e = {0};
    AUTO(tls_free) struct tls *tls = NULL;
    ok(tls_new(&(struct tls_options){0}, &tls, &e) == 0, "TLS is there %s", e.text);
    int fd = hello_stranger(&p, tls);
    bool all = true;
    for (char number = 3; number < 12; number++) {
        char option[] = OPTION "\0\0\0\0\0";
        option[11] = number;
        if (number == 5)
            continue;
        put(fd, option, 16);
        all = all && reply(fd) == 0x80000005;
    }
    ok(all, "before TLS every option but STARTTLS is refused");
    PUT(fd, OPTION "\5\0\0\0\1x");
    is_u64(reply(fd), 0x80000003, "STARTTLS with data is invalid");
    PUT(fd, OPTION "\2\0\0\0\0");
    ok(reply(fd) == 1 && ended(&p, fd, ERR_NONE), "to call it off is allowed");
    fd = hello_stranger(&p, tls);
    PUT(fd, OPTION "\1\0\0\0\4disk" READ);
    ok(!pass(fd, 1) && ended(&p, fd, ERR_REFUSED), "the oldest way in is closed: %s",
       p.e.text);
    fd = hello_stranger(&p, tls);
    PUT(fd, OPTION "\5\0\0\0\0" GO);
    ok(!pass(fd, 1) && ended(&p, fd, ERR_REFUSED),
       "who does not wait for TLS is left: %s", p.e.text);
    fd = hello_stranger(&p, tls);
    PUT(fd, OPTION "\5\0\0\0\0");
    ok(reply(fd) == 1, "STARTTLS");
    PUT(fd, GO);
    while (pass(fd, 1))
        continue;
    close(fd);
    (void)peer_end(&p);
    ok(p.result < 0 && p.n_connected == 1, "and then no TLS: %s", p.e.text);
}

static void test_ends(void)
{
    struct peer p = {.path = in("disk")};
    int fd = peer_begin(&p);
    ok(ended(&p, fd, ERR_RETRY) || p.result == 0, "who hangs up at once");
    fd = hello(&p);
    PUT(fd, "IHAVE");
    ok(ended(&p, fd, ERR_RETRY), "who hangs up in an option: %s", p.e.text);
    fd = go(&p);
    PUT(fd, REQUEST "\0\0");
    ok(ended(&p, fd, ERR_RETRY), "in a request: %s", p.e.text);
    fd = go(&p);
    PUT(fd, REQUEST "\0\0\0\1"
                    "cookie-1\0\0\0\0\0\0\0\0\0\x10\0\0half of it");
    ok(ended(&p, fd, ERR_RETRY), "in the data of a write: %s", p.e.text);
    fd = go(&p);
    for (int i = 0; i < 20; i++)
        PUT(fd, REQUEST "\0\0\0\0"
                        "cookie-1\0\0\0\0\0\0\0\0\0\x20\0\0");
    ok(pass(fd, 5000) && ended(&p, fd, ERR_RETRY), "in its answers: %s", p.e.text);
}

// What a client sends in a process that is then asked to end: how it ends, and what it
// cost meanwhile.
static void test_cancel(const char *name, const char *bytes, size_t len)
{
    int fds[2], status = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        cancel_setup();
        struct peer p = {.path = in("disk"), .writable = true, .fd = fds[1]};
        peer_run(&p);
        _exit(p.e.code == ERR_CANCELLED ? 0 : 1);
    }
    close(fds[1]);
    put(fds[0], bytes, len);
    usleep(1200 * 1000); // the time over which it might spin
    uint64_t start = clock_ms();
    kill(pid, SIGTERM);
    struct rusage use;
    (void)wait4(pid, &status, 0, &use);
    uint64_t cpu_us = (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000 +
                      (uint64_t)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    ok(status == 0 && clock_ms() - start < 3000, "cancelled: %s", name);
    ok(cpu_us < 500000, "which took no processor");
    close(fds[0]);
}

#define ALL_OF_IT REQUEST "\0\0\0\0cookie-1\0\0\0\0\0\0\0\0\0\x20\0\0"
#define CANCEL(name, bytes) test_cancel(name, bytes, sizeof(bytes) - 1)

int main(void)
{
    scratch_make();
    (void)signal(SIGPIPE, SIG_IGN);
    pattern_file(in("disk"), SIZE, 7, 1);
    test_options();
    test_export_name();
    test_garbage();
    test_pipelined();
    test_strangers();
    test_ends();
    CANCEL("a client that says nothing", "");
    CANCEL("one with half an option", HELLO "IHAVE");
    CANCEL("one with half a request", HELLO GO REQUEST "\0\0");
    CANCEL("one with half a write",
           HELLO GO REQUEST "\0\0\0\1cookie-1\0\0\0\0\0\0\0\0\0\x10\0\0half");
    CANCEL("one that takes no answers", HELLO GO ALL_OF_IT ALL_OF_IT ALL_OF_IT ALL_OF_IT);
    return done_testing();
}

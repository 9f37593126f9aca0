// SPDX-License-Identifier: Apache-2.0
// Bytes over wires: all of them, both ways at once, with and without frames, under a
// limit, and what is left when an end goes away.
#include "wire_test.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/wait.h>

static struct tls *own, *agent;
static const char *const plain[] = {"nbd", NULL}, *const framed[] = {"nbd+zstd", NULL};

static bool connect_pair(struct end *a, struct end *b, const char *const *alpn)
{
    a->o.tls = own;
    b->o.tls = agent;
    a->o.alpn = b->o.alpn = alpn;
    a->o.timeout_ms = b->o.timeout_ms = 10000;
    bool opened = open_pair(a, b);
    if (!opened)
        printf("# client: %s\n# server: %s\n", a->e.text, b->e.text);
    return opened;
}

// --- transfers

enum content { RANDOM, TEXT, MIXED };
struct transfer {
    int fd;
    uint64_t bytes, seed, moved;
    enum content content;
    uint8_t hash[HASH_LEN];
};

static void fill(uint8_t *p, size_t len, uint64_t *seed, enum content content)
{
    bool noise = content == RANDOM || (content == MIXED && (*seed >> 20) % 2);
    for (size_t i = 0; i < len; i += 8) {
        *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407U;
        uint64_t v = noise ? *seed ^ *seed >> 31 : 0x2020202074786574 + (*seed >> 60);
        memcpy(p + i, &v, min_u64(8, len - i));
    }
}

static void *send_all(void *arg)
{
    struct transfer *t = arg;
    struct hash *h = hash_new();
    size_t size = 300000;
    uint8_t *p = xmalloc(size + 1);
    unsigned turn = 0;
    for (t->moved = 0; t->moved < t->bytes;) {
        size_t step = ++turn % 8 ? size : turn % 700; // small ones too
        size_t len = min_u64(step + 1, t->bytes - t->moved);
        fill(p, len, &t->seed, t->content);
        hash_add(h, p, len);
        for (size_t at = 0; at < len;) {
            ssize_t n = send(t->fd, p + at, len - at, MSG_NOSIGNAL);
            if (n <= 0) {
                t->bytes = 0; // the peer went away
                break;
            }
            at += (size_t)n;
            t->moved += (uint64_t)n;
        }
    }
    hash_end(h, t->hash);
    hash_free(h);
    free(p);
    shutdown(t->fd, SHUT_WR);
    return NULL;
}

static void *receive_all(void *arg)
{
    struct transfer *t = arg;
    struct hash *h = hash_new();
    uint8_t *p = xmalloc(MIB);
    for (ssize_t n; (n = recv(t->fd, p, MIB, 0)) > 0; t->moved += (uint64_t)n)
        hash_add(h, p, (size_t)n);
    hash_end(h, t->hash);
    hash_free(h);
    free(p);
    return NULL;
}

static bool same(const struct transfer *a, const struct transfer *b)
{
    return a->moved == a->bytes && a->moved == b->moved &&
           memcmp(a->hash, b->hash, HASH_LEN) == 0;
}

// Both ways at once; each end shuts its direction when it has sent all.
static void test_both_ways(const char *const *alpn, enum content content, uint64_t bytes,
                           const char *name)
{
    struct wire_count count = {0};
    struct end a = {.o.count = &count}, b = {0};
    if (!ok(connect_pair(&a, &b, alpn), "%s: opened", name))
        return;
    struct transfer t[4] = {{a.fd, bytes, 1, 0, content, {0}},
                            {b.fd, bytes, 2, 0, content, {0}},
                            {.fd = a.fd},
                            {.fd = b.fd}};
    pthread_t threads[4];
    uint64_t start = clock_ms();
    for (size_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, i < 2 ? send_all : receive_all, &t[i]);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ok(same(&t[0], &t[3]) && same(&t[1], &t[2]), "%s: all arrives, both ways", name);
    close(a.fd);
    close(b.fd);
    wire_drain(10000);
    ok(count.plain_sent == bytes && count.plain_received == bytes, "%s: it is counted",
       name);
    printf("# %s: %llu ms, %llu of %llu bytes on the wire\n", name,
           (unsigned long long)(clock_ms() - start), (unsigned long long)count.sent,
           (unsigned long long)bytes);
    if (content == TEXT && alpn == framed)
        ok(count.sent < bytes, "%s: text is compressed while that is tried", name);
    else
        ok(count.sent > bytes / 4, "%s: what is sent is counted", name);
}

// --- limits

static void test_rate(const char *const *alpn, enum content content, uint64_t limit)
{
    AUTO(rate_free) struct rate *rate = rate_new(limit);
    struct wire_count count = {0};
    struct end a = {.o = {.rate = rate, .count = &count}}, b = {0};
    if (!ok(connect_pair(&a, &b, alpn), "opened under a limit"))
        return;
    struct transfer out = {a.fd, 16 * GIB, 1, 0, content, {0}}, into = {.fd = b.fd};
    pthread_t threads[2];
    pthread_create(&threads[0], NULL, send_all, &out);
    pthread_create(&threads[1], NULL, receive_all, &into);
    struct timespec settle = {.tv_sec = 1};
    nanosleep(&settle, NULL);
    uint64_t start = clock_ns(), before = count.sent + count.received, last = before,
             at = start;
    double most = 0;
    for (int i = 0; i < 30; i++) {
        struct timespec tenth = {.tv_nsec = 100000000};
        nanosleep(&tenth, NULL);
        uint64_t now = count.sent + count.received, ns = clock_ns();
        double speed = (double)(now - last) * 1e9 / (double)(ns - at);
        most = speed > most ? speed : most;
        last = now;
        at = ns;
    }
    double got = (double)(last - before) * 1e9 / (double)(at - start);
    // More is a broken limit; less may be a busy machine, so that bound is wide.
    ok(got < (double)limit * 1.05 && got > (double)limit / 2,
       "%llu bytes a second are kept", (unsigned long long)limit);
    ok(most < (double)limit * 3, "and smoothly");
    printf("# %.0f a second, %.0f in the most busy tenth\n", got, most);
    rate_set(rate, 0);
    shutdown(a.fd, SHUT_RDWR);
    pthread_join(threads[0], NULL);
    close(a.fd);
    pthread_join(threads[1], NULL);
    close(b.fd);
    wire_drain(10000);
}

// What the other end has of what was sent on this one: read or not, it has crossed.
static uint64_t crossed(int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ? 0
                                                                  : info.tcpi_bytes_acked;
}

// Eight senders that fill every buffer on the way: what waits there counts too.
static void test_rate_of_many(void)
{
    const uint64_t limit = 200000;
    AUTO(rate_free) struct rate *rate = rate_new(limit);
    struct end a[8] = {0}, b[8] = {0};
    struct transfer out[8] = {0}, into[8] = {0};
    pthread_t threads[16];
    size_t n = 0;
    uint64_t start = clock_ns(), sum = 0;
    for (; n < 8; n++) {
        a[n].o.rate = rate;
        if (!connect_pair(&a[n], &b[n], plain))
            break;
        out[n] = (struct transfer){b[n].fd, 16 * GIB, n, 0, RANDOM, {0}};
        into[n].fd = a[n].fd;
        pthread_create(&threads[n], NULL, send_all, &out[n]);
        pthread_create(&threads[8 + n], NULL, receive_all, &into[n]);
    }
    struct timespec some = {.tv_sec = 4};
    nanosleep(&some, NULL);
    for (size_t i = 0; i < n; i++)
        sum += crossed(a[i].tcp) + crossed(b[i].tcp);
    double got = (double)sum * 1e9 / (double)(clock_ns() - start);
    ok(n == 8 && got < (double)limit * 1.05 && got > (double)limit / 2,
       "from the start, with all that waits in buffers");
    printf("# %.0f a second on %zu connections\n", got, n);
    rate_set(rate, 0);
    for (size_t i = 0; i < n; i++) {
        shutdown(b[i].fd, SHUT_RDWR);
        pthread_join(threads[i], NULL);
        close(b[i].fd);
        pthread_join(threads[8 + i], NULL);
        close(a[i].fd);
    }
    wire_drain(10000);
}

// Neither may the peer send more at once than there is room for, which is dropped, nor
// may a window stay small when there is no limit any more.
static void test_window(void)
{
    int fds[2];
    static char data[60000];
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    tcp_pair_under(100000, fds);
    tcp_tune(fds[0], 100000);
    (void)!send(fds[1], data, sizeof(data), MSG_DONTWAIT);
    for (size_t got = 0; got < sizeof(data);) {
        struct pollfd p = {.fd = fds[0], .events = POLLIN};
        ssize_t n = poll(&p, 1, 5000) > 0 ? recv(fds[0], data, sizeof(data), 0) : 0;
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    ok(getsockopt(fds[1], IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
           info.tcpi_total_retrans == 0,
       "under a limit nothing is sent twice");
    printf("# %u\n", info.tcpi_total_retrans);
    ok(getsockopt(fds[0], IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
           info.tcpi_rcv_wscale > 0,
       "and its window may grow");
    close(fds[0]);
    close(fds[1]);
}

// --- ends

static void test_closed_at_once(void)
{
    struct end a = {0}, b = {0};
    char text[4000];
    memset(text, 'x', sizeof(text));
    connect_pair(&a, &b, framed);
    for (int i = 0; i < 30; i++)
        (void)!write(a.fd, text, sizeof(text));
    close(a.fd);
    struct transfer into = {.fd = b.fd};
    receive_all(&into);
    is_u64(into.moved, 30 * sizeof(text), "what was written before a close arrives");
    close(b.fd);
    wire_drain(5000);
}

static bool hung_up(int fd)
{
    struct pollfd p = {.fd = fd};
    return poll(&p, 1, 5000) > 0 && (p.revents & POLLHUP);
}

static void test_ends_are_told_apart(void)
{
    struct end a = {0}, b = {0};
    char c = 0;
    connect_pair(&a, &b, plain);
    shutdown(a.fd, SHUT_WR);
    struct pollfd p = {.fd = b.fd};
    ok(read(b.fd, &c, 1) == 0 && poll(&p, 1, 300) == 0,
       "an end that was said: not hung up");
    ok(write(b.fd, "y", 1) == 1 && read(a.fd, &c, 1) == 1 && c == 'y',
       "and the other direction goes on");
    close(a.fd);
    close(b.fd);
    wire_drain(5000);

    // Half of a connection that dies in the middle: a process that is killed.
    int fds[2];
    tcp_pair(fds);
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[1]);
        struct end child = {.tcp = fds[0],
                            .o = {.tls = own, .alpn = plain, .timeout_ms = 10000}};
        open_end(&child);
        static const char zeros[65536];
        while (child.good)
            (void)!write(child.fd, zeros, sizeof(zeros));
        _exit(1);
    }
    close(fds[0]);
    struct end s = {
        .tcp = fds[1],
        .o = {.tls = agent, .server = true, .alpn = plain, .timeout_ms = 10000}};
    open_end(&s);
    char block[4096];
    uint64_t before = 0;
    while (s.good && before < 20 * MIB) {
        ssize_t n = read(s.fd, block, sizeof(block));
        if (n <= 0)
            break;
        before += (uint64_t)n;
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    while (s.good && read(s.fd, block, sizeof(block)) > 0) {
    }
    ok(s.good && before >= 20 * MIB && hung_up(s.fd),
       "a killed peer: end of file, and hung up");
    ok(send(s.fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "nor can be written to");
    close(s.fd);
    wire_drain(5000);
}

// A caller that only writes must not be stuck when the peer is gone.
static void test_writer_is_freed(void)
{
    struct end a = {0}, b = {0};
    connect_pair(&a, &b, plain);
    struct transfer out = {a.fd, 100 * GIB, 1, 0, RANDOM, {0}};
    pthread_t thread;
    pthread_create(&thread, NULL, send_all, &out);
    struct timespec some = {.tv_nsec = 200000000};
    nanosleep(&some, NULL);
    close(b.fd);
    pthread_join(thread, NULL);
    ok(out.moved < 100 * GIB, "who writes is told that the peer closed");
    close(a.fd);
    wire_drain(10000);
}

static void test_many(void)
{
    size_t fds = entries("/proc/self/fd");
    bool good = true;
    for (int i = 0; i < 100; i++) {
        struct end a = {0}, b = {0};
        char c = 0;
        good = good && connect_pair(&a, &b, i % 2 ? plain : framed) &&
               write(a.fd, "x", 1) == 1 && read(b.fd, &c, 1) == 1 && c == 'x';
        close(i % 3 ? a.fd : b.fd);
        close(i % 3 ? b.fd : a.fd);
    }
    uint64_t start = clock_ms();
    wire_drain(10000);
    ok(good && clock_ms() - start < 5000, "a hundred short ones end by themselves");
    struct timespec some = {.tv_nsec = 50000000}; // a thread that has ended may still go
    nanosleep(&some, NULL);
    is_u64(entries("/proc/self/fd"), fds, "no descriptor is left");
    ok(entries("/proc/self/task") <= 2 + 2, "nor a thread"); // a sanitizer may have one
}

int main(void)
{
    scratch_make();
    sign_agent("pki", "agent");
    own = tls_of("pki", "own", "pki");
    agent = tls_of("pki", "agent", "pki");
    uint64_t bytes = getenv("WIRE_BYTES")
                         ? strtoull(getenv("WIRE_BYTES"), &(char *){0}, 10)
                         : 100 * MIB;
    test_both_ways(plain, RANDOM, bytes, "plain");
    test_both_ways(NULL, TEXT, bytes, "no protocol named");
    test_both_ways(framed, RANDOM, bytes, "frames, noise");
    test_both_ways(framed, TEXT, bytes, "frames, text");
    test_both_ways(framed, MIXED, bytes, "frames, both");
    test_rate(plain, RANDOM, 100000);
    test_rate(framed, MIXED, 5000000);
    test_rate_of_many();
    test_window();
    test_closed_at_once();
    test_ends_are_told_apart();
    test_writer_is_freed();
    test_many();
    tls_free(own);
    tls_free(agent);
    return done_testing();
}

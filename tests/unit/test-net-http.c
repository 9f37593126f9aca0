// SPDX-License-Identifier: Apache-2.0
// http.c: messages byte for byte, every refusal, bounds, timeouts, slow and cut streams.
#include "net/net.h"
#include "tap.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct pair {
    int a, b;
};

static struct pair connect_pair(void)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    return (struct pair){fds[0], fds[1]};
}

// Reads one message from a peer that sends `bytes` and closes.
static int read_bytes(const void *bytes, size_t len, struct http_message *m,
                      bool *ret_eof, struct err *e)
{
    struct pair p = connect_pair();
    struct http_stream s;
    http_stream_init(&s, p.a);
    fcntl(p.b, F_SETFL, O_NONBLOCK);
    if (write(p.b, bytes, len) != (ssize_t)len)
        abort();
    fd_close(p.b);
    int r = http_read(&s, 5000, m, ret_eof, e);
    http_stream_done(&s);
    fd_close(p.a);
    return r;
}

static void test_good(void)
{
    static const struct {
        const char *bytes, *method, *path, *body;
        int status;
    } rows[] = {
        {"GET / HTTP/1.1\r\n\r\n", "GET", "/", "", 0},
        {"POST /v1/a?b=c HTTP/1.1\r\nhost: x\r\ncontent-length:2\r\n\r\n{}", "POST",
         "/v1/a?b=c", "{}", 0},
        {"PUT /x HTTP/1.1\r\nContent-Length: \t 003 \t\r\n\r\nabc", "PUT", "/x", "abc",
         0},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX:\r\n\r\nx", "", "", "x", 200},
        {"HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n", "", "", "", 599},
        {"HTTP/1.1 204\r\n\r\n", "", "", "", 204},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e = {0};
        bool eof = true;
        AUTO(http_message_done) struct http_message m = {0};
        int r = read_bytes(rows[i].bytes, strlen(rows[i].bytes), &m, &eof, &e);
        if (!ok(r == 0 && !eof && m.status == rows[i].status, "accepted: %.*s",
                (int)strcspn(rows[i].bytes, "\r"), rows[i].bytes))
            printf("# %s\n", e.text);
        is_str(m.method, rows[i].method, "its method");
        is_str(m.path, rows[i].path, "its path");
        ok(m.body.len == strlen(rows[i].body) &&
               (m.body.len == 0 || strcmp(m.body.data, rows[i].body) == 0),
           "its body");
    }
}

static void test_refused(void)
{
    static const struct {
        const char *bytes, *error;
    } rows[] = {
        {"\r\n\r\n", "the peer sent an empty head"},
        {"GET / HTTP/1.0\r\n\r\n", "not a request of HTTP/1.1"},
        {"GET / HTTP/1.1 \r\n\r\n", "not a request of HTTP/1.1"},
        {"GET  / HTTP/1.1\r\n\r\n", "not a request of HTTP/1.1"},
        {"GET x HTTP/1.1\r\n\r\n", "not a request of HTTP/1.1"},
        {"GET /\r\n\r\n", "not a request of HTTP/1.1"},
        {"GET /\t HTTP/1.1\r\n\r\n", "not a request of HTTP/1.1"},
        {"GET /\xc3\xbc HTTP/1.1\r\n\r\n", "not a request of HTTP/1.1"},
        {" / HTTP/1.1\r\n\r\n", "not a request of HTTP/1.1"},
        {"G(T / HTTP/1.1\r\n\r\n", "not a request of HTTP/1.1"},
        {"LONGNAME / HTTP/1.1\r\n\r\n", "not a request of HTTP/1.1"},
        {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "not a response of HTTP/1.1"},
        {"HTTP/2 200\r\n\r\n", "not a response of HTTP/1.1"},
        {"HTTP/1.1\r\n\r\n", "not a response of HTTP/1.1"},
        {"HTTP/1.1 20 OK\r\n\r\n", "not a response of HTTP/1.1"},
        {"HTTP/1.1 2000 OK\r\n\r\n", "not a response of HTTP/1.1"},
        {"HTTP/1.1 100 Continue\r\n\r\n", "not a response of HTTP/1.1"},
        {"HTTP/1.1 2x0 OK\r\n\r\n", "not a response of HTTP/1.1"},
        {"HTTP/1.1 200 OK\r\n\r\n", "a response without content length"},
        {"GET / HTTP/1.1\r\nname\r\n\r\n", "not a header field"},
        {"GET / HTTP/1.1\r\n: x\r\n\r\n", "not a header field"},
        {"GET / HTTP/1.1\r\nA : x\r\n\r\n", "not a header field"},
        {"GET / HTTP/1.1\r\nA: x\r\n folded\r\n\r\n", "not a header field"},
        {"GET / HTTP/1.1\r\nA: x\ny\r\n\r\n", "a bare line end"},
        {"GET / HTTP/1.1\r\nA: x\ry\r\n\r\n", "a bare line end"},
        {"P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "a transfer encoding"},
        {"P / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "a bad content length \"-1\""},
        {"P / HTTP/1.1\r\nContent-Length: 1,1\r\n\r\nx", "a bad content length"},
        {"P / HTTP/1.1\r\nContent-Length:\r\n\r\nx", "a bad content length"},
        {"P / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\nx", "a bad content length"},
        {"P / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\nx",
         "a bad content length"},
        {"P / HTTP/1.1\r\nContent-Length: 16777217\r\n\r\n", "a body of 16777217 bytes"},
        {"P / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
         "a bad content length"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err e = {0};
        bool eof;
        AUTO(http_message_done) struct http_message m = {0};
        int r = read_bytes(rows[i].bytes, strlen(rows[i].bytes), &m, &eof, &e);
        AUTO(str_free) char *line = xstrdup(rows[i].bytes);
        for (char *c = line; *c; c++)
            *c = *c < ' ' ? '.' : *c;
        if (!ok(r < 0 && e.code == ERR_FAILED && strstr(e.text, rows[i].error),
                "refused: %s", line))
            printf("# %s\n", e.text);
    }
    struct err e = {0};
    bool eof;
    struct http_message m = {0};
    static const char zero[] = "GET / HTTP/1.1\r\nA: \0\r\n\r\n";
    ok(read_bytes(zero, sizeof(zero) - 1, &m, &eof, &e) < 0 &&
           strstr(e.text, "a zero byte"),
       "refused: a zero byte in the head");
}

static void test_bounds(void)
{
    struct err e = {0};
    bool eof;
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    buf_str(&b, "GET / HTTP/1.1\r\nA: ");
    while (b.len < HTTP_HEAD_MAX - 4)
        buf_str(&b, "x");
    buf_str(&b, "\r\n\r\n");
    AUTO(http_message_done) struct http_message m = {0};
    ok(read_bytes(b.data, b.len, &m, &eof, &e) == 0, "a head as long as the ceiling");
    AUTO(str_free) char *longer = xasprintf("%.*sx\r\n\r\n", (int)b.len - 4, b.data);
    ok(read_bytes(longer, b.len + 1, &m, &eof, &e) < 0 &&
           strstr(e.text, "a head of more than 8192 bytes"),
       "not one byte more");
    buf_reset(&b);
    while (b.len < 60 * KIB)
        buf_str(&b, "xxxxxxxxxxxxxxxx");
    ok(read_bytes(b.data, b.len, &m, &eof, &e) < 0 && strstr(e.text, "more than 8192"),
       "a head without end");
    buf_reset(&b);
    buf_str(&b, "GET /");
    for (int i = 0; i < 254; i++)
        buf_str(&b, "x");
    AUTO(str_free) char *fits = xasprintf("%s HTTP/1.1\r\n\r\n", b.data);
    AUTO(str_free) char *passes = xasprintf("%sx HTTP/1.1\r\n\r\n", b.data);
    AUTO(http_message_done) struct http_message n = {0};
    ok(read_bytes(fits, strlen(fits), &n, &eof, &e) == 0 && strlen(n.path) == 255,
       "a path of 255");
    ok(read_bytes(passes, strlen(passes), &n, &eof, &e) < 0, "not of 256");
}

static void test_ends(void)
{
    static const char whole[] = "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
    struct err e = {0};
    bool eof = false, cut_right = true;
    AUTO(http_message_done) struct http_message m = {0};
    ok(read_bytes("", 0, &m, &eof, &e) == 0 && eof && m.body.len == 0 && !m.method[0],
       "a close between messages is no error");
    for (size_t len = 1; len < sizeof(whole) - 1; len++) {
        struct http_message cut = {0};
        e = (struct err){0};
        cut_right = cut_right && read_bytes(whole, len, &cut, &eof, &e) < 0 &&
                    e.code == ERR_RETRY && strstr(e.text, "in the middle of a message");
    }
    ok(cut_right, "a close at any other byte is, and may be retried");
}

static void test_timeout(void)
{
    struct pair p = connect_pair();
    struct http_stream s;
    http_stream_init(&s, p.a);
    struct err e = {0};
    bool eof;
    struct http_message m = {0};
    if (write(p.b, "GET / HT", 8) != 8)
        abort();
    uint64_t start = clock_ms();
    ok(http_read(&s, 100, &m, &eof, &e) < 0 && e.code == ERR_RETRY,
       "half a head times out");
    is_str(e.text, "the peer did not answer in time", "and says so");
    ok(clock_ms() - start >= 100 && clock_ms() - start < 3000, "in its time");
    http_stream_done(&s);
    fd_close(p.a);
    fd_close(p.b);
}

struct slow {
    int fd;
    const char *bytes;
    size_t len;
};

static void *send_slowly(void *arg)
{
    struct slow *s = arg;
    for (size_t i = 0; i < s->len; i++) {
        if (write(s->fd, s->bytes + i, 1) != 1)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 100 * 1000}, NULL);
    }
    return NULL;
}

static void test_slow(void)
{
    static const char two[] = "POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
                              "GET /b HTTP/1.1\r\n\r\n";
    struct pair p = connect_pair();
    struct slow slow = {p.b, two, sizeof(two) - 1};
    pthread_t thread;
    pthread_create(&thread, NULL, send_slowly, &slow);
    struct http_stream s;
    http_stream_init(&s, p.a);
    struct err e = {0};
    bool eof = true;
    AUTO(http_message_done) struct http_message a = {0};
    AUTO(http_message_done) struct http_message b = {0};
    ok(http_read(&s, 20000, &a, &eof, &e) == 0 && strcmp(a.path, "/a") == 0 &&
           strcmp(a.body.data, "body") == 0,
       "a message byte by byte");
    ok(http_read(&s, 20000, &b, &eof, &e) == 0 && strcmp(b.path, "/b") == 0,
       "and the next");
    pthread_join(thread, NULL);
    http_stream_done(&s);
    fd_close(p.a);
    fd_close(p.b);
}

static void test_send(void)
{
    struct err e = {0};
    struct pair p = connect_pair();
    AUTO(json_free) json_t *j = json_pack("{s:i}", "a", 1);
    char got[400] = "";
    ok(http_send_request(p.a, "POST", "/x", j, &e) == 0, "a request is sent");
    (void)!read(p.b, got, sizeof(got) - 1);
    is_str(got,
           "POST /x HTTP/1.1\r\nHost: godwit\r\nContent-Type: application/json\r\n"
           "Content-Length: 7\r\n\r\n{\"a\":1}",
           "byte for byte");
    memset(got, 0, sizeof(got));
    ok(http_send_response(p.a, 404, NULL, &e) == 0, "a response is sent");
    (void)!read(p.b, got, sizeof(got) - 1);
    is_str(got, "HTTP/1.1 404 Error\r\nContent-Length: 0\r\n\r\n", "byte for byte");
    static const char *const paths[] = {"x", "", "/a b", "/a\r\nX: y", "/\xc3\xbc"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        ok(http_send_request(p.a, "GET", paths[i], NULL, &e) < 0 &&
               strstr(e.text, "is not a path for a control call"),
           "a bad path is not sent");
    fd_close(p.b);
    signal(SIGPIPE, SIG_DFL); // it would end us
    ok(http_send_request(p.a, "GET", "/", NULL, &e) < 0 && e.code == ERR_RETRY,
       "a peer that is gone may be tried again");
    is_str(e.text, "the peer closed the connection", "and is named");
    fd_close(p.a);
    AUTO(str_free) char *text = xmalloc(HTTP_BODY_MAX + 1);
    memset(text, 'x', HTTP_BODY_MAX);
    text[HTTP_BODY_MAX] = '\0';
    AUTO(json_free) json_t *huge = json_string(text);
    ok(http_send_response(-1, 200, huge, &e) < 0 && strstr(e.text, "is too long"),
       "a body beyond the ceiling is not sent");
    ok(http_send_response(-1, 200, NULL, &e) < 0 && e.code == ERR_FAILED,
       "a bad descriptor");
}

static void *read_large(void *arg)
{
    struct http_stream *s = arg;
    struct err e = {0};
    bool eof;
    struct http_message m = {0};
    size_t *len = xcalloc(1, sizeof(*len));
    if (http_read(s, 30000, &m, &eof, &e) == 0)
        *len = m.body.len;
    http_message_done(&m);
    return len;
}

// Pipes, as ports are no sockets; and more than a pipe holds.
static void test_large(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        abort();
    AUTO(str_free) char *text = xmalloc(10 * MIB + 1);
    memset(text, 'x', 10 * MIB);
    text[10 * MIB] = '\0';
    AUTO(json_free) json_t *j = json_string(text);
    struct http_stream s;
    http_stream_init(&s, ends[0]);
    pthread_t thread;
    pthread_create(&thread, NULL, read_large, &s);
    struct err e = {0};
    ok(http_send_response(ends[1], 200, j, &e) == 0, "ten megabytes through a pipe");
    void *len = NULL;
    pthread_join(thread, &len);
    is_u64(*(size_t *)len, 10 * MIB + 2, "arrive");
    free(len);
    http_stream_done(&s);
    fd_close(ends[0]);
    fd_close(ends[1]);
}

int main(void)
{
    test_good();
    test_refused();
    test_bounds();
    test_ends();
    test_timeout();
    test_slow();
    test_send();
    test_large();
    return done_testing();
}

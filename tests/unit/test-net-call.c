// SPDX-License-Identifier: Apache-2.0
// call.c against serve.c over a socket, and each against a peer that misbehaves.
#include "net/net.h"
#include "tap.h"

#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct server {
    int fd, result, calls;
    struct err e;
    pthread_t thread;
};

static int echo(void *context, const json_t *request, json_t **ret_reply, struct err *e)
{
    (void)e;
    ((struct server *)context)->calls++;
    *ret_reply = json_pack("{s:O?}", "got", request);
    return 0;
}

static int nothing(void *context, const json_t *request, json_t **ret_reply,
                   struct err *e)
{
    (void)context;
    (void)request;
    (void)ret_reply;
    (void)e;
    return 0;
}

static int fail_as(void *context, const json_t *request, json_t **ret_reply,
                   struct err *e)
{
    (void)context;
    (void)ret_reply;
    return err_set(e, (enum err_code)json_integer_value(json_object_get(request, "code")),
                   "disk \xc3\xbc"
                   "ber is \"full\"");
}

static int too_much(void *context, const json_t *request, json_t **ret_reply,
                    struct err *e)
{
    (void)context;
    (void)request;
    (void)e;
    AUTO(str_free) char *text = xmalloc(HTTP_BODY_MAX + 1);
    memset(text, 'x', HTTP_BODY_MAX);
    text[HTTP_BODY_MAX] = '\0';
    *ret_reply = json_string(text);
    return 0;
}

static int slow(void *context, const json_t *request, json_t **ret_reply, struct err *e)
{
    (void)context;
    (void)request;
    (void)ret_reply;
    (void)e;
    nanosleep(&(struct timespec){.tv_nsec = 300 * 1000 * 1000}, NULL);
    return 0;
}

static const struct route routes[] = {
    {"POST", "/echo", echo},    {"GET", "/nothing", nothing},
    {"POST", "/fail", fail_as}, {"GET", "/too-much", too_much},
    {"GET", "/slow", slow},
};

static void *serve(void *arg)
{
    struct server *s = arg;
    s->result = http_serve(s->fd, routes, ARRAY_LEN(routes), s, &s->e);
    fd_close(s->fd);
    return NULL;
}

// A server at the other end of *ret_fd.
static void start(struct server *s, int *ret_fd)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    *s = (struct server){.fd = fds[1]};
    *ret_fd = fds[0];
    pthread_create(&s->thread, NULL, serve, s);
}

static void test_calls(void)
{
    struct server server;
    struct http_stream s;
    struct err e = {0};
    int fd;
    start(&server, &fd);
    http_stream_init(&s, fd);
    AUTO(json_free) json_t *body = json_pack("{s:[i,i]}", "a", 1, 2);
    AUTO(json_free) json_t *reply = NULL;
    ok(http_call(&s, "POST", "/echo", body, 5000, &reply, &e) == 0, "a call");
    ok(json_equal(json_object_get(reply, "got"), body), "gets its answer");
    ok(http_call(&s, "POST", "/echo", body, 5000, NULL, &e) == 0,
       "the answer may be nobody's");
    AUTO(json_free) json_t *none = NULL;
    ok(http_call(&s, "GET", "/nothing", NULL, 5000, &none, &e) == 0 && !none,
       "neither side needs a body");
    static const enum err_code codes[] = {ERR_FAILED, ERR_USAGE, ERR_REFUSED,
                                          ERR_CANCELLED, ERR_RETRY};
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        AUTO(json_free) json_t *want = json_pack("{s:i}", "code", (int)codes[i]);
        e = (struct err){0};
        ok(http_call(&s, "POST", "/fail", want, 5000, NULL, &e) < 0 && e.code == codes[i],
           "a handler's error keeps code %d", codes[i]);
        is_str(e.text,
               "disk \xc3\xbc"
               "ber is \"full\"",
               "and text");
    }
    ok(http_call(&s, "GET", "/none", NULL, 5000, NULL, &e) < 0 &&
           strcmp(e.text, "GET /none is no call of this peer") == 0,
       "an unknown path");
    ok(http_call(&s, "GET", "/echo", NULL, 5000, NULL, &e) < 0, "another method");
    ok(http_call(&s, "GET", "/too-much", NULL, 5000, NULL, &e) < 0 &&
           strstr(e.text, "too long for a control call"),
       "an answer beyond the ceiling becomes an error");
    ok(http_call(&s, "POST", "/echo", body, 5000, NULL, &e) == 0, "the stream goes on");
    ok(http_call(&s, "GET", "/slow", NULL, 50, NULL, &e) < 0 && e.code == ERR_RETRY,
       "a timeout");
    is_str(e.text, "GET /slow: the peer did not answer in time", "names the call");
    http_stream_done(&s);
    fd_close(fd);
    pthread_join(server.thread, NULL);
    ok(server.calls == 3, "each call was handled once");
}

// What the server says to raw bytes: the status, and the end of the loop.
static void test_bad_requests(void)
{
    static const struct {
        const char *bytes, *name;
        int status;
        bool ends;
    } rows[] = {
        {"nonsense\r\n\r\n", "what is not HTTP", 400, true},
        {"POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\n{", "what is not JSON", 400,
         false},
        {"GET /echo HTTP/1.1\r\n\r\n", "the wrong method", 405, false},
        {"GET /none HTTP/1.1\r\n\r\n", "the wrong path", 404, false},
        {"POST /fail HTTP/1.1\r\nContent-Length: 10\r\n\r\n{\"code\":3}", "a refusal",
         422, false},
        {"POST /fail HTTP/1.1\r\nContent-Length: 10\r\n\r\n{\"code\":1}", "a failure",
         500, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct server server;
        struct http_stream s;
        struct err e = {0};
        bool eof = false;
        AUTO(http_message_done) struct http_message m = {0};
        int fd;
        start(&server, &fd);
        http_stream_init(&s, fd);
        ok(fd_write(fd, rows[i].bytes, strlen(rows[i].bytes)) == 0 &&
               http_read(&s, 5000, &m, &eof, &e) == 0 && m.status == rows[i].status,
           "%s is answered with %d", rows[i].name, rows[i].status);
        shutdown(fd, SHUT_WR);
        pthread_join(server.thread, NULL);
        ok((server.result < 0) == rows[i].ends, "and the server %s",
           rows[i].ends ? "ends with an error" : "goes on until the peer closes");
        http_stream_done(&s);
        fd_close(fd);
    }
}

static void test_no_request(void)
{
    struct server server;
    int fd;
    start(&server, &fd);
    static const char bytes[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    (void)fd_write(fd, bytes, sizeof(bytes) - 1); // the server's result tells
    pthread_join(server.thread, NULL);
    is_str(server.e.text, "the peer sent an answer, not a request",
           "an answer to a server");
    fd_close(fd);
    start(&server, &fd);
    (void)fd_write(fd, "GET /", 5);
    fd_close(fd);
    pthread_join(server.thread, NULL);
    ok(server.result < 0 && server.e.code == ERR_RETRY, "half a request");
}

static void test_bad_answers(void)
{
    static const struct {
        const char *bytes, *error;
        enum err_code code;
    } rows[] = {
        {"", "GET /x: the peer closed without an answer", ERR_RETRY},
        {"HTTP/1.1 200", "GET /x: the peer closed in the middle of a message", ERR_RETRY},
        {"SSH-2.0-x\r\n\r\n", "GET /x: not a request of HTTP/1.1: \"SSH-2.0-x\"",
         ERR_FAILED},
        {"GET / HTTP/1.1\r\n\r\n", "GET /x: the peer sent a request, not an answer",
         ERR_FAILED},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
         "GET /x: its answer: not valid JSON in line 1", ERR_FAILED},
        {"HTTP/1.1 302 Moved\r\nContent-Length: 0\r\n\r\n",
         "GET /x: the peer answered status 302", ERR_FAILED},
        {"HTTP/1.1 500 X\r\nContent-Length: 1\r\n\r\n{",
         "GET /x: the peer answered status 500", ERR_FAILED},
        {"HTTP/1.1 500 X\r\nContent-Length: 11\r\n\r\n{\"error\":1}",
         "GET /x: the peer answered status 500", ERR_FAILED},
        {"HTTP/1.1 500 X\r\nContent-Length: 13\r\n\r\n{\"error\":\"a\"}", "a",
         ERR_FAILED},
        {"HTTP/1.1 500 X\r\nContent-Length: 22\r\n\r\n{\"error\":\"a\",\"code\":0}", "a",
         ERR_FAILED},
        {"HTTP/1.1 500 X\r\nContent-Length: 23\r\n\r\n{\"error\":\"a\",\"code\":77}", "a",
         ERR_FAILED},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
            abort();
        (void)fd_write(fds[1], rows[i].bytes, strlen(rows[i].bytes));
        shutdown(fds[1], SHUT_WR);
        struct http_stream s;
        http_stream_init(&s, fds[0]);
        struct err e = {0};
        json_t *reply = NULL;
        int r = http_call(&s, "GET", "/x", NULL, 5000, &reply, &e);
        if (!ok(r < 0 && e.code == rows[i].code && str_starts(e.text, rows[i].error) &&
                    !reply,
                "%s", rows[i].error))
            printf("# %d %s\n", e.code, e.text);
        http_stream_done(&s);
        fd_close(fds[0]);
        fd_close(fds[1]);
    }
    struct http_stream s;
    struct err e = {0};
    http_stream_init(&s, -1);
    ok(http_call(&s, "GET", "no path", NULL, 10, NULL, &e) < 0, "a bad path is not sent");
    ok(http_call(&s, "GET", "/x", NULL, 10, NULL, &e) < 0 &&
           str_starts(e.text, "GET /x: "),
       "a bad descriptor");
    http_stream_done(&s);
}

// The peer reads nothing: sending has the call's timeout too.
static void test_stuck(void)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    AUTO(str_free) char *text = xmalloc(8 * MIB + 1);
    memset(text, 'x', 8 * MIB);
    text[8 * MIB] = '\0';
    AUTO(json_free) json_t *body = json_string(text);
    struct http_stream s;
    struct err e = {0};
    http_stream_init(&s, fds[0]);
    ok(http_call(&s, "POST", "/x", body, 100, NULL, &e) < 0 && e.code == ERR_RETRY,
       "a peer that does not read is not waited for");
    http_stream_done(&s);
    fd_close(fds[0]);
    fd_close(fds[1]);
}

int main(void)
{
    test_calls();
    test_bad_requests();
    test_no_request();
    test_bad_answers();
    test_stuck();
    return done_testing();
}

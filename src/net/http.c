// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 messages (RFC 9110, RFC 9112) with Content-Length framing. Stricter than the
// RFC wherever leniency would let two readers disagree on where a message ends: version
// 1.1 only, CRLF only, no folded or repeated framing fields, no Transfer-Encoding, a
// response always says its length. Head and body have ceilings.
//
// Descriptors may block: a read waits in poll, together with cancellation, and writes go
// in pieces that the kernel takes.
#include "net/http.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE (32 * KIB)

void http_message_done(struct http_message *m)
{
    buf_done(&m->body);
}

void http_stream_init(struct http_stream *s, int fd)
{
    *s = (struct http_stream){.fd = fd, .in = BUF_INIT(HTTP_HEAD_MAX + PIECE)};
}

void http_stream_done(struct http_stream *s)
{
    buf_done(&s->in);
}

uint64_t http_deadline(uint64_t timeout_ms)
{
    uint64_t deadline;
    return add_fits(clock_ms(), timeout_ms, &deadline) ? deadline : UINT64_MAX;
}

// Until fd is ready for `events`.
static int wait_ready(int fd, short events, uint64_t deadline, struct err *e)
{
    if (fd < 0)
        return err_errno(e, EBADF, "wait for the peer"); // poll would wait for ever
    for (;;) {
        if (cancel_check(e) < 0)
            return -1;
        uint64_t now = clock_ms(), left = deadline > now ? deadline - now : 0;
        struct pollfd fds[2] = {{.fd = fd, .events = events},
                                {.fd = cancel_fd(), .events = POLLIN}};
        int n = poll(fds, 2, deadline == UINT64_MAX ? -1 : (int)min_u64(left, INT_MAX));
        if (n < 0 && errno != EINTR)
            return err_errno(e, errno, "wait for the peer");
        if (n > 0 && fds[0].revents)
            return 0;
        if (n == 0 && left == 0)
            return err_set(e, ERR_RETRY, "the peer did not answer in time");
    }
}

// --- reading

// One read of at most `size` bytes; 0: the peer closed.
static ssize_t read_some(int fd, char *piece, size_t size, uint64_t deadline,
                         struct err *e)
{
    for (;;) {
        if (wait_ready(fd, POLLIN, deadline, e) < 0)
            return -1;
        ssize_t n = read(fd, piece, size);
        if (n >= 0)
            return n;
        if (errno == ECONNRESET)
            return err_errno(e, EAGAIN, "the peer reset the connection");
        if (errno != EINTR && errno != EAGAIN)
            return err_errno(e, errno, "read from the peer");
    }
}

// Reads ahead until the empty line that ends the head; *ret_len: with that line; 0: the
// peer closed between messages.
static int read_head(struct http_stream *s, uint64_t deadline, size_t *ret_len,
                     struct err *e)
{
    AUTO(str_free) char *piece = xmalloc(PIECE);
    for (;;) {
        const char *end = s->in.len ? memmem(s->in.data, s->in.len, "\r\n\r\n", 4) : NULL;
        size_t len = end ? (size_t)(end - s->in.data) + 4 : s->in.len;
        if (len > HTTP_HEAD_MAX)
            return err_set(e, ERR_FAILED, "the peer sent a head of more than %u bytes",
                           (unsigned)HTTP_HEAD_MAX);
        if (end) {
            *ret_len = len;
            return 0;
        }
        ssize_t n = read_some(s->fd, piece, PIECE, deadline, e);
        if (n < 0)
            return -1;
        if (n == 0 && s->in.len > 0)
            return err_set(e, ERR_RETRY, "the peer closed in the middle of a message");
        if (n == 0) {
            *ret_len = 0;
            return 0;
        }
        buf_add(&s->in, piece, (size_t)n);
    }
}

static bool is_token(const char *s, size_t len)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
              (c >= 'A' && c <= 'Z') || (c && strchr(marks, c))))
            return false;
    }
    return len > 0;
}

// Copies a part of the start line if it fits and is visible ASCII.
static bool take_word(const char *from, size_t len, char *to, size_t size)
{
    for (size_t i = 0; i < len; i++) {
        if (from[i] <= ' ' || from[i] > '~')
            return false;
    }
    if (len == 0 || len >= size)
        return false;
    memcpy(to, from, len);
    to[len] = '\0';
    return true;
}

// "GET /path HTTP/1.1" or "HTTP/1.1 200 OK".
static int parse_start(const char *line, struct http_message *m, struct err *e)
{
    static const char version[] = "HTTP/1.1";
    uint64_t status;
    if (str_starts(line, "HTTP/")) {
        const char *code = line + sizeof(version);
        char digits[4];
        if (!str_starts(line, version) || line[sizeof(version) - 1] != ' ' ||
            strcspn(code, " ") != 3 || !take_word(code, 3, digits, sizeof(digits)) ||
            str_to_u64(digits, &status) < 0 || status < 200)
            return err_set(e, ERR_FAILED, "not a response of HTTP/1.1: \"%.40s\"", line);
        m->status = (int)status;
        return 0;
    }
    size_t method = strcspn(line, " ");
    const char *path = line + method + (line[method] == ' ');
    size_t path_len = strcspn(path, " ");
    if (!is_token(line, method) ||
        !take_word(line, method, m->method, sizeof(m->method)) || path[0] != '/' ||
        !take_word(path, path_len, m->path, sizeof(m->path)) || path[path_len] != ' ' ||
        strcmp(path + path_len + 1, version) != 0)
        return err_set(e, ERR_FAILED, "not a request of HTTP/1.1: \"%.40s\"", line);
    return 0;
}

// One "Name: value"; *length is UINT64_MAX until there was a Content-Length.
static int parse_field(char *line, uint64_t *length, struct err *e)
{
    char *colon = strchr(line, ':');
    if (!colon || !is_token(line, (size_t)(colon - line)))
        return err_set(e, ERR_FAILED, "not a header field of HTTP: \"%.40s\"", line);
    *colon = '\0';
    const char *value = str_trim(colon + 1);
    if (strcasecmp(line, "Transfer-Encoding") == 0)
        return err_set(e, ERR_FAILED,
                       "the peer sends a transfer encoding (\"%.40s\"), "
                       "which control calls do not have",
                       value);
    if (strcasecmp(line, "Content-Length") != 0)
        return 0;
    if (*length != UINT64_MAX || str_to_u64(value, length) < 0)
        return err_set(e, ERR_FAILED, "the peer sent a bad content length \"%.40s\"",
                       value);
    if (*length > HTTP_BODY_MAX)
        return err_set(e, ERR_FAILED,
                       "the peer announced a body of %llu bytes; %u are the most",
                       (unsigned long long)*length, (unsigned)HTTP_BODY_MAX);
    return 0;
}

// The head, NUL terminated, with its empty line; taken apart in place.
static int parse_head(char *head, size_t len, struct http_message *m, uint64_t *ret_body,
                      struct err *e)
{
    uint64_t length = UINT64_MAX;
    bool first = true;
    if (memchr(head, '\0', len))
        return err_set(e, ERR_FAILED, "the peer sent a zero byte in a head");
    for (char *line = head, *end; (end = strstr(line, "\r\n")) && end > line;
         line = end + 2) {
        *end = '\0';
        if (strpbrk(line, "\r\n"))
            return err_set(e, ERR_FAILED, "the peer sent a bare line end in a head");
        if ((first ? parse_start(line, m, e) : parse_field(line, &length, e)) < 0)
            return -1;
        first = false;
    }
    if (first)
        return err_set(e, ERR_FAILED, "the peer sent an empty head");
    if (length == UINT64_MAX && m->status != 0 && m->status != 204)
        return err_set(e, ERR_FAILED, "the peer sent a response without content length");
    *ret_body = length == UINT64_MAX || m->status == 204 ? 0 : length;
    return 0;
}

// What was read ahead, then the rest from fd. Memory grows with what arrives, not with
// what was announced.
static int read_body(struct http_stream *s, uint64_t len, uint64_t deadline,
                     struct buf *body, struct err *e)
{
    size_t ahead = (size_t)min_u64(len, s->in.len);
    buf_add(body, s->in.data, ahead);
    memmove(s->in.data, s->in.data + ahead, s->in.len - ahead + 1);
    s->in.len -= ahead;
    AUTO(str_free) char *piece = len > ahead ? xmalloc(PIECE) : NULL;
    while (body->len < len) {
        ssize_t n =
            read_some(s->fd, piece, (size_t)min_u64(PIECE, len - body->len), deadline, e);
        if (n < 0)
            return -1;
        if (n == 0)
            return err_set(e, ERR_RETRY, "the peer closed in the middle of a message");
        buf_add(body, piece, (size_t)n);
    }
    return 0;
}

int http_read(struct http_stream *s, uint64_t timeout_ms, struct http_message *m,
              bool *ret_eof, struct err *e)
{
    uint64_t deadline = http_deadline(timeout_ms), body = 0;
    AUTO(http_message_done) struct http_message got = {.body = BUF_INIT(HTTP_BODY_MAX)};
    size_t head_len = 0;
    if (read_head(s, deadline, &head_len, e) < 0)
        return -1;
    if (head_len > 0) {
        AUTO(str_free) char *head = xcalloc(1, head_len + 1);
        memcpy(head, s->in.data, head_len);
        if (parse_head(head, head_len, &got, &body, e) < 0)
            return -1;
        memmove(s->in.data, s->in.data + head_len, s->in.len - head_len + 1);
        s->in.len -= head_len;
        if (read_body(s, body, deadline, &got.body, e) < 0)
            return -1;
    }
    *ret_eof = head_len == 0;
    *m = got;
    got.body = (struct buf){0};
    return 0;
}

// --- sending

// send() where it works, for MSG_NOSIGNAL; a port or a pipe is no socket.
static ssize_t send_some(int fd, const char *p, size_t len)
{
    ssize_t n = send(fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    return n < 0 && errno == ENOTSOCK ? write(fd, p, len) : n;
}

int http_send(int fd, const struct buf *b, uint64_t deadline, struct err *e)
{
    for (size_t sent = 0; sent < b->len;) {
        if (wait_ready(fd, POLLOUT, deadline, e) < 0)
            return -1;
        ssize_t n = send_some(fd, b->data + sent, (size_t)min_u64(PIECE, b->len - sent));
        if (n >= 0)
            sent += (size_t)n;
        else if (errno == EPIPE || errno == ECONNRESET)
            return err_set(e, ERR_RETRY, "the peer closed the connection");
        else if (errno != EINTR && errno != EAGAIN)
            return err_errno(e, errno, "send to the peer");
    }
    return 0;
}

// The start line is in b; adds fields and body.
static int finish(struct buf *b, const json_t *body, struct err *e)
{
    AUTO(str_free) char *text = body ? json_text(body) : NULL;
    size_t len = text ? strlen(text) : 0;
    if (len > HTTP_BODY_MAX)
        return err_set(e, ERR_FAILED,
                       "a body of %zu bytes is too long for a control call", len);
    if (text)
        buf_str(b, "Content-Type: application/json\r\n");
    buf_printf(b, "Content-Length: %zu\r\n\r\n", len);
    buf_add(b, text, len);
    return 0;
}

int http_build_request(struct buf *b, const char *method, const char *path,
                       const json_t *body, struct err *e)
{
    char checked[sizeof(((struct http_message *)0)->path)];
    if (path[0] != '/' || !take_word(path, strlen(path), checked, sizeof(checked)))
        return err_set(e, ERR_FAILED, "\"%.40s\" is not a path for a control call", path);
    buf_printf(b, "%s %s HTTP/1.1\r\nHost: godwit\r\n", method, path);
    return finish(b, body, e);
}

int http_send_request(int fd, const char *method, const char *path, const json_t *body,
                      struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(HTTP_HEAD_MAX + HTTP_BODY_MAX);
    if (http_build_request(&b, method, path, body, e) < 0)
        return -1;
    return http_send(fd, &b, UINT64_MAX, e);
}

int http_build_response(struct buf *b, int status, const json_t *body, struct err *e)
{
    buf_printf(b, "HTTP/1.1 %d %s\r\n", status, status < 300 ? "OK" : "Error");
    return finish(b, body, e);
}

int http_send_response(int fd, int status, const json_t *body, struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(HTTP_HEAD_MAX + HTTP_BODY_MAX);
    if (http_build_response(&b, status, body, e) < 0)
        return -1;
    return http_send(fd, &b, UINT64_MAX, e);
}

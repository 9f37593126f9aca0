// SPDX-License-Identifier: Apache-2.0
// The bytes of a served connection. The socket blocks, but never for longer than a tick,
// so that a busy connection costs one system call a message and an idle one sleeps in
// poll(2) together with the cancellation.
#include "disk/serve_parts.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#define TICK_MS 500 // how late a cancellation is noticed
// What lies in a local socket while the next part is read from the disk; TCP chooses by
// itself.
#define SEND_AHEAD ((int)(2 * MIB))

int serve_stream_init(struct server *s, struct err *e)
{
    struct timeval tick = {.tv_usec = TICK_MS * 1000};
    int domain;
    socklen_t len = sizeof(domain);
    if (setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick)) < 0 ||
        setsockopt(s->fd, SOL_SOCKET, SO_SNDTIMEO, &tick, sizeof(tick)) < 0 ||
        getsockopt(s->fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
        return err_errno(e, errno, "serve a connection");
    // Refused without privilege; then as much as anybody may have.
    int ahead = SEND_AHEAD;
    if (domain == AF_UNIX &&
        setsockopt(s->fd, SOL_SOCKET, SO_SNDBUFFORCE, &ahead, sizeof(ahead)) < 0)
        (void)setsockopt(s->fd, SOL_SOCKET, SO_SNDBUF, &ahead, sizeof(ahead));
    return 0;
}

static int check_time(struct server *s, struct err *e)
{
    if (s->deadline_ms != UINT64_MAX && clock_ms() >= s->deadline_ms)
        return err_set(e, ERR_RETRY, "the NBD client did not finish its handshake");
    return cancel_check(e);
}

static int wait_ready(struct server *s, short events, struct err *e)
{
    for (;;) {
        if (check_time(s, e) < 0)
            return -1;
        uint64_t now = clock_ms(), left = s->deadline_ms - min_u64(now, s->deadline_ms);
        struct pollfd fds[2] = {{.fd = s->fd, .events = events},
                                {.fd = cancel_fd(), .events = POLLIN}};
        int timeout = s->deadline_ms == UINT64_MAX ? -1 : (int)min_u64(left, INT_MAX);
        if (poll(fds, 2, timeout) < 0 && errno != EINTR)
            return err_errno(e, errno, "wait for the NBD client");
        if (fds[0].revents != 0)
            return 0;
    }
}

// After a call that did not succeed: 0 means once more.
static int after_error(struct server *s, short events, struct err *e)
{
    if (errno == EAGAIN)
        return wait_ready(s, events, e);
    if (errno == EINTR)
        return check_time(s, e);
    if (errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT)
        return err_set(e, ERR_RETRY, "the NBD client went away: %s", strerror(errno));
    return err_errno(e, errno, "the NBD client");
}

// At least one byte; 0: the peer closed.
static ssize_t recv_some(struct server *s, void *buf, size_t len, int flags,
                         struct err *e)
{
    if (s->deadline_ms != UINT64_MAX && check_time(s, e) < 0)
        return -1;
    for (;;) {
        ssize_t n = recv(s->fd, buf, len, flags);
        if (n >= 0)
            return n;
        if (after_error(s, POLLIN, e) < 0)
            return -1;
    }
}

// More of it into `in`, or, when it would not fit there, as far as possible to its place.
static ssize_t recv_more(struct server *s, uint8_t *buf, size_t len, struct err *e)
{
    if (len >= sizeof(s->in))
        return recv_some(s, buf, len, MSG_WAITALL, e);
    if (s->in_at == s->in_end) {
        ssize_t n = recv_some(s, s->in, sizeof(s->in), 0, e);
        if (n <= 0)
            return n;
        s->in_at = 0;
        s->in_end = (size_t)n;
    }
    size_t part = (size_t)min_u64(len, s->in_end - s->in_at);
    memcpy(buf, s->in + s->in_at, part);
    s->in_at += part;
    return (ssize_t)part;
}

int serve_recv(struct server *s, void *buf, size_t len, bool *ret_end, struct err *e)
{
    uint8_t *to = buf;
    size_t have = (size_t)min_u64(len, s->in_end - s->in_at);
    memcpy(to, s->in + s->in_at, have);
    s->in_at += have;
    while (have < len) {
        ssize_t n = recv_more(s, to + have, len - have, e);
        if (n < 0)
            return -1;
        if (n == 0 && have == 0 && ret_end != NULL) {
            *ret_end = true;
            return 0;
        }
        if (n == 0)
            return err_set(e, ERR_RETRY,
                           "the NBD client closed in the middle of a message");
        have += (size_t)n;
    }
    return 0;
}

int serve_skip(struct server *s, uint64_t len, struct err *e)
{
    for (uint64_t part; len > 0; len -= part) {
        part = min_u64(len, SERVE_DATA_MAX);
        if (serve_recv(s, s->data, (size_t)part, NULL, e) < 0 || cancel_check(e) < 0)
            return -1;
    }
    return 0;
}

int serve_send(struct server *s, struct iovec *v, size_t n, struct err *e)
{
    while (n > 0) {
        struct msghdr m = {.msg_iov = v, .msg_iovlen = n};
        ssize_t sent = sendmsg(s->fd, &m, MSG_NOSIGNAL);
        if (sent < 0 && after_error(s, POLLOUT, e) < 0)
            return -1;
        size_t left = sent < 0 ? 0 : (size_t)sent;
        for (; n > 0 && left >= v->iov_len; v++, n--)
            left -= v->iov_len;
        if (left > 0) {
            v->iov_base = (uint8_t *)v->iov_base + left;
            v->iov_len -= left;
        }
    }
    return 0;
}

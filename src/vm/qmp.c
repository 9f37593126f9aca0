// SPDX-License-Identifier: Apache-2.0
// QEMU's control protocol: one JSON object a line both ways (docs/interop/qmp-spec.rst of
// QEMU). Commands are answered in order; events come in between. Of the events only
// DEVICE_DELETED matters here. QEMU parses hostile images, so its lines are bounded too.
#include "vm/internal.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE_MAX_BYTES MIB
#define DELETED_MAX 64

void qmp_init(struct qmp *q, int fd)
{
    *q = (struct qmp){.fd = fd, .in = BUF_INIT(LINE_MAX_BYTES)};
}

void qmp_done(struct qmp *q)
{
    fd_close(steal_fd(&q->fd));
    buf_done(&q->in);
    strings_done(&q->deleted);
}

// More bytes into q->in; the deadline is on clock_ms.
static int read_more(struct qmp *q, uint64_t deadline, struct err *e)
{
    char piece[8192];
    for (;;) {
        if (cancel_check(e) < 0)
            return -1;
        uint64_t now = clock_ms();
        if (now >= deadline)
            return err_set(e, ERR_RETRY, "QEMU does not answer");
        struct pollfd fds[2] = {{.fd = q->fd, .events = POLLIN},
                                {.fd = cancel_fd(), .events = POLLIN}};
        if (poll(fds, 2, (int)min_u64(deadline - now, INT_MAX)) <= 0 || !fds[0].revents)
            continue;
        ssize_t n = read(q->fd, piece, sizeof(piece));
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return err_set(e, ERR_FAILED, "QEMU has ended");
        buf_add(&q->in, piece, (size_t)n);
        if (q->in.overflow)
            return err_set(e, ERR_FAILED, "QEMU sent a line of more than %u bytes",
                           (unsigned)LINE_MAX_BYTES);
        return 0;
    }
}

static int read_object(struct qmp *q, uint64_t deadline, json_t **ret, struct err *e)
{
    char *end;
    while (q->in.len == 0 || !(end = memchr(q->in.data, '\n', q->in.len))) {
        if (read_more(q, deadline, e) < 0)
            return -1;
    }
    size_t len = (size_t)(end - q->in.data);
    int r = json_parse(q->in.data, len, "QEMU's answer", ret, e);
    q->in.len -= len + 1;
    memmove(q->in.data, end + 1, q->in.len + 1);
    return r;
}

static void note_event(struct qmp *q, const json_t *object)
{
    const char *event = json_string_value(json_object_get(object, "event"));
    const char *id =
        json_string_value(json_object_get(json_object_get(object, "data"), "device"));
    if (event && id && strcmp(event, "DEVICE_DELETED") == 0 && q->deleted.n < DELETED_MAX)
        strings_add(&q->deleted, id);
}

// Without a SIGPIPE when QEMU has ended.
static int send_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return -1;
        text += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int qmp_call(struct qmp *q, const char *command, const json_t *arguments,
             uint64_t timeout_ms, json_t **ret, struct err *e)
{
    uint64_t deadline = clock_ms() + timeout_ms;
    AUTO(json_free) json_t *request = json_pack("{s:s}", "execute", command);
    if (arguments)
        json_object_set(request, "arguments", (json_t *)arguments);
    AUTO(str_free) char *text = json_text(request);
    AUTO(str_free) char *line = xasprintf("%s\n", text);
    if (send_all(q->fd, line, strlen(line)) < 0)
        return err_set(e, ERR_FAILED, "QEMU has ended");
    for (;;) {
        AUTO(json_free) json_t *answer = NULL;
        if (read_object(q, deadline, &answer, e) < 0)
            return err_wrap(e, "QEMU command %s", command);
        json_t *value = json_object_get(answer, "return");
        const json_t *error = json_object_get(answer, "error");
        if (error) {
            const char *why = json_string_value(json_object_get(error, "desc"));
            return err_set(e, why && strstr(why, "lock") ? ERR_REFUSED : ERR_FAILED,
                           "QEMU command %s: %s", command, why ? why : "no reason given");
        }
        if (value) {
            if (ret)
                *ret = json_incref(value);
            return 0;
        }
        note_event(q, answer);
    }
}

int qmp_hello(struct qmp *q, uint64_t timeout_ms, struct err *e)
{
    AUTO(json_free) json_t *greeting = NULL;
    if (read_object(q, clock_ms() + timeout_ms, &greeting, e) < 0)
        return -1;
    if (!json_object_get(greeting, "QMP"))
        return err_set(e, ERR_FAILED,
                       "QEMU's control connection starts with no greeting");
    return qmp_call(q, "qmp_capabilities", NULL, timeout_ms, NULL, e);
}

int qmp_wait_deleted(struct qmp *q, const char *id, uint64_t timeout_ms, struct err *e)
{
    uint64_t deadline = clock_ms() + timeout_ms;
    while (!strings_have(&q->deleted, id)) {
        AUTO(json_free) json_t *object = NULL;
        if (read_object(q, deadline, &object, e) < 0)
            return err_wrap(e, "remove disk %s", id);
        note_event(q, object);
    }
    strings_done(&q->deleted); // one wait at a time, so the others are of no interest
    return 0;
}

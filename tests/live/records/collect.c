// SPDX-License-Identifier: Apache-2.0
// Collects acknowledgements of any number of writers into a file, "MS LINE" each, MS
// being this machine's monotonic clock. A batch is confirmed after the file has it. The
// largest time without any acknowledgement is what a migration cost those who wait for a
// write.
#include "records.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS 32
#define ROOM 8192
#define STAMP 24

struct client {
    int fd; // -1: free
    uint64_t lines;
    size_t have;
    char buf[ROOM];
};
struct summary {
    uint64_t lines, last_ms, gap_ms, gap_from_ms;
};

// The whole lines that a client has sent go to the file. Returns their bytes.
static size_t store(struct client *c, int file, uint64_t now, uint64_t *lines)
{
    static char out[ROOM * (STAMP + 1)]; // every byte may be a line
    size_t len = 0, done = 0;
    for (char *end; (end = memchr(c->buf + done, '\n', c->have - done)) != NULL;) {
        size_t line = (size_t)(end - c->buf) + 1 - done;
        len += (size_t)snprintf(out + len, STAMP, "%llu ", (unsigned long long)now);
        memcpy(out + len, c->buf + done, line);
        len += line;
        done += line;
        (*lines)++;
    }
    write_all(file, out, len);
    memmove(c->buf, c->buf + done, c->have - done);
    c->have -= done;
    return done;
}

static bool serve_client(struct client *c, int file, struct summary *s)
{
    ssize_t n = recv(c->fd, c->buf + c->have, ROOM - c->have, MSG_DONTWAIT);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    c->have += (size_t)n;
    uint64_t now = now_ms(), lines = 0;
    if (store(c, file, now, &lines) == 0)
        return c->have < ROOM; // a line that long is none of ours
    c->lines += lines;
    s->lines += lines;
    if (s->last_ms && now - s->last_ms > s->gap_ms) {
        s->gap_ms = now - s->last_ms;
        s->gap_from_ms = s->last_ms;
    }
    s->last_ms = now;
    char reply[STAMP];
    int len = snprintf(reply, sizeof(reply), "%llu\n", (unsigned long long)c->lines);
    return send_all(c->fd, reply, (size_t)len);
}

static void accept_client(int listener, struct client *clients)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    for (size_t i = 0; fd >= 0 && i < CLIENTS; i++)
        if (clients[i].fd < 0) {
            clients[i] = (struct client){.fd = fd};
            return;
        }
    if (fd >= 0)
        close(fd);
}

int cmd_collect(int argc, char **argv)
{
    usage_if(argc != 3, "collect PORT FILE       until SIGTERM; then a summary");
    static struct client clients[CLIENTS];
    struct summary s = {0};
    stop_on_signals();
    int listener = tcp_listen(argv[1]);
    int file = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0)
        die("%s: %s", argv[2], strerror(errno));
    for (size_t i = 0; i < CLIENTS; i++)
        clients[i].fd = -1;
    while (!stopped) {
        struct pollfd p[CLIENTS + 1];
        for (size_t i = 0; i < CLIENTS; i++)
            p[i] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
        p[CLIENTS] = (struct pollfd){.fd = listener, .events = POLLIN};
        if (poll(p, CLIENTS + 1, 200) <= 0)
            continue;
        for (size_t i = 0; i < CLIENTS; i++)
            if (p[i].fd >= 0 && p[i].revents && !serve_client(&clients[i], file, &s)) {
                close(clients[i].fd);
                clients[i].fd = -1;
            }
        if (p[CLIENTS].revents)
            accept_client(listener, clients);
    }
    if (fsync(file) < 0 && errno != EINVAL)
        die("%s: %s", argv[2], strerror(errno));
    printf("acks=%llu gap_ms=%llu gap_from_ms=%llu gap_to_ms=%llu\n",
           (unsigned long long)s.lines, (unsigned long long)s.gap_ms,
           (unsigned long long)s.gap_from_ms,
           (unsigned long long)(s.gap_from_ms + s.gap_ms));
    return 0;
}

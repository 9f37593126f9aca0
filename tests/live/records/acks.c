// SPDX-License-Identifier: Apache-2.0
// Acknowledgements go to the collector over one connection, which answers with the number
// of lines of this connection that it has stored. A lost connection is made again and
// what was not confirmed is sent again, so a line may arrive twice, never in another
// order.
#include "records.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define QUEUE 1024 // more than all windows together
#define LINE 224
#define WRITERS 16

struct acks {
    const char *where;
    int file;  // of a file; -1: a collector
    int event; // something to send
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint64_t put, sent, confirmed; // lines, ever
    unsigned pending[WRITERS];
    bool stop;
    struct {
        unsigned writer;
        char line[LINE];
    } queue[QUEUE];
};

// Lines that wait, at most as many as fit; false: the connection is lost.
static bool send_waiting(struct acks *a, int fd)
{
    char buf[32 * LINE];
    size_t len = 0;
    pthread_mutex_lock(&a->lock);
    for (; a->sent < a->put && sizeof(buf) - len >= LINE; a->sent++) {
        const char *line = a->queue[a->sent % QUEUE].line;
        memcpy(buf + len, line, strlen(line));
        len += strlen(line);
    }
    pthread_mutex_unlock(&a->lock);
    return send_all(fd, buf, len);
}

// The collector has stored `upto` lines, counted from the first ever.
static void confirm(struct acks *a, uint64_t upto)
{
    pthread_mutex_lock(&a->lock);
    for (; a->confirmed < upto && a->confirmed < a->sent; a->confirmed++)
        a->pending[a->queue[a->confirmed % QUEUE].writer]--;
    pthread_cond_broadcast(&a->moved);
    pthread_mutex_unlock(&a->lock);
}

// What the collector says: numbers, a line each. false: the connection is lost.
static bool read_confirmations(struct acks *a, int fd, uint64_t base, uint64_t *count)
{
    char buf[512];
    ssize_t n = read(fd, buf, sizeof(buf));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    for (ssize_t i = 0; i < n; i++) {
        if (buf[i] == '\n') {
            confirm(a, base + *count);
            *count = 0;
        } else {
            *count = *count * 10 + (uint64_t)(buf[i] - '0');
        }
    }
    return n > 0;
}

static void talk(struct acks *a, int fd)
{
    pthread_mutex_lock(&a->lock);
    uint64_t base = a->sent = a->confirmed, count = 0;
    pthread_mutex_unlock(&a->lock);
    for (bool alive = true; alive;) {
        alive = send_waiting(a, fd);
        pthread_mutex_lock(&a->lock);
        bool more = a->sent < a->put;
        pthread_mutex_unlock(&a->lock);
        struct pollfd wait[2] = {{.fd = fd, .events = POLLIN},
                                 {.fd = a->event, .events = POLLIN}};
        if (!alive || poll(wait, 2, more ? 0 : -1) < 0)
            continue;
        eventfd_t events;
        if (wait[1].revents)
            (void)eventfd_read(a->event, &events);
        if (wait[0].revents)
            alive = read_confirmations(a, fd, base, &count);
    }
}

static void *run(void *arg)
{
    struct acks *a = arg;
    for (;;) {
        int fd = stream_connect(a->where, 1000);
        if (fd < 0) {
            sleep_ms(200);
            continue;
        }
        talk(a, fd);
        close(fd);
    }
    return NULL;
}

struct acks *acks_open(const char *where)
{
    struct acks *a = calloc(1, sizeof(*a));
    pthread_t thread;
    a->where = where;
    a->file = -1;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->moved, NULL);
    if (strcmp(where, "-") == 0) {
        a->file = STDOUT_FILENO;
    } else if (strchr(where, '/')) {
        a->file = open(where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
        if (a->file < 0)
            die("%s: %s", where, strerror(errno));
    } else {
        a->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (a->event < 0 || pthread_create(&thread, NULL, run, a) != 0)
            die("no thread for acknowledgements");
        pthread_detach(thread);
    }
    return a;
}

int acks_put(struct acks *a, unsigned writer, unsigned window, const char *fmt, ...)
{
    char line[LINE];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(line, sizeof(line) - 1, fmt, args);
    va_end(args);
    if (len < 0 || len >= (int)sizeof(line) - 1 || writer >= WRITERS)
        die("an acknowledgement is too long");
    line[len] = '\n';
    line[len + 1] = 0;
    pthread_mutex_lock(&a->lock);
    if (a->file >= 0) {
        write_all(a->file, line, (size_t)len + 1);
        pthread_mutex_unlock(&a->lock);
        return 0;
    }
    while (a->put - a->confirmed == QUEUE && !a->stop)
        pthread_cond_wait(&a->moved, &a->lock);
    if (a->put - a->confirmed < QUEUE) {
        a->queue[a->put % QUEUE].writer = writer;
        memcpy(a->queue[a->put % QUEUE].line, line, (size_t)len + 2);
        a->put++;
        a->pending[writer]++;
        (void)eventfd_write(a->event, 1);
    }
    while (a->pending[writer] >= window && !a->stop)
        pthread_cond_wait(&a->moved, &a->lock);
    int result = a->stop ? -1 : 0;
    pthread_mutex_unlock(&a->lock);
    return result;
}

void acks_stop(struct acks *a)
{
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_broadcast(&a->moved);
    pthread_mutex_unlock(&a->lock);
}

bool acks_drain(struct acks *a, int timeout_ms)
{
    for (uint64_t end = now_ms() + (uint64_t)timeout_ms;; sleep_ms(20)) {
        pthread_mutex_lock(&a->lock);
        bool all = a->confirmed == a->put;
        pthread_mutex_unlock(&a->lock);
        if (all || now_ms() > end)
            return all;
    }
}

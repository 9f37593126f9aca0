// SPDX-License-Identifier: Apache-2.0
// What every subcommand needs: dying, numbers, time, sockets.
#include "records.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

volatile bool stopped;

noreturn void die(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "records: ");
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

void usage_if(bool wrong, const char *text)
{
    if (!wrong)
        return;
    fprintf(stderr, "usage: records %s\n", text);
    exit(2);
}

uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void sleep_ms(uint64_t ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1000),
                         .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

// splitmix64
uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t number(const char *text, const char *what)
{
    char *end = NULL;
    errno = 0;
    uint64_t v = strtoull(text, &end, 10);
    static const char units[] = "KMG";
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (errno || end == text || text[0] == '-' || (*end && (!unit || end[1])))
        die("%s: %s is no number", what, text);
    return unit ? v << 10 * (unit - units + 1) : v;
}

void write_all(int fd, const void *buf, size_t len)
{
    for (const uint8_t *p = buf; len;) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            die("write: %s", strerror(errno));
        p += n;
        len -= (size_t)n;
    }
}

// On sockets and on terminals alike; a slow peer is waited for.
bool send_all(int fd, const void *buf, size_t len)
{
    for (const uint8_t *p = buf; len;) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            (void)poll(&wait, 1, 1000);
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static void no_delay(int fd)
{
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int tcp_listen(const char *port)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)number(port, "port"))};
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 64) < 0)
        die("port %s: %s", port, strerror(errno));
    no_delay(fd); // those that accept() gives inherit it
    return fd;
}

int tcp_start(const char *address, const char *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)number(port, "port"))};
    if (inet_pton(AF_INET, address, &a.sin_addr) != 1)
        die("%s is no IPv4 address", address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    no_delay(fd);
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 || errno == EINPROGRESS)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int unix_connect(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(a.sun_path))
        die("%s is too long for a socket", path);
    memcpy(a.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    int saved = errno;
    if (fd >= 0)
        close(fd);
    errno = saved;
    return -1;
}

int stream_connect(const char *where, int timeout_ms)
{
    if (strchr(where, '/'))
        return unix_connect(where);
    char address[64];
    const char *colon = strrchr(where, ':');
    if (!colon || colon - where >= (int)sizeof(address))
        die("%s is not ADDRESS:PORT", where);
    (void)snprintf(address, sizeof(address), "%.*s", (int)(colon - where), where);
    int fd = tcp_start(address, colon + 1);
    if (fd < 0)
        return -1;
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    int error = ETIMEDOUT;
    socklen_t len = sizeof(error);
    if (poll(&wait, 1, timeout_ms) == 1)
        (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (!error)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

static void on_signal(int sig)
{
    (void)sig;
    stopped = true;
}

void stop_on_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal}; // no SA_RESTART: poll() ends too
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
}

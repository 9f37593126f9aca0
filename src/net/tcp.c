// SPDX-License-Identifier: Apache-2.0
// TCP by numeric addresses: no name service, so that it can be linked statically.
#include "net/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 64
#define DEAD_MS 15000
#define UNSENT_MAX (256 * 1024) // more waits with us, where it can be compressed
#define TOGETHER 8              // connections that share a limit, at most
#define SHARE (256 * KIB)       // of a second, to each of them, when there are several
#define SMALLEST (8 * KIB)
#define WINDOW_MAX (1 << 30) // of TCP

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool fill_host(const char *host, uint16_t port, union address *ret,
                      socklen_t *ret_len)
{
    *ret = (union address){0};
    if (inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1) {
        ret->v4.sin_family = AF_INET;
        ret->v4.sin_port = htons(port);
        *ret_len = sizeof(ret->v4);
        return true;
    }
    AUTO(str_free) char *bare = xstrdup(host);
    char *scope = strchr(bare, '%'); // fe80::1%eth0
    if (scope) {
        *scope++ = '\0';
        ret->v6.sin6_scope_id = if_nametoindex(scope);
        if (ret->v6.sin6_scope_id == 0)
            return false;
    }
    ret->v6.sin6_family = AF_INET6;
    ret->v6.sin6_port = htons(port);
    *ret_len = sizeof(ret->v6);
    return inet_pton(AF_INET6, bare, &ret->v6.sin6_addr) == 1;
}

static int parse(const char *address, union address *ret, socklen_t *ret_len,
                 struct err *e)
{
    AUTO(str_free) char *text = xstrdup(address);
    char *colon = strrchr(text, ':'), *host = text;
    uint64_t port = 0;
    bool good = colon && str_to_u64(colon + 1, &port) == 0 && port <= UINT16_MAX;
    if (good) {
        *colon = '\0';
        bool bracketed = host[0] == '[' && str_ends(host, "]");
        if (bracketed) {
            host[strlen(host) - 1] = '\0';
            host++;
        }
        good = fill_host(host, (uint16_t)port, ret, ret_len) &&
               bracketed == (ret->any.sa_family == AF_INET6);
    }
    return good ? 0
                : err_set(e, ERR_USAGE,
                          "\"%s\" is no numeric address with a port, as 192.0.2.1:7443 "
                          "or [2001:db8::1]:7443",
                          address);
}

static int wait_connected(int fd, const char *address, uint64_t deadline, struct err *e)
{
    for (;;) {
        if (cancel_check(e) < 0)
            return -1;
        uint64_t now = clock_ms(), left = deadline > now ? deadline - now : 0;
        struct pollfd fds[2] = {{.fd = fd, .events = POLLOUT},
                                {.fd = cancel_fd(), .events = POLLIN}};
        int n = poll(fds, 2, (int)min_u64(left, INT_MAX));
        if (n < 0 && errno != EINTR)
            return err_errno(e, errno, "wait for %s", address);
        if (n > 0 && fds[0].revents)
            break;
        if (n == 0 && left == 0)
            return err_set(e, ERR_RETRY, "%s did not answer in time", address);
    }
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    return error ? err_set(e, ERR_RETRY, "connect to %s: %s", address, strerror(error))
                 : 0;
}

int tcp_connect(const char *address, uint64_t bytes_per_second, uint64_t timeout_ms,
                int *ret_fd, struct err *e)
{
    union address a = {0};
    socklen_t len = 0;
    uint64_t deadline;
    if (parse(address, &a, &len, e) < 0)
        return -1;
    if (!add_fits(clock_ms(), timeout_ms, &deadline))
        deadline = UINT64_MAX;
    AUTO(fd_close)
    int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(e, errno, "open a socket for %s", address);
    tcp_expect(fd, bytes_per_second);
    if (connect(fd, &a.any, len) < 0) {
        if (errno != EINPROGRESS && errno != EINTR)
            return err_set(e, ERR_RETRY, "connect to %s: %s", address, strerror(errno));
        if (wait_connected(fd, address, deadline, e) < 0)
            return -1;
    }
    if (fcntl(fd, F_SETFL, 0) < 0)
        return err_errno(e, errno, "set up the connection to %s", address);
    *ret_fd = steal_fd(&fd);
    return 0;
}

void tcp_peer(int fd, char out[static TCP_PEER_LEN])
{
    union address a = {0};
    socklen_t len = sizeof(a);
    out[0] = '\0';
    if (getpeername(fd, &a.any, &len))
        return;
    bool mapped = a.any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a.v6.sin6_addr);
    const void *host = a.any.sa_family == AF_INET ? (const void *)&a.v4.sin_addr
                       : mapped ? (const void *)&a.v6.sin6_addr.s6_addr[12]
                                : (const void *)&a.v6.sin6_addr;
    int family = mapped ? AF_INET : a.any.sa_family;
    (void)inet_ntop(family, host, out, TCP_PEER_LEN); // of a family it knows
}

static char *address_text(const union address *a)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (a->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
        return xasprintf("%s:%u", host, ntohs(a->v4.sin_port));
    }
    inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
    return xasprintf("[%s]:%u", host, ntohs(a->v6.sin6_port));
}

int tcp_listen(const char *address, int *ret_fd, char **ret_address, struct err *e)
{
    union address a = {0};
    socklen_t len = 0;
    if (parse(address, &a, &len, e) < 0)
        return -1;
    AUTO(fd_close) int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int yes = 1, no = 0;
    // "[::]:7443" is for IPv4 too, whatever the system's setting is.
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
        (a.any.sa_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no)) < 0) ||
        bind(fd, &a.any, len) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, &a.any, &len) < 0)
        return err_errno(e, errno, "listen on %s", address);
    *ret_address = address_text(&a);
    *ret_fd = steal_fd(&fd);
    return 0;
}

static void set(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof(value));
}

unsigned tcp_together(uint64_t bytes_per_second)
{
    if (bytes_per_second == 0)
        return TOGETHER;
    return (unsigned)max_u64(min_u64(bytes_per_second / SHARE, TOGETHER), 1);
}

// Under a limit the buffers hold little, so that it is the network that slows the sender
// down and not a queue that we let grow: a quarter of a second's bytes on all of the
// connections that go to a server together, of which the kernel doubles every one. One
// alone gets half of that, as all of it comes at once, and then nothing for as long. A
// sender that never waits does not compress.
static int buffer_size(uint64_t bytes_per_second)
{
    uint64_t n = max_u64(tcp_together(bytes_per_second), 2);
    return (int)min_u64(max_u64(bytes_per_second / 8 / n, SMALLEST), 4 * MIB);
}

// Without a limit the kernel finds the sizes; kernels before 5.14 cannot be told to do so
// again once there was a limit.
static void tune_buffers(int fd, uint64_t bytes_per_second)
{
    if (bytes_per_second == 0) {
        set(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
        return;
    }
    set(fd, SOL_SOCKET, SO_RCVBUF, buffer_size(bytes_per_second));
    set(fd, SOL_SOCKET, SO_SNDBUF, buffer_size(bytes_per_second));
    set(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, WINDOW_MAX); // it was that of tcp_expect
}

// A peer that was offered 64 KiB and sends more than the buffer then takes learns of it
// by a timer, after 0.2 s or more. A size that is locked would be the most that the
// window can ever be, even without a limit: so not on kernels that cannot unlock it.
void tcp_expect(int fd, uint64_t bytes_per_second)
{
    const int unlocked = 0;
    if (bytes_per_second == 0 ||
        setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked, sizeof(unlocked)) < 0)
        return;
    set(fd, SOL_SOCKET, SO_RCVBUF, buffer_size(bytes_per_second));
    set(fd, SOL_SOCKET, SO_BUF_LOCK, unlocked);
}

void tcp_tune(int fd, uint64_t bytes_per_second)
{
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 6);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 3);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MAX);
    tune_buffers(fd, bytes_per_second);
}

// The kernel sends no keep-alives while something is on its way, and gives up on that
// only after a quarter of an hour.
bool tcp_alive(int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
        return true;
    return info.tcpi_unacked == 0 || info.tcpi_retransmits < 3 ||
           info.tcpi_last_ack_recv < DEAD_MS;
}

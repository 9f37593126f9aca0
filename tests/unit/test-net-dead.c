// SPDX-License-Identifier: Apache-2.0
// A network that falls silent, in a network namespace of our own: wires notice, an idle
// one as well as one that is sending.
#include "wire_test.h"

#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>

static bool set_loopback(bool up)
{
    struct ifreq r = {.ifr_name = "lo"};
    AUTO(fd_close) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (ioctl(fd, SIOCGIFFLAGS, &r) < 0)
        return false;
    r.ifr_flags = (short)(up ? r.ifr_flags | IFF_UP : r.ifr_flags & ~IFF_UP);
    return ioctl(fd, SIOCSIFFLAGS, &r) == 0;
}

static bool ends_before(int fd, uint64_t deadline)
{
    static char piece[65536];
    for (;;) {
        uint64_t now = clock_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (now >= deadline || poll(&p, 1, (int)(deadline - now)) <= 0)
            return false;
        if (read(fd, piece, sizeof(piece)) <= 0)
            return poll(&p, 1, 0) > 0 && (p.revents & POLLHUP);
    }
}

int main(void)
{
    static const char *const alpn[] = {"nbd", NULL};
    if (unshare(CLONE_NEWNET) < 0 || !set_loopback(true)) {
        skip("a silent network is noticed",
             "a network namespace of our own is not allowed");
        return done_testing();
    }
    scratch_make();
    sign_agent("pki", "agent");
    struct tls *t = tls_of("pki", "own", "pki");
    struct end idle[2] = {{.o = {.tls = t, .alpn = alpn, .timeout_ms = 5000}},
                          {.o = {.tls = t, .alpn = alpn, .timeout_ms = 5000}}};
    struct end busy[2] = {idle[0], idle[1]};
    ok(open_pair(&idle[0], &idle[1]) && open_pair(&busy[0], &busy[1]), "two wires");
    static const char zeros[65536];
    while (send(busy[0].fd, zeros, sizeof(zeros), MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
    }
    ok(set_loopback(false), "the network falls silent");
    char c;
    while (recv(busy[1].fd, &c, 1, MSG_DONTWAIT) > 0) { // it had room: now it sends
    }
    uint64_t start = clock_ms();
    for (size_t i = 0; i < 2; i++)
        ok(ends_before(idle[i].fd, start + 30000), "an idle end %zu notices", i);
    printf("# %llu ms\n", (unsigned long long)(clock_ms() - start));
    for (size_t i = 0; i < 2; i++)
        ok(ends_before(busy[i].fd, start + 40000), "a busy end %zu notices", i);
    printf("# %llu ms\n", (unsigned long long)(clock_ms() - start));
    for (size_t i = 0; i < 2; i++) {
        close(idle[i].fd);
        close(busy[i].fd);
    }
    wire_drain(5000);
    tls_free(t);
    return done_testing();
}

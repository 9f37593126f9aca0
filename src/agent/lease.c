// SPDX-License-Identifier: Apache-2.0
// A small process that lifts the isolation at its deadline, or when the agent has died:
// a server must never stay cut off because of us. It needs no file, and its memory is
// locked, so that frozen file systems do not stop it. (The freeze has one of its own.)
#include "agent/source.h"

#include <errno.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct lease {
    pid_t pid;
    int fd; // closing it lifts the isolation, a byte before that keeps it
};

static _Noreturn void watch(int fd, uint64_t end_ms)
{
    char byte;
    struct err e;
    prctl(PR_SET_NAME, "godwit-lease");
    (void)freeze_lock_memory(); // refused: it is a small process anyway
    for (;;) {
        uint64_t now = clock_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int r = poll(&p, 1, now < end_ms ? (int)min_u64(end_ms - now, 3600000) : 0);
        if (r > 0 && read(fd, &byte, 1) == 1)
            _exit(0);
        if (r > 0 || (r == 0 && clock_ms() >= end_ms))
            break;
    }
    _exit(isolate_end(&e) ? 1 : 0);
}

int lease_begin(uint64_t deadline_ms, struct lease **ret, struct err *e)
{
    int pair[2];
    uint64_t end = clock_ms() + deadline_ms;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return err_errno(e, errno, "making a socket pair");
    pid_t pid = fork();
    if (pid == 0) {
        // Only its own end: another copy of ours would hide our death from it.
        for (int fd = 3; fd < 1024; fd++) {
            if (fd != pair[1])
                close(fd);
        }
        signal(SIGTERM, SIG_IGN); // a service manager ends all of a unit
        watch(pair[1], end);
    }
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return err_errno(e, errno, "starting the process that lifts the isolation");
    }
    struct lease *l = xcalloc(1, sizeof(*l));
    *l = (struct lease){.pid = pid, .fd = pair[0]};
    *ret = l;
    return 0;
}

void lease_end(struct lease *l, bool keep)
{
    if (!l)
        return;
    if (keep)
        (void)send(l->fd, "k", 1, MSG_NOSIGNAL); // gone already: then it is lifted
    close(l->fd);
    while (waitpid(l->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    free(l);
}

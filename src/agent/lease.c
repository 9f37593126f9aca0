// SPDX-License-Identifier: Apache-2.0
// A small process that lifts the isolation at its deadline, or when the agent has died:
// a server must never stay cut off because of us. It needs no file, and its memory is
// locked, so that frozen file systems do not stop it. (The freeze has one of its own.)
// After a commit it has no deadline, but lifts the isolation of an agent that died before
// its fence was written; behind that the next agent keeps it, and until then we do: what
// is acknowledged in between the copy would not have. While one lives that a dead agent
// left, no other begins: it would lift an isolation that is not its own.
#include "agent/source.h"

#include <errno.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEEP 'k'
#define COMMIT 'c' // answered with the same
#define LOCK_MS 5000
#define LOCK_STEP_US 10000

struct lease {
    pid_t pid;
    int fd; // closing it lifts the isolation, KEEP before that keeps it
};

static _Noreturn void watch(int fd, uint64_t end_ms, const char *state_dir)
{
    char byte;
    struct err e;
    prctl(PR_SET_NAME, "godwit-lease");
    (void)freeze_lock_memory(); // refused: it is a small process anyway
    for (;;) {
        uint64_t now = clock_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int r = poll(&p, 1, now < end_ms ? (int)min_u64(end_ms - now, 3600000) : 0);
        if (r > 0 && read(fd, &byte, 1) == 1) {
            if (byte == KEEP)
                _exit(0);
            end_ms = UINT64_MAX;
            (void)send(fd, &byte, 1, MSG_NOSIGNAL); // gone: read next
            continue;
        }
        if (r > 0 || (r == 0 && clock_ms() >= end_ms))
            break;
    }
    bool fenced = end_ms == UINT64_MAX && fence_there(state_dir);
    _exit(!fenced && isolate_end(&e) ? 1 : 0);
}

// Held by the process that lifts, as long as it lives.
static int lock(const char *run_dir, int *ret_fd, struct err *e)
{
    AUTO(str_free) char *path = path_join(run_dir, "lease.lock");
    uint64_t end = clock_ms() + LOCK_MS;
    while (lock_take(path, "the isolation of this server", ret_fd, e)) {
        if (e->code != ERR_REFUSED)
            return -1;
        if (clock_ms() >= end)
            return err_set(e, ERR_RETRY, "an earlier isolation is still being lifted");
        usleep(LOCK_STEP_US);
    }
    return 0;
}

int lease_begin(const struct source_options *o, uint64_t deadline_ms, struct lease **ret,
                struct err *e)
{
    int pair[2];
    uint64_t end = clock_ms() + deadline_ms;
    AUTO(fd_close) int held = -1;
    if (lock(o->run_dir, &held, e))
        return -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return err_errno(e, errno, "making a socket pair");
    pid_t pid = fork();
    if (pid == 0) {
        // Only its own end: another copy of ours would hide our death from it.
        for (int fd = 3; fd < 1024; fd++) {
            if (fd != pair[1] && fd != held)
                close(fd);
        }
        signal(SIGTERM, SIG_IGN); // a service manager ends all of a unit
        watch(pair[1], end, o->state_dir);
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

bool lease_commit(struct lease *l)
{
    char byte = COMMIT;
    ssize_t n = send(l->fd, &byte, 1, MSG_NOSIGNAL);
    while (n == 1 && (n = read(l->fd, &byte, 1)) < 0 && errno == EINTR)
        n = 1;
    return n == 1;
}

void lease_end(struct lease *l, bool keep)
{
    char byte = KEEP;
    if (!l)
        return;
    if (keep)
        (void)send(l->fd, &byte, 1, MSG_NOSIGNAL); // gone already: then it is lifted
    close(l->fd);
    while (waitpid(l->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    free(l);
}

// SPDX-License-Identifier: Apache-2.0
// A child run to its end with its output caught. Both pipes are read in one poll loop, so
// that neither fills up and stops the child. Once the child has ended only what is in the
// pipes is still read: a daemon that it left behind may hold them open for ever.
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define STDERR_KEPT (4 * KIB)
#define TICK_MS 50 // how late the child's end is noticed when something holds its pipes

// Reads what is there; closes *fd at the end of file. Non-blocking.
static void drain(int *fd, struct buf *to, bool keep_last)
{
    char piece[4096];
    while (*fd >= 0) {
        ssize_t n = read(*fd, piece, sizeof(piece));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            fd_close(steal_fd(fd));
            return;
        }
        if (!to)
            continue;
        buf_add(to, piece, (size_t)n);
        if (to->overflow && !keep_last)
            return;
        if (to->overflow) { // of stderr the end matters
            buf_reset(to);
            buf_add(to, piece, min_u64((uint64_t)n, to->limit));
        }
    }
}

// The last line that is not empty, in place.
static const char *last_line(struct buf *b)
{
    if (!b->data)
        return "";
    char *s = str_trim(b->data);
    char *line = strrchr(s, '\n');
    return str_trim(line ? line + 1 : s);
}

static int judge(const char *name, int status, struct buf *errors, struct err *e)
{
    const char *line = last_line(errors);
    const char *sep = line[0] ? ": " : "";
    if (WIFSIGNALED(status))
        return err_set(e, ERR_FAILED, "%s was ended by signal %d%s%s", name,
                       WTERMSIG(status), sep, line);
    if (WEXITSTATUS(status) != 0)
        return err_set(e, ERR_FAILED, "%s failed (exit code %d)%s%s", name,
                       WEXITSTATUS(status), sep, line);
    return 0;
}

int proc_run(char *const *argv, struct buf *out, struct err *e)
{
    int out_ends[2], err_ends[2];
    if (pipe2(out_ends, O_CLOEXEC) < 0)
        return err_errno(e, errno, "run %s: make a pipe", argv[0]);
    AUTO(fd_close) int out_read = out_ends[0];
    AUTO(fd_close) int out_write = out_ends[1];
    if (pipe2(err_ends, O_CLOEXEC) < 0)
        return err_errno(e, errno, "run %s: make a pipe", argv[0]);
    AUTO(fd_close) int err_read = err_ends[0];
    AUTO(fd_close) int err_write = err_ends[1];
    // Only our ends: O_NONBLOCK belongs to the open file, and each end is one of its own.
    fcntl(out_read, F_SETFL, O_NONBLOCK);
    fcntl(err_read, F_SETFL, O_NONBLOCK);

    AUTO(proc_end) struct proc *p = NULL;
    AUTO(buf_done) struct buf errors = BUF_INIT(STDERR_KEPT);
    struct proc_options options = {
        .argv = argv, .in = -1, .out = out ? out_write : -1, .err = err_write};
    if (proc_start(&options, &p, e) < 0)
        return -1;
    fd_close(steal_fd(&out_write));
    fd_close(steal_fd(&err_write));
    while ((out_read >= 0 || err_read >= 0) && proc_running(p)) {
        struct pollfd fds[3] = {{.fd = out_read, .events = POLLIN},
                                {.fd = err_read, .events = POLLIN},
                                {.fd = cancel_fd(), .events = POLLIN}};
        poll(fds, 3, TICK_MS);
        if (cancel_check(e) < 0)
            return err_wrap(e, "%s", argv[0]);
        drain(&out_read, out, false);
        drain(&err_read, &errors, true);
        if (out && out->overflow)
            break;
    }
    drain(&out_read, out, false);
    drain(&err_read, &errors, true);
    if (out && out->overflow)
        return err_set(e, ERR_FAILED, "%s printed more than %zu bytes", argv[0],
                       out->limit);
    int status = 0;
    if (proc_wait(p, UINT64_MAX, true, &status, e) < 0)
        return err_wrap(e, "%s", argv[0]);
    return judge(argv[0], status, &errors, e);
}

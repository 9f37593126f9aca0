// SPDX-License-Identifier: Apache-2.0
// Children. Everything that needs memory (the search in PATH, the environment) is done
// before fork; between fork and exec the child makes system calls only, because another
// thread of ours may have held any lock. Failure to exec comes back through a pipe that
// exec closes. Waiting is a poll on a pidfd (Linux 5.3), so that a timeout and a
// cancellation can end it.
//
// What surprises: PR_SET_PDEATHSIG fires when the *thread* that forked ends. Children
// that outlive a thread are started by the main thread.
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct proc {
    pid_t pid;
    int pidfd;
    bool reaped;
    int status; // when reaped
};

// --- before fork

// What the child needs, ready for use.
struct plan {
    const struct proc_options *options;
    char *program;
    struct strings env;
    int null, report; // report: the pipe's end that carries errno
    pid_t parent;
    int *fds; // 0, 1, 2, then keep: where each is now, above every number wanted
    size_t n_fds;
};

static void plan_done(struct plan *p)
{
    free(p->program);
    strings_done(&p->env);
    fd_close(p->null);
    fd_close(p->report);
    free(p->fds);
}
__attribute__((unused)) static inline void auto_plan_done(struct plan *p)
{
    plan_done(p);
}

// The file that `name` means, NULL when there is none. Like execvp, but before fork.
static char *find_program(const char *name)
{
    if (strchr(name, '/'))
        return access(name, X_OK) == 0 ? xstrdup(name) : NULL;
    const char *path = getenv("PATH");
    if (!path)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    while (name[0]) {
        size_t n = strcspn(path, ":");
        AUTO(str_free) char *dir = n ? xstrndup(path, n) : xstrdup(".");
        AUTO(str_free) char *file = path_join(dir, name);
        if (access(file, X_OK) == 0)
            return steal(file);
        if (path[n] == '\0')
            return NULL;
        path += n + 1;
    }
    return NULL;
}

static bool same_name(const char *a, const char *b)
{
    size_t n = strcspn(a, "=");
    return strcspn(b, "=") == n && memcmp(a, b, n) == 0;
}

// Ours, without the locale and what `more` replaces, then C.UTF-8 and `more`: programs
// that we read from speak one language.
static void make_env(struct strings *env, char *const *more)
{
    for (char **v = environ; v && *v; v++) {
        bool drop = str_starts(*v, "LC_") || str_starts(*v, "LANG=") ||
                    str_starts(*v, "LANGUAGE=");
        for (char *const *m = more; m && *m; m++)
            drop = drop || same_name(*v, *m);
        if (!drop)
            strings_add(env, *v);
    }
    strings_add(env, "LC_ALL=C.UTF-8");
    for (char *const *m = more; m && *m; m++)
        strings_add(env, *m);
}

// --- between fork and exec: system calls only

__attribute__((noreturn)) static void child_fails(const struct plan *p, int report)
{
    int errnum = errno;
    (void)!write(report, &errnum, sizeof(errnum));
    (void)p;
    _exit(127);
}

// All but the standard ones.
static void close_at_exec(void)
{
    struct rlimit limit;
    if (close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC) == 0)
        return;
    // Before 5.11.
    getrlimit(RLIMIT_NOFILE, &limit);
    for (int fd = 3; (rlim_t)fd < limit.rlim_cur; fd++)
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
}

// Descriptor `from[i]` becomes number want(i). First all are copied above every number
// wanted, so that none is overwritten before it was used. Returns the report pipe's new
// number.
static int child_fds(const struct plan *p)
{
    const struct proc_options *o = p->options;
    int top = 3;
    for (size_t i = 0; i < o->n_keep; i++)
        top = o->keep[i] >= top ? o->keep[i] + 1 : top;
    int report = fcntl(p->report, F_DUPFD_CLOEXEC, top);
    if (report < 0)
        child_fails(p, p->report);
    for (size_t i = 0; i < p->n_fds; i++) {
        p->fds[i] = fcntl(p->fds[i], F_DUPFD_CLOEXEC, top);
        if (p->fds[i] < 0)
            child_fails(p, report);
    }
    // Numbers between the kept ones must close too; CLOEXEC does it at exec.
    close_at_exec();
    for (size_t i = 0; i < p->n_fds; i++) {
        if (dup2(p->fds[i], i < 3 ? (int)i : o->keep[i - 3]) < 0)
            child_fails(p, report);
    }
    return report;
}

__attribute__((noreturn)) static void child(const struct plan *p)
{
    const struct proc_options *o = p->options;
    if (o->new_session)
        setsid();
    else
        setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != p->parent)
        _exit(127); // it ended before prctl
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int s = 1; s < NSIG; s++)
        sigaction(s, &action, NULL); // some cannot be set
    int report = child_fds(p);
    if (o->nice != 0) {
        int now = getpriority(PRIO_PROCESS, 0);
        setpriority(PRIO_PROCESS, 0, now + o->nice); // a refusal costs only speed
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(p->program, o->argv, p->env.v);
    child_fails(p, report);
}

// --- the parent

static int plan_make(struct plan *p, const struct proc_options *o, struct err *e)
{
    p->options = o;
    p->parent = getpid();
    p->program = find_program(o->argv[0]);
    if (!p->program)
        return err_set(e, ERR_FAILED, "run %s: no such program%s", o->argv[0],
                       strchr(o->argv[0], '/') ? "" : " in PATH");
    make_env(&p->env, o->env);
    p->null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (p->null < 0)
        return err_errno(e, errno, "run %s: open /dev/null", o->argv[0]);
    p->n_fds = 3 + o->n_keep;
    p->fds = xcalloc(p->n_fds, sizeof(*p->fds));
    p->fds[0] = o->in >= 0 ? o->in : p->null;
    p->fds[1] = o->out >= 0 ? o->out : p->null;
    p->fds[2] = o->err >= 0 ? o->err : STDERR_FILENO;
    for (size_t i = 0; i < o->n_keep; i++)
        p->fds[3 + i] = o->keep[i];
    if (fcntl(p->fds[2], F_GETFD) < 0)
        p->fds[2] = p->null; // ours is closed
    return 0;
}

// Signals stay blocked across fork: our handlers must not run in the child.
static pid_t fork_child(const struct plan *p)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0)
        child(p);
    int saved = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved;
    return pid;
}

static int reap(struct proc *p)
{
    while (!p->reaped && waitpid(p->pid, &p->status, 0) < 0) {
        if (errno != EINTR) {
            p->status = 127 << 8; // somebody else reaped it
            break;
        }
    }
    p->reaped = true;
    return p->status;
}

int proc_start(const struct proc_options *options, struct proc **ret, struct err *e)
{
    AUTO(plan_done) struct plan plan = {.null = -1, .report = -1};
    int ends[2];
    if (plan_make(&plan, options, e) < 0)
        return -1;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_errno(e, errno, "run %s: make a pipe", options->argv[0]);
    AUTO(fd_close) int from_child = ends[0];
    plan.report = ends[1];
    AUTO(proc_end) struct proc *p = xcalloc(1, sizeof(*p));
    p->pidfd = -1;
    p->pid = fork_child(&plan);
    if (p->pid < 0) {
        p->reaped = true;
        return err_errno(e, errno, "run %s: fork", options->argv[0]);
    }
    fd_close(steal_fd(&plan.report));
    int errnum = 0;
    ssize_t n;
    do
        n = read(from_child, &errnum, sizeof(errnum));
    while (n < 0 && errno == EINTR);
    if (n == sizeof(errnum)) {
        reap(p);
        return err_errno(e, errnum, "run %s", options->argv[0]);
    }
    p->pidfd = pidfd_open(p->pid, 0); // -1: see has_ended
    *ret = steal(p);
    return 0;
}

pid_t proc_pid(const struct proc *p)
{
    return p->pid;
}

// Without pidfd (valgrind and some sandboxes have none) wait_end looks now and then.
#define LOOK_MS 20

static bool has_ended(const struct proc *p)
{
    siginfo_t info = {0};
    if (p->reaped)
        return true;
    if (waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
        return errno == ECHILD; // somebody else reaped it
    return info.si_pid != 0;
}

// Waits for the child (and for cancellation); 1: it ended, 0: timeout, -1: cancelled.
static int wait_end(const struct proc *p, uint64_t timeout_ms, bool cancellable)
{
    uint64_t start = clock_ms(), slice = p->pidfd >= 0 ? 3600 * 1000 : LOOK_MS;
    for (;;) {
        if (has_ended(p))
            return 1;
        if (cancellable && cancel_requested())
            return -1;
        uint64_t passed = clock_ms() - start;
        if (passed >= timeout_ms)
            return 0;
        struct pollfd fds[2] = {{.fd = p->pidfd, .events = POLLIN},
                                {.fd = cancellable ? cancel_fd() : -1, .events = POLLIN}};
        poll(fds, 2, (int)min_u64(timeout_ms - passed, slice));
    }
}

int proc_wait(struct proc *p, uint64_t timeout_ms, bool cancellable, int *ret_status,
              struct err *e)
{
    int r = wait_end(p, timeout_ms, cancellable);
    if (r < 0)
        return cancel_check(e);
    if (r == 0)
        return err_set(e, ERR_RETRY, "process %d still runs after %llu ms", (int)p->pid,
                       (unsigned long long)timeout_ms);
    *ret_status = reap(p);
    return 0;
}

bool proc_running(struct proc *p)
{
    if (wait_end(p, 0, false) != 1)
        return true;
    reap(p);
    return false;
}

void proc_kill(struct proc *p, int signal_number)
{
    // Not reaped, so the number is still its own; its group too.
    if (!p->reaped && kill(-p->pid, signal_number) < 0)
        kill(p->pid, signal_number);
}

void proc_end(struct proc *p)
{
    if (!p)
        return;
    if (!has_ended(p)) {
        proc_kill(p, SIGTERM);
        if (wait_end(p, 5000, false) != 1)
            proc_kill(p, SIGKILL);
    }
    reap(p);
    fd_close(p->pidfd);
    free(p);
}

int proc_have(const char *program, const char *package, struct err *e)
{
    AUTO(str_free) char *file = find_program(program);
    if (!file)
        return err_set(e, ERR_FAILED, "%s is not installed; on Debian: apt install %s",
                       program, package);
    return 0;
}

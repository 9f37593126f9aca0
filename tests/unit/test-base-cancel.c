// SPDX-License-Identifier: Apache-2.0
// cancel.c: each case in a process of its own, because a cancelled one stays so.
#include "base/base.h"
#include "tap.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

// Exit codes of the cases: 0 passed, else the line that did not.
#define EXPECT(condition)              \
    do {                               \
        if (!(condition))              \
            _exit(__LINE__ % 200 + 1); \
    } while (0)

static void before_setup(void)
{
    struct err e = {0};
    EXPECT(cancel_fd() == -1 && !cancel_requested() && cancel_check(&e) == 0);
}

static void first_signal(void)
{
    struct err e = {0};
    cancel_setup();
    EXPECT(cancel_check(&e) == 0 && cancel_fd() >= 0);
    struct pollfd p = {.fd = cancel_fd(), .events = POLLIN};
    EXPECT(poll(&p, 1, 0) == 0);
    raise(SIGINT);
    EXPECT(cancel_requested());
    EXPECT(cancel_check(&e) == -1 && e.code == ERR_CANCELLED);
    EXPECT(strcmp(e.text, "cancelled") == 0);
    EXPECT(poll(&p, 1, 0) == 1 && poll(&p, 1, 0) == 1);
}

static void each_signal(void)
{
    cancel_setup();
    raise(SIGTERM);
    raise(SIGHUP);
    EXPECT(cancel_requested()); // two do not end it
}

static void third_signal(void)
{
    cancel_setup();
    for (int i = 0; i < 3; i++)
        raise(SIGINT);
    EXPECT(false);
}

static void held(void)
{
    struct err e = {0};
    cancel_setup();
    raise(SIGTERM);
    cancel_hold(true);
    EXPECT(!cancel_requested() && cancel_check(&e) == 0);
    struct pollfd p = {.fd = cancel_fd(), .events = POLLIN};
    EXPECT(poll(&p, 1, 0) == 0);
    raise(SIGTERM);
    cancel_hold(false);
    EXPECT(cancel_requested() && cancel_check(&e) == -1);
    p.fd = cancel_fd();
    EXPECT(poll(&p, 1, 0) == 1);
}

static void third_while_held(void)
{
    cancel_setup();
    cancel_hold(true);
    for (int i = 0; i < 3; i++)
        raise(SIGINT);
    EXPECT(false);
}

static void wakes_wait(void)
{
    struct err e = {0};
    cancel_setup();
    char *const argv[] = {"sleep", "1000", NULL};
    struct proc *p = NULL;
    const struct proc_options o = {.argv = argv, .in = -1, .out = -1, .err = -1};
    EXPECT(proc_start(&o, &p, &e) == 0);
    alarm(20);
    signal(SIGUSR1, SIG_DFL);
    pid_t self = getpid(), killer = fork();
    if (killer == 0) {
        usleep(100 * 1000);
        kill(self, SIGTERM);
        _exit(0);
    }
    int status;
    EXPECT(proc_wait(p, UINT64_MAX, true, &status, &e) < 0 && e.code == ERR_CANCELLED);
    EXPECT(proc_running(p));
    EXPECT(proc_wait(p, 20, false, &status, &e) < 0 && e.code == ERR_RETRY);
    proc_end(p);
    waitpid(killer, &status, 0);
}

static void ends_run(void)
{
    struct err e = {0};
    cancel_setup();
    raise(SIGTERM);
    char *const argv[] = {"sleep", "1000", NULL};
    EXPECT(proc_run(argv, NULL, &e) < 0 && e.code == ERR_CANCELLED);
    EXPECT(strcmp(e.text, "sleep: cancelled") == 0);
}

static void ends_rate(void)
{
    cancel_setup();
    struct rate *r = rate_new(1);
    rate_wait(r, 1000 * 1000); // a debt of days
    raise(SIGTERM);
    uint64_t start = clock_ms();
    rate_wait(r, 1);
    EXPECT(clock_ms() - start < 1000);
    rate_free(r);
}

static const struct {
    const char *name;
    void (*run)(void);
    int signal; // that ends it; 0: none
} cases[] = {
    {"nothing is cancelled before", before_setup, 0},
    {"the first signal sets the flag, the error and the descriptor", first_signal, 0},
    {"SIGTERM and SIGHUP count too", each_signal, 0},
    {"the third ends the process", third_signal, SIGINT},
    {"held, it waits until what has to be put back is", held, 0},
    {"... but for the third", third_while_held, SIGINT},
    {"waiting for a child wakes, unless told not to", wakes_wait, 0},
    {"a run child is ended", ends_run, 0},
    {"a rate limit lets go", ends_rate, 0},
};

int main(void)
{
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            cases[i].run();
            _exit(0);
        }
        int status = -1;
        waitpid(pid, &status, 0);
        bool passed = cases[i].signal
                          ? WIFSIGNALED(status) && WTERMSIG(status) == cases[i].signal
                          : WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (!ok(passed, "%s", cases[i].name))
            printf("# status %#x (line %% 200 + 1 in the exit code)\n", status);
    }
    return done_testing();
}

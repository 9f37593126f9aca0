// SPDX-License-Identifier: Apache-2.0
// rate.c beyond one bucket: parents, and a bucket in a file that processes share and are
// killed with.
#include "base/base.h"
#include "scratch.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

// Bytes that pass in `ms`, in steps.
static uint64_t passed_in(struct rate *r, uint64_t step, uint64_t ms)
{
    uint64_t start = clock_ms(), bytes = 0;
    while (clock_ms() - start < ms) {
        rate_wait(r, step);
        bytes += step;
    }
    return bytes * ms / (clock_ms() - start);
}

// More is a broken limit; less may be a busy machine, so that bound is wide.
static void within(uint64_t got, uint64_t want, unsigned percent, const char *name)
{
    ok(got <= want + want * percent / 100 && got >= want / 2, "%s", name);
    printf("# %llu for %llu\n", (unsigned long long)got, (unsigned long long)want);
}

static void test_child(void)
{
    AUTO(rate_free) struct rate *parent = rate_new(4000000);
    AUTO(rate_free) struct rate *child = rate_child(parent, 1000000);
    ok(rate_get(parent) == 4000000 && rate_get(child) == 1000000, "each has its own");
    within(passed_in(child, 10000, 3000), 3000000, 3, "a child keeps its limit");
    rate_set(child, 0);
    ok(rate_limited(child) && rate_lowest(child) == 4000000,
       "a child without one is limited by its parent");
    within(passed_in(child, 10000, 3000), 12000000, 5, "and passes what that lets");
    rate_set(child, 9000000);
    ok(rate_lowest(child) == 4000000, "the lowest counts");
    rate_set(child, 0);
    rate_set(parent, 0);
    ok(!rate_limited(child) && rate_lowest(NULL) == 0, "no limit anywhere is none");
}

// Nanoseconds, as milliseconds, that are not more than `most` and not much less.
static bool about(uint64_t ns, uint64_t most)
{
    return ns <= most * 1000000 && ns > (most - most / 4) * 1000000;
}

static void test_parts(void)
{
    AUTO(rate_free) struct rate *parent = rate_new(1000000);
    AUTO(rate_free) struct rate *child = rate_child(parent, 10000000);
    ok(rate_take(NULL, GIB) == 0, "no limit lets all pass");
    ok(rate_take(child, 80000) == 0, "a bucket without debt does");
    ok(about(rate_take(child, GIB), 80), "a parent in debt does not");
    ok(about(rate_take(child, 1), 80), "who was refused has not paid");
    rate_pay(child, 10000);
    ok(about(rate_take(parent, 1), 90), "what passed unasked is paid for by the next");
    rate_refund(child, 90000);
    ok(rate_take(child, 1) == 0, "what did not pass is given back");
    rate_pay(child, GIB);
    rate_refund(child, 2 * GIB);
    rate_take(child, 200000);
    ok(about(rate_take(child, 1), 100),
       "a tenth of a second's is all that is kept of it");
}

// A process that passes through the file's bucket until it is killed, or for `ms`, and
// says how much.
static pid_t start_user(const char *path, uint64_t ms, int out)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    struct err e;
    struct rate *r = NULL;
    uint64_t bytes = 0;
    if (rate_shared(path, &r, &e) == 0)
        bytes = passed_in(r, 5000, ms);
    _exit(write(out, &bytes, sizeof(bytes)) == (ssize_t)sizeof(bytes) ? 0 : 1);
}

static void test_shared(void)
{
    struct err e;
    AUTO(rate_free) struct rate *r = NULL;
    const char *path = in("rate");
    ok(rate_shared(path, &r, &e) == 0 && !rate_limited(r), "a new file has no limit");
    struct stat st;
    ok(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600, "and is ours alone");
    rate_set(r, 2000000);
    AUTO(rate_free) struct rate *again = NULL;
    ok(rate_shared(path, &again, &e) == 0 && rate_get(again) == 2000000,
       "who opens it finds its limit");
    int pipes[2];
    if (pipe2(pipes, O_CLOEXEC) < 0)
        return;
    pid_t users[4];
    for (size_t i = 0; i < ARRAY_LEN(users); i++)
        users[i] = start_user(path, 3000, pipes[1]);
    uint64_t sum = 0, one;
    for (size_t i = 0; i < ARRAY_LEN(users); i++) {
        waitpid(users[i], NULL, 0);
        sum += read(pipes[0], &one, sizeof(one)) == (ssize_t)sizeof(one) ? one : 0;
    }
    within(sum, 6000000, 4, "four processes have one bucket");
    // Killed at any moment, many times.
    for (int i = 0; i < 50; i++) {
        pid_t pid = start_user(path, 60000, pipes[1]);
        struct timespec t = {.tv_nsec = 1000 * 1000 + i * 10007};
        nanosleep(&t, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    within(passed_in(again, 5000, 2000), 4000000, 4, "the dead block nobody");
    AUTO(rate_free) struct rate *child = rate_child(r, 0);
    within(passed_in(child, 5000, 1000), 2000000, 8, "it may be a parent");
    fd_close(pipes[0]);
    fd_close(pipes[1]);
}

static void test_shared_file(void)
{
    struct err e;
    AUTO(rate_free) struct rate *r = NULL;
    sh("printf 'something else that is as long as nothing in particular' > other");
    ok(rate_shared(in("other"), &r, &e) < 0 && e.code == ERR_FAILED,
       "another file is none");
    ok(rate_shared(in("no/folder"), &r, &e) < 0, "nor is one that cannot be made");
    sh("ln -s other link");
    ok(rate_shared(in("link"), &r, &e) < 0, "a link is not followed");
    // Half made: a process died before it was written.
    sh("truncate -s 64 half");
    ok(rate_shared(in("half"), &r, &e) == 0 && !rate_limited(r),
       "half of one is made whole");
    rate_set(r, 1000);
    rate_wait(r, 1000 * 1000); // a debt of 1000 s
    // As after a boot: the times are of a clock that is no more.
    sh("printf 'another boot' | dd of=half bs=1 seek=8 conv=notrunc 2>/dev/null");
    AUTO(rate_free) struct rate *next = NULL;
    uint64_t start = clock_ms();
    if (ok(rate_shared(in("half"), &next, &e) == 0 && rate_get(next) == 1000,
           "a limit outlives a boot"))
        rate_wait(next, 1);
    ok(clock_ms() - start < 1000, "a debt does not");
}

int main(void)
{
    scratch_make();
    test_child();
    test_parts();
    test_shared();
    test_shared_file();
    return done_testing();
}

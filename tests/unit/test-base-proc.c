// SPDX-License-Identifier: Apache-2.0
// proc.c and run.c with real children: what they inherit, how they end, what is said of
// them.
#include "base/base.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define SH(script) ((char *const[]){"sh", "-c", script, NULL})

static void test_run(void)
{
    struct err e = {0};
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    ok(proc_run(SH("echo out; echo err >&2"), &b, &e) == 0, "a child runs");
    is_str(b.data, "out\n", "its stdout is caught");
    buf_reset(&b);
    ok(proc_run(SH("cat"), &b, &e) == 0 && b.len == 0, "its stdin is empty");
    ok(proc_run(SH("echo $LC_ALL"), &b, &e) == 0, "the locale");
    is_str(b.data, "C.UTF-8\n", "is C.UTF-8");
    ok(proc_run(SH("exit 0"), NULL, &e) == 0, "stdout may be nobody's");
    buf_reset(&b);
    ok(proc_run(SH("i=0; while [ $i -lt 2000 ]; do echo 0123456789; i=$((i+1)); done;"
                   "head -c 200000 /dev/zero >&2"),
                &b, &e) == 0 &&
           b.len == 22000,
       "much output on both streams stops nobody");
}

static void test_run_errors(void)
{
    static const struct {
        char *script;
        const char *error;
    } rows[] = {
        {"exit 3", "sh failed (exit code 3)"},
        {"echo one >&2; echo 'two  ' >&2; echo >&2; exit 1",
         "sh failed (exit code 1): two"},
        {"kill -9 $$", "sh was ended by signal 9"},
        {"echo bye >&2; kill -15 $$", "sh was ended by signal 15: bye"},
        {"yes line | head -n 5000 >&2; echo last >&2; exit 9",
         "sh failed (exit code 9): last"},
    };
    struct err e = {0};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int r = proc_run(SH(rows[i].script), NULL, &e);
        is_str(r < 0 ? e.text : "fine", rows[i].error, rows[i].script);
    }
    AUTO(buf_done) struct buf b = BUF_INIT(100);
    ok(proc_run((char *const[]){"yes", NULL}, &b, &e) < 0, "endless output is stopped");
    is_str(e.text, "yes printed more than 100 bytes", "and named");
    ok(proc_run((char *const[]){"no-such-program", NULL}, NULL, &e) < 0,
       "a missing program");
    is_str(e.text, "run no-such-program: no such program in PATH", "is named");
    ok(proc_run((char *const[]){"/no/such", NULL}, NULL, &e) < 0, "a missing file");
    is_str(e.text, "run /no/such: no such program", "is named");
}

// What is no program although it may be executed: exec itself fails.
static void test_exec_error(void)
{
    struct err e = {0};
    char *dir = NULL;
    if (dir_temp(&dir, &e) < 0)
        abort();
    AUTO(str_free) char *owned = dir;
    AUTO(str_free) char *path = path_join(dir, "garbage");
    ok(file_write(path,
                  "\x7f"
                  "ELF",
                  4, 0755, &e) == 0,
       "a file of garbage");
    ok(proc_run((char *const[]){path, NULL}, NULL, &e) < 0 &&
           strstr(e.text, strerror(ENOEXEC)),
       "the error of exec comes back");
    ok(dir_remove(dir, &e) == 0, "cleaned up");
}

static void test_daemon(void)
{
    struct err e = {0};
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    uint64_t start = clock_ms();
    // Without PDEATHSIG of its own the grandchild lives on for its 3 s, holding the
    // pipes.
    ok(proc_run(SH("sleep 3 & echo started"), &b, &e) == 0,
       "a child that leaves a daemon");
    is_str(b.data, "started\n", "its output is there");
    ok(clock_ms() - start < 2500, "nobody waits for the daemon");
}

static void test_descriptors(void)
{
    struct err e = {0};
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        abort();
    AUTO(fd_close) int from = ends[0];
    AUTO(fd_close) int to = ends[1];
    AUTO(fd_close) int leak = dup(to); // not O_CLOEXEC: must be closed all the same
    AUTO(fd_close) int kept = open("/dev/null", O_RDWR | O_CLOEXEC);
    AUTO(proc_end) struct proc *p = NULL;
    const struct proc_options o = {.argv = SH("cd /proc/self/fd && echo *"),
                                   .in = -1,
                                   .out = to,
                                   .err = to,
                                   .keep = &kept,
                                   .n_keep = 1};
    ok(proc_start(&o, &p, &e) == 0, "a child with a descriptor");
    int status = -1;
    ok(proc_wait(p, 10000, true, &status, &e) == 0 && status == 0, "ends well");
    char got[200] = "";
    ssize_t n = read(from, got, sizeof(got) - 1);
    got[n > 0 ? n : 0] = '\0';
    // One more: the folder itself, which the shell has open while it lists.
    AUTO(str_free) char *want = xasprintf("0 1 2 %d", kept);
    int others = 0;
    AUTO(str_free) char *line = xstrdup(got);
    char *save = NULL;
    for (char *w = strtok_r(line, " \n", &save); w; w = strtok_r(NULL, " \n", &save)) {
        AUTO(str_free) char *number = xasprintf("%d", kept);
        others += strcmp(w, number) != 0 && strlen(w) == 1 && w[0] > '2';
        others += strlen(w) > 1 && strcmp(w, number) != 0;
    }
    if (!ok(others <= 1 && str_starts(got, "0 1 2"), "has 0, 1, 2 and what is kept"))
        printf("# %s want %s\n", got, want);
}

// The numbers wanted are those that the descriptors have, crosswise.
static void test_crossed(void)
{
    struct err e = {0};
    int a[2], b[2];
    if (pipe2(a, O_CLOEXEC) < 0 || pipe2(b, O_CLOEXEC) < 0)
        abort();
    const int keep[] = {b[1], a[1]};
    AUTO(str_free)
    char *script = xasprintf("echo a >&%d; echo b >&%d; echo o", a[1], b[1]);
    AUTO(proc_end) struct proc *p = NULL;
    const struct proc_options o = {.argv = (char *const[]){"bash", "-c", script, NULL},
                                   .in = -1,
                                   .out = b[1],
                                   .err = -1,
                                   .keep = keep,
                                   .n_keep = 2};
    int status = -1;
    ok(proc_start(&o, &p, &e) == 0 && proc_wait(p, 10000, true, &status, &e) == 0 &&
           status == 0,
       "two kept descriptors, one of them also stdout");
    char got[16] = "";
    ok(read(a[0], got, 15) == 2 && got[0] == 'a', "the first arrives where it belongs");
    memset(got, 0, sizeof(got));
    ok(read(b[0], got, 15) == 4, "the second too");
    is_str(got, "b\no\n", "together with stdout");
    for (int i = 0; i < 2; i++) {
        fd_close(a[i]);
        fd_close(b[i]);
    }
}

static void test_env(void)
{
    struct err e = {0};
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0 || setenv("GODWIT_TEST", "ours", 1) < 0)
        abort();
    AUTO(fd_close) int from = ends[0];
    AUTO(fd_close) int to = ends[1];
    AUTO(proc_end) struct proc *p = NULL;
    const struct proc_options o = {
        .argv = SH("echo $GODWIT_TEST $GODWIT_MORE $(nice)"),
        .in = -1,
        .out = to,
        .err = -1,
        .env = (char *const[]){"GODWIT_TEST=theirs", "GODWIT_MORE=more", NULL},
        .nice = 5};
    int status = -1, now = nice(0);
    ok(proc_start(&o, &p, &e) == 0 && proc_wait(p, 10000, true, &status, &e) == 0,
       "a child with variables");
    char got[64] = "";
    (void)!read(from, got, sizeof(got) - 1);
    AUTO(str_free)
    char *want = xasprintf("theirs more %d\n", now + 5 > 19 ? 19 : now + 5);
    is_str(got, want, "gets them, and its niceness");
}

static void test_end(void)
{
    struct err e = {0};
    struct proc *p = NULL;
    int status = -1;
    const struct proc_options o = {
        .argv = SH("sleep 1000"), .in = -1, .out = -1, .err = -1, .new_session = true};
    if (!ok(proc_start(&o, &p, &e) == 0, "a long child"))
        return;
    pid_t pid = proc_pid(p);
    ok(getsid(pid) == pid, "is in a session of its own");
    ok(proc_running(p), "runs");
    ok(proc_wait(p, 50, true, &status, &e) < 0 && e.code == ERR_RETRY &&
           strstr(e.text, "still runs after 50 ms"),
       "waiting for it times out");
    proc_kill(p, SIGKILL);
    ok(proc_wait(p, 10000, true, &status, &e) == 0 && WIFSIGNALED(status),
       "can be killed");
    ok(!proc_running(p), "and does not run then");
    ok(proc_wait(p, 0, false, &status, &e) == 0 && WTERMSIG(status) == SIGKILL,
       "its status can be had again");
    proc_kill(p, SIGKILL); // harmless: the number may be another's by now
    proc_end(p);
    ok(kill(pid, 0) < 0 && errno == ESRCH, "nothing is left of it");

    ok(proc_start(&o, &p, &e) == 0, "another");
    pid = proc_pid(p);
    uint64_t start = clock_ms();
    proc_end(p);
    ok(kill(pid, 0) < 0 && clock_ms() - start < 4000, "is ended by SIGTERM");
    proc_end(NULL);
}

// A child of a process that is killed dies with it.
static void test_death(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        abort();
    pid_t middle = fork();
    if (middle == 0) {
        struct err e = {0};
        struct proc *p = NULL;
        const struct proc_options o = {.argv = (char *const[]){"sleep", "1000", NULL},
                                       .in = -1,
                                       .out = ends[1],
                                       .err = -1};
        if (proc_start(&o, &p, &e) < 0)
            _exit(1);
        pid_t pid = proc_pid(p);
        (void)!write(ends[1], &pid, sizeof(pid));
        raise(SIGKILL);
    }
    fd_close(ends[1]);
    AUTO(fd_close) int from = ends[0];
    pid_t pid = 0;
    ok(read(from, &pid, sizeof(pid)) == sizeof(pid),
       "a child of a process that is killed");
    int status;
    waitpid(middle, &status, 0);
    char c;
    ok(read(from, &c, 1) == 0, "dies with it"); // it held the pipe's last end
}

static void test_have(void)
{
    struct err e = {0};
    ok(proc_have("sh", "dash", &e) == 0, "sh is there");
    ok(proc_have("no-such-program", "some-package", &e) < 0, "another is not");
    is_str(e.text,
           "no-such-program is not installed; on Debian: apt install some-package",
           "and its package is named");
}

static void *run_some(void *arg)
{
    int *failed = arg;
    for (int i = 0; i < 20; i++) {
        struct err e = {0};
        AUTO(buf_done) struct buf b = BUF_INIT(100);
        if (proc_run((char *const[]){"echo", "x", NULL}, &b, &e) < 0 || b.len != 2)
            __atomic_add_fetch(failed, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[4];
    int failed = 0;
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_create(&threads[i], NULL, run_some, &failed);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    ok(failed == 0, "threads start children side by side");
}

int main(void)
{
    test_run();
    test_run_errors();
    test_exec_error();
    test_daemon();
    test_descriptors();
    test_crossed();
    test_env();
    test_end();
    test_death();
    test_have();
    test_threads();
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// The operator's programs around the freeze: DIR/hooks.d/* in order of their names with
// the word "quiesce" (stop a service, flush a database), in the opposite order with
// "resume". One that fails or takes too long ends the quiesce; those that ran are told to
// resume.
#include "agent/source.h"

#include <dirent.h>
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOOKS_MAX 64

static int is_hook(const struct dirent *d)
{
    return d->d_name[0] != '.' && !strchr(d->d_name, '~');
}

static int run_one(const char *path, const char *what, uint64_t timeout_ms, struct err *e)
{
    char *argv[] = {(char *)path, (char *)what, NULL};
    int status;
    AUTO(proc_end) struct proc *p = NULL;
    if (proc_start(&(struct proc_options){.argv = argv, .in = -1, .out = -1, .err = -1},
                   &p, e))
        return -1;
    if (proc_wait(p, timeout_ms, false, &status, e)) {
        proc_kill(p, SIGKILL); // it had its time; proc_end reaps it
        return err_set(e, ERR_RETRY, "hook %s %s was not done after %llu ms", path, what,
                       (unsigned long long)timeout_ms);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return err_set(e, ERR_FAILED, "hook %s %s ended with %s %d", path, what,
                   WIFEXITED(status) ? "code" : "signal",
                   WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static void resume(const char *folder, struct dirent **names, int n, uint64_t timeout_ms)
{
    for (int i = n; i-- > 0;) {
        AUTO(str_free) char *path = path_join(folder, names[i]->d_name);
        struct err e;
        if (!access(path, X_OK) && run_one(path, "resume", timeout_ms, &e))
            log_line(LOG_WARN, "%s", e.text); // the others have to resume too
    }
}

static int quiesce(const char *folder, struct dirent **names, int n, uint64_t timeout_ms,
                   struct err *e)
{
    uint64_t end = clock_ms() + timeout_ms;
    for (int i = 0; i < n; i++) {
        AUTO(str_free) char *path = path_join(folder, names[i]->d_name);
        uint64_t now = clock_ms();
        if (access(path, X_OK) || !run_one(path, "quiesce", now < end ? end - now : 0, e))
            continue;
        resume(folder, names, i + 1, timeout_ms);
        return -1;
    }
    return 0;
}

int hooks_run(const char *dir, const char *what, uint64_t timeout_ms, struct err *e)
{
    AUTO(str_free) char *folder = path_join(dir, "hooks.d");
    struct dirent **names = NULL;
    int n = scandir(folder, &names, is_hook, alphasort), status = 0;
    if (n < 0)
        return errno == ENOENT ? 0 : err_errno(e, errno, "reading %s", folder);
    if (n > HOOKS_MAX)
        status = err_set(e, ERR_REFUSED, "%s holds %d hooks, %d at most", folder, n,
                         HOOKS_MAX);
    else if (strcmp(what, "quiesce") == 0)
        status = quiesce(folder, names, n, timeout_ms, e);
    else
        resume(folder, names, n, timeout_ms);
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    return status;
}

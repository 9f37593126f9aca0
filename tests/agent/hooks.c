// SPDX-License-Identifier: Apache-2.0
// The operator's hooks around a freeze: their order, one that fails, one that hangs.
#include "agent/source.h"

#include "../unit/tap.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static char *dir, *log_path;

static void write_hook(const char *name, mode_t mode, const char *body)
{
    struct err e;
    AUTO(str_free) char *folder = path_join(dir, "hooks.d");
    AUTO(str_free) char *path = path_join(folder, name);
    AUTO(str_free)
    char *text = xasprintf("#!/bin/sh\necho \"%s $1\" >> %s\n%s\n", name, log_path, body);
    if (dir_make(folder, 0755, &e) || file_write(path, text, strlen(text), mode, &e))
        exit(1);
}

// What the hooks wrote, and forgets it.
static char *ran(void)
{
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    struct err e;
    if (access(log_path, F_OK))
        return xstrdup("");
    if (file_read(log_path, &b, &e))
        exit(1);
    unlink(log_path);
    for (char *p = b.data; p && *p; p++)
        *p = *p == '\n' ? ';' : *p;
    return b.data ? xstrdup(b.data) : xstrdup("");
}

static void begin(void)
{
    struct err e;
    AUTO(str_free) char *folder = path_join(dir, "hooks.d");
    if (dir_remove(folder, &e))
        exit(1);
    AUTO(str_free) char *ignored = ran();
}

static void test_none(void)
{
    struct err e;
    begin();
    ok(hooks_run(dir, "quiesce", 1000, &e) == 0, "no folder of hooks: nothing to do");
}

static void test_order(void)
{
    struct err e;
    begin();
    write_hook("20-database", 0755, "");
    write_hook("10-web", 0755, "");
    write_hook("30-notes", 0644, "");
    int status = hooks_run(dir, "quiesce", 5000, &e);
    AUTO(str_free) char *down = ran();
    ok(!status && strcmp(down, "10-web quiesce;20-database quiesce;") == 0,
       "by name, and only what may be run");
    status = hooks_run(dir, "resume", 5000, &e);
    AUTO(str_free) char *up = ran();
    ok(!status && strcmp(up, "20-database resume;10-web resume;") == 0,
       "the other way round to resume");
}

static void test_failing(void)
{
    struct err e;
    begin();
    write_hook("10-web", 0755, "");
    write_hook("20-database", 0755, "[ $1 = resume ] || exit 3");
    write_hook("30-never", 0755, "");
    int status = hooks_run(dir, "quiesce", 5000, &e);
    AUTO(str_free) char *all = ran();
    ok(status && strstr(e.text, "20-database") && strstr(e.text, "code 3"),
       "one that fails is named with its code");
    ok(strcmp(all, "10-web quiesce;20-database quiesce;20-database resume;10-web "
                   "resume;") == 0,
       "those that ran are told to resume, and no other");
}

static void test_hanging(void)
{
    struct err e;
    begin();
    write_hook("10-web", 0755, "[ $1 = resume ] || sleep 60");
    uint64_t start = clock_ms();
    int status = hooks_run(dir, "quiesce", 300, &e);
    uint64_t ms = clock_ms() - start;
    AUTO(str_free) char *all = ran();
    ok(status && e.code == ERR_RETRY && strstr(e.text, "10-web") && ms < 10000,
       "one that hangs is ended at the deadline");
    ok(strcmp(all, "10-web quiesce;10-web resume;") == 0, "... and resumes");
}

int main(void)
{
    struct err e;
    if (dir_temp(&dir, &e))
        return 1;
    log_path = path_join(dir, "log");
    test_none();
    test_order();
    test_failing();
    test_hanging();
    int status = dir_remove(dir, &e);
    free(dir);
    free(log_path);
    ok(status == 0, "nothing is left");
    return done_testing();
}

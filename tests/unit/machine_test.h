// SPDX-License-Identifier: Apache-2.0
// What the tests of the readers share: a folder with files in it, a description read.
#pragma once
#include "machine/machine.h"
#include "tap.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static char *test_dir;

static void test_die(const struct err *e)
{
    printf("Bail out! %s\n", e->text);
    exit(1);
}

__attribute__((unused)) static void test_start(void)
{
    struct err e;
    char *dir;
    if (dir_temp(&dir, &e) < 0 || path_real(dir, &test_dir, &e) < 0)
        test_die(&e);
    free(dir);
}

__attribute__((unused)) static int test_end(void)
{
    struct err e;
    if (dir_remove(test_dir, &e) < 0)
        test_die(&e);
    free(test_dir);
    return done_testing();
}

// NAME in the test's folder; free() it.
__attribute__((unused)) static char *at(const char *name)
{
    return path_join(test_dir, name);
}

__attribute__((unused)) static void put(const char *name, const void *data, size_t len)
{
    struct err e;
    AUTO(str_free) char *path = at(name);
    AUTO(str_free) char *dir = path_dir(path);
    if (dir_make(dir, 0755, &e) < 0 || file_write(path, data, len, 0644, &e) < 0)
        test_die(&e);
}

__attribute__((unused)) static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

// `text` as file NAME, read. NULL: *e says why.
__attribute__((unused)) static struct machine *read_text(const char *name,
                                                         const char *text, struct err *e)
{
    put_text(name, text);
    AUTO(str_free) char *path = at(name);
    struct machine *m = NULL;
    *e = (struct err){0};
    return machine_read(&(struct machine_options){.path = path}, &m, e) < 0 ? NULL : m;
}

// Is `text` as file NAME refused with an error that has `part` in it?
__attribute__((unused)) static void refused(const char *name, const char *text,
                                            const char *part, const char *what)
{
    struct err e;
    struct machine *m = read_text(name, text, &e);
    bool good = !m && e.code == ERR_REFUSED && strstr(e.text, part);
    if (!good)
        printf("# code %d: %s\n", (int)e.code, m ? "was read" : e.text);
    ok(good, "%s", what);
    machine_free(m);
}

// The disk's file name without the test's folder.
__attribute__((unused)) static const char *disk_name(const struct machine *m, size_t i)
{
    size_t n = strlen(test_dir);
    if (!m || i >= m->n_disks || strncmp(m->disks[i].path, test_dir, n) != 0)
        return "(none)";
    return m->disks[i].path + n + 1;
}

// SPDX-License-Identifier: Apache-2.0
// this exercises: the store: rows come back as they were, one living job a name and
// target, events in order, one worker a job (also over fork and kill), a newer schema.
#include "store/store.h"

#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"

static struct job_row make(const char *name, const char *state)
{
    return (struct job_row){.name = xstrdup(name),
                            .kind = xstrdup("migrate"),
                            .source = xstrdup("/a b/\xc3\xa4.vmdk"),
                            .target = xstrdup("dir:/out"),
                            .state = xstrdup(state),
                            .request = json_pack("{s:i}", "rate", 7),
                            .report = json_object()};
}

static void test_rows(struct store *s)
{
    struct err e;
    struct job_row job = make("vm", "running"), got = {0};
    ok(!store_job_add(s, &job, &e) && job.id == 1 && job.created > 0, "a job is added");
    job.phase = xstrdup("copy");
    job.phase_done = true;
    job.error = xstrdup("it's; DROP TABLE job");
    json_object_set_new(job.report, "n", json_integer(INT64_MAX));
    ok(!store_job_save(s, &job, &e), "and saved");
    ok(!store_job_get(s, 1, &got, &e), "and read");
    is_str(got.source, job.source, "the source comes back");
    is_str(got.error, job.error, "the error comes back, whatever is in it");
    ok(got.phase_done && strcmp(got.phase, "copy") == 0, "the phase comes back");
    ok(json_equal(got.report, job.report) && json_equal(got.request, job.request),
       "report and request come back");
    job_row_done(&got);
    ok(store_job_get(s, 99, &got, &e) && e.code == ERR_USAGE,
       "a job that is not there is ERR_USAGE");
    job.id = 99;
    ok(store_job_save(s, &job, &e) && e.code == ERR_FAILED,
       "a job that is gone cannot be saved");
    job_row_done(&job);
}

static void test_living(struct store *s)
{
    struct err e;
    bool found = false;
    struct job_row second = make("vm", "running"), got = {0};
    ok(store_job_add(s, &second, &e) && e.code == ERR_REFUSED,
       "a second living job of one name and target is refused");
    ok(!store_job_find(s, "migrate", second.source, "dir:/out", "vm", &got, &found, &e) &&
           found && got.id == 1,
       "the living job is found");
    free(got.state);
    got.state = xstrdup("discarded");
    ok(!store_job_save(s, &got, &e), "it is discarded");
    job_row_done(&got);
    ok(!store_job_find(s, "migrate", second.source, "dir:/out", "vm", &got, &found, &e) &&
           !found,
       "a discarded job is not found");
    ok(!store_job_add(s, &second, &e) && second.id == 2, "and its name is free");
    job_row_done(&second);
}

static int count(void *context, const struct event_row *event, struct err *e)
{
    (void)e; // a visitor that cannot fail
    strings_add(context, event->text);
    return 0;
}

static void test_events(struct store *s)
{
    struct err e;
    AUTO(strings_done) struct strings texts = {0};
    ok(!store_event(s, 2, "info", "copy", "first", &e) &&
           !store_event(s, 2, "error", NULL, "second", &e) &&
           !store_events(s, 2, count, &texts, &e) && texts.n == 2 &&
           strcmp(texts.v[0], "first") == 0,
       "events come back in order");
    ok(store_event(s, 99, "info", NULL, "nobody's", &e), "an event needs its job");
}

static void test_lock(struct store *s)
{
    struct err e;
    int ready[2], fd = -1;
    if (pipe(ready))
        return;
    ok(!store_job_running(s, 2), "a job that nobody holds does not run");
    pid_t child = fork();
    if (child == 0) {
        int held;
        char byte = store_job_lock(s, 2, &held, &e) ? 'n' : 'y';
        (void)!write(ready[1], &byte, 1);
        pause();
    }
    char byte = 0;
    ok(read(ready[0], &byte, 1) == 1 && byte == 'y', "another process locks it");
    ok(store_job_running(s, 2), "then it runs");
    char pid[24];
    snprintf(pid, sizeof(pid), "process %ld", (long)child);
    ok(store_job_lock(s, 2, &fd, &e) && e.code == ERR_REFUSED && strstr(e.text, pid),
       "a second lock is refused and names the holder");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    ok(!store_job_running(s, 2), "a killed holder leaves no lock");
    ok(!store_job_lock(s, 2, &fd, &e), "and it can be locked again");
    fd_close(fd);
    close(ready[0]);
    close(ready[1]);
}

static json_t *said(struct store *s,
                    int (*read)(struct store *, uint64_t, json_t **, struct err *))
{
    struct err e;
    json_t *value = NULL;
    return read(s, 2, &value, &e) ? NULL : value;
}

static void test_said(struct store *s, const char *dir)
{
    struct err e;
    struct store *other = NULL;
    struct job_row job = {0};
    AUTO(json_free) json_t *rate = json_pack("{s:i, s:b}", "rate", 5, "pause", 1);
    AUTO(json_free) json_t *go = json_pack("{s:b}", "cutover", 1);
    AUTO(json_free) json_t *done = json_pack("{s:n}", "rate");
    AUTO(json_free) json_t *left = json_pack("{s:b, s:b}", "pause", 1, "cutover", 1);
    AUTO(json_free) json_t *empty = json_object();
    AUTO(json_free) json_t *nothing = said(s, store_wish);
    ok(json_equal(nothing, empty), "nothing is wished for at first");
    ok(!store_open(dir, &other, &e) && !store_job_get(s, 2, &job, &e) &&
           !store_wish_change(other, 2, rate, &e) && !store_wish_change(s, 2, go, &e) &&
           !store_wish_change(s, 2, done, &e) && !store_live_save(s, 2, go, &e),
       "two terminals ask for something, one wish is fulfilled");
    ok(!store_job_save(s, &job, &e), "the row is saved as it was read before");
    job_row_done(&job);
    AUTO(json_free) json_t *wish = said(other, store_wish);
    AUTO(json_free) json_t *live = said(other, store_live);
    ok(json_equal(wish, left), "the other wishes are still there");
    ok(json_equal(live, go), "and what the job said of itself");
    ok(store_wish_change(s, 99, go, &e) && e.code == ERR_USAGE,
       "a job that is not there is told nothing");
    store_close(other);
}

static void test_older(const char *dir)
{
    struct err e;
    struct store *s = NULL;
    sqlite3 *db = NULL;
    AUTO(str_free) char *path = path_join(dir, "godwit.db");
    sqlite3_open(path, &db);
    sqlite3_exec(db,
                 "ALTER TABLE job DROP COLUMN wish; ALTER TABLE job DROP COLUMN live;"
                 "PRAGMA user_version = 1",
                 NULL, NULL, NULL);
    sqlite3_close(db);
    struct job_row job = {0};
    ok(!store_open(dir, &s, &e) && !store_job_get(s, 2, &job, &e),
       "a store of version 1 is brought up to date, its jobs are kept");
    job_row_done(&job);
    AUTO(json_free) json_t *wish = s ? said(s, store_wish) : NULL;
    ok(wish != NULL, "and they can be told something");
    store_close(s);
}

static void test_newer(const char *dir)
{
    struct err e;
    struct store *s = NULL;
    sqlite3 *db = NULL;
    AUTO(str_free) char *path = path_join(dir, "godwit.db");
    sqlite3_open(path, &db);
    sqlite3_exec(db, "PRAGMA user_version = 1000", NULL, NULL, NULL);
    sqlite3_close(db);
    ok(store_open(dir, &s, &e) && e.code == ERR_REFUSED && strstr(e.text, "schema 1000"),
       "a newer schema is refused");
}

static void test_broken(const char *dir)
{
    struct err e;
    struct store *s = NULL;
    AUTO(str_free) char *path = path_join(dir, "godwit.db");
    AUTO(str_free) char *rubbish = xmalloc(8192);
    memset(rubbish, 'x', 8192);
    ok(!file_write(path, rubbish, 8192, 0600, &e) && store_open(dir, &s, &e) &&
           e.code == ERR_FAILED,
       "a file that is no database is an error");
}

int main(void)
{
    struct err e;
    AUTO(str_free) char *dir = NULL;
    struct store *s = NULL;
    if (dir_temp(&dir, &e))
        return 1;
    ok(!store_open(dir, &s, &e), "a store is made");
    if (s) {
        test_rows(s);
        test_living(s);
        test_events(s);
        test_lock(s);
        test_said(s, dir);
    }
    store_close(s);
    test_older(dir);
    test_newer(dir);
    test_broken(dir);
    ok(!dir_remove(dir, &e), "the folder goes");
    return done_testing();
}

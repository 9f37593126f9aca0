// SPDX-License-Identifier: Apache-2.0
// err.c and log.c: texts, codes, what is made harmless, lines on stderr.
#include "base/base.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static void test_set(void)
{
    struct err e = {0};
    ok(err_set(&e, ERR_REFUSED, "disk %d", 7) == -1, "returns -1");
    is_str(e.text, "disk 7", "the text is formatted");
    is_u64(e.code, ERR_REFUSED, "the code is kept");
    err_wrap(&e, "job %s", "a");
    is_str(e.text, "job a: disk 7", "a prefix is put in front");
    is_u64(e.code, ERR_REFUSED, "a prefix keeps the code");
    err_set(&e, ERR_FAILED, "again: %s", e.text);
    is_str(e.text, "again: job a: disk 7", "a text may quote itself");
}

static void test_errno(void)
{
    struct err e = {0};
    err_errno(&e, ENOENT, "open %s", "/x");
    is_str(e.text, "open /x: No such file or directory", "errno in words");
    is_u64(e.code, ERR_FAILED, "ENOENT is a failure");
    static const struct {
        int errnum;
        enum err_code code;
    } rows[] = {{ENOSPC, ERR_FAILED},
                {EACCES, ERR_FAILED},
                {EROFS, ERR_FAILED},
                {EINTR, ERR_RETRY},
                {EAGAIN, ERR_RETRY}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err_errno(&e, rows[i].errnum, "x");
        is_u64(e.code, rows[i].code, strerror(rows[i].errnum));
    }
}

static void test_harmless(void)
{
    static const struct {
        const char *in, *out, *name;
    } rows[] = {
        {"a\nb\tc\x1b[31m\x7f", "a?b?c?[31m?", "control characters"},
        {"\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80",
         "\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80", "UTF-8 stays"},
        {"\xff\xfe", "??", "bytes that are not UTF-8"},
        {"\xc3", "?", "a cut sequence"},
        {"\xc0\xaf", "??", "an overlong form"},
        {"\xed\xa0\x80", "???", "a surrogate"},
        {"\xf4\x90\x80\x80", "????", "beyond the last character"},
        {"\xc2\x9b"
         "1m",
         "?1m", "C1 controls"},
        {"a\xe2\x80\xae"
         "b",
         "a?b", "a bidirectional override"},
    };
    struct err e = {0};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err_set(&e, ERR_FAILED, "%s", rows[i].in);
        is_str(e.text, rows[i].out, rows[i].name);
    }
}

static void test_long(void)
{
    struct err e = {0};
    char text[3000];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    err_set(&e, ERR_FAILED, "%s", text);
    is_u64(strlen(e.text), sizeof(e.text) - 1, "a long text is cut");
    for (size_t i = 0; i < 1000; i++)
        memcpy(text + 2 * i, "\xc3\xbc", 3);
    err_set(&e, ERR_FAILED, "%s", text);
    is_u64(strlen(e.text), sizeof(e.text) - 2, "not in the middle of a character");
    text[0] = '\0';
    err_set(&e, ERR_FAILED, "inner");
    for (int i = 0; i < 300; i++)
        err_wrap(&e, "layer");
    is_u64(strlen(e.text), sizeof(e.text) - 1, "wrapping stays in bounds");
}

// What `write` put on stderr, as a string; free() it.
static char *caught(void (*talk)(void))
{
    struct err e = {0};
    char *dir = NULL;
    if (dir_temp(&dir, &e) < 0)
        abort();
    AUTO(str_free) char *owned = dir;
    AUTO(str_free) char *path = path_join(dir, "err");
    AUTO(fd_close) int before = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    dup2(fd, STDERR_FILENO);
    talk();
    dup2(before, STDERR_FILENO);
    AUTO(buf_done) struct buf b = BUF_INIT(64 * KIB);
    if (file_read(path, &b, &e) < 0 || dir_remove(dir, &e) < 0)
        abort();
    return buf_steal(&b);
}

static void talk_text(void)
{
    log_setup(LOG_INFO, false);
    log_prefix("job %d", 7);
    log_line(LOG_ERROR, "no %s", "disk\n");
    log_line(LOG_INFO, "fine");
    log_line(LOG_DEBUG, "hidden");
    log_prefix(NULL);
    log_line(LOG_WARN, "plain");
}

static void talk_json(void)
{
    log_setup(LOG_DEBUG, true);
    log_prefix("job 7");
    log_line(LOG_DEBUG, "a \"quote\"");
    log_prefix(NULL);
    log_setup(LOG_INFO, false);
}

static void test_log(void)
{
    AUTO(str_free) char *text = caught(talk_text);
    is_str(text, "error: job 7: no disk?\njob 7: fine\nwarning: plain\n",
           "lines of text: level, prefix, threshold");
    AUTO(str_free) char *line = caught(talk_json);
    struct err e = {0};
    AUTO(json_free) json_t *j = NULL;
    ok(json_parse(line, strlen(line), "line", &j, &e) == 0, "a line is JSON");
    is_str(json_string_value(json_object_get(j, "text")), "a \"quote\"", "with its text");
    is_str(json_string_value(json_object_get(j, "level")), "debug", "with its level");
    is_str(json_string_value(json_object_get(j, "prefix")), "job 7", "with its prefix");
    is_u64(strlen(json_string_value(json_object_get(j, "time"))), 20, "with its time");
    ok(!log_enabled(LOG_DEBUG) && log_enabled(LOG_INFO), "log_enabled knows the level");
}

int main(void)
{
    test_set();
    test_errno();
    test_harmless();
    test_long();
    test_log();
    return done_testing();
}

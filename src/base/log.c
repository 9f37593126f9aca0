// SPDX-License-Identifier: Apache-2.0
// Talk on stderr, a line a call and one write(2) a line, so that lines of threads and of
// children that share stderr do not mix. Text:  "error: job 7 disk 1: what happened".
// JSON: {"time", "level", "prefix", "text"} with the same fields.
#include "base/base.h"

#include <stdio.h>
#include <unistd.h>

#define LINE_MAX_LEN (16 * KIB)

// Set once by main before threads start.
static enum log_level log_max = LOG_INFO;
static bool log_json;
static _Thread_local char prefix[64];

static const char *const names[] = {[LOG_ERROR] = "error",
                                    [LOG_WARN] = "warning",
                                    [LOG_INFO] = "info",
                                    [LOG_DEBUG] = "debug"};

void log_setup(enum log_level max, bool as_json)
{
    log_max = max;
    log_json = as_json;
}

bool log_enabled(enum log_level level)
{
    return level <= log_max;
}

void log_prefix(const char *fmt, ...)
{
    prefix[0] = '\0';
    if (!fmt)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof(prefix), fmt, ap);
    va_end(ap);
}

static void add_json(struct buf *line, enum log_level level, const char *text)
{
    char now[24];
    clock_iso(clock_wall(), now);
    AUTO(json_free)
    json_t *j = json_pack("{s:s, s:s}", "time", now, "level", names[level]);
    if (prefix[0])
        json_object_set_new(j, "prefix", json_string(prefix));
    json_object_set_new(j, "text", json_string(text));
    AUTO(str_free) char *s = json_text(j);
    buf_str(line, s);
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if (!log_enabled(level))
        return;
    struct err text; // for its cleaning: what is logged quotes images and peers
    AUTO(buf_done) struct buf body = BUF_INIT(LINE_MAX_LEN);
    va_list ap;
    va_start(ap, fmt);
    char *s = NULL;
    if (vasprintf(&s, fmt, ap) < 0)
        abort();
    va_end(ap);
    AUTO(str_free) char *whole = s;
    (void)err_set(&text, ERR_FAILED, "%s", whole); // it returns -1 by design
    if (log_json)
        add_json(&body, level, text.text);
    else
        buf_printf(&body, "%s%s%s%s%s", level == LOG_INFO ? "" : names[level],
                   level == LOG_INFO ? "" : ": ", prefix, prefix[0] ? ": " : "",
                   text.text);
    buf_str(&body, "\n");
    (void)!write(STDERR_FILENO, body.data, body.len); // nowhere left to complain
}

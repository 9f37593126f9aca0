// SPDX-License-Identifier: Apache-2.0
// Results on stdout: text, JSON, tables.
#include "cmd/cmd.h"

#include <errno.h>
#include <stdio.h>

static int failed; // errno of the first write that did

static void flush(void)
{
    if ((fflush(stdout) || ferror(stdout)) && !failed)
        failed = errno;
    clearerr(stdout);
}

void print_buf(struct buf *b)
{
    fwrite(b->data, 1, b->len, stdout);
    flush();
    buf_reset(b);
}

int print_check(struct err *e)
{
    return failed && failed != EPIPE ? err_errno(e, failed, "writing the result") : 0;
}

bool print_gone(void)
{
    return failed == EPIPE;
}

void print_json(json_t *value)
{
    AUTO(str_free)
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_ENCODE_ANY);
    json_decref(value);
    puts(text ? text : "null");
    flush();
}

void table_cell(struct table *t, const char *text)
{
    char *copy = xstrdup(text && *text ? text : "-");
    for (char *p = copy; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    }
    strings_take(&t->cells, copy);
}

void table_cellf(struct table *t, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    table_cell(t, text);
}

// Characters, not bytes: UTF-8 continuation bytes take no column.
static size_t width(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

void table_print(struct table *t, struct buf *out)
{
    size_t n = t->n_columns, rows = n ? t->cells.n / n : 0;
    for (size_t row = 0; row < rows; row++) {
        for (size_t column = 0; column < n; column++) {
            size_t widest = 0;
            for (size_t i = 0; i < rows; i++) {
                size_t w = width(t->cells.v[i * n + column]);
                widest = w > widest ? w : widest;
            }
            const char *cell = t->cells.v[row * n + column];
            int pad = (int)(widest - width(cell));
            bool right = t->right && strlen(t->right) > column && t->right[column] == 'r';
            if (right)
                buf_printf(out, "%*s%s", pad, "", cell);
            else if (column + 1 == n)
                buf_str(out, cell);
            else
                buf_printf(out, "%s%*s", cell, pad, "");
            buf_str(out, column + 1 == n ? "\n" : "  ");
        }
    }
    strings_done(&t->cells);
}

void table_done(struct table *t)
{
    strings_done(&t->cells);
}

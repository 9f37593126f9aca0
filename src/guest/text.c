// SPDX-License-Identifier: Apache-2.0
// Lines and words of a guest's configuration, and the editing of one file line by line.
// What is not understood stays byte for byte as it was: fixes replace words, they never
// print a file anew.
#include "guest/text.h"

#include <ctype.h>

#include "guest/guest.h"

bool text_line(struct span *rest, struct span *ret_line)
{
    if (!rest->n)
        return false;
    const char *newline = memchr(rest->p, '\n', rest->n);
    size_t n = newline ? (size_t)(newline - rest->p) : rest->n;
    *ret_line = (struct span){rest->p, n};
    n += newline != NULL;
    *rest = (struct span){rest->p + n, rest->n - n};
    return true;
}

bool text_word(struct span *rest, struct span *ret_word)
{
    size_t from = 0;
    while (from < rest->n && isspace((unsigned char)rest->p[from]))
        from++;
    size_t to = from;
    while (to < rest->n && !isspace((unsigned char)rest->p[to]))
        to++;
    if (from == to)
        return false;
    *ret_word = (struct span){rest->p + from, to - from};
    *rest = (struct span){rest->p + to, rest->n - to};
    return true;
}

struct span span_of(const char *s)
{
    return (struct span){s, strlen(s)};
}

struct span span_trim(struct span s)
{
    while (s.n && isspace((unsigned char)s.p[0]))
        s = (struct span){s.p + 1, s.n - 1};
    while (s.n && isspace((unsigned char)s.p[s.n - 1]))
        s.n--;
    return s;
}

bool span_is(struct span s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

bool span_starts(struct span s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

struct span span_unquote(struct span s)
{
    if (s.n >= 2 && (s.p[0] == '"' || s.p[0] == '\'') && s.p[s.n - 1] == s.p[0])
        return (struct span){s.p + 1, s.n - 2};
    return s;
}

char *span_dup(struct span s)
{
    return xstrndup(s.p, s.n);
}

void buf_span(struct buf *b, struct span s)
{
    buf_add(b, s.p, s.n);
}

char *text_assigned(struct span text, const char *name)
{
    struct span line, found = {0};
    while (text_line(&text, &line)) {
        line = span_trim(line);
        size_t n = strlen(name);
        if (span_starts(line, name) && line.n > n && line.p[n] == '=')
            found = (struct span){line.p + n + 1, line.n - n - 1};
    }
    return found.p ? span_dup(span_unquote(span_trim(found))) : NULL;
}

bool ini_next(struct ini *ini)
{
    struct span line;
    while (text_line(&ini->rest, &line)) {
        line = span_trim(line);
        if (!line.n || line.p[0] == '#' || line.p[0] == ';')
            continue;
        if (line.p[0] == '[') {
            bool closed = line.p[line.n - 1] == ']' && line.n >= 2;
            ini->section =
                closed ? (struct span){line.p + 1, line.n - 2} : (struct span){0};
            continue;
        }
        const char *equals = memchr(line.p, '=', line.n);
        if (!equals)
            continue;
        size_t n = (size_t)(equals - line.p);
        ini->key = span_trim((struct span){line.p, n});
        ini->value = span_trim((struct span){equals + 1, line.n - n - 1});
        return true;
    }
    return false;
}

bool ini_at(const struct ini *ini, const char *section, const char *key)
{
    return span_is(ini->section, section) && span_is(ini->key, key);
}

void text_apply(const struct guest *g, struct span text, text_edit_fn *fn, void *ctx,
                struct buf *out, struct strings *notes)
{
    const char *end = text.n ? text.p + text.n : text.p;
    struct span line;
    while (text_line(&text, &line)) {
        fn(g, ctx, line, out, notes);
        if (line.p + line.n < end) // the last line may lack its newline
            buf_str(out, "\n");
    }
}

int text_edit(struct guest *g, const char *path, text_edit_fn *fn, void *ctx,
              struct strings *done, struct err *e)
{
    if (!tree_exists(g->tree, path))
        return 0;
    AUTO(buf_done) struct buf old = BUF_INIT(TEXT_LIMIT);
    if (tree_read(g->tree, path, &old, e))
        return -1;
    AUTO(buf_done) struct buf new = BUF_INIT(2 * TEXT_LIMIT);
    AUTO(strings_done) struct strings notes = {0};
    text_apply(g, (struct span){old.data, old.len}, fn, ctx, &new, &notes);
    if (!notes.n)
        return 0;
    if (new.overflow)
        return err_set(e, ERR_FAILED, "%s in the guest would become too large", path);
    if (tree_write(g->tree, path, new.data, new.len, e))
        return -1;
    for (size_t i = 0; i < notes.n; i++)
        strings_take(done, xasprintf("%s: %s", path, notes.v[i]));
    return 0;
}

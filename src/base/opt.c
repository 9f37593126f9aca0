// SPDX-License-Identifier: Apache-2.0
// Options as data: one table is read by parsing, --help, the man page check and the
// completion. "--name=value", "--name value", "-x value", "-xvalue", flags in one word
// ("-vf"); no abbreviations, because a new option would change what they mean.
#include "base/base.h"

#include <stdio.h>

#define HELP_WIDTH 80
#define HELP_COLUMN_MAX 30

// What is being read: argv[at], and the word's end of which a letter may be taken.
struct words {
    int at, argc;
    char **argv;
};

static int bad_value(const struct opt *o, const char *value, const char *want,
                     struct err *e)
{
    return err_set(e, ERR_USAGE, "--%s: \"%s\" is not %s", o->name, value, want);
}

static bool is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (const char *c = choices; n > 0;) {
        size_t m = strcspn(c, "|");
        if (m == n && memcmp(c, value, n) == 0)
            return true;
        if (c[m] == '\0')
            break;
        c += m + 1;
    }
    return false;
}

static int store(const struct opt *o, const char *value, void *out, struct err *e)
{
    void *at = (char *)out + o->offset;
    uint64_t n = 0;
    switch (o->type) {
    case OPT_FLAG:
        *(bool *)at = true;
        return 0;
    case OPT_STRING:
        *(const char **)at = value;
        return 0;
    case OPT_STRINGS:
        strings_add(at, value);
        return 0;
    case OPT_CHOICE:
        if (!is_choice(o->choices, value))
            return bad_value(o, value, o->choices, e);
        *(const char **)at = value;
        return 0;
    case OPT_U64:
        if (str_to_u64(value, &n) < 0)
            return bad_value(o, value, "a number", e);
        break;
    case OPT_BYTES:
        if (str_to_bytes(value, &n) < 0)
            return bad_value(o, value, "a size (4096, 64k, 1.5G)", e);
        break;
    case OPT_MS:
        if (str_to_ms(value, &n) < 0)
            return bad_value(o, value, "a duration (250ms, 30s, 5m, 1h)", e);
        break;
    }
    *(uint64_t *)at = n;
    return 0;
}

// The value of o: what stands in the same word, else the next word.
static int take_value(struct words *w, const struct opt *o, const char *same_word,
                      void *out, struct err *e)
{
    if (!same_word && w->at + 1 >= w->argc)
        return err_set(e, ERR_USAGE, "--%s needs %s", o->name,
                       o->arg ? o->arg : "a value");
    return store(o, same_word ? same_word : w->argv[++w->at], out, e);
}

static int parse_long(const struct opt *table, struct words *w, void *out, struct err *e)
{
    const char *word = w->argv[w->at] + 2, *equals = strchr(word, '=');
    size_t n = equals ? (size_t)(equals - word) : strlen(word);
    const struct opt *o = table;
    while (o->name && (strlen(o->name) != n || memcmp(o->name, word, n) != 0))
        o++;
    if (!o->name)
        return err_set(e, ERR_USAGE, "unknown option --%.*s", (int)n, word);
    if (o->type != OPT_FLAG)
        return take_value(w, o, equals ? equals + 1 : NULL, out, e);
    if (equals)
        return err_set(e, ERR_USAGE, "--%s takes no value", o->name);
    return store(o, NULL, out, e);
}

static int parse_letters(const struct opt *table, struct words *w, void *out,
                         struct err *e)
{
    for (const char *c = w->argv[w->at] + 1; *c; c++) {
        const struct opt *o = table;
        while (o->name && o->letter != *c)
            o++;
        if (!o->name)
            return err_set(e, ERR_USAGE, "unknown option -%c", *c);
        if (o->type != OPT_FLAG)
            return take_value(w, o, c[1] ? c + 1 : NULL, out, e);
        if (store(o, NULL, out, e) < 0)
            return -1;
    }
    return 0;
}

int opt_parse(const struct opt *table, int argc, char **argv, void *out,
              struct strings *ret_args, struct err *e)
{
    AUTO(strings_done) struct strings args = {0};
    struct words w = {.argc = argc, .argv = argv};
    bool ended = false;
    for (; w.at < argc; w.at++) {
        const char *word = argv[w.at];
        if (ended || word[0] != '-' || word[1] == '\0')
            strings_add(&args, word);
        else if (strcmp(word, "--") == 0)
            ended = true;
        else if ((word[1] == '-' ? parse_long : parse_letters)(table, &w, out, e) < 0)
            return -1;
    }
    *ret_args = args;
    args = (struct strings){0};
    return 0;
}

// "  -o, --output=FILE" into `left`; returns its length, which may exceed the size.
static size_t left_column(const struct opt *o, char *left, size_t size)
{
    char letter[8] = "    ";
    if (o->letter)
        snprintf(letter, sizeof(letter), "-%c, ", o->letter);
    int n = snprintf(left, size, "  %s--%s%s%s", letter, o->name, o->arg ? "=" : "",
                     o->arg ? o->arg : "");
    return n < 0 ? 0 : (size_t)n;
}

// Words of `text` from `column` on, wrapped at HELP_WIDTH.
static void add_wrapped(struct buf *out, const char *text, size_t column)
{
    size_t at = column;
    for (const char *word = text + strspn(text, " "); *word;) {
        size_t n = strcspn(word, " ");
        if (at > column && at + 1 + n > HELP_WIDTH) {
            buf_printf(out, "\n%*s", (int)column, "");
            at = column;
        } else if (at > column) {
            buf_str(out, " ");
            at++;
        }
        buf_add(out, word, n);
        at += n;
        word += n;
        word += strspn(word, " ");
    }
    buf_str(out, "\n");
}

void opt_help(const struct opt *table, struct buf *out)
{
    char left[HELP_WIDTH + 1];
    size_t column = 6; // when every name is too long
    for (const struct opt *o = table; o->name; o++) {
        size_t n = left_column(o, left, sizeof(left)) + 2;
        if (n > column && n <= HELP_COLUMN_MAX)
            column = n;
    }
    for (const struct opt *o = table; o->name; o++) {
        size_t n = left_column(o, left, sizeof(left));
        buf_str(out, left);
        if (n + 2 > column) {
            buf_str(out, "\n");
            n = 0;
        }
        buf_printf(out, "%*s", (int)(column - n), "");
        add_wrapped(out, o->help, column);
    }
}

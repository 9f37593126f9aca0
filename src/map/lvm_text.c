// SPDX-License-Identifier: Apache-2.0
// The configuration language of LVM2 (lvm.conf(5)), as its metadata uses it:
//
//     section { name = 5   name = "text"   name = ["a", 3]   section { … } }   # comment
//
// Read in place: names and strings are ended by NUL and backslashes taken out where they
// stand. Depth and number of nodes have ceilings; nothing is read past the text's end,
// which is a NUL of our own.

#include "lvm_text.h"

#define DEPTH_MAX 16
#define NODES_MAX 200000

struct parser {
    char *at; // ends with NUL
    struct lvm_text *t;
    const char *wrong;
};

static bool fail(struct parser *p, const char *what)
{
    if (!p->wrong)
        p->wrong = what;
    return false;
}

static void skip_space(struct parser *p)
{
    for (;;) {
        while (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')
            p->at++;
        if (*p->at != '#')
            return;
        while (*p->at && *p->at != '\n')
            p->at++;
    }
}

static bool accept(struct parser *p, char c)
{
    skip_space(p);
    if (*p->at != c)
        return false;
    p->at++;
    return true;
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("_-+.@/", c));
}

// A new node, linked behind *last or as the first member of `parent`.
static uint32_t node_add(struct parser *p, uint32_t parent, uint32_t *last,
                         const char *name)
{
    if (p->t->nodes.n >= NODES_MAX) {
        (void)fail(p, "it has too many values");
        return 0;
    }
    uint32_t i = (uint32_t)p->t->nodes.n;
    vec_push(&p->t->nodes, ((struct lvm_node){.name = name}));
    if (*last)
        p->t->nodes.v[*last].next = i;
    else
        p->t->nodes.v[parent].first = i;
    *last = i;
    return i;
}

static bool read_string(struct parser *p, const char **ret)
{
    char *out = p->at;
    *ret = out;
    for (; *p->at != '"'; p->at++) {
        if (*p->at == '\\' && p->at[1])
            p->at++;
        if (!*p->at)
            return fail(p, "a string does not end");
        *out++ = *p->at;
    }
    p->at++;
    *out = 0; // at the latest where the quote stood
    return true;
}

static bool read_number(struct parser *p, int64_t *ret)
{
    bool negative = *p->at == '-';
    int64_t v = 0;
    p->at += negative;
    if (*p->at < '0' || *p->at > '9')
        return fail(p, "a value is of no known kind");
    for (; *p->at >= '0' && *p->at <= '9'; p->at++)
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, *p->at - '0', &v))
            return fail(p, "a number is too large");
    if (*p->at == '.')
        for (p->at++; *p->at >= '0' && *p->at <= '9';)
            p->at++;
    *ret = negative ? -v : v;
    return true;
}

static bool read_scalar(struct parser *p, uint32_t node)
{
    const char *string = NULL;
    int64_t number = 0;
    bool is_string = accept(p, '"');
    if (is_string ? !read_string(p, &string) : !read_number(p, &number))
        return false;
    p->t->nodes.v[node].kind = is_string ? LVM_STRING : LVM_NUMBER;
    p->t->nodes.v[node].string = string;
    p->t->nodes.v[node].number = number;
    return true;
}

static bool read_value(struct parser *p, uint32_t node)
{
    uint32_t last = 0;
    if (!accept(p, '['))
        return read_scalar(p, node);
    p->t->nodes.v[node].kind = LVM_ARRAY;
    while (!accept(p, ']')) {
        uint32_t item = node_add(p, node, &last, NULL);
        if (!item || !read_scalar(p, item))
            return false;
        if (!accept(p, ',')) {
            skip_space(p);
            if (*p->at != ']')
                return fail(p, "an array does not end");
        }
    }
    return true;
}

// Members up to the closing brace, or to the end of the text for the root.
static bool read_members(struct parser *p, uint32_t section, unsigned depth)
{
    uint32_t last = 0;
    p->t->nodes.v[section].kind = LVM_SECTION;
    if (depth > DEPTH_MAX)
        return fail(p, "its sections are nested too deeply");
    for (;;) {
        skip_space(p);
        if (depth == 0 ? !*p->at : accept(p, '}'))
            return true;
        char *name = p->at;
        while (is_word(*p->at))
            p->at++;
        if (p->at == name)
            return fail(p, "a name is missing");
        char *end = p->at;
        bool is_section = accept(p, '{');
        if (!is_section && !accept(p, '='))
            return fail(p, "a name has no value");
        *end = 0; // white space, or the sign that was just accepted
        uint32_t node = node_add(p, section, &last, name);
        if (!node ||
            !(is_section ? read_members(p, node, depth + 1) : read_value(p, node)))
            return false;
    }
}

int lvm_text_parse(char *text, size_t len, struct lvm_text *ret, struct err *e)
{
    AUTO(lvm_text_done) struct lvm_text t = {.text = text, .len = len};
    if (len == 0 || len > LVM_TEXT_MAX)
        return err_set(e, ERR_REFUSED, "LVM metadata has an absurd size (%zu bytes)",
                       len);
    t.text[len - 1] = 0; // where LVM2 puts one too
    vec_push(&t.nodes, ((struct lvm_node){.kind = LVM_SECTION}));
    struct parser p = {.at = t.text, .t = &t};
    if (!read_members(&p, 0, 0))
        return err_set(e, ERR_REFUSED, "LVM metadata cannot be understood: %s", p.wrong);
    *ret = t;
    t = (struct lvm_text){0};
    return 0;
}

void lvm_text_done(struct lvm_text *t)
{
    free(t->text);
    t->text = NULL;
    vec_done(&t->nodes);
}

static const struct lvm_node *at(const struct lvm_text *t, uint32_t i)
{
    return i ? &t->nodes.v[i] : NULL;
}

const struct lvm_node *lvm_first(const struct lvm_text *t, const struct lvm_node *of)
{
    return of ? at(t, of->first) : NULL;
}

const struct lvm_node *lvm_next(const struct lvm_text *t, const struct lvm_node *n)
{
    return n ? at(t, n->next) : NULL;
}

const struct lvm_node *lvm_member(const struct lvm_text *t, const struct lvm_node *of,
                                  const char *name)
{
    for (const struct lvm_node *n = lvm_first(t, of); n; n = lvm_next(t, n))
        if (n->name && strcmp(n->name, name) == 0)
            return n;
    return NULL;
}

const char *lvm_string(const struct lvm_text *t, const struct lvm_node *of,
                       const char *name)
{
    const struct lvm_node *n = lvm_member(t, of, name);
    return n && n->kind == LVM_STRING ? n->string : NULL;
}

bool lvm_number(const struct lvm_text *t, const struct lvm_node *of, const char *name,
                uint64_t max, uint64_t *ret)
{
    const struct lvm_node *n = lvm_member(t, of, name);
    if (!n || n->kind != LVM_NUMBER || n->number < 0 || (uint64_t)n->number > max)
        return false;
    *ret = (uint64_t)n->number;
    return true;
}

bool lvm_has(const struct lvm_text *t, const struct lvm_node *of, const char *name,
             const char *word)
{
    const struct lvm_node *n = lvm_first(t, lvm_member(t, of, name));
    for (; n; n = lvm_next(t, n))
        if (n->kind == LVM_STRING && strcmp(n->string, word) == 0)
            return true;
    return false;
}

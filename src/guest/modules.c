// SPDX-License-Identifier: Apache-2.0
// A kernel's modules as depmod(8) left them in the guest: modules.dep (a line a module,
// "PATH: PATH…", all it needs), modules.builtin and the softdeps that modules ask for.
// Names count '-' and '_' as the same.
#include "guest/guest.h"
#include "guest/initramfs.h"
#include "guest/text.h"

#define INDEX_LIMIT (32 * MIB)
#define CLOSURE_LIMIT 256

struct row {
    char *name, *path;
    struct span needs;
};
struct modules {
    char *version;
    struct buf dep, builtin, soft;
    VEC(struct row) rows;
};

char *module_name(const char *path)
{
    const char *base = path_base(path);
    const char *end = strstr(base, ".ko");
    char *name = xstrndup(base, end ? (size_t)(end - base) : strlen(base));
    for (char *p = name; *p; p++)
        if (*p == '-')
            *p = '_';
    return name;
}

static void parse_rows(struct modules *m)
{
    struct span rest = {m->dep.data, m->dep.len}, line;
    while (text_line(&rest, &line)) {
        const char *colon = line.n ? memchr(line.p, ':', line.n) : NULL;
        if (!colon)
            continue;
        size_t n = (size_t)(colon - line.p);
        AUTO(str_free) char *path = xstrndup(line.p, n);
        // Only below the kernel's own folder: the path is used to read and to write
        // files.
        if (!*path || *path == '/' || strstr(path, ".."))
            continue;
        struct row row = {.name = module_name(path),
                          .needs = {colon + 1, line.n - n - 1}};
        row.path = steal(path);
        vec_push(&m->rows, row);
    }
}

static int read_index(struct tree *t, const char *version, const char *name, bool needed,
                      struct buf *out, struct err *e)
{
    AUTO(str_free) char *path = xasprintf("/lib/modules/%s/%s", version, name);
    if (!needed && !tree_exists(t, path))
        return 0;
    return tree_read(t, path, out, e);
}

int modules_open(struct tree *t, const char *version, struct modules **ret, struct err *e)
{
    AUTO(modules_close) struct modules *m = xcalloc(1, sizeof(*m));
    m->version = xstrdup(version);
    m->dep = m->builtin = m->soft = BUF_INIT(INDEX_LIMIT);
    if (read_index(t, version, "modules.dep", true, &m->dep, e) ||
        read_index(t, version, "modules.builtin", false, &m->builtin, e) ||
        read_index(t, version, "modules.softdep", false, &m->soft, e))
        return -1;
    parse_rows(m);
    *ret = steal(m);
    return 0;
}

void modules_close(struct modules *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->rows.n; i++) {
        free(m->rows.v[i].name);
        free(m->rows.v[i].path);
    }
    vec_done(&m->rows);
    buf_done(&m->dep);
    buf_done(&m->builtin);
    buf_done(&m->soft);
    free(m->version);
    free(m);
}

static bool same_name(struct span path, const char *name)
{
    AUTO(str_free) char *text = span_dup(path);
    AUTO(str_free) char *other = module_name(text);
    return strcmp(other, name) == 0;
}

bool modules_builtin(const struct modules *m, const char *name)
{
    AUTO(str_free) char *plain = module_name(name);
    struct span rest = {m->builtin.data, m->builtin.len}, line;
    while (text_line(&rest, &line))
        if (same_name(span_trim(line), plain))
            return true;
    return false;
}

static const struct row *find_row(const struct modules *m, const char *name)
{
    AUTO(str_free) char *plain = module_name(name);
    for (size_t i = 0; i < m->rows.n; i++)
        if (strcmp(m->rows.v[i].name, plain) == 0)
            return &m->rows.v[i];
    return NULL;
}

const char *modules_path(const struct modules *m, const char *name)
{
    const struct row *row = find_row(m, name);
    return row ? row->path : NULL;
}

static void add_once(struct strings *paths, const char *path)
{
    if (paths->n < CLOSURE_LIMIT && !strings_have(paths, path))
        strings_add(paths, path);
}

// A row and all it needs; what modules.dep names but has no row of its own is left out.
static void add_row(const struct modules *m, const struct row *row, struct strings *paths)
{
    add_once(paths, row->path);
    struct span rest = row->needs, word;
    while (text_word(&rest, &word)) {
        AUTO(str_free) char *need = span_dup(word);
        const struct row *found = find_row(m, need);
        if (found)
            add_once(paths, found->path);
    }
}

// "softdep NAME pre: A B post: C": wanted if they are there.
static void add_soft(const struct modules *m, const char *path, struct strings *paths)
{
    AUTO(str_free) char *name = module_name(path);
    struct span rest = {m->soft.data, m->soft.len}, line;
    while (text_line(&rest, &line)) {
        struct span word;
        if (!text_word(&line, &word) || !span_is(word, "softdep") ||
            !text_word(&line, &word) || !same_name(word, name))
            continue;
        while (text_word(&line, &word)) {
            AUTO(str_free) char *soft = span_dup(word);
            const struct row *found = find_row(m, soft);
            if (found)
                add_row(m, found, paths);
        }
    }
}

int modules_closure(const struct modules *m, const char *name, struct strings *paths,
                    struct err *e)
{
    if (modules_builtin(m, name))
        return 0;
    const struct row *row = find_row(m, name);
    if (!row)
        return err_set(e, ERR_REFUSED,
                       "kernel %s in the guest has no driver %s, neither as a module nor "
                       "built in; install a kernel that has it before the migration",
                       m->version, name);
    size_t first = paths->n;
    add_row(m, row, paths);
    for (size_t i = first; i < paths->n; i++) // grows while softdeps are found
        add_soft(m, paths->v[i], paths);
    return 0;
}

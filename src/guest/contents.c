// SPDX-License-Identifier: Apache-2.0
// The list of what an initramfs holds, over all its segments. Texts are kept of links and
// of the small files that a fix may want to change; a later entry of the same path
// replaces an earlier one, as in the kernel.
#include "guest/initramfs.h"

#include <sys/stat.h>

#define TEXT_MAX (256 * KIB) // lvm.conf has 100 KiB
#define TEXTS_MAX (32 * MIB)

static const char *const kept_folders[] = {"conf/", "etc/", "cryptroot/"};

void contents_done(struct contents *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->v[i].path);
        free(c->v[i].text);
    }
    vec_done(c);
    free(steal(c->sorted));
}

static bool keeps_text(const char *path, const struct cpio_entry *entry)
{
    if (S_ISLNK(entry->mode))
        return entry->size < 4096;
    if (!S_ISREG(entry->mode) || entry->size > TEXT_MAX)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(kept_folders); i++)
        if (str_starts(path, kept_folders[i]))
            return true;
    return false;
}

static int on_entry(void *ctx, const struct cpio_entry *entry, struct err *e)
{
    struct contents *c = ctx;
    const char *name = entry->name;
    while (*name == '/' || str_starts(name, "./"))
        name += *name == '/' ? 1 : 2;
    if (c->n == INITRAMFS_ENTRIES_LIMIT)
        return err_set(e, ERR_REFUSED, "initramfs of more than %u entries",
                       INITRAMFS_ENTRIES_LIMIT);
    struct content content = {
        .path = xstrdup(name), .mode = entry->mode, .size = entry->size};
    if (keeps_text(name, entry)) {
        c->kept += entry->size;
        if (c->kept > TEXTS_MAX) {
            free(content.path);
            return err_set(e, ERR_REFUSED, "initramfs with too much configuration in it");
        }
        content.text = xcalloc(1, (size_t)entry->size + 1);
    }
    vec_push(c, content);
    c->filled = 0;
    return 0;
}

static int on_data(void *ctx, const void *data, size_t len, struct err *e)
{
    (void)e;
    struct contents *c = ctx;
    struct content *last = &c->v[c->n - 1];
    if (last->text)
        memcpy(last->text + c->filled, data,
               len); // the reader hands out size bytes at most
    c->filled += len;
    return 0;
}

static int by_path(const void *a, const void *b)
{
    const struct content *x = *(struct content *const *)a;
    const struct content *y = *(struct content *const *)b;
    int order = strcmp(x->path, y->path);
    return order ? order : (x > y) - (x < y);
}

int contents_read(struct source *s, struct contents *ret, struct segments *ret_segments,
                  struct err *e)
{
    AUTO(contents_done) struct contents c = {0};
    struct cpio_sink sink = {on_entry, on_data, &c};
    if (source_seek(s, 0, e) || initramfs_walk(s, &sink, ret_segments, e))
        return -1;
    c.sorted = xcalloc(c.n + 1, sizeof(struct content *));
    for (size_t i = 0; i < c.n; i++)
        c.sorted[i] = &c.v[i];
    if (c.n)
        qsort(c.sorted, c.n, sizeof(struct content *), by_path);
    *ret = c;
    c = (struct contents){0};
    return 0;
}

const struct content *contents_find(const struct contents *c, const char *path)
{
    size_t from = 0, to = c->n; // the first that sorts after `path` is at `from`
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (strcmp(c->sorted[middle]->path, path) <= 0)
            from = middle + 1;
        else
            to = middle;
    }
    return from && strcmp(c->sorted[from - 1]->path, path) == 0 ? c->sorted[from - 1]
                                                                : NULL;
}

// The first link on the way to `path`; *ret_len: of the part of the path that names it.
static const struct content *first_link(const struct contents *c, const char *path,
                                        size_t *ret_len)
{
    for (size_t n = strcspn(path, "/");; n += 1 + strcspn(path + n + 1, "/")) {
        AUTO(str_free) char *part = xstrndup(path, n);
        const struct content *found = contents_find(c, part);
        if (found && S_ISLNK(found->mode) && found->text) {
            *ret_len = n;
            return found;
        }
        if (!path[n])
            return NULL;
    }
}

// "usr/sbin" and "../bin" → "usr/bin". Never leaves the root.
static char *follow(const char *link, const char *target, const char *rest)
{
    AUTO(strings_done) struct strings parts = {0};
    AUTO(str_free) char *dir = path_dir(link);
    AUTO(str_free)
    char *whole = target[0] == '/' ? xasprintf("%s%s", target, rest)
                                   : xasprintf("%s/%s%s", dir, target, rest);
    for (const char *p = whole; *p;) {
        size_t n = strcspn(p, "/");
        if (n == 2 && p[0] == '.' && p[1] == '.') {
            if (parts.n) {
                parts.n--;
                free(steal(parts.v[parts.n]));
            }
        } else if (n && !(n == 1 && p[0] == '.')) {
            strings_take(&parts, xstrndup(p, n));
        }
        p += n;
        p += *p == '/';
    }
    AUTO(buf_done) struct buf out = BUF_INIT(64 * KIB);
    for (size_t i = 0; i < parts.n; i++)
        buf_printf(&out, "%s%s", i ? "/" : "", parts.v[i]);
    return buf_steal(&out);
}

char *contents_resolve(const struct contents *c, const char *path)
{
    char *at = xstrdup(path);
    for (int i = 0; i < 16; i++) {
        size_t n;
        const struct content *link = first_link(c, at, &n);
        if (!link)
            break;
        char *next = follow(link->path, link->text, at + n);
        free(at);
        at = next;
    }
    return at;
}

// SPDX-License-Identifier: Apache-2.0
// fstab(5), crypttab(5) and the resume device of initramfs-tools: the names of disks that
// may be called otherwise on the new machine become UUIDs. Comments, spacing and every
// other field stay; names that hold everywhere (UUID=, LABEL=, LVM) are left alone.
#include "guest/device.h"
#include "guest/fixes.h"

static void replace_field(const struct guest *g, struct span line, struct span field,
                          bool content_stays, struct buf *out, struct strings *notes)
{
    AUTO(str_free) char *name = span_dup(span_unquote(field));
    AUTO(str_free)
    char *stable = content_stays ? guest_stable_name(g, name) : guest_part_name(g, name);
    if (!stable) {
        buf_span(out, line);
        return;
    }
    size_t before = (size_t)(field.p - line.p), after = before + field.n;
    buf_add(out, line.p, before);
    buf_str(out, stable);
    buf_add(out, line.p + after, line.n - after);
    strings_take(notes, xasprintf("%s → %s", name, stable));
}

// ctx: which field names the device.
void fix_table_line(const struct guest *g, void *ctx, struct span line, struct buf *out,
                    struct strings *notes)
{
    const size_t *wanted = ctx;
    struct span rest = line, field = {0};
    for (size_t i = 0; i <= *wanted; i++)
        if (!text_word(&rest, &field) || field.p[0] == '#') {
            buf_span(out, line);
            return;
        }
    replace_field(g, line, field, true, out, notes);
}

// With a random key the volume's content, and a UUID in it, is gone at every boot.
void fix_crypttab_line(const struct guest *g, void *ctx, struct span line,
                       struct buf *out, struct strings *notes)
{
    (void)ctx;
    struct span rest = line, name, device, key = {0};
    if (!text_word(&rest, &name) || name.p[0] == '#' || !text_word(&rest, &device)) {
        buf_span(out, line);
        return;
    }
    (void)text_word(&rest, &key);
    bool is_random = span_is(key, "/dev/urandom") || span_is(key, "/dev/random");
    replace_field(g, line, device, !is_random, out, notes);
}

static void device_line(const struct guest *g, void *ctx, struct span line,
                        struct buf *out, struct strings *notes)
{
    (void)ctx;
    struct span trimmed = span_trim(line);
    if (trimmed.n && trimmed.p[0] == '#')
        buf_span(out, line);
    else
        device_replace(g, line, out, notes);
}

int fix_fstab(struct guest *g, struct strings *done, struct err *e)
{
    size_t fstab_field = 0;
    if (text_edit(g, "/etc/fstab", fix_table_line, &fstab_field, done, e) ||
        text_edit(g, "/etc/crypttab", fix_crypttab_line, NULL, done, e))
        return -1;
    return 0;
}

static const char lvm_conf[] = "/etc/lvm/lvm.conf";

// A filter that accepts disks by names that change would leave the guest without its
// volumes: it becomes a comment. One that only rejects stays.
void fix_lvm_line(const struct guest *g, void *ctx, struct span line, struct buf *out,
                  struct strings *notes)
{
    (void)ctx;
    struct span rest = line, word = {0};
    bool has_word = text_word(&rest, &word);
    bool filter =
        has_word && (span_starts(word, "filter") || span_starts(word, "global_filter"));
    const char *equals = filter ? memchr(line.p, '=', line.n) : NULL;
    bool changes = false;
    for (const char *p = equals; p && p + 2 < line.p + line.n; p++) {
        struct span accepts = {p + 2, (size_t)(line.p + line.n - p) - 2};
        if ((p[0] != '"' && p[0] != '\'') || p[1] != 'a')
            continue;
        const char *end = memchr(accepts.p, p[0], accepts.n);
        AUTO(str_free)
        char *pattern = xstrndup(accepts.p, end ? (size_t)(end - accepts.p) : accepts.n);
        changes |= device_is_changing(pattern);
    }
    struct span all = span_trim(line);
    if (changes && all.p[all.n - 1] == ']') {
        buf_str(out, "# godwit: the old hardware's: ");
        strings_take(notes, xasprintf("%.*s by names of the old hardware is off",
                                      (int)strcspn(word.p, " \t="), word.p));
    }
    (void)g;
    buf_span(out, line);
}

int fix_lvm(struct guest *g, struct strings *done, struct err *e)
{
    return text_edit(g, lvm_conf, fix_lvm_line, NULL, done, e);
}

int fix_resume(struct guest *g, struct strings *done, struct err *e)
{
    static const char dir[] = "/etc/initramfs-tools/conf.d";
    AUTO(strings_done) struct strings names = {0};
    if (tree_list(g->tree, dir, &names, e))
        return -1;
    for (size_t i = 0; i < names.n; i++) {
        AUTO(str_free) char *path = path_join(dir, names.v[i]);
        if (text_edit(g, path, device_line, NULL, done, e))
            return -1;
    }
    return text_edit(g, "/etc/initramfs-tools/initramfs.conf", device_line, NULL, done,
                     e);
}

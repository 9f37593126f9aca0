// SPDX-License-Identifier: Apache-2.0
// fstab(5), crypttab(5) and the resume device of initramfs-tools: the names of disks that
// may be called otherwise on the new machine become UUIDs. Comments, spacing and every
// other field stay; names that hold everywhere (UUID=, LABEL=, LVM) are left alone.
#include "guest/device.h"
#include "guest/fixes.h"

static void replace_field(const struct guest *g, struct span line, struct span field,
                          struct buf *out, struct strings *notes)
{
    AUTO(str_free) char *name = span_dup(span_unquote(field));
    AUTO(str_free) char *stable = guest_stable_name(g, name);
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
    replace_field(g, line, field, out, notes);
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
    size_t fstab_field = 0, crypttab_field = 1;
    if (text_edit(g, "/etc/fstab", fix_table_line, &fstab_field, done, e) ||
        text_edit(g, "/etc/crypttab", fix_table_line, &crypttab_field, done, e))
        return -1;
    return 0;
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

// SPDX-License-Identifier: Apache-2.0
// A serial console for the throw-away overlay of a rehearsal: the kernel's messages and a
// login on ttyS0. The last console= is where /dev/console leads, so that what init says
// comes out there too; tty0 stays for the picture of the screen. systemd starts a getty
// on a serial console by itself, the link makes it certain; sysvinit needs its line.
// no_timer_check: on a busy machine without hardware virtualisation the kernel's check of
// its timer fails now and then ("IO-APIC + timer doesn't work", a panic).
#include "guest/fixes.h"

static bool has_word(struct span line, const char *start)
{
    struct span word;
    while (text_word(&line, &word))
        if (span_starts(word, start))
            return true;
    return false;
}

void console_line(const struct guest *g, void *ctx, struct span line, struct buf *out,
                  struct strings *notes)
{
    (void)g;
    static const char *const silent[] = {"quiet", "splash"};
    struct span rest = line, word;
    if (!is_cmdline(ctx, line) || has_word(line, "console=ttyS0")) {
        buf_span(out, line);
        return;
    }
    const char *at = line.p;
    while (text_word(&rest, &word)) {
        bool drop = false;
        for (size_t i = 0; i < ARRAY_LEN(silent); i++)
            drop |= span_is(word, silent[i]);
        if (!drop)
            buf_add(out, at, (size_t)(word.p + word.n - at));
        at = word.p + word.n;
    }
    buf_str(out, " console=tty0 console=ttyS0,115200 no_timer_check");
    strings_add(notes, "console=ttyS0");
}

static int add_getty(struct guest *g, struct strings *done, struct err *e)
{
    static const char dir[] = "/etc/systemd/system/getty.target.wants";
    static const char *const units[] = {"/lib/systemd/system/serial-getty@.service",
                                        "/usr/lib/systemd/system/serial-getty@.service"};
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (!tree_exists(g->tree, units[i]))
            continue;
        AUTO(str_free) char *link = path_join(dir, "serial-getty@ttyS0.service");
        if (tree_exists(g->tree, link))
            return 0;
        if (tree_mkdir(g->tree, dir, e) || tree_link(g->tree, units[i], link, e))
            return -1;
        strings_take(done, xasprintf("%s: added", link));
        return 0;
    }
    return 0;
}

static int add_inittab(struct guest *g, struct strings *done, struct err *e)
{
    static const char path[] = "/etc/inittab";
    AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
    if (!tree_exists(g->tree, path))
        return 0;
    if (tree_read(g->tree, path, &text, e))
        return -1;
    struct span rest = {text.data, text.len}, line;
    while (text_line(&rest, &line)) {
        struct span trimmed = span_trim(line);
        if (trimmed.n && trimmed.p[0] != '#' && memmem(line.p, line.n, "ttyS0", 5))
            return 0;
    }
    if (text.len && text.data[text.len - 1] != '\n')
        buf_str(&text, "\n");
    buf_str(&text, "T0:2345:respawn:/sbin/getty -L ttyS0 115200 vt100\n");
    if (tree_write(g->tree, path, text.data, text.len, e))
        return -1;
    strings_take(done, xasprintf("%s: a login on ttyS0", path));
    return 0;
}

int guest_add_serial_console(struct guest *g, struct strings *done, struct err *e)
{
    static const struct cmdline_file entry = {NULL, {"options"}};
    for (const struct cmdline_file *f = cmdline_files; f->path; f++)
        if (text_edit(g, f->path, console_line, (void *)f, done, e))
            return -1;
    for (size_t i = 0; guest_esp_paths[i]; i++) {
        AUTO(str_free) char *dir = xasprintf("%s/loader/entries", guest_esp_paths[i]);
        AUTO(strings_done) struct strings names = {0};
        if (tree_list(g->tree, dir, &names, e))
            return -1;
        for (size_t j = 0; j < names.n; j++) {
            AUTO(str_free) char *path = path_join(dir, names.v[j]);
            if (text_edit(g, path, console_line, (void *)&entry, done, e))
                return -1;
        }
    }
    if (add_getty(g, done, e))
        return -1;
    return add_inittab(g, done, e);
}

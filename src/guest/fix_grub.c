// SPDX-License-Identifier: Apache-2.0
// Kernel command lines: GRUB 2's generated grub.cfg and the settings it is generated
// from, GRUB 1, extlinux, systemd-boot's entries. Only root= and resume= (and their kin)
// with a name that may change are touched. GRUB's own names (set root='hd0,msdos1', the
// hints of `search`) count the firmware's disks and stay right.
// GRUB_DISABLE_LINUX_UUID=true would bring the old names back at the next update-grub;
// device.map and debconf's answers would make grub-install look for disks that are gone.
#include "guest/device.h"
#include "guest/fixes.h"

const struct cmdline_file cmdline_files[] = {
    {"/boot/grub/grub.cfg", {"linux", "linux16", "linuxefi"}},
    {"/boot/grub/custom.cfg", {"linux", "linux16", "linuxefi"}},
    {"/boot/grub2/grub.cfg", {"linux", "linux16", "linuxefi"}},
    {"/etc/grub.d/40_custom", {"linux", "linux16", "linuxefi"}},
    {"/etc/grub.d/41_custom", {"linux", "linux16", "linuxefi"}},
    {"/boot/grub/menu.lst", {"kernel"}},
    {"/boot/extlinux/extlinux.conf", {"append", "APPEND"}},
    {"/boot/extlinux/linux.cfg", {"append", "APPEND"}},
    {"/boot/syslinux/syslinux.cfg", {"append", "APPEND"}},
    {"/boot/extlinux.conf", {"append", "APPEND"}},
    {"/extlinux.conf", {"append", "APPEND"}},
    {0},
};

bool is_cmdline(const struct cmdline_file *file, struct span line)
{
    struct span word;
    if (!text_word(&line, &word))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(file->keywords) && file->keywords[i]; i++)
        if (span_is(word, file->keywords[i]))
            return true;
    return false;
}

// Only parameters whose value the initramfs resolves may become UUID=.
static const char *const parameters[] = {
    "root=", "resume=", "swap=", "cryptdevice=", "real_root="};

static bool is_device_parameter(struct span word)
{
    while (word.n && (word.p[0] == '"' || word.p[0] == '\''))
        word = (struct span){word.p + 1, word.n - 1};
    for (size_t i = 0; i < ARRAY_LEN(parameters); i++)
        if (span_starts(word, parameters[i]))
            return true;
    return false;
}

static void replace_parameters(const struct guest *g, struct span line, struct buf *out,
                               struct strings *notes)
{
    struct span rest = line, word;
    const char *at = line.p;
    while (text_word(&rest, &word)) {
        buf_add(out, at, (size_t)(word.p - at));
        // GRUB_CMDLINE_LINUX="root=…": the parameter hides behind the variable's name
        const char *equals = memchr(word.p, '=', word.n);
        struct span value = word;
        if (span_starts(word, "GRUB_") && equals)
            value = (struct span){equals + 1, word.n - (size_t)(equals + 1 - word.p)};
        if (is_device_parameter(value))
            device_replace(g, word, out, notes);
        else
            buf_span(out, word);
        at = word.p + word.n;
    }
    buf_add(out, at, (size_t)(line.p + line.n - at));
}

void fix_cmdline_line(const struct guest *g, void *ctx, struct span line, struct buf *out,
                      struct strings *notes)
{
    if (is_cmdline(ctx, line))
        replace_parameters(g, line, out, notes);
    else if (span_starts(line, "# kopt=")) // what GRUB 1's update-grub makes lines of
        device_replace(g, line, out, notes);
    else
        buf_span(out, line);
}

void fix_default_line(const struct guest *g, void *ctx, struct span line, struct buf *out,
                      struct strings *notes)
{
    (void)ctx;
    struct span trimmed = span_trim(line);
    if (span_starts(trimmed, "GRUB_DISABLE_LINUX_UUID=")) {
        struct span value =
            span_unquote((struct span){trimmed.p + strlen("GRUB_DISABLE_LINUX_UUID="),
                                       trimmed.n - strlen("GRUB_DISABLE_LINUX_UUID=")});
        struct span rest = value, word;
        if (text_word(&rest, &word) && span_is(span_unquote(word), "true")) {
            buf_str(out, "GRUB_DISABLE_LINUX_UUID=false");
            buf_span(out, rest);
            strings_add(notes, "GRUB_DISABLE_LINUX_UUID is false");
            return;
        }
    }
    if (span_starts(trimmed, "GRUB_CMDLINE_"))
        replace_parameters(g, line, out, notes);
    else
        buf_span(out, line);
}

static int fix_defaults(struct guest *g, struct strings *done, struct err *e)
{
    static const char dir[] = "/etc/default/grub.d";
    if (text_edit(g, "/etc/default/grub", fix_default_line, NULL, done, e))
        return -1;
    AUTO(strings_done) struct strings names = {0};
    if (tree_list(g->tree, dir, &names, e))
        return -1;
    for (size_t i = 0; i < names.n; i++) {
        AUTO(str_free) char *path = path_join(dir, names.v[i]);
        if (str_ends(path, ".cfg") && text_edit(g, path, fix_default_line, NULL, done, e))
            return -1;
    }
    return 0;
}

// "(hd0)	/dev/sda": of no use once a disk is called otherwise, and optional.
static int fix_device_map(struct guest *g, struct strings *done, struct err *e)
{
    static const char path[] = "/boot/grub/device.map";
    AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
    if (!tree_exists(g->tree, path))
        return 0;
    if (tree_read(g->tree, path, &text, e) || tree_remove(g->tree, path, e))
        return -1;
    strings_take(done, xasprintf("%s: removed, GRUB finds its disks itself", path));
    return 0;
}

// Where the package grub-pc installs GRUB at its next upgrade; a disk that is gone would
// end that upgrade. ctx: bool, within that question.
void fix_debconf_line(const struct guest *g, void *ctx, struct span line, struct buf *out,
                      struct strings *notes)
{
    bool *ours = ctx;
    struct span rest = line, word;
    if (span_starts(line, "Name:"))
        *ours = span_is(line, "Name: grub-pc/install_devices");
    if (!*ours || !span_starts(line, "Value:") || !text_word(&rest, &word)) {
        buf_span(out, line);
        return;
    }
    const char *at = line.p;
    do {
        buf_add(out, at, (size_t)(word.p - at));
        at = word.p + word.n;
        while (word.n && word.p[word.n - 1] == ',')
            word.n--;
        unsigned disk, part;
        AUTO(str_free) char *name = span_dup(word);
        AUTO(str_free) char *target = NULL;
        if (device_parse(g, name, &disk, &part) && !part && disk < 26)
            target = xasprintf("/dev/vd%c", 'a' + (int)disk);
        if (target && strcmp(target, name) != 0) {
            buf_str(out, target);
            strings_take(notes,
                         xasprintf("grub-pc installs to %s, not %s", target, name));
        } else {
            buf_span(out, word);
        }
        buf_add(out, word.p + word.n, (size_t)(at - word.p) - word.n);
    } while (text_word(&rest, &word));
    buf_add(out, at, (size_t)(line.p + line.n - at));
}

static int fix_debconf(struct guest *g, struct strings *done, struct err *e)
{
    bool ours = false;
    if (!strings_have(&g->drivers, "virtio_blk")) // then disks are called otherwise
        return 0;
    int rc =
        text_edit(g, "/var/cache/debconf/config.dat", fix_debconf_line, &ours, done, e);
    return rc && e->code == ERR_REFUSED ? 0 : rc; // not worth a refusal
}

// systemd-boot: one file an entry.
static int fix_entries(struct guest *g, struct strings *done, struct err *e)
{
    static const struct cmdline_file kind = {NULL, {"options"}};
    for (size_t i = 0; guest_esp_paths[i]; i++) {
        AUTO(str_free) char *dir = xasprintf("%s/loader/entries", guest_esp_paths[i]);
        AUTO(strings_done) struct strings names = {0};
        if (tree_list(g->tree, dir, &names, e))
            return -1;
        for (size_t j = 0; j < names.n; j++) {
            AUTO(str_free) char *path = path_join(dir, names.v[j]);
            if (str_ends(path, ".conf") &&
                text_edit(g, path, fix_cmdline_line, (void *)&kind, done, e))
                return -1;
        }
    }
    return 0;
}

int fix_grub(struct guest *g, struct strings *done, struct err *e)
{
    for (const struct cmdline_file *f = cmdline_files; f->path; f++)
        if (text_edit(g, f->path, fix_cmdline_line, (void *)f, done, e))
            return -1;
    if (fix_defaults(g, done, e) || fix_device_map(g, done, e) || fix_debconf(g, done, e))
        return -1;
    return fix_entries(g, done, e);
}

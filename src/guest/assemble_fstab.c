// SPDX-License-Identifier: Apache-2.0
// The guest's fstab(5), as far as it speaks of the guest's own disks: mounted below the
// root, parents first. Mount points are resolved inside the guest's root, so that a link
// in it cannot lead out. What the system lives on (/boot, /usr, /var …) must be found;
// other entries may be missing. An EFI system partition that no entry names is mounted
// where its folder is (systemd mounts it by partition type).
#include "guest/assemble.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "guest/device.h"
#include "guest/mdadm.h"

#define ENTRIES_MAX 256

struct entry {
    char *source, *point, *options; // as fstab says; options: those of btrfs, NULL
    bool optional;                  // nofail, noauto, or not part of the system
};

static void entry_done(struct entry *n)
{
    free(n->source);
    free(n->point);
    free(n->options);
}

// --- which device is meant

static bool same_text(const char *a, const char *b, bool exact)
{
    return a && b && (exact ? strcmp(a, b) : strcasecmp(a, b)) == 0;
}

// By one property of the devices. The members of a mapping have UUIDs of their own, so
// the first hit is it.
static const struct guest_device *by_tag(const struct guest *g, char tag,
                                         const char *value)
{
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        bool hit = tag == 'U'   ? same_text(d->uuid, value, false)
                   : tag == 'L' ? same_text(d->label, value, true)
                   : tag == 'N' ? same_text(d->part_label, value, true)
                                : same_text(d->part_uuid, value, false);
        if (hit)
            return d;
    }
    return NULL;
}

// "/dev/VG/LV" as device-mapper spells it: "/dev/mapper/VG-LV", "-" doubled.
static char *mapper_name(const char *path)
{
    const char *group = path + strlen("/dev/"), *slash = strchr(group, '/');
    if (!slash)
        return NULL;
    struct buf b = BUF_INIT(4 * KIB);
    buf_str(&b, "/dev/mapper/");
    for (const char *c = group; *c; c++) {
        if (c == slash)
            buf_str(&b, "-");
        else
            buf_add(&b, *c == '-' ? "--" : c, *c == '-' ? 2 : 1);
    }
    return buf_steal(&b);
}

// An array's node here is not what the guest calls it.
static const struct guest_device *by_node(const struct guest *g, const char *node)
{
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (d->mapper && !d->array && strcmp(d->node, node) == 0)
            return d;
    }
    return NULL;
}

static const struct guest_device *find_device(const struct guest *g, const char *source);

// The device that crypttab maps to `name`.
static const struct guest_device *by_crypttab(const struct guest *g, const char *name)
{
    AUTO(buf_done) struct buf b = BUF_INIT(TEXT_LIMIT);
    struct err none; // no crypttab: no such name
    if (!tree_exists(g->tree, "/etc/crypttab") ||
        tree_read(g->tree, "/etc/crypttab", &b, &none) < 0)
        return NULL;
    struct span rest = {b.data, b.len}, line;
    while (text_line(&rest, &line)) {
        struct span target, source;
        if (!text_word(&line, &target) || !span_is(target, name) ||
            !text_word(&line, &source))
            continue;
        AUTO(str_free) char *text = span_dup(source);
        const struct guest_device *under =
            str_starts(text, "/dev/mapper/") ? by_node(g, text) : find_device(g, text);
        if (!under || !under->uuid)
            return NULL;
        AUTO(str_free) char *node = xasprintf("/dev/mapper/luks-%s", under->uuid);
        return by_node(g, node);
    }
    return NULL;
}

static const struct guest_device *by_old_name(const struct guest *g, const char *source)
{
    unsigned disk, part;
    if (!device_parse(g, source, &disk, &part))
        return NULL;
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (!d->mapper && d->disk == disk && d->partition == part)
            return d;
    }
    return NULL;
}

static const struct {
    const char *prefix;
    char tag;
} tags[] = {
    {"UUID=", 'U'},
    {"LABEL=", 'L'},
    {"PARTUUID=", 'P'},
    {"PARTLABEL=", 'N'},
    {"/dev/disk/by-uuid/", 'U'},
    {"/dev/disk/by-label/", 'L'},
    {"/dev/disk/by-partuuid/", 'P'},
    {"/dev/disk/by-partlabel/", 'N'},
};

static const struct guest_device *find_device(const struct guest *g, const char *source)
{
    for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
        if (!str_starts(source, tags[i].prefix))
            continue;
        AUTO(str_free)
        char *value = span_dup(span_unquote(span_of(source + strlen(tags[i].prefix))));
        return by_tag(g, tags[i].tag, value);
    }
    if (!str_starts(source, "/dev/"))
        return NULL;
    const struct guest_device *d = by_node(g, source);
    if (!d && str_starts(source, "/dev/mapper/"))
        d = by_crypttab(g, source + strlen("/dev/mapper/"));
    if (!d)
        d = mdadm_device(g, source);
    if (!d)
        d = by_old_name(g, source);
    AUTO(str_free) char *mapped = d ? NULL : mapper_name(source);
    return d ? d : mapped ? by_node(g, mapped) : NULL;
}

// --- reading fstab

// \040 and its like; in place.
static void unescape(char *s)
{
    char *out = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
            s[3] >= '0' && s[3] <= '7') {
            *out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 3;
        } else {
            *out++ = *s;
        }
    }
    *out = '\0';
}

static bool has_option(const char *options, const char *name)
{
    size_t n = strlen(name);
    for (const char *o = options; o; o = strchr(o, ',')) {
        o += *o == ',';
        if (strncmp(o, name, n) == 0 && (o[n] == ',' || o[n] == '\0'))
            return true;
    }
    return false;
}

// "subvol=…" or "subvolid=…" of an option list, NULL: none.
static char *subvolume_option(const char *options)
{
    for (const char *o = options; o; o = strchr(o, ',')) {
        o += *o == ',';
        if (str_starts(o, "subvol=") || str_starts(o, "subvolid="))
            return xstrndup(o, strcspn(o, ","));
    }
    return NULL;
}

static bool is_system(const char *point)
{
    static const char *const points[] = {"/boot", "/usr", "/var", "/etc", "/lib", "/opt"};
    for (size_t i = 0; i < ARRAY_LEN(points); i++) {
        size_t n = strlen(points[i]);
        if (strncmp(point, points[i], n) == 0 && (point[n] == '/' || !point[n]))
            return i < 2 || !point[n];
    }
    return false;
}

// Not a share of the network, an image file, or what the kernel makes.
static bool is_device(struct span source)
{
    bool is = span_starts(source, "/dev/");
    for (size_t i = 0; i < ARRAY_LEN(tags); i++)
        is |= span_starts(source, tags[i].prefix);
    return is;
}

// False: a line that does not concern us.
static bool parse_entry(struct span line, struct entry *ret)
{
    struct span words[4] = {0};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (!text_word(&line, &words[i]) && i < 3)
            return false;
    }
    if (!is_device(words[0]) || words[1].p[0] != '/' || words[1].n == 1 ||
        span_is(words[2], "swap"))
        return false;
    AUTO(str_free) char *options = words[3].n ? span_dup(words[3]) : xstrdup("defaults");
    if (has_option(options, "bind") || has_option(options, "rbind"))
        return false;
    char *point = span_dup(words[1]);
    unescape(point);
    char *source = span_dup(words[0]);
    unescape(source);
    *ret = (struct entry){
        .source = source,
        .point = point,
        .options = subvolume_option(options),
        .optional = !is_system(point) || has_option(options, "nofail") ||
                    has_option(options, "noauto"),
    };
    return true;
}

static int by_depth(const void *a, const void *b)
{
    size_t x = strlen(((const struct entry *)a)->point);
    size_t y = strlen(((const struct entry *)b)->point);
    return x < y ? -1 : x > y;
}

// --- mounting

// The mount point's real path under ASSEMBLE_ROOT.
static int resolve_point(const struct guest *g, const char *point, char **ret,
                         struct err *e)
{
    AUTO(fd_close) int fd = -1;
    char path[PATH_MAX], link[64];
    if (tree_fd(g->tree, point, O_RDONLY | O_DIRECTORY, 0, &fd, e) < 0)
        return -1;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n <= 0)
        return err_errno(e, errno, "look up mount point %s", point);
    path[n] = '\0';
    if (!str_starts(path, ASSEMBLE_ROOT "/"))
        return err_set(e, ERR_REFUSED, "mount point %s lies outside the guest", point);
    *ret = xstrdup(path);
    return 0;
}

static int mount_entry(struct assembly *a, struct guest *g, const struct entry *n,
                       struct err *e)
{
    const struct guest_device *d = find_device(g, n->source);
    AUTO(str_free) char *where = NULL;
    if (!d)
        return err_set(e, ERR_REFUSED,
                       "/etc/fstab mounts %s on %s, which is on none of the disks given",
                       n->source, n->point);
    bool btrfs = guest_device_holds(d, "btrfs");
    if (resolve_point(g, n->point, &where, e) < 0 ||
        mount_device(a, d, where, btrfs ? n->options : NULL, a->read_only, e) < 0)
        return err_wrap(e, "/etc/fstab: %s", n->point);
    return 0;
}

static bool is_mounted(const struct assembly *a, const char *where)
{
    for (size_t i = 0; i < a->undo.n; i++) {
        if (a->undo.v[i].kind == UNDO_MOUNT && strcmp(a->undo.v[i].name, where) == 0)
            return true;
    }
    return false;
}

// An ESP that fstab leaves to systemd: mounted where an empty folder waits for it.
static int mount_esp(struct assembly *a, struct guest *g)
{
    static const char *const points[] = {"/boot/efi", "/efi", "/boot"};
    const struct guest_device *esp = NULL;
    for (size_t i = 0; i < g->devices.n; i++) {
        if (a->part_esp.n && strcmp(g->devices.v[i].node, a->part_esp.v[0]) == 0)
            esp = &g->devices.v[i];
    }
    for (size_t i = 0; esp && esp->content && i < ARRAY_LEN(points); i++) {
        AUTO(str_free) char *where = NULL;
        AUTO(strings_done) struct strings names = {0};
        struct err none; // no such folder: the next one
        if (!tree_exists(g->tree, points[i]) ||
            resolve_point(g, points[i], &where, &none) < 0)
            continue;
        if (is_mounted(a, where))
            return 0;
        if (tree_list(g->tree, points[i], &names, &none) == 0 && names.n == 0)
            return mount_device(a, esp, where, NULL, a->read_only, &none);
    }
    return 0;
}

static size_t read_entries(struct guest *g, struct entry *list)
{
    AUTO(buf_done) struct buf b = BUF_INIT(TEXT_LIMIT);
    struct err none; // an image without fstab has no more than its root
    size_t n = 0;
    if (!tree_exists(g->tree, "/etc/fstab") ||
        tree_read(g->tree, "/etc/fstab", &b, &none) < 0)
        return 0;
    struct span rest = {b.data, b.len}, line;
    while (n < ENTRIES_MAX && text_line(&rest, &line)) {
        if (parse_entry(line, &list[n]))
            n++;
    }
    qsort(list, n, sizeof(*list), by_depth);
    return n;
}

int fstab_mount_all(struct assembly *a, struct guest *g, struct err *e)
{
    AUTO(free) void *memory = xcalloc(ENTRIES_MAX, sizeof(struct entry));
    struct entry *list = memory;
    size_t n = read_entries(g, list);
    int r = 0;
    for (size_t i = 0; i < n; i++) {
        struct err why = {0};
        if (r == 0 && mount_entry(a, g, &list[i], &why) < 0 && !list[i].optional) {
            *e = why;
            r = -1;
        }
        entry_done(&list[i]);
    }
    if (r == 0)
        (void)mount_esp(a, g); // a guest without its ESP in reach is judged by the fixes
    return r;
}

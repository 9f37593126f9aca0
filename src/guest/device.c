// SPDX-License-Identifier: Apache-2.0
// Names of block devices as a guest's configuration spells them, and the names that hold
// on any machine. Linux counts SCSI, IDE, Xen and virtio disks with letters (sda … sdz,
// sdaa), NVMe, MMC and the old RAID controllers with numbers. Which disk a
// /dev/disk/by-id or by-path name meant is known only when there is but one.
#include "guest/device.h"

#include <ctype.h>

#include "guest/guest.h"

// "c" in "sdc2": the disk's number, and where the letters end.
static const char *letters(const char *s, unsigned *ret_disk)
{
    unsigned n = 0;
    size_t len = 0;
    for (; islower((unsigned char)s[len]) && len < 4; len++)
        n = n * 26 + (unsigned)(s[len] - 'a') + 1;
    if (!len)
        return NULL;
    *ret_disk = n - 1;
    return s + len;
}

static const char *digits(const char *s, unsigned *ret)
{
    unsigned n = 0;
    size_t len = 0;
    for (; isdigit((unsigned char)s[len]) && len < 5; len++)
        n = n * 10 + (unsigned)(s[len] - '0');
    if (!len)
        return NULL;
    *ret = n;
    return s + len;
}

// "sda" counts disks with letters; "nvme0n1p2": a number, then `between` and the parts of
// it that are counted.
static const struct {
    const char *prefix;
    bool lettered;
    const char *between; // between the disk's number and the partition's
} kinds[] = {
    {"sd", true, ""},          {"hd", true, ""},        {"xvd", true, ""},
    {"vd", true, ""},          {"nvme", false, "n1p"},  {"mmcblk", false, "p"},
    {"cciss/c0d", false, "p"}, {"ida/c0d", false, "p"},
};

// "0n2p1" of "nvme0n2p1": VMware's controllers have a namespace a disk, others a
// controller a disk.
static bool parse_namespace(const char *s, unsigned *ret_disk, unsigned *ret_part)
{
    unsigned controller = 0, space = 0, part = 0;
    s = digits(s, &controller);
    s = s && *s == 'n' ? digits(s + 1, &space) : NULL;
    if (!s || controller || space < 2)
        return false;
    if (*s) {
        s = *s == 'p' ? digits(s + 1, &part) : NULL;
        if (!s || *s || !part)
            return false;
    }
    *ret_disk = space - 1;
    *ret_part = part;
    return true;
}

static bool parse_kind(size_t kind, const char *s, unsigned *ret_disk, unsigned *ret_part)
{
    unsigned disk = 0, part = 0;
    s = kinds[kind].lettered ? letters(s, &disk) : digits(s, &disk);
    if (!s)
        return false;
    const char *between = kinds[kind].between;
    size_t whole = strlen(between) - (str_ends(between, "p") ? 1 : 0);
    if (strncmp(s, between, whole) != 0)
        return false;
    s += whole;
    if (*s) {
        if (!str_starts(s, between + whole))
            return false;
        s = digits(s + strlen(between + whole), &part);
        if (!s || *s || !part)
            return false;
    }
    *ret_disk = disk;
    *ret_part = part;
    return true;
}

static size_t count_disks(const struct guest *g)
{
    unsigned last = 0;
    for (size_t i = 0; i < g->devices.n; i++)
        if (!g->devices.v[i].mapper && g->devices.v[i].disk > last)
            last = g->devices.v[i].disk;
    return (size_t)last + 1;
}

// "/dev/disk/by-id/ata-VBOX_HARDDISK_VB12-part2", only if it can but mean disk 0.
static bool parse_link(const struct guest *g, const char *s, unsigned *ret_disk,
                       unsigned *ret_part)
{
    static const char *const stable[] = {"dm-", "lvm-", "md-"};
    bool by_id = str_starts(s, "disk/by-id/");
    if ((!by_id && !str_starts(s, "disk/by-path/")) || count_disks(g) != 1)
        return false;
    for (size_t i = 0; by_id && i < ARRAY_LEN(stable); i++)
        if (str_starts(s + strlen("disk/by-id/"), stable[i]))
            return false;
    unsigned part = 0;
    const char *found = strstr(s, "-part");
    if (found) {
        const char *end = digits(found + strlen("-part"), &part);
        if (!end || *end || !part)
            return false;
    }
    *ret_disk = 0;
    *ret_part = part;
    return true;
}

bool device_is_changing(const char *pattern)
{
    if (strstr(pattern, "/dev/disk/by-id/") || strstr(pattern, "/dev/disk/by-path/"))
        return true;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        AUTO(str_free) char *name = xasprintf("/dev/%s", kinds[i].prefix);
        if (strstr(pattern, name))
            return true;
    }
    return false;
}

static bool parse_name(const struct guest *g, const char *name, unsigned *ret_disk,
                       unsigned *ret_part)
{
    if (!str_starts(name, "/dev/"))
        return false;
    const char *s = name + strlen("/dev/");
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (str_starts(s, kinds[i].prefix) &&
            parse_kind(i, s + strlen(kinds[i].prefix), ret_disk, ret_part))
            return true;
    if (str_starts(s, "nvme") && parse_namespace(s + strlen("nvme"), ret_disk, ret_part))
        return true;
    return parse_link(g, s, ret_disk, ret_part);
}

bool device_parse(const struct guest *g, const char *name, unsigned *ret_disk,
                  unsigned *ret_part)
{
    unsigned disk;
    if (!parse_name(g, name, &disk, ret_part))
        return false;
    *ret_disk = disk == g->first ? g->second : disk == g->second ? g->first : disk;
    return true;
}

void device_learn_order(struct guest *g, unsigned root_disk, unsigned root_partition)
{
    AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
    struct err ignored; // without an fstab nothing is said
    if (!tree_exists(g->tree, "/etc/fstab") ||
        tree_read(g->tree, "/etc/fstab", &text, &ignored))
        return;
    struct span rest = {text.data, text.len}, line, source, point;
    while (text_line(&rest, &line)) {
        unsigned disk, part;
        if (!text_word(&line, &source) || source.p[0] == '#' ||
            !text_word(&line, &point) || !span_is(point, "/"))
            continue;
        AUTO(str_free) char *name = span_dup(source);
        if (parse_name(g, name, &disk, &part) && part == root_partition &&
            disk < count_disks(g)) {
            g->first = disk;
            g->second = root_disk;
        }
    }
}

// Does another device carry the same UUID? A btrfs of several devices does, rightly.
static bool ambiguous(const struct guest *g, const struct guest_device *d)
{
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *o = &g->devices.v[i];
        if (o != d && o->uuid && strcmp(o->uuid, d->uuid) == 0 &&
            !guest_device_holds(o, "btrfs"))
            return true;
    }
    return false;
}

static char *stable_name(const struct guest *g, const char *device, bool by_content)
{
    unsigned disk, part;
    if (!device_parse(g, device, &disk, &part))
        return NULL;
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (d->mapper || d->disk != disk || d->partition != part)
            continue;
        if (by_content && d->uuid && *d->uuid && !ambiguous(g, d))
            return xasprintf("UUID=%s", d->uuid);
        if (d->part_uuid && *d->part_uuid)
            return xasprintf("PARTUUID=%s", d->part_uuid);
    }
    return NULL;
}

char *guest_stable_name(const struct guest *g, const char *device)
{
    return stable_name(g, device, true);
}

char *guest_part_name(const struct guest *g, const char *device)
{
    return stable_name(g, device, false);
}

static bool name_char(char c)
{
    return c && (isalnum((unsigned char)c) || strchr("_-./:+", c));
}

void device_replace(const struct guest *g, struct span text, struct buf *out,
                    struct strings *notes)
{
    for (size_t at = 0; at < text.n;) {
        struct span rest = {text.p + at, text.n - at};
        bool fresh = at == 0 || !name_char(text.p[at - 1]);
        size_t n = 0;
        while (fresh && span_starts(rest, "/dev/") && n < rest.n && name_char(rest.p[n]))
            n++;
        AUTO(str_free) char *name = n ? xstrndup(rest.p, n) : NULL;
        AUTO(str_free) char *stable = name ? guest_stable_name(g, name) : NULL;
        if (stable) {
            buf_str(out, stable);
            strings_take(notes, xasprintf("%s → %s", name, stable));
        } else {
            n = n ? n : 1;
            buf_add(out, rest.p, n);
        }
        at += n;
    }
}

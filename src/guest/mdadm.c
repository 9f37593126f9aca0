// SPDX-License-Identifier: Apache-2.0
// mdadm.conf(5), and what a guest calls its arrays: /dev/md0, /dev/md/NAME and
// /dev/disk/by-id/md-… hold on any hardware and stay; the device that such a name means
// is found by an ARRAY line of the guest's configuration, else by what the superblock
// says, which mdadm prints as such a line too:
//
//     ARRAY /dev/md/0 metadata=1.2 UUID=ca1b9d70:c57c9c44:1db99dbc:70ade2cd name=crm:0
//
// A line that begins with white space continues the one before. Keywords may be cut down
// to three letters and have no case.
#include "guest/mdadm.h"

#include <ctype.h>
#include <strings.h>

#include "guest/device.h"
#include "guest/fixes.h"

const char *const mdadm_confs[] = {"/etc/mdadm/mdadm.conf", "/etc/mdadm.conf", NULL};

static bool is_keyword(struct span word, const char *keyword)
{
    return word.n >= 3 && word.n <= strlen(keyword) &&
           strncasecmp(word.p, keyword, word.n) == 0;
}

static bool is_tag(struct span word, const char *tag)
{
    return word.n > strlen(tag) && strncasecmp(word.p, tag, strlen(tag)) == 0;
}

static bool is_continued(const struct span *rest)
{
    return rest->n && (rest->p[0] == ' ' || rest->p[0] == '\t');
}

// --- what an array is called

// Pieces of one ARRAY line; n is 0 where it has none.
struct array_line {
    struct span device, uuid, name;
};

static bool next_array(struct span *rest, struct array_line *ret)
{
    struct span line, word;
    while (text_line(rest, &line)) {
        struct span more;
        while (is_continued(rest) && text_line(rest, &more))
            line.n = (size_t)(more.p + more.n - line.p);
        if (!text_word(&line, &word) || !is_keyword(word, "array"))
            continue;
        *ret = (struct array_line){0};
        while (text_word(&line, &word) && word.p[0] != '#') {
            if (is_tag(word, "uuid="))
                ret->uuid = (struct span){word.p + 5, word.n - 5};
            else if (is_tag(word, "name="))
                ret->name = (struct span){word.p + 5, word.n - 5};
            else if (!ret->device.n && !memchr(word.p, '=', word.n))
                ret->device = word;
        }
        return true;
    }
    return false;
}

static bool same_span(struct span a, struct span b)
{
    return a.n && a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

// udev and mdadm part the digits of a UUID in different places.
static bool same_uuid(struct span a, struct span b)
{
    size_t i = 0, j = 0, n = 0;
    for (;; i++, j++, n++) {
        while (i < a.n && !isxdigit((unsigned char)a.p[i]))
            i++;
        while (j < b.n && !isxdigit((unsigned char)b.p[j]))
            j++;
        if (i == a.n || j == b.n)
            return i == a.n && j == b.n && n > 0;
        if (tolower((unsigned char)a.p[i]) != tolower((unsigned char)b.p[j]))
            return false;
    }
}

// The one spelling of /dev/md0 and /dev/md/0 ("md0"), of /dev/md/home, /dev/md_home and
// "home". free() it.
static char *plain_name(struct span name)
{
    if (span_starts(name, "/dev/"))
        name = (struct span){name.p + 5, name.n - 5};
    if (span_starts(name, "md/") ||
        (span_starts(name, "md_") && !span_starts(name, "md_d")))
        name = (struct span){name.p + 3, name.n - 3};
    bool digit = name.n && isdigit((unsigned char)name.p[0]);
    AUTO(str_free) char *text = span_dup(name);
    return digit ? xasprintf("md%s", text) : steal(text);
}

// Does `name` mean the array called `array` (0) or one of its partitions? -1: neither.
static int part_of(const char *name, const char *array)
{
    size_t n = strlen(array);
    if (!n || strncmp(name, array, n) != 0)
        return -1;
    name += n;
    if (!*name)
        return 0;
    if (isdigit((unsigned char)array[n - 1]) && *name++ != 'p')
        return -1;
    uint64_t part = 0;
    return str_to_u64(name, &part) == 0 && part > 0 && part < 256 ? (int)part : -1;
}

// --- which device is meant

static struct array_line line_of(const struct guest_device *d)
{
    struct array_line own = {0};
    struct span text = span_of(d->array);
    (void)next_array(&text, &own); // what mdadm printed
    return own;
}

static const struct guest_device *find(const struct guest *g, const struct array_line *a,
                                       int part)
{
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (!d->array || d->partition != (unsigned)part)
            continue;
        struct array_line own = line_of(d);
        if (a->uuid.n ? same_uuid(own.uuid, a->uuid)
                      : a->name.n && same_span(own.name, a->name))
            return d;
    }
    return NULL;
}

// *ret_named: a line has the name, whether its array is here or not.
static const struct guest_device *by_lines(const struct guest *g, struct span text,
                                           const char *name, bool *ret_named)
{
    struct array_line a;
    while (next_array(&text, &a)) {
        AUTO(str_free) char *called = plain_name(a.device);
        int part = part_of(name, called);
        *ret_named |= part >= 0;
        const struct guest_device *d = part < 0 ? NULL : find(g, &a, part);
        if (d)
            return d;
    }
    return NULL;
}

static const struct guest_device *by_conf(const struct guest *g, const char *name,
                                          bool *ret_named)
{
    for (size_t i = 0; mdadm_confs[i]; i++) {
        AUTO(buf_done) struct buf b = BUF_INIT(TEXT_LIMIT);
        struct err none; // what cannot be read names nothing
        if (!tree_exists(g->tree, mdadm_confs[i]) ||
            tree_read(g->tree, mdadm_confs[i], &b, &none) < 0)
            continue;
        const struct guest_device *d =
            by_lines(g, (struct span){b.data, b.len}, name, ret_named);
        if (d)
            return d;
    }
    return NULL;
}

// An array whose name nobody knows gets a number from 127 downwards. With one array there
// is no doubt which is meant.
static const struct guest_device *by_number(const struct guest *g, const char *name)
{
    const struct guest_device *only = NULL;
    uint64_t number = 0;
    AUTO(str_free) char *array = xstrndup(name, strcspn(name, "p"));
    if (!str_starts(array, "md") || str_to_u64(array + 2, &number) < 0 || number < 100)
        return NULL;
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        if (!d->array || d->partition)
            continue;
        if (only)
            return NULL;
        only = d;
    }
    int part = part_of(name, array);
    struct array_line a = only ? line_of(only) : (struct array_line){0};
    return only && part >= 0 ? find(g, &a, part) : NULL;
}

// "md-uuid-ca1b9d70:…-part1", "md-name-crm:0".
static const struct guest_device *by_link(const struct guest *g, const char *link)
{
    bool by_uuid = str_starts(link, "md-uuid-");
    if (!by_uuid && !str_starts(link, "md-name-"))
        return NULL;
    struct span value = span_of(link + strlen("md-uuid-"));
    const char *found = strstr(value.p, "-part");
    uint64_t part = 0;
    if (found && str_to_u64(found + strlen("-part"), &part) == 0 && part < 256)
        value.n = (size_t)(found - value.p);
    else
        part = 0;
    struct array_line a = {.uuid = by_uuid ? value : (struct span){0},
                           .name = by_uuid ? (struct span){0} : value};
    return find(g, &a, (int)part);
}

const struct guest_device *mdadm_device(const struct guest *g, const char *source)
{
    static const char links[] = "/dev/disk/by-id/";
    if (str_starts(source, links))
        return by_link(g, source + strlen(links));
    if (!str_starts(source, "/dev/md"))
        return NULL;
    AUTO(str_free) char *name = plain_name(span_of(source));
    bool named = false;
    const struct guest_device *d = by_conf(g, name, &named);
    if (named)
        return d;
    for (size_t i = 0; !d && i < g->devices.n; i++) {
        if (g->devices.v[i].array)
            d = by_lines(g, span_of(g->devices.v[i].array), name, &named);
    }
    return d ? d : by_number(g, name);
}

// --- the disks that it looks at

// Where only /dev/sda may hold arrays there are none on the new hardware: such a line
// becomes a comment, and mdadm looks at all disks. An array's own list of disks goes, its
// UUID stays. ctx: enum mdadm_line, which line is continued.
void fix_mdadm_line(const struct guest *g, void *ctx, struct span line, struct buf *out,
                    struct strings *notes)
{
    enum mdadm_line *kind = ctx;
    struct span rest = line, word;
    (void)g;
    if (!is_continued(&line)) {
        bool any = text_word(&rest, &word);
        *kind = any && is_keyword(word, "devices") ? MDADM_DEVICES
                : any && is_keyword(word, "array") ? MDADM_ARRAY
                                                   : MDADM_OTHER;
    }
    AUTO(str_free) char *text = span_dup(line);
    bool changes = device_is_changing(text);
    if (*kind == MDADM_OFF || (*kind == MDADM_DEVICES && changes)) {
        buf_str(out, "# godwit: the old hardware's: ");
        buf_span(out, line);
        strings_add(notes, "a list of disks by names of the old hardware is off");
        *kind = MDADM_OFF;
        return;
    }
    const char *at = line.p;
    while (*kind == MDADM_ARRAY && changes && text_word(&rest, &word)) {
        if (word.p[0] == '#')
            break;
        if (is_tag(word, "devices=")) {
            strings_take(notes, xasprintf("%.*s is off", (int)word.n, word.p));
        } else {
            buf_add(out, at, (size_t)(word.p + word.n - at));
        }
        at = word.p + word.n;
    }
    buf_add(out, at, (size_t)(line.p + line.n - at));
}

int fix_mdadm(struct guest *g, struct strings *done, struct err *e)
{
    for (size_t i = 0; mdadm_confs[i]; i++) {
        enum mdadm_line kind = MDADM_OTHER;
        if (text_edit(g, mdadm_confs[i], fix_mdadm_line, &kind, done, e))
            return -1;
    }
    return 0;
}

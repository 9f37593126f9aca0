// SPDX-License-Identifier: Apache-2.0
// Finds a guest's network configuration wherever Debian and Ubuntu keep it, and collects
// it in one list of interfaces. cloud-init leaves its results in the same files
// (interfaces.d/50-cloud-init, netplan/50-cloud-init.yaml), so they need no reader.
#include "guest/netconf.h"

#include <ctype.h>
#include <fnmatch.h>

#include "guest/guest.h"

#define MAX_INTERFACES 4096
#define MAX_FILES 256

void netconf_done(struct netconf *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->v[i].name);
        free(c->v[i].mac);
        free(c->v[i].gateway);
        strings_done(&c->v[i].addresses);
    }
    vec_done(c);
}

struct netif *netconf_add(struct netconf *c)
{
    if (c->n < MAX_INTERFACES)
        vec_push(c, (struct netif){0});
    return &c->v[c->n - 1];
}

struct netif *netconf_get(struct netconf *c, struct span name)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->v[i].name && span_is(name, c->v[i].name))
            return &c->v[i];
    struct netif *n = netconf_add(c);
    if (!n->name)
        n->name = span_dup(name);
    return n;
}

void netif_set(char **field, struct span value)
{
    free(*field);
    *field = span_dup(value);
}

void netif_address(struct netif *n, struct span address)
{
    AUTO(str_free) char *text = span_dup(address);
    if (*text && n->addresses.n < 64 && !strings_have(&n->addresses, text))
        strings_add(&n->addresses, text);
}

char *mac_normal(struct span text)
{
    text = span_unquote(span_trim(text));
    if (text.n != 17)
        return NULL;
    char mac[18] = {0};
    for (size_t i = 0; i < 17; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (i % 3 == 2 ? c != ':' && c != '-' : !isxdigit(c))
            return NULL;
        mac[i] = i % 3 == 2 ? ':' : (char)tolower(c);
    }
    return xstrdup(mac);
}

bool name_is_plain(struct span name)
{
    if (!name.n || name.n > 15 || name.p[0] == '.')
        return false;
    for (size_t i = 0; i < name.n; i++)
        if (!name.p[i] || // strchr would find it
            (!isalnum((unsigned char)name.p[i]) && !strchr("._-", name.p[i])))
            return false;
    return true;
}

// One file of a folder after another, by what their names end with.
typedef int file_fn(struct tree *t, const char *path, struct netconf *c, struct err *e);

static int each_file(struct tree *t, const char *dir, const char *suffix, file_fn *fn,
                     struct netconf *c, struct err *e)
{
    AUTO(strings_done) struct strings names = {0};
    if (tree_list(t, dir, &names, e))
        return -1;
    for (size_t i = 0, n = 0; i < names.n && n < MAX_FILES; i++) {
        if (names.v[i][0] == '.' || !str_ends(names.v[i], suffix))
            continue;
        AUTO(str_free) char *path = path_join(dir, names.v[i]);
        n++;
        if (fn(t, path, c, e))
            return -1;
    }
    return 0;
}

// A file's text; a broken link or a link to /dev/null, which is how systemd masks files,
// is an empty one.
static int read_text(struct tree *t, const char *path, struct buf *text, struct err *e)
{
    if (!tree_exists(t, path))
        return 0;
    int rc = tree_read(t, path, text, e);
    return rc && e->code == ERR_REFUSED && !text->len ? 0 : rc;
}

static int network_file(struct tree *t, const char *path, struct netconf *c,
                        struct err *e)
{
    AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
    if (read_text(t, path, &text, e))
        return -1;
    parse_network((struct span){text.data, text.len}, c);
    return 0;
}

static int netdev_file(struct tree *t, const char *path, struct netconf *c, struct err *e)
{
    AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
    if (read_text(t, path, &text, e))
        return -1;
    parse_netdev((struct span){text.data, text.len}, c);
    return 0;
}

static int keyfile(struct tree *t, const char *path, struct netconf *c, struct err *e)
{
    AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
    if (read_text(t, path, &text, e))
        return -1;
    parse_keyfile((struct span){text.data, text.len}, c);
    return 0;
}

static int netplan_file(struct tree *t, const char *path, struct netconf *c,
                        struct err *e)
{
    AUTO(buf_done) struct buf text = BUF_INIT(MIB);
    if (read_text(t, path, &text, e))
        return -1;
    struct err
        ignored; // a file that is not YAML configures nothing: netplan refuses it too
    (void)parse_netplan((struct span){text.data, text.len}, path, c, &ignored);
    return 0;
}

// interfaces(5) "source": a pattern in the last component. "source-directory" ends in
// '/'.
static int add_sources(struct tree *t, const char *pattern, struct strings *files,
                       struct err *e)
{
    AUTO(str_free)
    char *full =
        pattern[0] == '/' ? xstrdup(pattern) : path_join("/etc/network", pattern);
    bool whole = str_ends(full, "/");
    AUTO(str_free) char *dir = whole ? xstrdup(full) : path_dir(full);
    const char *glob = whole ? "*" : path_base(full);
    AUTO(strings_done) struct strings names = {0};
    if (tree_list(t, dir, &names, e))
        return -1;
    for (size_t i = 0; i < names.n && files->n < MAX_FILES; i++) {
        AUTO(str_free) char *path = path_join(dir, names.v[i]);
        if (fnmatch(glob, names.v[i], FNM_PERIOD) == 0 && !strings_have(files, path))
            strings_add(files, path);
    }
    return 0;
}

static int read_interfaces(struct tree *t, struct netconf *c, struct err *e)
{
    AUTO(strings_done) struct strings files = {0};
    strings_add(&files, "/etc/network/interfaces");
    for (size_t i = 0; i < files.n; i++) { // grows while sources are found
        AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
        AUTO(strings_done) struct strings sources = {0};
        if (read_text(t, files.v[i], &text, e))
            return -1;
        parse_interfaces((struct span){text.data, text.len}, c, &sources);
        for (size_t j = 0; j < sources.n; j++)
            if (add_sources(t, sources.v[j], &files, e))
                return -1;
    }
    return 0;
}

int netconf_read(struct tree *t, struct netconf *ret, struct err *e)
{
    AUTO(netconf_done) struct netconf c = {0};
    if (read_interfaces(t, &c, e) ||
        each_file(t, "/etc/netplan", ".yaml", netplan_file, &c, e) ||
        each_file(t, "/etc/systemd/network", ".netdev", netdev_file, &c, e) ||
        each_file(t, "/etc/systemd/network", ".network", network_file, &c, e) ||
        each_file(t, "/etc/NetworkManager/system-connections", "", keyfile, &c, e))
        return -1;
    *ret = c;
    c = (struct netconf){0};
    return 0;
}

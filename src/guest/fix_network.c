// SPDX-License-Identifier: Apache-2.0
// Every NIC keeps its name. On the new machine the bus differs, and with it the names
// that udev makes of it (ens192 → enp1s0), so that the configuration of the old name
// would apply to nothing. A NIC's old name is, in this order:
//   1. what a rule, a .link file or netplan says of its MAC: holds by itself;
//   2. what a configuration says that knows its MAC, or a name that spells it (enx…);
//   3. what its place on the old bus made of it, if that name is configured;
//   4. of the names left over, in the order of their numbers, the next: NICs are numbered
//      along the bus, and that is the order of the machine's description. NICs that are
//      configured by their MAC alone need none and come last.
// It is pinned by systemd.link(5), which systemd-udevd reads since version 197, or where
// that is missing or switched off by a udev rule. Statements by bus path are put out of
// action: on the new machine they would match another NIC or none.
#include "guest/fixes.h"

#include <ctype.h>
#include <strings.h>

#include "guest/names.h"
#include "guest/netconf.h"

#define RULES "/etc/udev/rules.d/70-persistent-net.rules"
#define LINK_DIR "/etc/systemd/network"

void name_plan_done(struct name_plan *p)
{
    for (size_t i = 0; i < p->n; i++) {
        free(p->v[i].path);
        free(p->v[i].text);
        free(p->v[i].note);
    }
    vec_done(p);
}

// Text by its letters, numbers by their value: ens9 before ens10.
static int natural(const char *a, const char *b)
{
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            char *end_a, *end_b;
            unsigned long long x = strtoull(a, &end_a, 10), y = strtoull(b, &end_b, 10);
            if (x != y)
                return x < y ? -1 : 1;
            a = end_a;
            b = end_b;
        } else if (*a != *b) {
            return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        } else {
            a++;
            b++;
        }
    }
    return *a ? 1 : *b ? -1 : 0;
}

static int by_number(const void *a, const void *b)
{
    return natural(*(char *const *)a, *(char *const *)b);
}

// Which NIC has which name, while it is worked out.
struct naming {
    const struct guest *g;
    struct netconf conf;
    struct nic_names said;
    struct strings names; // one a NIC, "" while not known
    bool *held;           // nothing needs to be written for it
    struct strings left;  // names of no NIC yet
};

static void naming_done(struct naming *n)
{
    netconf_done(&n->conf);
    nic_names_done(&n->said);
    strings_done(&n->names);
    strings_done(&n->left);
    free(n->held);
}

static void auto_naming_done(struct naming *n)
{
    naming_done(n);
}

static char *nic_mac(const struct guest *g, size_t i)
{
    const char *mac = i < g->nics.n ? g->nics.v[i].mac : NULL;
    return mac ? mac_normal(span_of(mac)) : NULL;
}

static void set_name(struct naming *n, size_t nic, const char *name, bool held)
{
    if (n->names.v[nic][0])
        return;
    free(n->names.v[nic]);
    n->names.v[nic] = xstrdup(name);
    n->held[nic] = held;
}

// "enx525400aabb01", which udev makes of a MAC.
static bool spells_mac(const char *name, const char *mac)
{
    if (!str_starts(name, "enx") || strlen(name) != strlen("enx") + 12)
        return false;
    for (size_t i = 0; i < 6; i++)
        if (strncasecmp(name + strlen("enx") + 2 * i, mac + 3 * i, 2) != 0)
            return false;
    return true;
}

static void names_by_mac(struct naming *n, size_t nic)
{
    AUTO(str_free) char *mac = nic_mac(n->g, nic);
    if (!mac)
        return;
    for (size_t i = 0; i < n->said.n; i++)
        if (n->said.v[i].mac && strcmp(n->said.v[i].mac, mac) == 0)
            set_name(n, nic, n->said.v[i].name, true);
    for (size_t i = 0; i < n->conf.n; i++) {
        const struct netif *f = &n->conf.v[i];
        if (f->name && f->mac && !f->made && strcmp(f->mac, mac) == 0)
            set_name(n, nic, f->name, f->held);
        else if (f->name && !f->made && spells_mac(f->name, mac))
            set_name(n, nic, f->name, false);
    }
}

// Is there configuration for the NIC that asks for no name?
static bool by_mac_alone(const struct naming *n, size_t nic)
{
    AUTO(str_free) char *mac = nic_mac(n->g, nic);
    bool found = false;
    for (size_t i = 0; mac && i < n->conf.n; i++) {
        const struct netif *f = &n->conf.v[i];
        found |= !f->name && !f->made && f->mac && strcmp(f->mac, mac) == 0;
    }
    return found;
}

// "br0", "tun1": names of what programs make, whatever made them here.
static bool name_is_made(const char *name)
{
    static const char *const kinds[] = {"bond",  "br",  "vmbr", "virbr", "docker",
                                        "dummy", "ppp", "tap",  "team",  "tun",
                                        "veth",  "wg",  "vxlan"};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t n = strlen(kinds[i]);
        if (str_starts(name, kinds[i]) && isdigit((unsigned char)name[n]) &&
            name[n + strspn(name + n, "0123456789")] == 0)
            return true;
    }
    return false;
}

static void leave(struct naming *n, const char *name)
{
    if (!strings_have(&n->names, name) && !strings_have(&n->left, name))
        strings_add(&n->left, name);
}

static void names_left(struct naming *n)
{
    for (size_t i = 0; i < n->conf.n; i++) {
        const struct netif *f = &n->conf.v[i];
        if (f->name && !f->made && !f->held && !name_is_made(f->name))
            leave(n, f->name);
    }
    for (size_t i = 0; i < n->said.n; i++)
        if (!n->said.v[i].mac)
            leave(n, n->said.v[i].name);
    if (n->left.n)
        qsort(n->left.v, n->left.n, sizeof(*n->left.v), by_number);
}

static void names_by_place(struct naming *n)
{
    for (size_t i = 0; i < n->g->nics.n; i++) {
        const char *place = n->g->nics.v[i].place;
        for (size_t j = 0; place && j < n->left.n; j++) {
            if (strcmp(n->left.v[j], place) == 0 && !strings_have(&n->names, place))
                set_name(n, i, place, false);
        }
    }
}

static void names_by_order(struct naming *n, size_t n_nics)
{
    size_t next = 0;
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < n_nics; i++) {
            while (next < n->left.n && strings_have(&n->names, n->left.v[next]))
                next++;
            if (next == n->left.n)
                return;
            if (!n->names.v[i][0] && by_mac_alone(n, i) == (round == 1))
                set_name(n, i, n->left.v[next++], false);
        }
}

static int find_names(struct naming *n, struct err *e)
{
    if (netconf_read(n->g->tree, &n->conf, e) || nic_names_read(n->g->tree, &n->said, e))
        return -1;
    // A machine without a description has at least the NICs that are configured.
    size_t n_nics = n->g->nics.n ? n->g->nics.n : n->conf.n;
    n->held = xcalloc(n_nics + 1, sizeof(*n->held));
    for (size_t i = 0; i < n_nics; i++)
        strings_add(&n->names, "");
    for (size_t i = 0; i < n_nics; i++)
        names_by_mac(n, i);
    names_left(n);
    names_by_place(n);
    names_by_order(n, n_nics);
    return 0;
}

// --- what is written

// Does the guest's udev read .link files? Its rule may be masked by a link to /dev/null.
static bool reads_links(struct tree *t)
{
    static const char *const rules[] = {"/usr/lib/udev/rules.d/80-net-setup-link.rules",
                                        "/lib/udev/rules.d/80-net-setup-link.rules"};
    bool there = false;
    for (size_t i = 0; i < ARRAY_LEN(rules); i++)
        there |= tree_exists(t, rules[i]);
    if (!there || !tree_exists(t, "/etc/udev/rules.d/80-net-setup-link.rules"))
        return there;
    AUTO(buf_done) struct buf text = BUF_INIT(64 * KIB);
    struct err masked; // a device, not a file: masked
    return tree_read(t, "/etc/udev/rules.d/80-net-setup-link.rules", &text, &masked) ==
               0 &&
           text.len;
}

static void plan_links(const struct naming *n, struct name_plan *plan)
{
    for (size_t i = 0; i < n->names.n; i++) {
        const char *name = n->names.v[i];
        AUTO(str_free) char *mac = nic_mac(n->g, i);
        if (!*name || n->held[i])
            continue;
        // Without its MAC a NIC is known by the kernel's count, which follows the bus.
        AUTO(str_free)
        char *match =
            mac ? xasprintf("MACAddress=%s", mac) : xasprintf("OriginalName=eth%zu", i);
        struct name_file f = {
            .path = xasprintf(LINK_DIR "/10-godwit-%s.link", name),
            .text = xasprintf("# written by godwit: the NIC keeps the name it had before "
                              "the migration\n[Match]\n%s\n\n[Link]\nName=%s\n",
                              match, name),
            .note = xasprintf("%s is %s", match, name),
        };
        vec_push(plan, f);
    }
}

// A statement by place becomes a comment.
void fix_rules_line(const struct guest *g, void *ctx, struct span line, struct buf *out,
                    struct strings *notes)
{
    (void)g;
    (void)ctx;
    AUTO(nic_names_done) struct nic_names said = {0};
    parse_rules(line, "", &said);
    if (said.n && !said.v[0].mac) {
        buf_str(out, "# godwit: the old hardware's: ");
        strings_take(notes, xasprintf("rule for %s by its place is off", said.v[0].name));
    }
    buf_span(out, line);
}

// One file for all, the old lines kept.
static int plan_rules(const struct naming *n, struct name_plan *plan, struct err *e)
{
    AUTO(buf_done) struct buf old = BUF_INIT(TEXT_LIMIT);
    AUTO(buf_done) struct buf text = BUF_INIT(2 * TEXT_LIMIT), note = BUF_INIT(64 * KIB);
    if (tree_exists(n->g->tree, RULES) && tree_read(n->g->tree, RULES, &old, e))
        return -1;
    AUTO(strings_done) struct strings off = {0}; // said by disarm
    struct span rest = {old.data, old.len}, line;
    while (text_line(&rest, &line)) {
        fix_rules_line(n->g, NULL, line, &text, &off);
        buf_str(&text, "\n");
    }
    for (size_t i = 0; i < n->names.n; i++) {
        AUTO(str_free) char *mac = nic_mac(n->g, i);
        const char *name = n->names.v[i];
        if (!*name || n->held[i] || !mac)
            continue;
        buf_printf(&text,
                   "# written by godwit: the NIC keeps the name it had before the "
                   "migration\nSUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", "
                   "ATTR{address}==\"%s\", ATTR{type}==\"1\", NAME=\"%s\"\n",
                   mac, name);
        buf_printf(&note, "%s%s is %s", note.len ? ", " : "", mac, name);
    }
    if (!note.len)
        return 0;
    struct name_file f = {xstrdup(RULES), buf_steal(&text), buf_steal(&note)};
    vec_push(plan, f);
    return 0;
}

int name_plan_make(const struct guest *g, struct name_plan *ret, struct err *e)
{
    struct naming n __attribute__((cleanup(auto_naming_done))) = {.g = g};
    if (find_names(&n, e))
        return -1;
    if (!reads_links(g->tree))
        return plan_rules(&n, ret, e);
    plan_links(&n, ret);
    return 0;
}

// --- statements by place

static int disarm(struct guest *g, const struct nic_names *said, struct strings *done,
                  struct err *e)
{
    for (size_t i = 0; i < said->n; i++) {
        const struct nic_name *s = &said->v[i];
        if (s->mac || !tree_exists(g->tree, s->file))
            continue;
        if (str_ends(s->file, ".rules")) {
            if (text_edit(g, s->file, fix_rules_line, NULL, done, e))
                return -1;
            continue;
        }
        AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
        AUTO(str_free) char *aside = xasprintf("%s.before-godwit", s->file);
        if (tree_read(g->tree, s->file, &text, e) ||
            tree_write(g->tree, aside, text.data, text.len, e) ||
            tree_remove(g->tree, s->file, e))
            return -1;
        strings_take(
            done, xasprintf("%s: set aside, it names %s by its place", s->file, s->name));
    }
    return 0;
}

// cloud-init that finds no data source of its own on the new platform may configure the
// network anew, by DHCP.
static int keep_from_cloud_init(struct guest *g, struct strings *done, struct err *e)
{
    static const char path[] = "/etc/cloud/cloud.cfg.d/99-godwit-network.cfg";
    static const char text[] = "# written by godwit: the addresses stay as they were\n"
                               "network: {config: disabled}\n";
    bool has_static = false;
    for (size_t i = 0; i < g->addresses.n; i++)
        has_static |= strcmp(g->addresses.v[i].address, "dhcp") != 0;
    if (!has_static || !tree_exists(g->tree, "/etc/cloud/cloud.cfg") ||
        tree_exists(g->tree, path))
        return 0;
    if (tree_mkdir(g->tree, "/etc/cloud/cloud.cfg.d", e) ||
        tree_write(g->tree, path, text, strlen(text), e))
        return -1;
    strings_take(done, xasprintf("%s: cloud-init leaves the addresses alone", path));
    return 0;
}

static bool has_text(struct tree *t, const char *path, const char *text)
{
    AUTO(buf_done) struct buf old = BUF_INIT(2 * TEXT_LIMIT);
    struct err ignored; // what cannot be read is not the same
    return tree_exists(t, path) && tree_read(t, path, &old, &ignored) == 0 &&
           strcmp(old.data, text) == 0;
}

int fix_network(struct guest *g, struct strings *done, struct err *e)
{
    AUTO(name_plan_done) struct name_plan plan = {0};
    AUTO(nic_names_done) struct nic_names said = {0};
    if (name_plan_make(g, &plan, e) || nic_names_read(g->tree, &said, e) ||
        disarm(g, &said, done, e))
        return -1;
    for (size_t i = 0; i < plan.n; i++) {
        AUTO(str_free) char *dir = path_dir(plan.v[i].path);
        if (has_text(g->tree, plan.v[i].path, plan.v[i].text))
            continue;
        if (tree_mkdir(g->tree, dir, e) ||
            tree_write(g->tree, plan.v[i].path, plan.v[i].text, strlen(plan.v[i].text),
                       e))
            return -1;
        strings_take(done, xasprintf("%s: %s", plan.v[i].path, plan.v[i].note));
    }
    return keep_from_cloud_init(g, done, e);
}

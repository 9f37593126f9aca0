// SPDX-License-Identifier: Apache-2.0
// Reads systemd.link(5) files and udev(7) rules for the names that they give to NICs. A
// statement by MAC holds on the new machine, which keeps the MACs; one by bus path or
// driver does not, but says which name was in use.
#include "guest/names.h"

#include "guest/guest.h"
#include "guest/netconf.h"

#define MAX_STATEMENTS 1024

void nic_names_done(struct nic_names *n)
{
    for (size_t i = 0; i < n->n; i++) {
        free(n->v[i].file);
        free(n->v[i].mac);
        free(n->v[i].name);
    }
    vec_done(n);
}

static void add(struct nic_names *names, const char *file, char *mac /* taken */,
                struct span name)
{
    if (!name_is_plain(name) || names->n == MAX_STATEMENTS) {
        free(mac);
        return;
    }
    struct nic_name statement = {xstrdup(file), mac, span_dup(name)};
    vec_push(names, statement);
}

void parse_link(struct span text, const char *file, struct nic_names *ret)
{
    struct span name = {0};
    char *mac = NULL;
    bool by_place = false;
    struct ini ini = {.rest = text};
    while (ini_next(&ini)) {
        if (ini_at(&ini, "Match", "MACAddress") ||
            ini_at(&ini, "Match", "PermanentMACAddress")) {
            struct span rest = ini.value, word;
            free(mac);
            mac = text_word(&rest, &word) ? mac_normal(word) : NULL;
        } else if (ini_at(&ini, "Match", "Path") || ini_at(&ini, "Match", "Driver") ||
                   ini_at(&ini, "Match", "Property")) {
            by_place = true;
        } else if (ini_at(&ini, "Link", "Name")) {
            name = ini.value;
        }
    }
    if (mac || by_place)
        add(ret, file, mac, name);
}

bool rule_value(struct span line, const char *key, struct span *ret)
{
    size_t n = strlen(key);
    for (size_t i = 0; i + n < line.n; i++) {
        bool fresh = i == 0 || strchr(", \t", line.p[i - 1]);
        if (!fresh || memcmp(line.p + i, key, n) != 0)
            continue;
        size_t at = i + n;
        while (at < line.n && strchr("=: \t", line.p[at]))
            at++;
        if (at == i + n || at >= line.n || line.p[at] != '"')
            continue;
        const char *end = memchr(line.p + at + 1, '"', line.n - at - 1);
        if (!end)
            return false;
        *ret = (struct span){line.p + at + 1, (size_t)(end - line.p) - at - 1};
        return true;
    }
    return false;
}

void parse_rules(struct span text, const char *file, struct nic_names *ret)
{
    struct span line;
    while (text_line(&text, &line)) {
        line = span_trim(line);
        struct span name, value;
        if (!line.n || line.p[0] == '#' || !rule_value(line, "SUBSYSTEM", &value) ||
            !span_is(value, "net") || !rule_value(line, "NAME", &name))
            continue;
        bool by_mac = rule_value(line, "ATTR{address}", &value) ||
                      rule_value(line, "SYSFS{address}", &value) ||
                      rule_value(line, "ATTRS{address}", &value);
        char *mac = by_mac ? mac_normal(value) : NULL;
        bool by_place = rule_value(line, "KERNELS", &value) ||
                        rule_value(line, "DEVPATH", &value) ||
                        rule_value(line, "ENV{ID_PATH}", &value);
        if (mac || by_place)
            add(ret, file, mac, name);
    }
}

static const struct {
    const char *dir, *suffix;
    void (*parse)(struct span text, const char *file, struct nic_names *ret);
} places[] = {
    {"/etc/systemd/network", ".link", parse_link},
    {"/etc/udev/rules.d", ".rules", parse_rules},
};

int nic_names_read(struct tree *t, struct nic_names *ret, struct err *e)
{
    AUTO(nic_names_done) struct nic_names found = {0};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        AUTO(strings_done) struct strings names = {0};
        if (tree_list(t, places[i].dir, &names, e))
            return -1;
        for (size_t j = 0; j < names.n; j++) {
            AUTO(str_free) char *path = path_join(places[i].dir, names.v[j]);
            AUTO(buf_done) struct buf text = BUF_INIT(TEXT_LIMIT);
            struct err ignored; // a mask (link to /dev/null) says nothing about names
            if (!str_ends(path, places[i].suffix) || tree_read(t, path, &text, &ignored))
                continue;
            places[i].parse((struct span){text.data, text.len}, path, &found);
        }
    }
    *ret = found;
    found = (struct nic_names){0};
    return 0;
}

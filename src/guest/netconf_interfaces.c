// SPDX-License-Identifier: Apache-2.0
// interfaces(5) of ifupdown: stanzas begin with iface, auto, allow-*, mapping, source;
// everything else belongs to the stanza above. One interface may have several stanzas
// (inet, inet6), "eth0:1" is an alias of eth0, and "eth0.100" a VLAN of eth0, which needs
// no stanza of its own. A netmask may be dotted or a length. A line that ends with a
// backslash goes on in the next.
#include "guest/netconf.h"

#include <arpa/inet.h>

// Options whose interface is not hardware; the ports they list are.
static const struct {
    const char *option;
    bool lists_ports;
} makers[] = {
    {"bridge_ports", true}, {"bridge-ports", true},    {"bond-slaves", true},
    {"slaves", true},       {"vlan-raw-device", true}, {"vlan_raw_device", true},
    {"ovs_ports", true},    {"ovs_bonds", true},       {"tunnel", false},
};
// Methods of interfaces that a program makes.
static const char *const making_methods[] = {"ppp", "wvdial", "tunnel", "v4tunnel",
                                             "6to4"};

static size_t mask_length(struct span mask)
{
    AUTO(str_free) char *text = span_dup(mask);
    uint64_t length;
    if (str_to_u64(text, &length) == 0)
        return length <= 128 ? (size_t)length : 0;
    struct in_addr dotted;
    if (inet_pton(AF_INET, text, &dotted) != 1)
        return 0;
    return (size_t)__builtin_popcount(dotted.s_addr);
}

// The stanza that lines belong to.
struct stanza {
    struct netconf *c;
    struct span name; // none: before the first iface
    struct span address, mask;
    struct span option; // of the last line
    bool goes_on;       // the last line ended with a backslash
};

static void end_stanza(struct stanza *s)
{
    if (s->name.n && s->address.n) {
        bool has_length = memchr(s->address.p, '/', s->address.n);
        size_t length = s->mask.n ? mask_length(s->mask) : 0;
        AUTO(str_free)
        char *text = has_length || !length
                         ? span_dup(s->address)
                         : xasprintf("%.*s/%zu", (int)s->address.n, s->address.p, length);
        netif_address(netconf_get(s->c, s->name), span_of(text));
    }
    *s = (struct stanza){.c = s->c};
}

static void begin_iface(struct stanza *s, struct span rest)
{
    struct span name, family, method;
    if (!text_word(&rest, &name) || span_is(name, "lo"))
        return;
    const char *colon = memchr(name.p, ':', name.n);
    if (colon)
        name.n = (size_t)(colon - name.p);
    if (!name_is_plain(name))
        return;
    s->name = name;
    const char *dot = memchr(name.p, '.', name.n);
    if (dot)
        (void)netconf_get(s->c, (struct span){name.p, (size_t)(dot - name.p)});
    struct netif *n = netconf_get(s->c, name);
    n->made |= dot || span_starts(name, "vlan");
    if (!text_word(&rest, &family) || !text_word(&rest, &method))
        return;
    for (size_t i = 0; i < ARRAY_LEN(making_methods); i++)
        n->made |= span_is(method, making_methods[i]);
    if (span_is(method, "dhcp"))
        netif_address(n, method);
}

static void ports(struct netconf *c, struct span rest)
{
    struct span word;
    while (text_word(&rest, &word))
        if (name_is_plain(word) && !span_is(word, "none") && !span_is(word, "regex") &&
            !span_is(word, "all"))
            (void)netconf_get(c, word);
}

static void stanza_option(struct stanza *s, struct span option, struct span rest)
{
    struct span value = span_trim(rest);
    if (!s->name.n)
        return;
    for (size_t i = 0; i < ARRAY_LEN(makers); i++)
        if (span_is(option, makers[i].option)) {
            netconf_get(s->c, s->name)->made = true;
            if (makers[i].lists_ports)
                ports(s->c, rest);
        }
    struct netif *n = netconf_get(s->c, s->name);
    struct span word = {0};
    (void)text_word(&rest, &word);
    if (span_is(option, "bond-master") && name_is_plain(word))
        netconf_get(s->c, word)->made = true;
    else if (span_is(option, "address"))
        s->address = value;
    else if (span_is(option, "netmask"))
        s->mask = value;
    else if (span_is(option, "gateway"))
        netif_set(&n->gateway, value);
}

static void interfaces_line(struct stanza *s, struct span line, struct strings *sources)
{
    struct span rest = line, word;
    bool more = s->goes_on;
    s->goes_on = line.n && line.p[line.n - 1] == '\\';
    if (more && s->option.n) {
        stanza_option(s, s->option, rest);
        return;
    }
    s->option = (struct span){0};
    if (!text_word(&rest, &word) || word.p[0] == '#')
        return;
    bool source = span_is(word, "source"), folder = span_is(word, "source-directory");
    bool other = span_is(word, "auto") || span_starts(word, "allow-") ||
                 span_is(word, "mapping") || span_starts(word, "no-auto");
    if (source || folder || other || span_is(word, "iface")) {
        end_stanza(s);
        if (span_is(word, "iface"))
            begin_iface(s, rest);
        struct span path = span_trim(rest);
        if ((source || folder) && path.n && sources->n < 256)
            strings_take(sources,
                         xasprintf("%.*s%s", (int)path.n, path.p, folder ? "/" : ""));
        return;
    }
    s->option = word;
    stanza_option(s, word, rest);
}

void parse_interfaces(struct span text, struct netconf *c, struct strings *ret_sources)
{
    struct stanza s = {.c = c};
    struct span line;
    while (text_line(&text, &line))
        interfaces_line(&s, span_trim(line), ret_sources);
    end_stanza(&s);
}

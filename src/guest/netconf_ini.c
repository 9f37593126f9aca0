// SPDX-License-Identifier: Apache-2.0
// systemd.network(5), systemd.netdev(5) and NetworkManager's keyfiles
// (nm-settings-keyfile(5)): one file says which interface it is for, and its addresses.
// The file is read in two goes, since [Match] need not come first.
#include "guest/netconf.h"

static bool dhcp_on(struct span value)
{
    return span_is(value, "yes") || span_is(value, "true") || span_is(value, "ipv4") ||
           span_is(value, "both") || span_is(value, "ipv6") || span_is(value, "on") ||
           span_is(value, "1");
}

// Patterns leave the name open, unless they can only mean the kernel's ethN.
static struct netif *interface_for(struct netconf *c, struct span name, char *mac)
{
    struct netif *n =
        name.n && name_is_plain(name) ? netconf_get(c, name) : netconf_add(c);
    if (mac && !n->mac)
        n->mac = mac;
    else
        free(mac);
    return n;
}

// The name that a file is for. Several names are no one's own, but each is in use, unless
// a pattern among them says that any will do.
static struct span matched_name(struct span value, struct netconf *c)
{
    struct span rest = value, name = {0}, more;
    if (!text_word(&rest, &name) || !text_word(&rest, &more))
        return name;
    rest = value;
    while (text_word(&rest, &more))
        if (!name_is_plain(more))
            return (struct span){0};
    rest = value;
    while (text_word(&rest, &more))
        (void)netconf_get(c, more);
    return (struct span){0};
}

static struct netif *network_match(struct span text, struct netconf *c)
{
    struct span name = {0};
    char *mac = NULL;
    bool made = false;
    struct ini ini = {.rest = text};
    while (ini_next(&ini)) {
        if (ini_at(&ini, "Match", "Name")) {
            name = matched_name(ini.value, c);
        } else if (ini_at(&ini, "Match", "MACAddress") ||
                   ini_at(&ini, "Match", "PermanentMACAddress")) {
            struct span rest = ini.value, word;
            free(mac);
            mac = text_word(&rest, &word) ? mac_normal(word) : NULL;
        } else if (ini_at(&ini, "Match", "Type") || ini_at(&ini, "Match", "Kind")) {
            made |= !span_is(ini.value, "ether") && !span_starts(ini.value, "!");
        }
    }
    if (span_is(name, "lo")) {
        free(mac);
        return NULL;
    }
    struct netif *n = interface_for(c, name, mac);
    n->made |= made;
    return n;
}

void parse_network(struct span text, struct netconf *c)
{
    struct netif *n = network_match(text, c);
    struct ini ini = {.rest = text};
    while (n && ini_next(&ini)) {
        bool network = span_is(ini.section, "Network");
        if (ini_at(&ini, "Address", "Address") ||
            (network && span_is(ini.key, "Address")))
            netif_address(n, ini.value);
        else if (network && span_is(ini.key, "DHCP") && dhcp_on(ini.value))
            netif_address(n, span_of("dhcp"));
        else if ((network || span_is(ini.section, "Route")) &&
                 span_is(ini.key, "Gateway") && !n->gateway)
            netif_set(&n->gateway, ini.value);
    }
}

void parse_netdev(struct span text, struct netconf *c)
{
    struct ini ini = {.rest = text};
    while (ini_next(&ini))
        if (ini_at(&ini, "NetDev", "Name") && name_is_plain(ini.value))
            netconf_get(c, ini.value)->made = true;
}

static struct netif *connection(struct span text, struct netconf *c)
{
    struct span name = {0}, type = {0}, parent = {0};
    char *mac = NULL;
    struct ini ini = {.rest = text};
    while (ini_next(&ini)) {
        if (span_is(ini.key, "parent")) // of a VLAN: a name, a MAC or another file
            parent = ini.value;
        else if (ini_at(&ini, "connection", "interface-name"))
            name = ini.value;
        else if (ini_at(&ini, "connection", "type"))
            type = ini.value;
        else if ((span_is(ini.section, "ethernet") ||
                  span_is(ini.section, "802-3-ethernet")) &&
                 span_is(ini.key, "mac-address")) {
            free(mac);
            mac = mac_normal(ini.value);
        }
    }
    bool ethernet = span_is(type, "ethernet") || span_is(type, "802-3-ethernet");
    if (span_is(type, "loopback") || !type.n || span_is(name, "lo")) {
        free(mac);
        return NULL;
    }
    if (!ethernet && name_is_plain(parent))
        (void)netconf_get(c, parent);
    struct netif *n = interface_for(c, name, mac);
    n->made |= !ethernet;
    return n;
}

// "192.0.2.10/24,192.0.2.1": an address and its gateway; the old "addresses=" lists them
// with ';' as "address/length,gateway" too.
static void keyfile_address(struct netif *n, struct span value)
{
    while (value.n) {
        const char *end = memchr(value.p, ';', value.n);
        size_t len = end ? (size_t)(end - value.p) : value.n;
        struct span one = {value.p, len};
        const char *comma = memchr(one.p, ',', one.n);
        if (comma) {
            size_t at = (size_t)(comma - one.p);
            struct span gateway = span_trim((struct span){comma + 1, one.n - at - 1});
            one.n = at;
            if (gateway.n && !n->gateway)
                netif_set(&n->gateway, gateway);
        }
        netif_address(n, span_trim(one));
        len += end != NULL;
        value = (struct span){value.p + len, value.n - len};
    }
}

void parse_keyfile(struct span text, struct netconf *c)
{
    struct netif *n = connection(text, c);
    struct ini ini = {.rest = text};
    while (n && ini_next(&ini)) {
        if (!span_is(ini.section, "ipv4") && !span_is(ini.section, "ipv6"))
            continue;
        bool numbered = span_starts(ini.key, "address") && ini.key.n > 7 &&
                        ini.key.p[7] >= '0' && ini.key.p[7] <= '9';
        if (numbered || span_is(ini.key, "addresses"))
            keyfile_address(n, ini.value);
        else if (span_is(ini.key, "gateway") && !n->gateway)
            netif_set(&n->gateway, ini.value);
        else if (span_is(ini.key, "method") && span_is(ini.value, "auto") &&
                 span_is(ini.section, "ipv4"))
            netif_address(n, span_of("dhcp"));
    }
}

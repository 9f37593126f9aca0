// SPDX-License-Identifier: Apache-2.0
// What a guest's configuration says about its network interfaces. Internal to guest/.
#pragma once

#include "guest/text.h"

struct tree;

struct netif {
    char *name;               // NULL: configured by MAC or by a pattern only
    char *mac;                // lower case, when the configuration names it
    struct strings addresses; // "192.0.2.10/24", "dhcp"
    char *gateway;
    bool made; // a bridge, bond, VLAN, tunnel: made by the configuration, no hardware
    bool held; // the configuration itself gives the NIC with that MAC this name
};
struct netconf {
    struct netif *v;
    size_t n, cap;
};
// Everything in /etc/network/interfaces, netplan, systemd-networkd and NetworkManager, in
// this order.
int netconf_read(struct tree *t, struct netconf *ret, struct err *e);
void netconf_done(struct netconf *c);
__attribute__((unused)) static inline void auto_netconf_done(struct netconf *c)
{
    netconf_done(c);
}

// --- for the parsers
// The interface of that name; appended if it is not there yet. At most 4096: then the
// last.
struct netif *netconf_get(struct netconf *c, struct span name);
struct netif *netconf_add(struct netconf *c); // one without a name
void netif_address(struct netif *n, struct span address);
void netif_set(char **field, struct span value);
// Lower case with colons; NULL when it is none. free() it.
char *mac_normal(struct span text);
bool name_is_plain(struct span name); // no pattern, can be an interface's name

// The parsers, each for the text of one file (and fuzz targets).
void parse_interfaces(struct span text, struct netconf *c, struct strings *ret_sources);
int parse_netplan(struct span text, const char *what, struct netconf *c, struct err *e);
void parse_network(struct span text, struct netconf *c);
void parse_netdev(struct span text, struct netconf *c);
void parse_keyfile(struct span text, struct netconf *c);

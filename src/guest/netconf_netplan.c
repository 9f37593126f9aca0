// SPDX-License-Identifier: Apache-2.0
// netplan(5), YAML read by libyaml into its document tree. Anchors may make that tree a
// graph with loops; the walk below has a fixed depth, so it ends on any.
// An entry below "ethernets" is called by its key unless it has a "match": then the key
// means nothing, and "set-name" with a MAC makes netplan itself name the NIC.
#include "guest/netconf.h"

#include <yaml.h>

struct plan {
    yaml_document_t doc;
    struct netconf *c;
};

static struct span scalar(yaml_node_t *node)
{
    if (!node || node->type != YAML_SCALAR_NODE)
        return (struct span){"", 0};
    return (struct span){(const char *)node->data.scalar.value, node->data.scalar.length};
}

static yaml_node_t *field(struct plan *p, yaml_node_t *map, const char *key)
{
    if (!map || map->type != YAML_MAPPING_NODE)
        return NULL;
    for (yaml_node_pair_t *pair = map->data.mapping.pairs.start;
         pair < map->data.mapping.pairs.top; pair++)
        if (span_is(scalar(yaml_document_get_node(&p->doc, pair->key)), key))
            return yaml_document_get_node(&p->doc, pair->value);
    return NULL;
}

static bool is_true(struct span value)
{
    return span_is(value, "true") || span_is(value, "yes") || span_is(value, "on");
}

static void read_addresses(struct plan *p, yaml_node_t *list, struct netif *n)
{
    if (!list || list->type != YAML_SEQUENCE_NODE)
        return;
    for (yaml_node_item_t *i = list->data.sequence.items.start;
         i < list->data.sequence.items.top; i++) {
        yaml_node_t *item = yaml_document_get_node(&p->doc, *i);
        // an address with options is a mapping whose only key is the address
        if (item && item->type == YAML_MAPPING_NODE &&
            item->data.mapping.pairs.start < item->data.mapping.pairs.top)
            item = yaml_document_get_node(&p->doc, item->data.mapping.pairs.start->key);
        netif_address(n, scalar(item));
    }
}

static void read_routes(struct plan *p, yaml_node_t *list, struct netif *n)
{
    if (!list || list->type != YAML_SEQUENCE_NODE)
        return;
    for (yaml_node_item_t *i = list->data.sequence.items.start;
         i < list->data.sequence.items.top; i++) {
        yaml_node_t *route = yaml_document_get_node(&p->doc, *i);
        struct span to = scalar(field(p, route, "to"));
        struct span via = scalar(field(p, route, "via"));
        if (via.n && !n->gateway &&
            (span_is(to, "default") || span_is(to, "0.0.0.0/0") || span_is(to, "::/0")))
            netif_set(&n->gateway, via);
    }
}

static struct netif *ethernet(struct plan *p, struct span key, yaml_node_t *node)
{
    yaml_node_t *match = field(p, node, "match");
    if (!match)
        return name_is_plain(key) ? netconf_get(p->c, key) : netconf_add(p->c);
    char *mac = mac_normal(scalar(field(p, match, "macaddress")));
    struct span name = scalar(field(p, match, "name"));
    struct span set = scalar(field(p, node, "set-name"));
    bool held = mac && name_is_plain(set);
    if (name_is_plain(set))
        name = set;
    struct netif *n = name_is_plain(name) ? netconf_get(p->c, name) : netconf_add(p->c);
    free(n->mac);
    n->mac = mac;
    n->held = held;
    return n;
}

static void read_interface(struct plan *p, struct span key, yaml_node_t *node, bool made)
{
    struct netif *n = made ? NULL : ethernet(p, key, node);
    if (made && name_is_plain(key)) {
        n = netconf_get(p->c, key);
        n->made = true;
    }
    if (!n)
        return;
    read_addresses(p, field(p, node, "addresses"), n);
    read_routes(p, field(p, node, "routes"), n);
    struct span gateway = scalar(field(p, node, "gateway4"));
    if (!gateway.n)
        gateway = scalar(field(p, node, "gateway6"));
    if (gateway.n)
        netif_set(&n->gateway, gateway);
    if (is_true(scalar(field(p, node, "dhcp4"))) ||
        is_true(scalar(field(p, node, "dhcp6"))))
        netif_address(n, span_of("dhcp"));
}

static const struct {
    const char *key;
    bool made;
} groups[] = {
    {"ethernets", false}, {"bonds", true},   {"bridges", true},
    {"vlans", true},      {"tunnels", true}, {"vrfs", true},
};

static void read_document(struct plan *p)
{
    yaml_node_t *network = field(p, yaml_document_get_root_node(&p->doc), "network");
    for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
        yaml_node_t *group = field(p, network, groups[i].key);
        if (!group || group->type != YAML_MAPPING_NODE)
            continue;
        for (yaml_node_pair_t *pair = group->data.mapping.pairs.start;
             pair < group->data.mapping.pairs.top; pair++)
            read_interface(p, scalar(yaml_document_get_node(&p->doc, pair->key)),
                           yaml_document_get_node(&p->doc, pair->value), groups[i].made);
    }
}

int parse_netplan(struct span text, const char *what, struct netconf *c, struct err *e)
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return err_set(e, ERR_FAILED, "cannot read %s in the guest: no memory", what);
    struct plan p = {.c = c};
    yaml_parser_set_input_string(&parser, (const unsigned char *)(text.p ? text.p : ""),
                                 text.n);
    int rc = 0;
    if (yaml_parser_load(&parser, &p.doc)) {
        read_document(&p);
        yaml_document_delete(&p.doc);
    } else {
        rc = err_set(e, ERR_FAILED, "cannot read %s in the guest: line %zu: %s", what,
                     parser.problem_mark.line + 1,
                     parser.problem ? parser.problem : "not YAML");
    }
    yaml_parser_delete(&parser);
    return rc;
}

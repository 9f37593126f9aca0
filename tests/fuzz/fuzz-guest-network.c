// SPDX-License-Identifier: Apache-2.0
// Network configuration of a guest, one kind by the first letter.
#include "fuzz.h"
#include "guest/names.h"
#include "guest/netconf.h"

static void check(const struct netconf *c)
{
    for (size_t i = 0; i < c->n; i++) {
        assert(!c->v[i].name || name_is_plain(span_of(c->v[i].name)));
        assert(!c->v[i].mac || strlen(c->v[i].mac) == 17);
        for (size_t j = 0; j < c->v[i].addresses.n; j++)
            assert(c->v[i].addresses.v[j][0]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || size > MIB)
        return 0;
    struct err e = {0};
    struct span text = {(const char *)data + 1, size - 1};
    AUTO(netconf_done) struct netconf c = {0};
    AUTO(nic_names_done) struct nic_names names = {0};
    AUTO(strings_done) struct strings sources = {0};
    if (data[0] == 'i')
        parse_interfaces(text, &c, &sources);
    else if (data[0] == 'p' && parse_netplan(text, "netplan", &c, &e))
        assert(e.text[0]);
    else if (data[0] == 'n')
        parse_network(text, &c);
    else if (data[0] == 'd')
        parse_netdev(text, &c);
    else if (data[0] == 'k')
        parse_keyfile(text, &c);
    else if (data[0] == 'l')
        parse_link(text, "x.link", &names);
    else if (data[0] == 'r')
        parse_rules(text, "x.rules", &names);
    check(&c);
    for (size_t i = 0; i < names.n; i++)
        assert(name_is_plain(span_of(names.v[i].name)));
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
// MACs that the machine's description left out (an OVF of ESXi, a bare image), as the
// guest's own configuration knows them: netplan and NetworkManager match by them, old
// guests keep them in 70-persistent-net.rules. The machine gets them back; with others
// that configuration would apply to nothing. Only interfaces that are configured count:
// rules outlive the cards that they were written for.
#include "guest/fixes.h"
#include "guest/names.h"
#include "guest/netconf.h"

static bool is_taken(const struct guest *g, const struct strings *macs, const char *mac)
{
    for (size_t i = 0; i < g->nics.n; i++) {
        const char *known = g->nics.v[i].mac;
        AUTO(str_free) char *normal = known ? mac_normal(span_of(known)) : NULL;
        if (normal && strcmp(normal, mac) == 0)
            return true;
    }
    return strings_have(macs, mac);
}

// By the name's last rule: udev appends a rule for a new card.
static const char *mac_said(const struct nic_names *said, const char *name)
{
    const char *mac = NULL;
    for (size_t i = 0; name && i < said->n; i++)
        if (said->v[i].mac && strcmp(said->v[i].name, name) == 0)
            mac = said->v[i].mac;
    return mac;
}

int nic_macs_learn(struct guest *g, struct err *e)
{
    size_t unknown = 0;
    for (size_t i = 0; i < g->nics.n; i++)
        unknown += !g->nics.v[i].mac;
    if (!unknown)
        return 0;
    AUTO(netconf_done) struct netconf conf = {0};
    AUTO(nic_names_done) struct nic_names said = {0};
    AUTO(strings_done) struct strings macs = {0};
    if (netconf_read(g->tree, &conf, e) || nic_names_read(g->tree, &said, e))
        return -1;
    for (size_t i = 0; i < conf.n; i++) {
        const struct netif *f = &conf.v[i];
        const char *mac = f->mac ? f->mac : mac_said(&said, f->name);
        if (!f->made && mac && !is_taken(g, &macs, mac))
            strings_add(&macs, mac);
    }
    // Fewer than there are NICs: which is whose cannot be told.
    if (macs.n < unknown)
        return 0;
    for (size_t i = 0, next = 0; i < g->nics.n; i++)
        if (!g->nics.v[i].mac)
            g->nics.v[i].mac = xstrdup(macs.v[next++]);
    return 0;
}

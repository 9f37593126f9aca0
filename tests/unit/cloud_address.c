// SPDX-License-Identifier: Apache-2.0
// libvirt's addresses, taken apart.
#include "cloud/libvirt/address.h"
#include "tap.h"

static const struct {
    const char *text, *uri, *pool, *domain;
    bool local;
} good[] = {
    {"libvirt+qemu:///system", "qemu:///system", NULL, NULL, true},
    {"libvirt+qemu:///session?pool=fast", "qemu:///session", "fast", NULL, true},
    {"libvirt+qemu:///system?domain=crm%2001", "qemu:///system", NULL, "crm 01", true},
    {"libvirt+qemu+unix:///system?socket=/run/x%20y&domain=a&mode=direct",
     "qemu+unix:///system?socket=/run/x%20y&mode=direct", NULL, "a", true},
    {"libvirt+qemu+ssh://root@host/system?pool=p&domain=d", "qemu+ssh://root@host/system",
     "p", "d", false},
    {"libvirt+qemu://host/system", "qemu://host/system", NULL, NULL, false},
    {"libvirt+esx://vc.example/?no_verify=1", "esx://vc.example/?no_verify=1", NULL, NULL,
     false},
    {"libvirt+xen+tls:///system", "xen+tls:///system", NULL, NULL, false},
    {"libvirt+test:///default?&&pool=p&", "test:///default", "p", NULL, true},
};
static const char *const bad[] = {
    "libvirt+",
    "libvirt+system",
    "libvirt+qemu:///system?pool=",
    "libvirt+qemu:///system?pool=a&pool=b",
    "libvirt+qemu:///system?domain=%00",
    "libvirt+qemu:///system?domain=%zz",
    "libvirt+qemu:///system?domain=%4",
};

int main(void)
{
    struct err e;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        AUTO(address_done) struct address a = {0};
        printf("# %s\n", good[i].text);
        ok(address_parse(good[i].text, &a, &e) == 0, "is understood");
        is_str(a.uri, good[i].uri, "what libvirt is told");
        is_str(a.pool, good[i].pool, "pool");
        is_str(a.domain, good[i].domain, "domain");
        ok(a.uri && address_is_local(a.uri) == good[i].local, "here or elsewhere");
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        AUTO(address_done) struct address a = {0};
        ok(address_parse(bad[i], &a, &e) < 0 && e.code == ERR_USAGE && !a.uri, "%s",
           bad[i]);
    }
    return done_testing();
}

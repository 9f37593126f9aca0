// SPDX-License-Identifier: Apache-2.0
// A libvirt connection as target (a defined domain, its disks in a storage pool) and as
// source (a domain that is off). What is made carries the job's tag as the domain's
// metadata, so a second run knows its own domain and a stranger's of the same name is
// left alone.
//
// Surprises: libvirt prints errors on stderr unless told not to; defining a domain whose
// UUID another one has is refused even under another name, so a machine that moves within
// one libvirtd gets a new UUID; undefining one with OVMF needs the NVRAM flag.
#include "cloud/libvirt/libvirt.h"
#include "cloud/libvirt/handle.h"
#include "cloud/place.h"

#include <assert.h>
#include <stdio.h>

#define XML_MAX (4 * MIB)

static_assert(offsetof(struct libvirt, cloud) == 0, "handed out as struct cloud");

// --- errors and the connection
// --------------------------------------------------------------------

static void be_quiet(void *context, virErrorPtr error)
{
    (void)context, (void)error;
}

bool libvirt_failed_with(int code)
{
    const virError *last = lv.virGetLastError();
    return last && last->code == code;
}

int libvirt_error(struct err *e, const char *fmt, ...)
{
    static const int passing[] = {VIR_ERR_RPC, VIR_ERR_NO_CONNECT,
                                  VIR_ERR_OPERATION_TIMEOUT, VIR_ERR_RESOURCE_BUSY};
    AUTO(str_free) char *cause = xstrdup(lv.virGetLastErrorMessage());
    enum err_code code = ERR_FAILED;
    for (size_t i = 0; i < ARRAY_LEN(passing); i++)
        if (libvirt_failed_with(passing[i]))
            code = ERR_RETRY;
    char what[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    return err_set(e, code, "%s: %s", what, str_trim(cause));
}

static void libvirt_close(struct cloud *c)
{
    struct libvirt *l = (struct libvirt *)c;
    if (l->conn)
        (void)lv.virConnectClose(l->conn);
    address_done(&l->address);
    free(l);
}

static int libvirt_open(const char *address, const char *state_dir, struct cloud **ret,
                        struct err *e)
{
    (void)state_dir; // of agents alone
    AUTO(address_done) struct address a = {0};
    if (address_parse(address, &a, e) < 0 || libvirt_load(e) < 0)
        return -1;
    lv.virSetErrorFunc(NULL, be_quiet);
    virConnectPtr conn = lv.virConnectOpen(a.uri);
    if (!conn)
        return libvirt_error(e, "connecting to %s", a.uri);
    struct libvirt *l = xcalloc(1, sizeof(*l));
    l->cloud.ops = &libvirt_cloud;
    l->conn = conn;
    l->address = a;
    a = (struct address){0};
    *ret = &l->cloud;
    return 0;
}

static int require_local(const struct libvirt *l, struct err *e)
{
    if (address_is_local(l->address.uri))
        return 0;
    return err_set(e, ERR_REFUSED,
                   "%s is another machine, whose disks are not here: run godwit on it",
                   l->address.uri);
}

// --- whose domain it is
// ---------------------------------------------------------------------------

// The domain of that name; NULL and success: there is none.
static int find_domain(struct libvirt *l, const char *name, virDomainPtr *ret,
                       struct err *e)
{
    *ret = lv.virDomainLookupByName(l->conn, name);
    if (*ret || libvirt_failed_with(VIR_ERR_NO_DOMAIN))
        return 0;
    return libvirt_error(e, "looking for the domain %s", name);
}

static bool is_ours(virDomainPtr domain, const struct cloud_machine *m)
{
    AUTO(str_free) char *tag = place_tag(m);
    AUTO(str_free) char *quoted = xasprintf("'%s'", tag);
    AUTO(str_free) char *double_quoted = xasprintf("\"%s\"", tag);
    AUTO(str_free)
    char *metadata =
        lv.virDomainGetMetadata(domain, VIR_DOMAIN_METADATA_ELEMENT, GODWIT_XML_NAMESPACE,
                                VIR_DOMAIN_AFFECT_CONFIG);
    return metadata && (strstr(metadata, quoted) || strstr(metadata, double_quoted));
}

// As find_domain, but a stranger's is refused.
static int find_own(struct libvirt *l, const struct cloud_machine *m, virDomainPtr *ret,
                    struct err *e)
{
    AUTO(domain_free) virDomainPtr domain = NULL;
    if (find_domain(l, m->name, &domain, e) < 0)
        return -1;
    if (domain && !is_ours(domain, m))
        return err_set(e, ERR_REFUSED,
                       "%s already has a domain '%s' that is not this job's; choose "
                       "another name with --name",
                       l->address.uri, m->name);
    *ret = steal(domain);
    return 0;
}

// --- as target
// ------------------------------------------------------------------------------------

static bool has_network(struct libvirt *l, const char *name)
{
    AUTO(network_free) virNetworkPtr network = lv.virNetworkLookupByName(l->conn, name);
    return network != NULL;
}

static int check_network(struct libvirt *l, const char *net, struct err *e)
{
    if (strcmp(net, "user") == 0 || str_starts(net, "bridge:") || has_network(l, net))
        return 0;
    return err_set(e, ERR_REFUSED,
                   "%s has no network '%s' (a network, bridge:NAME or user)",
                   l->address.uri, net);
}

static int check_networks(struct libvirt *l, const struct cloud_machine *m, struct err *e)
{
    AUTO(place_networks_done) struct place_networks networks = {0};
    if (place_networks(m, &networks, e) < 0)
        return -1;
    for (size_t i = 0; i < networks.list.n; i++)
        if (check_network(l, networks.list.v[i].net, e) < 0)
            return -1;
    return networks.others ? check_network(l, networks.others, e) : 0;
}

static int libvirt_check(struct cloud *c, const struct cloud_machine *m, struct err *e)
{
    struct libvirt *l = (struct libvirt *)c;
    AUTO(domain_free) virDomainPtr domain = NULL;
    AUTO(str_free) char *folder = NULL;
    return require_local(l, e) < 0 || find_own(l, m, &domain, e) < 0 ||
                   check_networks(l, m, e) < 0 || pool_folder(l, &folder, e) < 0 ||
                   place_check(folder, m, e) < 0
               ? -1
               : 0;
}

static int libvirt_place(struct cloud *c, struct cloud_machine *m, struct err *e)
{
    struct libvirt *l = (struct libvirt *)c;
    AUTO(str_free) char *folder = NULL;
    return require_local(l, e) < 0 || pool_make(l, e) < 0 ||
                   pool_folder(l, &folder, e) < 0 || place_take(folder, m, e) < 0
               ? -1
               : 0;
}

// The UUID to define: our domain's own, the machine's where it is free, else none.
static char *choose_uuid(struct libvirt *l, virDomainPtr own, const struct machine *m)
{
    char uuid[VIR_UUID_STRING_BUFLEN] = "";
    if (own) {
        (void)lv.virDomainGetUUIDString(own, uuid); // fails for no valid domain only
        return xstrdup(uuid);
    }
    AUTO(domain_free)
    virDomainPtr other =
        m->uuid ? lv.virDomainLookupByUUIDString(l->conn, m->uuid) : NULL;
    return xstrdup(other || !m->uuid ? "" : m->uuid);
}

// Where NICs go that --network does not name: libvirt's own "default", if it runs.
static const char *default_network(struct libvirt *l)
{
    AUTO(network_free) virNetworkPtr n = lv.virNetworkLookupByName(l->conn, "default");
    return n && lv.virNetworkIsActive(n) == 1 ? "default" : "user";
}

static int libvirt_import(struct cloud *c, const struct cloud_machine *m, struct err *e)
{
    struct libvirt *l = (struct libvirt *)c;
    AUTO(domain_free) virDomainPtr own = NULL;
    AUTO(place_networks_done) struct place_networks networks = {0};
    if (find_own(l, m, &own, e) < 0 || place_networks(m, &networks, e) < 0)
        return -1;
    if (!networks.others)
        networks.others = default_network(l);
    AUTO(str_free) char *uuid = choose_uuid(l, own, m->machine);
    AUTO(buf_done) struct buf xml = BUF_INIT(XML_MAX);
    place_domain(m, &networks, uuid, &xml);
    AUTO(domain_free)
    virDomainPtr defined =
        lv.virDomainDefineXMLFlags(l->conn, xml.data, VIR_DOMAIN_DEFINE_VALIDATE);
    if (!defined)
        return libvirt_error(e, "defining the domain %s at %s", m->name, l->address.uri);
    pool_refresh(l);
    return 0;
}

static int libvirt_launch(struct cloud *c, const struct cloud_machine *m, struct err *e)
{
    struct libvirt *l = (struct libvirt *)c;
    AUTO(domain_free) virDomainPtr domain = NULL;
    if (find_own(l, m, &domain, e) < 0)
        return -1;
    if (!domain)
        return err_set(e, ERR_FAILED, "starting the domain %s: it is not defined",
                       m->name);
    if (lv.virDomainIsActive(domain) == 1)
        return 0;
    if (lv.virDomainCreate(domain) < 0)
        return libvirt_error(e, "starting the domain %s", m->name);
    return 0;
}

static int libvirt_remove(struct cloud *c, const struct cloud_machine *m, struct err *e)
{
    struct libvirt *l = (struct libvirt *)c;
    AUTO(domain_free) virDomainPtr domain = NULL;
    AUTO(str_free) char *folder = NULL;
    if (pool_folder(l, &folder, e) < 0 || find_domain(l, m->name, &domain, e) < 0)
        return -1;
    if (domain && is_ours(domain, m)) {
        if (lv.virDomainIsActive(domain) == 1 && lv.virDomainDestroy(domain) < 0 &&
            !libvirt_failed_with(VIR_ERR_OPERATION_INVALID)) // ended by itself meanwhile
            return libvirt_error(e, "stopping the domain %s", m->name);
        unsigned flags = VIR_DOMAIN_UNDEFINE_NVRAM | VIR_DOMAIN_UNDEFINE_MANAGED_SAVE |
                         VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
                         VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
        if (lv.virDomainUndefineFlags(domain, flags) < 0)
            return libvirt_error(e, "undefining the domain %s", m->name);
    }
    place_forget(folder, m);
    return 0;
}

// --- as source
// ------------------------------------------------------------------------------------

static int volume_path(void *context, const char *pool_name, const char *volume_name,
                       char **ret, struct err *e)
{
    struct libvirt *l = context;
    AUTO(pool_free)
    virStoragePoolPtr pool = lv.virStoragePoolLookupByName(l->conn, pool_name);
    AUTO(volume_free)
    virStorageVolPtr volume =
        pool ? lv.virStorageVolLookupByName(pool, volume_name) : NULL;
    *ret = volume ? lv.virStorageVolGetPath(volume) : NULL;
    if (!*ret)
        return libvirt_error(e, "looking for the volume %s of pool %s", volume_name,
                             pool_name);
    return 0;
}

static int require_off(virDomainPtr domain, const char *name, struct err *e)
{
    int active = lv.virDomainIsActive(domain);
    if (active < 0)
        return libvirt_error(e, "asking whether the domain %s runs", name);
    if (active)
        return err_set(e, ERR_REFUSED,
                       "the domain %s is running: shut it down first (virsh shutdown %s)",
                       name, name);
    if (lv.virDomainHasManagedSaveImage(domain, 0) == 1)
        return err_set(e, ERR_REFUSED,
                       "the domain %s is saved, not off: its memory holds what is not on "
                       "disk; start it and shut it down",
                       name);
    return 0;
}

static int libvirt_describe(struct cloud *c, struct machine **ret, struct err *e)
{
    struct libvirt *l = (struct libvirt *)c;
    const char *name = l->address.domain;
    if (!name)
        return err_set(e, ERR_USAGE, "libvirt+%s names no machine: add ?domain=NAME",
                       l->address.uri);
    AUTO(domain_free) virDomainPtr domain = NULL;
    if (require_local(l, e) < 0 || find_domain(l, name, &domain, e) < 0)
        return -1;
    if (!domain)
        return err_set(e, ERR_REFUSED, "%s has no domain '%s'", l->address.uri, name);
    if (require_off(domain, name, e) < 0)
        return -1;
    AUTO(str_free) char *xml = lv.virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE);
    if (!xml)
        return libvirt_error(e, "reading the domain %s", name);
    // libvirt itself says where the disks are: any path is meant.
    struct machine_options options = {
        .path = name,
        .allow_any_path = true,
        .volume_path = volume_path,
        .context = l,
    };
    return machine_parse(machine_reader_find("libvirt"), xml, strlen(xml), &options, ret,
                         e);
}

const struct cloud_ops libvirt_cloud = {
    .scheme = "libvirt+",
    .what = "a libvirt connection, libvirt+qemu:///system",
    .open = libvirt_open,
    .close = libvirt_close,
    .check = libvirt_check,
    .place = libvirt_place,
    .import = libvirt_import,
    .launch = libvirt_launch,
    .remove = libvirt_remove,
    .describe = libvirt_describe,
};

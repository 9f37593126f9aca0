// SPDX-License-Identifier: Apache-2.0
// What is installed in a tree: distribution (os-release(5)), host name, kernels, boot
// loader. Everything is read from files; what is missing stays NULL, since a damaged
// guest should still be described by `info`. Addresses come from netconf.c.
#include "guest/guest.h"

#include "guest/fixes.h"
#include "guest/netconf.h"
#include "guest/text.h"

// By ID, then by the words of ID_LIKE of os-release.
static const struct {
    const char *id, *family;
} families[] = {
    {"debian", "debian"}, {"ubuntu", "debian"},   {"rhel", "redhat"},
    {"fedora", "redhat"}, {"centos", "redhat"},   {"suse", "suse"},
    {"sles", "suse"},     {"opensuse", "suse"},   {"arch", "arch"},
    {"alpine", "alpine"}, {"raspbian", "debian"},
};

static char *family_of(struct span ids)
{
    struct span word;
    while (text_word(&ids, &word))
        for (size_t i = 0; i < ARRAY_LEN(families); i++)
            if (span_is(word, families[i].id))
                return xstrdup(families[i].family);
    return NULL;
}

static int read_if_there(struct tree *t, const char *path, struct buf *out, struct err *e)
{
    return tree_exists(t, path) ? tree_read(t, path, out, e) : 0;
}

static int read_distribution(struct guest *g, struct err *e)
{
    AUTO(buf_done) struct buf text = BUF_INIT(64 * KIB);
    const char *path = tree_exists(g->tree, "/etc/os-release") ? "/etc/os-release"
                                                               : "/usr/lib/os-release";
    if (read_if_there(g->tree, path, &text, e))
        return -1;
    struct span all = {text.data, text.len};
    g->distro = text_assigned(all, "ID");
    g->version = text_assigned(all, "VERSION_ID");
    g->pretty = text_assigned(all, "PRETTY_NAME");
    AUTO(str_free) char *like = text_assigned(all, "ID_LIKE");
    if (g->distro)
        g->family = family_of(span_of(g->distro));
    if (!g->family && like)
        g->family = family_of(span_of(like));
    if (!g->family && tree_exists(g->tree, "/etc/debian_version")) // before Debian 7
        g->family = xstrdup("debian");
    return 0;
}

static int read_hostname(struct guest *g, struct err *e)
{
    AUTO(buf_done) struct buf text = BUF_INIT(64 * KIB);
    if (read_if_there(g->tree, "/etc/hostname", &text, e))
        return -1;
    struct span rest = {text.data, text.len}, line;
    while (!g->hostname && text_line(&rest, &line)) {
        line = span_trim(line);
        if (line.n && line.p[0] != '#')
            g->hostname = span_dup(line);
    }
    return 0;
}

static int find_kernels(struct guest *g, struct err *e)
{
    AUTO(strings_done) struct strings versions = {0};
    if (tree_list(g->tree, "/lib/modules", &versions, e))
        return -1;
    for (size_t i = 0; i < versions.n; i++) {
        AUTO(str_free) char *image = xasprintf("/boot/vmlinuz-%s", versions.v[i]);
        if (tree_exists(g->tree, image))
            strings_add(&g->kernels, versions.v[i]);
    }
    return 0;
}

// The first that is there is the guest's. A unified kernel image comes first because the
// others may lie about beside it.
static const struct {
    const char *path, *name;
} bootloaders[] = {
    {"/boot/grub/grub.cfg", "grub2"},
    {"/boot/grub2/grub.cfg", "grub2"},
    {"/boot/grub/menu.lst", "grub1"},
    {"/boot/extlinux/extlinux.conf", "extlinux"},
    {"/boot/syslinux/syslinux.cfg", "extlinux"},
    {"/extlinux.conf", "extlinux"},
    {"/boot/extlinux.conf", "extlinux"},
    {"/boot/efi/loader/loader.conf", "systemd-boot"},
    {"/efi/loader/loader.conf", "systemd-boot"},
    {"/boot/loader/loader.conf", "systemd-boot"},
};

const char *const guest_esp_paths[] = {"/boot/efi", "/efi", "/boot", NULL};

static int find_unified(struct guest *g, bool *ret, struct err *e)
{
    *ret = false;
    for (size_t i = 0; guest_esp_paths[i]; i++) {
        AUTO(str_free) char *dir = xasprintf("%s/EFI/Linux", guest_esp_paths[i]);
        AUTO(strings_done) struct strings names = {0};
        if (tree_list(g->tree, dir, &names, e))
            return -1;
        for (size_t j = 0; j < names.n; j++)
            *ret |= str_ends(names.v[j], ".efi");
    }
    return 0;
}

static int find_bootloader(struct guest *g, struct err *e)
{
    bool unified;
    if (find_unified(g, &unified, e))
        return -1;
    const char *name = NULL;
    for (size_t i = 0; !name && i < ARRAY_LEN(bootloaders); i++)
        if (tree_exists(g->tree, bootloaders[i].path))
            name = bootloaders[i].name;
    // A guest with both boots GRUB, unless it has no kernel outside.
    if (unified && (!name || !g->kernels.n || strcmp(name, "systemd-boot") == 0))
        name = "unified-kernel-image";
    g->bootloader = name ? xstrdup(name) : NULL;
    for (size_t i = 0; guest_esp_paths[i]; i++) {
        AUTO(str_free) char *dir = xasprintf("%s/EFI", guest_esp_paths[i]);
        g->uefi |= tree_exists(g->tree, dir);
    }
    g->bios = tree_exists(g->tree, "/boot/grub/i386-pc") ||
              tree_exists(g->tree, "/boot/grub2/i386-pc") ||
              (name && (strcmp(name, "extlinux") == 0 || strcmp(name, "grub1") == 0));
    return 0;
}

// Everything that guest_inspect fills, so that it may run again.
static void forget(struct guest *g)
{
    char **texts[] = {&g->family, &g->distro,   &g->version,
                      &g->pretty, &g->hostname, &g->bootloader};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        str_free(steal(*texts[i]));
    for (size_t i = 0; i < g->addresses.n; i++) {
        free(g->addresses.v[i].interface);
        free(g->addresses.v[i].mac);
        free(g->addresses.v[i].address);
        free(g->addresses.v[i].gateway);
    }
    vec_done(&g->addresses);
    strings_done(&g->kernels);
    g->kernels = (struct strings){0};
    g->uefi = g->bios = false;
}

static int read_addresses(struct guest *g, struct err *e)
{
    AUTO(netconf_done) struct netconf conf = {0};
    if (netconf_read(g->tree, &conf, e))
        return -1;
    for (size_t i = 0; i < conf.n; i++) {
        const struct netif *n = &conf.v[i];
        for (size_t j = 0; j < n->addresses.n; j++) {
            struct guest_address a = {
                .interface = n->name ? xstrdup(n->name) : NULL,
                .mac = n->mac ? xstrdup(n->mac) : NULL,
                .address = xstrdup(n->addresses.v[j]),
                .gateway = n->gateway && strcmp(n->addresses.v[j], "dhcp") != 0
                               ? xstrdup(n->gateway)
                               : NULL,
            };
            vec_push(&g->addresses, a);
        }
    }
    return 0;
}

int guest_inspect(struct guest *g, struct err *e)
{
    forget(g);
    if (read_distribution(g, e) || read_hostname(g, e) || find_kernels(g, e) ||
        find_bootloader(g, e))
        return -1;
    return read_addresses(g, e);
}

void guest_devices_done(struct guest *g)
{
    for (size_t i = 0; i < g->devices.n; i++) {
        struct guest_device *d = &g->devices.v[i];
        free(d->node);
        free(d->content);
        free(d->uuid);
        free(d->part_uuid);
        free(d->part_label);
        free(d->label);
        free(d->array);
    }
    vec_done(&g->devices);
}

void guest_done(struct guest *g)
{
    if (!g)
        return;
    forget(g);
    guest_devices_done(g);
    for (size_t i = 0; i < g->nics.n; i++) {
        free(g->nics.v[i].mac);
        free(g->nics.v[i].place);
    }
    vec_done(&g->nics);
    strings_done(&g->drivers);
    g->drivers = (struct strings){0};
    tree_close(steal(g->tree));
}

// NULL becomes null; text that is not UTF-8 too, since JSON has no place for it.
static json_t *text_or_null(const char *s)
{
    json_t *j = s ? json_string(s) : NULL;
    return j ? j : json_null();
}

json_t *guest_json(const struct guest *g)
{
    json_t *kernels = json_array(), *addresses = json_array(), *devices = json_array();
    json_t *nics = json_array();
    for (size_t i = 0; i < g->nics.n; i++)
        json_array_append_new(nics,
                              json_pack("{so}", "mac", text_or_null(g->nics.v[i].mac)));
    for (size_t i = 0; i < g->kernels.n; i++)
        json_array_append_new(kernels, text_or_null(g->kernels.v[i]));
    for (size_t i = 0; i < g->addresses.n; i++) {
        const struct guest_address *a = &g->addresses.v[i];
        json_array_append_new(addresses, json_pack("{so so so so}", "interface",
                                                   text_or_null(a->interface), "mac",
                                                   text_or_null(a->mac), "address",
                                                   text_or_null(a->address), "gateway",
                                                   text_or_null(a->gateway)));
    }
    for (size_t i = 0; i < g->devices.n; i++) {
        const struct guest_device *d = &g->devices.v[i];
        json_array_append_new(
            devices,
            json_pack("{so si si so so so so sb}", "node", text_or_null(d->node), "disk",
                      (int)d->disk, "partition", (int)d->partition, "content",
                      text_or_null(d->content), "uuid", text_or_null(d->uuid),
                      "part_uuid", text_or_null(d->part_uuid), "label",
                      text_or_null(d->label), "mapper", (int)d->mapper));
    }
    return json_pack(
        "{so so so so so so sb sb so so so so}", "family", text_or_null(g->family),
        "distro", text_or_null(g->distro), "version", text_or_null(g->version), "pretty",
        text_or_null(g->pretty), "hostname", text_or_null(g->hostname), "bootloader",
        text_or_null(g->bootloader), "uefi", (int)g->uefi, "bios", (int)g->bios,
        "kernels", kernels, "addresses", addresses, "devices", devices, "nics", nics);
}

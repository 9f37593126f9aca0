// SPDX-License-Identifier: Apache-2.0
// libvirt's domain XML (https://libvirt.org/formatdomain.html, as of libvirt 9), and the
// status XML that libvirtd keeps of a running domain (<domstatus>).
//
// Surprises: an `id` on <domain> means that it was dumped from a running machine; memory
// has units where "KB" is 1000 and "KiB" and "k" are 1024; CD-ROMs and floppies are disks
// to libvirt, not to us; the order of boot may stand in <os> or at each device.
#include "machine/reader.h"
#include "machine/xml.h"

#include <limits.h>
#include <strings.h>

// --- numbers
// --------------------------------------------------------------------------------------

static int memory_bytes(const xmlNode *node, uint64_t *ret)
{
    static const struct {
        const char *name;
        uint64_t bytes;
    } units[] = {
        {"b", 1},           {"bytes", 1},
        {"KB", 1000},       {"k", KIB},
        {"KiB", KIB},       {"MB", 1000000},
        {"M", MIB},         {"MiB", MIB},
        {"GB", 1000000000}, {"G", GIB},
        {"GiB", GIB},       {"T", TIB},
        {"TiB", TIB},       {"TB", UINT64_C(1000000000000)},
    };
    AUTO(str_free) char *text = xml_text(node);
    AUTO(str_free) char *unit = xml_attr(node, "unit");
    uint64_t n;
    if (!text || str_to_u64(text, &n) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        if (strcasecmp(unit ? unit : "KiB", units[i].name) == 0)
            return __builtin_mul_overflow(n, units[i].bytes, ret) ? -1 : 0;
    return -1;
}

static int read_numbers(const xmlNode *domain, struct machine *m, struct err *e)
{
    const xmlNode *memory = xml_child(domain, "memory");
    if (memory && memory_bytes(memory, &m->memory) < 0)
        return err_set(e, ERR_REFUSED, "its <memory> cannot be understood");
    const xmlNode *vcpu = xml_child(domain, "vcpu");
    AUTO(str_free) char *current = xml_attr(vcpu, "current");
    AUTO(str_free) char *all = xml_text(vcpu);
    const char *text = current ? current : all;
    uint64_t n = 1;
    if (text && (str_to_u64(text, &n) < 0 || n == 0 || n > 4096))
        return err_set(e, ERR_REFUSED, "its <vcpu> '%.40s' is no number of CPUs", text);
    m->cpus = (unsigned)n;
    return 0;
}

// --- firmware
// -------------------------------------------------------------------------------------

static void read_firmware(const xmlNode *os, struct machine *m)
{
    const xmlNode *loader = xml_child(os, "loader");
    AUTO(str_free) char *path = xml_text(loader);
    bool efi = xml_attr_is(os, "firmware", "efi") ||
               xml_attr_is(loader, "type", "pflash") || xml_child(os, "nvram") ||
               (path && (strcasestr(path, "OVMF") || strcasestr(path, "edk2")));
    m->firmware = efi ? FIRMWARE_UEFI : FIRMWARE_BIOS;
    m->firmware_known = true; // without a word libvirt means a BIOS
    m->secure_boot = efi && xml_attr_is(loader, "secure", "yes");
    xml_each(f, xml_child(os, "firmware"),
             "feature") if (xml_attr_is(f, "name", "secure-boot") && efi) m->secure_boot =
        xml_attr_is(f, "enabled", "yes");
}

// --- disks
// ----------------------------------------------------------------------------------------

static int volume_path(const xmlNode *source, const struct machine_options *options,
                       char **ret, struct err *e)
{
    AUTO(str_free) char *pool = xml_attr(source, "pool");
    AUTO(str_free) char *volume = xml_attr(source, "volume");
    if (!pool || !volume)
        return err_set(e, ERR_REFUSED, "a disk of type volume names no pool or volume");
    if (!options->volume_path)
        return err_set(e, ERR_REFUSED,
                       "its disk is volume %s of pool %s, which only libvirt can find: "
                       "give libvirt+URI?domain=NAME as source",
                       volume, pool);
    return options->volume_path(options->context, pool, volume, ret, e);
}

static int disk_path(const xmlNode *disk, const struct machine_options *options,
                     char **ret, struct err *e)
{
    AUTO(str_free) char *type = xml_attr(disk, "type");
    AUTO(str_free) char *target = xml_child_attr(disk, "target", "dev");
    const xmlNode *source = xml_child(disk, "source");
    AUTO(str_free) char *file = xml_attr(source, "file");
    AUTO(str_free) char *dev = xml_attr(source, "dev");
    const char *kind = type ? type : "file", *name = target ? target : "?";
    AUTO(str_free) char *volume = NULL;
    const char *path = NULL;
    if (strcmp(kind, "file") == 0) {
        path = file;
    } else if (strcmp(kind, "block") == 0) {
        path = dev;
    } else if (strcmp(kind, "volume") == 0) {
        if (volume_path(source, options, &volume, e) < 0)
            return -1;
        path = volume;
    } else {
        return err_set(e, ERR_REFUSED,
                       "its disk %s is of type '%.40s': only files, block devices and "
                       "volumes can be read here",
                       name, kind);
    }
    if (!path)
        return err_set(e, ERR_REFUSED, "its disk %s has no source", name);
    if (xml_child(disk, "encryption") || xml_child(source, "encryption"))
        return err_set(e, ERR_REFUSED,
                       "its disk %s is encrypted by libvirt: decrypt it "
                       "first (qemu-img convert with the secret)",
                       name);
    return reference_resolve(options, path, ret, e);
}

static uint32_t sector_size(const xmlNode *disk)
{
    AUTO(str_free) char *text = xml_child_attr(disk, "blockio", "logical_block_size");
    uint64_t n;
    return text && str_to_u64(text, &n) == 0 && (n == 512 || n == 4096) ? (uint32_t)n : 0;
}

// Place in the boot order, from 1; UINT_MAX: none.
static unsigned boot_order(const xmlNode *disk)
{
    AUTO(str_free) char *text = xml_child_attr(disk, "boot", "order");
    uint64_t n;
    return text && str_to_u64(text, &n) == 0 && n < UINT_MAX ? (unsigned)n : UINT_MAX;
}

static int read_disks(const xmlNode *devices, const struct machine_options *options,
                      struct machine *m, struct err *e)
{
    unsigned best = UINT_MAX;
    size_t boot = 0;
    xml_each(node, devices, "disk")
    {
        AUTO(str_free) char *device = xml_attr(node, "device");
        if (device && strcmp(device, "disk") != 0 && strcmp(device, "lun") != 0)
            continue;
        AUTO(machine_disk_done) struct machine_disk disk = {0};
        if (disk_path(node, options, &disk.path, e) < 0)
            return -1;
        disk.format = xml_child_attr(node, "driver", "type");
        disk.bus = xml_child_attr(node, "target", "bus");
        disk.sector_size = sector_size(node);
        unsigned order = boot_order(node);
        if (order < best) {
            best = order;
            boot = m->n_disks;
        }
        if (machine_add_disk(m, &disk, e) < 0)
            return -1;
    }
    if (best != UINT_MAX)
        m->disks[boot].boot = true;
    return 0;
}

// --- network interfaces
// ---------------------------------------------------------------------------

// On the root bus of a PC's old chip set a NIC has its slot's name, behind a port that of
// its bus.
static char *place_of(const xmlNode *nic)
{
    const xmlNode *address = xml_child(nic, "address");
    AUTO(str_free) char *bus_text = xml_attr(address, "bus");
    AUTO(str_free) char *slot_text = xml_attr(address, "slot");
    if (!xml_attr_is(address, "type", "pci") || !bus_text || !slot_text)
        return NULL;
    char *bus_end, *slot_end; // decimal or "0x01"
    unsigned long bus = strtoul(bus_text, &bus_end, 0);
    unsigned long slot = strtoul(slot_text, &slot_end, 0);
    if (*bus_end || *slot_end || bus > 255 || slot > 31)
        return NULL;
    return bus ? xasprintf("enp%lus%lu", bus, slot) : xasprintf("ens%lu", slot);
}

static int read_nics(const xmlNode *devices, struct machine *m, struct err *e)
{
    xml_each(node, devices, "interface")
    {
        AUTO(machine_nic_done) struct machine_nic nic = {0};
        AUTO(str_free) char *mac = xml_child_attr(node, "mac", "address");
        nic.mac = mac ? machine_mac(mac) : NULL;
        nic.model = xml_child_attr(node, "model", "type");
        if (xml_attr_is(node, "type", "bridge"))
            nic.bridge = xml_child_attr(node, "source", "bridge");
        else
            nic.network = xml_child_attr(node, "source", "network");
        nic.place = place_of(node);
        if (machine_add_nic(m, &nic, e) < 0)
            return -1;
    }
    return 0;
}

// --- the whole
// ------------------------------------------------------------------------------------

bool libvirt_is(const char *path, const char *text, size_t len)
{
    (void)path;
    return xml_root_is(text, len, "domain") || xml_root_is(text, len, "domstatus");
}

static char *running(const xmlNode *root, const xmlNode *domain)
{
    AUTO(str_free) char *id = xml_attr(domain, "id");
    AUTO(str_free) char *pid = xml_attr(root, "pid");
    if (root != domain)
        return xasprintf("process %s", pid ? pid : "unknown");
    return id ? xasprintf("domain %s", id) : NULL;
}

int libvirt_read(const char *text, size_t len, const struct machine_options *options,
                 struct machine *m, struct err *e)
{
    AUTO(xml_close) struct xml *xml = NULL;
    if (xml_open(text, len, path_base(options->path), &xml, e) < 0)
        return -1;
    const xmlNode *root = xml_root(xml);
    const xmlNode *domain = xml_is(root, "domstatus") ? xml_child(root, "domain") : root;
    if (!xml_is(domain, "domain"))
        return err_set(e, ERR_REFUSED, "no libvirt domain: its root element is <%s>",
                       root ? (const char *)root->name : "");
    const xmlNode *os = xml_child(domain, "os");
    const xmlNode *devices = xml_child(domain, "devices");
    AUTO(str_free) char *uuid = xml_child_text(domain, "uuid");
    m->name = xml_child_text(domain, "name");
    m->uuid = uuid ? reference_uuid(uuid) : NULL;
    m->arch = xml_child_attr(os, "type", "arch");
    m->running_as = running(root, domain);
    read_firmware(os, m);
    return read_numbers(domain, m, e) < 0 || read_disks(devices, options, m, e) < 0 ||
                   read_nics(devices, m, e) < 0
               ? -1
               : 0;
}

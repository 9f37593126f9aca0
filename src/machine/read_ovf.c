// SPDX-License-Identifier: Apache-2.0
// OVF descriptors: DSP0243 1.1 and 2.1, and what VMware and VirtualBox write beside it.
//
//     References/File id → href            DiskSection/Disk diskId → fileRef
//     VirtualSystem/VirtualHardwareSection/Item: one device each, by CIM resource type
//     (DSP0004's CIM_ResourceAllocationSettingData); a disk's HostResource names a Disk
//     or a File, its Parent the controller's InstanceID
//
// Surprises: version 2 calls Items StorageItem and EthernetPortItem; a package may hold
// several machines (refused), or variants of one (the default variant counts); the
// firmware is no part of the standard, so its absence says nothing.
#include "machine/reader.h"
#include "machine/xml.h"

#include <errno.h>
#include <sys/stat.h>

#define ITEMS_MAX 1024

struct item {
    const xmlNode *node;
    uint64_t type;
    char *id;
};
struct ovf {
    const char *what;
    const struct ovf_files *files;
    const xmlNode *envelope, *hardware;
    VEC(struct item) items;
    char *variant; // the default Configuration, NULL: the package has none
    struct machine *m;
};

static void ovf_done(struct ovf *o)
{
    for (size_t i = 0; i < o->items.n; i++)
        free(o->items.v[i].id);
    vec_done(&o->items);
    free(o->variant);
}
__attribute__((unused)) static inline void auto_ovf_done(struct ovf *o)
{
    ovf_done(o);
}

// --- references: File and Disk
// --------------------------------------------------------------------

static const xmlNode *find_by(const xmlNode *parent, const char *name, const char *attr,
                              const char *value)
{
    xml_each(n, parent, name) if (xml_attr_is(n, attr, value)) return n;
    return NULL;
}

// Shorter than the description says: a download that broke off.
static int check_size(const xmlNode *file, const char *href,
                      const struct machine_disk *disk, struct err *e)
{
    AUTO(str_free) char *text = xml_attr(file, "size");
    uint64_t want, have = disk->part_len;
    struct stat st;
    if (!text || str_to_u64(text, &want) < 0)
        return 0;
    if (have == 0 && stat(disk->path, &st) == 0 && S_ISREG(st.st_mode))
        have = (uint64_t)st.st_size;
    if (have != 0 && have < want)
        return err_set(e, ERR_REFUSED,
                       "its file %s is truncated: %llu bytes instead of %llu", href,
                       (unsigned long long)have, (unsigned long long)want);
    return 0;
}

static int file_of(struct ovf *o, const char *file_id, struct machine_disk *disk,
                   struct err *e)
{
    const xmlNode *file =
        find_by(xml_child(o->envelope, "References"), "File", "id", file_id);
    AUTO(str_free) char *href = xml_attr(file, "href");
    if (!href)
        return err_set(e, ERR_REFUSED, "names the file '%s', which it does not list",
                       file_id);
    AUTO(str_free) char *compression = xml_attr(file, "compression");
    if (compression && *compression && strcmp(compression, "identity") != 0)
        return err_set(e, ERR_REFUSED,
                       "its file %s is compressed (%s); unpack it and remove the "
                       "compression attribute",
                       href, compression);
    AUTO(str_free) char *chunk = xml_attr(file, "chunkSize");
    if (chunk)
        return err_set(e, ERR_REFUSED, "its file %s is cut into chunks; join them first",
                       href);
    if (strstr(href, "://"))
        return err_set(e, ERR_REFUSED, "its file %s lies on the network; fetch it first",
                       href);
    if (o->files->find(o->files->context, href, disk, e) < 0)
        return -1;
    return check_size(file, href, disk, e);
}

// "http://…/vmdk.html#streamOptimized" → vmdk; NULL: not one we know.
static const char *format_of(const char *uri)
{
    static const struct {
        const char *part, *format;
    } formats[] = {
        {"vhdx", "vhdx"}, {"vmdk", "vmdk"}, {"qcow2", "qcow2"}, {"vdi", "vdi"}};
    for (size_t i = 0; uri && i < ARRAY_LEN(formats); i++)
        if (strcasestr(uri, formats[i].part))
            return formats[i].format;
    return NULL;
}

static int disk_of(struct ovf *o, const char *disk_id, struct machine_disk *disk,
                   struct err *e)
{
    const xmlNode *d =
        find_by(xml_child(o->envelope, "DiskSection"), "Disk", "diskId", disk_id);
    if (!d) // OVF 2 has DiskSection's content the same; some writers use another wrapper
        d = find_by(xml_child(o->envelope, "Section"), "Disk", "diskId", disk_id);
    if (!d)
        return err_set(e, ERR_REFUSED, "names the disk '%s', which it does not describe",
                       disk_id);
    AUTO(str_free) char *parent = xml_attr(d, "parentRef");
    if (parent)
        return err_set(e, ERR_REFUSED,
                       "its disk '%s' is a difference to another one: export the machine "
                       "without snapshots",
                       disk_id);
    AUTO(str_free) char *file_ref = xml_attr(d, "fileRef");
    if (!file_ref)
        return err_set(e, ERR_REFUSED,
                       "its disk '%s' is blank, without a file: remove it, or add an "
                       "image",
                       disk_id);
    if (file_of(o, file_ref, disk, e) < 0)
        return -1;
    AUTO(str_free) char *uri = xml_attr(d, "format");
    const char *format = format_of(uri);
    if (format) {
        free(disk->format);
        disk->format = xstrdup(format);
    }
    return 0;
}

// --- devices
// --------------------------------------------------------------------------------------

// The bus of a controller, from its resource type and what it is called.
static const char *bus_of(const struct ovf *o, const xmlNode *disk)
{
    AUTO(str_free) char *parent = xml_child_text(disk, "Parent");
    for (size_t i = 0; parent && i < o->items.n; i++) {
        const struct item *c = &o->items.v[i];
        if (!c->id || strcmp(c->id, parent) != 0)
            continue;
        AUTO(str_free) char *sub = xml_child_text(c->node, "ResourceSubType");
        if (sub && strcasestr(sub, "nvme"))
            return "nvme";
        if (sub && (strcasestr(sub, "ahci") || strcasestr(sub, "sata")))
            return "sata";
        if (sub && (strcasestr(sub, "virtio")))
            return strcasestr(sub, "scsi") ? "scsi" : "virtio";
        return c->type == 5    ? "ide"
               : c->type == 6  ? "scsi"
               : c->type == 20 ? "sata"
                               : NULL;
    }
    return NULL;
}

static int take_disk(struct ovf *o, const xmlNode *node, struct err *e)
{
    AUTO(str_free) char *host = xml_child_text(node, "HostResource");
    if (!host || !*host)
        return err_set(e, ERR_REFUSED, "has a disk without HostResource");
    const char *ref = str_starts(host, "ovf:") ? host + 4 : host;
    AUTO(machine_disk_done) struct machine_disk disk = {0};
    int r;
    if (str_starts(ref, "/disk/") || str_starts(ref, "//disk/"))
        r = disk_of(o, strrchr(ref, '/') + 1, &disk, e);
    else if (str_starts(ref, "/file/") || str_starts(ref, "//file/"))
        r = file_of(o, strrchr(ref, '/') + 1, &disk, e);
    else
        return err_set(e, ERR_REFUSED, "has a disk at '%.200s', which is no reference",
                       host);
    if (r < 0)
        return -1;
    const char *bus = bus_of(o, node);
    disk.bus = bus ? xstrdup(bus) : NULL;
    return machine_add_disk(o->m, &disk, e);
}

static int take_cpu(struct ovf *o, const xmlNode *node, struct err *e)
{
    AUTO(str_free) char *text = xml_child_text(node, "VirtualQuantity");
    uint64_t n;
    if (!text || str_to_u64(text, &n) < 0 || n == 0 || n > 4096)
        return err_set(e, ERR_REFUSED, "has '%.40s' processors", text ? text : "no");
    o->m->cpus = (unsigned)n;
    return 0;
}

// DSP0004 programmatic units: "byte * 2^20", "byte*2^30", "byte", and the words of OVF
// 0.9. 0: unknown.
static uint64_t unit_bytes(const char *unit)
{
    static const struct {
        const char *word;
        uint64_t bytes;
    } words[] = {{"megabytes", MIB}, {"mb", MIB}, {"gigabytes", GIB}, {"gb", GIB},
                 {"kilobytes", KIB}, {"kb", KIB}, {"byte", 1},        {"bytes", 1},
                 {"", MIB}}; // the standard's default of memory items is 2^20
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcasecmp(unit, words[i].word) == 0)
            return words[i].bytes;
    const char *power = strstr(unit, "2^");
    uint64_t shift;
    if (strncasecmp(unit, "byte", 4) != 0 || !power)
        return 0;
    return str_to_u64(power + 2, &shift) == 0 && shift <= 40 ? UINT64_C(1) << shift : 0;
}

static int take_memory(struct ovf *o, const xmlNode *node, struct err *e)
{
    AUTO(str_free) char *text = xml_child_text(node, "VirtualQuantity");
    AUTO(str_free) char *unit = xml_child_text(node, "AllocationUnits");
    uint64_t n, bytes = unit_bytes(unit ? unit : "");
    if (!text || str_to_u64(text, &n) < 0 || bytes == 0 ||
        __builtin_mul_overflow(n, bytes, &o->m->memory))
        return err_set(e, ERR_REFUSED, "has a memory of '%.40s' '%.40s'",
                       text ? text : "", unit ? unit : "");
    return 0;
}

static int take_nic(struct ovf *o, const xmlNode *node, struct err *e)
{
    AUTO(machine_nic_done) struct machine_nic nic = {0};
    AUTO(str_free) char *address = xml_child_text(node, "Address");
    AUTO(str_free) char *model = xml_child_text(node, "ResourceSubType");
    nic.mac = address ? machine_mac(address) : NULL;
    if (model && *model) {
        for (char *p = model; *p; p++)
            if (*p >= 'A' && *p <= 'Z')
                *p = (char)(*p - 'A' + 'a');
        nic.model = steal(model);
    }
    nic.network = xml_child_text(node, "Connection");
    return machine_add_nic(o->m, &nic, e);
}

// CIM resource types that matter; the others (controllers, CD, floppy, USB, sound) do not
// move.
static const struct {
    uint64_t type;
    int (*take)(struct ovf *o, const xmlNode *node, struct err *e);
} devices[] = {
    {3, take_cpu}, {4, take_memory}, {10, take_nic}, {17, take_disk}, {31, take_disk},
};

// --- the hardware section
// -------------------------------------------------------------------------

// Does the item belong to the default variant? Ranges (`bound`) are no devices.
static bool item_counts(const struct ovf *o, const xmlNode *node)
{
    AUTO(str_free) char *bound = xml_attr(node, "bound");
    if (bound && strcmp(bound, "normal") != 0)
        return false;
    AUTO(str_free) char *variants = xml_attr(node, "configuration");
    if (!variants || !*variants)
        return true;
    if (!o->variant)
        return false;
    char *rest = variants;
    for (char *word; (word = strsep(&rest, " \t\r\n"));)
        if (strcmp(word, o->variant) == 0)
            return true;
    return false;
}

static void find_variant(struct ovf *o)
{
    const xmlNode *section = xml_child(o->envelope, "DeploymentOptionSection");
    const xmlNode *first = xml_child(section, "Configuration");
    const xmlNode *chosen = find_by(section, "Configuration", "default", "true");
    o->variant = xml_attr(chosen ? chosen : first, "id");
}

static int collect(struct ovf *o, struct err *e)
{
    static const char *const names[] = {"Item", "StorageItem", "EthernetPortItem"};
    xml_each(node, o->hardware, NULL)
    {
        bool is_item = false;
        for (size_t i = 0; i < ARRAY_LEN(names); i++)
            is_item = is_item || xml_is(node, names[i]);
        if (!is_item || !item_counts(o, node))
            continue;
        AUTO(str_free) char *type = xml_child_text(node, "ResourceType");
        struct item item = {.node = node};
        if (!type || str_to_u64(type, &item.type) < 0)
            return err_set(e, ERR_REFUSED, "has an item of resource type '%.40s'",
                           type ? type : "");
        if (o->items.n == ITEMS_MAX)
            return err_set(e, ERR_REFUSED, "has more than %d items", ITEMS_MAX);
        item.id = xml_child_text(node, "InstanceID");
        if (!item.id)
            item.id = xml_child_text(node, "InstanceId"); // OVF 0.9
        vec_push(&o->items, item);
    }
    return 0;
}

static void set_firmware(struct machine *m, const char *value)
{
    bool efi = value && strncasecmp(value, "efi", 3) == 0;
    bool bios = value && strcasecmp(value, "bios") == 0;
    if (!efi && !bios)
        return;
    m->firmware = efi ? FIRMWARE_UEFI : FIRMWARE_BIOS;
    m->firmware_known = true;
}

// vmw:Config key="firmware" value="efi" and its sister of ExtraConfig.
static void read_vmware(struct ovf *o)
{
    static const char *const names[] = {"Config", "ExtraConfig"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        xml_each(n, o->hardware, names[i])
        {
            AUTO(str_free) char *key = xml_attr(n, "key");
            AUTO(str_free) char *value = xml_attr(n, "value");
            if (!key || !value)
                continue;
            if (strcasecmp(key, "firmware") == 0)
                set_firmware(o->m, value);
            else if (strcasecmp(key, "bootOptions.efiSecureBootEnabled") == 0 ||
                     strcasecmp(key, "uefi.secureBoot.enabled") == 0)
                o->m->secure_boot = strcasecmp(value, "true") == 0;
        }
}

// vbox:Machine beside the hardware section: firmware, and the MACs that OVF's items lack,
// adapter by adapter in the order of their slots.
static void read_virtualbox(struct ovf *o, const xmlNode *system)
{
    const xmlNode *machine = xml_child(system, "Machine");
    const xmlNode *hardware = xml_child(machine, "Hardware");
    AUTO(str_free)
    char *firmware = xml_child_attr(hardware ? hardware : machine, "Firmware", "type");
    set_firmware(o->m, firmware);
    const xmlNode *network = xml_child(hardware, "Network");
    size_t nic = 0;
    xml_each(a, network, "Adapter")
    {
        if (xml_attr_is(a, "enabled", "false"))
            continue;
        AUTO(str_free) char *address = xml_attr(a, "MACAddress");
        if (nic < o->m->n_nics && address && !o->m->nics[nic].mac)
            o->m->nics[nic].mac = machine_mac(address);
        nic++;
    }
    AUTO(str_free) char *uuid = xml_attr(machine, "uuid");
    if (uuid && !o->m->uuid)
        o->m->uuid = reference_uuid(uuid);
}

static int read_system(struct ovf *o, const xmlNode *system, struct err *e)
{
    o->hardware = xml_child(system, "VirtualHardwareSection");
    if (!o->hardware) // OVF 0.9: Section xsi:type="ovf:VirtualHardwareSection_Type"
        xml_each(s, system, "Section")
        {
            AUTO(str_free) char *type = xml_attr(s, "type");
            if (type && strstr(type, "VirtualHardwareSection"))
                o->hardware = s;
        }
    if (!o->hardware)
        return err_set(e, ERR_REFUSED, "its machine has no VirtualHardwareSection");
    find_variant(o);
    if (collect(o, e) < 0)
        return -1;
    for (size_t i = 0; i < o->items.n; i++)
        for (size_t k = 0; k < ARRAY_LEN(devices); k++)
            if (devices[k].type == o->items.v[i].type &&
                devices[k].take(o, o->items.v[i].node, e) < 0)
                return -1;
    o->m->name = xml_child_text(system, "Name");
    if (!o->m->name || !*o->m->name) {
        free(o->m->name);
        o->m->name = xml_attr(system, "id");
    }
    read_vmware(o);
    read_virtualbox(o, system);
    return 0;
}

int ovf_parse(const char *text, size_t len, const char *what,
              const struct ovf_files *files, struct machine *m, struct err *e)
{
    AUTO(xml_close) struct xml *xml = NULL;
    if (xml_open(text, len, what, &xml, e) < 0)
        return -1;
    AUTO(ovf_done) struct ovf o = {.what = what, .files = files, .m = m};
    o.envelope = xml_root(xml);
    if (!xml_is(o.envelope, "Envelope"))
        return err_set(e, ERR_REFUSED, "%s: no OVF: its root element is no Envelope",
                       what);
    const xmlNode *parent = o.envelope;
    const xmlNode *collection = xml_child(parent, "VirtualSystemCollection");
    if (collection)
        parent = collection;
    const xmlNode *system = xml_child(parent, "VirtualSystem");
    if (!system)
        system = xml_child(parent, "Content"); // OVF 0.9
    if (!system)
        return err_set(e, ERR_REFUSED, "%s: describes no machine", what);
    if (xml_next(system, (const char *)system->name) ||
        xml_child(collection, "VirtualSystemCollection"))
        return err_set(e, ERR_REFUSED,
                       "%s: describes more than one machine; export them one by one",
                       what);
    return read_system(&o, system, e);
}

// --- an .ovf beside its files
// ---------------------------------------------------------------------

bool ovf_is(const char *path, const char *text, size_t len)
{
    (void)path;
    return xml_root_is(text, len, "Envelope");
}

// RFC 3986 escapes of an href. false: it cannot be a file name.
static bool unescape(char *s)
{
    char *out = s;
    for (; *s; s++, out++) {
        *out = *s;
        if (*s != '%')
            continue;
        unsigned value = 0;
        for (int i = 1; i <= 2; i++) {
            const char *hex = "0123456789abcdef";
            char c = s[i] >= 'A' && s[i] <= 'F' ? (char)(s[i] + 32) : s[i];
            const char *digit = c ? strchr(hex, c) : NULL;
            if (!digit)
                return false;
            value = value * 16 + (unsigned)(digit - hex);
        }
        if (value == 0)
            return false;
        *out = (char)value;
        s += 2;
    }
    *out = 0;
    return true;
}

static int find_beside(void *context, const char *href, struct machine_disk *disk,
                       struct err *e)
{
    const struct machine_options *options = context;
    AUTO(str_free) char *plain = xstrdup(href);
    struct err why;
    // Most writers do not escape: the name as it stands goes first.
    if (reference_resolve(options, href, &disk->path, &why) == 0)
        return 0;
    if (strchr(href, '%') && unescape(plain))
        return reference_resolve(options, plain, &disk->path, e);
    *e = why;
    return -1;
}

// NAME.mf beside NAME.ovf, if there is one.
static int check_manifest(const char *text, size_t len, const char *path, struct err *e)
{
    const char *base = path_base(path), *dot = strrchr(base, '.');
    int n = dot ? (int)(dot - path) : (int)strlen(path);
    AUTO(str_free) char *name = xasprintf("%.*s.mf", n, path);
    struct stat st;
    if (stat(name, &st) < 0 || !S_ISREG(st.st_mode))
        return 0;
    AUTO(buf_done) struct buf manifest = BUF_INIT(MIB);
    if (file_read(name, &manifest, e) < 0)
        return -1;
    return manifest_check(manifest.data ? manifest.data : "", manifest.len, base, text,
                          len, e);
}

int ovf_read(const char *text, size_t len, const struct machine_options *options,
             struct machine *m, struct err *e)
{
    if (check_manifest(text, len, options->path, e) < 0)
        return -1;
    struct ovf_files files = {find_beside, (void *)options};
    return ovf_parse(text, len, path_base(options->path), &files, m, e);
}

// SPDX-License-Identifier: Apache-2.0
// VMware's .vmx: lines of `key = "value"`, keys without regard to case, a byte that may
// not stand in a value as |XX (|22 is a quote). There is no published grammar; what is
// read here is what Workstation, Fusion and ESXi write.
//
//     scsi0:1.fileName = "data.vmdk"   device 1 of bus scsi0; also sata, ide, nvme
//     scsi0:1.deviceType = "disk"      "scsi-hardDisk" "ata-hardDisk"; else no disk
//     checkpoint.vmState = "x.vmss"    it is suspended; "" when it is not
//     scsi0:1.present = "FALSE"        a device that was taken out; likewise
//     scsi0.present
//
// Surprises: file names may be Windows paths or ESXi's /vmfs/volumes/…, whose namesake
// beside the .vmx is meant; a snapshot's NAME-000001.vmdk is fine, QEMU follows its
// chain; .encoding says in which character set the names are.
#include "machine/reader.h"

#include <ctype.h>
#include <iconv.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>

#define ENTRIES_MAX 8192

struct entry {
    char *key, *value;
    size_t line; // a later line of the same key wins
};
struct vmx {
    VEC(struct entry) entries; // sorted by key
};

static void auto_vmx_done(struct vmx *v)
{
    for (size_t i = 0; i < v->entries.n; i++) {
        free(v->entries.v[i].key);
        free(v->entries.v[i].value);
    }
    vec_done(&v->entries);
}

// --- the file's lines
// -----------------------------------------------------------------------------

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef";
    const char *found = c ? strchr(digits, tolower((unsigned char)c)) : NULL;
    return found ? (int)(found - digits) : -1;
}

// In place. A |00 ends the value.
static void unescape(char *s)
{
    char *out = s;
    for (; *s; s++) {
        int high = *s == '|' ? hex_digit(s[1]) : -1;
        int low = high >= 0 ? hex_digit(s[2]) : -1;
        if (low >= 0) {
            *out++ = (char)(high * 16 + low);
            s += 2;
        } else {
            *out++ = *s;
        }
    }
    *out = 0;
}

// The line's key and value; false: a comment, empty, or no assignment.
static bool split(const char *p, size_t len, struct entry *ret)
{
    AUTO(str_free) char *line = xstrndup(p, len);
    char *key = str_trim(line), *equal = strchr(key, '=');
    if (*key == '#' || !equal)
        return false;
    *equal = 0;
    char *value = str_trim(equal + 1);
    if (*value == '"') {
        value++;
        char *quote = strchr(value, '"');
        if (!quote)
            return false;
        *quote = 0;
    }
    key = str_trim(key);
    if (!*key)
        return false;
    unescape(value);
    ret->key = xstrdup(key);
    ret->value = xstrdup(value);
    for (char *c = ret->key; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    return true;
}

static int by_key(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int r = strcmp(x->key, y->key);
    return r ? r : x->line < y->line ? -1 : x->line > y->line;
}

static int parse_lines(struct vmx *v, const char *text, size_t len, struct err *e)
{
    const char *p = text, *end = text + len;
    if (len >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
        p += 3;
    for (size_t line = 1; p < end; line++) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((eol ? eol : end) - p);
        struct entry entry = {.line = line};
        if (memchr(p, 0, n))
            return err_set(e, ERR_REFUSED, "line %zu: is no text", line);
        if (v->entries.n == ENTRIES_MAX)
            return err_set(e, ERR_REFUSED, "has more than %d settings", ENTRIES_MAX);
        if (split(p, n, &entry))
            vec_push(&v->entries, entry);
        p = eol ? eol + 1 : end;
    }
    if (v->entries.n)
        qsort(v->entries.v, v->entries.n, sizeof(*v->entries.v), by_key);
    return 0;
}

static const char *get(const struct vmx *v, const char *key)
{
    size_t low = 0, high = v->entries.n;
    while (low < high) { // the first entry behind all of this key
        size_t middle = low + (high - low) / 2;
        if (strcmp(v->entries.v[middle].key, key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low && strcmp(v->entries.v[low - 1].key, key) == 0
               ? v->entries.v[low - 1].value
               : NULL;
}

// The setting `field` of a device such as "scsi0:1".
static const char *get_of(const struct vmx *v, const char *device, const char *field)
{
    char key[64];
    snprintf(key, sizeof(key), "%s.%s", device, field);
    return get(v, key);
}

static bool is_false(const char *value)
{
    return value && (strcasecmp(value, "false") == 0 || strcmp(value, "0") == 0);
}

static bool is_true(const char *value)
{
    return value && (strcasecmp(value, "true") == 0 || strcmp(value, "1") == 0);
}

// --- disks
// ----------------------------------------------------------------------------------------

static bool is_disk(const char *type, const char *file)
{
    static const char *const disks[] = {"disk", "harddisk", "scsi-harddisk",
                                        "ata-harddisk", "rawdisk"};
    if (!type || !*type)
        return strlen(file) > 5 && strcasecmp(file + strlen(file) - 5, ".vmdk") == 0;
    for (size_t i = 0; i < ARRAY_LEN(disks); i++)
        if (strcasecmp(type, disks[i]) == 0)
            return true;
    return false;
}

// `text` in UTF-8, from the .vmx's own character set; NULL: cannot be.
static char *to_utf8(const char *text, const char *charset)
{
    iconv_t cd = iconv_open("UTF-8", charset);
    if (cd == (iconv_t)-1)
        return NULL;
    char out[4096], *to = out, *from = (char *)text;
    size_t n_from = strlen(text), n_to = sizeof(out) - 1;
    size_t r = iconv(cd, &from, &n_from, &to, &n_to);
    iconv_close(cd);
    if (r == (size_t)-1)
        return NULL;
    *to = 0;
    return xstrdup(out);
}

// Windows paths use the other slash; "C:\VMs\a.vmdk" then reads as absolute.
static char *portable(const char *file)
{
    bool drive = isalpha((unsigned char)file[0]) && file[1] == ':' &&
                 (file[2] == '\\' || file[2] == '/');
    char *name = xstrdup(drive ? file + 2 : file);
    if (drive || !strchr(name, '/'))
        for (char *p = name; *p; p++)
            if (*p == '\\')
                *p = '/';
    return name;
}

static int find_file(const struct vmx *v, const char *file,
                     const struct machine_options *options, char **ret, struct err *e)
{
    AUTO(str_free) char *name = portable(file);
    if (reference_resolve(options, name, ret, e) == 0)
        return 0;
    const char *charset = get(v, ".encoding");
    AUTO(str_free)
    char *utf8 = charset && strlen(charset) < 40 ? to_utf8(name, charset) : NULL;
    struct err ignored; // of the second spelling: the first one's says what was asked
    if (utf8 && strcmp(utf8, name) != 0 &&
        reference_resolve(options, utf8, ret, &ignored) == 0)
        return 0;
    return -1;
}

// Is `device` in the list of bios.hddOrder, first?
static bool boots_first(const struct vmx *v, const char *device)
{
    const char *order = get(v, "bios.hddorder");
    size_t n = strlen(device);
    return order && strncasecmp(order, device, n) == 0 &&
           (order[n] == 0 || order[n] == ',');
}

// VMware keeps a folder DISK.vmdk.lck while the machine runs.
static int refuse_locked(const char *path, struct err *e)
{
    AUTO(str_free) char *lock = xasprintf("%s.lck", path);
    struct stat st;
    if (stat(lock, &st) < 0)
        return 0;
    return err_set(e, ERR_REFUSED,
                   "its disk %s is in use by VMware: shut the machine down (or remove %s "
                   "if VMware crashed)",
                   path, lock);
}

static int take_disk(const struct vmx *v, const char *bus, const char *device,
                     const struct machine_options *options, struct machine *m,
                     struct err *e)
{
    const char *file = get_of(v, device, "filename");
    if (!file || !*file || is_false(get_of(v, device, "present")) ||
        !is_disk(get_of(v, device, "devicetype"), file))
        return 0;
    AUTO(machine_disk_done) struct machine_disk disk = {0};
    if (find_file(v, file, options, &disk.path, e) < 0 || refuse_locked(disk.path, e) < 0)
        return -1;
    disk.format = xstrdup("vmdk");
    disk.bus = xstrdup(bus);
    disk.boot = boots_first(v, device);
    return machine_add_disk(m, &disk, e);
}

static int read_disks(const struct vmx *v, const struct machine_options *options,
                      struct machine *m, struct err *e)
{
    static const struct {
        const char *bus;
        unsigned n_controllers, n_devices;
    } buses[] = {{"scsi", 4, 65}, {"sata", 4, 30}, {"nvme", 4, 64}, {"ide", 2, 2}};
    for (size_t b = 0; b < ARRAY_LEN(buses); b++)
        for (unsigned c = 0; c < buses[b].n_controllers; c++) {
            char device[24];
            snprintf(device, sizeof(device), "%s%u", buses[b].bus, c);
            if (is_false(get_of(v, device, "present")))
                continue;
            for (unsigned d = 0; d < buses[b].n_devices; d++) {
                snprintf(device, sizeof(device), "%s%u:%u", buses[b].bus, c, d);
                if (take_disk(v, buses[b].bus, device, options, m, e) < 0)
                    return -1;
            }
        }
    return 0;
}

// --- everything else
// ------------------------------------------------------------------------------

// The slot is what VMware's ACPI tables number it: pciSlotNumber = "192" is ens192.
static char *place_of(const struct vmx *v, const char *device)
{
    const char *slot = get_of(v, device, "pcislotnumber");
    uint64_t n;
    bool known = slot && str_to_u64(slot, &n) == 0 && n > 0 && n < 10000;
    return known ? xasprintf("ens%u", (unsigned)n) : NULL;
}

static int read_nics(const struct vmx *v, struct machine *m, struct err *e)
{
    for (unsigned i = 0; i < 10; i++) { // VMware's own limit
        char device[24];
        snprintf(device, sizeof(device), "ethernet%u", i);
        if (!is_true(get_of(v, device, "present")))
            continue;
        const char *fixed = get_of(v, device, "address");
        const char *made = get_of(v, device, "generatedaddress");
        const char *type = get_of(v, device, "addresstype");
        bool is_static = !type || strcasecmp(type, "static") == 0;
        const char *mac = is_static && fixed ? fixed : made ? made : fixed;
        const char *model = get_of(v, device, "virtualdev");
        const char *network = get_of(v, device, "networkname");
        if (!network)
            network = get_of(v, device, "connectiontype");
        AUTO(machine_nic_done) struct machine_nic nic = {0};
        nic.mac = mac ? machine_mac(mac) : NULL;
        nic.model = xstrdup(model && *model ? model : "e1000");
        nic.network = network && *network ? xstrdup(network) : NULL;
        nic.place = place_of(v, device);
        if (machine_add_nic(m, &nic, e) < 0)
            return -1;
    }
    return 0;
}

static int read_numbers(const struct vmx *v, struct machine *m, struct err *e)
{
    const char *cpus = get(v, "numvcpus"), *memory = get(v, "memsize");
    uint64_t n = 1, mib = 0;
    if (cpus && (str_to_u64(cpus, &n) < 0 || n == 0 || n > 4096))
        return err_set(e, ERR_REFUSED, "numvcpus = \"%.40s\" is no number of CPUs", cpus);
    if (memory && (str_to_u64(memory, &mib) < 0 || mib > TIB / MIB * 64))
        return err_set(e, ERR_REFUSED, "memsize = \"%.40s\" is no size in MiB", memory);
    m->cpus = (unsigned)n;
    m->memory = mib * MIB;
    return 0;
}

// What makes the disks alone less than the machine.
static int refuse_state(const struct vmx *v, struct err *e)
{
    const char *suspended = get(v, "checkpoint.vmstate");
    if (suspended && *suspended)
        return err_set(e, ERR_REFUSED,
                       "is suspended (%s): its memory holds what is not on disk; resume "
                       "it and shut it down",
                       suspended);
    static const char *const keys[] = {"encryption.data", "encryption.keysafe",
                                       "encryptedvm.guid"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (get(v, keys[i]))
            return err_set(e, ERR_REFUSED,
                           "is encrypted by VMware; remove the encryption there first");
    return 0;
}

bool vmx_is(const char *path, const char *text, size_t len)
{
    (void)path;
    // The two lines that every writer puts near the top.
    return text && len && !memchr(text, 0, len) &&
           (memmem(text, len, "config.version", 14) ||
            memmem(text, len, "virtualHW.version", 17));
}

int vmx_read(const char *text, size_t len, const struct machine_options *options,
             struct machine *m, struct err *e)
{
    struct vmx v __attribute__((cleanup(auto_vmx_done))) = {0};
    if (parse_lines(&v, text, len, e) < 0 || refuse_state(&v, e) < 0 ||
        read_numbers(&v, m, e) < 0)
        return -1;
    const char *name = get(&v, "displayname"), *uuid = get(&v, "uuid.bios");
    m->name = name && *name ? xstrdup(name) : NULL;
    m->uuid = uuid ? reference_uuid(uuid) : NULL;
    const char *firmware = get(&v, "firmware");
    m->firmware =
        firmware && strcasecmp(firmware, "efi") == 0 ? FIRMWARE_UEFI : FIRMWARE_BIOS;
    m->firmware_known = true; // VMware leaves the line out for a BIOS
    m->secure_boot = is_true(get(&v, "uefi.secureboot.enabled"));
    return read_disks(&v, options, m, e) < 0 || read_nics(&v, m, e) < 0 ? -1 : 0;
}

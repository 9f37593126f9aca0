// SPDX-License-Identifier: Apache-2.0
// A machine as JSON, for the store, `godwit info --json`, and by hand:
//
//     {"name": "web", "firmware": "uefi", "cpus": 2, "memory": 2147483648,
//      "disks": [{"path": "web.qcow2", "format": "qcow2"}],
//      "nics": [{"mac": "52:54:00:12:34:56", "model": "e1000", "network": "lan"}]}
#include "machine/reader.h"

#define ROW(owner, field, kind, must)                                          \
    {                                                                          \
        .name = #field, .type = kind, .offset = offsetof(struct owner, field), \
        .required = must                                                       \
    }

// What JSON holds is wider than what a machine does.
struct wide_disk {
    char *path, *format, *bus;
    uint64_t part_off, part_len, sector_size;
    bool boot;
};
struct wide_machine {
    char *name, *uuid, *arch, *firmware, *running_as;
    bool secure_boot;
    uint64_t cpus, memory;
    json_t *disks, *nics, *guest;
};

static const struct json_field disk_fields[] = {
    ROW(wide_disk, path, JSON_FIELD_STRING, true),
    ROW(wide_disk, format, JSON_FIELD_STRING, false),
    ROW(wide_disk, bus, JSON_FIELD_STRING, false),
    ROW(wide_disk, part_off, JSON_FIELD_U64, false),
    ROW(wide_disk, part_len, JSON_FIELD_U64, false),
    ROW(wide_disk, sector_size, JSON_FIELD_U64, false),
    ROW(wide_disk, boot, JSON_FIELD_BOOL, false),
};
static const struct json_field nic_fields[] = {
    ROW(machine_nic, mac, JSON_FIELD_STRING, false),
    ROW(machine_nic, model, JSON_FIELD_STRING, false),
    ROW(machine_nic, network, JSON_FIELD_STRING, false),
    ROW(machine_nic, bridge, JSON_FIELD_STRING, false),
    ROW(machine_nic, place, JSON_FIELD_STRING, false),
};
static const struct json_field machine_fields[] = {
    ROW(wide_machine, name, JSON_FIELD_STRING, false),
    ROW(wide_machine, uuid, JSON_FIELD_STRING, false),
    ROW(wide_machine, arch, JSON_FIELD_STRING, false),
    ROW(wide_machine, firmware, JSON_FIELD_STRING, false),
    ROW(wide_machine, running_as, JSON_FIELD_STRING, false),
    ROW(wide_machine, secure_boot, JSON_FIELD_BOOL, false),
    ROW(wide_machine, cpus, JSON_FIELD_U64, false),
    ROW(wide_machine, memory, JSON_FIELD_U64, false),
    ROW(wide_machine, disks, JSON_FIELD_VALUE, true),
    ROW(wide_machine, nics, JSON_FIELD_VALUE, false),
    ROW(wide_machine, guest, JSON_FIELD_VALUE, false),
};

static void auto_wide_done(struct wide_machine *w)
{
    free(w->name);
    free(w->uuid);
    free(w->arch);
    free(w->firmware);
    free(w->running_as);
    json_decref(w->disks);
    json_decref(w->nics);
    json_decref(w->guest);
}

// `options` NULL: paths are taken as they are (from the store).
static int take_disk(const json_t *j, const struct machine_options *options,
                     struct machine *m, struct err *e)
{
    struct wide_disk w = {0};
    int r = json_read(j, disk_fields, ARRAY_LEN(disk_fields), &w, "disk", e);
    AUTO(machine_disk_done)
    struct machine_disk disk = {
        .path = w.path,
        .format = w.format,
        .bus = w.bus,
        .part_off = w.part_off,
        .part_len = w.part_len,
        .sector_size = (uint32_t)w.sector_size,
        .boot = w.boot,
    };
    if (r < 0)
        return -1;
    if (w.sector_size && w.sector_size != 512 && w.sector_size != 4096)
        return err_set(e, ERR_REFUSED, "a sector of %llu bytes",
                       (unsigned long long)w.sector_size);
    if (options) {
        char *found = NULL;
        if (reference_resolve(options, disk.path, &found, e) < 0)
            return -1;
        free(disk.path);
        disk.path = found;
    }
    return machine_add_disk(m, &disk, e);
}

static int take_nic(const json_t *j, struct machine *m, struct err *e)
{
    AUTO(machine_nic_done) struct machine_nic nic = {0};
    if (json_read(j, nic_fields, ARRAY_LEN(nic_fields), &nic, "network interface", e) < 0)
        return -1;
    char *mac = nic.mac ? machine_mac(nic.mac) : NULL;
    if (nic.mac && !mac)
        return err_set(e, ERR_REFUSED, "'%.40s' is no MAC", nic.mac);
    free(nic.mac);
    nic.mac = mac;
    return machine_add_nic(m, &nic, e);
}

static int take_scalars(struct wide_machine *w, struct machine *m, struct err *e)
{
    if (w->cpus > 4096)
        return err_set(e, ERR_REFUSED, "%llu CPUs", (unsigned long long)w->cpus);
    m->cpus = w->cpus ? (unsigned)w->cpus : 1;
    m->memory = w->memory;
    m->secure_boot = w->secure_boot;
    if (w->firmware) {
        bool efi = strcmp(w->firmware, "uefi") == 0;
        if (!efi && strcmp(w->firmware, "bios") != 0)
            return err_set(e, ERR_REFUSED, "firmware '%.40s' is neither bios nor uefi",
                           w->firmware);
        m->firmware = efi ? FIRMWARE_UEFI : FIRMWARE_BIOS;
        m->firmware_known = true;
    }
    m->name = steal(w->name);
    m->uuid = w->uuid ? reference_uuid(w->uuid) : NULL;
    m->arch = steal(w->arch);
    m->running_as = steal(w->running_as);
    m->guest = steal(w->guest);
    return 0;
}

static int take(const json_t *j, const struct machine_options *options, struct machine *m,
                struct err *e)
{
    struct wide_machine w __attribute__((cleanup(auto_wide_done))) = {0};
    if (json_read(j, machine_fields, ARRAY_LEN(machine_fields), &w, "machine", e) < 0 ||
        take_scalars(&w, m, e) < 0)
        return -1;
    if (!json_is_array(w.disks) || (w.nics && !json_is_array(w.nics)))
        return err_set(e, ERR_REFUSED, "disks and nics must be arrays");
    size_t i;
    const json_t *item;
    json_array_foreach(w.disks, i,
                       item) if (take_disk(item, options, m, e) < 0) return -1;
    json_array_foreach(w.nics, i, item) if (take_nic(item, m, e) < 0) return -1;
    return 0;
}

bool json_is(const char *path, const char *text, size_t len)
{
    (void)path;
    size_t i = 0;
    while (i < len && text[i] && strchr(" \t\r\n", text[i]))
        i++;
    return i < len && text[i] == '{' && memmem(text, len, "\"disks\"", 7);
}

int json_read_machine(const char *text, size_t len, const struct machine_options *options,
                      struct machine *m, struct err *e)
{
    AUTO(json_free) json_t *j = NULL;
    if (json_parse(text, len, path_base(options->path), &j, e) < 0)
        return -1;
    if (take(j, options, m, e) < 0) {
        e->code = ERR_REFUSED;
        return -1;
    }
    return 0;
}

int machine_from_json(const json_t *j, struct machine **ret, struct err *e)
{
    AUTO(machine_free) struct machine *m = xcalloc(1, sizeof(*m));
    if (take(j, NULL, m, e) < 0)
        return -1;
    if (!m->arch)
        m->arch = xstrdup("x86_64");
    char *name = machine_safe_name(m->name ? m->name : "guest");
    free(m->name);
    m->name = name;
    *ret = steal(m);
    return 0;
}

// --- writing
// --------------------------------------------------------------------------------------

static void set_string(json_t *j, const char *key, const char *value)
{
    if (value)
        json_object_set_new(j, key, json_string(value));
}

static json_t *disk_json(const struct machine_disk *d)
{
    json_t *j = json_object();
    set_string(j, "path", d->path);
    set_string(j, "format", d->format);
    set_string(j, "bus", d->bus);
    if (d->part_len) {
        json_object_set_new(j, "part_off", json_integer((json_int_t)d->part_off));
        json_object_set_new(j, "part_len", json_integer((json_int_t)d->part_len));
    }
    if (d->sector_size)
        json_object_set_new(j, "sector_size", json_integer(d->sector_size));
    if (d->boot)
        json_object_set_new(j, "boot", json_true());
    return j;
}

static json_t *nic_json(const struct machine_nic *n)
{
    json_t *j = json_object();
    set_string(j, "mac", n->mac);
    set_string(j, "model", n->model);
    set_string(j, "network", n->network);
    set_string(j, "bridge", n->bridge);
    set_string(j, "place", n->place);
    return j;
}

int machine_json(const struct machine *m, json_t **ret, struct err *e)
{
    for (size_t i = 0; i < m->n_disks; i++) {
        AUTO(json_free) json_t *path = json_string(m->disks[i].path);
        if (!path)
            return err_set(e, ERR_REFUSED, "the name of file %s is not UTF-8: rename it",
                           m->disks[i].path);
    }
    json_t *j = json_object();
    set_string(j, "name", m->name);
    set_string(j, "uuid", m->uuid);
    set_string(j, "arch", m->arch);
    if (m->firmware_known || m->firmware == FIRMWARE_UEFI)
        set_string(j, "firmware", m->firmware == FIRMWARE_UEFI ? "uefi" : "bios");
    if (m->secure_boot)
        json_object_set_new(j, "secure_boot", json_true());
    json_object_set_new(j, "cpus", json_integer(m->cpus));
    json_object_set_new(j, "memory", json_integer((json_int_t)m->memory));
    json_t *disks = json_array(), *nics = json_array();
    for (size_t i = 0; i < m->n_disks; i++)
        json_array_append_new(disks, disk_json(&m->disks[i]));
    for (size_t i = 0; i < m->n_nics; i++)
        json_array_append_new(nics, nic_json(&m->nics[i]));
    json_object_set_new(j, "disks", disks);
    json_object_set_new(j, "nics", nics);
    if (m->guest)
        json_object_set(j, "guest", m->guest);
    set_string(j, "running_as", m->running_as);
    *ret = j;
    return 0;
}

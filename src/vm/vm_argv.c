// SPDX-License-Identifier: Apache-2.0
// Options to QEMU's command line. Formats are always stated, never probed: a guest can
// write a qcow2 header into its raw disk. Direct boots use machine type "pc", which is
// the quickest under emulation; boots from disk use "q35", as the domains that we write
// do.
#include "vm/internal.h"

#include <stdio.h>

int vm_check_disk(const struct vm_disk *d, struct err *e)
{
    // What a guest may write to comes first, then what a source may be.
    static const char *const formats[] = {"raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi"};
    const size_t n_writable = 2;
    static const char *const buses[] = {"virtio", "sata", "scsi", "nvme"};
    bool format = false, bus = !d->bus;
    size_t n_formats =
        d->discard_writes || d->read_only ? ARRAY_LEN(formats) : n_writable;
    for (size_t i = 0; d->format && i < n_formats; i++)
        format = format || strcmp(d->format, formats[i]) == 0;
    for (size_t i = 0; d->bus && i < ARRAY_LEN(buses); i++)
        bus = bus || strcmp(d->bus, buses[i]) == 0;
    const char *name = d->path ? d->path : d->socket ? d->socket : "disk";
    if (!d->path == !d->socket)
        return err_set(e, ERR_FAILED, "%s: a disk is either a file or an export", name);
    if (!format)
        return err_set(e, ERR_FAILED, "%s: format %s is not for a virtual machine", name,
                       d->format ? d->format : "(none)");
    if (!bus)
        return err_set(e, ERR_FAILED, "%s: no bus %s", name, d->bus);
    if (!d->serial || !d->serial[0] || strlen(d->serial) > VM_SERIAL_MAX ||
        d->serial[strspn(d->serial, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                    "0123456789-_")])
        return err_set(e, ERR_FAILED,
                       "%s: serial \"%s\" is not 1 to %u of A-Z a-z 0-9 - _", name,
                       d->serial ? d->serial : "", VM_SERIAL_MAX);
    if (d->sector_size != 0 && d->sector_size != 512 && d->sector_size != 4096)
        return err_set(e, ERR_FAILED, "%s: sector size %u", name, d->sector_size);
    return 0;
}

json_t *vm_blockdev(const struct vm_disk *d, const char *id)
{
    AUTO(str_free) char *name = xasprintf("n-%s", id);
    json_t *protocol =
        d->path ? json_pack("{s:s, s:s}", "driver", "file", "filename", d->path)
                : json_pack("{s:s, s:{s:s, s:s}}", "driver", "nbd", "server", "type",
                            "unix", "path", d->socket);
    json_object_set_new(protocol, "read-only", json_boolean(d->read_only));
    return json_pack("{s:s, s:s, s:b, s:s, s:o}", "driver", d->format, "node-name", name,
                     "read-only", d->read_only, "discard", "unmap", "file", protocol);
}

// A file system that is full would stop the machine until somebody comes: it is told.
static void set_errors(json_t *device)
{
    json_object_set_new(device, "werror", json_string("report"));
    json_object_set_new(device, "rerror", json_string("report"));
}

static void set_sector(json_t *device, const struct vm_disk *d)
{
    if (d->sector_size == 4096) {
        json_object_set_new(device, "logical_block_size", json_integer(4096));
        json_object_set_new(device, "physical_block_size", json_integer(4096));
    }
}

json_t *vm_scsi_device(const struct vm_disk *d, const char *id)
{
    AUTO(str_free) char *node = xasprintf("n-%s", id);
    json_t *device = json_pack("{s:s, s:s, s:s, s:s, s:s}", "driver", "scsi-hd", "bus",
                               "scsi0.0", "id", id, "drive", node, "serial", d->serial);
    set_sector(device, d);
    set_errors(device);
    return device;
}

static void add(struct strings *s, const char *option, const char *value)
{
    strings_add(s, option);
    strings_add(s, value);
}

static void add_json(struct strings *s, const char *option, json_t *value /* taken */)
{
    strings_add(s, option);
    strings_take(s, json_text(value));
    json_decref(value);
}

__attribute__((format(printf, 3, 4))) static void
add_fmt(struct strings *s, const char *option, const char *fmt, ...)
{
    va_list ap;
    char text[1024];
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    add(s, option, text);
}

// QEMU's option parser takes "," for a separator; doubled it is a character.
static char *escaped(const char *path)
{
    struct buf b = BUF_INIT(64 * KIB);
    for (; *path; path++)
        buf_add(&b, *path == ',' ? ",," : path, *path == ',' ? 2 : 1);
    return buf_steal(&b);
}

static void add_disk(struct strings *s, const struct vm_disk *d, size_t i, size_t *n_sata)
{
    AUTO(str_free) char *id = xasprintf("d-%s", d->serial);
    AUTO(str_free) char *node = xasprintf("n-%s", id);
    const char *bus = d->bus ? d->bus : "virtio";
    json_t *device;
    add_json(s, "-blockdev", vm_blockdev(d, id));
    if (strcmp(bus, "scsi") == 0) {
        device = vm_scsi_device(d, id);
    } else if (strcmp(bus, "sata") == 0) {
        AUTO(str_free) char *port = xasprintf("ahci.%zu", (*n_sata)++);
        device = json_pack("{s:s, s:s, s:s, s:s, s:s}", "driver", "ide-hd", "bus", port,
                           "id", id, "drive", node, "serial", d->serial);
    } else {
        device = json_pack("{s:s, s:s, s:s, s:s}", "driver",
                           strcmp(bus, "nvme") == 0 ? "nvme" : "virtio-blk-pci", "id", id,
                           "drive", node, "serial", d->serial);
    }
    if (strcmp(bus, "scsi") != 0)
        set_sector(device, d);
    if (strcmp(bus, "sata") == 0 || strcmp(bus, "virtio") == 0)
        set_errors(device);
    json_object_set_new(device, "bootindex", json_integer((json_int_t)i + 1));
    add_json(s, "-device", device);
}

static void add_nic(struct strings *s, const struct vm_nic *n, size_t i)
{
    AUTO(buf_done) struct buf b = BUF_INIT(1024);
    buf_printf(&b, "user,id=net%zu,restrict=on,ipv6=off", i);
    const char *const fields[][2] = {{"net", n->net},
                                     {"host", n->host},
                                     {"dns", n->dns},
                                     {"dhcpstart", n->dhcp},
                                     {"hostfwd", n->forward}};
    for (size_t k = 0; k < ARRAY_LEN(fields); k++) {
        if (fields[k][1])
            buf_printf(&b, ",%s=%s", fields[k][0], fields[k][1]);
    }
    add(s, "-netdev", b.data);
    AUTO(str_free) char *netdev = xasprintf("net%zu", i);
    json_t *device =
        json_pack("{s:s, s:s, s:s}", "driver", n->model ? n->model : "virtio-net-pci",
                  "netdev", netdev, "romfile", ""); // no PXE
    if (n->mac)
        json_object_set_new(device, "mac", json_string(n->mac));
    add_json(s, "-device", device);
}

static void add_firmware(struct strings *s, const struct vm_argv *a)
{
    AUTO(str_free) char *code = escaped(a->code);
    AUTO(str_free) char *vars = escaped(a->vars);
    add_fmt(s, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file=%s", code);
    add_fmt(s, "-drive", "if=pflash,unit=1,format=raw,file=%s", vars);
}

static void add_boot(struct strings *s, const struct vm_argv *a)
{
    const struct vm_options *o = a->options;
    if (a->code)
        add_firmware(s, a);
    add(s, "-boot", o->kernel ? "menu=off" : "menu=off,strict=on");
    if (o->kernel)
        add(s, "-kernel", o->kernel);
    if (o->kernel && o->initrd)
        add(s, "-initrd", o->initrd);
    if (o->kernel && o->cmdline)
        add(s, "-append", o->cmdline);
}

void vm_make_argv(const struct vm_argv *a, struct strings *s)
{
    const struct vm_options *o = a->options;
    bool sata = false, scsi = o->serial_port;
    size_t n_sata = 0;
    for (size_t i = 0; i < o->n_disks; i++) {
        sata = sata || (o->disks[i].bus && strcmp(o->disks[i].bus, "sata") == 0);
        scsi = scsi || (o->disks[i].bus && strcmp(o->disks[i].bus, "scsi") == 0);
    }
    strings_add(s, VM_QEMU);
    add_fmt(s, "-name", "godwit-%s", o->name);
    strings_add(s, "-nodefaults");
    strings_add(s, "-no-user-config");
    add(s, "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    add(s, "-machine", o->kernel ? "pc" : "q35");
    add(s, "-accel", o->accel == ACCEL_KVM ? "kvm" : "tcg");
    if (o->accel == ACCEL_KVM)
        add(s, "-cpu", "host");
    else if (!o->kernel) // today's distributions want more than qemu64's x86-64-v1
        add(s, "-cpu", "max,la57=off");
    add_fmt(s, "-smp", "%u", o->cpus ? o->cpus : 1);
    add_fmt(s, "-m", "%lluM", (unsigned long long)(o->memory / MIB));
    add(s, "-display", "none");
    add(s, "-vga", o->display ? "std" : "none");
    strings_add(s, "-no-reboot");
    AUTO(str_free) char *console = escaped(a->console);
    add_fmt(s, "-chardev", "file,id=console,path=%s", console);
    add(s, "-serial", "chardev:console");
    add_fmt(s, "-chardev", "socket,id=qmp,fd=%d", a->qmp_fd);
    add(s, "-mon", "chardev=qmp,mode=control");
    add_boot(s, a);
    add(s, "-device", "virtio-rng-pci");
    if (a->port_fd >= 0) {
        add_fmt(s, "-chardev", "socket,id=port,fd=%d", a->port_fd);
        add(s, "-device", "virtio-serial-pci,max_ports=2");
        add(s, "-device", "virtserialport,chardev=port,name=godwit");
    }
    if (scsi)
        add(s, "-device", "virtio-scsi-pci,id=scsi0");
    if (sata)
        add(s, "-device", "ich9-ahci,id=ahci");
    for (size_t i = 0; i < o->n_disks; i++)
        add_disk(s, &o->disks[i], i, &n_sata);
    for (size_t i = 0; i < o->n_nics; i++)
        add_nic(s, &o->nics[i], i);
}

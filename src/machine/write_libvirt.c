// SPDX-License-Identifier: Apache-2.0
// A machine as a libvirt domain that starts as it is
// (https://libvirt.org/formatdomain.html, libvirt 9): q35, everything virtio, a serial
// console, a VGA card that nobody looks at (for screenshots), the old MACs.
//
// Surprises: with firmware='efi' libvirt picks the OVMF build itself, and takes one with
// secure boot unless told not to; a disk's whole backing chain must be written down, or
// libvirt probes the format of what a guest wrote; `interface type='user'` needs no
// network at the target.
#include "machine/reader.h"

#include <stdio.h>

// --- text
// -----------------------------------------------------------------------------------------

// Text as XML. Control characters cannot be written in XML 1.0 and become '?'.
static void add_escaped(struct buf *out, const char *text)
{
    static const struct {
        char c;
        const char *escape;
    } escapes[] = {
        {'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&apos;"}, {'"', "&quot;"}};
    for (; *text; text++) {
        const char *escape = NULL;
        for (size_t i = 0; i < ARRAY_LEN(escapes); i++)
            if (*text == escapes[i].c)
                escape = escapes[i].escape;
        if (escape)
            buf_str(out, escape);
        else if ((unsigned char)*text < 0x20)
            buf_add(out, "?", 1);
        else
            buf_add(out, text, 1);
    }
}

// `before`, the escaped text, `after`.
static void add(struct buf *out, const char *before, const char *text, const char *after)
{
    buf_str(out, before);
    add_escaped(out, text);
    buf_str(out, after);
}

void machine_disk_target(size_t index, char out[static 8])
{
    char letters[5];
    size_t n = 0;
    for (size_t i = index + 1; i > 0 && n < sizeof(letters); i = (i - 1) / 26)
        letters[n++] = (char)('a' + (i - 1) % 26);
    out[0] = 'v';
    out[1] = 'd';
    for (size_t i = 0; i < n; i++)
        out[2 + i] = letters[n - 1 - i];
    out[2 + n] = 0;
}

void machine_make_mac(const char *seed, unsigned index, char out[static 18])
{
    AUTO(str_free) char *text = xasprintf("%s/%u", seed, index);
    uint8_t h[HASH_LEN];
    hash_block(text, strlen(text), h);
    // 52:54:00 is QEMU's and KVM's customary prefix, with the local bit set.
    snprintf(out, 18, "52:54:00:%02x:%02x:%02x", h[0], h[1], h[2]);
}

// --- parts
// ----------------------------------------------------------------------------------------

static void add_identity(const struct domain_options *o, struct buf *out)
{
    const struct machine *m = o->machine;
    const char *uuid = o->uuid ? o->uuid : m->uuid;
    buf_printf(out, "<domain type='%s'>\n", o->emulated ? "qemu" : "kvm");
    add(out, "  <name>", o->name ? o->name : m->name, "</name>\n");
    if (uuid && *uuid)
        add(out, "  <uuid>", uuid, "</uuid>\n");
    if (o->tag) {
        buf_str(out, "  <metadata>\n    <godwit:job xmlns:godwit='" GODWIT_XML_NAMESPACE
                     "' tag='");
        add(out, "", o->tag, "'/>\n  </metadata>\n");
    }
    buf_printf(out, "  <memory unit='KiB'>%llu</memory>\n",
               (unsigned long long)(round_up(m->memory, KIB) / KIB));
    buf_printf(out, "  <vcpu placement='static'>%u</vcpu>\n", m->cpus);
}

static void add_firmware(const struct machine *m, struct buf *out)
{
    bool efi = m->firmware == FIRMWARE_UEFI, secure = efi && m->secure_boot;
    buf_str(out, efi ? "  <os firmware='efi'>\n" : "  <os>\n");
    add(out, "    <type arch='", m->arch, "' machine='q35'>hvm</type>\n");
    if (efi)
        buf_printf(out,
                   "    <firmware>\n"
                   "      <feature enabled='%s' name='enrolled-keys'/>\n"
                   "      <feature enabled='%s' name='secure-boot'/>\n"
                   "    </firmware>\n",
                   secure ? "yes" : "no", secure ? "yes" : "no");
    buf_str(out, "  </os>\n"
                 "  <features>\n"
                 "    <acpi/>\n"
                 "    <apic/>\n");
    if (secure)
        buf_str(out, "    <smm state='on'/>\n");
    buf_str(out, "  </features>\n");
}

static void add_cpu(const struct domain_options *o, struct buf *out)
{
    // Emulated, "maximum" is all that TCG knows: newer distributions need x86-64-v2.
    buf_printf(out, "  <cpu mode='%s'/>\n", o->emulated ? "maximum" : "host-passthrough");
    buf_str(out, "  <clock offset='utc'/>\n"
                 "  <on_poweroff>destroy</on_poweroff>\n"
                 "  <on_reboot>restart</on_reboot>\n"
                 "  <on_crash>destroy</on_crash>\n");
}

static void add_disk(const struct domain_options *o, size_t i, bool boot, struct buf *out)
{
    const struct domain_disk *d = &o->disks[i];
    uint32_t sector = i < o->machine->n_disks ? o->machine->disks[i].sector_size : 0;
    char target[8];
    machine_disk_target(i, target);
    buf_str(out, "    <disk type='file' device='disk'>\n");
    add(out, "      <driver name='qemu' type='", d->format, "' discard='unmap'/>\n");
    add(out, "      <source file='", d->path, "'/>\n");
    if (d->backing_path) {
        buf_str(out, "      <backingStore type='file'>\n");
        add(out, "        <format type='", d->backing_format, "'/>\n");
        add(out, "        <source file='", d->backing_path, "'/>\n");
        buf_str(out, "        <backingStore/>\n      </backingStore>\n");
    } else {
        buf_str(out, "      <backingStore/>\n");
    }
    if (sector > 512)
        buf_printf(out,
                   "      <blockio logical_block_size='%u' physical_block_size='%u'/>\n",
                   sector, sector);
    buf_printf(out, "      <target dev='%s' bus='virtio'/>\n", target);
    if (boot)
        buf_str(out, "      <boot order='1'/>\n");
    buf_str(out, "    </disk>\n");
}

static void add_disks(const struct domain_options *o, struct buf *out)
{
    size_t boot = 0;
    for (size_t i = o->machine->n_disks; i-- > 0;)
        if (o->machine->disks[i].boot && i < o->n_disks)
            boot = i;
    for (size_t i = 0; i < o->n_disks; i++)
        add_disk(o, i, i == boot, out);
}

static const char *network_of(const struct domain_options *o, const char *mac)
{
    for (size_t i = 0; i < o->n_networks; i++)
        if (strcasecmp(o->networks[i].mac, mac) == 0)
            return o->networks[i].net;
    return o->network ? o->network : "user";
}

static void add_nic(const struct domain_options *o, size_t i, struct buf *out)
{
    const struct machine_nic *nic = &o->machine->nics[i];
    char made[18];
    machine_make_mac(o->machine->uuid ? o->machine->uuid : o->machine->name, (unsigned)i,
                     made);
    const char *mac = nic->mac ? nic->mac : made;
    const char *net = network_of(o, mac);
    if (strcmp(net, "user") == 0) {
        buf_str(out, "    <interface type='user'>\n");
    } else if (str_starts(net, "bridge:")) {
        add(out, "    <interface type='bridge'>\n      <source bridge='", net + 7,
            "'/>\n");
    } else {
        add(out, "    <interface type='network'>\n      <source network='", net, "'/>\n");
    }
    add(out, "      <mac address='", mac, "'/>\n");
    buf_str(out, "      <model type='virtio'/>\n    </interface>\n");
}

void machine_domain_xml(const struct domain_options *o, struct buf *out)
{
    add_identity(o, out);
    add_firmware(o->machine, out);
    add_cpu(o, out);
    buf_str(out, "  <devices>\n");
    add_disks(o, out);
    for (size_t i = 0; i < o->machine->n_nics; i++)
        add_nic(o, i, out);
    buf_str(out, "    <serial type='pty'>\n"
                 "      <target port='0'/>\n"
                 "    </serial>\n"
                 "    <console type='pty'>\n"
                 "      <target type='serial' port='0'/>\n"
                 "    </console>\n"
                 "    <channel type='unix'>\n"
                 "      <target type='virtio' name='org.qemu.guest_agent.0'/>\n"
                 "    </channel>\n"
                 "    <video>\n"
                 "      <model type='vga'/>\n"
                 "    </video>\n"
                 "    <rng model='virtio'>\n"
                 "      <backend model='random'>/dev/urandom</backend>\n"
                 "    </rng>\n"
                 "  </devices>\n"
                 "</domain>\n");
}

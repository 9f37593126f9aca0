// SPDX-License-Identifier: Apache-2.0
// libvirt domains read, and written: what we write must pass libvirt's own schema and
// read back as what it was.
#include "machine_test.h"

static const char domain[] =
    "<domain type='kvm'><name>crm 01</name>"
    "<uuid>C7A5FDBD-EDAF-9455-926A-D65C16DB1809</uuid>"
    "<memory unit='GiB'>3</memory><currentMemory unit='GiB'>2</currentMemory>"
    "<vcpu placement='static' current='2'>8</vcpu>"
    "<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>"
    "<loader readonly='yes' secure='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd"
    "</loader><nvram>/var/lib/libvirt/qemu/nvram/crm_VARS.fd</nvram></os><devices>"
    "<disk type='file' device='cdrom'><source file='/none.iso'/><target dev='sdc' "
    "bus='sata'/></disk>"
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source file='a.qcow2'/><backingStore type='file'><format type='raw'/>"
    "<source file='base.raw'/></backingStore><target dev='vda' bus='virtio'/>"
    "<boot order='2'/></disk>"
    "<disk type='file'><driver name='qemu' type='raw'/><source file='b.raw'/>"
    "<blockio logical_block_size='4096'/><target dev='sda' bus='scsi'/>"
    "<boot order='1'/></disk>"
    "<interface type='network'><mac address='52:54:00:AA:00:01'/>"
    "<source network='lan'/><model type='e1000'/><address type='pci' domain='0x0000' "
    "bus='0x01' slot='0x00' function='0x0'/></interface>"
    "<interface type='bridge'><mac address='52:54:00:aa:00:02'/>"
    "<source bridge='br0'/><model type='virtio'/><address type='pci' bus='0x00' "
    "slot='0x12'/></interface>"
    "<interface type='user'/></devices></domain>";

static void test_read(void)
{
    struct err e;
    struct machine *m = read_text("crm.xml", domain, &e);
    if (!ok(m != NULL, "a domain is read")) {
        printf("# %s\n", e.text);
        return;
    }
    is_str(m->name, "crm-01", "name");
    is_str(m->uuid, "c7a5fdbd-edaf-9455-926a-d65c16db1809", "UUID");
    is_u64(m->memory, 3 * GIB, "memory with its unit");
    is_u64(m->cpus, 2, "the CPUs that are plugged in");
    ok(m->firmware == FIRMWARE_UEFI && m->firmware_known && m->secure_boot, "firmware");
    ok(!m->running_as, "it does not run");
    is_u64(m->n_disks, 2, "disks without the CD");
    is_str(disk_name(m, 0), "a.qcow2", "first");
    is_str(m->disks[0].format, "qcow2", "its format");
    is_str(m->disks[1].bus, "scsi", "bus of the second");
    is_u64(m->disks[1].sector_size, 4096, "its sectors");
    ok(m->disks[1].boot && !m->disks[0].boot, "boot order");
    is_u64(m->n_nics, 3, "network interfaces");
    is_str(m->nics[0].mac, "52:54:00:aa:00:01", "MAC");
    is_str(m->nics[0].network, "lan", "network");
    is_str(m->nics[1].bridge, "br0", "bridge");
    is_str(m->nics[0].place, "enp1s0", "what Linux calls it behind a port");
    is_str(m->nics[1].place, "ens18", "and on the root bus");
    is_str(m->nics[2].place, NULL, "no address, no name");
    ok(!m->nics[2].mac, "an interface without MAC");
    machine_free(m);
}

#define DOM(attrs, os, devices)                                              \
    "<domain " attrs "><name>x</name><memory>1048576</memory><vcpu>1</vcpu>" \
    "<os>" os "</os><devices>" devices "</devices></domain>"
#define DISK "<disk type='file'><source file='b.raw'/></disk>"

static void test_variants(void)
{
    struct err e;
    struct machine *m =
        read_text("x.xml", DOM("type='kvm' id='7'", "<type>hvm</type>", DISK), &e);
    is_str(m ? m->running_as : NULL, "domain 7", "a dump of a running domain");
    ok(m && m->firmware == FIRMWARE_BIOS && m->firmware_known, "no word means a BIOS");
    ok(m && m->disks[0].boot, "the only disk boots");
    is_u64(m ? m->memory : 0, GIB, "memory without a unit is KiB");
    machine_free(m);
    m = read_text(
        "x.xml",
        "<!-- WARNING: THIS IS AN AUTO-GENERATED FILE -->\n<domstatus "
        "state='running' pid='4711'>" DOM("type='kvm'", "", DISK) "</domstatus>",
        &e);
    is_str(m ? m->running_as : NULL, "process 4711", "libvirtd's own status file");
    machine_free(m);
    m = read_text("x.xml",
                  DOM("type='kvm'",
                      "<firmware><feature enabled='no' name='secure-boot'/></firmware>"
                      "<loader type='pflash' secure='no'>x</loader>",
                      DISK),
                  &e);
    ok(m && m->firmware == FIRMWARE_UEFI && !m->secure_boot, "UEFI without secure boot");
    machine_free(m);
}

static void test_refused(void)
{
#define SOURCE(attrs) DOM("", "", "<disk " attrs "/><target dev='vda'/></disk>")
    refused("x.xml", SOURCE("type='network'><source protocol='rbd' name='a/b'"),
            "network", "a disk on the network");
    refused("x.xml", SOURCE("type='volume'><source pool='p' volume='v'"), "volume v",
            "a volume, without libvirt at hand");
    refused("x.xml", SOURCE("type='file'><source"), "no source", "a disk without source");
    refused("x.xml", SOURCE("type='file'><source file='gone.raw'"), "not there",
            "a disk that is not there");
    refused("x.xml", SOURCE("type='file'><source file='/etc/passwd'"), "outside",
            "a disk elsewhere");
    refused("x.xml",
            DOM("", "",
                "<disk><source file='b.raw'><encryption format='luks'/>"
                "</source></disk>"),
            "encrypted", "an encrypted disk");
    refused("x.xml", DOM("", "", ""), "no disk", "no disk");
    refused("x.xml", "<network/>", "no libvirt domain", "another of libvirt's objects");
    refused("x.xml", "<domain><vcpu>many</vcpu></domain>", "vcpu", "CPUs in words");
    refused("x.xml", "<domain><memory unit='PiB'>1</memory></domain>", "memory",
            "an unknown unit");
    refused("x.xml", "<domain><memory unit='TiB'>99999999999</memory></domain>", "memory",
            "memory past 64 bits");
    refused("x.xml", "<!DOCTYPE d [<!ENTITY a 'x'>]><domain/>", "document type",
            "a DOCTYPE");
}

static int volume(void *context, const char *pool, const char *name, char **ret,
                  struct err *e)
{
    if (strcmp(pool, "p") != 0 || strcmp(name, "v") != 0)
        return err_set(e, ERR_FAILED, "asked for %s/%s", pool, name);
    *ret = path_join(context, "b.raw");
    return 0;
}

static void test_volume(void)
{
    static const char text[] = SOURCE("type='volume'><source pool='p' volume='v'");
    struct machine *m = NULL;
    struct err e;
    struct machine_options options = {.path = "guest",
                                      .allow_any_path = true,
                                      .volume_path = volume,
                                      .context = test_dir};
    ok(machine_parse(machine_reader_find("libvirt"), text, strlen(text), &options, &m,
                     &e) == 0,
       "a volume, with libvirt at hand");
    is_str(disk_name(m, 0), "b.raw", "lies where it says");
    machine_free(m);
}

// --- writing
// --------------------------------------------------------------------------------------

static void check_schema(const char *file, const char *what)
{
    static const char rng[] = "/usr/share/libvirt/schemas/domain.rng";
    struct err e;
    if (access(rng, R_OK) < 0 || proc_have("xmllint", "libxml2-utils", &e) < 0) {
        skip(what, "no schema of libvirt, or no xmllint, on this machine");
        return;
    }
    AUTO(str_free) char *path = at(file);
    char *argv[] = {"xmllint", "--noout", "--relaxng", (char *)rng, path, NULL};
    bool good = proc_run(argv, NULL, &e) == 0;
    if (!good)
        printf("# %s\n", e.text);
    ok(good, "%s", what);
}

static struct machine *write_and_read(const struct domain_options *o, struct err *e)
{
    AUTO(buf_done) struct buf xml = BUF_INIT(MIB);
    machine_domain_xml(o, &xml);
    return read_text("out.xml", xml.data, e);
}

static void test_write(void)
{
    struct err e;
    struct machine *m = read_text("crm.xml", domain, &e);
    AUTO(str_free) char *a = at("a.qcow2");
    AUTO(str_free) char *b = at("b.raw");
    AUTO(str_free) char *odd = at("it's <odd> & \"quoted\".raw");
    put_text("it's <odd> & \"quoted\".raw", "x");
    struct domain_disk disks[] = {{a, "qcow2", b, "raw"}, {odd, "raw", NULL, NULL}};
    struct domain_network net = {"52:54:00:aa:00:01", "prod"};
    struct domain_options o = {.machine = m,
                               .tag = "7-1700000000",
                               .disks = disks,
                               .n_disks = 2,
                               .networks = &net,
                               .n_networks = 1,
                               .network = "bridge:br1"};
    struct machine *back = write_and_read(&o, &e);
    check_schema("out.xml", "UEFI with secure boot, two disks: libvirt's schema");
    if (!ok(back != NULL, "what was written is read back")) {
        printf("# %s\n", e.text);
        machine_free(m);
        return;
    }
    is_str(back->name, m->name, "name");
    is_str(back->uuid, m->uuid, "UUID");
    is_u64(back->memory, m->memory, "memory");
    is_u64(back->cpus, m->cpus, "CPUs");
    ok(back->firmware == FIRMWARE_UEFI && back->secure_boot, "firmware");
    is_str(disk_name(back, 0), "a.qcow2", "the overlay");
    is_str(disk_name(back, 1), "it's <odd> & \"quoted\".raw", "a name full of marks");
    is_u64(back->disks[1].sector_size, 4096, "sectors");
    ok(back->disks[1].boot && !back->disks[0].boot, "the disk that boots");
    is_str(back->nics[0].mac, "52:54:00:aa:00:01", "the old MAC");
    is_str(back->nics[0].network, "prod", "its new network");
    is_str(back->nics[1].bridge, "br1", "the others' bridge");
    ok(back->nics[2].mac != NULL, "a MAC is made where none was");
    struct machine *again = write_and_read(&o, &e);
    is_str(again->nics[2].mac, back->nics[2].mac, "the same one a second time");
    machine_free(again);
    machine_free(back);
    m->firmware = FIRMWARE_BIOS;
    o = (struct domain_options){.machine = m,
                                .name = "new",
                                .uuid = "",
                                .disks = disks,
                                .n_disks = 1,
                                .emulated = true};
    back = write_and_read(&o, &e);
    check_schema("out.xml", "BIOS, emulated, one disk: libvirt's schema");
    is_str(back ? back->name : NULL, "new", "another name");
    ok(back && !back->uuid, "no UUID");
    ok(back && back->firmware == FIRMWARE_BIOS, "a BIOS");
    machine_free(back);
    m->firmware = FIRMWARE_UEFI;
    m->secure_boot = false;
    back = write_and_read(&o, &e);
    check_schema("out.xml", "UEFI without secure boot: libvirt's schema");
    ok(back && back->firmware == FIRMWARE_UEFI && !back->secure_boot, "stays without");
    machine_free(back);
    machine_free(m);
}

static void test_targets(void)
{
    char t[8];
    machine_disk_target(0, t);
    is_str(t, "vda", "the first disk");
    machine_disk_target(25, t);
    is_str(t, "vdz", "the 26th");
    machine_disk_target(26, t);
    is_str(t, "vdaa", "the 27th");
    machine_disk_target(63, t);
    is_str(t, "vdbl", "the 64th");
}

int main(void)
{
    test_start();
    put_text("a.qcow2", "x");
    put_text("b.raw", "x");
    test_read();
    test_variants();
    test_refused();
    test_volume();
    test_write();
    test_targets();
    return test_end();
}

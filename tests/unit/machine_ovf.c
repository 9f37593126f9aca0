// SPDX-License-Identifier: Apache-2.0
// OVF descriptors in the manner of ESXi, VirtualBox and the OVF 2 standard (DSP0243), and
// bad ones.
#include "machine_test.h"

#define ENVELOPE                                                                      \
    "<?xml version='1.0' encoding='UTF-8'?>\n<!-- written by hand -->\n"              \
    "<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1'"                        \
    " xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1'"                             \
    " xmlns:rasd='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"                 \
    "CIM_ResourceAllocationSettingData' xmlns:vmw='http://www.vmware.com/schema/ovf'" \
    " xmlns:vbox='http://www.virtualbox.org/ovf/machine'>\n"
#define REFERENCES(attrs)                                                           \
    "<References><File ovf:href='vm-disk1.vmdk' ovf:id='file1' ovf:size='1' " attrs \
    "/><File ovf:href='my%20disk.vmdk' ovf:id='file2'/></References>\n"
#define DISKS                                                           \
    "<DiskSection><Info>disks</Info>"                                   \
    "<Disk ovf:capacity='16' ovf:capacityAllocationUnits='byte * 2^30'" \
    " ovf:diskId='vmdisk1' ovf:fileRef='file1' "                        \
    "ovf:format='http://www.vmware.com/interfaces/specifications/"      \
    "vmdk.html#streamOptimized'/>"                                      \
    "<Disk ovf:capacity='1' ovf:diskId='vmdisk2' ovf:fileRef='file2'/></DiskSection>\n"
#define ITEM(fields) "<Item>" fields "</Item>"
#define R(name, value) "<rasd:" name ">" value "</rasd:" name ">"
#define DISK1                                                             \
    ITEM(R("AddressOnParent", "0") R("HostResource", "ovf:/disk/vmdisk1") \
             R("InstanceID", "7") R("Parent", "3") R("ResourceType", "17"))
#define SYSTEM(hardware, after)                                                          \
    "<VirtualSystem ovf:id='vm'><Info>a machine</Info><Name>My server</Name>"            \
    "<VirtualHardwareSection><Info>hw</Info>" hardware "</VirtualHardwareSection>" after \
    "</VirtualSystem>"
#define END "</Envelope>"

static const char esxi[] = ENVELOPE REFERENCES("") DISKS SYSTEM(
    ITEM(R("AllocationUnits", "hertz * 10^6") R("InstanceID", "1") R("ResourceType", "3")
             R("VirtualQuantity", "4"))
        ITEM(R("AllocationUnits", "byte * 2^20") R("InstanceID", "2")
                 R("ResourceType", "4") R("VirtualQuantity", "8192"))
            ITEM(R("InstanceID", "3") R("ResourceSubType", "VirtualSCSI")
                     R("ResourceType", "6"))
                ITEM(R("InstanceID", "4") R("ResourceSubType", "vmware.sata.ahci")
                         R("ResourceType", "20"))
                    ITEM(R("HostResource", "ovf:/file/file9") R("InstanceID", "5")
                             R("Parent", "4") R("ResourceType", "15"))
                        DISK1 ITEM(R("HostResource", "/file/file2") R("InstanceID", "8")
                                       R("Parent", "4") R("ResourceType", "17"))
                            ITEM(R("Connection", "VM Network") R("InstanceID", "9")
                                     R("ResourceSubType", "VmxNet3")
                                         R("ResourceType", "10")) "<vmw:Config "
                                                                  "vmw:key='firmware' "
                                                                  "vmw:value='efi'/>"
                                                                  "<vmw:Config "
                                                                  "vmw:key='bootOptions."
                                                                  "efiSecureBootEnabled' "
                                                                  "vmw:value='true'/>",
    "") END;

static const char virtualbox[] = ENVELOPE REFERENCES("") DISKS SYSTEM(
    ITEM(R("InstanceID", "1") R("ResourceType", "3") R("VirtualQuantity", "1")) ITEM(
        R("AllocationUnits", "MegaBytes") R("InstanceID", "2") R("ResourceType", "4")
            R("VirtualQuantity", "512"))
        ITEM(R("InstanceID", "3") R("ResourceSubType", "PIIX4") R("ResourceType", "5"))
            DISK1 ITEM(R("Connection", "NAT") R("InstanceID", "9")
                           R("ResourceSubType", "E1000") R("ResourceType", "10"))
                ITEM(R("Connection", "intnet") R("InstanceID", "10")
                         R("ResourceSubType", "E1000") R("ResourceType", "10")),
    "<vbox:Machine uuid='{00112233-4455-6677-8899-aabbccddeeff}'><Hardware>"
    "<Firmware type='EFI64'/><Network>"
    "<Adapter slot='0' enabled='true' MACAddress='080027AABBCC' type='82540EM'/>"
    "<Adapter slot='1' enabled='false' MACAddress='080027000000'/>"
    "<Adapter slot='2' enabled='true' MACAddress='080027DDEEFF'/>"
    "</Network></Hardware></vbox:Machine>") END;

static const char version2[] =
    "<o:Envelope xmlns:o='http://schemas.dmtf.org/ovf/envelope/2' "
    "xmlns:rasd='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
    "CIM_ResourceAllocationSettingData' "
    "xmlns:sasd='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
    "CIM_StorageAllocationSettingData.xsd' "
    "xmlns:epasd='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
    "CIM_EthernetPortAllocationSettingData.xsd'>"
    "<o:References><o:File o:id='f' o:href='vm-disk1.vmdk'/></o:References>"
    "<o:DiskSection><o:Disk o:diskId='d' o:fileRef='f' o:capacity='1'/></o:DiskSection>"
    "<o:DeploymentOptionSection><o:Configuration o:id='small'/>"
    "<o:Configuration o:id='big' o:default='true'/></o:DeploymentOptionSection>"
    "<o:VirtualSystem o:id='v2'><o:VirtualHardwareSection>"
    "<o:Item><rasd:ResourceType>3</rasd:ResourceType>"
    "<rasd:VirtualQuantity>1</rasd:VirtualQuantity></o:Item>"
    "<o:Item o:configuration='small'><rasd:ResourceType>4</rasd:ResourceType>"
    "<rasd:AllocationUnits>byte*2^30</rasd:AllocationUnits>"
    "<rasd:VirtualQuantity>1</rasd:VirtualQuantity></o:Item>"
    "<o:Item o:configuration='other big'><rasd:ResourceType>4</rasd:ResourceType>"
    "<rasd:AllocationUnits>byte*2^30</rasd:AllocationUnits>"
    "<rasd:VirtualQuantity>16</rasd:VirtualQuantity></o:Item>"
    "<o:Item o:bound='max'><rasd:ResourceType>3</rasd:ResourceType>"
    "<rasd:VirtualQuantity>64</rasd:VirtualQuantity></o:Item>"
    "<o:StorageItem><sasd:HostResource>ovf:/disk/d</sasd:HostResource>"
    "<sasd:ResourceType>31</sasd:ResourceType></o:StorageItem>"
    "<o:EthernetPortItem><epasd:Address>02-00-00-00-00-01</epasd:Address>"
    "<epasd:Connection>lan</epasd:Connection>"
    "<epasd:ResourceType>10</epasd:ResourceType></o:EthernetPortItem>"
    "</o:VirtualHardwareSection></o:VirtualSystem></o:Envelope>";

static void test_esxi(void)
{
    struct err e;
    struct machine *m = read_text("esxi.ovf", esxi, &e);
    if (!ok(m != NULL, "an ESXi export is read")) {
        printf("# %s\n", e.text);
        return;
    }
    is_str(m->name, "My-server", "name");
    is_u64(m->cpus, 4, "CPUs");
    is_u64(m->memory, 8 * GIB, "memory");
    ok(m->firmware == FIRMWARE_UEFI && m->firmware_known && m->secure_boot, "firmware");
    is_u64(m->n_disks, 2, "disks without the CD");
    is_str(disk_name(m, 0), "vm-disk1.vmdk", "first disk");
    is_str(m->disks[0].bus, "scsi", "its bus");
    is_str(m->disks[0].format, "vmdk", "its format");
    is_str(disk_name(m, 1), "my disk.vmdk", "a disk that names its file, escaped");
    is_str(m->disks[1].bus, "sata", "its bus");
    is_u64(m->n_nics, 1, "network interfaces");
    is_str(m->nics[0].network, "VM Network", "network");
    is_str(m->nics[0].model, "vmxnet3", "model");
    ok(!m->nics[0].mac, "no MAC, since ESXi writes none");
    machine_free(m);
}

static void test_virtualbox(void)
{
    struct err e;
    struct machine *m = read_text("box.ovf", virtualbox, &e);
    if (!ok(m != NULL, "a VirtualBox export is read")) {
        printf("# %s\n", e.text);
        return;
    }
    is_u64(m->memory, 512 * MIB, "memory in words");
    ok(m->firmware == FIRMWARE_UEFI && m->firmware_known, "firmware");
    is_str(m->disks[0].bus, "ide", "bus");
    is_str(m->n_nics > 0 ? m->nics[0].mac : NULL, "08:00:27:aa:bb:cc", "first MAC");
    is_str(m->n_nics > 1 ? m->nics[1].mac : NULL, "08:00:27:dd:ee:ff",
           "second MAC, a disabled adapter between");
    is_str(m->uuid, "00112233-4455-6677-8899-aabbccddeeff", "UUID");
    machine_free(m);
}

static void test_version2(void)
{
    struct err e;
    struct machine *m = read_text("v2.xml", version2, &e);
    if (!ok(m != NULL, "OVF 2 is read, by its content, with other prefixes")) {
        printf("# %s\n", e.text);
        return;
    }
    is_str(m->name, "v2", "named by id");
    is_u64(m->cpus, 1, "a range is no device");
    is_u64(m->memory, 16 * GIB, "the default variant's memory");
    is_u64(m->n_disks, 1, "StorageItem");
    is_str(m->nics[0].mac, "02:00:00:00:00:01", "EthernetPortItem");
    ok(!m->firmware_known, "nothing said of firmware is not known");
    machine_free(m);
}

static void test_refused(void)
{
    refused("a.ovf",
            ENVELOPE REFERENCES("ovf:compression='gzip'") DISKS SYSTEM(DISK1, "") END,
            "compressed", "a compressed file");
    refused("a.ovf",
            ENVELOPE REFERENCES("ovf:chunkSize='100'") DISKS SYSTEM(DISK1, "") END,
            "chunks", "a file in chunks");
    refused("a.ovf", ENVELOPE DISKS SYSTEM(DISK1, "") END, "file1",
            "a disk without its File");
    refused("a.ovf", ENVELOPE REFERENCES("") SYSTEM(DISK1, "") END, "vmdisk1",
            "an item without its Disk");
    refused("a.ovf", ENVELOPE REFERENCES("") DISKS SYSTEM("", "") END, "no disk",
            "no disk at all");
    refused("a.ovf", ENVELOPE "</Envelope>", "no machine", "no machine");
    refused("a.ovf",
            ENVELOPE "<VirtualSystemCollection>" SYSTEM(DISK1, "")
                SYSTEM(DISK1, "") "</VirtualSystemCollection>" END,
            "more than one", "two machines");
    refused("a.ovf", "<Envelope", "not XML", "half a file");
    refused("a.ovf", "", "not XML", "an empty file");
    refused("a.ovf", "<x/>", "Envelope", "another root element");
    refused("a.ovf",
            ENVELOPE "<References><File ovf:href='../out.vmdk' ovf:id='file1'/>"
                     "</References>" DISKS SYSTEM(DISK1, "") END,
            "outside", "a reference with ../");
    refused("a.ovf",
            ENVELOPE "<References><File ovf:href='%2e%2e/out.vmdk' ovf:id='file1'/>"
                     "</References>" DISKS SYSTEM(DISK1, "") END,
            "outside", "a reference with ../ in disguise");
    refused("a.ovf",
            ENVELOPE "<References><File ovf:href='http://x/y.vmdk' ovf:id='file1'/>"
                     "</References>" DISKS SYSTEM(DISK1, "") END,
            "network", "a reference to the network");
    refused("a.ovf",
            ENVELOPE REFERENCES("") "<DiskSection><Disk ovf:diskId='vmdisk1' "
                                    "ovf:capacity='9'/></DiskSection>" SYSTEM(DISK1, "")
                                        END,
            "blank", "a blank disk");
    refused("a.ovf",
            ENVELOPE REFERENCES("") DISKS SYSTEM(ITEM(R("ResourceType", "x")), "") END,
            "resource type", "an item without a type");
    refused("a.ovf",
            ENVELOPE REFERENCES("") DISKS SYSTEM(
                ITEM(R("ResourceType", "4") R("VirtualQuantity", "99999999999999999")
                         R("AllocationUnits", "byte * 2^40")) DISK1,
                "") END,
            "memory", "memory past 64 bits");
}

static void test_size(void)
{
    refused("a.ovf",
            ENVELOPE "<References><File ovf:href='vm-disk1.vmdk' ovf:id='file1' "
                     "ovf:size='2'/></References>" DISKS SYSTEM(DISK1, "") END,
            "truncated", "a file shorter than it should be");
}

// Entities are never expanded, whether they blow up or read files.
static void test_entities(void)
{
    refused("e.ovf",
            "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>"
            "<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]><Envelope>&c;</Envelope>",
            "document type", "entities that blow up");
    refused(
        "e.ovf",
        "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><Envelope>&a;</Envelope>",
        "document type", "an entity that reads a file");
    AUTO(buf_done) struct buf b = BUF_INIT(MIB);
    buf_str(&b, ENVELOPE);
    for (int i = 0; i < 5000; i++)
        buf_str(&b, "<a>");
    refused("e.ovf", b.data, "not XML", "5000 levels");
}

static void test_manifest(void)
{
    struct err e;
    static const char text[] = ENVELOPE REFERENCES("") DISKS SYSTEM(DISK1, "") END;
    put_text("mf/vm-disk1.vmdk", "x");
    put_text("mf/my disk.vmdk", "x");
    put_text("mf/m.mf", "SHA256(m.ovf)= 00\nSHA256(vm-disk1.vmdk)= 11\n");
    refused("mf/m.ovf", text, "manifest", "a manifest that does not agree");
    put_text("mf/m.mf", "CRC(m.ovf)= 00\n");
    refused("mf/m.ovf", text, "not known", "a manifest with an unknown sum");
    put_text("mf/m.mf", "SHA256(vm-disk1.vmdk)= 11\nnonsense\n()\n)(\n");
    struct machine *m = read_text("mf/m.ovf", text, &e);
    ok(m != NULL, "a manifest without the descriptor's line");
    machine_free(m);
    // The sum comes from coreutils, not from the code under test.
    AUTO(str_free) char *path = at("mf/m.ovf");
    char *argv[] = {"sha256sum", path, NULL};
    AUTO(buf_done) struct buf sum = BUF_INIT(8 * KIB);
    if (proc_run(argv, &sum, &e) < 0)
        test_die(&e);
    AUTO(str_free) char *manifest = xasprintf("SHA256(m.ovf)= %.64s\r\n", sum.data);
    put_text("mf/m.mf", manifest);
    m = read_text("mf/m.ovf", text, &e);
    ok(m != NULL, "a manifest that agrees");
    machine_free(m);
}

int main(void)
{
    test_start();
    put_text("vm-disk1.vmdk", "x");
    put_text("my disk.vmdk", "x");
    test_esxi();
    test_virtualbox();
    test_version2();
    put_text("out.vmdk", "x"); // what a/../ would reach
    char *parent = test_dir;
    test_dir = path_join(parent, "inner");
    put_text("vm-disk1.vmdk", "x");
    put_text("my disk.vmdk", "x");
    test_refused();
    test_size();
    test_entities();
    test_manifest();
    free(test_dir);
    test_dir = parent;
    return test_end();
}

// SPDX-License-Identifier: Apache-2.0
// .vmx files as Workstation and ESXi write them, and as nobody should.
#include "machine_test.h"

static const char workstation[] =
    ".encoding = \"UTF-8\"\n"
    "config.version = \"8\"\n"
    "virtualHW.version = \"19\"\n"
    "# a comment = \"x\"\n"
    "displayName = \"Web |22one|22 (copy)\"\n"
    "guestOS = \"debian11-64\"\n"
    "memsize = \"4096\"\r\n"
    "numvcpus = \"4\"\n"
    "firmware = \"efi\"\n"
    "uefi.secureBoot.enabled = \"TRUE\"\n"
    "uuid.bios = \"56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee\"\n"
    "scsi0.present = \"TRUE\"\n"
    "scsi0.virtualDev = \"lsilogic\"\n"
    "scsi0:0.present = \"TRUE\"\n"
    "scsi0:0.fileName = \"web-000001.vmdk\"\n"
    "SCSI0:1.present = \"TRUE\"\n"
    "scsi0:1.FILENAME = \"sub\\data.vmdk\"\n"
    "scsi0:1.deviceType = \"scsi-hardDisk\"\n"
    "scsi0:2.present = \"FALSE\"\n"
    "scsi0:2.fileName = \"gone.vmdk\"\n"
    "sata0.present = \"TRUE\"\n"
    "sata0:0.present = \"TRUE\"\n"
    "sata0:0.fileName = \"install.iso\"\n"
    "sata0:0.deviceType = \"cdrom-image\"\n"
    "nvme0.present = \"TRUE\"\n"
    "nvme0:0.present = \"TRUE\"\n"
    "nvme0:0.fileName = \"/vmfs/volumes/5f00/web/fast.vmdk\"\n"
    "ide1:0.present = \"TRUE\"\n"
    "ide1:0.fileName = \"C:\\Users\\me\\VMs\\old.vmdk\"\n"
    "ide1:0.deviceType = \"ata-hardDisk\"\n"
    "checkpoint.vmState = \"\"\n"
    "bios.hddOrder = \"nvme0:0,scsi0:0\"\n"
    "ethernet0.present = \"TRUE\"\n"
    "ethernet0.virtualDev = \"vmxnet3\"\n"
    "ethernet0.pciSlotNumber = \"192\"\n"
    "ethernet0.networkName = \"VM Network\"\n"
    "ethernet0.addressType = \"vpx\"\n"
    "ethernet0.generatedAddress = \"00:50:56:AB:cd:ef\"\n"
    "ethernet1.present = \"TRUE\"\n"
    "ethernet1.pciSlotNumber = \"-1\"\n"
    "ethernet1.connectionType = \"nat\"\n"
    "ethernet1.addressType = \"static\"\n"
    "ethernet1.address = \"00:50:56:00:00:01\"\n"
    "ethernet1.generatedAddress = \"00:0c:29:ff:ff:ff\"\n"
    "ethernet2.present = \"FALSE\"\n";

static void test_workstation(void)
{
    struct err e;
    struct machine *m = read_text("web.vmx", workstation, &e);
    if (!ok(m != NULL, "a Workstation file is read")) {
        printf("# %s\n", e.text);
        return;
    }
    is_str(m->name, "Web-one-copy", "the name is made safe, its escapes undone");
    is_str(m->uuid, "564d1122-3344-5566-7788-99aabbccddee", "the UUID in its usual form");
    is_u64(m->memory, 4 * GIB, "memory");
    is_u64(m->cpus, 4, "CPUs");
    ok(m->firmware == FIRMWARE_UEFI && m->firmware_known && m->secure_boot, "firmware");
    is_u64(m->n_disks, 4, "disks, without the CD and the one that is not present");
    is_str(disk_name(m, 0), "web-000001.vmdk", "a snapshot's delta is the disk");
    is_str(disk_name(m, 1), "sub/data.vmdk", "the other slash, and keys in capitals");
    is_str(disk_name(m, 2), "fast.vmdk", "an ESXi path means the namesake beside");
    is_str(disk_name(m, 3), "old.vmdk", "a Windows path means the namesake beside");
    is_str(m->disks[2].bus, "nvme", "bus of the third");
    is_str(m->disks[0].format, "vmdk", "format");
    ok(m->disks[2].boot && !m->disks[0].boot, "the first of bios.hddOrder boots");
    is_u64(m->n_nics, 2, "network interfaces");
    is_str(m->nics[0].mac, "00:50:56:ab:cd:ef", "a generated MAC");
    is_str(m->nics[0].model, "vmxnet3", "model");
    is_str(m->nics[0].network, "VM Network", "network");
    is_str(m->nics[0].place, "ens192", "what Linux calls it there");
    is_str(m->nics[1].place, NULL, "no slot, no name");
    is_str(m->nics[1].mac, "00:50:56:00:00:01", "a static MAC goes before the generated");
    is_str(m->nics[1].model, "e1000", "the model VMware means when it says none");
    machine_free(m);
}

static void test_small(void)
{
    struct err e;
    struct machine *m =
        read_text("small.vmx",
                  "config.version = \"8\"\nscsi0:0.fileName = \"web-000001.vmdk\"\n", &e);
    ok(m && m->n_disks == 1 && m->cpus == 1 && m->memory == 2 * GIB,
       "what is left out has a default");
    is_str(m ? m->name : NULL, "small", "named after the file");
    ok(m && m->firmware == FIRMWARE_BIOS && m->firmware_known, "no firmware is a BIOS");
    machine_free(m);
    m = read_text("other.txt",
                  "config.version = \"8\"\nide0:0.fileName=web-000001.vmdk\n", &e);
    ok(m && m->n_disks == 1, "known by its content, values without quotes");
    machine_free(m);
    m = read_text("cp.vmx",
                  ".encoding = \"windows-1252\"\nconfig.version = \"8\"\n"
                  "scsi0:0.fileName = \"b\xfcro.vmdk\"\n",
                  &e);
    is_str(disk_name(m, 0), "b\xc3\xbcro.vmdk", "a name in the file's own character set");
    machine_free(m);
    m = read_text("tw.vmx",
                  "config.version = \"8\"\nscsi0:0.fileName = \"gone.vmdk\"\n"
                  "scsi0:0.fileName = \"web-000001.vmdk\"\n",
                  &e);
    is_str(disk_name(m, 0), "web-000001.vmdk", "of two lines the later counts");
    machine_free(m);
}

static void test_refused(void)
{
#define HEAD "config.version = \"8\"\n"
    refused("a.vmx", HEAD "scsi0:0.fileName = \"gone.vmdk\"\n", "gone.vmdk, which is not",
            "a disk that is not there");
    refused("a.vmx", HEAD "encryption.keySafe = \"vmware:key/list/x\"\n", "encrypted",
            "an encrypted machine");
    refused("a.vmx", HEAD "encryption.data = \"x\"\n", "encrypted",
            "an encrypted machine of ESXi");
    refused("a.vmx", HEAD "checkpoint.vmState = \"web.vmss\"\n", "suspended",
            "a suspended machine");
    put_text("run.vmdk", "x");
    put_text("run.vmdk.lck/M1.lck", "x");
    refused("a.vmx", HEAD "scsi0:0.fileName = \"run.vmdk\"\n", "in use by VMware",
            "a machine that runs under Workstation");
    refused("a.vmx", HEAD "memsize = \"lots\"\n", "memsize", "memory that is no number");
    refused("a.vmx", HEAD "numvcpus = \"0\"\n", "numvcpus", "no CPU");
    refused("a.vmx", HEAD "memsize = \"99999999999999\"\n", "memsize", "absurd memory");
    refused("a.vmx", HEAD, "no disk", "no disk at all");
    refused("a.vmx", "", "no disk", "an empty file");
    refused("a.vmx", HEAD "scsi0:0.fileName = \"\"\n", "no disk", "an empty file name");
    refused("a.vmx",
            HEAD "scsi0:0.fileName = \"old.vmdk\"\nscsi0:1.fileName = \"./old.vmdk\"\n",
            "same file", "one file as two disks");
    refused("in/a.vmx", HEAD "scsi0:0.fileName = \"../old.vmdk\"\n", "outside",
            "a path that leaves the folder");
    refused("in/a.vmx", HEAD "scsi0:0.fileName = \"..\\old.vmdk\"\n", "outside",
            "the same with the other slash");
    refused("in/a.vmx", HEAD "scsi0:0.fileName = \"link.vmdk\"\n", "outside",
            "a link that leaves the folder");
    refused("in/a.vmx",
            HEAD "scsi0:0.fileName = \"/etc/passwd\"\nscsi0:0.deviceType = "
                 "\"disk\"\n",
            "outside", "an absolute path elsewhere");
    refused("in/a.vmx", HEAD "scsi0:0.fileName = \"folder.vmdk\"\n", "not there",
            "a folder as disk");
    refused("in/a.vmx", HEAD "scsi0:0.fileName = \"a|0ab.vmdk\"\n", "no file name",
            "control characters in a name");
}

static void test_allow(void)
{
    AUTO(str_free) char *path = at("in/b.vmx");
    put_text("in/b.vmx", HEAD "scsi0:0.fileName = \"../old.vmdk\"\n");
    struct machine *m = NULL;
    struct err e;
    int r = machine_read(
        &(struct machine_options){.path = path, .allow_any_path = true, .name = "a b"},
        &m, &e);
    ok(r == 0, "--allow-path allows it");
    is_str(disk_name(m, 0), "old.vmdk", "and finds it");
    is_str(m ? m->name : NULL, "a-b", "--name goes before everything, made safe");
    machine_free(m);
}

static void test_limits(void)
{
    AUTO(buf_done) struct buf b = BUF_INIT(MIB);
    buf_str(&b, HEAD);
    for (int i = 0; i < 65; i++) {
        AUTO(str_free) char *name = xasprintf("many/d%d.vmdk", i);
        put_text(name, "x");
        buf_printf(&b, "scsi%d:%d.fileName = \"d%d.vmdk\"\n", i / 60, i % 60, i);
    }
    refused("many/a.vmx", b.data, "more than 64 disks", "65 disks");
    buf_reset(&b);
    for (int i = 0; i < 9000; i++)
        buf_printf(&b, "a%d = \"1\"\n", i);
    refused("many/a.vmx", b.data, "settings", "9000 settings");
    put("many/nul.vmx", "config.version\0= 1", 18);
    AUTO(str_free) char *path = at("many/nul.vmx");
    struct machine *m = NULL;
    struct err e;
    ok(machine_read(&(struct machine_options){.path = path}, &m, &e) < 0 &&
           e.code == ERR_REFUSED,
       "a .vmx that is no text");
}

int main(void)
{
    static const char *const files[] = {"web-000001.vmdk", "sub/data.vmdk", "fast.vmdk",
                                        "old.vmdk", "b\xc3\xbcro.vmdk"};
    test_start();
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        put_text(files[i], "x");
    put_text("in/folder.vmdk/x", "x");
    AUTO(str_free) char *link = at("in/link.vmdk");
    if (symlink("../old.vmdk", link) < 0)
        return 1;
    test_workstation();
    test_small();
    test_refused();
    test_allow();
    test_limits();
    return test_end();
}

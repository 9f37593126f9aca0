// SPDX-License-Identifier: Apache-2.0
// From a description to its disks' bytes: images that qemu-img made, named by an OVF in
// an OVA (read in place), by a VMX with a snapshot, and by a libvirt domain with a
// backing file; every byte is compared.
#include "../unit/machine_test.h"
#include "disk/disk.h"

#define SIZE (3 * MIB + 512)

static uint8_t *pattern;

static void run(char *const *argv)
{
    struct err e;
    if (proc_run(argv, NULL, &e) < 0)
        test_die(&e);
}
#define RUN(...) run((char *const[]){__VA_ARGS__, NULL})

// Every disk of the machine that file NAME describes has the pattern's bytes.
static void check_bytes(const char *name, size_t n_disks, const char *what)
{
    struct err e;
    AUTO(str_free) char *path = at(name);
    AUTO(machine_free) struct machine *m = NULL;
    if (machine_read(&(struct machine_options){.path = path}, &m, &e) < 0) {
        ok(false, "%s: %s", what, e.text);
        return;
    }
    is_u64(m->n_disks, n_disks, what);
    for (size_t i = 0; i < m->n_disks; i++) {
        const struct machine_disk *d = &m->disks[i];
        struct image_options options = {.path = d->path,
                                        .format = d->format,
                                        .part_off = d->part_off,
                                        .part_len = d->part_len};
        AUTO(disk_close) struct disk *disk = NULL;
        AUTO(free) void *got = xcalloc(1, SIZE);
        if (image_open(&options, &disk, &e) < 0) {
            ok(false, "%s: %s", what, e.text);
            continue;
        }
        bool good = is_u64(disk->size, SIZE, "size") &&
                    disk_read(disk, got, SIZE, 0, &e) == 0 &&
                    memcmp(got, pattern, SIZE) == 0;
        ok(good, "%s: disk %zu byte by byte", what, i);
    }
}

static void test_ova(void)
{
    put_text("vm.ovf",
             "<Envelope><References><File id='f1' href='one.vmdk'/><File id='f2' "
             "href='two.vmdk'/></References><DiskSection><Disk diskId='d' fileRef='f1' "
             "format='http://www.vmware.com/interfaces/specifications/"
             "vmdk.html#streamOptimized'/></DiskSection><VirtualSystem id='s'>"
             "<VirtualHardwareSection><Item><HostResource>ovf:/disk/d</HostResource>"
             "<ResourceType>17</ResourceType></Item><Item><HostResource>ovf:/file/f2"
             "</HostResource><ResourceType>17</ResourceType></Item>"
             "</VirtualHardwareSection></VirtualSystem></Envelope>");
    AUTO(str_free) char *ova = at("vm.ova");
    RUN("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", "raw.raw",
        "one.vmdk");
    RUN("qemu-img", "convert", "-O", "vmdk", "raw.raw", "two.vmdk");
    RUN("tar", "-cf", ova, "--format=ustar", "vm.ovf", "one.vmdk", "two.vmdk");
    check_bytes("vm.ovf", 2, "an OVF");
    unlink("one.vmdk");
    unlink("two.vmdk");
    check_bytes("vm.ova", 2, "an OVA, read in place");
}

static void test_vmx(void)
{
    put_text("web.vmx", "config.version = \"8\"\n"
                        "scsi0:0.fileName = \"web-000001.vmdk\"\n"
                        "sata0:0.fileName = \"split.vmdk\"\n");
    RUN("qemu-img", "create", "-q", "-f", "vmdk", "web.vmdk", "3146240");
    RUN("qemu-img", "create", "-q", "-f", "vmdk", "-o",
        "backing_file=web.vmdk,backing_fmt=vmdk", "web-000001.vmdk");
    RUN("qemu-img", "convert", "-n", "-O", "vmdk", "raw.raw", "web-000001.vmdk");
    RUN("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat",
        "raw.raw", "split.vmdk");
    check_bytes("web.vmx", 2, "a VMX with a snapshot and a split disk");
}

static void test_libvirt(void)
{
    put_text("web.xml", "<domain><name>web</name><devices><disk type='file'>"
                        "<driver type='qcow2'/><source file='top.qcow2'/></disk>"
                        "</devices></domain>");
    RUN("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "raw.raw",
        "top.qcow2");
    check_bytes("web.xml", 1, "a domain with a backing file");
}

int main(void)
{
    struct err e;
    test_start();
    if (proc_have("qemu-img", "qemu-utils", &e) < 0 ||
        proc_have("qemu-nbd", "qemu-utils", &e) < 0) {
        printf("1..0 # SKIP %s\n", e.text);
        (void)dir_remove(test_dir, &e);
        return 0;
    }
    pattern = xmalloc(SIZE);
    for (size_t i = 0; i < SIZE; i++)
        pattern[i] = (uint8_t)(i * 7 + i / 512);
    put("raw.raw", pattern, SIZE);
    if (chdir(test_dir) < 0)
        return 1;
    test_ova();
    test_vmx();
    test_libvirt();
    if (chdir("/") < 0)
        return 1;
    free(pattern);
    return test_end();
}

// SPDX-License-Identifier: Apache-2.0
// libvirt+ as target and source against a real libvirtd, which tests/e2e/libvirt starts:
// cloud_libvirt URI FOLDER-OF-POOL-DEFAULT, or cloud_libvirt URI FOLDER new-pool where
// there is no pool yet.
#include "../unit/machine_test.h"
#include "cloud/cloud.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

static const char *uri, *images;
static virConnectPtr conn;
static struct machine *machine;
static struct cloud_disk disk;

static struct cloud_machine guest(const char *name, uint64_t job)
{
    return (struct cloud_machine){.machine = machine,
                                  .name = name,
                                  .disks = &disk,
                                  .n_disks = 1,
                                  .job = job,
                                  .job_created = 1700000000,
                                  .emulated = true};
}

// The target with `more` ("pool=x", "domain=x") among its parameters.
static struct cloud *target(const char *more)
{
    struct err e;
    AUTO(str_free)
    char *address = xasprintf("libvirt+%s%s%s", uri, *more ? "&" : "", more);
    struct cloud *c;
    if (cloud_open(address, NULL, &c, &e) < 0)
        test_die(&e);
    return c;
}

static void is_refused(int r, const struct err *e, const char *part, const char *what)
{
    if (!ok(r < 0 && e->code == ERR_REFUSED && strstr(e->text, part), "%s", what))
        printf("# code %d: %s\n", r < 0 ? (int)e->code : 0,
               r < 0 ? e->text : "went well");
}

static void went_well(int r, const struct err *e, const char *what)
{
    if (!ok(r == 0, "%s", what))
        printf("# %s\n", e->text);
}

static void run(char *const *argv)
{
    struct err e;
    if (proc_run(argv, NULL, &e) < 0)
        test_die(&e);
}

// What copy and conversion would have left there.
static void make_disks(void)
{
    char *raw[] = {"qemu-img", "create", "-q", "-f", "raw", disk.replica, "16M", NULL};
    char *overlay[] = {"qemu-img", "create", "-q",         "-f",         "qcow2", "-F",
                       "raw",      "-b",     disk.replica, disk.overlay, NULL};
    run(raw);
    run(overlay);
}

// 1 active, 0 off, -1 no such domain; its UUID.
static int state(const char *name, char uuid[static VIR_UUID_STRING_BUFLEN])
{
    virDomainPtr d = virDomainLookupByName(conn, name);
    if (!d)
        return -1;
    int active = virDomainIsActive(d);
    if (virDomainGetUUIDString(d, uuid) < 0)
        *uuid = 0;
    (void)virDomainFree(d);
    return active;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void test_life(void)
{
    struct err e;
    char first[VIR_UUID_STRING_BUFLEN] = "", second[VIR_UUID_STRING_BUFLEN] = "";
    AUTO(cloud_close) struct cloud *c = target("");
    struct cloud_machine m = guest("web", 7), other = guest("web", 8);
    disk.needed = 16 * MIB;
    went_well(c->ops->check(c, &m, &e), &e, "nothing stands against it");
    went_well(c->ops->place(c, &m, &e), &e, "placed");
    AUTO(str_free) char *want = path_join(images, "web-vda.raw");
    is_str(disk.replica, want, "in the pool's folder");
    make_disks();
    ok(c->ops->launch(c, &m, &e) < 0 && e.code == ERR_FAILED,
       "not started before defined");
    went_well(c->ops->import(c, &m, &e), &e, "defined");
    ok(state("web", first) == 0, "off");
    went_well(c->ops->import(c, &m, &e), &e, "defined again");
    ok(state("web", second) == 0 && strcmp(first, second) == 0, "the same domain");
    went_well(c->ops->check(c, &m, &e), &e, "the job knows its own");
    is_refused(c->ops->check(c, &other, &e), &e, "not this job's",
               "another job does not");
    is_refused(c->ops->import(c, &other, &e), &e, "not this job's",
               "nor defines over it");
    is_refused(c->ops->launch(c, &other, &e), &e, "not this job's", "nor starts it");
    went_well(c->ops->launch(c, &m, &e), &e, "started");
    ok(state("web", second) == 1, "runs");
    went_well(c->ops->launch(c, &m, &e), &e, "started again is no error");
    went_well(c->ops->import(c, &m, &e), &e, "defined while it runs");
    AUTO(cloud_close) struct cloud *source = target("domain=web");
    struct machine *found = NULL;
    is_refused(source->ops->describe(source, &found, &e), &e, "is running",
               "as a source it must be off");
    ok(c->ops->remove(c, &other, &e) == 0 && state("web", second) == 1,
       "another job removes nothing");
    went_well(c->ops->remove(c, &m, &e), &e, "removed while it runs");
    ok(state("web", second) == -1, "gone");
    went_well(c->ops->remove(c, &m, &e), &e, "removed again is no error");
    ok(exists(disk.replica) && exists(disk.overlay), "the disks stay");
    went_well(c->ops->check(c, &m, &e), &e, "and are still the job's");
    is_refused(c->ops->check(c, &other, &e), &e, "already holds", "and nobody else's");
    unlink(disk.replica);
    unlink(disk.overlay);
    went_well(c->ops->remove(c, &m, &e), &e, "removed once more, without disks");
    AUTO(str_free) char *marker = path_join(images, ".web.godwit");
    ok(!exists(marker), "nothing is left");
}

static void test_uefi(void)
{
    struct err e;
    char uuid[VIR_UUID_STRING_BUFLEN];
    if (!exists("/usr/share/OVMF/OVMF_CODE_4M.fd") &&
        !exists("/usr/share/OVMF/OVMF_CODE.fd")) {
        skip("UEFI", "no OVMF on this machine");
        return;
    }
    AUTO(cloud_close) struct cloud *c = target("");
    struct cloud_machine m = guest("efi", 1);
    machine->firmware = FIRMWARE_UEFI;
    if (c->ops->place(c, &m, &e) < 0)
        test_die(&e);
    make_disks();
    went_well(c->ops->import(c, &m, &e), &e, "a UEFI domain is defined");
    went_well(c->ops->launch(c, &m, &e), &e, "and starts");
    went_well(c->ops->remove(c, &m, &e), &e, "and is removed, NVRAM included");
    ok(state("efi", uuid) == -1, "gone");
    machine->secure_boot = true;
    if (c->ops->place(c, &m, &e) < 0)
        test_die(&e);
    went_well(c->ops->import(c, &m, &e), &e, "one with secure boot is defined");
    if (c->ops->remove(c, &m, &e) < 0)
        test_die(&e);
    machine->secure_boot = false;
    machine->firmware = FIRMWARE_BIOS;
    unlink(disk.replica);
    unlink(disk.overlay);
}

static virDomainPtr define_stranger(const char *disk_xml)
{
    AUTO(str_free)
    char *xml = xasprintf(
        "<domain type='qemu'><name>stranger</name>"
        "<uuid>11111111-2222-3333-4444-555555555555</uuid><memory>65536</memory>"
        "<os><type arch='x86_64'>hvm</type></os><devices>%s"
        "<interface type='user'><mac address='52:54:00:01:02:03'/></interface>"
        "</devices></domain>",
        disk_xml);
    virDomainPtr d = virDomainDefineXML(conn, xml);
    if (!d) {
        printf("Bail out! %s\n", virGetLastErrorMessage());
        exit(1);
    }
    return d;
}

static void test_stranger(void)
{
    struct err e;
    char uuid[VIR_UUID_STRING_BUFLEN] = "";
    AUTO(cloud_close) struct cloud *c = target("");
    virDomainPtr d = define_stranger("");
    struct cloud_machine m = guest("stranger", 7);
    is_refused(c->ops->check(c, &m, &e), &e, "stranger", "a stranger's name");
    is_refused(c->ops->import(c, &m, &e), &e, "stranger", "is not defined over");
    ok(c->ops->remove(c, &m, &e) == 0 && state("stranger", uuid) == 0, "nor removed");
    m = guest("twin", 7);
    machine->uuid = xstrdup("11111111-2222-3333-4444-555555555555");
    if (c->ops->place(c, &m, &e) < 0)
        test_die(&e);
    make_disks();
    went_well(c->ops->import(c, &m, &e), &e, "a machine whose UUID is taken is defined");
    ok(state("twin", uuid) == 0 && strcmp(uuid, machine->uuid) != 0, "with another one");
    went_well(c->ops->import(c, &m, &e), &e, "twice");
    (void)virDomainUndefine(d);
    (void)virDomainFree(d);
    if (c->ops->remove(c, &m, &e) < 0)
        test_die(&e);
    unlink(disk.replica);
    unlink(disk.overlay);
    free(steal(machine->uuid));
}

static void test_source(void)
{
    struct err e;
    AUTO(str_free) char *file = path_join(images, "vol.qcow2");
    char *create[] = {"qemu-img", "create", "-q", "-f", "qcow2", file, "1M", NULL};
    char *refresh[] = {"virsh", "-q", "-c", (char *)uri, "pool-refresh", "default", NULL};
    run(create);
    run(refresh);
    virDomainPtr d = define_stranger(
        "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
        "<source pool='default' volume='vol.qcow2'/><target dev='vda' "
        "bus='virtio'/></disk>");
    AUTO(cloud_close) struct cloud *c = target("domain=stranger");
    struct machine *m = NULL;
    went_well(c->ops->describe(c, &m, &e), &e, "a domain that is off is described");
    is_str(m && m->n_disks == 1 ? m->disks[0].path : NULL, file, "its volume is found");
    is_str(m && m->n_nics == 1 ? m->nics[0].mac : NULL, "52:54:00:01:02:03", "its MAC");
    is_str(m ? m->uuid : NULL, "11111111-2222-3333-4444-555555555555", "its UUID");
    machine_free(m);
    (void)virDomainUndefine(d);
    (void)virDomainFree(d);
    unlink(file);
    is_refused(c->ops->describe(c, &m, &e), &e, "no domain", "one that is not there");
    AUTO(cloud_close) struct cloud *none = target("");
    ok(none->ops->describe(none, &m, &e) < 0 && e.code == ERR_USAGE, "no ?domain=");
}

static void test_pools(void)
{
    struct err e;
    AUTO(cloud_close) struct cloud *none = target("pool=none");
    struct cloud_machine m = guest("pooled", 1);
    is_refused(none->ops->check(none, &m, &e), &e, "no storage pool", "an unknown pool");
    AUTO(str_free) char *dir = at("second");
    AUTO(str_free)
    char *xml = xasprintf(
        "<pool type='dir'><name>second one</name><target><path>%s</path></target>"
        "</pool>",
        dir);
    if (dir_make(dir, 0755, &e) < 0)
        test_die(&e);
    virStoragePoolPtr pool = virStoragePoolDefineXML(conn, xml, 0);
    AUTO(cloud_close) struct cloud *second = target("pool=second%20one");
    went_well(second->ops->check(second, &m, &e), &e, "a pool that is not active");
    ok(virStoragePoolIsActive(pool) == 0, "check leaves it alone");
    went_well(second->ops->place(second, &m, &e), &e, "place starts it");
    ok(virStoragePoolIsActive(pool) == 1, "it is active now");
    ok(str_starts(disk.replica, dir), "disks go there");
    make_disks();
    went_well(second->ops->import(second, &m, &e), &e, "a domain with its disk there");
    virStorageVolPtr volume = virStorageVolLookupByName(pool, "pooled-vda.qcow2");
    ok(volume != NULL, "the pool was refreshed");
    if (volume)
        (void)virStorageVolFree(volume);
    if (second->ops->remove(second, &m, &e) < 0)
        test_die(&e);
    (void)virStoragePoolDestroy(pool);
    (void)virStoragePoolUndefine(pool);
    (void)virStoragePoolFree(pool);
}

// What dir: writes starts as it is.
static void test_folder(void)
{
    struct err e;
    AUTO(str_free) char *dir = at("folder");
    AUTO(str_free) char *address = xasprintf("dir:%s", dir);
    AUTO(cloud_close) struct cloud *c = NULL;
    struct cloud_machine m = guest("plain", 1);
    AUTO(buf_done) struct buf xml = BUF_INIT(MIB);
    AUTO(str_free) char *path = path_join(dir, "plain.xml");
    if (cloud_open(address, NULL, &c, &e) < 0 || c->ops->place(c, &m, &e) < 0)
        test_die(&e);
    make_disks();
    if (c->ops->import(c, &m, &e) < 0 || file_read(path, &xml, &e) < 0)
        test_die(&e);
    virDomainPtr d = virDomainCreateXML(conn, xml.data, VIR_DOMAIN_START_VALIDATE);
    if (!ok(d != NULL, "dir:'s NAME.xml starts as it is")) {
        printf("# %s\n", virGetLastErrorMessage());
        return;
    }
    (void)virDomainDestroy(d);
    (void)virDomainFree(d);
}

static void test_words(void)
{
    struct err e;
    struct cloud *c = NULL;
    ok(cloud_open("libvirt+qemu+unix:///system?socket=/nonexistent/sock", NULL, &c, &e) <
               0 &&
           e.code == ERR_FAILED && strstr(e.text, "/nonexistent/sock"),
       "no libvirtd there");
    AUTO(cloud_close) struct cloud *t = target("");
    struct cloud_machine m = guest("net", 1);
    const char *word = "*=nowhere";
    m.networks = &word;
    m.n_networks = 1;
    is_refused(t->ops->check(t, &m, &e), &e, "no network 'nowhere'",
               "an unknown network");
    word = "*=user";
    went_well(t->ops->check(t, &m, &e), &e, "user needs none");
}

// Where libvirt has no pool at all.
static void test_new_pool(void)
{
    struct err e;
    AUTO(cloud_close) struct cloud *c = target("");
    struct cloud_machine m = guest("fresh", 1);
    went_well(c->ops->check(c, &m, &e), &e, "no pool is fine");
    virStoragePoolPtr pool = virStoragePoolLookupByName(conn, "default");
    ok(!pool, "check makes none");
    went_well(c->ops->place(c, &m, &e), &e, "place makes one");
    pool = virStoragePoolLookupByName(conn, "default");
    ok(pool && virStoragePoolIsActive(pool) == 1, "called default, active");
    is_str(disk.replica, "/var/lib/libvirt/images/fresh-vda.raw",
           "at the customary place");
    if (pool)
        (void)virStoragePoolFree(pool);
    if (c->ops->remove(c, &m, &e) < 0)
        test_die(&e);
}

static void be_quiet(void *context, virErrorPtr error)
{
    (void)context, (void)error;
}

int main(int argc, char **argv)
{
    struct err e;
    if (argc < 3)
        return 2;
    uri = argv[1];
    images = argv[2];
    virSetErrorFunc(NULL, be_quiet);
    conn = virConnectOpen(uri);
    if (!conn) {
        printf("Bail out! no libvirtd at %s\n", uri);
        return 1;
    }
    test_start();
    machine = read_text("m.img", "x", &e);
    if (!machine)
        test_die(&e);
    machine->memory = 64 * MIB;
    if (argc > 3) {
        test_new_pool();
    } else {
        test_life();
        test_uefi();
        test_stranger();
        test_source();
        test_pools();
        test_folder();
        test_words();
    }
    free(disk.replica);
    free(disk.map);
    free(disk.overlay);
    free(disk.final);
    free(disk.final_format);
    machine_free(machine);
    (void)virConnectClose(conn);
    return test_end();
}

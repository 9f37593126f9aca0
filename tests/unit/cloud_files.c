// SPDX-License-Identifier: Apache-2.0
// dir: as target: what it refuses, whose files it knows, what it writes.
#include "cloud/cloud.h"
#include "machine_test.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

static struct machine *machine;
static struct cloud_disk disks[2];

static struct cloud_machine guest(const char *name, uint64_t job)
{
    return (struct cloud_machine){.machine = machine,
                                  .name = name,
                                  .disks = disks,
                                  .n_disks = 2,
                                  .job = job,
                                  .job_created = 1700000000};
}

static struct cloud *open_dir(const char *name)
{
    struct err e;
    AUTO(str_free) char *path = at(name);
    AUTO(str_free) char *address = xasprintf("dir:%s", path);
    struct cloud *c;
    if (cloud_open(address, NULL, &c, &e) < 0)
        test_die(&e);
    return c;
}

static void is_refused(int r, const struct err *e, enum err_code code, const char *part,
                       const char *what)
{
    if (!ok(r < 0 && e->code == code && strstr(e->text, part), "%s", what))
        printf("# code %d: %s\n", r < 0 ? (int)e->code : 0,
               r < 0 ? e->text : "went well");
}

static bool is_there(const char *name)
{
    AUTO(str_free) char *path = at(name);
    return access(path, F_OK) == 0;
}

static void test_life(void)
{
    struct err e;
    AUTO(cloud_close) struct cloud *c = open_dir("a/out");
    struct cloud_machine m = guest("web", 7);
    disks[0].needed = disks[1].needed = MIB;
    ok(c->ops->check(c, &m, &e) == 0, "a folder that is not there yet is fine");
    ok(!is_there("a"), "check makes nothing");
    ok(!c->ops->launch && !c->ops->describe, "nothing runs in a folder");
    ok(c->ops->place(c, &m, &e) == 0 && is_there("a/out/.web.godwit"), "place takes it");
    is_str(path_base(disks[0].replica), "web-vda.raw", "the replica");
    is_str(path_base(disks[1].overlay), "web-vdb.qcow2", "the overlay");
    is_str(path_base(disks[1].map), "web-vdb.map", "the map");
    is_str(disks[0].final_format, "qcow2", "the overlay is what boots");
    put_text("a/out/web-vda.raw", "x");
    put_text("a/out/web-vda.qcow2", "x");
    put_text("a/out/web-vdb.qcow2", "x");
    ok(c->ops->check(c, &m, &e) == 0 && c->ops->place(c, &m, &e) == 0,
       "the same job again knows its files");
    ok(c->ops->import(c, &m, &e) == 0 && c->ops->import(c, &m, &e) == 0,
       "imported, twice");
    AUTO(str_free) char *xml = at("a/out/web.xml");
    struct machine *back = NULL;
    if (machine_read(&(struct machine_options){.path = xml}, &back, &e) < 0)
        test_die(&e);
    is_str(back->name, "web", "the domain's name");
    is_str(disk_name(back, 0), "a/out/web-vda.qcow2", "the domain boots the overlay");
    machine_free(back);
    struct cloud_machine other = guest("web", 8);
    is_refused(c->ops->check(c, &other, &e), &e, ERR_REFUSED, "already holds",
               "another job under that name");
    is_refused(c->ops->place(c, &other, &e), &e, ERR_REFUSED, "already holds",
               "it cannot place either");
    is_refused(c->ops->import(c, &other, &e), &e, ERR_REFUSED, "not this job's",
               "nor import");
    ok(c->ops->remove(c, &other, &e) == 0 && is_there("a/out/web.xml"),
       "and removes nothing");
    other.name = "web2";
    ok(c->ops->check(c, &other, &e) == 0, "under another name it may");
    struct cloud_machine later = guest("web", 7);
    later.job_created++;
    is_refused(c->ops->check(c, &later, &e), &e, ERR_REFUSED, "already holds",
               "job 7 of another store is another job");
    ok(c->ops->remove(c, &m, &e) == 0 && c->ops->remove(c, &m, &e) == 0,
       "removed, twice");
    ok(!is_there("a/out/web.xml") && is_there("a/out/web-vda.raw"), "the disks stay");
    ok(c->ops->check(c, &m, &e) == 0, "and are still the job's");
    static const char *const left[] = {"a/out/web-vda.raw", "a/out/web-vda.qcow2",
                                       "a/out/web-vdb.qcow2"};
    for (size_t i = 0; i < ARRAY_LEN(left); i++) {
        AUTO(str_free) char *path = at(left[i]);
        unlink(path);
    }
    ok(c->ops->remove(c, &m, &e) == 0 && !is_there("a/out/.web.godwit"),
       "once they are gone nothing is left");
}

// Whose files these are, when the marker does not say.
static void test_markers(void)
{
    struct err e;
    AUTO(cloud_close) struct cloud *c = open_dir("marks");
    struct cloud_machine m = guest("web", 3), other = guest("web", 4);
    put_text("marks/.web.godwit", "");
    ok(c->ops->check(c, &m, &e) == 0, "an empty marker owns nothing");
    ok(c->ops->place(c, &m, &e) == 0 && c->ops->check(c, &other, &e) == 0 &&
           c->ops->place(c, &other, &e) == 0,
       "nor does one whose job has no file there");
    put_text("marks/web-vdb.map", "x");
    is_refused(c->ops->place(c, &m, &e), &e, ERR_REFUSED, "web-vdb.map",
               "with one file it does");
    put_text("marks/.web.godwit", "");
    is_refused(c->ops->check(c, &other, &e), &e, ERR_REFUSED, "already holds",
               "a file and an empty marker are a stranger's");
}

static void test_final(void)
{
    struct err e;
    AUTO(cloud_close) struct cloud *c = open_dir("final");
    struct cloud_machine m = guest("flat", 1);
    m.emulated = true;
    if (c->ops->place(c, &m, &e) < 0)
        test_die(&e);
    for (size_t i = 0; i < 2; i++) {
        free(disks[i].final);
        free(disks[i].final_format);
        disks[i].final = xstrdup(disks[i].replica);
        disks[i].final_format = xstrdup("raw");
    }
    const char *words[] = {"52-54-00-AA-00-01=prod", "*=bridge:br7"};
    m.networks = words;
    m.n_networks = 2;
    ok(c->ops->check(c, &m, &e) == 0 && c->ops->import(c, &m, &e) == 0,
       "one file a disk");
    AUTO(buf_done) struct buf b = BUF_INIT(MIB);
    AUTO(str_free) char *path = at("final/flat.xml");
    if (file_read(path, &b, &e) < 0)
        test_die(&e);
    ok(strstr(b.data, "flat-vda.raw") && !strstr(b.data, "qcow2"), "without an overlay");
    ok(strstr(b.data, "type='qemu'"), "emulated");
    ok(strstr(b.data, "network='prod'") && strstr(b.data, "bridge='br7'"), "networks");
    ok(strstr(b.data, "tag='1-1700000000'"), "the job's tag");
}

static void test_words(void)
{
    struct err e;
    struct cloud *c = NULL;
    is_refused(cloud_open("dir:", NULL, &c, &e), &e, ERR_USAGE, "folder",
               "dir: without a path");
    is_refused(cloud_open("aws:x", NULL, &c, &e), &e, ERR_USAGE,
               "dir:", "an unknown platform");
    ok(!cloud_find("disk.vmdk") && cloud_find("dir:x"), "a file is no platform");
    AUTO(cloud_close) struct cloud *d = open_dir("w");
    struct cloud_machine m = guest("a b", 1);
    is_refused(d->ops->check(d, &m, &e), &e, ERR_USAGE, "a-b", "a bad name");
    m = guest("../x", 1);
    is_refused(d->ops->place(d, &m, &e), &e, ERR_USAGE, "x", "a name that leaves");
    const char *word = "nonsense";
    m = guest("w", 1);
    m.networks = &word;
    m.n_networks = 1;
    is_refused(d->ops->check(d, &m, &e), &e, ERR_USAGE, "MAC=NET", "--network nonsense");
    word = "xx=lan";
    is_refused(d->ops->check(d, &m, &e), &e, ERR_USAGE, "no MAC",
               "--network without MAC");
    word = "52:54:00:00:00:99=lan";
    is_refused(d->ops->check(d, &m, &e), &e, ERR_REFUSED, "no network interface",
               "--network for a NIC that is not there");
}

static void test_room(void)
{
    struct err e;
    AUTO(cloud_close) struct cloud *c = open_dir("room");
    struct cloud_machine m = guest("big", 1);
    struct statvfs vfs;
    if (statvfs(test_dir, &vfs) < 0)
        exit(1);
    disks[0].needed = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    is_refused(c->ops->check(c, &m, &e), &e, ERR_REFUSED, "are needed",
               "all that is free is not enough");
    disks[0].needed = UINT64_MAX;
    is_refused(c->ops->check(c, &m, &e), &e, ERR_REFUSED, "are needed", "absurdly much");
    disks[0].needed = disks[1].needed = 0;
    put_text("file", "x");
    AUTO(cloud_close) struct cloud *f = open_dir("file");
    is_refused(f->ops->check(f, &m, &e), &e, ERR_REFUSED, "not a folder", "a file");
    struct cloud *proc = NULL;
    if (cloud_open("dir:/proc/self/out", NULL, &proc, &e) < 0)
        test_die(&e);
    ok(proc->ops->check(proc, &m, &e) < 0, "a folder that cannot be written to");
    cloud_close(proc);
}

// File systems of our own, in a mount namespace of our own.
static void test_mounts(void)
{
    struct err e;
    AUTO(str_free) char *dir = at("mnt");
    if (dir_make(dir, 0755, &e) < 0)
        test_die(&e);
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", dir, "tmpfs", 0, "size=4M")) {
        skip("a small and a read-only file system", "mounting needs root");
        return;
    }
    AUTO(cloud_close) struct cloud *c = open_dir("mnt/out");
    struct cloud_machine m = guest("web", 1);
    disks[0].needed = 3 * MIB;
    ok(c->ops->check(c, &m, &e) == 0, "3 MiB fit into 4");
    disks[1].needed = 2 * MIB;
    is_refused(c->ops->check(c, &m, &e), &e, ERR_REFUSED, "are needed", "5 MiB do not");
    disks[1].needed = 0;
    if (c->ops->place(c, &m, &e) < 0)
        test_die(&e);
    AUTO(buf_done) struct buf b = BUF_INIT(4 * MIB);
    while (b.len < 2 * MIB)
        buf_add(&b, "0123456789abcdef", 16);
    put("mnt/out/web-vda.raw", b.data, b.len);
    ok(c->ops->check(c, &m, &e) == 0, "what is copied already is not needed again");
    mount("none", dir, NULL, MS_REMOUNT | MS_RDONLY, NULL);
    is_refused(c->ops->check(c, &m, &e), &e, ERR_REFUSED, "Read-only",
               "a read-only file system");
    umount2(dir, MNT_DETACH);
    disks[0].needed = 0;
}

int main(void)
{
    struct err e;
    test_start();
    put_text("src/a.raw", "x");
    put_text("src/b.raw", "x");
    machine = read_text("src/m.json",
                        "{\"disks\": [{\"path\": \"a.raw\"}, {\"path\": \"b.raw\"}],"
                        "\"nics\": [{\"mac\": \"52:54:00:aa:00:01\"}, {}]}",
                        &e);
    if (!machine)
        test_die(&e);
    test_life();
    test_final();
    test_words();
    test_room();
    test_markers();
    test_mounts();
    for (size_t i = 0; i < 2; i++) {
        free(disks[i].replica);
        free(disks[i].map);
        free(disks[i].overlay);
        free(disks[i].final);
        free(disks[i].final_format);
    }
    machine_free(machine);
    return test_end();
}

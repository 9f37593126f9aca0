// SPDX-License-Identifier: Apache-2.0
// OVAs made by tar itself in each of its formats: the disk must be found where its bytes
// lie; and packages that are not what they claim.
#include "machine_test.h"

#include <fcntl.h>

static const char ovf[] =
    "<Envelope><References><File id='f1' href='disk with a name that is longer than the "
    "hundred characters which fit into the header of a member of a tar file.vmdk'/>"
    "<File id='f2' href='b.vmdk'/></References><DiskSection>"
    "<Disk diskId='d1' fileRef='f1'/><Disk diskId='d2' fileRef='f2'/></DiskSection>"
    "<VirtualSystem id='packed'><VirtualHardwareSection>"
    "<Item><HostResource>ovf:/disk/d1</HostResource><ResourceType>17</ResourceType></"
    "Item>"
    "<Item><HostResource>ovf:/disk/d2</HostResource><ResourceType>17</ResourceType></"
    "Item>"
    "</VirtualHardwareSection></VirtualSystem></Envelope>";
#define LONG                                                                          \
    "disk with a name that is longer than the hundred characters which fit into the " \
    "header of a member of a tar file.vmdk"

static const char small_ovf[] =
    "<Envelope><References><File id='f2' href='b.vmdk'/></References><VirtualSystem "
    "id='s'><VirtualHardwareSection><Item><HostResource>ovf:/file/f2</HostResource>"
    "<ResourceType>17</ResourceType></Item></VirtualHardwareSection></VirtualSystem>"
    "</Envelope>";

// Runs tar -C FOLDER with these words.
static void tar(const char *const *words)
{
    struct err e;
    VEC(char *) argv = {0};
    vec_push(&argv, (char *)"tar");
    vec_push(&argv, (char *)"-C");
    vec_push(&argv, test_dir);
    for (; *words; words++)
        vec_push(&argv, (char *)*words);
    vec_push(&argv, NULL);
    int r = proc_run(argv.v, NULL, &e);
    vec_done(&argv);
    if (r < 0)
        test_die(&e);
}
#define TAR(...) tar((const char *const[]){__VA_ARGS__, NULL})

static struct machine *read_ova(const char *name, struct err *e)
{
    AUTO(str_free) char *path = at(name);
    struct machine *m = NULL;
    *e = (struct err){0};
    return machine_read(&(struct machine_options){.path = path}, &m, e) < 0 ? NULL : m;
}

static void ova_refused(const char *name, const char *part, const char *what)
{
    struct err e;
    struct machine *m = read_ova(name, &e);
    if (!ok(!m && e.code == ERR_REFUSED && strstr(e.text, part), "%s", what))
        printf("# code %d: %s\n", (int)e.code, m ? "was read" : e.text);
    machine_free(m);
}

// Do the bytes at the disk's place begin with `text`, and are there so many of them?
static bool lies_there(const struct machine_disk *d, const char *text, uint64_t len)
{
    char got[64] = "";
    AUTO(fd_close) int fd = open(d->path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && d->part_len == len &&
           fd_pread(fd, got, strlen(text), d->part_off) == 0 && strcmp(got, text) == 0;
}

static void test_format(const char *format)
{
    struct err e;
    AUTO(str_free) char *file = at("vm.ova");
    AUTO(str_free) char *option = xasprintf("--format=%s", format);
    TAR("-cf", file, option, "vm.ovf", "b.vmdk", LONG);
    struct machine *m = read_ova("vm.ova", &e);
    if (!ok(m && m->n_disks == 2, "%s: an OVA with two disks", format)) {
        printf("# %s\n", e.text);
        return;
    }
    is_str(m->name, "packed", "named by its description");
    is_str(disk_name(m, 0), "vm.ova", "its disks lie in it");
    ok(lies_there(&m->disks[0], "the first disk", 14), "%s: the first one's bytes",
       format);
    ok(lies_there(&m->disks[1], "the second disk", 70000), "%s: the other's", format);
    machine_free(m);
}

static void test_names(void)
{
    AUTO(str_free) char *file = at("bad.ova");
    TAR("-cPf", file, "vm.ovf", "--transform=s,b.vmdk,../b.vmdk,", "b.vmdk");
    ova_refused("bad.ova", "leaves the folder", "a member with ../");
    TAR("-cPf", file, "vm.ovf", "--transform=s,b.vmdk,x/../../b.vmdk,", "b.vmdk");
    ova_refused("bad.ova", "leaves the folder", "a member with ../ within");
    TAR("-cPf", file, "vm.ovf", "--transform=s,b.vmdk,/tmp/b.vmdk,", "b.vmdk");
    ova_refused("bad.ova", "leaves the folder", "an absolute member");
    TAR("-cf", file, "small.ovf", "b.vmdk");
    TAR("-rf", file, "b.vmdk");
    ova_refused("bad.ova", "two members", "two members of one name");
    TAR("-cf", file, "small.ovf", "vm.ovf");
    ova_refused("bad.ova", "two descriptions", "two descriptions");
    TAR("-cf", file, "b.vmdk");
    ova_refused("bad.ova", "no .ovf", "no description");
    TAR("-cf", file, "small.ovf");
    ova_refused("bad.ova", "not in it", "a disk that is not in it");
    TAR("-cf", file, "--transform=s,^,./,", "small.ovf", "b.vmdk");
    struct err e;
    struct machine *m = read_ova("bad.ova", &e);
    ok(m != NULL, "members that begin with ./ are fine");
    machine_free(m);
}

static void test_kinds(void)
{
    AUTO(str_free) char *file = at("bad.ova");
    AUTO(str_free) char *link = at("l/b.vmdk");
    AUTO(str_free) char *hard = at("h/b.vmdk");
    AUTO(str_free) char *disk = at("b.vmdk");
    put_text("l/x", "");
    put_text("h/x", "");
    if (symlink("/etc/passwd", link) < 0)
        exit(1);
    TAR("-cf", file, "small.ovf", "--transform=s,l/,,S", "l/b.vmdk");
    ova_refused("bad.ova", "link", "a symbolic link as disk");
    unlink(hard);
    AUTO(str_free) char *first = at("h/a.vmdk");
    unlink(first);
    put_text("h/a.vmdk", "x");
    if (linkat(AT_FDCWD, first, AT_FDCWD, hard, 0) < 0)
        exit(1);
    TAR("-cf", file, "small.ovf", "--transform=s,h/,,", "h/a.vmdk", "h/b.vmdk");
    ova_refused("bad.ova", "link", "a hard link as disk");
    AUTO(str_free) char *sparse = at("s/b.vmdk");
    put_text("s/b.vmdk", "x");
    if (truncate(sparse, 10 << 20) < 0)
        exit(1);
    TAR("-cSf", file, "small.ovf", "--transform=s,s/,,", "s/b.vmdk");
    ova_refused("bad.ova", "sparse", "a sparse member");
    TAR("-czf", file, "small.ovf", "b.vmdk");
    ova_refused("bad.ova", "compressed", "a compressed OVA");
}

static void test_damage(void)
{
    AUTO(str_free) char *file = at("bad.ova");
    TAR("-cf", file, "small.ovf", "b.vmdk");
    if (truncate(file, 20000) < 0)
        exit(1);
    ova_refused("bad.ova", "truncated", "an OVA cut in the disk");
    if (truncate(file, 700) < 0)
        exit(1);
    ova_refused("bad.ova", "truncated", "an OVA cut in the description");
    put_text("bad.ova", "no tar at all, only a line of text");
    ova_refused("bad.ova", "tar", "no tar");
    put_text("bad.ova", "");
    ova_refused("bad.ova", "no tar", "an empty file");
    TAR("-cf", file, "small.ovf", "b.vmdk");
    AUTO(fd_close) int fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd_pwrite(fd, "9", 1, 1024 + 150) < 0) // inside the second header's checksum
        exit(1);
    ova_refused("bad.ova", "damaged", "a header whose sum is wrong");
}

static void test_manifest(void)
{
    struct err e;
    AUTO(str_free) char *file = at("mf.ova");
    put_text("small.mf", "SHA1(small.ovf)= 0000\n");
    TAR("-cf", file, "small.ovf", "small.mf", "b.vmdk");
    ova_refused("mf.ova", "manifest", "a manifest that does not agree");
    AUTO(str_free) char *path = at("small.ovf");
    char *argv[] = {"sha1sum", path, NULL};
    AUTO(buf_done) struct buf sum = BUF_INIT(8 * KIB);
    if (proc_run(argv, &sum, &e) < 0)
        test_die(&e);
    AUTO(str_free) char *manifest = xasprintf("SHA1(small.ovf)= %.40s\n", sum.data);
    put_text("small.mf", manifest);
    TAR("-cf", file, "small.ovf", "small.mf", "b.vmdk");
    struct machine *m = read_ova("mf.ova", &e);
    ok(m != NULL, "a manifest that agrees");
    machine_free(m);
}

int main(void)
{
    test_start();
    put_text("vm.ovf", ovf);
    put_text("small.ovf", small_ovf);
    put_text(LONG, "the first disk");
    AUTO(buf_done) struct buf b = BUF_INIT(MIB);
    buf_str(&b, "the second disk");
    while (b.len < 70000)
        buf_add(&b, "x", 1);
    put("b.vmdk", b.data, b.len);
    test_format("pax");
    test_format("gnu");
    test_names();
    test_kinds();
    test_damage();
    test_manifest();
    return test_end();
}

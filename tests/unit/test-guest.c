// SPDX-License-Identifier: Apache-2.0
// guest/: names of devices, files below a root, images of an initramfs and the drivers of
// a kernel, without any guest program.
#include <sys/stat.h>
#include <unistd.h>

#include "guest/device.h"
#include "guest/guest.h"
#include "guest/initramfs.h"
#include "guest/mdadm.h"
#include "tap.h"

static struct err e;
static char *root;
static struct tree *tree;

static void put(const char *path, const char *text)
{
    AUTO(str_free) char *full = path_join(root, path);
    AUTO(str_free) char *dir = path_dir(full);
    if (dir_make(dir, 0755, &e) || file_write(full, text, strlen(text), 0640, &e))
        abort();
}

// --- names of devices

static void add_device(struct guest *g, unsigned disk, unsigned part, const char *uuid,
                       const char *part_uuid)
{
    struct guest_device d = {.disk = disk,
                             .partition = part,
                             .uuid = uuid ? xstrdup(uuid) : NULL,
                             .part_uuid = part_uuid ? xstrdup(part_uuid) : NULL};
    vec_push(&g->devices, d);
}

static const struct {
    const char *name, *stable;
} names[] = {
    {"/dev/sda1", "UUID=a1"},
    {"/dev/hda1", "UUID=a1"},
    {"/dev/xvda1", "UUID=a1"},
    {"/dev/vda1", "UUID=a1"},
    {"/dev/nvme0n1p1", "UUID=a1"},
    {"/dev/mmcblk0p1", "UUID=a1"},
    {"/dev/cciss/c0d0p1", "UUID=a1"},
    {"/dev/sdb", "UUID=b"},
    {"/dev/nvme0n2", "UUID=b"}, // VMware's: a namespace a disk
    {"/dev/nvme0n28p12", "UUID=ab12"},
    {"/dev/nvme1n2", NULL},
    {"/dev/nvme1n1", "UUID=b"},
    {"/dev/sdab12", "UUID=ab12"},
    {"/dev/sda2", "PARTUUID=p2"}, // its UUID is another device's too
    {"/dev/sda3", NULL},          // nothing is known of it
    {"/dev/sda4", NULL},          // not there
    {"/dev/sda0", NULL},
    {"/dev/sda1x", NULL},
    {"/dev/sd1", NULL},
    {"/dev/sr0", NULL},
    {"/dev/nvme0p1", NULL},
    {"/dev/mapper/vg-root", NULL},
    {"/dev/vg/root", NULL},
    {"/dev/disk/by-uuid/a1", NULL},
    {"/dev/disk/by-path/pci-0000:00:10.0-part1", NULL}, // of two disks: which?
    {"UUID=a1", NULL},
    {"sda1", NULL},
    {"", NULL},
};

static void test_names(void)
{
    AUTO(guest_done) struct guest g = {0};
    add_device(&g, 0, 1, "a1", "p1");
    add_device(&g, 0, 2, "twice", "p2");
    add_device(&g, 0, 3, NULL, NULL);
    add_device(&g, 1, 0, "b", NULL);
    add_device(&g, 1, 1, "twice", NULL);
    add_device(&g, 27, 12, "ab12", NULL);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        AUTO(str_free) char *got = guest_stable_name(&g, names[i].name);
        is_str(got, names[i].stable, names[i].name);
    }
    AUTO(guest_done) struct guest one = {0};
    add_device(&one, 0, 1, "a1", NULL);
    AUTO(str_free)
    char *by_path =
        guest_stable_name(&one, "/dev/disk/by-path/pci-0000:00:10.0-scsi-0:0:0:0-part1");
    is_str(by_path, "UUID=a1", "a name by path, of the only disk");
    AUTO(str_free) char *lvm = guest_stable_name(&one, "/dev/disk/by-id/dm-name-vg-root");
    is_str(lvm, NULL, "a name by id of LVM holds everywhere");
}

// --- names of arrays

// Arrays in the order in which the appliance started them, whatever the guest calls them.
static const struct {
    const char *node, *line;
    unsigned partition;
} arrays[] = {
    {"/dev/md0", "ARRAY /dev/md/home  metadata=1.2 UUID=aa:01 name=crm:home\n", 0},
    {"/dev/md1", "ARRAY /dev/md/0  metadata=1.2 UUID=aa:02 name=crm:0\n", 0},
    {"/dev/md1p2", "ARRAY /dev/md/0  metadata=1.2 UUID=aa:02 name=crm:0\n", 2},
    {"/dev/md2", "ARRAY /dev/md7 UUID=aa:03\n", 0},
    {"/dev/md3", "ARRAY /dev/md/9  metadata=1.2 UUID=aa:04 name=crm:9\n", 0},
};
static const struct {
    const char *name, *node;
} array_names[] = {
    {"/dev/md0", "/dev/md1"},
    {"/dev/md/0", "/dev/md1"},
    {"/dev/md0p2", "/dev/md1p2"},
    {"/dev/md/0p2", "/dev/md1p2"},
    {"/dev/md0p3", NULL},
    {"/dev/md0p", NULL},
    {"/dev/md02", NULL},
    {"/dev/md/home", "/dev/md0"},
    {"/dev/md_home", "/dev/md0"},
    {"/dev/md/home1", NULL},
    {"/dev/md7", "/dev/md2"},
    {"/dev/md4", "/dev/md2"}, // as mdadm.conf says, by UUID
    {"/dev/md5", "/dev/md0"}, // by name, in a line that goes on
    {"/dev/md9", NULL},       // an array of that name is here, mdadm.conf means another
    {"/dev/md127", NULL},     // of several
    {"/dev/md", NULL},
    {"/dev/sda1", NULL},
    {"/dev/disk/by-id/md-uuid-aa:02", "/dev/md1"},
    {"/dev/disk/by-id/md-uuid-AA02-part2", "/dev/md1p2"},
    {"/dev/disk/by-id/md-name-crm:home", "/dev/md0"},
    {"/dev/disk/by-id/md-name-", NULL},
    {"/dev/disk/by-id/ata-disk", NULL},
};

static void add_array(struct guest *g, size_t i)
{
    struct guest_device d = {.node = xstrdup(arrays[i].node),
                             .partition = arrays[i].partition,
                             .mapper = true,
                             .array = xstrdup(arrays[i].line)};
    vec_push(&g->devices, d);
}

static void test_arrays(void)
{
    AUTO(guest_done) struct guest g = {.tree = tree}, one = {.tree = tree};
    for (size_t i = 0; i < ARRAY_LEN(arrays); i++)
        add_array(&g, i);
    put("etc/mdadm/mdadm.conf", "# ARRAY /dev/md0 UUID=aa03\n"
                                "ARRAY <ignore> UUID=aa01\n"
                                "array /dev/md4 uuid=AA:03\n"
                                "ARRAY /dev/md5\n  name=crm:home # UUID=aa02\n"
                                "ARRAY /dev/md/9 UUID=ff:ff\n"
                                "ARRAY");
    for (size_t i = 0; i < ARRAY_LEN(array_names); i++) {
        const struct guest_device *d = mdadm_device(&g, array_names[i].name);
        is_str(d ? d->node : NULL, array_names[i].node, array_names[i].name);
    }
    add_array(&one, 1);
    const struct guest_device *d = mdadm_device(&one, "/dev/md127");
    ok(d && d == one.devices.v, "a number that mdadm chose, with one array");
    g.tree = one.tree = NULL;
}

// --- files below a root

static void test_write(void)
{
    put("etc/real", "old");
    AUTO(str_free) char *link = path_join(root, "etc/link");
    AUTO(str_free) char *real = path_join(root, "etc/real");
    ok(symlink("/etc/real", link) == 0 && chmod(real, 0604) == 0, "prepared");
    ok(tree_write(tree, "/etc/link", "new", 3, &e) == 0, "write through a link");
    AUTO(buf_done) struct buf text = BUF_INIT(10);
    ok(tree_read(tree, "/etc/real", &text, &e) == 0, "read it");
    is_str(text.data, "new", "the link's target has the text");
    struct stat st;
    ok(lstat(link, &st) == 0 && S_ISLNK(st.st_mode), "the link is still one");
    ok(stat(real, &st) == 0 && (st.st_mode & 07777) == 0604, "the mode is kept");
    AUTO(buf_done) struct buf small = BUF_INIT(2);
    ok(tree_read(tree, "/etc/real", &small, &e) && e.code == ERR_REFUSED,
       "a file over the ceiling is refused");
    ok(tree_write(tree, "/etc", "x", 1, &e) && e.code == ERR_REFUSED,
       "a folder is not replaced by a file");
    ok(tree_write(tree, "/no/such/folder", "x", 1, &e), "no folder, no file");
    ok(tree_write(tree, "/etc/..", "x", 1, &e) && e.code == ERR_REFUSED,
       "'..' is no file's name");
}

static void test_folders(void)
{
    ok(tree_mkdir(tree, "/a/b/c", &e) == 0 && tree_mkdir(tree, "/a/b/c/", &e) == 0,
       "folders with parents, twice");
    ok(tree_link(tree, "b", "/a/l", &e) == 0 && tree_exists(tree, "/a/l/c"), "a link");
    ok(tree_link(tree, "..", "/a/l", &e) == 0 && tree_exists(tree, "/a/l/a"),
       "replaced by another");
    ok(tree_link(tree, "b", "/a/b", &e) && e.code == ERR_REFUSED,
       "a folder is not replaced by a link");
    ok(tree_mkdir(tree, "/../../../x/y", &e) == 0 && tree_exists(tree, "/x/y"),
       "the root's parent is the root");
    AUTO(strings_done) struct strings list = {0};
    ok(tree_list(tree, "/a", &list, &e) == 0 && list.n == 2 &&
           strcmp(list.v[0], "b") == 0,
       "a list, sorted");
    ok(tree_list(tree, "/none", &list, &e) == 0 && list.n == 2, "of a missing folder");
    put("a/file", "");
    ok(tree_remove(tree, "/a/file", &e) == 0 && tree_remove(tree, "/a/file", &e) == 0,
       "removed, twice");
    ok(tree_remove(tree, "/a/b", &e), "a folder is not removed");
}

static void test_unfinished(void)
{
    struct tree_new *new;
    int fd;
    put("boot/image", "old");
    ok(tree_replace(tree, "/boot/image", &new, &fd, &e) == 0 && fd_write(fd, "x", 1) == 0,
       "begun");
    tree_replace_end(new);
    AUTO(buf_done) struct buf text = BUF_INIT(10);
    AUTO(strings_done) struct strings list = {0};
    ok(tree_read(tree, "/boot/image", &text, &e) == 0 && strcmp(text.data, "old") == 0 &&
           tree_list(tree, "/boot", &list, &e) == 0 && list.n == 1,
       "given up: the old file, and nothing else");
    put("boot/.godwit-new.image", "left by one that was killed");
    ok(tree_write(tree, "/boot/image", "new", 3, &e) == 0, "begun anew after a kill");
    AUTO(strings_done) struct strings after = {0};
    ok(tree_list(tree, "/boot", &after, &e) == 0 && after.n == 1, "nothing is left over");
}

// --- images

static void make_archive(struct buf *b)
{
    cpio_write(b, "usr", S_IFDIR | 0755, "", 0);
    cpio_write(b, "lib", S_IFLNK | 0777, "usr/lib", 7);
    cpio_write(b, "usr/lib", S_IFDIR | 0755, "", 0);
    cpio_write(b, "loop", S_IFLNK | 0777, "loop", 4);
    cpio_write(b, "up", S_IFLNK | 0777, "../../etc/./x", 13);
    cpio_write(b, "./conf/modules", S_IFREG | 0644, "ahci\n", 5);
    cpio_write_end(b);
}

static void test_contents(void)
{
    AUTO(buf_done) struct buf b = BUF_INIT(MIB);
    static const char zeros[512];
    make_archive(&b);
    buf_add(&b, zeros, 512 - b.len % 512);
    size_t second = b.len;
    cpio_write(&b, "conf/modules", S_IFREG | 0644, "virtio\n", 7);
    cpio_write_end(&b);
    AUTO(source_done) struct source s = {0};
    AUTO(contents_done) struct contents c = {0};
    struct segments segs;
    source_memory(b.data, b.len, &s);
    ok(contents_read(&s, &c, &segs, &e) == 0, "two archives and zeros between");
    is_u64(segs.n, 2, "two segments");
    is_u64(segs.v[1].off, second, "where the second begins");
    const struct content *m = contents_find(&c, "conf/modules");
    is_str(m ? m->text : NULL, "virtio\n", "the later file counts");
    AUTO(str_free) char *lib = contents_resolve(&c, "lib/modules/6.1");
    is_str(lib, "usr/lib/modules/6.1", "the archive's link is followed");
    AUTO(str_free) char *up = contents_resolve(&c, "up/y");
    is_str(up, "etc/x/y", "a link cannot leave the root");
    AUTO(str_free) char *loop = contents_resolve(&c, "loop/y");
    ok(loop != NULL, "a link to itself ends");
}

static bool reads(const void *data, size_t len, const char *why)
{
    AUTO(source_done) struct source s = {0};
    AUTO(contents_done) struct contents c = {0};
    source_memory(data, len, &s);
    e = (struct err){0};
    if (contents_read(&s, &c, NULL, &e) == 0)
        return true;
    return !strstr(e.text, why);
}

static void test_broken_archives(void)
{
    AUTO(buf_done) struct buf b = BUF_INIT(MIB);
    make_archive(&b);
    bool every = true;
    for (size_t n = 1; n < b.len - 3; n++)
        if (reads(b.data, n, "") && n % 4)
            every = false;
    ok(every, "cut anywhere, an archive is refused");
    b.data[b.len / 2 / 4 * 4] ^= 0x40;
    (void)reads(b.data, b.len, ""); // any outcome, but within bounds
    AUTO(buf_done) struct buf long_name = BUF_INIT(MIB);
    AUTO(str_free) char *name = xmalloc(5001);
    memset(name, 'x', 5000);
    name[5000] = 0;
    cpio_write(&long_name, name, S_IFREG, "", 0);
    ok(!reads(long_name.data, long_name.len, "name of"), "a name of 5000 bytes");
    ok(!reads("07070X", 6, "ends early"), "a broken magic number");
    ok(!reads("hello, world", 12, "unknown compression"), "no format at all");
    ok(!reads("\x1f\x8b", 2, "ends early"), "gzip cut after its magic number");
    ok(!reads("\x02\x21\x4c\x18\xff\xff\xff\x7f", 8, "broken lz4"),
       "an lz4 block of 2 GiB");
}

// --- drivers

static void test_modules(void)
{
    put("lib/modules/6.1/modules.dep",
        "kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio-ring.ko.xz "
        "kernel/drivers/virtio/virtio.ko.xz\n"
        "kernel/drivers/virtio/virtio-ring.ko.xz:\n"
        "kernel/drivers/virtio/virtio.ko.xz:\n"
        "kernel/fs/ext4.ko: kernel/lib/gone.ko\n"
        "kernel/crypto/crc32c_intel.ko:\n"
        "../../../evil.ko:\n/etc/evil2.ko:\nno colon\n");
    put("lib/modules/6.1/modules.builtin", "kernel/drivers/scsi/virtio-scsi.ko\n");
    put("lib/modules/6.1/modules.softdep",
        "# comment\nsoftdep ext4 pre: crc32c-intel nothere\n");
    AUTO(modules_close) struct modules *m = NULL;
    if (!ok(modules_open(tree, "6.1", &m, &e) == 0, "opened"))
        return;
    AUTO(strings_done) struct strings paths = {0};
    ok(modules_closure(m, "virtio-blk", &paths, &e) == 0 && paths.n == 3,
       "a driver and what it needs");
    ok(modules_closure(m, "virtio_ring", &paths, &e) == 0 && paths.n == 3, "none twice");
    ok(modules_closure(m, "virtio_scsi", &paths, &e) == 0 && paths.n == 3,
       "built in: needs nothing");
    ok(modules_closure(m, "ext4", &paths, &e) == 0 && paths.n == 5 &&
           strings_have(&paths, "kernel/crypto/crc32c_intel.ko"),
       "a soft dependency that is there comes along");
    ok(modules_closure(m, "vmw_pvscsi", &paths, &e) && e.code == ERR_REFUSED &&
           strstr(e.text, "kernel 6.1") && strstr(e.text, "vmw_pvscsi"),
       "a driver that is not there is refused by name");
    ok(!modules_path(m, "evil") && !modules_path(m, "evil2"),
       "paths that leave the kernel's folder are not taken");
    AUTO(modules_close) struct modules *none = NULL;
    ok(modules_open(tree, "5.0", &none, &e) && strstr(e.text, "modules.dep"),
       "a kernel without modules.dep");
    struct depmod *d;
    ok(depmod_new("../x", &d, &e) && e.code == ERR_REFUSED, "a version that is a path");
}

int main(void)
{
    if (dir_temp(&root, &e) || tree_open(root, &tree, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    test_names();
    test_arrays();
    test_write();
    test_folders();
    test_unfinished();
    test_contents();
    test_broken_archives();
    test_modules();
    tree_close(tree);
    if (dir_remove(root, &e))
        fprintf(stderr, "%s\n", e.text);
    free(root);
    return done_testing();
}

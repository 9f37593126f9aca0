// SPDX-License-Identifier: Apache-2.0
// this exercises: images that are truncated, corrupt, encrypted, in use, absurd or that
// name files which are not theirs: each is refused by one line, and never read wrongly
#include "disk/disk.h"
#include "scratch.h"

#include <errno.h>
#include <sys/stat.h>

#define SIZE (4 * MIB)
#define SEED 77

// 1: all of it reads as the pattern, 0: it reads otherwise, -1: refused or failed.
static int read_all(const struct image_options *o, struct err *e)
{
    static uint8_t got[256 * 1024], want[256 * 1024];
    AUTO(disk_close) struct disk *d = NULL;
    if (image_open(o, &d, e) < 0)
        return -1;
    for (uint64_t off = 0; off < d->size; off += sizeof(got)) {
        size_t len = min_u64(sizeof(got), d->size - off);
        size_t inside = off < SIZE ? min_u64(len, SIZE - off) : 0;
        memset(want, 0, len);
        pattern(want, inside, off, SEED);
        if (disk_read(d, got, len, off, e) < 0)
            return -1;
        if (memcmp(got, want, len) != 0)
            return 0;
    }
    return d->size >= SIZE;
}

static void refused(const struct image_options *o, const char *word, const char *title)
{
    struct err e = {0};
    struct disk *d = NULL;
    int result = image_open(o, &d, &e);
    disk_close(d);
    bool right = result < 0 && e.code == ERR_REFUSED && strstr(e.text, word) != NULL &&
                 strchr(e.text, '\n') == NULL;
    if (!right)
        printf("# wanted \"%s\", code %d: %s\n", word, (int)e.code,
               result < 0 ? e.text : "(opened)");
    ok(right, "%s is refused: %s", title, result < 0 ? e.text : "");
}
static void refused_path(const char *name, const char *word, const char *title)
{
    struct image_options o = {.path = in("%s", name)};
    refused(&o, word, title);
}

static const struct bad_case {
    const char *name, *format, *options, *file, *cut; // cut: the file that is cut short
} cases[] = {
    {"qcow2", "qcow2", "", "t.qcow2", "t.qcow2"},
    {"compressed qcow2", "qcow2", "-c", "t.qcow2", "t.qcow2"},
    {"qcow2 with a data file", "qcow2", "-o data_file=t.data", "t.qcow2", "t.qcow2"},
    {"sparse vmdk", "vmdk", "", "t.vmdk", "t.vmdk"},
    {"flat vmdk", "vmdk", "-o subformat=monolithicFlat", "t.vmdk", "t-flat.vmdk"},
    {"flat vmdk's descriptor", "vmdk", "-o subformat=monolithicFlat", "t.vmdk", "t.vmdk"},
    {"streamOptimized vmdk", "vmdk", "-o subformat=streamOptimized", "t.vmdk", "t.vmdk"},
    {"split vmdk", "vmdk", "-o subformat=twoGbMaxExtentSparse", "t.vmdk", "t-s001.vmdk"},
    {"dynamic vhd", "vpc", "-o force_size=on", "t.vhd", "t.vhd"},
    {"fixed vhd", "vpc", "-o subformat=fixed,force_size=on", "t.vhd", "t.vhd"},
    {"vhdx", "vhdx", "", "t.vhdx", "t.vhdx"},
    {"vdi", "vdi", "", "t.vdi", "t.vdi"},
    {"qed", "qed", "", "t.qed", "t.qed"},
};

static void test_truncated(const struct bad_case *c)
{
    // What is left, in thousandths of the file.
    static const unsigned kept[] = {990, 700, 300, 20, 1};
    struct err e = {0};
    struct stat st;
    struct image_options o = {.path = in("%s", c->file)};
    sh("mkdir whole && cd whole && qemu-img convert -f raw -O %s %s ../source %s",
       c->format, c->options, c->file);
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        sh("rm -f t.* t-*; cp whole/* .");
        if (i == 0)
            ok(read_all(&o, &e) == 1, "%s is read whole before %s", c->name, e.text);
        const char *path = in("%s", c->cut);
        if (stat(path, &st) < 0 ||
            truncate(path, (off_t)((uint64_t)st.st_size * kept[i] / 1000)) < 0)
            printf("# %s: %s\n", path, strerror(errno));
        // The last hundredth may hold nothing that is needed; wrong data is always wrong.
        int result = read_all(&o, &e);
        bool descriptor = strstr(c->name, "descriptor") != NULL;
        ok(result < 0 || (result == 1 && (i == 0 || descriptor)), "%s cut to %u/1000: %s",
           c->name, kept[i],
           result < 0    ? e.text
           : result == 1 ? "read right"
                         : "read wrong");
    }
    sh("rm -r whole");
}

// Seeded damage to the tables of a qcow2: an error, or the right data, never wrong data.
static void test_qcow2_tables(void)
{
    struct err e = {0};
    struct image_options o = {.path = in("t.qcow2")};
    uint8_t header[64], entry[8];
    unsigned state = 4711, n_refused = 0, n_right = 0, n_wrong = 0;
    sh("qemu-img convert -f raw -O qcow2 -o cluster_size=4096 source whole.qcow2");
    for (int i = 0; i < 40; i++) {
        sh("cp whole.qcow2 t.qcow2");
        int fd = open(o.path, O_RDWR | O_CLOEXEC);
        (void)fd_pread(fd, header, sizeof(header), 0);
        uint64_t l1 = get_be64(header + 40);
        (void)fd_pread(fd, entry, sizeof(entry), l1);
        uint64_t l2 = get_be64(entry) & UINT64_C(0x00fffffffffffe00);
        uint64_t tables[] = {l1, l2, get_be64(header + 48)};
        uint64_t at =
            tables[i % 3] + 8 * (i % 3 == 1 ? (uint64_t)rand_r(&state) % 512 : 0);
        // Not bit 0: in an L2 entry it says "zeros", and nothing contradicts it.
        unsigned bit = 1 + (unsigned)rand_r(&state) % 63;
        uint64_t place = at + 7 - bit / 8;
        (void)fd_pread(fd, entry, 1, place);
        entry[0] ^= (uint8_t)(1 << bit % 8);
        (void)fd_pwrite(fd, entry, 1, place);
        close(fd);
        int result = read_all(&o, &e);
        n_refused += result < 0;
        n_right += result == 1;
        n_wrong += result == 0;
        if (result == 0)
            printf("# bit %u of the entry at %llu\n", bit, (unsigned long long)at);
    }
    ok(n_wrong == 0, "damaged qcow2 tables: %u refused, %u read right, %u read wrong",
       n_refused, n_right, n_wrong);
    ok(n_refused >= 20, "and most are noticed");
}

// Any byte of the first sectors of any format: no crash, no hang.
static void test_headers(void)
{
    struct err e = {0};
    unsigned state = 99, n = 0;
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        sh("rm -f t.* t-*; qemu-img convert -f raw -O %s %s source %s", cases[c].format,
           cases[c].options, cases[c].file);
        struct image_options o = {.path = in("%s", cases[c].file)};
        for (int i = 0; i < 6; i++) {
            uint8_t old, new;
            int fd = open(in("%s", cases[c].file), O_RDWR | O_CLOEXEC);
            uint64_t at = (uint64_t)rand_r(&state) % 512;
            if (fd_pread(fd, &old, 1, at) < 0)
                old = 0;
            new = old ^ (uint8_t)(1 + rand_r(&state) % 255);
            (void)fd_pwrite(fd, &new, 1, at);
            close(fd);
            struct disk *d = NULL;
            (void)(image_open(&o, &d, &e) < 0 || read_all(&o, &e));
            disk_close(d);
            fd = open(in("%s", cases[c].file), O_RDWR | O_CLOEXEC);
            (void)fd_pwrite(fd, &old, 1, at);
            close(fd);
            n++;
        }
    }
    ok(true, "%u damaged headers were survived", n);
}

static void test_backing(void)
{
    struct err e = {0};
    struct disk *d = NULL;
    sh("mkdir -p a b; cp source b/base; qemu-img create -q -f raw a/near 4M;"
       "qemu-img create -q -f qcow2 -b ../b/base -F raw a/out.qcow2;"
       "qemu-img create -q -f qcow2 -b '%s/b/base' -F raw a/absolute.qcow2;"
       "ln -s ../b/base a/link; qemu-img create -q -f qcow2 -b link -F raw a/link.qcow2;"
       "qemu-img create -q -f qcow2 -b near -F raw a/gone.qcow2; rm a/near;"
       "qemu-img create -q -f qcow2 -u -b nbd:unix:/x -F raw a/nbd.qcow2 4M;"
       "qemu-img create -q -f qcow2 -u -b 'json:{\"driver\":\"null-co\"}' -F raw "
       "a/json.qcow2 "
       "4M;"
       "qemu-img create -q -f qcow2 -u -b self.qcow2 -F qcow2 a/self.qcow2 4M;"
       "qemu-img create -q -f qcow2 -u -b /dev/null -F raw a/dev.qcow2 4M",
       scratch);
    refused_path("a/out.qcow2", "outside", "a backing file outside of the folder");
    refused_path("a/absolute.qcow2", "outside", "an absolute one");
    refused_path("a/link.qcow2", "outside", "one behind a link");
    refused_path("a/gone.qcow2", "near", "a missing one");
    refused_path("a/nbd.qcow2", "no file", "one on the network");
    refused_path("a/json.qcow2", "no file", "one in QEMU's own words");
    refused_path("a/self.qcow2", "its own", "an image that is its own backing file");
    refused_path("a/dev.qcow2", "outside", "a device as backing file");
    struct image_options o = {.path = in("a/out.qcow2"), .allow_any_path = true};
    ok(read_all(&o, &e) == 1, "--allow-path lets the first pass %s", e.text);
    o = (struct image_options){.path = in("a/out.qcow2"), .allowed_dir = scratch};
    ok(image_open(&o, &d, &e) == 0, "so does a wider folder %s", e.text);
    disk_close(d);
}

static void test_named_files(void)
{
    static const struct {
        const char *line, *word;
    } lines[] = {
        {"RW 8 FLAT \"/etc/passwd\" 0", "outside"},
        {"RW 8 FLAT \"../secret\" 0", "outside"},
        {"RW 8 FLAT \"nbd://127.0.0.1/x\" 0", "no file"},
        {"RW 8 FLAT \"json:{}\" 0", "no file"},
        {"RW 8 FLAT \"none-flat.vmdk\" 0", "none-flat"},
        {"RW 999999 FLAT \"source\" 0", "truncated"},
        {"RW\n8 FLAT \"/etc/passwd\" 0", "corrupt"},
        {"\fRW 8 FLAT \"/etc/passwd\" 0", "outside"},
        {"RW -8 FLAT \"source\" 0", "corrupt"},
        {"RW 99999999999999999999 FLAT \"source\" 0", "corrupt"},
        {"RW 8 VMFSRAW \"source\"", "not supported"},
        {"", "without extents"},
    };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        FILE *f = fopen(in("d.vmdk"), "we");
        fprintf(f,
                "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
                "createType=\"monolithicFlat\"\n%s\n",
                lines[i].line);
        fclose(f);
        refused_path("d.vmdk", lines[i].word, "a VMDK descriptor");
    }
    sh("qemu-img convert -f raw -O qcow2 -o data_file=n.data source n.qcow2;"
       "mkdir -p c; mv n.qcow2 c/");
    refused_path("c/n.qcow2", "n.data", "a qcow2 whose data file is elsewhere");
    sh("mv n.data c/; sed -i 's|n\\.data|b:data|' c/n.qcow2");
    refused_path("c/n.qcow2", "no file", "a qcow2 whose data file is no file");
}

static void test_absurd(void)
{
    uint8_t huge[8] = {0x3f, 0xff, 0, 0, 0, 0, 0, 0};
    sh("qemu-img create -q -f qcow2 huge.qcow2 1M; qemu-img create -q -f qcow2 -o "
       "cluster_size=2M large.qcow2 2000T; : > empty; echo x > empty.vmdk");
    int fd = open(in("huge.qcow2"), O_RDWR | O_CLOEXEC);
    (void)fd_pwrite(fd, huge, 8, 24);
    close(fd);
    refused_path("huge.qcow2", "huge.qcow2", "a qcow2 of 4 EiB");
    refused_path("large.qcow2", "says that its disk has", "a qcow2 of 2 PiB");
    refused_path("empty", "empty", "an empty file");
    refused_path(".", "neither", "a folder");
    struct image_options o = {.path = in("source"), .part_off = SIZE, .part_len = 512};
    refused(&o, "truncated", "a part behind the end");
    o = (struct image_options){.path = in("source"), .format = "luks"};
    refused(&o, "LUKS", "the format luks");
    o.format = "vvfat";
    refused(&o, "not supported", "a format of another kind");
}

static void test_encrypted(void)
{
    struct image_options o = {.path = in("luks.img"), .format = "raw"};
    struct err e = {0};
    struct disk *d = NULL;
    // On a busy machine QEMU fails to measure the key derivation, so it is asked again.
    sh("again() { for i in 1 2 3 4 5; do \"$@\" && return; done; return 1; }; "
       "again qemu-img create -q --object secret,id=s,data=x -f qcow2 -o "
       "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=200 crypt.qcow2 4M;"
       "again qemu-img create -q --object secret,id=s,data=x -f luks -o "
       "key-secret=s,iter-time=200 luks.img 4M");
    refused_path("crypt.qcow2", "encrypted", "an encrypted qcow2");
    refused_path("luks.img", "LUKS", "a LUKS image");
    ok(image_open(&o, &d, &e) == 0, "as raw it is a guest's own disk %s", e.text);
    disk_close(d);
}

static void test_vhd(void)
{
    uint8_t type = 4;
    struct stat st;
    sh("rm -f t.*; qemu-img convert -f raw -O vpc -o force_size=on source t.vhd");
    int fd = open(in("t.vhd"), O_RDWR | O_CLOEXEC);
    if (fstat(fd, &st) == 0)
        (void)fd_pwrite(fd, &type, 1, (uint64_t)st.st_size - 512 + 63);
    close(fd);
    refused_path("t.vhd", "differencing", "a differencing VHD");
}

// By anybody, as the kernel lists it.
static bool is_locked(const char *name)
{
    struct stat st;
    struct err e;
    AUTO(buf_done) struct buf locks = BUF_INIT(MIB);
    if (stat(in("%s", name), &st) < 0 || file_read("/proc/locks", &locks, &e) < 0)
        return false;
    AUTO(str_free) char *word = xasprintf(":%llu ", (unsigned long long)st.st_ino);
    return locks.data != NULL && strstr(locks.data, word) != NULL;
}

static void test_in_use(void)
{
    struct err e = {0};
    AUTO(proc_end) struct proc *p = NULL;
    sh("rm -f t.*; qemu-img convert -f raw -O qcow2 source t.qcow2; cp source t.raw");
    if (proc_have("qemu-system-x86_64", "qemu-system-x86", &e) < 0) {
        skip("an image in use", e.text);
        return;
    }
    AUTO(str_free)
    char *qcow2 = xasprintf("file=%s,format=qcow2,if=virtio", in("t.qcow2"));
    AUTO(str_free) char *raw = xasprintf("file=%s,format=raw,if=virtio", in("t.raw"));
    char *argv[] = {"qemu-system-x86_64",
                    "-accel",
                    "tcg",
                    "-S",
                    "-nodefaults",
                    "-display",
                    "none",
                    "-m",
                    "64",
                    "-drive",
                    qcow2,
                    "-drive",
                    raw,
                    NULL};
    struct proc_options options = {.argv = argv, .in = -1, .out = -1, .err = -1};
    if (proc_start(&options, &p, &e) < 0) {
        ok(false, "start QEMU: %s", e.text);
        return;
    }
    // Not by opening them: QEMU would find our locks.
    for (int i = 0;
         i < 600 && proc_running(p) && !(is_locked("t.raw") && is_locked("t.qcow2")); i++)
        usleep(50000);
    usleep(500000); // it takes them one after the other
    refused_path("t.raw", "in use", "a raw image of a running guest");
    refused_path("t.qcow2", "in use", "a qcow2 of a running guest");
    proc_end(steal(p));
    struct image_options o = {.path = in("t.qcow2")};
    ok(read_all(&o, &e) == 1, "afterwards it is read %s", e.text);
}

int main(void)
{
    struct err e;
    if (proc_have("qemu-img", "qemu-utils", &e) < 0) {
        skip("bad images", e.text);
        return done_testing();
    }
    scratch_make();
    pattern_file(in("source"), SIZE, SEED, 1);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        test_truncated(&cases[i]);
    test_qcow2_tables();
    test_headers();
    test_backing();
    test_named_files();
    test_absurd();
    test_encrypted();
    test_vhd();
    test_in_use();
    return done_testing();
}

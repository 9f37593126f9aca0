// SPDX-License-Identifier: Apache-2.0
// this exercises: every image format that we read × sizes × full and sparse, filled with
// blocks that describe themselves, made by qemu-img; backing chains, internal snapshots,
// parts of a file; against the pattern and against `qemu-img convert -O raw`
#include "disk/disk.h"
#include "scratch.h"

#include <sys/stat.h>

static const struct format_case {
    const char *name, *format, *options; // of qemu-img convert
} format_cases[] = {
    {"raw", "raw", ""},
    {"qcow2", "qcow2", ""},
    {"qcow2 with 512 B clusters", "qcow2", "-o cluster_size=512"},
    {"qcow2 with 2 MiB clusters", "qcow2", "-o cluster_size=2M"},
    {"qcow2 with subclusters", "qcow2", "-o extended_l2=on,cluster_size=128k"},
    {"qcow2 of version 2", "qcow2", "-o compat=0.10"},
    {"qcow2, zlib", "qcow2", "-c"},
    {"qcow2, zstd", "qcow2", "-c -o compression_type=zstd"},
    {"qcow2 with a data file", "qcow2", "-o data_file=the.data"},
    {"qcow2 with a raw data file", "qcow2", "-o data_file=the.data,data_file_raw=on"},
    {"vmdk monolithicSparse", "vmdk", "-o subformat=monolithicSparse"},
    {"vmdk monolithicFlat", "vmdk", "-o subformat=monolithicFlat"},
    {"vmdk twoGbMaxExtentSparse", "vmdk", "-o subformat=twoGbMaxExtentSparse"},
    {"vmdk twoGbMaxExtentFlat", "vmdk", "-o subformat=twoGbMaxExtentFlat"},
    {"vmdk streamOptimized", "vmdk", "-o subformat=streamOptimized"},
    {"vhd dynamic", "vpc", "-o subformat=dynamic,force_size=on"},
    {"vhd fixed", "vpc", "-o subformat=fixed,force_size=on"},
    {"vhd with a geometry", "vpc", ""},
    {"vhdx dynamic", "vhdx", "-o subformat=dynamic"},
    {"vhdx fixed", "vhdx", "-o subformat=fixed"},
    {"vdi", "vdi", ""},
    {"vdi static", "vdi", "-o static=on"},
    {"qed", "qed", ""},
    {"qcow version 1", "qcow", ""},
    {"parallels", "parallels", ""},
};
static const uint64_t sizes[] = {4 * MIB, 3 * MIB + 5 * 512, 5 * MIB + 333};

static const char *extension(const char *format)
{
    return strcmp(format, "vpc") == 0 ? "vhd" : format; // by which a fixed one is known
}

// Is the disk the pattern up to `size`, and zeros from there on?
static bool is_pattern(struct disk *d, uint64_t size, uint64_t seed, unsigned every)
{
    static uint8_t got[300 * 1024], want[300 * 1024];
    unsigned state = 7;
    struct err e = {0};
    // In order with odd lengths, then here and there.
    for (uint64_t off = 0, step = 0; step < 60 || off < d->size; step++) {
        size_t len = min_u64(1 + (uint64_t)rand_r(&state) % sizeof(got), d->size);
        if (off >= d->size)
            off = (uint64_t)rand_r(&state) % d->size;
        len = min_u64(len, d->size - off);
        size_t inside = off < size ? min_u64(len, size - off) : 0;
        memset(want, 0, len);
        pattern_sparse(want, inside, off, seed, every);
        if (disk_read(d, got, len, off, &e) < 0 || memcmp(got, want, len) != 0) {
            printf("# %zu bytes at %llu differ %s\n", len, (unsigned long long)off,
                   e.text);
            return false;
        }
        off = step < 60 || off + len < d->size ? off + len : d->size;
    }
    return true;
}

// Extents cover all of the disk, and what is not data is zeros in the pattern.
static bool extents_hold(struct disk *d, uint64_t size, uint64_t seed, unsigned every,
                         uint64_t *ret_data)
{
    AUTO(extents_done) struct extents x = {0};
    struct err e = {0};
    if (disk_extents_all(d, 0, d->size, &x, &e) < 0) {
        printf("# %s\n", e.text);
        return false;
    }
    uint64_t at = 0;
    for (size_t i = 0; i < x.n; at += x.v[i++].len) {
        if (x.v[i].off != at)
            return false;
        uint64_t end = min_u64(x.v[i].off + x.v[i].len, size);
        for (uint64_t off = x.v[i].off; off < end && x.v[i].kind != EXTENT_DATA;
             off = round_down(off, 64 * KIB) + 64 * KIB)
            if (pattern_block(off, seed, every))
                return false;
    }
    *ret_data = extents_bytes(&x, EXTENT_DATA);
    return at == d->size;
}

static bool same_as_file(struct disk *d, const char *path)
{
    static uint8_t a[64 * 1024], b[64 * 1024];
    struct err e = {0};
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size != d->size)
        return false;
    for (uint64_t off = 0; off < d->size; off += sizeof(a)) {
        size_t len = min_u64(sizeof(a), d->size - off);
        if (disk_read(d, a, len, off, &e) < 0 || fd_pread(fd, b, len, off) < 0 ||
            memcmp(a, b, len) != 0)
            return false;
    }
    return true;
}

static void test_format(const struct format_case *c, uint64_t size, unsigned every)
{
    struct err e = {0};
    struct disk *d = NULL;
    uint64_t seed = size + every, data = 0;
    char title[128];
    (void)snprintf(title, sizeof(title), "%s, %llu bytes, %s", c->name,
                   (unsigned long long)size, every > 1 ? "sparse" : "full");
    pattern_file(in("source"), size, seed, every);
    const char *ext = extension(c->format);
    sh("rm -f the* whole; qemu-img convert -f raw -O %s %s source the.%s; "
       "qemu-img convert -f %s -O raw the.%s whole",
       c->format, c->options, ext, c->format, ext);
    struct image_options o = {.path = in("the.%s", ext)};
    if (!ok(image_open(&o, &d, &e) == 0, "open %s %s", title, e.text))
        return;
    ok(d->size >= size && is_pattern(d, size, seed, every), "%s holds the pattern",
       title);
    ok(same_as_file(d, in("whole")), "%s reads as qemu-img converts it", title);
    ok(extents_hold(d, size, seed, every, &data), "%s: extents are true", title);
    disk_close(d);
}

static void test_chain(void)
{
    struct err e = {0};
    struct disk *d = NULL;
    pattern_file(in("base.raw"), 3 * MIB, 21, 1);
    sh("qemu-img convert -f raw -O vmdk base.raw base.vmdk;"
       "qemu-img create -q -f qcow2 -b base.vmdk -F vmdk middle.qcow2;"
       "qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2 4M;"
       "qemu-io -f qcow2 -c 'write -P 7 64k 64k' middle.qcow2;"
       "qemu-io -f qcow2 -c 'write -P 9 1M 4k' -c 'write -z 2M 64k' top.qcow2;"
       "qemu-img convert -f qcow2 -O raw top.qcow2 chain.raw");
    struct image_options o = {.path = in("top.qcow2")};
    AUTO(image_info_done) struct image_info info = {0};
    ok(image_open(&o, &d, &e) == 0, "open a chain of three %s", e.text);
    ok(d != NULL && same_as_file(d, in("chain.raw")), "it reads as qemu-img converts it");
    disk_close(d);
    ok(image_info(&o, &info, &e) == 0 && info.files.n == 3 && info.size == 4 * MIB,
       "image_info names all files");
    is_str(info.format, "qcow2", "and the format");
}

static void test_snapshot(void)
{
    struct err e = {0};
    struct disk *d = NULL;
    pattern_file(in("snap.raw"), 2 * MIB, 31, 1);
    sh("qemu-img convert -f raw -O qcow2 snap.raw snap.qcow2;"
       "qemu-img snapshot -c 'before, the = change' snap.qcow2;"
       "qemu-io -f qcow2 -c 'write -P 5 0 1M' snap.qcow2");
    struct image_options o = {.path = in("snap.qcow2"),
                              .snapshot = "before, the = change"};
    ok(image_open(&o, &d, &e) == 0 && is_pattern(d, 2 * MIB, 31, 1),
       "an internal snapshot by name holds what was there %s", e.text);
    disk_close(d);
    d = NULL;
    o.snapshot = NULL;
    ok(image_open(&o, &d, &e) == 0 && !is_pattern(d, 2 * MIB, 31, 1),
       "and the current state what was written since");
    disk_close(d);
    o.snapshot = "none such";
    ok(image_open(&o, &d, &e) < 0 && e.code == ERR_REFUSED, "another is refused: %s",
       e.text);
}

static void test_part(const char *format, const char *options)
{
    struct err e = {0};
    struct disk *d = NULL;
    struct stat st;
    pattern_file(in("inner.raw"), 3 * MIB, 41, 3);
    sh("qemu-img convert -f raw -O %s %s inner.raw inner; rm -f outer;"
       "head -c 1536 /dev/urandom > outer; cat inner >> outer; head -c 777 /dev/urandom "
       ">> outer",
       format, options);
    if (stat(in("inner"), &st) < 0)
        return;
    struct image_options o = {
        .path = in("outer"), .part_off = 1536, .part_len = (uint64_t)st.st_size};
    ok(image_open(&o, &d, &e) == 0 && is_pattern(d, 3 * MIB, 41, 3),
       "%s %s as a part of a file %s", format, options, e.text);
    disk_close(d);
}

// More pieces than are remembered (64 Ki): every second 512 bytes are a hole.
static bool is_comb(struct disk *d, uint64_t off, size_t len)
{
    static uint8_t got[64 * 1024], want[512];
    struct err e = {0};
    if (disk_read(d, got, len, off, &e) < 0) {
        printf("# %s\n", e.text);
        return false;
    }
    for (size_t i = 0; i < len; i += 512) {
        memset(want, 0, sizeof(want));
        if ((off + i) / 512 % 2 == 0)
            pattern(want, sizeof(want), off + i, 61);
        if (memcmp(got + i, want, 512) != 0)
            return false;
    }
    return true;
}

static bool comb_extents(struct disk *d, uint64_t off, uint64_t len)
{
    AUTO(extents_done) struct extents x = {0};
    struct err e = {0};
    bool good = disk_extents_all(d, off, len, &x, &e) == 0 && x.n == len / 512;
    for (size_t i = 0; good && i < x.n; i++)
        good = x.v[i].off == off + i * 512 &&
               (x.v[i].kind == EXTENT_DATA) == (x.v[i].off / 512 % 2 == 0);
    return good;
}

static void test_fragmented(void)
{
    struct err e = {0};
    struct disk *d = NULL;
    const uint64_t size = 40 * MIB;
    static uint8_t block[64 * 1024];
    int fd = open(in("comb.raw"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    for (uint64_t off = 0; off < size; off += sizeof(block)) {
        pattern(block, sizeof(block), off, 61);
        for (size_t i = 512; i < sizeof(block); i += 1024)
            memset(block + i, 0, 512);
        (void)fd_pwrite(fd, block, sizeof(block), off);
    }
    close(fd);
    sh("qemu-img convert -f raw -O qcow2 -S 512 -o cluster_size=512 comb.raw comb.qcow2");
    struct image_options o = {.path = in("comb.qcow2")};
    if (!ok(image_open(&o, &d, &e) == 0, "open an image of 81920 pieces %s", e.text))
        return;
    bool good = true;
    unsigned state = 3;
    for (int i = 0; i < 50; i++)
        good = good &&
               is_comb(d, round_down((uint64_t)rand_r(&state) % (size - 64 * KIB), 512),
                       64 * KIB);
    ok(good, "reads here and there, before anybody asked for extents");
    ok(comb_extents(d, 0, size), "all extents in order");
    ok(comb_extents(d, size / 2 + 512 * 3, MIB), "some in the middle");
    ok(comb_extents(d, 0, MIB), "and from the beginning again");
    for (uint64_t off = 0; off < size; off += 64 * KIB)
        good = good && is_comb(d, off, 64 * KIB);
    ok(good, "all of it in order");
    disk_close(d);
}

int main(int argc, char **argv)
{
    struct err e;
    if (proc_have("qemu-img", "qemu-utils", &e) < 0) {
        skip("images", e.text);
        return done_testing();
    }
    scratch_make();
    for (size_t i = 0; i < ARRAY_LEN(format_cases); i++) {
        if (argc > 1 && strstr(format_cases[i].name, argv[1]) == NULL)
            continue;
        for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
            test_format(&format_cases[i], sizes[s], s == 1 ? 1 : 4);
    }
    test_chain();
    test_snapshot();
    test_part("qcow2", "");
    test_part("qcow2", "-c");
    test_part("vmdk", "-o subformat=streamOptimized");
    test_part("vmdk", "");
    test_part("vdi", "");
    test_part("raw", "");
    test_fragmented();
    return done_testing();
}

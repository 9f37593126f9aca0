// SPDX-License-Identifier: Apache-2.0
// The pieces under the allocation: spans and their way back to the disks, the filter of
// used ranges, LVM's text, checksums, swap, and reads that fail.

#include <fcntl.h>
#include <unistd.h>

#include "map/crc32.h"
#include "map/fs.h"
#include "map/lvm_text.h"
#include "map/span.h"
#include "tap.h"

#define SIZE (256 * KIB)

// A disk whose every byte says where it is.
struct memory {
    struct disk disk;
    uint8_t *bytes;
    uint64_t n_read;
};

static int memory_read(struct disk *d, void *buf, size_t len, uint64_t off, struct err *e)
{
    struct memory *m = (struct memory *)d;
    (void)e;
    m->n_read += len;
    memcpy(buf, m->bytes + off, len);
    return 0;
}

static void memory_close(struct disk *d)
{
    free(((struct memory *)d)->bytes);
    free(d->name);
    free(d);
}

static const struct disk_ops memory_ops = {
    .type = "memory", .read = memory_read, .close = memory_close};

static struct memory *memory_new(uint64_t size, unsigned seed)
{
    struct memory *m = xcalloc(1, sizeof(*m));
    m->disk = (struct disk){.ops = &memory_ops,
                            .name = xstrdup("memory"),
                            .size = size,
                            .sector_size = 512,
                            .alignment = 1,
                            .n_parallel = 1};
    m->bytes = xmalloc(size + 1);
    for (uint64_t i = 0; i < size; i++)
        m->bytes[i] = (uint8_t)rand_r(&seed);
    return m;
}

static uint8_t *mark[2]; // what span_map has visited, a byte a byte

static void visit(void *context, unsigned disk, uint64_t off, uint64_t len)
{
    (void)context;
    memset(mark[disk] + off, 1, len);
}

static void test_span(void)
{
    struct err e = {0};
    struct memory *m[2] = {memory_new(SIZE, 1), memory_new(SIZE, 2)};
    struct disk *disks[2] = {&m[0]->disk, &m[1]->disk};
    struct span *s = span_new(disks, "span");
    struct span_area first = {1, 4096}, three[] = {{0, 8192}, {1, 65536}, {0, 131072}};
    span_add(s, 5000, 0, &first, 1);
    span_add(s, UINT64_C(3) * 4096 * 4, 4096, three, 3);
    struct disk *d = span_disk(s);
    uint8_t want[5000 + 3 * 4096 * 4], got[sizeof(want)];
    memcpy(want, m[1]->bytes + 4096, 5000);
    for (size_t c = 0; c < 12; c++)
        memcpy(want + 5000 + c * 4096,
               m[three[c % 3].disk]->bytes + three[c % 3].off + c / 3 * 4096, 4096);
    ok(d->size == sizeof(want) && disk_read(d, got, sizeof(got), 0, &e) == 0 &&
           memcmp(got, want, sizeof(got)) == 0,
       "a span of linear and striped segments reads as it should");
    ok(disk_read(d, got, 2, d->size - 1, &e) != 0, "and not past its end");

    // Forwards by changing a byte on the disks, backwards by span_map: they must agree.
    unsigned seed = 3, n_wrong = 0, n_more = 0;
    for (unsigned i = 0; i < 2000; i++) {
        uint64_t off = (uint64_t)rand_r(&seed) % d->size;
        uint64_t len = 1 + (uint64_t)rand_r(&seed) % min_u64(d->size - off, 20000);
        memset(mark[0], 0, SIZE);
        memset(mark[1], 0, SIZE);
        span_map(s, off, len, visit, NULL);
        uint64_t n = 0;
        for (unsigned k = 0; k < 2; k++)
            for (size_t b = 0; b < SIZE; b++)
                n += mark[k][b];
        n_more += n != len;
        for (uint64_t b = off; b < off + len; b++) {
            uint64_t c = b < 5000 ? 0 : (b - 5000) / 4096;
            unsigned disk = b < 5000 ? 1 : three[c % 3].disk;
            uint64_t at =
                b < 5000 ? 4096 + b : three[c % 3].off + c / 3 * 4096 + (b - 5000) % 4096;
            n_wrong += !mark[disk][at];
        }
    }
    is_u64(n_wrong, 0, "span_map finds every byte");
    is_u64(n_more, 0, "and no other");
    span_close(s);
    disk_close(disks[0]);
    disk_close(disks[1]);
}

static void test_used(void)
{
    struct err e = {0};
    struct memory *m = memory_new(SIZE, 4);
    AUTO(extents_done) struct extents used = {0}, all = {0};
    uint8_t want[SIZE] = {0}, got[SIZE];
    uint64_t ranges[][2] = {{0, 100}, {4096, 8192}, {100000, 1}, {SIZE - 10, 10}};
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
        extents_add(&used, ranges[i][0], ranges[i][1]);
        memcpy(want + ranges[i][0], m->bytes + ranges[i][0], ranges[i][1]);
    }
    AUTO(disk_close) struct disk *d = used_new(&m->disk, &used);
    ok(disk_read(d, got, SIZE, 0, &e) == 0 && memcmp(got, want, SIZE) == 0,
       "free ranges read as zeros, used ones as they are");
    is_u64(m->n_read, 100 + 8192 + 1 + 10, "nothing free is read");
    ok(disk_extents_all(d, 0, SIZE, &all, &e) == 0 &&
           extents_bytes(&all, EXTENT_DATA) == 8303 &&
           extents_bytes(&all, EXTENT_HOLE) == SIZE - 8303,
       "free ranges are holes");
    ok(disk_write(d, got, 1, 0, &e) != 0, "it cannot be written");
    unsigned seed = 5;
    bool same = true;
    for (unsigned i = 0; i < 2000; i++) {
        uint64_t off = (uint64_t)rand_r(&seed) % SIZE;
        size_t len = (size_t)rand_r(&seed) % (SIZE - off);
        same = same && disk_read(d, got, len, off, &e) == 0 &&
               memcmp(got, want + off, len) == 0;
    }
    ok(same, "reads of any place and length");
}

static void test_lvm_text(void)
{
    static const char text[] = "vg { id = \"a\\\"b\" # \"}\"\n n = -5 m = 7.9 big = 99\n"
                               " list = [ \"x\", 3, \"VISIBLE\" ] empty = [] s {} }\nv=1";
    struct err e = {0};
    AUTO(lvm_text_done) struct lvm_text t = {0};
    ok(lvm_text_parse(xstrndup(text, sizeof(text)), sizeof(text), &t, &e) == 0,
       "LVM's text is read");
    const struct lvm_node *vg = lvm_member(&t, t.nodes.v, "vg");
    uint64_t v = 0;
    is_str(lvm_string(&t, vg, "id"), "a\"b", "a string with a quote");
    ok(lvm_number(&t, vg, "m", 100, &v) && v == 7, "a fraction is cut off");
    ok(!lvm_number(&t, vg, "n", 100, &v) && !lvm_number(&t, vg, "big", 98, &v) &&
           !lvm_number(&t, vg, "id", 98, &v) && !lvm_number(&t, NULL, "id", 98, &v),
       "negative, large and other values are no numbers");
    ok(lvm_has(&t, vg, "list", "VISIBLE") && !lvm_has(&t, vg, "list", "y") &&
           !lvm_has(&t, vg, "empty", ""),
       "words of an array");
    ok(lvm_member(&t, t.nodes.v, "v") && lvm_member(&t, vg, "s"), "what follows is read");
    static const char *const bad[] = {
        "a",     "a =",       "a = [", "a = [1 2]", "a = \"x",
        "a {",   "a = {",     "}",     "a = 1 }",   "= 5",
        "a = x", "a = [[1]]", "a=-",   "a=\"\\",    "a = 99999999999999999999"};
    unsigned n = 0;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        size_t len = strlen(bad[i]) + 1;
        int r = lvm_text_parse(xstrdup(bad[i]), len, &t, &e);
        n += r != 0 && e.code == ERR_REFUSED;
    }
    is_u64(n, ARRAY_LEN(bad), "what is no such text is refused");
    char *deep = xmalloc(4000);
    for (size_t i = 0; i < 4000; i++)
        deep[i] = "a{"[i % 2];
    ok(lvm_text_parse(deep, 4000, &t, &e) != 0, "sections without end are refused");
    ok(lvm_text_parse(xmalloc(1), 0, &t, &e) != 0, "so is nothing");
}

static void test_swap(void)
{
    struct err e = {0};
    struct memory *m = memory_new(SIZE, 6);
    struct disk *d = &m->disk;
    AUTO(extents_done) struct extents used = {0};
    ok(fs_swap_used(d, &used, &e) != 0 && e.code == ERR_REFUSED, "noise is no swap");
    memcpy(m->bytes + 65536 - 10, "SWAPSPACE2", 10);
    ok(fs_swap_used(d, &used, &e) == 0 && extents_bytes(&used, EXTENT_DATA) == 65536,
       "swap with pages of 64 KiB");
    memcpy(m->bytes + 4096 - 10, "S1SUSPEND", 10);
    ok(fs_swap_used(d, &used, &e) != 0 && e.code == ERR_REFUSED &&
           strstr(e.text, "hibernated"),
       "a hibernated system is wholly in use");
    disk_close(d);
}

// Every read of a disk may fail: that is an error, never "free".
static void test_faults(void)
{
    struct err e = {0};
    unsigned n_failed = 0, n_other = 0;
    for (uint64_t n = 1;; n++) {
        struct fault fault = {.fail_at = n, .code = ERR_RETRY};
        struct memory *m = memory_new(8 * MIB, 7);
        memcpy(m->bytes + 4096 - 10, "SWAPSPACE2", 10);
        AUTO(disk_close) struct disk *d = fault_new(&m->disk, &fault);
        AUTO(allocation_done) struct allocation a = {0};
        if (allocation_read(&d, 1, NULL, &a, &e) == 0)
            break;
        n_failed++;
        n_other += e.code != ERR_RETRY || a.n_disks != 0;
    }
    ok(n_failed > 10 && n_other == 0, "each of %u reads that fails is the error",
       n_failed);
}

// The same for ext4, whose library has error codes of its own.
static void test_ext_faults(const char *name, char *const *argv, const char *image)
{
    struct err e = {0};
    unsigned n_failed = 0, n_other = 0;
    uint64_t used_bytes = 0;
    if (proc_have(argv[0], "e2fsprogs", &e)) {
        skip(name, e.text);
        return;
    }
    AUTO(fd_close) int fd = open(image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, 300 * MIB) || proc_run(argv, NULL, &e)) {
        ok(false, "%s: %s", name, e.text);
        return;
    }
    for (uint64_t n = 1; used_bytes == 0; n++) {
        struct file_options options = {.path = image, .buffered = true};
        struct fault fault = {.fail_at = n, .code = ERR_RETRY};
        struct disk *file = NULL;
        AUTO(extents_done) struct extents used = {0};
        if (file_open(&options, &file, &e))
            break;
        AUTO(disk_close) struct disk *d = fault_new(file, &fault);
        if (fs_ext_used(d, &used, &e) == 0) {
            used_bytes = extents_bytes(&used, EXTENT_DATA);
            break;
        }
        n_failed++;
        n_other += e.code != ERR_RETRY || used.n != 0;
    }
    ok(n_failed > 2 && n_other == 0 && used_bytes > 0 && used_bytes < 100 * MIB,
       "%s: each of %u reads that fails is the error", name, n_failed);
}

static void test_ext(void)
{
    struct err e = {0};
    char *dir = NULL;
    if (dir_temp(&dir, &e)) {
        ok(false, "%s", e.text);
        return;
    }
    AUTO(str_free) char *image = path_join(dir, "image");
    char *ext4[] = {"mke2fs", "-q", "-F", "-t", "ext4", image, NULL};
    char *ext2[] = {"mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024", image, NULL};
    test_ext_faults("ext4", ext4, image);
    test_ext_faults("ext2", ext2, image);
    dir_remove(dir, &e);
    free(dir);
}

static void test_fs_add(void)
{
    AUTO(extents_done) struct extents used = {0};
    fs_add_max(&used, 0, 10, 100);
    fs_add_max(&used, 1000, 10, 100);
    ok(used.n == 1 && used.v[0].len == 1010, "small gaps are closed");
    for (uint64_t i = 0; i < 10000; i++)
        fs_add_max(&used, i * 10 * MIB, 1, 100);
    bool all = used.n <= 100;
    for (uint64_t i = 0; i < 10000; i++) {
        size_t k = 0;
        while (k < used.n && used.v[k].off + used.v[k].len <= i * 10 * MIB)
            k++;
        all = all && k < used.n && used.v[k].off <= i * 10 * MIB;
    }
    ok(all, "a long list is made coarser and loses nothing");
}

int main(void)
{
    mark[0] = xmalloc(SIZE);
    mark[1] = xmalloc(SIZE);
    is_u64(~crc32_run(UINT32_MAX, "123456789", 9), 0xcbf43926,
           "CRC-32 as everybody has it");
    test_span();
    test_used();
    test_lvm_text();
    test_swap();
    test_faults();
    test_ext();
    test_fs_add();
    free(mark[0]);
    free(mark[1]);
    return done_testing();
}

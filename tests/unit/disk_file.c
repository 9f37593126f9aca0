// SPDX-License-Identifier: Apache-2.0
// this exercises: the file driver with and without O_DIRECT at every alignment, zeroing,
// holes, parts of files, QEMU's locks, and the checking wrappers and filters
#include "disk/disk.h"
#include "scratch.h"

#include <errno.h>
#include <sys/stat.h>

#define SIZE (3 * MIB + 70 * KIB + 123)

// Random reads and writes of every alignment against a copy in memory.
static void test_random(bool buffered, uint64_t part_off)
{
    struct err e = {0};
    uint64_t size = part_off != 0 ? SIZE - part_off - 777 : SIZE;
    AUTO(disk_close) struct disk *d = NULL;
    AUTO(free) void *model_memory = xmalloc(SIZE);
    uint8_t *model = model_memory;
    AUTO(free) void *buf_memory = alloc_aligned(MIB + 4096);
    uint8_t *buf = buf_memory;
    const char *path = in("random");
    pattern_file(path, SIZE, 3, 1);
    pattern(model, SIZE, 0, 3);
    struct file_options o = {
        .path = path, .writable = true, .buffered = buffered, .part_off = part_off};
    o.part_len = part_off != 0 ? size : 0;
    if (!ok(file_open(&o, &d, &e) == 0, "open %s, part at %d: %s",
            buffered ? "buffered" : "direct", (int)part_off, e.text))
        return;
    is_u64(d->size, size, "its size");
    unsigned seed = 5;
    bool good = true;
    for (int i = 0; i < 600 && good; i++) {
        unsigned grain = (const unsigned[]){1, 512, 4096, 65536}[rand_r(&seed) % 4];
        uint64_t off = round_down((uint64_t)rand_r(&seed) % size, grain);
        size_t len = min_u64((uint64_t)rand_r(&seed) % (300 * KIB) + 1, size - off);
        uint8_t *at = buf + (rand_r(&seed) % 2 ? 0 : rand_r(&seed) % 4096);
        switch (rand_r(&seed) % 4) {
        case 0:
            pattern(at, len, off, (uint64_t)i);
            good = disk_write(d, at, len, off, &e) == 0;
            pattern(model + part_off + off, len, off, (uint64_t)i);
            break;
        case 1:
            good = disk_zero(d, off, len, rand_r(&seed) % 2, &e) == 0;
            memset(model + part_off + off, 0, len);
            break;
        default:
            good = disk_read(d, at, len, off, &e) == 0 &&
                   memcmp(at, model + part_off + off, len) == 0;
        }
        if (!good)
            printf("# step %d: %zu bytes at %llu: %s\n", i, len, (unsigned long long)off,
                   e.text);
    }
    ok(good, "600 random requests agree with memory");
    ok(disk_flush(d, &e) == 0, "flush");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    AUTO(free) void *all_memory = xmalloc(SIZE);
    uint8_t *all = all_memory;
    ok(fd_pread(fd, all, SIZE, 0) == 0 && memcmp(all, model, SIZE) == 0,
       "the file holds what was written, and nothing around the part changed");
    close(fd);
}

static void test_extents(void)
{
    struct err e = {0};
    AUTO(disk_close) struct disk *d = NULL;
    AUTO(extents_done) struct extents x = {0};
    const char *path = in("sparse");
    pattern_file(path, 50 * MIB + 5, 11, 7);
    struct file_options o = {.path = path};
    ok(file_open(&o, &d, &e) == 0 && disk_extents_all(d, 0, d->size, &x, &e) == 0,
       "extents of a sparse file");
    uint64_t data = 0;
    bool inside = true;
    for (uint64_t off = 0; off < d->size; off += 64 * KIB) {
        bool wanted = pattern_block(off, 11, 7), found = false;
        data += wanted ? min_u64(64 * KIB, d->size - off) : 0;
        for (size_t i = 0; i < x.n; i++)
            found = found || (x.v[i].kind == EXTENT_DATA && x.v[i].off <= off &&
                              off < x.v[i].off + x.v[i].len);
        inside = inside && (found || !wanted);
    }
    ok(inside, "every written block is data");
    ok(extents_bytes(&x, EXTENT_DATA) <= data + 8 * KIB, "and little else");
    struct extents none = {0};
    uint64_t done;
    ok(disk_extents(d, 10, d->size, &none, &done, &e) < 0,
       "a range past the end is refused");
    ok(disk_write(d, "x", 1, 0, &e) < 0 && strstr(e.text, "reading only") != NULL,
       "so is a write when it was opened for reading");
}

static void test_create(void)
{
    struct err e = {0};
    struct stat st;
    struct file_options o = {.path = in("new"), .create = true, .size = 5 * GIB + 1};
    struct disk *d = NULL;
    ok(file_open(&o, &d, &e) == 0 && stat(o.path, &st) == 0 &&
           (uint64_t)st.st_size == 5 * GIB + 1 && st.st_blocks == 0,
       "a new file is sparse");
    ok(disk_write(d, "abc", 3, d->size - 3, &e) == 0, "its last bytes can be written");
    disk_close(d);
    ok(file_open(&o, &d, &e) < 0 && e.code == ERR_REFUSED, "it is not made over: %s",
       e.text);
    o = (struct file_options){.path = in("huge"), .create = true, .size = UINT64_MAX};
    ok(file_open(&o, &d, &e) < 0 && access(o.path, F_OK) < 0,
       "what cannot be made leaves nothing: %s", e.text);
    o = (struct file_options){.path = scratch};
    ok(file_open(&o, &d, &e) < 0 && strstr(e.text, "folder") != NULL,
       "a folder is refused");
    o.path = in("fifo");
    sh("mkfifo fifo");
    ok(file_open(&o, &d, &e) < 0, "a pipe is refused and not waited for: %s", e.text);
    o = (struct file_options){.path = in("new"), .part_off = 5 * GIB, .part_len = 4096};
    ok(file_open(&o, &d, &e) < 0 && strstr(e.text, "truncated") != NULL,
       "a part that passes the end is refused");
}

static void test_locks(void)
{
    struct err e = {0};
    AUTO(disk_close) struct disk *a = NULL;
    AUTO(disk_close) struct disk *b = NULL;
    struct disk *c = NULL;
    pattern_file(in("locked"), MIB, 1, 1);
    struct file_options o = {.path = in("locked")},
                        w = {.path = o.path, .writable = true};
    ok(file_open(&o, &a, &e) == 0 && file_open(&o, &b, &e) == 0, "two readers share");
    ok(file_open(&w, &c, &e) < 0 && e.code == ERR_REFUSED, "a writer is refused: %s",
       e.text);
    if (proc_have("qemu-io", "qemu-utils", &e) < 0) {
        skip("locks against QEMU", e.text);
        return;
    }
    char *read_it[] = {"qemu-io", "-r",        "-f",           "raw",
                       "-c",      "read 0 4k", (char *)o.path, NULL};
    char *write_it[] = {"qemu-io", "-f", "raw", "-c", "write 0 4k", (char *)o.path, NULL};
    ok(proc_run(read_it, NULL, &e) == 0, "QEMU may read what we read");
    ok(proc_run(write_it, NULL, &e) < 0 && strstr(e.text, "lock") != NULL,
       "QEMU may not write it: %s", e.text);
    disk_close(steal(a));
    disk_close(steal(b));
    ok(proc_run(write_it, NULL, &e) == 0, "afterwards it may");
    ok(file_open(&w, &a, &e) == 0, "a writer alone");
    ok(proc_run(write_it, NULL, &e) < 0, "QEMU may not write beside it: %s", e.text);
    ok(file_open(&o, &c, &e) < 0 && e.code == ERR_REFUSED,
       "and no reader of ours comes in");
}

static void test_filters(void)
{
    struct err e = {0};
    struct fault fault = {.fail_at = 3, .code = ERR_RETRY};
    uint8_t buf[16] = {1};
    AUTO(disk_close) struct disk *d = fault_new(null_new(GIB), &fault);
    ok(disk_read(d, buf, 16, 0, &e) == 0 && is_zero(buf, 16),
       "the null disk reads zeros");
    ok(disk_write(d, buf, 16, 0, &e) == 0, "and swallows writes");
    ok(disk_flush(d, &e) < 0 && e.code == ERR_RETRY && str_starts(e.text, "null: "),
       "the third call fails: %s", e.text);
    ok(disk_flush(d, &e) == 0, "the fourth does not");
    fault.every = true;
    ok(disk_read(d, buf, 16, 0, &e) < 0, "with `every` all do");
    is_u64(fault.n_calls, 5, "calls are counted");
    ok(disk_read(d, buf, 16, GIB - 15, &e) < 0 && fault.n_calls == 5,
       "a read past the end never reaches the driver");
    struct rate *rate = rate_new(4 * MIB);
    AUTO(disk_close) struct disk *slow = throttle_new(null_new(GIB), rate);
    AUTO(free) void *mib_memory = xcalloc(1, MIB);
    uint8_t *mib = mib_memory;
    uint64_t start = clock_ms();
    for (uint64_t i = 0; i < 12; i++)
        (void)disk_read(slow, mib, MIB, i * MIB, &e);
    uint64_t took = clock_ms() - start;
    ok(took >= 1500, "12 MiB at 4 MiB/s take time: %d ms", (int)took);
    disk_close(steal(slow));
    rate_free(rate);
}

static char loop_device[64];

static void loop_detach(void)
{
    struct err e;
    char *argv[] = {"losetup", "-d", loop_device, NULL};
    if (loop_device[0] != '\0')
        (void)proc_run(argv, NULL, &e);
}

// A block device: its size, sector size, zeroing that is never left to a discard.
static void test_device(void)
{
    struct err e = {0};
    AUTO(buf_done) struct buf out = BUF_INIT(sizeof(loop_device) - 1);
    AUTO(disk_close) struct disk *d = NULL;
    const uint64_t size = 8 * MIB + 4096;
    static uint8_t got[256 * 1024], want[256 * 1024];
    pattern_file(in("device"), size, 8, 1);
    char *argv[] = {
        "losetup", "--find", "--show", "--sector-size", "4096", (char *)in("device"),
        NULL};
    if (geteuid() != 0 || proc_run(argv, &out, &e) < 0) {
        skip("a block device", geteuid() != 0 ? "not root" : e.text);
        return;
    }
    (void)snprintf(loop_device, sizeof(loop_device), "%s", str_trim(out.data));
    (void)atexit(loop_detach);
    struct file_options o = {.path = loop_device, .writable = true};
    if (!ok(file_open(&o, &d, &e) == 0, "open a block device %s", e.text))
        return;
    is_u64(d->size, size, "its size");
    is_u64(d->sector_size, 4096, "its sectors");
    bool good = true;
    for (int punch = 0; punch < 2; punch++) {
        uint64_t off = MIB + 777 + (uint64_t)punch * 2 * MIB, len = 100 * KIB + 5;
        good = good && disk_zero(d, off, len, punch, &e) == 0 &&
               disk_read(d, got, sizeof(got), off - 1000, &e) == 0;
        pattern(want, sizeof(want), off - 1000, 8);
        memset(want + 1000, 0, len);
        good = good && memcmp(got, want, sizeof(want)) == 0;
    }
    ok(good, "zeroing is exact to the byte %s", e.text);
    pattern(want, 5000, size - 5000, 9);
    ok(disk_write(d, want, 5000, size - 5000, &e) == 0 && disk_flush(d, &e) == 0 &&
           disk_read(d, got, 5000, size - 5000, &e) == 0 && memcmp(got, want, 5000) == 0,
       "so are writes up to its end %s", e.text);
    disk_close(steal(d));
    sh("mkfs.ext4 -q -F %s && mkdir mnt", loop_device);
    char *mount[] = {"mount", loop_device, (char *)in("mnt"), NULL};
    if (proc_run(mount, NULL, &e) < 0) {
        skip("a mounted device", e.text);
        return;
    }
    ok(file_open(&o, &d, &e) < 0 && e.code == ERR_REFUSED,
       "it is not opened for writing while mounted: %s", e.text);
    sh("umount mnt");
}

int main(void)
{
    scratch_make();
    test_random(false, 0);
    test_random(true, 0);
    test_random(false, 512 * 3);
    test_random(false, 64 * KIB);
    test_extents();
    test_create();
    test_locks();
    test_filters();
    test_device();
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// this exercises: the NBD driver against qemu-nbd: every alignment, zeroing, extents,
// many threads on few connections, and a server that ends in the middle
#include "disk/disk.h"
#include "scratch.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#define SIZE (8 * MIB)

static struct proc *serve(const char *file, const char *socket, bool writable)
{
    struct err e;
    struct proc *p = NULL;
    (void)unlink(socket);
    char *argv[] = {
        "qemu-nbd", "--format=raw", "--persistent", "--shared=8",
        "-k",       (char *)socket, (char *)file,   writable ? NULL : "--read-only",
        NULL};
    struct proc_options o = {.argv = argv, .in = -1, .out = -1, .err = -1};
    if (proc_start(&o, &p, &e) < 0)
        return NULL;
    for (int i = 0; i < 500 && access(socket, F_OK) < 0; i++)
        usleep(10000);
    return p;
}

static struct disk *connect_to(const char *socket, bool writable, unsigned connections)
{
    struct err e = {0};
    struct disk *d = NULL;
    struct nbd_options o = {
        .socket = socket, .writable = writable, .connections = connections};
    for (int i = 0; i < 200 && nbd_open(&o, &d, &e) < 0; i++)
        usleep(10000);
    ok(d != NULL, "connect %s", d != NULL ? "" : e.text);
    return d;
}

static void test_random(void)
{
    struct err e = {0};
    uint8_t *model = xmalloc(SIZE), *buf = xmalloc(4 * MIB);
    pattern_file(in("disk"), SIZE, 3, 1);
    pattern(model, SIZE, 0, 3);
    AUTO(proc_end) struct proc *p = serve(in("disk"), in("s"), true);
    AUTO(disk_close) struct disk *d = connect_to(in("s"), true, 2);
    unsigned seed = 5;
    bool good = d != NULL && d->size == SIZE;
    for (int i = 0; i < 300 && good; i++) {
        uint64_t off = (uint64_t)rand_r(&seed) % SIZE;
        unsigned most = i % 10 == 0 ? 4 * MIB : 100 * KIB;
        size_t len = min_u64((uint64_t)rand_r(&seed) % most + 1, SIZE - off);
        switch (rand_r(&seed) % 4) {
        case 0:
            pattern(buf, len, off, (uint64_t)i);
            memcpy(model + off, buf, len);
            good = disk_write(d, buf, len, off, &e) == 0;
            break;
        case 1:
            memset(model + off, 0, len);
            good = disk_zero(d, off, len, rand_r(&seed) % 2, &e) == 0;
            break;
        default:
            good = disk_read(d, buf, len, off, &e) == 0 &&
                   memcmp(buf, model + off, len) == 0;
        }
    }
    ok(good, "300 random requests agree with memory %s", e.text);
    ok(d != NULL && disk_flush(d, &e) == 0, "flush");
    free(model);
    free(buf);
}

static void test_extents(void)
{
    struct err e = {0};
    AUTO(extents_done) struct extents x = {0};
    pattern_file(in("sparse"), SIZE, 9, 5);
    AUTO(proc_end) struct proc *p = serve(in("sparse"), in("s2"), false);
    AUTO(disk_close) struct disk *d = connect_to(in("s2"), false, 1);
    bool good = d != NULL && disk_extents_all(d, 0, SIZE, &x, &e) == 0;
    uint64_t end = 0;
    for (size_t i = 0; good && i < x.n; i++) {
        good = x.v[i].off == end;
        end += x.v[i].len;
        for (uint64_t off = x.v[i].off; off < end && x.v[i].kind != EXTENT_DATA;
             off = round_down(off, 64 * KIB) + 64 * KIB)
            good = good && !pattern_block(off, 9, 5);
    }
    ok(good && end == SIZE && x.n > 5, "extents are those of the file %s", e.text);
    ok(d != NULL && disk_write(d, "x", 1, 0, &e) < 0,
       "a read-only one is not written to");
}

struct reader {
    pthread_t thread;
    struct disk *disk;
    unsigned seed;
    bool good;
    struct err e;
};

static void *read_much(void *context)
{
    struct reader *r = context;
    uint8_t got[32 * KIB], want[32 * KIB];
    for (int i = 0; i < 200 && r->good; i++) {
        uint64_t off = (uint64_t)rand_r(&r->seed) % (SIZE - sizeof(got));
        pattern(want, sizeof(want), off, 4);
        r->good = disk_read(r->disk, got, sizeof(got), off, &r->e) == 0 &&
                  memcmp(got, want, sizeof(got)) == 0;
    }
    return NULL;
}

static void test_threads(void)
{
    struct reader readers[8];
    bool good = true;
    pattern_file(in("many"), SIZE, 4, 1);
    AUTO(proc_end) struct proc *p = serve(in("many"), in("s3"), false);
    AUTO(disk_close) struct disk *d = connect_to(in("s3"), false, 3);
    for (unsigned i = 0; i < 8 && d != NULL; i++) {
        readers[i] = (struct reader){.disk = d, .seed = i, .good = true};
        (void)pthread_create(&readers[i].thread, NULL, read_much, &readers[i]);
    }
    for (unsigned i = 0; i < 8 && d != NULL; i++) {
        (void)pthread_join(readers[i].thread, NULL);
        good = good && readers[i].good;
    }
    ok(good && d != NULL, "eight threads on three connections");
}

static void test_death(void)
{
    struct err e = {0};
    uint8_t buf[512], want[512];
    AUTO(proc_end) struct proc *p = serve(in("many"), in("s4"), false);
    AUTO(disk_close) struct disk *d = connect_to(in("s4"), false, 1);
    proc_kill(p, SIGKILL);
    proc_end(steal(p));
    ok(d != NULL && disk_read(d, buf, 512, 0, &e) < 0 && e.code == ERR_RETRY,
       "a server that ended is a retry: %s", e.text);
    ok(d != NULL && disk_read(d, buf, 512, 0, &e) < 0 && e.code == ERR_RETRY,
       "and stays one: %s", e.text);
    p = serve(in("many"), in("s4"), false);
    pattern(want, 512, 0, 4);
    bool back = false;
    for (int i = 0; i < 200 && d != NULL && !back; i++, usleep(10000))
        back = disk_read(d, buf, 512, 0, &e) == 0;
    ok(back && memcmp(buf, want, 512) == 0, "until it is back");
    struct nbd_options o = {.socket = in("none")};
    struct disk *none = NULL;
    ok(nbd_open(&o, &none, &e) < 0 && e.code == ERR_RETRY, "no server: %s", e.text);
}

// The children of an image, ended from outside.
static void test_image_children(void)
{
    struct err e = {0};
    struct disk *d = NULL;
    char line[256] = "";
    uint8_t buf[512];
    sh("qemu-img convert -f raw -O qcow2 -c many c.qcow2");
    struct image_options o = {.path = in("c.qcow2")};
    if (!ok(image_open(&o, &d, &e) == 0, "open a compressed image %s", e.text))
        return;
    AUTO(str_free)
    char *path = xasprintf("/proc/self/task/%d/children", (int)getpid());
    AUTO(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, line, sizeof(line) - 1) : -1;
    if (n <= 0) {
        skip("an image's qemu-nbd that ends", "/proc names no children here");
        disk_close(d);
        return;
    }
    // Only children of this test are listed there; qemu-img may be among them.
    char *rest = NULL;
    for (char *word = strtok_r(line, " ", &rest); word;
         word = strtok_r(NULL, " ", &rest)) {
        uint64_t pid;
        if (str_to_u64(str_trim(word), &pid) == 0)
            (void)kill((pid_t)pid, SIGKILL);
    }
    ok(disk_read(d, buf, 512, 0, &e) < 0 && e.code == ERR_RETRY &&
           strstr(e.text, "qemu-nbd") != NULL,
       "when its qemu-nbd ends, a read says so: %s", e.text);
    disk_close(d);
}

int main(void)
{
    struct err e;
    if (proc_have("qemu-nbd", "qemu-utils", &e) < 0) {
        skip("NBD", e.text);
        return done_testing();
    }
    scratch_make();
    test_random();
    test_extents();
    test_threads();
    test_death();
    test_image_children();
    return done_testing();
}

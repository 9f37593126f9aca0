// SPDX-License-Identifier: Apache-2.0
// A loop device of our own in memory, with ext4 on it and load; what is tracked of it
// goes to a replica in memory; frozen, the two are compared. All of it ends with the
// process: mounts and bpffs are in a namespace of its own, the device clears itself.
#pragma once
#include "../unit/scratch.h"
#include "agent/track.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>

#define RIG_SIZE (400 * MIB)
#define CHUNK MIB

struct rig {
    struct track_disk disk;
    int fd;           // of the device, O_DIRECT
    char node[64];    // of the file system: the disk, or what is made of it
    char mnt[4096];   // in scratch
    uint8_t *replica; // shared with children
    uint8_t *chunk;
    struct proc *load;
    char name[16], whole[32];
};

__attribute__((unused)) static void rig_skip(const char *why)
{
    printf("1..0 # SKIP %s\n", why);
    exit(0);
}

__attribute__((unused)) static void rig_sleep(unsigned ms)
{
    (void)nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

#define NONE 0xffff // no system call
// From now on this process cannot make these calls (ENOSYS).
__attribute__((unused)) static void rig_refuse(unsigned a, unsigned b, unsigned c)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, a, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, b, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, c, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {ARRAY_LEN(f), f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        exit(1);
}

// A free loop device over `backing`, gone with its last user. *ret_name: loopN.
__attribute__((unused)) static int rig_loop(int backing, char ret_name[static 16])
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd = -1;
    for (int tries = 0; control >= 0 && fd < 0 && tries < 50; tries++) {
        int n = ioctl(control, LOOP_CTL_GET_FREE);
        (void)snprintf(ret_name, 16, "loop%d", n);
        char node[32];
        (void)snprintf(node, sizeof(node), "/dev/%s", ret_name);
        fd = open(node, O_RDWR | O_CLOEXEC | O_DIRECT);
        struct loop_config c = {.fd = (uint32_t)backing,
                                .info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_PARTSCAN};
        if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &c) < 0) {
            close(fd); // somebody was faster
            fd = -1;
            rig_sleep(20);
        }
    }
    fd_close(control);
    return fd;
}

// scratch, namespace, bpffs at in("bpf").
__attribute__((unused)) static void rig_world(void)
{
    if (geteuid() != 0)
        rig_skip("needs root");
    if (access("/dev/loop-control", R_OK | W_OK) < 0)
        rig_skip("needs loop devices");
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        rig_skip("needs a mount namespace");
    scratch_make();
    sh("mkdir bpf mnt run");
    if (mount("bpf", in("bpf"), "bpf", 0, NULL) < 0)
        printf("# bpffs cannot be mounted: %s\n", strerror(errno));
}

__attribute__((unused)) static void rig_describe(struct rig *r, uint64_t size)
{
    struct stat st;
    (void)snprintf(r->whole, sizeof(r->whole), "/dev/%s", r->name);
    if (r->fd < 0 || fstat(r->fd, &st) < 0)
        rig_skip("no loop device could be had");
    r->disk = (struct track_disk){.name = r->name,
                                  .node = r->whole,
                                  .major = major(st.st_rdev),
                                  .minor = minor(st.st_rdev),
                                  .size = size};
    r->replica =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    static uint8_t chunk[CHUNK] __attribute__((aligned(4096)));
    r->chunk = chunk; // one for all of a process
    if (r->replica == MAP_FAILED)
        exit(1);
}

// What lies between a disk and the file system on it. A mapping goes when it is
// unmounted.
static const struct rig_layer {
    const char *what, *module, *make;
    bool mapped;
} rig_layers[] = {
    {"disk", NULL, "true", false},
    {"partition", NULL,
     "printf 'size=5M\\n,\\n' | sfdisk -q --no-reread --no-tell-kernel $whole; "
     "partx -a $whole || partx -u $whole; test -b ${whole}p2 || "
     "mknod ${whole}p2 b $(tr : ' ' < /sys/block/$name/${name}p2/dev)",
     false},
    {"crypt", "dm-crypt",
     "one=11111111111111111111111111111111 two=22222222222222222222222222222222; "
     "echo 0 $(blockdev --getsz $whole) crypt aes-xts-plain64 $one$two 0 $whole 0 1 "
     "allow_discards | dmsetup create $mapped",
     true},
    {"raid1", "dm-raid",
     "truncate -s $(blockdev --getsize64 $whole) other; other=$(losetup -f --show "
     "other); echo 0 $(blockdev --getsz $whole) raid raid1 3 0 region_size 1024 2 - "
     "$whole - $other | dmsetup create $mapped; losetup -d $other",
     true},
};

// Its node may be there without the kernel's part.
static bool rig_has_target(const struct rig_layer *l)
{
    struct err e;
    char line[256];
    char *argv[] = {"sh", "-c", line, NULL};
    (void)snprintf(line, sizeof(line),
                   "modprobe -q %s; dmsetup targets 2> /dev/null | grep -q '^%s '",
                   l->module, l->module + strlen("dm-"));
    return proc_run(argv, NULL, &e) == 0;
}

__attribute__((unused)) static void rig_put_layer(struct rig *r, const char *what)
{
    for (size_t i = 0; i < ARRAY_LEN(rig_layers); i++) {
        const struct rig_layer *l = &rig_layers[i];
        if (strcmp(l->what, what) != 0)
            continue;
        if (l->mapped && !rig_has_target(l))
            rig_skip("this kernel has no device-mapper with that target");
        (void)snprintf(
            r->node, sizeof(r->node), "%s%s%s", l->mapped ? "/dev/mapper/godwit-" : "",
            l->mapped ? r->name : r->whole, strcmp(what, "partition") == 0 ? "p2" : "");
        sh("name=%s whole=%s mapped=godwit-%s; modprobe -q %s || true; %s", r->name,
           r->whole, r->name, l->module ? l->module : "loop", l->make);
    }
}

__attribute__((unused)) static void rig_make(struct rig *r, const char *what)
{
    int backing = memfd_create("disk", MFD_CLOEXEC);
    if (backing < 0 || ftruncate(backing, (off_t)RIG_SIZE) < 0)
        exit(1);
    r->fd = rig_loop(backing, r->name);
    close(backing);
    rig_describe(r, RIG_SIZE);
    rig_put_layer(r, what);
    sh("mkfs.ext4 -q -E nodiscard %s", r->node);
    (void)snprintf(r->mnt, sizeof(r->mnt), "%s", in("mnt"));
    if (mount(r->node, r->mnt, "ext4", 0, "discard") < 0) {
        printf("Bail out! mounting %s: %s\n", r->node, strerror(errno));
        exit(1);
    }
    if (str_starts(r->node, "/dev/mapper/"))
        sh("dmsetup remove --deferred %s", r->node);
}

__attribute__((unused)) static void rig_load(struct rig *r, char *load, unsigned seed)
{
    char number[16];
    struct err e;
    (void)snprintf(number, sizeof(number), "%u", seed);
    char *argv[] = {load, r->mnt, number, NULL};
    if (proc_start(&(struct proc_options){.argv = argv, .in = -1, .out = -1, .err = 2},
                   &r->load, &e) < 0) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
    rig_sleep(300); // its files are there
}

__attribute__((unused)) static void rig_freeze(struct rig *r, bool freeze)
{
    AUTO(fd_close) int fd = open(r->mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    (void)ioctl(fd, freeze ? FIFREEZE : FITHAW, 0);
}

__attribute__((unused)) static void rig_copy_range(struct rig *r, uint64_t off,
                                                   uint64_t len)
{
    for (uint64_t end = off + len; off < end;) {
        size_t part = min_u64(CHUNK, end - off);
        if (fd_pread(r->fd, r->chunk, part, off) < 0) {
            printf("Bail out! reading %s: %s\n", r->whole, strerror(errno));
            exit(1);
        }
        memcpy(r->replica + off, r->chunk, part);
        off += part;
    }
}

// Copies what harvest `id` holds; how many bytes that was.
__attribute__((unused)) static uint64_t rig_copy(struct rig *r, struct tracking *t,
                                                 uint64_t id)
{
    AUTO(extents_done) struct extents x = {0};
    uint64_t done, bytes = 0;
    struct err e;
    if (tracking_extents(t, 0, id, 0, r->disk.size, &x, &done, &e) < 0 ||
        done != r->disk.size) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
    for (size_t i = 0; i < x.n; i++)
        if (x.v[i].kind == EXTENT_DATA) {
            rig_copy_range(r, x.v[i].off, x.v[i].len);
            bytes += x.v[i].len;
        }
    return bytes;
}

// 64 KiB blocks that are not the same.
__attribute__((unused)) static uint64_t rig_differences(struct rig *r)
{
    uint64_t n = 0;
    for (uint64_t off = 0; off < r->disk.size; off += CHUNK) {
        if (fd_pread(r->fd, r->chunk, CHUNK, off) < 0)
            return UINT64_MAX;
        for (uint64_t at = 0; at < CHUNK; at += 64 * KIB)
            n += memcmp(r->replica + off + at, r->chunk + at, 64 * KIB) != 0;
    }
    return n;
}

__attribute__((unused)) static struct tracking *rig_track(struct rig *r, const char *only,
                                                          bool pinned)
{
    struct tracking *t = NULL;
    struct err e;
    static char run_dir[4096], bpf_dir[4096];
    (void)snprintf(run_dir, sizeof(run_dir), "%s", in("run"));
    (void)snprintf(bpf_dir, sizeof(bpf_dir), "%s", in("bpf"));
    struct tracking_options o = {.disks = &r->disk,
                                 .n_disks = 1,
                                 .run_dir = run_dir,
                                 .bpf_dir = pinned ? bpf_dir : NULL,
                                 .only = only};
    if (tracking_start(&o, &t, &e) < 0) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
    return t;
}

// The tracker asked for, or the test is skipped with the reason why there is none.
__attribute__((unused)) static struct tracking *rig_need(struct rig *r, const char *only)
{
    struct tracking *t = rig_track(r, only, true);
    if (strcmp(tracking_name(t), "none") == 0)
        rig_skip(tracking_state(t, 0).why);
    return t;
}

// SPDX-License-Identifier: Apache-2.0
// When is a disk known that should not be, or a tracker refused that should not be? An
// agent that is killed while it chooses another tracker, at every step of that; a disk in
// the place of another where the kernel does not number them; a disk that never rests.
#include "rig.h"

#include "agent/track_state.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define STEPS_MAX 12
static struct rig rig, second; // the second has no file system
static struct track_disk both[2];

static struct tracking *track_both_disks(void)
{
    struct tracking *t = NULL;
    struct err e;
    static char run_dir[4096], bpf_dir[4096];
    (void)snprintf(run_dir, sizeof(run_dir), "%s", in("run"));
    (void)snprintf(bpf_dir, sizeof(bpf_dir), "%s", in("bpf"));
    struct tracking_options o = {.disks = both,
                                 .n_disks = 2,
                                 .run_dir = run_dir,
                                 .bpf_dir = bpf_dir,
                                 .only = "bpf"};
    if (tracking_start(&o, &t, &e) < 0) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
    return t;
}

// --- killed while it chooses

static volatile int steps_left;

// Random numbers are asked for at every step: the last one is not survived.
static void step(int number, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    (void)number, (void)info;
    if (steps_left-- == 0)
        _exit(0);
    c->uc_mcontext.gregs[REG_RAX] = -ENOSYS;
}

static void die_at(int n)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getrandom, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {ARRAY_LEN(f), f};
    struct sigaction a = {.sa_sigaction = step, .sa_flags = SA_SIGINFO | SA_NODEFER};
    steps_left = n;
    if (sigaction(SIGSYS, &a, NULL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        _exit(2);
}

// The pins of a tracker are lost, the next agent is killed at its nth step. *ret_known:
// disks that the one after that knows. False: it has less steps.
static bool killed_at(int n, unsigned *ret_known)
{
    struct err e;
    int status = 1;
    struct tracking *t = track_both_disks();
    (void)tracking_harvest(t, 0, 0, &e);
    bool known = tracking_state(t, 0).known && tracking_state(t, 1).known;
    tracking_stop(t, true);
    sh("rm -r bpf/marks-*");
    pid_t child = fork();
    if (child == 0) {
        scratch_owner = 0;
        die_at(n);
        (void)track_both_disks();
        _exit(1);
    }
    (void)waitpid(child, &status, 0);
    t = track_both_disks();
    *ret_known = 0;
    for (size_t i = 0; i < 2; i++)
        *ret_known += tracking_state(t, i).known;
    tracking_stop(t, false);
    if (!known)
        rig_skip("this kernel cannot track with BPF");
    return status == 0;
}

static void test_killed(void)
{
    unsigned known = 0, n_known = 0, n = 0;
    while (n < STEPS_MAX && killed_at((int)n, &known)) {
        n++;
        n_known += known;
    }
    ok(n >= 3, "an agent that finds its marks gone is killed at each of %u steps", n);
    is_u64(n_known, 0, "the next one knows no disk");
    is_u64(known, 0, "nor where it is not killed");
}

// --- another disk

// The kernel's folder of the second disk, without a number of the disk, as before 5.15.
static void put_folder(const char *name)
{
    sh("d=/sys/block/%s; rm -rf %s; mkdir -p %s/queue; for f in dev size stat "
       "queue/iostats; do cat $d/$f > %s/$f; done; mount --bind %s $d",
       second.name, name, name, name, name);
}

static void test_exchanged(void)
{
    struct err e;
    put_folder("one");
    struct tracking *t = track_both_disks();
    (void)tracking_harvest(t, 0, 0, &e);
    (void)tracking_harvest(t, 1, 0, &e);
    ok(tracking_state(t, 1).known, "a disk that the kernel does not number is known");
    put_folder("two");
    (void)tracking_harvest(t, 2, 1, &e);
    struct tracking_state s = tracking_state(t, 1);
    ok(!s.known && tracking_state(t, 0).known, "another one in its place is not (%s)",
       s.why);
    tracking_stop(t, true);
    put_folder("three");
    t = track_both_disks();
    ok(!tracking_state(t, 1).known, "nor is it by the next agent");
    tracking_stop(t, false);
    sh("for i in 1 2 3; do umount /sys/block/%s; done", second.name);
}

// --- a disk that does not rest

static struct track_seen fake;
static bool harvested;

static int fake_harvest(struct tracker *t, size_t i, struct marks *into, struct err *e)
{
    (void)t, (void)i, (void)e;
    memset(into->v, 0xff, (size_t)into->n);
    fake.sectors += 8; // the probe's block, and nothing else: its disk has rested since
    harvested = true;
    return 0;
}

static int fake_seen(struct tracker *t, size_t i, struct track_seen *ret, struct err *e)
{
    (void)t, (void)i, (void)e;
    fake.sectors += !harvested;
    *ret = fake;
    return 0;
}

static void test_restless(void)
{
    static const struct tracker_ops ops = {
        .name = "fake", .harvest = fake_harvest, .seen = fake_seen};
    struct tracker t = {&ops};
    struct marks pending = {xcalloc(1, 8192), RIG_SIZE >> 16, 16};
    struct err e = {0};
    int status = track_probe(&rig.disk, &t, 0, &pending, &e);
    ok(status == 0, "a disk that does not rest at first does not refuse a tracker (%s)",
       e.text);
    free(pending.v);
}

// Whoever asks has something written behind it.
static int busy_seen(struct tracker *t, size_t i, struct track_seen *ret, struct err *e)
{
    (void)t, (void)i, (void)e;
    *ret = fake;
    if (pwrite(second.fd, rig.chunk, 4096, 0) != 4096)
        return err_errno(e, errno, "writing");
    fake.sectors += 8;
    return 0;
}

static void test_counts(void)
{
    static const struct tracker_ops ops = {.name = "fake", .seen = busy_seen};
    struct tracker t = {&ops};
    struct track_kernel k;
    struct track_counts least, most;
    struct err e = {0};
    if (track_kernel(second.disk.name, &k, &e) < 0)
        exit(1);
    int64_t lead = (int64_t)(k.sectors - fake.sectors);
    int status = track_both(&second.disk, &t, 0, 20, &least, &most, &e);
    ok(status < 0 && e.code == ERR_RETRY,
       "a disk that never rests has no moment of rest");
    ok((int64_t)(least.kernel - least.seen.sectors) <= lead,
       "... the kernel's lead is not below that of the least");
    ok((int64_t)(most.kernel - most.seen.sectors) >= lead,
       "... nor above that of the most, which a disk starts with");
}

int main(void)
{
    rig_world();
    rig_make(&rig, "disk");
    int backing = memfd_create("second", MFD_CLOEXEC);
    if (backing < 0 || ftruncate(backing, 64 << 20) < 0)
        return 1;
    second.fd = rig_loop(backing, second.name);
    close(backing);
    rig_describe(&second, 64 * MIB);
    both[0] = rig.disk;
    both[1] = second.disk;
    test_killed();
    test_exchanged();
    test_restless();
    test_counts();
    return done_testing();
}

// SPDX-License-Identifier: Apache-2.0
// Which tracker is chosen when the kernel refuses others, and what makes a disk unknown.
// The kernel refuses by a seccomp filter in a child.
#include "rig.h"

#include "agent/tracefs.h"

#include <sys/syscall.h>

static struct rig rig;

// What a child that may not make these calls chooses, and why its disk is unknown.
static void chosen(unsigned a, unsigned b, unsigned c, char ret_name[static 200])
{
    int p[2];
    if (pipe2(p, O_CLOEXEC) < 0)
        exit(1);
    pid_t child = fork();
    if (child == 0) {
        scratch_owner = 0;
        rig_refuse(a, b, c);
        struct tracking *t = rig_track(&rig, NULL, true);
        struct tracking_state s = tracking_state(t, 0);
        char line[200];
        (void)snprintf(line, sizeof(line), "%s%s%.150s", tracking_name(t),
                       s.known ? "" : ": ", s.why);
        (void)fd_write(p[1], line, strlen(line) + 1);
        tracking_stop(t, false);
        _exit(0);
    }
    close(p[1]);
    memset(ret_name, 0, 200);
    ssize_t n = read(p[0], ret_name, 199);
    (void)n;
    close(p[0]);
    (void)waitpid(child, NULL, 0);
}

static void hide_tracefs(void)
{
    // The same everywhere, mounted or not. BTF stays to be seen.
    (void)mount("none", "/sys/kernel/tracing", "tmpfs", 0, NULL);
    (void)mount("none", "/sys/kernel/debug", "tmpfs", 0, NULL);
}

// And not debugfs.
static void show_tracefs(void)
{
    (void)mount("none", "/sys/kernel/debug", "tmpfs", 0, NULL);
    (void)mount("none", "/sys/kernel/tracing", "tracefs", 0, NULL);
}

static void hide_btf(bool hide)
{
    if (hide)
        (void)mount("none", "/sys/kernel/btf", "tmpfs", 0, NULL);
    else
        (void)umount("/sys/kernel/btf");
}

static void choices(bool blktrace)
{
    char name[200];
    chosen(NONE, NONE, NONE, name);
    if (strcmp(name, "bpf") != 0) {
        skip("the best comes first", name);
        return;
    }
    is_str(name, "bpf", "the best comes first");
    chosen(SYS_bpf, NONE, NONE, name);
    is_str(name, "ftrace", "without bpf() the kernel's tracer is next");
    hide_btf(true);
    chosen(NONE, NONE, NONE, name);
    is_str(name, "ftrace", "without BTF too");
    show_tracefs();
    chosen(SYS_mkdirat, NONE, NONE, name); // of an instance
    is_str(name, blktrace ? "blktrace" : "bpf-classic",
           blktrace ? "without instances of it the block tracer is"
                    : "without instances of it, where kernels are locked down, BPF by "
                      "perf events is");
    chosen(SYS_mkdirat, SYS_fsopen, NONE, name);
    is_str(name, "bpf-classic", "without debugfs too");
    chosen(SYS_mkdirat, SYS_fsopen, SYS_perf_event_open, name);
    ok(str_starts(name, "none: "), "without those nothing is left");
    hide_btf(false);
    hide_tracefs();
    chosen(SYS_fsopen, NONE, NONE, name);
    is_str(name, "bpf", "without tracefs BPF does");
    chosen(SYS_bpf, SYS_fsopen, NONE, name);
    ok(str_starts(name, "none: no tracker works: bpf: "),
       "without both nothing is ever known, and it says so (%s)", name);
}

static void write_blocks(unsigned n)
{
    AUTO(fd_close) int fd = open(in("mnt/file"), O_RDWR | O_CREAT | O_DIRECT, 0600);
    memset(rig.chunk, 1, 4096);
    for (unsigned i = 0; i < n; i++)
        if (fd_pwrite(fd, rig.chunk, 4096, (uint64_t)i % 256 * 4096) < 0)
            exit(1);
}

static void restarts(const char *only)
{
    struct err e;
    struct tracking *t = rig_track(&rig, only, true);
    if (strcmp(tracking_name(t), "none") == 0) {
        skip("restarts", tracking_state(t, 0).why);
        tracking_stop(t, false);
        return;
    }
    struct tracking_state before = tracking_state(t, 0);
    ok(before.known, "%s: a disk is known from the start", only);
    (void)tracking_harvest(t, 1, 0, &e);
    write_blocks(64);
    (void)tracking_harvest(t, 2, 0, &e);
    uint64_t pending = tracking_state(t, 0).pending;
    ok(pending > 0, "%s: a write is in the harvest after it", only);
    write_blocks(8);
    (void)tracking_harvest(t, 2, 1, &e);
    is_u64(tracking_state(t, 0).pending, pending,
           "the same harvest again changes nothing");
    tracking_stop(t, true);
    t = rig_track(&rig, only, false); // without its pins
    struct tracking_state after = tracking_state(t, 0);
    ok(!after.known && after.epoch != before.epoch,
       "%s: an agent that finds no marks knows nothing (%s)", only, after.why);
    AUTO(extents_done) struct extents x = {0};
    uint64_t done;
    ok(tracking_extents(t, 0, 2, 0, rig.disk.size, &x, &done, &e) == 0 && x.n == 1 &&
           x.v[0].kind == EXTENT_DATA,
       "%s: and says that everything may have changed", only);
    tracking_rearm(t, 0);
    extents_done(&x);
    ok(tracking_extents(t, 0, 2, 0, rig.disk.size + MIB, &x, &done, &e) == 0 &&
           done == rig.disk.size &&
           tracking_extents(t, 0, 2, done, MIB, &x, &done, &e) == 0 && done == MIB,
       "%s: what a disk has grown by is data", only);
    struct tracking_state again = tracking_state(t, 0);
    ok(again.known && again.epoch != after.epoch,
       "%s: armed again it is known, under another epoch", only);
    tracking_stop(t, false);
}

static void other_boot(void)
{
    struct err e;
    tracking_stop(rig_track(&rig, NULL, true), true);
    AUTO(fd_close) int fd = open(in("run/tracking"), O_RDWR | O_CLOEXEC);
    if (fd_pwrite(fd, "00000000", 8, 24) < 0) // its boot id
        exit(1);
    struct tracking *t = rig_track(&rig, NULL, true);
    is_str(tracking_state(t, 0).why, "reboot", "what another boot knew is worth nothing");
    ok(tracking_harvest(t, 0, 0, &e) == 0 && tracking_state(t, 0).known,
       "harvest 0 begins anew");
    rig.disk.size -= 512 * KIB;
    tracking_stop(t, true);
    t = rig_track(&rig, NULL, true);
    ok(!tracking_state(t, 0).known, "a disk of another size is another disk (%s)",
       tracking_state(t, 0).why);
    tracking_stop(t, false);
    rig.disk.size += 512 * KIB;
}

static void trust(void)
{
    struct err e;
    uint64_t n_short = 1;
    struct tracking *t = rig_track(&rig, NULL, true);
    char first[16];
    (void)snprintf(first, sizeof(first), "%s", tracking_name(t));
    (void)tracking_distrust(t, "caught", &e);
    ok(strcmp(tracking_name(t), first) != 0,
       "a tracker that is not trusted is replaced (%s by %s)", first, tracking_name(t));
    is_str(tracking_state(t, 0).why, "caught", "and the disk is unknown");
    tracking_stop(t, true);
    t = rig_track(&rig, NULL, true);
    ok(strcmp(tracking_name(t), first) != 0, "also after a restart");
    tracking_stop(t, false);
    t = rig_track(&rig, NULL, true);
    sh("echo 0 > /sys/block/%s/queue/iostats", rig.name);
    (void)tracking_audit(t, 0, &n_short, &e);
    struct tracking_state s = tracking_state(t, 0);
    ok(!s.known, "without the kernel's counts nothing is known (%s)", s.why);
    sh("echo 1 > /sys/block/%s/queue/iostats", rig.name);
    tracking_stop(t, false);
}

// A child that starts a tracker and then does what it is told; false: it cannot.
static bool tracing_child(const char *tracker, pid_t *ret_child,
                          void (*then)(struct tracking *t, int out), int *ret_in)
{
    int p[2];
    char said = 0;
    if (pipe2(p, O_CLOEXEC) < 0)
        exit(1);
    *ret_child = fork();
    if (*ret_child == 0) {
        scratch_owner = 0;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct tracking *t = rig_track(&rig, tracker, true);
        (void)fd_write(p[1], strcmp(tracking_name(t), "none") == 0 ? "n" : "y", 1);
        then(t, p[1]);
        tracking_stop(t, false);
        _exit(0);
    }
    close(p[1]);
    ssize_t n = read(p[0], &said, 1);
    *ret_in = p[0];
    return n == 1 && said == 'y';
}

static void end_child(pid_t child, int in)
{
    close(in);
    (void)kill(child, SIGKILL);
    (void)waitpid(child, NULL, 0);
    sh("rm -f run/tracking");
}

static void wait_for_kill(struct tracking *t, int out)
{
    (void)t, (void)out;
    (void)pause();
}

// There is one a disk, and it stays when its process is killed.
static bool left_behind(void)
{
    struct tracker *t = NULL;
    struct err e = {0};
    pid_t child;
    int in;
    bool again, can = tracing_child("blktrace", &child, wait_for_kill, &in);
    if (can) {
        ok(track_blktrace_ops.start(&rig.disk, 1, 16, NULL, &t, &again, &e) < 0,
           "blktrace: one that somebody reads is not taken away (%s)", e.text);
    } else {
        skip("blktrace: one that somebody reads", "it cannot be had here");
    }
    end_child(child, in);
    if (!can)
        return false;
    ok(track_blktrace_ops.start(&rig.disk, 1, 16, NULL, &t, &again, &e) == 0,
       "blktrace: one that a dead one left is");
    if (t)
        t->ops->stop(t, false);
    return true;
}

static void harvest_late(struct tracking *t, int out)
{
    struct err e;
    (void)raise(SIGSTOP);
    (void)tracking_harvest(t, 1, 0, &e);
    struct tracking_state s = tracking_state(t, 0);
    char line[200];
    (void)snprintf(line, sizeof(line), "%d%s", s.known, s.why);
    tracking_stop(t, false);
    (void)fd_write(out, line, strlen(line));
    (void)pause();
}

// Nobody empties its buffers while so many writes are made, each of them `kb` (0: as they
// are).
static bool overflow(const char *tracker, unsigned n_writes, unsigned kb)
{
    pid_t child;
    int in;
    struct err e;
    AUTO(fd_close) int dir = -1;
    char line[200] = "";
    bool can = tracing_child(tracker, &child, harvest_late, &in) &&
               (kb == 0 || tracefs_open("tracefs", &dir, &e) == 0);
    if (can) {
        (void)waitpid(child, NULL, WUNTRACED);
        if (kb > 0)
            sh("for i in /proc/%d/fd/%d/instances/godwit-%d-*; do "
               "echo %u > $i/buffer_size_kb; done",
               getpid(), dir, child, kb);
        write_blocks(n_writes);
        (void)kill(child, SIGCONT);
        ssize_t n = read(in, line, sizeof(line) - 1);
        ok(n > 0 && line[0] == '0' && strstr(line, "events lost") != NULL,
           "%s: an overflow is noticed (%s)", tracker, line + 1);
        if (kb > 0) {
            sh("! ls -d /proc/%d/fd/%d/instances/godwit-%d-* 2> /dev/null", getpid(), dir,
               child);
            ok(true, "the instance is gone at the end");
        }
    } else {
        skip(tracker, "it cannot be had here");
    }
    end_child(child, in);
    return can;
}

int main(void)
{
    rig_world();
    rig_make(&rig, "disk");
    restarts("bpf");
    restarts("ftrace");
    restarts("blktrace");
    restarts("bpf-classic");
    other_boot();
    trust();
    (void)overflow("ftrace", 2000, 4);
    bool blktrace = left_behind() && overflow("blktrace", 200000, 0);
    choices(blktrace);
    return done_testing();
}

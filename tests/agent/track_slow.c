// SPDX-License-Identifier: Apache-2.0
// A disk on which a write stays under way for as long as we like: a loop device whose
// file lies on a file system that we freeze. Between issue and completion a harvest takes
// place and the old block is copied; what is marked at the end has to come again. Then
// the mistake is made on purpose: marks at the issue of a request alone.
#include "rig.h"

#include "agent/tracefs.h"

static struct rig below, slow; // the frozen one, and the disk on it

static int device, backing; // of the slow disk; reads go to its file: a loop device has
                            // one queue, they would wait behind the write
static pid_t writer;        // of one block

// A mistake of ours may not leave a frozen file system behind.
static void watchdog(void)
{
    pid_t parent = getpid();
    if (fork() != 0)
        return;
    scratch_owner = 0;
    for (int i = 0; i < 1200 && getppid() == parent; i++)
        rig_sleep(100);
    rig_freeze(&below, false);
    _exit(0);
}

static void start_write(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        scratch_owner = 0;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        memset(slow.chunk, 0x77, 4096);
        _exit(fd_pwrite(device, slow.chunk, 4096, 3 * MIB) < 0);
    }
    writer = pid;
    rig_sleep(300); // it is issued, and cannot end
}

static bool write_ended(void)
{
    int status = 1;
    return waitpid(writer, &status, 0) == writer && status == 0;
}

static void make_slow(void)
{
    rig_make(&below, "disk");
    backing = open(in("mnt/backing"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (backing < 0 || ftruncate(backing, 64 << 20) < 0)
        exit(1);
    slow.fd = device = rig_loop(backing, slow.name);
    rig_describe(&slow, 64 * MIB);
    slow.fd = backing;
    watchdog();
}

static void tracked(const char *only)
{
    struct err e;
    struct tracking *t = rig_track(&slow, only, true);
    if (strcmp(tracking_name(t), "none") == 0) {
        skip(only, tracking_state(t, 0).why);
        tracking_stop(t, false);
        return;
    }
    memset(slow.chunk, 0, MIB);
    if (fd_pwrite(device, slow.chunk, MIB, 3 * MIB) < 0)
        exit(1);
    (void)tracking_harvest(t, 0, 0, &e);
    rig_copy_range(&slow, 0, slow.disk.size);
    rig_freeze(&below, true);
    start_write();
    (void)tracking_harvest(t, 1, 0, &e);
    (void)rig_copy(&slow, t, 1);
    ok(slow.replica[3 * MIB] == 0, "%s: a write under way is not copied yet", only);
    rig_freeze(&below, false);
    ok(write_ended(), "%s: it ends", only);
    (void)tracking_harvest(t, 2, 1, &e);
    (void)rig_copy(&slow, t, 2);
    is_u64(rig_differences(&slow), 0, "and is in the next harvest");
    tracking_stop(t, false);
}

static unsigned n_seen;
static void count(void *context, const struct trace_write *w)
{
    n_seen += w->dev == *(const uint32_t *)context;
}

// What an instance that watches the issue of requests has seen since it was asked last.
static unsigned drain(const char *instance, const struct trace_header *h,
                      const struct trace_format *f)
{
    static uint8_t page[64 * 1024];
    struct err e;
    uint64_t lost;
    uint32_t dev = track_dev(slow.disk.major, slow.disk.minor);
    n_seen = 0;
    for (int cpu = 0; cpu < 4096; cpu++) {
        AUTO(str_free)
        char *path = xasprintf("%s/per_cpu/cpu%d/trace_pipe_raw", instance, cpu);
        AUTO(fd_close) int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
            break;
        for (ssize_t n; (n = read(fd, page, h->data.off + h->data.size)) > 0;)
            (void)trace_page(page, (size_t)n, h, f, count, &dev, &lost, &e);
    }
    return n_seen;
}

static void at_submission(void)
{
    struct err e;
    struct trace_format f;
    struct trace_header h;
    AUTO(fd_close) int dir = -1;
    AUTO(buf_done) struct buf b = BUF_INIT(TRACE_TEXT_MAX);
    if (tracefs_open("tracefs", &dir, &e) < 0 ||
        tracefs_read(dir, "events/block/block_rq_issue/format", &b, &e) < 0 ||
        trace_format_parse(b.data, &f, &e) < 0 ||
        tracefs_read(dir, "events/header_page", &b, &e) < 0 ||
        trace_header_parse(b.data, &h, &e) < 0) {
        skip("a mark at the issue", e.text);
        return;
    }
    AUTO(str_free)
    char *instance =
        xasprintf("/proc/%d/fd/%d/instances/test-%d", getpid(), dir, getpid());
    sh("mkdir %s; echo 1 > %s/events/block/block_rq_issue/enable", instance, instance);
    rig_freeze(&below, true);
    start_write();
    ok(drain(instance, &h, &f) > 0, "a mark at the issue comes while the write goes on");
    rig_copy_range(&slow, 3 * MIB, 4096);
    rig_freeze(&below, false);
    bool ended = write_ended();
    unsigned later = drain(instance, &h, &f);
    ok(ended && later == 0 && rig_differences(&slow) == 1,
       "and none afterwards: the block is lost, which is seen");
    sh("rmdir %s", instance);
}

int main(void)
{
    rig_world();
    make_slow();
    tracked("bpf");
    tracked("ftrace");
    tracked("blktrace");
    tracked("bpf-classic");
    memset(slow.chunk, 0, MIB);
    if (fd_pwrite(device, slow.chunk, MIB, 3 * MIB) < 0)
        return 1;
    rig_copy_range(&slow, 0, slow.disk.size);
    at_submission();
    return done_testing();
}

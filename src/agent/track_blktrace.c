// SPDX-License-Identifier: Apache-2.0
// The kernel's block tracer (BLKTRACESETUP, from 2.6.17 on; include/uapi/linux/fs.h and
// kernel/trace/blktrace.c of Linux): completed requests of one disk, a buffer a CPU, read
// from debugfs. Kernels that are locked down do not open it.
//
// What surprises: a record's room is taken before it is written, so that a reader on
// another CPU may see half of it; the writer has its interrupts off. So each buffer is
// read on its own CPU. A disk has one such tracer, which stays when its process dies: one
// whose buffers nobody has open is taken away.
#include "agent/tracefs.h"
#include "agent/track_reader.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/blktrace_api.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAX_CPUS 4096
#define BUFFER (128 * KIB)     // one, of those that a CPU has for a disk:
#define BUFFERS_ALL (64 * MIB) // of all CPUs and disks together
#define BUFFERS_MIN 4
#define BUFFERS_MAX 32
#define READ_LEN (256 * KIB)
#define REST_MAX (72 * KIB) // a record that is not whole yet: 48 bytes and 64 KiB

struct blk_buffer { // of a CPU
    int fd;
    unsigned cpu;
    uint32_t sequence; // of its last record
    uint8_t *rest;     // of the last record, which was not whole
    size_t n_rest;
};
struct blk_disk {
    int fd;       // the device
    int folder;   // of it in debugfs
    bool running; // set up by us
    struct blk_buffer *buffers;
    size_t n_buffers;
};
struct tracker_blk {
    struct track_reader reader;
    struct blk_disk *disks;
    size_t n_disks;
    uint8_t *room; // REST_MAX + READ_LEN
};
_Static_assert(offsetof(struct tracker_blk, reader) == 0, "handed out as its base");

// --- reading

static void write_seen(void *context, const struct trace_write *w)
{
    track_reader_write(context, w->dev, w->sector, w->n_sectors);
}

// What one CPU has written about one disk. On that CPU.
static int drain_buffer(struct tracker_blk *t, struct blk_buffer *b, struct err *e)
{
    ssize_t n = 1;
    while (n > 0) {
        size_t used = 0, len = b->n_rest;
        uint64_t lost = 0;
        memcpy(t->room, b->rest, len);
        n = read(b->fd, t->room + len, READ_LEN);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return err_errno(e, errno, "reading what blktrace wrote on CPU %u", b->cpu);
        len += n > 0 ? (size_t)n : 0;
        int done = trace_blk(t->room, len, write_seen, t, &b->sequence, &used, &lost, e);
        t->reader.lost += lost;
        b->n_rest = done < 0 ? 0 : len - used; // at most a record: below REST_MAX
        memcpy(b->rest, t->room + used, b->n_rest);
        if (done < 0)
            return -1;
    }
    return 0;
}

static bool run_on(unsigned cpu)
{
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    CPU_ZERO_S(CPU_ALLOC_SIZE(MAX_CPUS), set);
    CPU_SET_S(cpu, CPU_ALLOC_SIZE(MAX_CPUS), set);
    int r = sched_setaffinity(0, CPU_ALLOC_SIZE(MAX_CPUS), set);
    CPU_FREE(set);
    return r == 0;
}

static int blk_drain(struct track_reader *reader, struct err *e)
{
    struct tracker_blk *t = (struct tracker_blk *)reader;
    size_t len = CPU_ALLOC_SIZE(MAX_CPUS);
    cpu_set_t *before = CPU_ALLOC(MAX_CPUS);
    bool known = sched_getaffinity(0, len, before) == 0;
    int result = 0;
    // All disks have the same CPUs, in the same order.
    for (size_t at = 0; at < t->disks[0].n_buffers; at++) {
        unsigned cpu = t->disks[0].buffers[at].cpu;
        if (!run_on(cpu))
            result = err_set(e, ERR_FAILED, "what CPU %u wrote cannot be read", cpu);
        for (size_t i = 0; i < t->n_disks; i++)
            if (drain_buffer(t, &t->disks[i].buffers[at], e) < 0)
                result = -1;
    }
    if (known)
        (void)sched_setaffinity(0, len, before);
    CPU_FREE(before);
    return result;
}

static int blk_seen(struct tracker *tracker, size_t i, struct track_seen *ret,
                    struct err *e)
{
    struct tracker_blk *t = (struct tracker_blk *)tracker;
    AUTO(buf_done) struct buf b = BUF_INIT(64);
    uint64_t dropped;
    if (track_reader_seen(tracker, i, ret, e) < 0 ||
        tracefs_read(t->disks[i].folder, "dropped", &b, e) < 0)
        return -1;
    if (str_to_u64(str_trim(b.data), &dropped) < 0)
        return err_set(e, ERR_FAILED, "blktrace does not say what it dropped");
    ret->lost += dropped;
    return 0;
}

// --- setting up

// Has a process the buffers of this disk open?
static bool is_read(const char *name)
{
    AUTO(str_free) char *end = xasprintf("/block/%s/trace0", name);
    DIR *all = opendir("/proc");
    bool found = false;
    for (const struct dirent *p; all && !found && (p = readdir(all));) {
        AUTO(str_free) char *path = xasprintf("/proc/%s/fd", p->d_name);
        DIR *fds = p->d_name[0] >= '1' && p->d_name[0] <= '9' ? opendir(path) : NULL;
        for (const struct dirent *f; fds && !found && (f = readdir(fds));) {
            char target[256] = "";
            if (readlinkat(dirfd(fds), f->d_name, target, sizeof(target) - 1) > 0)
                found = str_ends(target, end);
        }
        if (fds)
            closedir(fds);
    }
    if (all)
        closedir(all);
    return found;
}

static int set_up(struct blk_disk *d, const struct track_disk *disk, size_t n_disks,
                  struct err *e)
{
    long n_cpus = sysconf(_SC_NPROCESSORS_CONF);
    uint64_t n = BUFFERS_ALL / BUFFER / n_disks / (uint64_t)(n_cpus > 0 ? n_cpus : 1);
    struct blk_user_trace_setup setup = {
        .act_mask = BLK_TC_COMPLETE,
        .buf_size = BUFFER,
        .buf_nr = (uint32_t)max_u64(BUFFERS_MIN, min_u64(n, BUFFERS_MAX)),
    };
    struct blk_user_trace_setup again = setup;
    d->fd = open(disk->node, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (d->fd < 0)
        return err_set(e, ERR_REFUSED, "opening %s: %s", disk->node, strerror(errno));
    int error = ioctl(d->fd, BLKTRACESETUP, &setup) < 0 ? errno : 0;
    if (error == EBUSY && !is_read(disk->name)) {
        (void)ioctl(d->fd, BLKTRACESTOP);
        (void)ioctl(d->fd, BLKTRACETEARDOWN);
        error = ioctl(d->fd, BLKTRACESETUP, &again) < 0 ? errno : 0;
    }
    if (error != 0)
        return err_set(e, ERR_REFUSED, "blktrace of %s: %s", disk->name,
                       error == EBUSY ? "somebody else traces it" : strerror(error));
    d->running = true;
    return 0;
}

// A CPU that comes later has no buffer: its file is looked for in vain, and the audit
// says what was missed.
static int open_buffers(struct blk_disk *d, int debugfs, const char *name, struct err *e)
{
    AUTO(str_free) char *folder = xasprintf("block/%s", name);
    d->folder = openat(debugfs, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->folder < 0)
        return err_set(e, ERR_REFUSED, "debugfs has no %s: %s", folder, strerror(errno));
    d->buffers = xcalloc(MAX_CPUS, sizeof(*d->buffers));
    long n_cpus = sysconf(_SC_NPROCESSORS_CONF);
    for (unsigned cpu = 0; cpu < MAX_CPUS && cpu < (unsigned long)n_cpus; cpu++) {
        char file[32];
        (void)snprintf(file, sizeof(file), "trace%u", cpu);
        int fd = openat(d->folder, file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return err_set(e, ERR_REFUSED, "opening %s of blktrace: %s", file,
                           strerror(errno));
        d->buffers[d->n_buffers++] =
            (struct blk_buffer){.fd = fd, .cpu = cpu, .rest = xmalloc(REST_MAX)};
    }
    return d->n_buffers > 0 ? 0 : err_set(e, ERR_REFUSED, "blktrace knows no CPU");
}

static int arm(struct tracker_blk *t, const struct track_disk *disks, struct err *e)
{
    AUTO(fd_close) int debugfs = -1;
    if (tracefs_open("debugfs", &debugfs, e) < 0)
        return -1;
    for (size_t i = 0; i < t->n_disks; i++) {
        struct blk_disk *d = &t->disks[i];
        if (set_up(d, &disks[i], t->n_disks, e) < 0 ||
            open_buffers(d, debugfs, disks[i].name, e) < 0)
            return -1;
        if (d->n_buffers != t->disks[0].n_buffers)
            return err_set(e, ERR_REFUSED, "CPUs come and go");
    }
    for (size_t i = 0; i < t->n_disks; i++)
        if (ioctl(t->disks[i].fd, BLKTRACESTART) < 0)
            return err_set(e, ERR_REFUSED, "starting blktrace of %s: %s", disks[i].name,
                           strerror(errno));
    return 0;
}

static void blk_stop(struct tracker *tracker, bool keep)
{
    struct tracker_blk *t = (struct tracker_blk *)tracker;
    (void)keep; // its marks are ours: nothing goes on without us
    track_reader_end(&t->reader);
    for (size_t i = 0; i < t->n_disks; i++) {
        struct blk_disk *d = &t->disks[i];
        for (size_t at = 0; at < d->n_buffers; at++) {
            fd_close(d->buffers[at].fd);
            free(d->buffers[at].rest);
        }
        free(d->buffers);
        if (d->running) {
            (void)ioctl(d->fd, BLKTRACESTOP);
            (void)ioctl(d->fd, BLKTRACETEARDOWN);
        }
        fd_close(d->folder);
        fd_close(d->fd);
    }
    track_reader_done(&t->reader);
    free(t->disks);
    free(t->room);
    free(t);
}

static int blk_start(const struct track_disk *disks, size_t n_disks, unsigned shift,
                     const char *dir, struct tracker **ret, bool *ret_again,
                     struct err *e)
{
    (void)dir;
    if (n_disks == 0)
        return err_set(e, ERR_REFUSED, "there is no disk");
    struct tracker_blk *t = xcalloc(1, sizeof(*t));
    t->disks = xcalloc(n_disks, sizeof(*t->disks));
    t->n_disks = n_disks;
    t->room = xmalloc(REST_MAX + READ_LEN);
    for (size_t i = 0; i < n_disks; i++)
        t->disks[i].fd = t->disks[i].folder = -1;
    track_reader_init(&t->reader, &track_blktrace_ops, disks, n_disks, shift, blk_drain);
    if (arm(t, disks, e) < 0 || track_reader_run(&t->reader, e) < 0) {
        blk_stop(&t->reader.tracker, false);
        return -1;
    }
    *ret_again = false;
    *ret = &t->reader.tracker;
    return 0;
}

const struct tracker_ops track_blktrace_ops = {
    .name = "blktrace",
    .what = "the kernel's block tracer, one a disk; ends with the agent",
    .start = blk_start,
    .harvest = track_reader_harvest,
    .seen = blk_seen,
    .stop = blk_stop,
};

// SPDX-License-Identifier: Apache-2.0
// The kernel's own tracer, in an instance of ours (kernel 3.10 with the tracer's
// instances): block_rq_complete, filtered in the kernel to writes of our disks, read as
// raw pages (Documentation/trace/ftrace.rst of Linux).
//
// What surprises: an instance stays when its process dies. It can be removed by anyone
// once nobody has its files open, so starting removes what is left of dead ones; one in
// use refuses that by itself.
#include "agent/tracefs.h"
#include "agent/track_reader.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "godwit-"
#define EVENT "events/block/block_rq_complete"
#define BUFFERS_KIB 65536 // of all CPUs together, within these two for one:
#define BUFFER_KIB_MIN 512
#define BUFFER_KIB_MAX 4096
#define MAX_CPUS 4096

struct tracker_ftrace {
    struct track_reader reader;
    int tracefs, instance; // folders
    char name[32];         // of the instance, "": not made
    struct trace_format format;
    struct trace_header header;
    int *pipes; // a CPU each
    size_t n_pipes;
    uint8_t *page;
};
_Static_assert(offsetof(struct tracker_ftrace, reader) == 0, "handed out as its base");

static void write_seen(void *context, const struct trace_write *w)
{
    track_reader_write(context, w->dev, w->sector, w->n_sectors);
}

static int ftrace_drain(struct track_reader *reader, struct err *e)
{
    struct tracker_ftrace *t = (struct tracker_ftrace *)reader;
    size_t size = t->header.data.off + t->header.data.size;
    int result = 0;
    for (size_t cpu = 0; cpu < t->n_pipes; cpu++) {
        ssize_t n;
        while ((n = read(t->pipes[cpu], t->page, size)) > 0) {
            uint64_t lost = 0;
            if (trace_page(t->page, (size_t)n, &t->header, &t->format, write_seen, t,
                           &lost, e) < 0)
                result = -1;
            reader->lost += lost;
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            result = err_errno(e, errno, "reading the trace buffer of CPU %zu", cpu);
    }
    return result;
}

// "overrun: 5" in a CPU's statistics: events that nobody will read any more.
static uint64_t overrun(const char *text, const char *key)
{
    uint64_t v = 0;
    const char *at = strstr(text, key);
    if (at)
        for (at += strlen(key); *at >= '0' && *at <= '9'; at++)
            v = v * 10 + (uint64_t)(*at - '0');
    return v;
}

static int ftrace_seen(struct tracker *tracker, size_t i, struct track_seen *ret,
                       struct err *e)
{
    struct tracker_ftrace *t = (struct tracker_ftrace *)tracker;
    if (track_reader_seen(tracker, i, ret, e) < 0)
        return -1;
    for (size_t cpu = 0; cpu < t->n_pipes; cpu++) {
        char path[64];
        AUTO(buf_done) struct buf b = BUF_INIT(TRACE_TEXT_MAX);
        (void)snprintf(path, sizeof(path), "per_cpu/cpu%zu/stats", cpu);
        if (tracefs_read(t->instance, path, &b, e) < 0)
            return -1;
        ret->lost += overrun(b.data, "\noverrun: ") +
                     overrun(b.data, "commit overrun: ") +
                     overrun(b.data, "dropped events: ");
    }
    return 0;
}

static void remove_instance(int instances, const char *name)
{
    // An enabled event does not keep it; who has its files open does.
    (void)unlinkat(instances, name, AT_REMOVEDIR);
}

static void remove_dead(int tracefs)
{
    int fd = openat(tracefs, "instances", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (d == NULL) {
        fd_close(fd);
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(d)) != NULL)
        if (str_starts(entry->d_name, PREFIX))
            remove_instance(fd, entry->d_name);
    closedir(d);
}

static int make_instance(struct tracker_ftrace *t, struct err *e)
{
    char path[64];
    (void)snprintf(t->name, sizeof(t->name), PREFIX "%d-%llx", getpid(),
                   (unsigned long long)clock_ns());
    (void)snprintf(path, sizeof(path), "instances/%s", t->name);
    if (mkdirat(t->tracefs, path, 0700) < 0) {
        t->name[0] = 0;
        return err_set(e, ERR_REFUSED, "making an instance of the kernel's tracer: %s",
                       strerror(errno));
    }
    t->instance = openat(t->tracefs, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->instance < 0)
        return err_set(e, ERR_REFUSED, "opening %s of the kernel's tracer: %s", path,
                       strerror(errno));
    return 0;
}

static int open_pipes(struct tracker_ftrace *t, struct err *e)
{
    t->pipes = xcalloc(MAX_CPUS, sizeof(*t->pipes));
    for (size_t cpu = 0; cpu < MAX_CPUS; cpu++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "per_cpu/cpu%zu/trace_pipe_raw", cpu);
        int fd = openat(t->instance, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
            break;
        if (fd < 0)
            return err_set(e, ERR_REFUSED, "opening %s of the kernel's tracer: %s", path,
                           strerror(errno));
        t->pipes[t->n_pipes++] = fd;
    }
    return t->n_pipes > 0 ? 0 : err_set(e, ERR_REFUSED, "the tracer knows no CPU");
}

static int read_formats(struct tracker_ftrace *t, struct err *e)
{
    AUTO(buf_done) struct buf b = BUF_INIT(TRACE_TEXT_MAX);
    if (tracefs_read(t->tracefs, EVENT "/format", &b, e) < 0 ||
        trace_format_parse(b.data, &t->format, e) < 0 ||
        tracefs_read(t->tracefs, "events/header_page", &b, e) < 0 ||
        trace_header_parse(b.data, &t->header, e) < 0)
        return -1;
    t->page = xmalloc(t->header.data.off + t->header.data.size);
    return 0;
}

// Without a filter all is read and looked at here: more work, no other result. Old
// kernels take few conditions.
static void set_filter(struct tracker_ftrace *t)
{
    struct err e;
    AUTO(buf_done) struct buf b = BUF_INIT(TRACE_TEXT_MAX);
    buf_str(&b, "nr_sector > 0 && (");
    for (size_t i = 0; i < t->reader.n_disks; i++)
        buf_printf(&b, "%sdev == %u", i > 0 ? " || " : "", t->reader.disks[i].dev);
    buf_str(&b, ")");
    (void)tracefs_write(t->instance, EVENT "/filter", b.data, &e);
}

static int arm(struct tracker_ftrace *t, struct err *e)
{
    char kib[24];
    uint64_t size = max_u64(BUFFERS_KIB / t->n_pipes, BUFFER_KIB_MIN);
    (void)snprintf(kib, sizeof(kib), "%llu",
                   (unsigned long long)min_u64(size, BUFFER_KIB_MAX));
    if (tracefs_write(t->instance, "buffer_size_kb", kib, e) < 0)
        return -1;
    set_filter(t);
    return tracefs_write(t->instance, EVENT "/enable", "1", e);
}

static void ftrace_stop(struct tracker *tracker, bool keep)
{
    struct tracker_ftrace *t = (struct tracker_ftrace *)tracker;
    struct err e;
    (void)keep; // its marks are ours: nothing goes on without us
    track_reader_end(&t->reader);
    if (t->instance >= 0)
        (void)tracefs_write(t->instance, EVENT "/enable", "0", &e);
    for (size_t cpu = 0; cpu < t->n_pipes; cpu++)
        fd_close(t->pipes[cpu]);
    fd_close(t->instance);
    AUTO(fd_close)
    int instances = openat(t->tracefs, "instances", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->name[0] && instances >= 0)
        remove_instance(instances, t->name);
    fd_close(t->tracefs);
    track_reader_done(&t->reader);
    free(t->pipes);
    free(t->page);
    free(t);
}

static int ftrace_start(const struct track_disk *disks, size_t n_disks, unsigned shift,
                        const char *dir, struct tracker **ret, bool *ret_again,
                        struct err *e)
{
    struct tracker_ftrace *t = xcalloc(1, sizeof(*t));
    (void)dir;
    t->tracefs = t->instance = -1;
    track_reader_init(&t->reader, &track_ftrace_ops, disks, n_disks, shift, ftrace_drain);
    int done = tracefs_open("tracefs", &t->tracefs, e);
    if (done == 0)
        remove_dead(t->tracefs);
    if (done < 0 || read_formats(t, e) < 0 || make_instance(t, e) < 0 ||
        open_pipes(t, e) < 0 || arm(t, e) < 0 || track_reader_run(&t->reader, e) < 0) {
        ftrace_stop(&t->reader.tracker, false);
        return -1;
    }
    *ret_again = false;
    *ret = &t->reader.tracker;
    return 0;
}

const struct tracker_ops track_ftrace_ops = {
    .name = "ftrace",
    .what = "the kernel's tracer, an instance of its own; ends with the agent",
    .start = ftrace_start,
    .harvest = track_reader_harvest,
    .seen = ftrace_seen,
    .stop = ftrace_stop,
};

// SPDX-License-Identifier: Apache-2.0
// BPF programs of the tracepoints' perf events, for kernels without BTF that cannot be
// read by an instance of their tracer either (maps that can be mapped: 5.5). tracefs has
// to tell where the fields of the records lie; the loads of the program are set to that.
//
// What surprises: such a program is not run while another of a perf event is running on
// its CPU, or while we are in a system call on a map there. The second witness finds most
// of what that misses, the audit the rest.
#include "agent/tracefs.h"
#include "agent/track_links.h"

#include "track_classic_object.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

// The first witness first: a completion without an issue is marked all the same.
static const char *const events[TRACK_LINKS] = {"block_rq_complete", "block_rq_issue",
                                                "block_rq_requeue"};

static int read_format(const char *event, struct trace_format *ret, struct err *e)
{
    AUTO(fd_close) int tracefs = -1;
    AUTO(buf_done) struct buf b = BUF_INIT(TRACE_TEXT_MAX);
    AUTO(str_free) char *path = xasprintf("events/block/%s/format", event);
    if (tracefs_open("tracefs", &tracefs, e) < 0 ||
        tracefs_read(tracefs, path, &b, e) < 0 || trace_format_parse(b.data, ret, e) < 0)
        return -1;
    if (ret->sector.size != 8 || ret->n_sectors.size != 4)
        return err_set(e, ERR_REFUSED, "%s has not the fields we know", event);
    return 0;
}

static int set_fields(struct bpf_program *p, const struct trace_format *f, struct err *e)
{
    const struct {
        int stand_in;
        uint32_t off;
    } fields[] = {{TRACK_FIELD_DEV, f->dev.off},
                  {TRACK_FIELD_N_SECTORS, f->n_sectors.off},
                  {TRACK_FIELD_SECTOR, f->sector.off},
                  {TRACK_FIELD_RWBS, f->rwbs.off}};
    size_t n = bpf_program__insn_cnt(p);
    AUTO(free) void *copy = xcalloc(n, sizeof(struct bpf_insn));
    struct bpf_insn *insns = copy;
    memcpy(insns, bpf_program__insns(p), n * sizeof(*insns));
    for (size_t at = 0; at < n; at++)
        for (size_t i = 0; i < ARRAY_LEN(fields); i++)
            if (BPF_CLASS(insns[at].code) == BPF_LDX &&
                insns[at].off == fields[i].stand_in)
                insns[at].off = (int16_t)fields[i].off;
    int r = bpf_program__set_insns(p, insns, n);
    return r == 0 ? 0 : err_errno(e, -r, "preparing a BPF program");
}

struct classic {
    struct track_program program;
    struct trace_format formats[TRACK_LINKS];
};
_Static_assert(offsetof(struct classic, program) == 0, "handed out as its base");

static int prepare(const struct track_program *program, struct bpf_object *o,
                   struct err *e)
{
    const struct classic *c = (const struct classic *)program;
    for (unsigned i = 0; i < program->n_names; i++)
        if (set_fields(bpf_object__find_program_by_name(o, program->names[i]),
                       &c->formats[i], e) < 0)
            return -1;
    return 0;
}

static struct bpf_link *attach(const struct track_program *program, unsigned i,
                               struct bpf_program *p)
{
    const struct classic *c = (const struct classic *)program;
    struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT,
                                   .size = sizeof(attr),
                                   .config = c->formats[i].id,
                                   .sample_period = 1,
                                   .wakeup_events = 1};
    // One CPU's event is enough: the program is the tracepoint's, on all of them.
    int fd = (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        return NULL;
    struct bpf_link *link = bpf_program__attach_perf_event(p, fd); // takes it
    if (link == NULL)
        fd_close(fd);
    return link;
}

static int classic_start(const struct track_disk *disks, size_t n_disks, unsigned shift,
                         const char *dir, struct tracker **ret, bool *ret_again,
                         struct err *e)
{
    struct classic c = {.program = {.ops = &track_classic_ops,
                                    .object = track_classic_object,
                                    .object_len = sizeof(track_classic_object),
                                    .prepare = prepare,
                                    .attach = attach,
                                    .names = {"complete", "issue", "requeue"},
                                    .n_names = TRACK_LINKS}};
    struct err none;
    *ret_again =
        dir && track_links_again(&c.program, disks, n_disks, shift, dir, ret, &none) == 0;
    if (*ret_again)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(events); i++)
        if (read_format(events[i], &c.formats[i], e) < 0)
            return -1;
    return track_links_start(&c.program, disks, n_disks, shift, dir, ret, e);
}

const struct tracker_ops track_classic_ops = {
    .name = "bpf-classic",
    .what = "BPF programs of perf events, for kernels without BTF",
    .start = classic_start,
    .harvest = track_links_harvest,
    .seen = track_links_seen,
    .stop = track_links_stop,
};

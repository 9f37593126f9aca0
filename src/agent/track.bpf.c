// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What runs in the kernel when a request completed: marks the granules that it wrote.
//
// Fields are found by BTF (CO-RE): the structs here name what is used, their places are
// the running kernel's. Kernels show `struct request` only to programs under the GPL:
// this file, which is no part of ours but runs in theirs, is offered under it too.
//
// Marks are bytes on three levels, a byte above stands for 64 below, so that the longest
// discard takes a bounded number of steps:
//
//     level 0   a byte a granule            at most 63 at each end of a range
//     level 1   a byte for 64 granules      at most 63 at each end
//     level 2   a byte for 4096 granules    a request is below 4 GiB: 17 suffice
//
// What surprises: kernels skip a program now and then. On one (6.18, virtual) a few of
// 100000 completions were seen by none of six programs at once and counted nowhere, while
// none at the issue of requests was missed. So each write has two witnesses: its issue
// leaves an entry in `flight`, which its completion takes away. One whose completion was
// not seen is marked when its request is used again, and by every harvest until then.
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "track_bpf.h"

#define OP_MASK 0xff
#define OP_READ 0
#define OP_DRIVER 32 // from here on: commands of drivers (SG_IO), whose place is unknown
#define LEVEL_STEPS 63
#define TOP_STEPS 32

#define KERNEL __attribute__((preserve_access_index))
struct gendisk {
    int major, first_minor;
} KERNEL;
struct request_queue {
    struct gendisk *disk; // from 5.15 on
} KERNEL;
struct request {
    struct request_queue *q;
    unsigned int cmd_flags;
    unsigned int __data_len;
    unsigned long long __sector;
} KERNEL;
struct request___old { // until 5.16
    struct gendisk *rq_disk;
} KERNEL;

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1); // set before loading, as that of the next two
    __type(key, __u32);     // dev_t as the kernel has it: major << 20 | minor
    __type(value, struct track_bpf_disk);
} disks SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __uint(key_size, sizeof(__u32));
    __uint(value_size, TRACK_PAGE);
} marks SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct track_bpf_count);
} counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, TRACK_FLIGHT);
    __type(key, __u64); // the request's address
    __type(value, struct track_bpf_flight);
} flight SEC(".maps");

struct event {
    __u64 sector;
    __u32 n_bytes, op;
};

// A global function: the verifier looks at it once, for any argument. Inlined, it would
// follow every length of every loop below.
__attribute__((noinline)) int track_mark(__u32 base, __u64 g)
{
    __u32 page = base + (__u32)(g / TRACK_PAGE);
    __u8 *v = bpf_map_lookup_elem(&marks, &page);
    if (!v)
        return 0;
    v[g & (TRACK_PAGE - 1)] = 1;
    return 1;
}

// One level: the ends that are no whole byte above. What is left is for the next level.
static __always_inline void mark_ends(__u32 base, __u64 *a, __u64 *b)
{
    for (int i = 0; i < LEVEL_STEPS && *a < *b && *a % TRACK_FAN; i++)
        track_mark(base, (*a)++);
    for (int i = 0; i < LEVEL_STEPS && *a < *b && *b % TRACK_FAN; i++)
        track_mark(base, --*b);
}

// 0: not all of it could be marked.
static __always_inline int mark_range(const struct track_bpf_disk *d, __u64 a, __u64 b)
{
    int whole = b <= d->n_granules;
    if (!whole)
        b = d->n_granules;
    mark_ends(d->base[0], &a, &b);
    if (a >= b)
        return whole;
    a /= TRACK_FAN, b /= TRACK_FAN;
    mark_ends(d->base[1], &a, &b);
    if (a >= b)
        return whole;
    a /= TRACK_FAN, b /= TRACK_FAN;
    for (int i = 0; i < TOP_STEPS && a < b; i++)
        track_mark(d->base[2], a++);
    return whole && a >= b;
}

static __always_inline struct track_bpf_count *count(const struct track_bpf_disk *d)
{
    __u32 at = bpf_get_smp_processor_id() * d->n_disks + d->index;
    return bpf_map_lookup_elem(&counts, &at);
}

static __always_inline void handle(const struct track_bpf_disk *d, const struct event *v)
{
    struct track_bpf_count *c = count(d);
    if (!c)
        return;
    __u64 last = v->sector + (v->n_bytes - 1) / 512;
    __u32 shift = d->sector_shift & 63;
    int whole =
        v->op < OP_DRIVER && mark_range(d, v->sector >> shift, (last >> shift) + 1);
    __sync_fetch_and_add(&c->sectors, v->n_bytes / 512);
    if (!whole)
        __sync_fetch_and_add(&c->lost, 1);
}

// The disk of a request that may change it; 0: none of ours.
static __always_inline struct track_bpf_disk *disk_of(struct request *rq, __u32 op)
{
    struct gendisk *disk;
    struct request___old *old = (struct request___old *)rq;
    if (op == OP_READ || (op >= OP_DRIVER && op % 2 == 0)) // even: from the device
        return 0;
    if (bpf_core_field_exists(old->rq_disk))
        disk = old->rq_disk;
    else
        disk = rq->q->disk;
    __u32 dev = (__u32)disk->major << 20 | (__u32)disk->first_minor;
    return bpf_map_lookup_elem(&disks, &dev);
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(complete, struct request *rq, int error, unsigned int n_bytes)
{
    struct event v = {
        .sector = rq->__sector, .n_bytes = n_bytes, .op = rq->cmd_flags & OP_MASK};
    struct track_bpf_disk *d = n_bytes ? disk_of(rq, v.op) : 0;
    if (!d)
        return 0;
    handle(d, &v);
    __u64 key = (__u64)rq;
    struct track_bpf_flight *f = bpf_map_lookup_elem(&flight, &key);
    if (!f)
        return 0;
    if (n_bytes >= f->n_bytes) {
        bpf_map_delete_elem(&flight, &key);
    } else { // the rest comes with another event
        f->sector += n_bytes / 512;
        f->n_bytes -= n_bytes;
    }
    return 0;
}

static __always_inline int issued(struct request *rq)
{
    struct event v = {
        .sector = rq->__sector, .n_bytes = rq->__data_len, .op = rq->cmd_flags & OP_MASK};
    struct track_bpf_disk *d = v.n_bytes ? disk_of(rq, v.op) : 0;
    if (!d)
        return 0;
    __u64 key = (__u64)rq;
    struct track_bpf_flight now = {v.sector, bpf_ktime_get_ns(), v.n_bytes, d->dev, v.op};
    struct track_bpf_flight *f = bpf_map_lookup_elem(&flight, &key);
    // Issued twice without an end between: queued once more. Otherwise its end was
    // missed.
    if (f &&
        (f->sector != now.sector || f->n_bytes != now.n_bytes || f->dev != now.dev)) {
        struct event missed = {.sector = f->sector, .n_bytes = f->n_bytes, .op = f->op};
        __u32 dev = f->dev;
        struct track_bpf_disk *of = bpf_map_lookup_elem(&disks, &dev);
        if (of && missed.n_bytes)
            handle(of, &missed);
    }
    bpf_map_update_elem(&flight, &key, &now, BPF_ANY);
    return 0;
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(issue, struct request *rq)
{
    return issued(rq);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(issue_with_queue, struct request_queue *q, struct request *rq) // until 5.10
{
    return issued(rq);
}

char track_license[] SEC("license") = "GPL"; // as one of the two

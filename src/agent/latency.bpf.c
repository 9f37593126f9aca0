// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What runs in the kernel when a request of anybody has ended: how long it took, into one
// of the buckets. As in track.bpf.c fields are found by BTF.
#include <linux/bpf.h>

#include "latency_bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define OP_MASK 0xff
#define OP_WRITE 1

#define KERNEL __attribute__((preserve_access_index))
struct gendisk {
    int major, first_minor;
} KERNEL;
struct request_queue {
    struct gendisk *disk; // from 5.15 on
} KERNEL;
struct bio {
    unsigned short bi_ioprio;
} KERNEL;
struct request {
    struct request_queue *q;
    struct bio *bio;
    unsigned int cmd_flags;
    unsigned long long start_time_ns;
} KERNEL;
struct request___old {       // each of them in some kernels
    struct gendisk *rq_disk; // until 5.16
    unsigned short ioprio;   // until 6.13
} KERNEL;

const volatile __u32 of_dev; // major << 20 | minor

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, LATENCY_BUCKETS);
    __type(key, __u32);
    __type(value, __u64);
} buckets SEC(".maps");

static __always_inline __u32 dev_of(struct request *rq)
{
    struct request___old *old = (struct request___old *)rq;
    struct gendisk *disk =
        bpf_core_field_exists(old->rq_disk) ? old->rq_disk : rq->q->disk;
    return (__u32)disk->major << 20 | (__u32)disk->first_minor;
}

static __always_inline int is_own(struct request *rq)
{
    struct request___old *old = (struct request___old *)rq;
    __u32 priority =
        bpf_core_field_exists(old->ioprio) ? old->ioprio : rq->bio->bi_ioprio;
    return (priority & LATENCY_MASK) == LATENCY_OWN;
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(ended, struct request *rq, int error, unsigned int n_bytes)
{
    __u64 now = bpf_ktime_get_ns(), start = rq->start_time_ns;
    __u32 op = rq->cmd_flags & OP_MASK;
    if (op > OP_WRITE || dev_of(rq) != of_dev || is_own(rq) || !start || now < start)
        return 0;
    __u32 at = latency_bucket(now - start);
    __u64 *n = bpf_map_lookup_elem(&buckets, &at);
    if (n)
        __sync_fetch_and_add(n, 1);
    return 0;
}

char latency_license[] SEC("license") = "GPL"; // as one of the two

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What runs in the kernel when a request of anybody has ended: how long it took, into one
// of the buckets.
#include "kernel.bpf.h"
#include "latency_bpf.h"

const volatile __u32 of_dev; // major << 20 | minor

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, LATENCY_BUCKETS);
    __type(key, __u32);
    __type(value, __u64);
} buckets SEC(".maps");

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

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What runs in the kernel when a request is issued and when it completed, found by BTF.
// The key of a request under way is its address.
#include "kernel.bpf.h"
#include "track_marks.bpf.h"

#define OP_DISCARD 3
#define OP_SECURE_ERASE 5
#define RANGES_MAX 256 // of one discard: as many as NVMe has

// The disk of a request that may change it; 0: none of ours.
static __always_inline struct track_bpf_disk *disk_of(struct request *rq, __u32 op)
{
    if (op == OP_READ || (op >= TRACK_NO_PLACE && op % 2 == 0)) // even: from the device
        return 0;
    __u32 dev = dev_of(rq);
    return bpf_map_lookup_elem(&disks, &dev);
}

// A discard may be of several ranges (NVMe), which lie anywhere: its first sector and its
// length say nothing of them.
static __always_inline int has_ranges(struct request *rq, __u32 op)
{
    return (op == OP_DISCARD || op == OP_SECURE_ERASE) &&
           rq->q->limits.max_discard_segments > 1;
}

static __always_inline __u32 mark_ranges(struct request *rq, __u32 dev)
{
    struct bio *bio = rq->bio;
    int whole = bio != 0;
    for (int i = 0; i < RANGES_MAX && bio; i++, bio = bio->bi_next)
        if (!track_range(dev, bio->bi_iter.bi_sector, bio->bi_iter.bi_size))
            whole = 0;
    return whole && !bio ? OP_MARKED : TRACK_NO_PLACE;
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(complete, struct request *rq, int error, unsigned int n_bytes)
{
    struct event v = {
        .sector = rq->__sector, .n_bytes = n_bytes, .op = rq->cmd_flags & OP_MASK};
    struct track_bpf_disk *d = n_bytes ? disk_of(rq, v.op) : 0;
    if (!d)
        return 0;
    if (has_ranges(rq, v.op))
        v.op = mark_ranges(rq, d->dev);
    completed(d, &v, (__u64)rq, (__u64)rq);
    return 0;
}

static __always_inline int issue_of(struct request *rq)
{
    struct event v = {
        .sector = rq->__sector, .n_bytes = rq->__data_len, .op = rq->cmd_flags & OP_MASK};
    struct track_bpf_disk *d = v.n_bytes ? disk_of(rq, v.op) : 0;
    if (!d)
        return 0;
    if (has_ranges(rq, v.op))
        v.op = TRACK_NO_PLACE; // should its end not be seen
    issued(d, &v, (__u64)rq, 1);
    return 0;
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(issue, struct request *rq)
{
    return issue_of(rq);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(issue_with_queue, struct request_queue *q, struct request *rq) // until 5.10
{
    return issue_of(rq);
}

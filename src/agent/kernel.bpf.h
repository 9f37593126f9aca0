// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What the BPF programs need of the kernel's structs: the fields that are used, found in
// the running kernel by BTF (CO-RE). Kernels show `struct request` only to programs under
// the GPL.
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define OP_MASK 0xff
#define OP_READ 0
#define OP_WRITE 1

#define KERNEL __attribute__((preserve_access_index))
struct gendisk {
    int major, first_minor;
} KERNEL;
struct queue_limits {
    unsigned short max_discard_segments;
} KERNEL;
struct request_queue {
    struct gendisk *disk; // from 5.15 on
    struct queue_limits limits;
} KERNEL;
struct bvec_iter {
    unsigned long long bi_sector;
    unsigned int bi_size;
} KERNEL;
struct bio {
    struct bio *bi_next;
    struct bvec_iter bi_iter;
    unsigned short bi_ioprio;
} KERNEL;
struct request {
    struct request_queue *q;
    struct bio *bio;
    unsigned int cmd_flags;
    unsigned int __data_len;
    unsigned long long __sector;
    unsigned long long start_time_ns;
} KERNEL;
struct request___old {       // each of them in some kernels
    struct gendisk *rq_disk; // until 5.16
    unsigned short ioprio;   // until 6.13
} KERNEL;

// Of a request's disk, as the kernel has it: major << 20 | minor.
static __always_inline __u32 dev_of(struct request *rq)
{
    struct request___old *old = (struct request___old *)rq;
    struct gendisk *disk =
        bpf_core_field_exists(old->rq_disk) ? old->rq_disk : rq->q->disk;
    return (__u32)disk->major << 20 | (__u32)disk->first_minor;
}

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What both BPF trackers do with a write that they are told of: marks, counts and the
// requests under way. Kernels let programs of tracepoints call what they need only if
// they are under the GPL: this file, which is no part of ours but runs in theirs, is
// offered under it too.
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
// not seen is marked when its key is used again, and by every harvest until then.
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "track_bpf.h"

#define OP_MARKED 31 // what it changed is marked already
#define LEVEL_STEPS 63
#define TOP_STEPS 32

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
    __type(key, __u64); // of a request: see the programs
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
    v[g & (TRACK_PAGE - 1)] = TRACK_MARK;
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

// What lies somewhere on a disk. 0: not all of it could be marked.
__attribute__((noinline)) int track_range(__u32 dev, __u64 sector, __u64 n_bytes)
{
    __u32 key = dev;
    struct track_bpf_disk *d = bpf_map_lookup_elem(&disks, &key);
    if (!d || !n_bytes)
        return 0;
    __u32 shift = d->sector_shift & 63;
    __u64 last = sector + (n_bytes - 1) / 512;
    return last >= sector && mark_range(d, sector >> shift, (last >> shift) + 1);
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
        v->op == OP_MARKED || (v->op < TRACK_NO_PLACE && last >= v->sector &&
                               mark_range(d, v->sector >> shift, (last >> shift) + 1));
    __sync_fetch_and_add(&c->sectors, v->n_bytes / 512);
    if (!whole)
        __sync_fetch_and_add(&c->lost, 1);
}

// A write has ended. `rest`: the key of what of it is still to come.
static __always_inline void completed(const struct track_bpf_disk *d,
                                      const struct event *v, __u64 key, __u64 rest)
{
    handle(d, v);
    struct track_bpf_flight *f = bpf_map_lookup_elem(&flight, &key);
    if (!f)
        return;
    if (v->n_bytes >= f->n_bytes) {
        bpf_map_delete_elem(&flight, &key);
        return;
    }
    struct track_bpf_flight left = *f;
    left.sector += v->n_bytes / 512;
    left.n_bytes -= v->n_bytes;
    if (rest != key)
        bpf_map_delete_elem(&flight, &key);
    bpf_map_update_elem(&flight, &rest, &left, BPF_ANY);
}

// `again`: the key is that of this very request, which may be queued once more; otherwise
// what has it was seen to start and not to end.
static __always_inline void issued(const struct track_bpf_disk *d, const struct event *v,
                                   __u64 key, int again)
{
    struct track_bpf_flight now = {v->sector, bpf_ktime_get_ns(), v->n_bytes, d->dev,
                                   v->op};
    struct track_bpf_flight *f = bpf_map_lookup_elem(&flight, &key);
    if (f && (!again || f->sector != now.sector || f->n_bytes != now.n_bytes ||
              f->dev != now.dev)) {
        struct event missed = {.sector = f->sector, .n_bytes = f->n_bytes, .op = f->op};
        __u32 dev = f->dev;
        struct track_bpf_disk *of = bpf_map_lookup_elem(&disks, &dev);
        if (of && missed.n_bytes)
            handle(of, &missed);
    }
    bpf_map_update_elem(&flight, &key, &now, BPF_ANY);
}

char track_license[] SEC("license") = "GPL"; // as one of the two

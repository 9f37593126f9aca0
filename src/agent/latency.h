// SPDX-License-Identifier: Apache-2.0
// How long others' requests to a disk take: what reading that gives way goes by (pace.c).
// Inside agent/ only.
#pragma once

#include "agent/latency_bpf.h"
#include "base/base.h"

// Requests by the time that they took, LATENCY_STEPS buckets an octave.
struct histogram {
    double n[LATENCY_BUCKETS];
};
void histogram_add(struct histogram *h, const struct histogram *more);
void histogram_scale(struct histogram *h, double by); // older ones count less
double histogram_sum(const struct histogram *h,
                     unsigned from); // of this bucket and above
// The first bucket at which no more than this share of all lies.
unsigned histogram_quantile(const struct histogram *h, double share);

// A disk's, by its name in /sys/block.
struct latency;
struct latency *latency_open(const char *disk);
void latency_close(struct latency *l);
DEFINE_AUTO(latency_close, struct latency *)
// Those of others since the last call, when we had `own` requests that took own_ns
// together. false: the kernel counts none.
bool latency_read(struct latency *l, uint64_t own, uint64_t own_ns,
                  struct histogram *ret);
bool latency_is_exact(const struct latency *l); // each request, and not their mean
void latency_own(void); // from now on requests of this thread do not count as others'

// SPDX-License-Identifier: Apache-2.0
// How long others' requests to a disk take. A BPF program sees the end of each, where the
// kernel has BTF; elsewhere there are the counters that every kernel has
// (Documentation/block/stat.rst): their mean since the last look, all requests in one
// bucket. What surprises: of these counters our own requests have to be taken away, and
// the clock that we have for those counts waiting for a processor too: more than the
// share of so many requests is not believed.
#include "agent/latency.h"

#include "agent/block.h"
#include "agent/track.h"

#include "latency_object.h"

#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAP_LEN (LATENCY_BUCKETS * sizeof(uint64_t))
#define WHO_THREAD 1 // IOPRIO_WHO_PROCESS of Linux: a thread, 0: the calling one

struct latency {
    char *disk;
    struct bpf_object *object; // NULL: means
    struct bpf_link *link;
    uint64_t *counts; // shared with the kernel
    uint64_t seen[LATENCY_BUCKETS];
    struct sys_stat at;
};

// --- histograms

void histogram_add(struct histogram *h, const struct histogram *more)
{
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        h->n[i] += more->n[i];
}

void histogram_scale(struct histogram *h, double by)
{
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        h->n[i] *= by;
}

double histogram_sum(const struct histogram *h, unsigned from)
{
    double sum = 0;
    for (unsigned i = from; i < LATENCY_BUCKETS; i++)
        sum += h->n[i];
    return sum;
}

unsigned histogram_quantile(const struct histogram *h, double share)
{
    double most = histogram_sum(h, 0) * share, above = 0;
    unsigned at = LATENCY_BUCKETS;
    while (at > 0 && above + h->n[at - 1] <= most)
        above += h->n[--at];
    return at ? at - 1 : 0;
}

// --- each request

static bool attach(struct latency *l)
{
    AUTO(str_free) char *number_path = xasprintf("/sys/block/%s/dev", l->disk);
    AUTO(str_free) char *queues = xasprintf("/sys/block/%s/mq", l->disk);
    dev_t dev;
    // Without queues it passes on what it is given, and ends no request.
    if (access(queues, F_OK) < 0 || !sys_dev(number_path, &dev))
        return false;
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = "godwit");
    l->object = bpf_object__open_mem(latency_object, sizeof(latency_object), &options);
    struct bpf_map *data =
        l->object ? bpf_object__find_map_by_name(l->object, ".rodata") : NULL;
    uint32_t number = track_dev(major(dev), minor(dev));
    if (!data || bpf_map__set_initial_value(data, &number, sizeof(number)) ||
        bpf_object__load(l->object))
        return false;
    int fd = bpf_object__find_map_fd_by_name(l->object, "buckets");
    void *counts = mmap(NULL, MAP_LEN, PROT_READ, MAP_SHARED, fd, 0);
    l->counts = counts == MAP_FAILED ? NULL : counts;
    l->link =
        l->counts
            ? bpf_program__attach(bpf_object__find_program_by_name(l->object, "ended"))
            : NULL;
    return l->link != NULL;
}

static void detach(struct latency *l)
{
    (void)bpf_link__destroy(l->link); // it ends with its descriptor
    if (l->counts)
        munmap(l->counts, MAP_LEN);
    bpf_object__close(l->object);
    l->object = NULL;
    l->link = NULL;
    l->counts = NULL;
}

static bool read_each(struct latency *l, struct histogram *ret)
{
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        uint64_t now = __atomic_load_n(&l->counts[i], __ATOMIC_RELAXED);
        ret->n[i] = (double)(now - l->seen[i]);
        l->seen[i] = now;
    }
    return true;
}

// --- their mean

static bool read_mean(struct latency *l, uint64_t own, uint64_t own_ns,
                      struct histogram *ret)
{
    struct sys_stat now, before = l->at;
    struct err ignored; // no counters: nothing is known
    if (sys_stat(l->disk, &now, &ignored))
        return false;
    l->at = now;
    double requests = (double)(now.requests - before.requests);
    double ms = (double)(now.busy_ms - before.busy_ms);
    double others = requests - (double)own;
    *ret = (struct histogram){0};
    if (others < 1)
        return true;
    double share = ms * (double)own / requests, own_ms = (double)own_ns / 1e6;
    double left = ms - (own_ms < share ? own_ms : share);
    ret->n[latency_bucket((uint64_t)(left / others * 1e6))] = others;
    return true;
}

// --- whichever there is

struct latency *latency_open(const char *disk)
{
    struct latency *l = xcalloc(1, sizeof(*l));
    struct histogram before;
    l->disk = xstrdup(disk);
    (void)libbpf_set_print(NULL); // it goes without, too
    if (!attach(l))
        detach(l);
    (void)latency_read(l, 0, 0, &before); // what was before is no load
    return l;
}

void latency_close(struct latency *l)
{
    if (!l)
        return;
    detach(l);
    free(l->disk);
    free(l);
}

bool latency_read(struct latency *l, uint64_t own, uint64_t own_ns, struct histogram *ret)
{
    return l->counts ? read_each(l, ret) : read_mean(l, own, own_ns, ret);
}

bool latency_is_exact(const struct latency *l)
{
    return l->counts != NULL;
}

void latency_own(void)
{
    (void)syscall(SYS_ioprio_set, WHO_THREAD, 0,
                  LATENCY_OWN); // else they count as others'
}

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// The same for kernels without BTF: programs of the tracepoints' perf events, which see
// the record that the tracer would write. Where its fields lie is asked of tracefs before
// the program is loaded: the places here are stand-ins that track_classic.c replaces, and
// lie too far for any real one. A request under way is known by its disk and first
// sector.
#include "track_marks.bpf.h"

#define WRITE 1 // any op that changes something
#define KEY_DISK 48

struct record {
    unsigned char none[TRACK_FIELDS];
    __u32 dev, n_sectors;
    __u64 sector;
    char rwbs;
};
_Static_assert(__builtin_offsetof(struct record, dev) == TRACK_FIELD_DEV, "");
_Static_assert(__builtin_offsetof(struct record, n_sectors) == TRACK_FIELD_N_SECTORS, "");
_Static_assert(__builtin_offsetof(struct record, sector) == TRACK_FIELD_SECTOR, "");
_Static_assert(__builtin_offsetof(struct record, rwbs) == TRACK_FIELD_RWBS, "");

// The disk that a record may have changed; 0: none of ours.
static __always_inline struct track_bpf_disk *read_record(const struct record *r,
                                                          struct event *ret)
{
    __u32 dev = r->dev;
    // As in trace_page.c: everything but reads. So many bytes are below 4 GiB.
    ret->sector = r->sector;
    ret->n_bytes = r->n_sectors * 512;
    ret->op = WRITE;
    if (r->rwbs == 'R' || ret->n_bytes == 0)
        return 0;
    return bpf_map_lookup_elem(&disks, &dev);
}

static __always_inline __u64 key_of(const struct track_bpf_disk *d, __u64 sector)
{
    return (__u64)d->index << KEY_DISK | sector;
}

SEC("tracepoint/block/block_rq_complete")
int complete(const struct record *r)
{
    struct event v;
    struct track_bpf_disk *d = read_record(r, &v);
    if (d)
        completed(d, &v, key_of(d, v.sector), key_of(d, v.sector + v.n_bytes / 512));
    return 0;
}

SEC("tracepoint/block/block_rq_issue")
int issue(const struct record *r)
{
    struct event v;
    struct track_bpf_disk *d = read_record(r, &v);
    if (d)
        issued(d, &v, key_of(d, v.sector), 0);
    return 0;
}

SEC("tracepoint/block/block_rq_requeue")
int requeue(const struct record *r) // it will be issued once more
{
    struct event v;
    struct track_bpf_disk *d = read_record(r, &v);
    if (!d)
        return 0;
    __u64 key = key_of(d, v.sector);
    bpf_map_delete_elem(&flight, &key);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
// The best tracker: BPF programs on issue and completion of requests, found by BTF
// (tp_btf, kernel 5.5). They see the request itself: no text of a tracepoint to parse, no
// buffer that can overflow.
#include "agent/track_links.h"

#include "track_bpf_object.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>

// Does this kernel (until 5.10) hand the queue to block_rq_issue too? Its BTF has the
// type of what is called there, with one more parameter in front.
static bool issue_has_queue(void)
{
    struct btf *btf = btf__load_vmlinux_btf();
    int id =
        btf ? btf__find_by_name_kind(btf, "btf_trace_block_rq_issue", BTF_KIND_TYPEDEF)
            : -1;
    const struct btf_type *type = id > 0 ? btf__type_by_id(btf, (uint32_t)id) : NULL;
    type = type ? btf__type_by_id(btf, type->type) : NULL; // a pointer
    type = type ? btf__type_by_id(btf, type->type) : NULL; // to a function
    bool has = type && btf_is_func_proto(type) && btf_vlen(type) == 3;
    btf__free(btf);
    return has;
}

static struct bpf_link *attach(const struct track_program *program, unsigned i,
                               struct bpf_program *p)
{
    (void)program, (void)i; // its section's name says where
    return bpf_program__attach(p);
}

static int bpf_start(const struct track_disk *disks, size_t n_disks, unsigned shift,
                     const char *dir, struct tracker **ret, bool *ret_again,
                     struct err *e)
{
    struct track_program program = {
        .ops = &track_bpf_ops,
        .object = track_bpf_object,
        .object_len = sizeof(track_bpf_object),
        .attach = attach,
        // The first witness first: a completion without an issue is marked all the same.
        .names = {"complete", "issue"},
        .n_names = 2,
    };
    struct err none;
    *ret_again =
        dir && track_links_again(&program, disks, n_disks, shift, dir, ret, &none) == 0;
    if (*ret_again)
        return 0;
    if (issue_has_queue())
        program.names[1] = "issue_with_queue";
    return track_links_start(&program, disks, n_disks, shift, dir, ret, e);
}

const struct tracker_ops track_bpf_ops = {
    .name = "bpf",
    .what = "BPF programs on completed requests; they outlive the agent",
    .start = bpf_start,
    .harvest = track_links_harvest,
    .seen = track_links_seen,
    .stop = track_links_stop,
};

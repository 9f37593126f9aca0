// SPDX-License-Identifier: Apache-2.0
// The best tracker: BPF programs on issue and completion of requests, found by BTF
// (tp_btf, kernel 5.6). Pinned in bpffs they go on when we end, however we end (links can
// be pinned from 5.7 on). They see the request itself: no text of a tracepoint to parse,
// no buffer that can overflow.
#include "agent/track_maps.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <unistd.h>

#define N_LINKS 2 // issue and completion

struct tracker_bpf {
    struct tracker tracker;
    struct track_maps maps;
    struct bpf_link *links[N_LINKS]; // NULL: taken over, the pins hold them
    char *dir;                       // NULL: nothing is pinned
};
_Static_assert(offsetof(struct tracker_bpf, tracker) == 0, "handed out as its base");

static void bpf_stop(struct tracker *tracker, bool keep)
{
    struct tracker_bpf *t = (struct tracker_bpf *)tracker;
    if (!keep && t->dir)
        track_maps_unpin(t->dir);
    for (size_t i = 0; i < N_LINKS; i++)
        (void)bpf_link__destroy(t->links[i]); // closes it; a pinned one goes on
    track_maps_done(&t->maps);
    free(t->dir);
    free(t);
}

static int bpf_harvest(struct tracker *tracker, size_t i, struct marks *into,
                       struct err *e)
{
    struct track_maps *m = &((struct tracker_bpf *)tracker)->maps;
    // First: what ends after this is marked by its end.
    int done = track_maps_flight(m, i, into, e);
    track_maps_harvest(m, i, into);
    return done;
}

static int bpf_seen(struct tracker *tracker, size_t i, struct track_seen *ret,
                    struct err *e)
{
    (void)e;
    *ret = track_maps_seen(&((struct tracker_bpf *)tracker)->maps, i);
    return 0;
}

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

static int attach(struct tracker_bpf *t, struct bpf_object *o,
                  const char *const names[static N_LINKS], struct err *e)
{
    for (unsigned i = 0; i < N_LINKS; i++) {
        struct bpf_program *p = bpf_object__find_program_by_name(o, names[i]);
        t->links[i] = bpf_program__attach(p);
        if (t->links[i] == NULL)
            return err_set(e, ERR_REFUSED, "the kernel refuses the BPF program %s: %s",
                           names[i], strerror(errno));
    }
    return 0;
}

static char *link_path(const char *dir, unsigned i)
{
    return xasprintf("%s/link%u", dir, i);
}

// The links last: with all of them there, all is there.
static int pin(struct tracker_bpf *t, const char *dir, struct err *e)
{
    if (track_maps_pin(&t->maps, dir, e) < 0)
        return -1;
    for (unsigned i = 0; i < N_LINKS; i++) {
        AUTO(str_free) char *path = link_path(dir, i);
        int r = bpf_link__pin(t->links[i], path);
        if (r < 0)
            return err_errno(e, -r, "pinning %s", path);
    }
    return 0;
}

static int again(struct tracker_bpf *t, const char *dir, struct err *e)
{
    for (unsigned i = 0; i < N_LINKS; i++) {
        AUTO(str_free) char *path = link_path(dir, i);
        AUTO(fd_close) int fd = bpf_obj_get(path);
        if (fd < 0)
            return err_set(e, ERR_REFUSED, "no BPF tracker in %s", dir);
    }
    return track_maps_again(&t->maps, dir, e);
}

static int fresh(struct tracker_bpf *t, const char *dir, struct err *e)
{
    struct bpf_object *o = NULL;
    // The first witness first: a completion without an issue is marked all the same.
    const char *const names[N_LINKS] = {"complete",
                                        issue_has_queue() ? "issue_with_queue" : "issue"};
    if (track_maps_open(&t->maps, names, N_LINKS, &o, e) < 0)
        return -1;
    int done = track_maps_load(&t->maps, o, e);
    if (done == 0)
        done = attach(t, o, names, e);
    bpf_object__close(o); // links and maps have descriptors of their own
    if (done < 0 || dir == NULL)
        return done;
    struct err ignored;
    track_maps_unpin(dir);
    if (pin(t, dir, &ignored) == 0)
        t->dir = xstrdup(dir);
    else
        track_maps_unpin(dir); // it marks all the same, but ends with us
    return 0;
}

static int bpf_start(const struct track_disk *disks, size_t n_disks, unsigned shift,
                     const char *dir, struct tracker **ret, bool *ret_again,
                     struct err *e)
{
    struct err none;
    for (int try_again = dir != NULL; try_again >= 0; try_again--) {
        struct tracker_bpf *t = xcalloc(1, sizeof(*t));
        t->tracker.ops = &track_bpf_ops;
        if (track_maps_layout(&t->maps, disks, n_disks, shift, e) == 0 &&
            (try_again ? again(t, dir, &none) : fresh(t, dir, e)) == 0) {
            *ret = &t->tracker;
            *ret_again = try_again;
            if (try_again)
                t->dir = xstrdup(dir);
            return 0;
        }
        bpf_stop(&t->tracker, false);
    }
    return -1;
}

const struct tracker_ops track_bpf_ops = {
    .name = "bpf",
    .what = "BPF programs on completed requests; they outlive the agent",
    .start = bpf_start,
    .harvest = bpf_harvest,
    .seen = bpf_seen,
    .stop = bpf_stop,
};

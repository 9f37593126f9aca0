// SPDX-License-Identifier: Apache-2.0
// Trackers that are BPF programs on issue and completion of requests. Pinned in bpffs
// they go on when we end, however we end: links can be pinned from Linux 5.7 on, those of
// perf events from 5.15 on. Where they cannot, they end with us.
#include "agent/track_links.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <unistd.h>

struct tracker_links {
    struct tracker tracker;
    struct track_maps maps;
    unsigned n_links;
    struct bpf_link *links[TRACK_LINKS]; // NULL: taken over, the pins hold them
    char *dir;                           // NULL: nothing is pinned
};
_Static_assert(offsetof(struct tracker_links, tracker) == 0, "handed out as its base");

void track_links_stop(struct tracker *tracker, bool keep)
{
    struct tracker_links *t = (struct tracker_links *)tracker;
    if (!keep && t->dir)
        track_maps_unpin(t->dir);
    for (size_t i = 0; i < t->n_links; i++)
        (void)bpf_link__destroy(t->links[i]); // closes it; a pinned one goes on
    track_maps_done(&t->maps);
    free(t->dir);
    free(t);
}

int track_links_harvest(struct tracker *tracker, size_t i, struct marks *into,
                        struct err *e)
{
    struct track_maps *m = &((struct tracker_links *)tracker)->maps;
    // First: what ends after this is marked by its end.
    int done = track_maps_flight(m, i, into, e);
    track_maps_harvest(m, i, into);
    return done;
}

int track_links_seen(struct tracker *tracker, size_t i, struct track_seen *ret,
                     struct err *e)
{
    (void)e;
    *ret = track_maps_seen(&((struct tracker_links *)tracker)->maps, i);
    return 0;
}

static int attach(struct tracker_links *t, const struct track_program *program,
                  struct bpf_object *o, struct err *e)
{
    for (unsigned i = 0; i < t->n_links; i++) {
        const char *name = program->names[i];
        t->links[i] =
            program->attach(program, i, bpf_object__find_program_by_name(o, name));
        if (t->links[i] == NULL)
            return err_set(e, ERR_REFUSED, "the kernel refuses the BPF program %s: %s",
                           name, strerror(errno));
    }
    return 0;
}

static char *link_path(const char *dir, unsigned i)
{
    return xasprintf("%s/link%u", dir, i);
}

// The links last: with all of them there, all is there.
static int pin(struct tracker_links *t, const char *dir, struct err *e)
{
    if (track_maps_pin(&t->maps, dir, e) < 0)
        return -1;
    for (unsigned i = 0; i < t->n_links; i++) {
        AUTO(str_free) char *path = link_path(dir, i);
        int r = bpf_link__pin(t->links[i], path);
        if (r < 0)
            return err_errno(e, -r, "pinning %s", path);
    }
    return 0;
}

static int again(struct tracker_links *t, const char *dir, struct err *e)
{
    for (unsigned i = 0; i < t->n_links; i++) {
        AUTO(str_free) char *path = link_path(dir, i);
        AUTO(fd_close) int fd = bpf_obj_get(path);
        if (fd < 0)
            return err_set(e, ERR_REFUSED, "no BPF tracker in %s", dir);
    }
    return track_maps_again(&t->maps, dir, e);
}

static int fresh(struct tracker_links *t, const struct track_program *program,
                 const char *dir, struct err *e)
{
    struct bpf_object *o = NULL;
    if (track_maps_open(&t->maps, program, &o, e) < 0)
        return -1;
    int done = program->prepare ? program->prepare(program, o, e) : 0;
    if (done == 0)
        done = track_maps_load(&t->maps, o, e);
    if (done == 0)
        done = attach(t, program, o, e);
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

static struct tracker_links *links_new(const struct track_program *program,
                                       const struct track_disk *disks, size_t n_disks,
                                       unsigned shift, struct err *e)
{
    struct tracker_links *t = xcalloc(1, sizeof(*t));
    t->tracker.ops = program->ops;
    t->n_links = program->n_names;
    if (track_maps_layout(&t->maps, disks, n_disks, shift, e) == 0)
        return t;
    track_links_stop(&t->tracker, false);
    return NULL;
}

int track_links_again(const struct track_program *program, const struct track_disk *disks,
                      size_t n_disks, unsigned shift, const char *dir,
                      struct tracker **ret, struct err *e)
{
    struct tracker_links *t = links_new(program, disks, n_disks, shift, e);
    if (t == NULL)
        return -1;
    if (again(t, dir, e) < 0) {
        track_links_stop(&t->tracker, false);
        return -1;
    }
    t->dir = xstrdup(dir);
    *ret = &t->tracker;
    return 0;
}

int track_links_start(const struct track_program *program, const struct track_disk *disks,
                      size_t n_disks, unsigned shift, const char *dir,
                      struct tracker **ret, struct err *e)
{
    struct tracker_links *t = links_new(program, disks, n_disks, shift, e);
    if (t == NULL)
        return -1;
    if (fresh(t, program, dir, e) < 0) {
        track_links_stop(&t->tracker, false);
        return -1;
    }
    *ret = &t->tracker;
    return 0;
}

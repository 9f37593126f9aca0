// SPDX-License-Identifier: Apache-2.0
// Linked in front of the trackers (-Wl,--wrap), for an agent that tests migrate from.
// GODWIT_LIE says how it lies, bpf from the third harvest on:
//
//     events      every second mark is forgotten and the writes were not counted, so that
//                 the kernel's counters know better (the audit in the freeze)
//     marks       every second mark is forgotten: only hashes of what is there know it
//     rare        one in sixteen is
//     flip        one bit of one mark is flipped in each harvest: a mark it stays
//     late        as marks, but not before GODWIT_LATE is there, a file
//     submission  ftrace marks when requests are issued, not when they have ended
#include "agent/track.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define HONEST_HARVESTS 2 // the agent tries a tracker before it believes it
#define SECTORS 8         // of the least write

extern const struct tracker_ops __real_track_bpf_ops, __wrap_track_bpf_ops;

struct liar {
    struct tracker tracker;
    struct tracker *honest;
    uint64_t n_harvests, n_marks;
    uint64_t
        *forgotten; // in a file: what the kernel did not count outlives the agent too
};

static bool lie_is(const char *name)
{
    const char *lie = getenv("GODWIT_LIE");
    return lie && strcmp(lie, name) == 0;
}

static int start(const struct track_disk *disks, size_t n_disks, unsigned shift,
                 const char *dir, struct tracker **ret, bool *ret_again, struct err *e)
{
    struct liar *l = xcalloc(1, sizeof(*l));
    const char *folder = getenv("TMPDIR");
    AUTO(str_free)
    char *path = path_join(folder ? folder : "/tmp", dir ? path_base(dir) : "marks");
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(*l->forgotten)) < 0)
        abort();
    l->forgotten =
        mmap(NULL, sizeof(*l->forgotten), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (l->forgotten == MAP_FAILED)
        abort();
    if (__real_track_bpf_ops.start(disks, n_disks, shift, dir, &l->honest, ret_again,
                                   e)) {
        free(l);
        return -1;
    }
    l->tracker.ops = &__wrap_track_bpf_ops;
    *ret = &l->tracker;
    return 0;
}

static int harvest(struct tracker *t, size_t i, struct marks *into, struct err *e)
{
    struct liar *l = (struct liar *)t;
    struct marks all = {xcalloc(1, into->n + 8), into->n, into->shift};
    int status = l->honest->ops->harvest(l->honest, i, &all, e);
    bool lies = l->n_harvests++ >= HONEST_HARVESTS;
    uint64_t flipped = clock_ns() % all.n;
    for (uint64_t n = 0; lies && lie_is("flip") && n < all.n; n++) {
        uint64_t g = (flipped + n) % all.n;
        if (all.v[g] == 0)
            continue;
        all.v[g] ^= (uint8_t)(1U << l->n_harvests % 8);
        break;
    }
    const char *late = getenv("GODWIT_LATE");
    lies = lies && (lie_is("events") || lie_is("marks") || lie_is("rare") ||
                    (lie_is("late") && late && access(late, F_OK) == 0));
    uint64_t one_of = lie_is("rare") ? 16 : 2;
    for (uint64_t g = 0; g < all.n; g++) {
        if (all.v[g] && lies && l->n_marks++ % one_of == one_of - 1)
            (*l->forgotten)++;
        else if (all.v[g])
            into->v[g] |= all.v[g];
    }
    free(all.v);
    return status;
}

static int seen(struct tracker *t, size_t i, struct track_seen *ret, struct err *e)
{
    const struct liar *l = (const struct liar *)t;
    if (l->honest->ops->seen(l->honest, i, ret, e))
        return -1;
    if (lie_is("events"))
        ret->sectors -= *l->forgotten * SECTORS;
    return 0;
}

static void stop(struct tracker *t, bool keep)
{
    struct liar *l = (struct liar *)t;
    l->honest->ops->stop(l->honest, keep);
    free(l);
}

const struct tracker_ops __wrap_track_bpf_ops = {
    .name = "bpf",
    .what = "forgets",
    .start = start,
    .harvest = harvest,
    .seen = seen,
    .stop = stop,
};

// --- ftrace, at submission

int __real_tracefs_read(int dir, const char *path, struct buf *b, struct err *e);
int __real_tracefs_write(int dir, const char *path, const char *text, struct err *e);
int __wrap_tracefs_read(int dir, const char *path, struct buf *b, struct err *e);
int __wrap_tracefs_write(int dir, const char *path, const char *text, struct err *e);

static char *other_event(const char *path)
{
    static const char honest[] = "block_rq_complete", early[] = "block_rq_issue";
    const char *at = lie_is("submission") ? strstr(path, honest) : NULL;
    if (!at)
        return xstrdup(path);
    return xasprintf("%.*s%s%s", (int)(at - path), path, early, at + strlen(honest));
}

int __wrap_tracefs_read(int dir, const char *path, struct buf *b, struct err *e)
{
    AUTO(str_free) char *other = other_event(path);
    return __real_tracefs_read(dir, other, b, e);
}

int __wrap_tracefs_write(int dir, const char *path, const char *text, struct err *e)
{
    AUTO(str_free) char *other = other_event(path);
    return __real_tracefs_write(dir, other, text, e);
}

// SPDX-License-Identifier: Apache-2.0
// The kernel's own count of what was written to a disk (Documentation/block/stat.rst of
// Linux), and which disk it is. What surprises: the counts of kernel and tracker cannot
// be read in one moment; two equal readings of both say that nothing was written between.
// The kernel counts a write a moment after the tracker saw it.
#include "agent/track_state.h"

#include "agent/block.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define MOMENT_NS 200000

static int sectors(const char *name, uint64_t *ret, struct err *e)
{
    struct sys_stat s;
    if (sys_stat(name, &s, e))
        return -1;
    *ret = s.sectors_written + s.sectors_discarded;
    return 0;
}

// Which of all disks that ever had this name. Before 5.15 the number of its folder: that
// of another disk gets another one.
static uint64_t number(const char *name)
{
    uint64_t seq = sys_number(name, "diskseq");
    AUTO(str_free) char *path = xasprintf("/sys/block/%s/.", name);
    struct stat st;
    return seq || stat(path, &st) < 0 ? seq : st.st_ino;
}

int track_kernel(const char *name, struct track_kernel *ret, struct err *e)
{
    struct track_kernel k = {
        .size = sys_number(name, "size") * 512,
        .seq = number(name),
        .counts = sys_number(name, "queue/iostats") == 1,
    };
    AUTO(str_free) char *path = xasprintf("/sys/block/%s/dev", name);
    dev_t dev;
    if (sectors(name, &k.sectors, e) < 0)
        return -1;
    if (!sys_dev(path, &dev))
        return err_set(e, ERR_FAILED, "%s says no number", path);
    k.major = major(dev);
    k.minor = minor(dev);
    *ret = k;
    return 0;
}

int track_both(const struct track_disk *d, struct tracker *t, size_t i, uint64_t ms,
               struct track_counts *ret_least, struct track_counts *ret_most,
               struct err *e)
{
    uint64_t until = clock_ms() + ms, closest = UINT64_MAX;
    for (;;) {
        struct track_counts least, most;
        if (sectors(d->name, &least.kernel, e) < 0 ||
            t->ops->seen(t, i, &most.seen, e) < 0)
            return -1;
        (void)nanosleep(&(struct timespec){.tv_nsec = MOMENT_NS}, NULL);
        if (sectors(d->name, &most.kernel, e) < 0 ||
            t->ops->seen(t, i, &least.seen, e) < 0)
            return -1;
        uint64_t between =
            most.kernel - least.kernel + (least.seen.sectors - most.seen.sectors);
        if (between < closest) {
            closest = between;
            *ret_least = least;
            *ret_most = most;
        }
        if (between == 0)
            return 0;
        if (clock_ms() >= until)
            return err_set(e, ERR_RETRY, "%s is being written", d->name);
    }
}

// SPDX-License-Identifier: Apache-2.0
// The kernel's own count of what was written to a disk (Documentation/block/stat.rst of
// Linux), and which disk it is. What surprises: the counts of kernel and tracker cannot
// be read in one moment; two equal readings of both say that nothing was written between.
#include "agent/track_state.h"

#include "agent/block.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

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
               uint64_t *ret_kernel, struct track_seen *ret_seen, struct err *e)
{
    uint64_t until = clock_ms() + ms, least = UINT64_MAX;
    for (;;) {
        struct track_seen seen, later;
        uint64_t before, after;
        // The kernel's first: an event between makes the tracker's start higher, so that
        // it seems to have missed something. The other way round would hide a loss.
        if (sectors(d->name, &before, e) < 0 || t->ops->seen(t, i, &seen, e) < 0 ||
            sectors(d->name, &after, e) < 0 || t->ops->seen(t, i, &later, e) < 0)
            return -1;
        // On a disk that never rests: those between which the least was written.
        uint64_t between = after - before + (later.sectors - seen.sectors);
        if (between < least) {
            least = between;
            *ret_kernel = before;
            *ret_seen = later;
        }
        if (between == 0)
            return 0;
        if (clock_ms() >= until)
            return err_set(e, ERR_RETRY, "%s is being written", d->name);
        (void)nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
}

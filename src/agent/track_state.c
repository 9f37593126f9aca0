// SPDX-License-Identifier: Apache-2.0
// The state file: a head, a record a disk, then the pending marks of each. It is mapped
// shared, so that every store is in it at once and a kill takes nothing; it is never
// synced, because after a reboot it is worth nothing: the boot id says so.
#include "agent/track_state.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "godwit-track 2\n"
#define PAGE 4096
#define LEN_MAX (64 * MIB)

uint64_t track_random(void)
{
    uint64_t v = 0;
    if (getrandom(&v, sizeof(v), 0) != (ssize_t)sizeof(v))
        v = clock_ns() ^ (uint64_t)getpid() << 40; // a kernel before 3.17
    return v ? v : 1;
}

static void boot_id(char out[static 40])
{
    struct err e;
    AUTO(buf_done) struct buf b = BUF_INIT(64);
    bool read = file_read("/proc/sys/kernel/random/boot_id", &b, &e) == 0 && b.len >= 36;
    (void)snprintf(out, 40, "%.36s", read ? b.data : "unknown");
}

static void describe(struct track_record *r, const struct track_disk *d)
{
    struct err e;
    struct track_kernel k = {0};
    memset(r, 0, sizeof(*r));
    (void)snprintf(r->name, sizeof(r->name), "%s", d->name);
    (void)snprintf(r->serial, sizeof(r->serial), "%s", d->serial ? d->serial : "");
    r->size = d->size;
    r->major = d->major;
    r->minor = d->minor;
    (void)track_kernel(d->name, &k, &e); // then it is of no use, and the probe says so
    r->seq = k.seq;
}

static bool same_disk(const struct track_record *a, const struct track_record *b)
{
    return strncmp(a->name, b->name, sizeof(a->name)) == 0 &&
           strncmp(a->serial, b->serial, sizeof(a->serial)) == 0 && a->size == b->size &&
           a->seq == b->seq && a->major == b->major && a->minor == b->minor;
}

// Why the old state is not that of these disks on this boot; NULL: it is. What is mapped
// was written by ourselves, but perhaps by another version.
static const char *differs(const struct track_head *old, const struct track_head *wanted)
{
    if (memcmp(old->magic, wanted->magic, sizeof(old->magic)) != 0)
        return "the agent was replaced";
    if (strncmp(old->boot_id, wanted->boot_id, sizeof(old->boot_id)) != 0)
        return "reboot";
    if (old->len != wanted->len || old->n_disks != wanted->n_disks ||
        old->shift != wanted->shift)
        return "other disks are tracked";
    for (uint32_t i = 0; i < wanted->n_disks; i++)
        if (!same_disk(&old->disks[i], &wanted->disks[i]) ||
            old->disks[i].pending_off != wanted->disks[i].pending_off)
            return "a disk was exchanged or resized";
    return NULL;
}

// Head and records of a state of these disks, in memory; free() it.
static struct track_head *plan(const struct track_disk *disks, size_t n)
{
    uint64_t *sizes = xcalloc(n + 1, sizeof(*sizes));
    for (size_t i = 0; i < n; i++)
        sizes[i] = disks[i].size;
    struct track_head *h = xcalloc(1, sizeof(*h) + n * sizeof(h->disks[0]));
    memcpy(h->magic, MAGIC, sizeof(MAGIC));
    boot_id(h->boot_id);
    h->n_disks = (uint32_t)n;
    h->shift = marks_shift(sizes, n);
    uint64_t at = round_up(sizeof(*h) + n * sizeof(h->disks[0]), PAGE);
    for (size_t i = 0; i < n; i++) {
        describe(&h->disks[i], &disks[i]);
        h->disks[i].pending_off = at;
        at = round_up(at + (sizes[i] >> h->shift) + 1, PAGE);
    }
    h->len = at;
    free(sizes);
    return h;
}

static int map_file(int fd, const char *path, size_t len, struct track_head **ret,
                    struct err *e)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return err_errno(e, errno, "mapping %s", path);
    *ret = p;
    return 0;
}

// The state an earlier process left; NULL: none that is worth anything, *ret_lost says
// why.
static struct track_head *find(const char *path, const struct track_head *wanted,
                               const char **ret_lost)
{
    struct err e;
    struct stat st;
    struct track_head *old = NULL;
    AUTO(fd_close) int fd = open(path, O_RDWR | O_CLOEXEC);
    *ret_lost = "";
    if (fd < 0)
        return NULL;
    *ret_lost = "other disks are tracked";
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != wanted->len ||
        map_file(fd, path, (size_t)wanted->len, &old, &e) < 0)
        return NULL;
    *ret_lost = differs(old, wanted);
    if (*ret_lost == NULL)
        return old;
    munmap(old, (size_t)wanted->len);
    return NULL;
}

static int make(const char *path, const struct track_head *wanted,
                struct track_head **ret, struct err *e)
{
    AUTO(str_free) char *fresh = xasprintf("%s.new", path);
    AUTO(fd_close) int fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    // Its room is taken now: a full tmpfs may not kill us later.
    int error = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)wanted->len);
    if (error != 0)
        return err_errno(e, error, "making %s", fresh);
    struct track_head *h = NULL;
    if (map_file(fd, fresh, (size_t)wanted->len, &h, e) < 0)
        return -1;
    memcpy(h, wanted, sizeof(*h) + wanted->n_disks * sizeof(h->disks[0]));
    if (rename(fresh, path) < 0) {
        munmap(h, (size_t)wanted->len);
        return err_errno(e, errno, "renaming %s", fresh);
    }
    *ret = h;
    return 0;
}

int track_state_open(const char *run_dir, const struct track_disk *disks, size_t n_disks,
                     struct track_state *ret, const char **ret_lost, struct err *e)
{
    struct track_state s = {.lock = -1};
    AUTO(str_free) char *path = path_join(run_dir, "tracking");
    AUTO(str_free) char *lock = path_join(run_dir, "tracking.lock");
    if (dir_make(run_dir, 0700, e) < 0 ||
        lock_take(lock, "the tracking of this server", &s.lock, e) < 0)
        return -1;
    struct track_head *wanted = plan(disks, n_disks);
    int done = 0;
    if (wanted->len > LEN_MAX) {
        done = err_set(e, ERR_REFUSED, "the disks are too large to be tracked");
    } else {
        s.head = find(path, wanted, ret_lost);
        if (s.head == NULL)
            done = make(path, wanted, &s.head, e);
    }
    free(wanted);
    if (done < 0)
        track_state_close(&s);
    else
        *ret = s;
    return done;
}

struct marks track_state_pending(const struct track_state *s, size_t disk)
{
    const struct track_record *r = &s->head->disks[disk];
    uint8_t *v = (uint8_t *)s->head + r->pending_off;
    uint64_t granule = UINT64_C(1) << s->head->shift;
    return (struct marks){v, round_up(r->size, granule) >> s->head->shift,
                          s->head->shift};
}

void track_state_close(struct track_state *s)
{
    if (s->head)
        munmap(s->head, (size_t)s->head->len);
    fd_close(s->lock);
    *s = (struct track_state){.lock = -1};
}

void track_state_remove(const char *run_dir)
{
    struct err e;
    AUTO(str_free) char *path = path_join(run_dir, "tracking");
    (void)file_remove(path, &e); // an old state is found out by its contents
}

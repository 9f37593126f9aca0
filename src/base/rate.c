// SPDX-License-Identifier: Apache-2.0
// A token bucket that may go into debt: who finds it paid passes and pays for everything
// at once, who comes next waits until the debt is paid off by time. So requests larger
// than the bucket pass, and the average is exact. The bucket holds a tenth of a second.
//
// All there is to know beside the limit is one number: until when has been paid. It is
// moved by compare-and-swap and guarded by nothing, so that a bucket can lie in a file
// that many processes map, and one that is killed leaves nothing locked; at worst it has
// paid for what it did not send.
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)
#define SLICE_NS (NS_PER_S / 10) // a new limit is seen after this at the latest
#define COST_MAX (UINT64_C(1) << 60)
#define MAGIC "GWRATE1"

struct bucket { // and all of a shared file: memory of this host, in its byte order
    char magic[8];
    char boot[40];               // of the boot whose clock paid_ns is of
    _Atomic uint64_t per_second; // 0: no limit
    _Atomic uint64_t paid_ns;    // later than now: debt; earlier: tokens
};

struct rate {
    struct bucket own, *b; // &own, or mapped
    struct rate *parent;   // NULL: none
};

struct rate *rate_new(uint64_t bytes_per_second)
{
    return rate_child(NULL, bytes_per_second);
}

struct rate *rate_child(struct rate *parent, uint64_t bytes_per_second)
{
    struct rate *r = xcalloc(1, sizeof(*r));
    r->b = &r->own;
    r->parent = parent;
    rate_set(r, bytes_per_second);
    return r;
}

void rate_free(struct rate *r)
{
    if (!r)
        return;
    if (r->b != &r->own)
        munmap(r->b, sizeof(*r->b));
    free(r);
}

// --- shared

static void boot_id(char out[static sizeof(((struct bucket *)0)->boot)])
{
    const size_t size = sizeof(((struct bucket *)0)->boot);
    struct err e;
    AUTO(buf_done) struct buf b = BUF_INIT(4 * KIB);
    memset(out, 0, size);
    if (file_read("/proc/sys/kernel/random/boot_id", &b, &e) == 0)
        memcpy(out, b.data, min_u64(b.len, size - 1));
}

// Under the file's lock: the first that opens it, or that opens it after a boot, makes
// its times ours. The magic comes last: without it, it is made again.
static int prepare(struct bucket *b, const char *path, struct err *e)
{
    static const char nothing[sizeof(b->magic)];
    char boot[sizeof(b->boot)];
    boot_id(boot);
    bool fresh = memcmp(b->magic, nothing, sizeof(b->magic)) == 0;
    if (!fresh && memcmp(b->magic, MAGIC, sizeof(b->magic)) != 0)
        return err_set(e, ERR_FAILED, "%s holds no rate limit", path);
    if (fresh || memcmp(b->boot, boot, sizeof(boot)) != 0) {
        memcpy(b->boot, boot, sizeof(boot));
        b->paid_ns = clock_ns();
    }
    if (fresh) {
        b->per_second = 0;
        memcpy(b->magic, MAGIC, sizeof(b->magic));
    }
    return 0;
}

int rate_shared(const char *path, struct rate **ret, struct err *e)
{
    AUTO(fd_close)
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;
    if (fd < 0 || flock(fd, LOCK_EX) < 0 || fstat(fd, &st) < 0)
        return err_errno(e, errno, "open the rate limit %s", path);
    if (st.st_size != 0 && st.st_size != (off_t)sizeof(struct bucket))
        return err_set(e, ERR_FAILED, "%s holds no rate limit", path);
    if (st.st_size == 0 && ftruncate(fd, sizeof(struct bucket)) < 0)
        return err_errno(e, errno, "make the rate limit %s", path);
    void *map =
        mmap(NULL, sizeof(struct bucket), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return err_errno(e, errno, "map the rate limit %s", path);
    int result = prepare(map, path, e);
    (void)flock(fd, LOCK_UN); // the mapping would hold it
    if (result < 0) {
        munmap(map, sizeof(struct bucket));
        return -1;
    }
    *ret = xcalloc(1, sizeof(**ret));
    (*ret)->b = map;
    return 0;
}

// --- limits

void rate_set(struct rate *r, uint64_t bytes_per_second)
{
    r->b->per_second = bytes_per_second;
    r->b->paid_ns = clock_ns();
}

uint64_t rate_get(struct rate *r)
{
    return r->b->per_second;
}

uint64_t rate_lowest(struct rate *r)
{
    uint64_t lowest = 0;
    for (; r; r = r->parent) {
        uint64_t own = r->b->per_second;
        if (own > 0 && (lowest == 0 || own < lowest))
            lowest = own;
    }
    return lowest;
}

bool rate_limited(struct rate *r)
{
    return rate_lowest(r) > 0;
}

// --- passing

static uint64_t cost_ns(uint64_t bytes, uint64_t per_second)
{
    unsigned __int128 cost = (unsigned __int128)bytes * NS_PER_S / per_second;
    return cost > COST_MAX ? COST_MAX : (uint64_t)cost;
}

// Nanoseconds until it is worth asking again; 0: the bucket is not in debt.
static uint64_t in_debt(const struct bucket *b)
{
    uint64_t paid = b->paid_ns, now = clock_ns();
    return b->per_second > 0 && paid > now ? min_u64(paid - now, SLICE_NS) : 0;
}

// Pays, and if `when_paid`, only out of debt: otherwise returns what in_debt() does.
static uint64_t pay(struct bucket *b, uint64_t bytes, bool when_paid)
{
    uint64_t paid = b->paid_ns, next;
    do {
        uint64_t per_second = b->per_second, now = clock_ns();
        if (per_second == 0)
            return 0;
        if (when_paid && paid > now)
            return min_u64(paid - now, SLICE_NS);
        next = max_u64(paid, now > SLICE_NS ? now - SLICE_NS : 0) +
               cost_ns(bytes, per_second);
    } while (!atomic_compare_exchange_weak(&b->paid_ns, &paid, next));
    return 0;
}

uint64_t rate_take(struct rate *r, uint64_t bytes)
{
    uint64_t ns = 0;
    for (struct rate *at = r; at; at = at->parent)
        ns = max_u64(ns, in_debt(at->b));
    while (r && r->b->per_second == 0)
        r = r->parent;
    if (ns > 0 || !r)
        return ns;
    // Of many that come at once one passes here. It has paid then, and is not held up
    // further above by others who came at the same moment.
    ns = pay(r->b, bytes, true);
    if (ns == 0)
        rate_pay(r->parent, bytes);
    return ns;
}

void rate_pay(struct rate *r, uint64_t bytes)
{
    for (; r; r = r->parent)
        (void)pay(r->b, bytes, false);
}

void rate_refund(struct rate *r, uint64_t bytes)
{
    for (; r; r = r->parent) {
        uint64_t paid = r->b->paid_ns, per_second, cost;
        do {
            per_second = r->b->per_second;
            cost = per_second ? min_u64(cost_ns(bytes, per_second), paid) : 0;
        } while (!atomic_compare_exchange_weak(&r->b->paid_ns, &paid, paid - cost));
    }
}

void rate_wait(struct rate *r, uint64_t bytes)
{
    for (uint64_t ns; !cancel_requested() && (ns = rate_take(r, bytes)) > 0;)
        rate_sleep(ns);
}

void rate_sleep(uint64_t ns)
{
    struct pollfd cancel = {.fd = cancel_fd(), .events = POLLIN};
    struct timespec wait = {.tv_nsec = (long)ns};
    ppoll(&cancel, 1, &wait, NULL);
}

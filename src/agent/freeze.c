// SPDX-License-Identifier: Apache-2.0
// Freezing file systems (FIFREEZE, FITHAW: the kernel's fs/super.c) so that they cannot
// stay frozen. A watchdog is forked before the first one. It has nothing but a page that
// it shares with us, a timer, a socket and the open file systems:
//
//     we                         page: stage, a state each          watchdog
//     sync, arm the timer        armed ──── the timer fires ──────► expired: thaws
//     freeze 0, 1, 2 … root      idle ► freezing ► frozen
//     freeze_commit              armed ► committed (the timer means nothing now)
//     thaw root … 2, 1, 0        frozen ► thawing ► thawed, by whoever swaps first
//     gone, or killed            the socket ends ─────────────────► thaws what is not
//
// One frozen by somebody else says EBUSY and is never thawed by us, but for one instant:
// killed inside that very call, nobody knows whose it is, and it is thawed. Somebody else
// may thaw ours: then the thawing says so. The page is all that is touched between
// freezing and thawing, with clock_gettime(), ioctl() and timerfd_settime().

#include "agent/block.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define SETTLE_BASE_MS 30000 // between freezing and thawing lies nothing: a safety net
#define SETTLE_EACH_MS 10000
#define STACK_TOUCH (64 * KIB)

enum stage { ARMED, COMMITTED, EXPIRED };
enum state { IDLE, FREEZING, FROZEN, THAWING, THAWED };

struct page {
    atomic_int stage;
    atomic_int lost; // thawed by somebody else before we did: errno
    _Atomic uint64_t begun_ns, ended_ns;
    atomic_int state[];
};

struct freeze {
    const struct volume_mounts *m; // while it begins
    struct page *page;
    size_t page_size;
    int *fds;
    bool *can_freeze;
    size_t n;
    int timer, socket;
    pid_t watchdog;
};

// --- both processes

// True when it was ours to thaw.
static bool thaw(const struct freeze *f, size_t i, int from)
{
    if (!atomic_compare_exchange_strong(&f->page->state[i], &from, THAWING))
        return false;
    if (ioctl(f->fds[i], FITHAW, 0) < 0)
        atomic_store(&f->page->lost, errno);
    atomic_store(&f->page->state[i], THAWED);
    return true;
}

// The other way round: an inner one writes to what is below when it thaws.
static void thaw_all(const struct freeze *f)
{
    bool any = false;
    for (size_t i = f->n; i-- > 0;)
        any = thaw(f, i, FROZEN) || any;
    if (any)
        atomic_store(&f->page->ended_ns, clock_ns());
}

// --- the watchdog

static void close_others(const struct freeze *f)
{
    struct rlimit limit;
    int last = 2;
    for (size_t i = 0; i < f->n; i++)
        last = f->fds[i] > last ? f->fds[i] : last;
    last = f->timer > last ? f->timer : last;
    last = f->socket > last ? f->socket : last;
    for (int fd = 0; fd <= last; fd++) {
        bool keep = fd == f->timer || fd == f->socket;
        for (size_t i = 0; i < f->n && !keep; i++)
            keep = fd == f->fds[i];
        if (!keep)
            close(fd);
    }
    if (syscall(SYS_close_range, (unsigned)last + 1, ~0U, 0) == 0)
        return;
    // Before 5.9.
    getrlimit(RLIMIT_NOFILE, &limit);
    for (int fd = last + 1; (rlim_t)fd < limit.rlim_cur; fd++)
        close(fd);
}

bool freeze_lock_memory(void)
{
    uint8_t stack[STACK_TOUCH];
    // What is there already and what is touched from now on: not the stacks and heaps of
    // threads that this process does not have. Before 4.4 all of it.
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0 &&
        mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
        return false;
    memset(stack, 0, sizeof(stack));
    __asm__ volatile("" : : "r"(stack) : "memory"); // really
    return true;
}

static void survive(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    prctl(PR_SET_NAME, "godwit-thaw", 0, 0, 0);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "-1000", 5) < 0)
        prctl(PR_SET_NAME, "godwit-thaw-oom", 0, 0, 0); // it could be chosen: shown
    fd_close(fd);
}

__attribute__((noreturn)) static void watch(const struct freeze *f)
{
    survive();
    close_others(f);
    // What we run is there before anything is frozen: thawing nothing is the same code.
    thaw_all(f);
    if (!freeze_lock_memory() || write(f->socket, "", 1) != 1)
        _exit(1);
    struct pollfd p[] = {{f->socket, POLLIN, 0}, {f->timer, POLLIN, 0}};
    for (nfds_t n = 2;;) {
        if (poll(p, n, -1) < 0)
            continue;
        if (p[0].revents)
            break;
        int armed = ARMED;
        if (atomic_compare_exchange_strong(&f->page->stage, &armed, EXPIRED))
            thaw_all(f);
        n = 1;
    }
    // Nobody else is left: also what the other was just about to do.
    for (size_t i = f->n; i-- > 0;)
        if (!thaw(f, i, FROZEN) && !thaw(f, i, FREEZING))
            (void)thaw(f, i, THAWING);
    _exit(0);
}

// --- the other side

// It may be thawing just now: what it was about to do is done afterwards.
static void watchdog_end(struct freeze *f)
{
    fd_close(f->socket);
    f->socket = -1;
    while (f->watchdog > 0 && waitpid(f->watchdog, NULL, 0) < 0 && errno == EINTR)
        ;
    f->watchdog = 0;
}

// Nothing is frozen any more when it returns.
static void freeze_free(struct freeze *f)
{
    if (!f)
        return;
    if (f->page && f->watchdog)
        thaw_all(f);
    watchdog_end(f);
    for (size_t i = 0; i < f->n; i++)
        fd_close(f->fds[i]);
    fd_close(f->timer);
    if (f->page)
        munmap(f->page, f->page_size);
    free(f->fds);
    free(f->can_freeze);
    free(f);
}
DEFINE_AUTO(freeze_free, struct freeze *)

// The file system itself; another one may have been mounted there since.
static int open_mount(const struct volume_mount *m, int *ret, struct err *e)
{
    struct stat st;
    AUTO(fd_close)
    int fd = open(m->where, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(e, errno, "cannot open %s to freeze it", m->where);
    if (strcmp(m->type, "btrfs") != 0 && st.st_dev != makedev(m->major, m->minor))
        return err_set(e, ERR_RETRY, "another file system is mounted on %s now",
                       m->where);
    *ret = steal_fd(&fd);
    return 0;
}

static int timer_make(struct err *e)
{
    int fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0) // before 3.15
        fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return fd < 0 ? err_errno(e, errno, "cannot make a timer") : fd;
}

static int watchdog_start(struct freeze *f, struct err *e)
{
    int pair[2];
    char ready;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, errno, "cannot start the watchdog");
    int ours = pair[0], theirs = pair[1];
    pid_t pid = fork();
    if (pid == 0) {
        close(ours);
        f->socket = theirs;
        watch(f);
    }
    int error = errno;
    close(theirs);
    f->socket = ours;
    if (pid < 0)
        return err_errno(e, error, "cannot start the watchdog");
    f->watchdog = pid;
    while (read(ours, &ready, 1) != 1)
        if (errno != EINTR)
            return err_set(e, ERR_FAILED,
                           "the watchdog that would thaw cannot lock its memory");
    return 0;
}

// A freeze with its watchdog and nothing frozen. what_opens: those that cannot be opened
// are left out (descriptor -1), else they are an error.
static int freeze_new(const struct volume_mounts *m, bool what_opens, struct freeze **ret,
                      struct err *e)
{
    AUTO(freeze_free) struct freeze *f = xcalloc(1, sizeof(*f));
    *f = (struct freeze){.timer = -1, .socket = -1, .m = m};
    f->fds = xcalloc(m->n + 1, sizeof(*f->fds));
    f->can_freeze = xcalloc(m->n + 1, sizeof(*f->can_freeze));
    f->page_size = sizeof(*f->page) + m->n * sizeof(f->page->state[0]);
    for (; f->n < m->n; f->n++) {
        int fd = -1;
        if (open_mount(&m->v[f->n], &fd, e) && !what_opens)
            return -1;
        f->fds[f->n] = fd;
        f->can_freeze[f->n] = m->v[f->n].can_freeze;
    }
    void *page = mmap(NULL, f->page_size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return err_errno(e, errno, "cannot share memory with the watchdog");
    f->page = page;
    if (mlock(page, f->page_size) < 0)
        return err_errno(e, errno, "cannot lock memory");
    f->timer = timer_make(e);
    if (f->timer < 0 || watchdog_start(f, e))
        return -1;
    *ret = steal(f);
    return 0;
}

static void timer_set(const struct freeze *f, uint64_t ms)
{
    struct itimerspec t = {.it_value = {.tv_sec = (time_t)(ms / 1000),
                                        .tv_nsec = (long)(ms % 1000) * 1000000}};
    timerfd_settime(f->timer, 0, &t, NULL);
}

// 0: frozen, or it cannot be and is synced; else an errno.
static int freeze_one(const struct freeze *f, size_t i)
{
    atomic_int *state = &f->page->state[i];
    if (!f->can_freeze[i])
        return syncfs(f->fds[i]) < 0 ? errno : 0;
    atomic_store(state, FREEZING);
    int error = ioctl(f->fds[i], FIFREEZE, 0) < 0 ? errno : 0;
    atomic_store(state, error ? IDLE : FROZEN);
    if (error == EOPNOTSUPP || error == ENOTTY)
        return syncfs(f->fds[i]) < 0 ? errno : 0;
    return error;
}

bool freeze_holds(struct freeze *f)
{
    return atomic_load(&f->page->stage) != EXPIRED;
}

static int freeze_failed(const struct volume_mount *m, int error, struct err *e)
{
    if (error == EBUSY)
        return err_set(e, ERR_RETRY, "%s is frozen by another program already", m->where);
    return err_errno(e, error, "cannot freeze %s", m->where);
}

static int freeze_too_long(uint64_t deadline_ms, struct err *e)
{
    return err_set(e, ERR_RETRY,
                   "freezing took longer than the %llu ms that were allowed",
                   (unsigned long long)deadline_ms);
}

int freeze_begin(const struct volume_mounts *m, uint64_t deadline_ms, struct freeze **ret,
                 struct err *e)
{
    AUTO(freeze_free) struct freeze *f = NULL;
    size_t i = 0;
    int error = 0;
    uint64_t end = clock_ms() + deadline_ms, now;
    if (deadline_ms == 0)
        return err_set(e, ERR_USAGE, "freezing needs a deadline");
    if (freeze_new(m, false, &f, e))
        return -1;
    // While everybody may still write: freezing has little left to wait for then.
    for (size_t k = 0; k < f->n; k++)
        if (syncfs(f->fds[k]) < 0)
            return err_errno(e, errno, "cannot sync %s", m->v[k].where);
    now = clock_ms();
    if (now >= end)
        return freeze_too_long(deadline_ms, e);
    timer_set(f, end - now);
    atomic_store(&f->page->begun_ns, clock_ns());
    for (; i < f->n && !error && freeze_holds(f); i++)
        error = freeze_one(f, i);
    if (!error && freeze_holds(f)) {
        f->m = NULL;
        *ret = steal(f);
        return 0;
    }
    thaw_all(f); // before anything is written into the error
    if (error)
        return freeze_failed(&m->v[i - 1], error, e);
    return freeze_too_long(deadline_ms, e);
}

int freeze_commit(struct freeze *f, struct err *e)
{
    int stage = ARMED;
    if (!atomic_compare_exchange_strong(&f->page->stage, &stage, COMMITTED) &&
        stage == EXPIRED)
        return err_set(e, ERR_RETRY, "the deadline has passed, everything was thawed");
    timer_set(f, 0);
    return 0;
}

int freeze_end(struct freeze *f, uint64_t *ret_ms, struct err *e)
{
    thaw_all(f);
    watchdog_end(f);
    uint64_t ended = atomic_load(&f->page->ended_ns), begun = f->page->begun_ns;
    int lost = atomic_load(&f->page->lost);
    freeze_free(f);
    if (lost == EINVAL)
        return err_set(e, ERR_FAILED, "a file system had been thawed by another program");
    if (lost)
        return err_errno(e, lost, "cannot thaw a file system");
    *ret_ms = ended > begun ? (ended - begun) / 1000000 : 0;
    return 0;
}

void freeze_sync(const struct volume_mounts *m)
{
    for (size_t i = 0; i < m->n; i++) {
        AUTO(fd_close) int fd = -1;
        struct err ignored; // gone meanwhile, or broken: the freeze will say so
        if (!open_mount(&m->v[i], &fd, &ignored))
            (void)syncfs(fd);
    }
}

// Does a reader of the disk see the file system, too? Not through encryption or a RAID,
// and another one that it sees may have the same UUID (a copy), which was not settled.
static bool plain(const struct volume_mount *m)
{
    AUTO(str_free)
    char *md = sys_text("/sys/dev/block/%u:%u/md/level", m->major, m->minor);
    AUTO(str_free)
    char *dm = sys_text("/sys/dev/block/%u:%u/dm/uuid", m->major, m->minor);
    return m->depth == 0 && !md && (!dm || str_starts(dm, "LVM-"));
}

void freeze_settled(const struct volume_mounts *m, struct strings *ret)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->v[i].can_freeze && plain(&m->v[i]) && m->v[i].uuid)
            strings_add(ret, m->v[i].uuid);
}

int freeze_settle(const struct volume_mounts *m, struct strings *ret_settled,
                  struct err *e)
{
    AUTO(freeze_free) struct freeze *f = NULL;
    AUTO(strings_done) struct strings settled = {0};
    if (freeze_new(m, true, &f, e))
        return -1;
    for (size_t i = 0; i < f->n; i++)
        f->can_freeze[i] = f->can_freeze[i] && plain(&m->v[i]);
    timer_set(f, SETTLE_BASE_MS + SETTLE_EACH_MS * f->n);
    for (size_t i = 0; i < f->n; i++) {
        if (f->fds[i] < 0 || !f->can_freeze[i] || syncfs(f->fds[i]) < 0 ||
            freeze_one(f, i) || !thaw(f, i, FROZEN))
            continue;
        if (m->v[i].uuid && !f->page->lost)
            strings_add(&settled, m->v[i].uuid);
        atomic_store(&f->page->lost, 0);
    }
    *ret_settled = settled;
    settled = (struct strings){0};
    return 0;
}

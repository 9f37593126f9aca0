// SPDX-License-Identifier: Apache-2.0
// Ctrl-C. The handler does two things that are safe in a handler: it counts, and it makes
// an eventfd readable, which nobody ever reads, so that every poll loop wakes. The third
// signal takes the default action: the way out when something does not look.
#include "base/base.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

static volatile sig_atomic_t count;
static volatile bool held;
static int event = -1;

static void on_signal(int signal_number)
{
    int saved = errno;
    if (__atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST) >= 3) {
        signal(signal_number, SIG_DFL);
        raise(signal_number); // delivered when this handler returns
    }
    (void)!write(event, &(uint64_t){1}, sizeof(uint64_t));
    errno = saved;
}

void cancel_setup(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    if (event < 0)
        event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    // No SA_RESTART: blocking calls return with EINTR.
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &action, NULL);
}

void cancel_hold(bool hold)
{
    __atomic_store_n(&held, hold, __ATOMIC_SEQ_CST);
}

bool cancel_requested(void)
{
    return !__atomic_load_n(&held, __ATOMIC_SEQ_CST) &&
           __atomic_load_n(&count, __ATOMIC_SEQ_CST) > 0;
}

int cancel_fd(void)
{
    return __atomic_load_n(&held, __ATOMIC_SEQ_CST) ? -1 : event;
}

int cancel_check(struct err *e)
{
    return cancel_requested() ? err_set(e, ERR_CANCELLED, "cancelled") : 0;
}

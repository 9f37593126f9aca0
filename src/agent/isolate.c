// SPDX-License-Identifier: Apache-2.0
// Isolation by all means that this kernel has; and where a card cannot be filtered and
// nobody at all is let through, at least no answer to ARP for IPv4 addresses that the
// copy has: net.ipv4.conf.all.arp_ignore = 8, the old value in a rule of ours.
#include "agent/isolate.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define ARP_IGNORE "/proc/sys/net/ipv4/conf/all/arp_ignore"
#define ARP_IGNORE_ALL 8

static int arp_ignore(void)
{
    char text[16] = "";
    AUTO(fd_close) int fd = open(ARP_IGNORE, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    uint64_t value = ARP_IGNORE_ALL;
    // No IPv4: no ARP.
    return n <= 0 || str_to_u64(str_trim(text), &value) ? ARP_IGNORE_ALL : (int)value;
}

static void set_arp_ignore(int value)
{
    char text[16];
    int n = snprintf(text, sizeof(text), "%d\n", value);
    AUTO(fd_close) int fd = open(ARP_IGNORE, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, (size_t)n) != n)
        log_line(LOG_WARN, "%s cannot be set to %d", ARP_IGNORE, value);
}

static int ignore_arp(struct err *e)
{
    int now = arp_ignore();
    if (now == ARP_IGNORE_ALL)
        return 0;
    if (rules_note((uint32_t)now, e))
        return -1;
    set_arp_ignore(ARP_IGNORE_ALL);
    return 0;
}

static void answer_arp(void)
{
    uint32_t before;
    if (!rules_noted(&before))
        return;
    set_arp_ignore((int)before);
    rules_forget();
}

int isolate_begin(const struct isolation *keep, char **ret_gap, struct err *e)
{
    struct err ignored; // the first failure is told
    AUTO(str_free) char *gap = NULL;
    if (rules_begin(keep, e))
        return -1;
    if (filter_begin(keep, &gap, e) || (gap && !keep->peer && ignore_arp(e))) {
        (void)isolate_end(&ignored);
        return -1;
    }
    if (!gap || keep->peer)
        answer_arp();
    if (ret_gap)
        *ret_gap = steal(gap);
    return 0;
}

int isolate_end(struct err *e)
{
    struct err later;
    answer_arp();
    int status = filter_end(e);
    return rules_end(status ? &later : e) || status ? -1 : 0;
}

bool isolate_holds(void)
{
    return rules_hold();
}

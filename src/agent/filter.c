// SPDX-License-Identifier: Apache-2.0
// Every frame of every card: a queueing discipline `clsact` (Linux 4.5), which queues
// nothing, with a filter `bpf` in direct-action mode at both directions, before all
// others (linux/pkt_cls.h).
//
// Ours are known by their handle, whose last bit says whether the clsact is ours too:
// there is no state but theirs. What surprises: a card that has the older `ingress` can
// not have clsact, and takes a filter for what it sends as one for what it receives.
#include "agent/isolate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#define OURS 0x67647770U
#define OURS_ALONE 1U // the clsact is there because of us
#define PRIORITY 1
#define DIRECTIONS 2

static const struct {
    uint32_t parent;
    enum frames_at at;
} directions[DIRECTIONS] = {
    {TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS), FRAMES_OUT},
    {TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), FRAMES_IN},
};

static struct netlink_request about(uint16_t type, uint16_t flags, int card,
                                    uint32_t parent, uint32_t handle)
{
    struct tcmsg t = {.tcm_family = AF_UNSPEC,
                      .tcm_ifindex = card,
                      .tcm_parent = parent,
                      .tcm_handle = handle};
    if (type == RTM_NEWTFILTER || type == RTM_DELTFILTER)
        t.tcm_info = TC_H_MAKE(PRIORITY << 16, htons(ETH_P_ALL));
    return netlink_request(type, flags, &t, sizeof(t));
}

static void add_kind(struct netlink_request *r, const char *kind)
{
    netlink_add(r, TCA_KIND, kind, strlen(kind) + 1);
}

// --- what is there

struct there {
    uint32_t ours; // the handle of our filter, 0: none
    size_t others; // filters
};

static void look(void *context, const struct nlmsghdr *m)
{
    struct there *t = context;
    struct tcmsg h;
    if (m->nlmsg_type != RTM_NEWTFILTER || m->nlmsg_len < NLMSG_LENGTH(sizeof(h)))
        return;
    memcpy(&h, NLMSG_DATA(m), sizeof(h));
    const char *kind = netlink_find(m, sizeof(h), TCA_KIND, sizeof("bpf"));
    if ((h.tcm_handle & ~OURS_ALONE) == OURS && kind && memcmp(kind, "bpf", 4) == 0)
        t->ours = h.tcm_handle;
    else if (h.tcm_handle)
        t->others++;
}

static int list(int fd, int card, uint32_t parent, struct there *ret)
{
    struct netlink_request r = about(RTM_GETTFILTER, NLM_F_DUMP, card, parent, 0);
    *ret = (struct there){0};
    int error = netlink_ask(fd, &r, look, ret);
    return error == EINVAL || error == ENODEV ? 0 : error; // no such card: no filter
}

struct ingress {
    int card;
    bool old;
};

static void look_ingress(void *context, const struct nlmsghdr *m)
{
    struct ingress *i = context;
    struct tcmsg h;
    if (m->nlmsg_type != RTM_NEWQDISC || m->nlmsg_len < NLMSG_LENGTH(sizeof(h)))
        return;
    memcpy(&h, NLMSG_DATA(m), sizeof(h));
    if (h.tcm_ifindex == i->card && h.tcm_parent == TC_H_INGRESS &&
        netlink_find(m, sizeof(h), TCA_KIND, sizeof("ingress")))
        i->old = true;
}

static bool has_old_ingress(int fd, int card)
{
    struct ingress i = {.card = card};
    struct netlink_request r = about(RTM_GETQDISC, NLM_F_DUMP, card, 0, 0);
    return !netlink_ask(fd, &r, look_ingress, &i) && i.old;
}

// --- taking away

static int take_away(int fd, int card, struct err *e)
{
    struct there there;
    bool alone = false;
    size_t others = 0;
    int error = 0;
    for (size_t i = 0; i < DIRECTIONS && !error; i++) {
        error = list(fd, card, directions[i].parent, &there);
        others += there.others;
        if (error || !there.ours)
            continue;
        struct netlink_request r =
            about(RTM_DELTFILTER, NLM_F_ACK, card, directions[i].parent, there.ours);
        add_kind(&r, "bpf");
        error = netlink_ask(fd, &r, NULL, NULL);
        error = error == ENOENT ? 0 : error; // by another one of us
        alone = alone || (there.ours & OURS_ALONE);
    }
    if (!error && alone && !others) {
        struct netlink_request r =
            about(RTM_DELQDISC, NLM_F_ACK, card, TC_H_CLSACT, TC_H_MAKE(TC_H_CLSACT, 0));
        error = netlink_ask(fd, &r, NULL, NULL);
    }
    if (error && error != ENOENT && error != ENODEV && error != EINVAL)
        return err_errno(e, error, "cannot remove the filters that isolate");
    return 0;
}

int filter_end(struct err *e)
{
    struct net_cards cards = {0};
    AUTO(fd_close) int fd = netlink_open(e);
    if (fd < 0 || net_cards_list(&cards, e))
        return -1;
    int status = 0;
    for (size_t i = 0; i < cards.n; i++)
        status = take_away(fd, cards.v[i].index, e) ? -1 : status;
    vec_done(&cards);
    return status;
}

// --- putting there

static int put(int fd, int card, size_t direction, uint32_t handle,
               const struct frames *program)
{
    struct netlink_request r =
        about(RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, card,
              directions[direction].parent, handle);
    add_kind(&r, "bpf");
    size_t options = netlink_begin(&r, TCA_OPTIONS);
    netlink_add(&r, TCA_BPF_OPS_LEN, &program->n, sizeof(program->n));
    netlink_add(&r, TCA_BPF_OPS, program->v, program->n * sizeof(program->v[0]));
    netlink_add_u32(&r, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
    netlink_end(&r, options);
    return netlink_ask(fd, &r, NULL, NULL);
}

// The two programs for a kind of card, in the order of `directions`.
struct pair {
    struct frames v[DIRECTIONS];
};

// 0 or an errno.
static int cover(int fd, const struct net_card *card, const struct pair *programs)
{
    struct there there[DIRECTIONS] = {0};
    bool old = has_old_ingress(fd, card->index);
    int error = 0;
    uint32_t handle = 0;
    for (size_t i = old; i < DIRECTIONS && !error; i++) {
        error = list(fd, card->index, directions[i].parent, &there[i]);
        handle = there[i].ours ? there[i].ours : handle;
    }
    if (!handle && !old && !error) {
        struct netlink_request r =
            about(RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, card->index,
                  TC_H_CLSACT, TC_H_MAKE(TC_H_CLSACT, 0));
        add_kind(&r, "clsact");
        error = netlink_ask(fd, &r, NULL, NULL);
        handle = error ? OURS : OURS | OURS_ALONE;
        error = error == EEXIST ? 0 : error;
    }
    for (size_t i = old; i < DIRECTIONS && !error; i++)
        error = put(fd, card->index, i, handle ? handle : OURS, &programs->v[i]);
    return error || !old ? error : EEXIST;
}

int filter_begin(const struct isolation *keep, char **ret_gap, struct err *e)
{
    struct net_cards cards = {0};
    struct pair pairs[2]; // of other links, of Ethernet
    struct address peer, own;
    AUTO(str_free) char *gap = NULL;
    if (address_parse(keep->peer, &peer, e) || address_parse(keep->own, &own, e))
        return -1;
    AUTO(fd_close) int fd = netlink_open(e);
    if (fd < 0 || net_cards_list(&cards, e))
        return -1;
    for (size_t ethernet = 0; ethernet < 2; ethernet++)
        for (size_t i = 0; i < DIRECTIONS; i++)
            frames_program(&peer, &own, keep, directions[i].at, ethernet,
                           &pairs[ethernet].v[i]);
    for (size_t i = 0; i < cards.n; i++) {
        const struct net_card *card = &cards.v[i];
        int error = cover(fd, card, &pairs[card->ethernet]);
        if (!error || error == ENODEV || gap)
            continue;
        gap = xasprintf("frames of %s that no routing rule sees pass: %s", card->name,
                        error == EEXIST ? "it has a queueing discipline `ingress`"
                                        : strerror(error));
    }
    vec_done(&cards);
    if (ret_gap)
        *ret_gap = steal(gap);
    return 0;
}

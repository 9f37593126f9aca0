// SPDX-License-Identifier: Apache-2.0
// A server is cut off by rules of policy routing (rtnetlink(7), linux/fib_rules.h), for
// IPv4 and IPv6, before all others:
//
//     pref 0   the server's own local table (rule of the system)
//          0   local table: what stays on the server, wherever that rule has been moved
//          0   to the peer, with its ports: go to 2     (ports from Linux 4.17; earlier
//              kernels skip these attributes, and the address alone counts)
//          1   everything else: blackhole
//          2   nothing; behind it the server's rules go on for the peer
//
// A packet without a route is dropped, and TCP tries again later; routes that sockets
// remember are dropped with every change of rules. Ours are known by a mark that can
// match nothing (its mask is 0), which kernels keep and show. There is no state but the
// rules: another process, or a later one, takes them away.
//
// Not held back, because no route is asked for: packet sockets and bridged traffic of
// virtual machines, broadcasts and IPv6 multicasts (the local table has them), and IPv4
// of sockets that are bound to a device, which count their receiver as a neighbour then.

#include "agent/volumes.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define MARK 0x67647774
#define PROTOCOL 'g' // who made a rule; shown by ip(8)
#define PREF_KEEP 0
#define PREF_DROP 1
#define PREF_GO_ON 2
#define RULE_MAX 512 // bytes of one rule
#define BATCH 16     // rules removed at once
#define RECEIVE_MAX (32 * KIB)
// For a moment the server's, so that kernels from 3.11 to 6.1 forget the IPv6 routes that
// sockets remember: they do that for an address, but not for a rule. It is of the prefix
// that nothing is sent to (RFC 6666).
#define DISCARD_ADDRESS "100::6764:7774"

static const unsigned char families[] = {AF_INET, AF_INET6};

struct request {
    struct nlmsghdr head;
    uint8_t body[RULE_MAX - sizeof(struct nlmsghdr)];
};

static void attribute(struct request *r, unsigned short type, const void *data,
                      size_t len)
{
    struct rtattr a = {.rta_len = (unsigned short)RTA_LENGTH(len), .rta_type = type};
    uint8_t *at = (uint8_t *)r + NLMSG_ALIGN(r->head.nlmsg_len);
    memcpy(at, &a, sizeof(a));
    memcpy(at + RTA_LENGTH(0), data, len);
    r->head.nlmsg_len =
        NLMSG_ALIGN(r->head.nlmsg_len) + (unsigned)RTA_ALIGN(RTA_LENGTH(len));
}

static void attribute_u32(struct request *r, unsigned short type, uint32_t value)
{
    attribute(r, type, &value, sizeof(value));
}

static struct request rule(unsigned char family, uint8_t action, uint32_t pref)
{
    struct request r = {
        .head = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct fib_rule_hdr)),
                 .nlmsg_type = RTM_NEWRULE,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL}};
    struct fib_rule_hdr h = {.family = family, .action = action};
    uint8_t protocol = PROTOCOL;
    memcpy(NLMSG_DATA(&r.head), &h, sizeof(h));
    attribute_u32(&r, FRA_PRIORITY, pref);
    attribute_u32(&r, FRA_FWMARK, MARK);
    attribute_u32(&r, FRA_FWMASK, 0);
    attribute(&r, FRA_PROTOCOL, &protocol, sizeof(protocol));
    return r;
}

// --- talking to the kernel

static int netlink_open(struct err *e)
{
    struct sockaddr_nl us = {.nl_family = AF_NETLINK};
    AUTO(fd_close) int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0 || bind(fd, (struct sockaddr *)&us, sizeof(us)) < 0)
        return err_errno(e, errno, "cannot talk to the kernel about routing rules");
    return steal_fd(&fd);
}

// Called for every message of an answer.
typedef void answer_fn(void *context, const struct nlmsghdr *m);

// 0 or an errno.
static int ask(int fd, struct request *r, answer_fn *fn, void *context)
{
    static _Atomic uint32_t sequence;
    _Alignas(struct nlmsghdr) uint8_t buf[RECEIVE_MAX];
    r->head.nlmsg_seq = ++sequence;
    if (send(fd, r, r->head.nlmsg_len, 0) < 0)
        return errno;
    for (;;) {
        ssize_t n = recv(fd, buf, sizeof(buf), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        unsigned left = (unsigned)n;
        for (const struct nlmsghdr *m = (void *)buf; NLMSG_OK(m, left);
             m = NLMSG_NEXT(m, left)) {
            if (m->nlmsg_seq != r->head.nlmsg_seq)
                continue;
            if (m->nlmsg_type == NLMSG_DONE)
                return 0;
            if (m->nlmsg_type == NLMSG_ERROR)
                return -((const struct nlmsgerr *)NLMSG_DATA(m))->error;
            if (fn)
                fn(context, m);
        }
    }
}

static bool no_family(int error)
{
    return error == EAFNOSUPPORT || error == EOPNOTSUPP;
}

// --- what is there

struct found {
    uint8_t action;
    uint32_t pref, mark, table;
    bool ours;
};

static bool parse(const struct nlmsghdr *m, struct found *ret)
{
    struct fib_rule_hdr h;
    if (m->nlmsg_type != RTM_NEWRULE || m->nlmsg_len < NLMSG_LENGTH(sizeof(h)))
        return false;
    memcpy(&h, NLMSG_DATA(m), sizeof(h));
    *ret = (struct found){.action = h.action, .table = h.table};
    unsigned left = m->nlmsg_len - (unsigned)NLMSG_LENGTH(sizeof(h));
    bool mask = false;
    for (const struct rtattr *a =
             (const void *)((const uint8_t *)m + NLMSG_LENGTH(sizeof(h)));
         RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        uint32_t value;
        if (RTA_PAYLOAD(a) != sizeof(value))
            continue;
        memcpy(&value, RTA_DATA(a), sizeof(value));
        if (a->rta_type == FRA_PRIORITY)
            ret->pref = value;
        else if (a->rta_type == FRA_FWMARK)
            ret->mark = value;
        else if (a->rta_type == FRA_FWMASK)
            mask = value == 0;
        else if (a->rta_type == FRA_TABLE)
            ret->table = value;
    }
    ret->ours = ret->mark == MARK && mask;
    return true;
}

static int list(int fd, unsigned char family, answer_fn *fn, void *context)
{
    struct request r = {.head = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct fib_rule_hdr)),
                                 .nlmsg_type = RTM_GETRULE,
                                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
    struct fib_rule_hdr h = {.family = family};
    memcpy(NLMSG_DATA(&r.head), &h, sizeof(h));
    return ask(fd, &r, fn, context);
}

struct seen {
    bool drops;   // our blackhole is there
    bool foreign; // a rule before it that is neither ours nor of the local table
};

static void look(void *context, const struct nlmsghdr *m)
{
    struct seen *s = context;
    struct found f;
    if (!parse(m, &f))
        return;
    if (f.ours && f.action == FR_ACT_BLACKHOLE)
        s->drops = true;
    else if (!f.ours && !s->drops &&
             (f.action != FR_ACT_TO_TBL || f.table != RT_TABLE_LOCAL))
        s->foreign = true;
}

// --- taking away

struct batch {
    uint8_t action; // of ours only those; FR_ACT_UNSPEC: all
    struct request v[BATCH];
    size_t n;
};

static void gather(void *context, const struct nlmsghdr *m)
{
    struct batch *b = context;
    struct found f;
    if (b->n == BATCH || !parse(m, &f) || !f.ours || m->nlmsg_len > RULE_MAX ||
        (b->action && b->action != f.action))
        return;
    memcpy(&b->v[b->n], m, m->nlmsg_len);
    b->v[b->n].head.nlmsg_type = RTM_DELRULE;
    b->v[b->n].head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    b->n++;
}

static int remove_ours(int fd, unsigned char family, uint8_t action, struct err *e)
{
    for (;;) {
        struct batch b = {.action = action};
        int error = list(fd, family, gather, &b);
        if (no_family(error) || (!error && !b.n))
            return 0;
        for (size_t i = 0; i < b.n && !error; i++) {
            error = ask(fd, &b.v[i], NULL, NULL);
            error = error == ENOENT ? 0 : error; // by another one of us
        }
        if (error)
            return err_errno(e, error, "cannot remove the routing rules that isolate");
    }
}

static void forget_routes6(int fd)
{
    struct request r = {.head = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
                                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK}};
    struct ifaddrmsg h = {
        .ifa_family = AF_INET6, .ifa_prefixlen = 128, .ifa_index = if_nametoindex("lo")};
    struct in6_addr address;
    inet_pton(AF_INET6, DISCARD_ADDRESS, &address);
    memcpy(NLMSG_DATA(&r.head), &h, sizeof(h));
    attribute(&r, IFA_LOCAL, &address, sizeof(address));
    r.head.nlmsg_type = RTM_NEWADDR;
    (void)ask(fd, &r, NULL, NULL); // no IPv6 on lo: no routes of it either
    r.head.nlmsg_type = RTM_DELADDR;
    (void)ask(fd, &r, NULL, NULL);
}

// --- putting there

static int add(int fd, struct request *r, struct err *e)
{
    int error = ask(fd, r, NULL, NULL);
    if (error && error != EEXIST)
        return err_errno(e, error, "cannot add the routing rules that isolate");
    return 0;
}

struct peer {
    unsigned char family;
    uint8_t address[16];
    size_t len;
};

static int peer_parse(const char *text, struct peer *ret, struct err *e)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    char numeric[INET6_ADDRSTRLEN];
    *ret = (struct peer){0};
    if (!text)
        return 0;
    snprintf(numeric, sizeof(numeric), "%.*s", (int)strcspn(text, "%"), text);
    if (inet_pton(AF_INET, numeric, ret->address) == 1) {
        ret->family = AF_INET;
        ret->len = 4;
        return 0;
    }
    if (inet_pton(AF_INET6, numeric, ret->address) != 1)
        return err_set(e, ERR_USAGE, "%s is no numeric address", text);
    ret->family = AF_INET6;
    ret->len = 16;
    // What a socket for both families calls an IPv4 peer.
    if (memcmp(ret->address, mapped, sizeof(mapped)) == 0) {
        memmove(ret->address, ret->address + 12, 4);
        ret->family = AF_INET;
        ret->len = 4;
    }
    return 0;
}

static void add_port(struct request *r, unsigned short type, uint16_t port)
{
    struct fib_rule_port_range range = {port, port};
    if (port)
        attribute(r, type, &range, sizeof(range));
}

// The way to the peer; with the ports the other way round as well, which some kernels ask
// for when they verify where a packet came from (rp_filter).
static int add_peer(int fd, const struct isolation *keep, const struct peer *p,
                    struct err *e)
{
    uint16_t ports[] = {keep->own_port, keep->peer_port};
    for (size_t i = 0; i < 2; i++) {
        struct request r = rule(p->family, FR_ACT_GOTO, PREF_KEEP);
        struct fib_rule_hdr *h = NLMSG_DATA(&r.head);
        uint8_t tcp = IPPROTO_TCP;
        h->dst_len = (uint8_t)(p->len * 8);
        attribute(&r, FRA_DST, p->address, p->len);
        attribute_u32(&r, FRA_GOTO, PREF_GO_ON);
        if (ports[0] || ports[1])
            attribute(&r, FRA_IP_PROTO, &tcp, sizeof(tcp));
        add_port(&r, FRA_SPORT_RANGE, ports[i]);
        add_port(&r, FRA_DPORT_RANGE, ports[1 - i]);
        if (add(fd, &r, e))
            return -1;
    }
    return 0;
}

// What drops comes last, so that there is always a way to the peer.
static int begin_family(int fd, unsigned char family, const struct isolation *keep,
                        const struct peer *p, struct err *e)
{
    struct request go_on = rule(family, FR_ACT_NOP, PREF_GO_ON);
    struct request local = rule(family, FR_ACT_TO_TBL, PREF_KEEP);
    struct request drop = rule(family, FR_ACT_BLACKHOLE, PREF_DROP);
    struct seen seen = {0};
    attribute_u32(&local, FRA_TABLE, RT_TABLE_LOCAL);
    int error = ask(fd, &go_on, NULL, NULL);
    if (family == AF_INET6 && no_family(error))
        return 0;
    if (error && error != EEXIST)
        return err_errno(e, error, "cannot add the routing rules that isolate");
    if (remove_ours(fd, family, FR_ACT_GOTO, e) || add(fd, &local, e) ||
        (p->family == family && add_peer(fd, keep, p, e)) || add(fd, &drop, e))
        return -1;
    error = list(fd, family, look, &seen);
    if (error)
        return err_errno(e, error, "cannot list routing rules");
    if (!seen.drops || seen.foreign)
        return err_set(e, ERR_REFUSED,
                       "a routing rule of this server comes before those that isolate "
                       "it: ip rule");
    return 0;
}

int isolate_begin(const struct isolation *keep, struct err *e)
{
    struct peer p;
    struct err ignored; // the first failure is told
    if (peer_parse(keep->peer, &p, e))
        return -1;
    AUTO(fd_close) int fd = netlink_open(e);
    if (fd < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        if (begin_family(fd, families[i], keep, &p, e) == 0)
            continue;
        (void)isolate_end(&ignored);
        return -1;
    }
    forget_routes6(fd);
    return 0;
}

int isolate_end(struct err *e)
{
    AUTO(fd_close) int fd = netlink_open(e);
    if (fd < 0)
        return -1;
    int r = 0;
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        r = remove_ours(fd, families[i], FR_ACT_UNSPEC, e) ? -1 : r;
    forget_routes6(fd);
    return r;
}

bool isolate_holds(void)
{
    struct err ignored; // then it does not
    AUTO(fd_close) int fd = netlink_open(&ignored);
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        struct seen seen = {0};
        int error = fd < 0 ? errno : list(fd, families[i], look, &seen);
        if (families[i] == AF_INET6 && no_family(error))
            continue;
        if (error || !seen.drops || seen.foreign)
            return false;
    }
    return true;
}

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
//          3   nothing; a number that is kept here, as its table
//
// A packet without a route is dropped, and TCP tries again later; routes that sockets
// remember are dropped with every change of rules. Ours are known by a mark that can
// match nothing (its mask is 0), which kernels keep and show. There is no state but the
// rules: another process, or a later one, takes them away.
//
// Not held back, because no route is asked for: packet sockets and bridged traffic of
// virtual machines, broadcasts and IPv6 multicasts (the local table has them), and IPv4
// of sockets that are bound to a device, which count their receiver as a neighbour then.

#include "agent/isolate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROTOCOL 'g' // who made a rule; shown by ip(8)
#define PREF_KEEP 0
#define PREF_DROP 1
#define PREF_GO_ON 2
#define PREF_NOTE 3
#define NOTE_BASE 0x67640000U // a table that nobody has
#define BATCH 8               // rules removed at once
// For a moment the server's, so that kernels from 3.11 to 6.1 forget the IPv6 routes that
// sockets remember: they do that for an address, but not for a rule. It is of the prefix
// that nothing is sent to (RFC 6666).
#define DISCARD_ADDRESS "100::6764:7774"

static const unsigned char families[] = {AF_INET, AF_INET6};

static struct netlink_request rule(unsigned char family, uint8_t action, uint32_t pref)
{
    struct fib_rule_hdr h = {.family = family, .action = action};
    uint8_t protocol = PROTOCOL;
    struct netlink_request r = netlink_request(
        RTM_NEWRULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &h, sizeof(h));
    netlink_add_u32(&r, FRA_PRIORITY, pref);
    netlink_add_u32(&r, FRA_FWMARK, ISOLATE_MARK);
    netlink_add_u32(&r, FRA_FWMASK, 0);
    netlink_add(&r, FRA_PROTOCOL, &protocol, sizeof(protocol));
    return r;
}

static bool no_family(int error)
{
    return error == EAFNOSUPPORT || error == EOPNOTSUPP;
}

// --- what is there

struct found {
    uint8_t action;
    uint32_t pref, table;
    bool ours;
};

static uint32_t u32_of(const struct nlmsghdr *m, uint16_t type, uint32_t otherwise)
{
    const void *at = netlink_find(m, sizeof(struct fib_rule_hdr), type, sizeof(uint32_t));
    uint32_t value = otherwise;
    if (at)
        memcpy(&value, at, sizeof(value));
    return value;
}

static bool parse(const struct nlmsghdr *m, struct found *ret)
{
    struct fib_rule_hdr h;
    if (m->nlmsg_type != RTM_NEWRULE || m->nlmsg_len < NLMSG_LENGTH(sizeof(h)))
        return false;
    memcpy(&h, NLMSG_DATA(m), sizeof(h));
    *ret = (struct found){.action = h.action,
                          .table = u32_of(m, FRA_TABLE, h.table),
                          .pref = u32_of(m, FRA_PRIORITY, 0)};
    ret->ours = u32_of(m, FRA_FWMARK, 0) == ISOLATE_MARK && u32_of(m, FRA_FWMASK, 1) == 0;
    return true;
}

static int list(int fd, unsigned char family, netlink_fn *fn, void *context)
{
    struct fib_rule_hdr h = {.family = family};
    struct netlink_request r = netlink_request(RTM_GETRULE, NLM_F_DUMP, &h, sizeof(h));
    return netlink_ask(fd, &r, fn, context);
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
    uint32_t pref;  // the same; 0: all
    struct netlink_request v[BATCH];
    size_t n;
};

static void gather(void *context, const struct nlmsghdr *m)
{
    struct batch *b = context;
    struct found f;
    if (b->n == BATCH || !parse(m, &f) || !f.ours || m->nlmsg_len > sizeof(b->v[0]) ||
        (b->action && b->action != f.action) || (b->pref && b->pref != f.pref))
        return;
    memcpy(&b->v[b->n], m, m->nlmsg_len);
    b->v[b->n].head.nlmsg_type = RTM_DELRULE;
    b->v[b->n].head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    b->n++;
}

static int remove_ours(int fd, unsigned char family, uint8_t action, uint32_t pref,
                       struct err *e)
{
    for (;;) {
        struct batch b = {.action = action, .pref = pref};
        int error = list(fd, family, gather, &b);
        if (no_family(error) || (!error && !b.n))
            return 0;
        for (size_t i = 0; i < b.n && !error; i++) {
            error = netlink_ask(fd, &b.v[i], NULL, NULL);
            error = error == ENOENT ? 0 : error; // by another one of us
        }
        if (error)
            return err_errno(e, error, "cannot remove the routing rules that isolate");
    }
}

static void forget_routes6(int fd)
{
    struct ifaddrmsg h = {
        .ifa_family = AF_INET6, .ifa_prefixlen = 128, .ifa_index = if_nametoindex("lo")};
    struct netlink_request r = netlink_request(RTM_NEWADDR, NLM_F_ACK, &h, sizeof(h));
    struct in6_addr address;
    inet_pton(AF_INET6, DISCARD_ADDRESS, &address);
    netlink_add(&r, IFA_LOCAL, &address, sizeof(address));
    (void)netlink_ask(fd, &r, NULL, NULL); // no IPv6 on lo: no routes of it either
    r.head.nlmsg_type = RTM_DELADDR;
    (void)netlink_ask(fd, &r, NULL, NULL);
}

// --- putting there

static int add(int fd, struct netlink_request *r, struct err *e)
{
    int error = netlink_ask(fd, r, NULL, NULL);
    if (error && error != EEXIST)
        return err_errno(e, error, "cannot add the routing rules that isolate");
    return 0;
}

static void add_port(struct netlink_request *r, unsigned short type, uint16_t port)
{
    struct fib_rule_port_range range = {port, port};
    if (port)
        netlink_add(r, type, &range, sizeof(range));
}

// The way to the peer; with the ports the other way round as well, which some kernels ask
// for when they verify where a packet came from (rp_filter).
static int add_peer(int fd, const struct isolation *keep, const struct address *p,
                    struct err *e)
{
    uint16_t ports[] = {keep->own_port, keep->peer_port};
    for (size_t i = 0; i < 2; i++) {
        struct netlink_request r = rule(p->family, FR_ACT_GOTO, PREF_KEEP);
        struct fib_rule_hdr *h = NLMSG_DATA(&r.head);
        uint8_t tcp = IPPROTO_TCP;
        h->dst_len = (uint8_t)(p->len * 8);
        netlink_add(&r, FRA_DST, p->bytes, p->len);
        netlink_add_u32(&r, FRA_GOTO, PREF_GO_ON);
        if (ports[0] || ports[1])
            netlink_add(&r, FRA_IP_PROTO, &tcp, sizeof(tcp));
        add_port(&r, FRA_SPORT_RANGE, ports[i]);
        add_port(&r, FRA_DPORT_RANGE, ports[1 - i]);
        if (add(fd, &r, e))
            return -1;
    }
    return 0;
}

// What drops comes last, so that there is always a way to the peer.
static int begin_family(int fd, unsigned char family, const struct isolation *keep,
                        const struct address *p, struct err *e)
{
    struct netlink_request go_on = rule(family, FR_ACT_NOP, PREF_GO_ON);
    struct netlink_request local = rule(family, FR_ACT_TO_TBL, PREF_KEEP);
    struct netlink_request drop = rule(family, FR_ACT_BLACKHOLE, PREF_DROP);
    struct seen seen = {0};
    netlink_add_u32(&local, FRA_TABLE, RT_TABLE_LOCAL);
    int error = netlink_ask(fd, &go_on, NULL, NULL);
    if (family == AF_INET6 && no_family(error))
        return 0;
    if (error && error != EEXIST)
        return err_errno(e, error, "cannot add the routing rules that isolate");
    if (remove_ours(fd, family, FR_ACT_GOTO, 0, e) || add(fd, &local, e) ||
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

int rules_begin(const struct isolation *keep, struct err *e)
{
    struct address p;
    struct err ignored; // the first failure is told
    if (address_parse(keep->peer, &p, e))
        return -1;
    AUTO(fd_close) int fd = netlink_open(e);
    if (fd < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        if (begin_family(fd, families[i], keep, &p, e) == 0)
            continue;
        (void)rules_end(&ignored);
        return -1;
    }
    forget_routes6(fd);
    return 0;
}

int rules_end(struct err *e)
{
    AUTO(fd_close) int fd = netlink_open(e);
    if (fd < 0)
        return -1;
    int r = 0;
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        r = remove_ours(fd, families[i], FR_ACT_UNSPEC, 0, e) ? -1 : r;
    forget_routes6(fd);
    return r;
}

bool rules_hold(void)
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

// --- a number that is kept here

int rules_note(uint32_t value, struct err *e)
{
    AUTO(fd_close) int fd = netlink_open(e);
    struct netlink_request r = rule(AF_INET, FR_ACT_NOP, PREF_NOTE);
    netlink_add_u32(&r, FRA_TABLE, NOTE_BASE + value);
    return fd < 0 || add(fd, &r, e) ? -1 : 0;
}

static void look_for_note(void *context, const struct nlmsghdr *m)
{
    uint32_t *value = context;
    struct found f;
    if (parse(m, &f) && f.ours && f.pref == PREF_NOTE && f.table >= NOTE_BASE)
        *value = f.table - NOTE_BASE;
}

bool rules_noted(uint32_t *ret_value)
{
    struct err ignored; // then there is none
    uint32_t value = UINT32_MAX;
    AUTO(fd_close) int fd = netlink_open(&ignored);
    if (fd < 0 || list(fd, AF_INET, look_for_note, &value) || value == UINT32_MAX)
        return false;
    *ret_value = value;
    return true;
}

void rules_forget(void)
{
    struct err ignored; // rules_end takes it away too
    AUTO(fd_close) int fd = netlink_open(&ignored);
    if (fd >= 0)
        (void)remove_ours(fd, AF_INET, FR_ACT_UNSPEC, PREF_NOTE, &ignored);
}

// SPDX-License-Identifier: Apache-2.0
// Requests to the kernel about rules, routes and cards (rtnetlink(7)), one at a time.
#include "agent/isolate.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECEIVE_MAX (32 * KIB)

int netlink_open(struct err *e)
{
    struct sockaddr_nl us = {.nl_family = AF_NETLINK};
    AUTO(fd_close) int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0 || bind(fd, (struct sockaddr *)&us, sizeof(us)) < 0)
        return err_errno(e, errno, "cannot talk to the kernel about the network");
    return steal_fd(&fd);
}

struct netlink_request netlink_request(uint16_t type, uint16_t flags, const void *body,
                                       size_t len)
{
    struct netlink_request r = {
        .head = {.nlmsg_len = NLMSG_LENGTH((unsigned)len),
                 .nlmsg_type = type,
                 .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)}};
    memcpy(r.body, body, len);
    return r;
}

void netlink_add(struct netlink_request *r, uint16_t type, const void *data, size_t len)
{
    struct rtattr a = {.rta_len = (unsigned short)RTA_LENGTH(len), .rta_type = type};
    uint8_t *at = (uint8_t *)r + NLMSG_ALIGN(r->head.nlmsg_len);
    memcpy(at, &a, sizeof(a));
    if (len)
        memcpy(at + RTA_LENGTH(0), data, len);
    r->head.nlmsg_len =
        NLMSG_ALIGN(r->head.nlmsg_len) + (unsigned)RTA_ALIGN(RTA_LENGTH(len));
}

void netlink_add_u32(struct netlink_request *r, uint16_t type, uint32_t value)
{
    netlink_add(r, type, &value, sizeof(value));
}

size_t netlink_begin(struct netlink_request *r, uint16_t type)
{
    size_t at = NLMSG_ALIGN(r->head.nlmsg_len);
    netlink_add(r, type, NULL, 0);
    return at;
}

void netlink_end(struct netlink_request *r, size_t begun)
{
    unsigned short len = (unsigned short)(r->head.nlmsg_len - begun);
    memcpy((uint8_t *)r + begun, &len, sizeof(len));
}

int netlink_ask(int fd, struct netlink_request *r, netlink_fn *fn, void *context)
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

const void *netlink_find(const struct nlmsghdr *m, size_t skip, uint16_t type, size_t len)
{
    size_t head = NLMSG_LENGTH(NLMSG_ALIGN((unsigned)skip));
    if (m->nlmsg_len < head)
        return NULL;
    unsigned left = m->nlmsg_len - (unsigned)head;
    for (const struct rtattr *a = (const void *)((const uint8_t *)m + head);
         RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        if (a->rta_type == type && (len ? RTA_PAYLOAD(a) == len : RTA_PAYLOAD(a) > 0))
            return RTA_DATA(a);
    }
    return NULL;
}

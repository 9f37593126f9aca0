// SPDX-License-Identifier: Apache-2.0
// Addresses as bytes, the way to them, and the cards that have them.
#include "agent/isolate.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/rtnetlink.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

int address_parse(const char *text, struct address *ret, struct err *e)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    char numeric[INET6_ADDRSTRLEN];
    struct address a = {0};
    if (text) {
        snprintf(numeric, sizeof(numeric), "%.*s", (int)strcspn(text, "%"), text);
        if (inet_pton(AF_INET, numeric, a.bytes) == 1)
            a = (struct address){AF_INET, {0}, 4};
        else if (inet_pton(AF_INET6, numeric, a.bytes) == 1)
            a = (struct address){AF_INET6, {0}, 16};
        else
            return err_set(e, ERR_USAGE, "%s is no numeric address", text);
        inet_pton(a.family, numeric, a.bytes);
    }
    // What a socket for both families calls an IPv4 peer.
    if (a.family == AF_INET6 && memcmp(a.bytes, mapped, sizeof(mapped)) == 0) {
        memmove(a.bytes, a.bytes + 12, 4);
        memset(a.bytes + 4, 0, 12);
        a.family = AF_INET;
        a.len = 4;
    }
    *ret = a;
    return 0;
}

bool address_is(const struct address *a, const struct address *b)
{
    return a->family && a->family == b->family && memcmp(a->bytes, b->bytes, a->len) == 0;
}

// --- the way

static void take_gateway(void *context, const struct nlmsghdr *m)
{
    struct address *a = context;
    const void *at = netlink_find(m, sizeof(struct rtmsg), RTA_GATEWAY, a->len);
    if (m->nlmsg_type != RTM_NEWROUTE || !at) {
        *a = (struct address){0};
        return;
    }
    memcpy(a->bytes, at, a->len);
}

// The ports: from Linux 4.17 on our rules ask for them, from 4.18 on they can be said.
void address_gateway(const struct isolation *to, struct address *ret)
{
    struct address peer;
    struct err ignored; // no way: no gateway
    uint8_t tcp = IPPROTO_TCP;
    uint16_t own_port = htons(to->own_port), peer_port = htons(to->peer_port);
    *ret = (struct address){0};
    AUTO(fd_close) int fd = netlink_open(&ignored);
    if (fd < 0 || address_parse(to->peer, &peer, &ignored) || !peer.family)
        return;
    struct rtmsg h = {.rtm_family = peer.family, .rtm_dst_len = (uint8_t)(peer.len * 8)};
    struct netlink_request r = netlink_request(RTM_GETROUTE, 0, &h, sizeof(h));
    netlink_add(&r, RTA_DST, peer.bytes, peer.len);
    netlink_add(&r, RTA_IP_PROTO, &tcp, sizeof(tcp));
    if (own_port)
        netlink_add(&r, RTA_SPORT, &own_port, sizeof(own_port));
    if (peer_port)
        netlink_add(&r, RTA_DPORT, &peer_port, sizeof(peer_port));
    r.head.nlmsg_flags |= NLM_F_ACK; // behind the answer, so that there is always an end
    if (!netlink_ask(fd, &r, take_gateway, &peer))
        *ret = peer;
}

// --- cards

static bool look_at(int fd, const char *name, unsigned index, struct net_card *ret)
{
    struct ifreq flags = {0}, mac = {0};
    snprintf(flags.ifr_name, sizeof(flags.ifr_name), "%s", name);
    snprintf(mac.ifr_name, sizeof(mac.ifr_name), "%s", name);
    if (ioctl(fd, SIOCGIFFLAGS, &flags) || ioctl(fd, SIOCGIFHWADDR, &mac) ||
        (flags.ifr_flags & IFF_LOOPBACK))
        return false;
    *ret = (struct net_card){.index = (int)index,
                             .ethernet = mac.ifr_hwaddr.sa_family == ARPHRD_ETHER};
    snprintf(ret->name, sizeof(ret->name), "%s", name);
    memcpy(ret->mac, mac.ifr_hwaddr.sa_data, sizeof(ret->mac));
    return true;
}

int net_cards_list(struct net_cards *ret, struct err *e)
{
    AUTO(fd_close) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct if_nameindex *list = if_nameindex();
    *ret = (struct net_cards){0};
    if (!list)
        return err_set(e, ERR_FAILED, "cannot list the network's cards");
    for (struct if_nameindex *i = list; i->if_index; i++) {
        struct net_card card;
        if (look_at(fd, i->if_name, i->if_index, &card)) // gone again: no card
            vec_push(ret, card);
    }
    if_freenameindex(list);
    return 0;
}

bool net_card_with(const struct address *own, struct net_card *ret)
{
    struct ifaddrs *list = NULL;
    bool found = false;
    AUTO(fd_close) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (getifaddrs(&list))
        return false;
    for (const struct ifaddrs *i = list; i && !found; i = i->ifa_next) {
        const struct sockaddr_in *v4 = (const void *)i->ifa_addr;
        const struct sockaddr_in6 *v6 = (const void *)i->ifa_addr;
        if (!i->ifa_addr || i->ifa_addr->sa_family != own->family)
            continue;
        const void *bytes = own->family == AF_INET ? (const void *)&v4->sin_addr
                                                   : (const void *)&v6->sin6_addr;
        found = memcmp(bytes, own->bytes, own->len) == 0 &&
                look_at(fd, i->ifa_name, if_nametoindex(i->ifa_name), ret);
    }
    freeifaddrs(list);
    return found;
}

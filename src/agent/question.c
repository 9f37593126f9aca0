// SPDX-License-Identifier: Apache-2.0
// Who has this address? Asked and answered by hand, with ARP (RFC 826, RFC 5227) and NDP
// (RFC 4861), because the kernel of a fenced server is not to say anything.
//
// What surprises: switches learn from the Ethernet header who is where, and the asker
// from what is inside. So a frame that is `from` an address of the moment can say where
// another one is, and leads nothing of its traffic to us.
#include "agent/isolate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ARP_LEN 28
#define ARP_REQUEST 1
#define ARP_REPLY 2
#define IP6_LEN 40
#define NDP_LEN 24 // to the end of the target
#define NDP_SOLICIT 135
#define NDP_ADVERT 136
#define NDP_SOLICITED_OVERRIDE 0x60
#define NDP_OPTION_TARGET 2
#define V4_LEN 20
#define TCP_FLAGS 13 // RFC 9293, 3.1
#define TCP_SYN 0x02
#define TCP_ACK 0x10
#define PROBE_MS 500

static struct address address_of(unsigned char family, const uint8_t *bytes)
{
    struct address a = {.family = family, .len = family == AF_INET ? 4 : 16};
    memcpy(a.bytes, bytes, a.len);
    return a;
}

// Whether the TCP segment at `at` begins a connection. What is left of those that were
// open when we fell silent is sent again for a while, and calls nobody.
static bool begins(const uint8_t *frame, size_t len, size_t at)
{
    return at + TCP_FLAGS < len &&
           (frame[at + TCP_FLAGS] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

bool question_parse(uint16_t protocol, const uint8_t *frame, size_t len,
                    struct question *ret)
{
    struct question q = {0};
    if (protocol == ETH_P_ARP && len >= ARP_LEN && get_be16(frame + 6) == ARP_REQUEST)
        q.who = address_of(AF_INET, frame + 14);
    else if (protocol == ETH_P_IP && len >= V4_LEN && frame[9] == IPPROTO_TCP &&
             begins(frame, len, (size_t)(frame[0] & 15) * 4))
        q = (struct question){.call = true, .who = address_of(AF_INET, frame + 12)};
    else if (protocol == ETH_P_IPV6 && len >= IP6_LEN && frame[6] == IPPROTO_TCP &&
             begins(frame, len, IP6_LEN))
        q = (struct question){.call = true, .who = address_of(AF_INET6, frame + 8)};
    else if (protocol == ETH_P_IPV6 && len >= IP6_LEN + NDP_LEN &&
             frame[6] == IPPROTO_ICMPV6 && frame[IP6_LEN] == NDP_SOLICIT)
        q.who = address_of(AF_INET6, frame + 8);
    if (!q.who.family)
        return false;
    *ret = q;
    return true;
}

bool question_claims(uint16_t protocol, const uint8_t *frame, size_t len,
                     struct address *ret)
{
    if (protocol == ETH_P_ARP && len >= ARP_LEN && get_be32(frame + 14)) {
        *ret = address_of(AF_INET, frame + 14);
        return true;
    }
    if (protocol != ETH_P_IPV6 || len < IP6_LEN + NDP_LEN || frame[6] != IPPROTO_ICMPV6 ||
        frame[IP6_LEN] != NDP_ADVERT)
        return false;
    *ret = address_of(AF_INET6, frame + IP6_LEN + 8);
    return true;
}

// --- frames

static uint8_t *put(uint8_t *at, const void *data, size_t len)
{
    memcpy(at, data, len);
    return at + len;
}

static uint8_t *put_be16(uint8_t *at, uint16_t v)
{
    return put(at, (uint8_t[]){(uint8_t)(v >> 8), (uint8_t)v}, 2);
}

static size_t arp(uint16_t what, const uint8_t to[6], const uint8_t from[6],
                  const uint8_t sender[6], const uint8_t *sender_address,
                  const uint8_t target[6], const uint8_t *target_address, uint8_t *ret)
{
    uint8_t *at = put(put(ret, to, 6), from, 6);
    at = put_be16(at, ETH_P_ARP);
    at = put_be16(put_be16(at, 1), ETH_P_IP);
    at = put_be16(put_be16(at, 0x0604), what);
    at = put(put(at, sender, 6), sender_address, 4);
    at = put(put(at, target, 6), target_address, 4);
    return (size_t)(at - ret);
}

// RFC 4443 2.3: over addresses, length, type and the message.
static uint16_t checksum6(const uint8_t *packet, size_t len)
{
    uint32_t sum = (uint32_t)(len - IP6_LEN) + IPPROTO_ICMPV6;
    for (size_t i = 8; i < len; i += 2)
        sum += get_be16(packet + i);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

// `option`: the address that a target's option says, NULL: none.
static size_t ndp(uint8_t type, uint8_t flags, const uint8_t to[6], const uint8_t from[6],
                  const uint8_t *source, const uint8_t *destination,
                  const uint8_t *target, const uint8_t *option, uint8_t *ret)
{
    size_t len = NDP_LEN + (option ? 8 : 0);
    uint8_t *at = put_be16(put(put(ret, to, 6), from, 6), ETH_P_IPV6), *packet = at;
    at = put(at, (uint8_t[]){0x60, 0, 0, 0, 0, (uint8_t)len, IPPROTO_ICMPV6, 255}, 8);
    at = put(put(at, source, 16), destination, 16);
    at = put(at, (uint8_t[]){type, 0, 0, 0, flags, 0, 0, 0}, 8);
    at = put(at, target, 16);
    if (option)
        at = put(put(at, (uint8_t[]){NDP_OPTION_TARGET, 1}, 2), option, 6);
    (void)put_be16(packet + IP6_LEN + 2, checksum6(packet, IP6_LEN + len));
    return (size_t)(at - ret);
}

size_t question_answer(const struct question *q, const struct address *own,
                       const uint8_t mac[static 6], const uint8_t from[static 6],
                       uint8_t ret[static QUESTION_FRAME_MAX])
{
    if (own->family == AF_INET)
        return arp(ARP_REPLY, q->mac, from, mac, own->bytes, q->mac, q->who.bytes, ret);
    return ndp(NDP_ADVERT, NDP_SOLICITED_OVERRIDE, q->mac, from, own->bytes, q->who.bytes,
               own->bytes, mac, ret);
}

size_t question_probe(const struct address *whose, const uint8_t from[static 6],
                      uint8_t ret[static QUESTION_FRAME_MAX])
{
    static const uint8_t none[16] = {0};
    static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint8_t to[6] = {0x33, 0x33, 0xff};
    uint8_t group[16] = {0xff, 0x02, [11] = 1, [12] = 0xff}; // of the solicited node
    if (whose->family == AF_INET)
        return arp(ARP_REQUEST, all, from, from, none, none, whose->bytes, ret);
    memcpy(to + 3, whose->bytes + 13, 3);
    memcpy(group + 13, whose->bytes + 13, 3);
    return ndp(NDP_SOLICIT, 0, to, from, none, group, whose->bytes, NULL, ret);
}

// --- on a card

void question_send(const struct net_card *card, const uint8_t *frame, size_t len)
{
    uint32_t mark = ISOLATE_MARK;
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = card->index};
    AUTO(fd_close) int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    memcpy(&to.sll_protocol, frame + 12, sizeof(to.sll_protocol));
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) ||
        sendto(fd, frame, len, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
        log_line(LOG_WARN, "%s: %s", card->name, strerror(errno));
}

// A card takes frames for `from` as well until the descriptor is closed. They are heard
// as all others are, before filters: not by their protocol, which comes behind these.
static int open_ear(const struct net_card *card, unsigned char family,
                    const uint8_t from[6])
{
    uint32_t protocol = family == AF_INET ? ETH_P_ARP : ETH_P_IPV6;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PROTOCOL)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, protocol, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 256),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};
    struct packet_mreq also = {
        .mr_ifindex = card->index, .mr_type = PACKET_MR_UNICAST, .mr_alen = 6};
    // On all cards: those below a bridge have the answer.
    struct sockaddr_ll all = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    AUTO(fd_close) int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memcpy(also.mr_address, from, 6);
    if (fd < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ||
        bind(fd, (struct sockaddr *)&all, sizeof(all)) ||
        setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &also, sizeof(also)))
        return -1;
    return steal_fd(&fd);
}

static bool next_claim(int fd, uint64_t end_ms, struct address *ret)
{
    for (;;) {
        uint8_t frame[256];
        struct sockaddr_ll from = {0};
        socklen_t from_len = sizeof(from);
        uint64_t now = clock_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (now >= end_ms || poll(&p, 1, (int)(end_ms - now)) <= 0)
            return false;
        ssize_t n = recvfrom(fd, frame, sizeof(frame), MSG_DONTWAIT,
                             (struct sockaddr *)&from, &from_len);
        if (n > 0 && from.sll_pkttype != PACKET_OUTGOING &&
            question_claims(ntohs(from.sll_protocol), frame, (size_t)n, ret))
            return true;
    }
}

bool question_alone(const struct address *own, const struct address *witness,
                    const uint8_t from[static 6], unsigned n_probes)
{
    struct net_card card;
    uint8_t frame[QUESTION_FRAME_MAX];
    bool answered = !witness;
    if (!net_card_with(own, &card))
        return false;
    if (!card.ethernet)
        return true; // there is nobody else on this link
    AUTO(fd_close) int fd = open_ear(&card, own->family, from);
    if (fd < 0 || (witness && own->family != witness->family))
        return false;
    for (unsigned i = 0; i < n_probes; i++) {
        uint64_t end = clock_ms() + PROBE_MS;
        struct address who;
        question_send(&card, frame, question_probe(own, from, frame));
        if (witness)
            question_send(&card, frame, question_probe(witness, from, frame));
        while (next_claim(fd, end, &who)) {
            if (address_is(&who, own))
                return false;
            answered = answered || address_is(&who, witness);
        }
    }
    return answered;
}

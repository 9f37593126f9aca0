// SPDX-License-Identifier: Apache-2.0
// Which frames pass, as a program in classic BPF (Documentation/networking/filter.rst of
// Linux): a list of rules, each a list of tests; the first rule whose tests all hold lets
// the frame pass.
//
// Surprises: a load behind the frame's end ends the program with 0, which lets it pass:
// lengths come first. Cards hand VLAN tags over beside the frame or inside it, up to two
// are skipped. Frames of links that are not Ethernet are read from their network header.
#include "agent/isolate.h"

#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <sys/socket.h>

#define PASS_TC ((uint32_t)TC_ACT_UNSPEC) // the next filter decides
#define PASS_SOCKET 0xffffU
#define OPEN_END 0xff // a jump to the end of its rule, which is not known yet
// Scratch words: where the network header begins, and what it is.
#define AT_NETWORK 0
#define AT_TYPE 1
#define ARP_ETHERNET_IP 0x00010800U
#define ARP_SIZES 0x0604
#define TCP_TYPE 6
#define ICMP_TYPE 1
#define ICMP6_TYPE 58
#define FRAME_MIN 40  // the shortest that passes; with two tags what they are is in there
#define V4_PLAIN 0x45 // without options
#define V4_OFFSET 0x1fff
#define ICMP_TOO_BIG 0x0304 // type and code
#define ICMP6_TOO_BIG 2
#define NDP_SOLICIT 135
#define NDP_ADVERT 136

struct builder {
    struct frames *f;
    uint16_t rule; // where it begins
    uint32_t pass;
};

static void emit(struct builder *b, uint16_t code, uint8_t jt, uint8_t jf, uint32_t k)
{
    if (b->f->n < FRAMES_MAX) // a rule too many is seen by the tests: nothing passes
        b->f->v[b->f->n++] =
            (struct sock_filter){.code = code, .jt = jt, .jf = jf, .k = k};
}

static void load(struct builder *b, size_t bytes, uint32_t off)
{
    uint16_t size = bytes == 4 ? BPF_W : bytes == 2 ? BPF_H : BPF_B;
    emit(b, (uint16_t)(BPF_LD | size | BPF_IND), 0, 0, off);
}

// What was loaded has this value, else the rule does not hold.
static void equals(struct builder *b, uint32_t value)
{
    emit(b, BPF_JMP | BPF_JEQ | BPF_K, 0, OPEN_END, value);
}

static void differs(struct builder *b, uint32_t value)
{
    emit(b, BPF_JMP | BPF_JEQ | BPF_K, OPEN_END, 0, value);
}

static void field(struct builder *b, size_t bytes, uint32_t off, uint32_t value)
{
    load(b, bytes, off);
    equals(b, value);
}

static void address_at(struct builder *b, uint32_t off, const struct address *a)
{
    for (uint32_t i = 0; i < a->len; i += 4)
        field(b, 4, off + i, get_be32(a->bytes + i));
}

// From its network header on the frame has `need` bytes at least.
static void rule(struct builder *b, uint16_t type, uint32_t need)
{
    b->rule = b->f->n;
    emit(b, BPF_LD | BPF_MEM, 0, 0, AT_TYPE);
    equals(b, type);
    emit(b, BPF_LDX | BPF_MEM, 0, 0, AT_NETWORK);
    emit(b, BPF_LD | BPF_W | BPF_LEN, 0, 0, 0);
    emit(b, BPF_ALU | BPF_SUB | BPF_X, 0, 0, 0);
    emit(b, BPF_JMP | BPF_JGE | BPF_K, 0, OPEN_END, need);
}

static void end_rule(struct builder *b)
{
    for (uint16_t i = b->rule; i < b->f->n; i++) {
        struct sock_filter *s = &b->f->v[i];
        uint8_t to_end = (uint8_t)(b->f->n - i - 1);
        if (BPF_CLASS(s->code) != BPF_JMP)
            continue;
        s->jt = s->jt == OPEN_END ? to_end : s->jt;
        s->jf = s->jf == OPEN_END ? to_end : s->jf;
    }
    b->rule = b->f->n;
}

static void pass(struct builder *b)
{
    emit(b, BPF_RET | BPF_K, 0, 0, b->pass);
    end_rule(b);
}

// --- the link's header

static void tag(struct builder *b, uint16_t kind, uint32_t end)
{
    equals(b, kind);
    emit(b, BPF_LD | BPF_IMM, 0, 0, end + 4);
    emit(b, BPF_ST, 0, 0, AT_NETWORK);
    emit(b, BPF_LD | BPF_H | BPF_ABS, 0, 0, end + 2);
    end_rule(b);
}

static void ethernet_header(struct builder *b)
{
    emit(b, BPF_LD | BPF_IMM, 0, 0, ETH_HLEN);
    emit(b, BPF_ST, 0, 0, AT_NETWORK);
    emit(b, BPF_LD | BPF_H | BPF_ABS, 0, 0, ETH_HLEN - 2);
    for (uint32_t end = ETH_HLEN; end <= ETH_HLEN + 4; end += 4) {
        tag(b, ETH_P_8021Q, end);
        tag(b, ETH_P_8021AD, end);
    }
    emit(b, BPF_ST, 0, 0, AT_TYPE);
}

static void other_header(struct builder *b, uint32_t network)
{
    emit(b, BPF_LD | BPF_IMM, 0, 0, network);
    emit(b, BPF_ST, 0, 0, AT_NETWORK);
    emit(b, BPF_LD | BPF_H | BPF_ABS, 0, 0, (uint32_t)(SKF_AD_OFF + SKF_AD_PROTOCOL));
    emit(b, BPF_ST, 0, 0, AT_TYPE);
}

// --- what passes

static void v4(struct builder *b, uint8_t protocol, uint32_t need)
{
    rule(b, ETH_P_IP, 20 + need);
    field(b, 1, 0, V4_PLAIN);
    field(b, 1, 9, protocol);
    load(b, 2, 6); // not a later piece of a packet
    emit(b, BPF_ALU | BPF_AND | BPF_K, 0, 0, V4_OFFSET);
    equals(b, 0);
}

static void v6(struct builder *b, uint8_t protocol, uint32_t need)
{
    rule(b, ETH_P_IPV6, 40 + need);
    field(b, 1, 6, protocol);
}

static void tcp(struct builder *b, const struct address *peer,
                const struct isolation *ports, bool out)
{
    uint16_t source = out ? ports->own_port : ports->peer_port;
    uint16_t target = out ? ports->peer_port : ports->own_port;
    bool is_v4 = peer->family == AF_INET;
    uint32_t payload = is_v4 ? 20 : 40;
    is_v4 ? v4(b, TCP_TYPE, 20) : v6(b, TCP_TYPE, 20);
    address_at(b, (is_v4 ? 12 : 8) + (out ? (uint32_t)peer->len : 0), peer);
    if (source)
        field(b, 2, payload, source);
    if (target)
        field(b, 2, payload + 2, target);
    pass(b);
}

// Sender, then target, each a MAC and an address.
static void arp(struct builder *b, const struct address *own, enum frames_at at)
{
    rule(b, ETH_P_ARP, 28);
    field(b, 4, 0, ARP_ETHERNET_IP);
    field(b, 2, 4, ARP_SIZES);
    if (at == FRAMES_OUT) {
        address_at(b, 14, own);
        load(b, 4, 24); // not announced
        differs(b, get_be32(own->bytes));
    } else {
        address_at(b, 24, own);
    }
    if (at == FRAMES_HEARD)
        field(b, 2, 6, 1); // a question
    pass(b);
}

static void icmp6(struct builder *b, uint8_t type)
{
    v6(b, ICMP6_TYPE, type == ICMP6_TOO_BIG ? 8 : 24);
    field(b, 1, 40, type);
}

static void ndp(struct builder *b, const struct address *own, enum frames_at at)
{
    icmp6(b, NDP_SOLICIT);
    if (at == FRAMES_OUT) {
        load(b, 4, 8); // not whether the address is free
        differs(b, 0);
    } else {
        address_at(b, 48, own);
    }
    pass(b);
    if (at == FRAMES_HEARD)
        return;
    icmp6(b, NDP_ADVERT);
    if (at == FRAMES_OUT)
        address_at(b, 48, own);
    pass(b);
}

// That packets of ours are too big for the way.
static void too_big(struct builder *b, bool is_v4)
{
    if (is_v4) {
        v4(b, ICMP_TYPE, 8);
        field(b, 2, 20, ICMP_TOO_BIG);
    } else {
        icmp6(b, ICMP6_TOO_BIG);
    }
    pass(b);
}

void frames_program(const struct address *peer, const struct address *own,
                    const struct isolation *ports, enum frames_at at, bool ethernet,
                    struct frames *ret)
{
    bool heard = at == FRAMES_HEARD;
    struct builder b = {.f = ret, .pass = heard ? PASS_SOCKET : PASS_TC};
    ret->n = 0;
    if (at == FRAMES_OUT) {
        emit(&b, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)(SKF_AD_OFF + SKF_AD_MARK));
        equals(&b, ISOLATE_MARK);
        pass(&b);
    }
    if (!heard) {
        emit(&b, BPF_LD | BPF_W | BPF_LEN, 0, 0, 0);
        emit(&b, BPF_JMP | BPF_JGE | BPF_K, 1, 0, FRAME_MIN);
        emit(&b, BPF_RET | BPF_K, 0, 0, TC_ACT_SHOT);
        end_rule(&b);
    }
    if (ethernet && !heard)
        ethernet_header(&b);
    else
        other_header(&b, heard ? 0 : (uint32_t)SKF_NET_OFF);
    // An agent that dials is not called.
    if (peer->family && (!heard || ports->own_port))
        tcp(&b, peer, ports, at == FRAMES_OUT);
    if (own->family == AF_INET)
        arp(&b, own, at);
    else if (own->family == AF_INET6)
        ndp(&b, own, at);
    if (peer->family && at == FRAMES_IN)
        too_big(&b, peer->family == AF_INET);
    emit(&b, BPF_RET | BPF_K, 0, 0, heard ? 0 : TC_ACT_SHOT);
}

// SPDX-License-Identifier: Apache-2.0
// Nobody but godwit reaches this server, and it reaches nobody else. By two means that
// need no program and no file, and leave no other state than what the kernel shows:
//
//     rules.c    routing rules: senders of this server learn at once that there is no
//     way;
//                kernels from 3.10
//     filter.c   a classic BPF program at both directions of every card, which sees every
//                frame; kernels from 4.5
//
// Once the copy may run (fence.c), nobody at all is let through, until gate.c finds that
// godwit calls. Inside agent/ only.
#pragma once

#include "base/base.h"

#include <linux/filter.h>
#include <linux/netlink.h>
#include <net/if.h>

struct isolation {
    // The control connection and those it asked for: numeric addresses and ports; port 0:
    // any. Of `own` ARP and NDP pass too.
    const char *peer; // NULL: nobody at all
    const char *own;
    uint16_t peer_port, own_port;
};

// --- isolate.c

// Of ours, of containers or forwarded nothing leaves but to the peer, and nothing of
// others comes in; connections wait and go on afterwards. Asked again: fine, with another
// peer too; what passes all along is never held back meanwhile. *ret_gap: what passes all
// the same and why, NULL: nothing; free() it; NULL: not asked. Then, if it is from nobody
// at all, ARP for IPv4 addresses is not answered (arp_ignore).
int isolate_begin(const struct isolation *keep, char **ret_gap, struct err *e);
int isolate_end(struct err *e); // removes all that isolate_begin ever made
bool isolate_holds(void);       // as far as the rules do

// --- address.c: addresses as bytes, the way to them, the cards that have them

struct address {
    unsigned char family; // AF_INET, AF_INET6; 0: none
    uint8_t bytes[16];
    size_t len;
};
// IPv4 in IPv6 is IPv4; a scope is left out. NULL is none.
int address_parse(const char *text, struct address *ret, struct err *e);
bool address_is(const struct address *a, const struct address *b);
// The next hop on the way to `to`, *ret none: it is a neighbour, or there is no way. Also
// asks the kernel while isolated from all but it.
void address_gateway(const struct isolation *to, struct address *ret);

// A network card or anything else that carries frames, but for the loopback.
struct net_card {
    char name[IF_NAMESIZE];
    int index;
    bool ethernet;
    uint8_t mac[6];
};
struct net_cards {
    struct net_card *v;
    size_t n, cap;
};
int net_cards_list(struct net_cards *ret, struct err *e);
// The one that has this address.
bool net_card_with(const struct address *own, struct net_card *ret);

// --- netlink.c: rtnetlink(7)

struct netlink_request {
    struct nlmsghdr head;
    uint8_t body[2048 - sizeof(struct nlmsghdr)];
};
int netlink_open(struct err *e);
struct netlink_request netlink_request(uint16_t type, uint16_t flags, const void *body,
                                       size_t len);
void netlink_add(struct netlink_request *r, uint16_t type, const void *data, size_t len);
void netlink_add_u32(struct netlink_request *r, uint16_t type, uint32_t value);
// Attributes until netlink_end are inside this one.
size_t netlink_begin(struct netlink_request *r, uint16_t type);
void netlink_end(struct netlink_request *r, size_t begun);
// Called for every message of an answer.
typedef void netlink_fn(void *context, const struct nlmsghdr *m);
// 0 or an errno.
int netlink_ask(int fd, struct netlink_request *r, netlink_fn *fn, void *context);
// The value of an attribute behind `skip` bytes of the message's body; NULL: not there,
// or another length. len 0: any, at least one byte.
const void *netlink_find(const struct nlmsghdr *m, size_t skip, uint16_t type,
                         size_t len);

// --- rules.c

int rules_begin(const struct isolation *keep, struct err *e);
int rules_end(struct err *e);
bool rules_hold(void);
// One small number, kept as one of the rules until rules_end.
int rules_note(uint32_t value, struct err *e);
bool rules_noted(uint32_t *ret_value);
void rules_forget(void);

// --- frames.c: which frames pass, as classic BPF

// Frames that have it pass, the gate's answers.
#define ISOLATE_MARK 0x67647774
enum frames_at {
    FRAMES_IN, // of a card
    FRAMES_OUT,
    FRAMES_HEARD // a packet socket's (SOCK_DGRAM): who asks for us
};
#define FRAMES_MAX 192
struct frames {
    struct sock_filter v[FRAMES_MAX];
    uint16_t n;
};
void frames_program(const struct address *peer, const struct address *own,
                    const struct isolation *ports, enum frames_at at, bool ethernet,
                    struct frames *ret);

// --- filter.c

// On every card, instead of what was there of ours. *ret_gap as above.
int filter_begin(const struct isolation *keep, char **ret_gap, struct err *e);
int filter_end(struct err *e);

// --- question.c: who asks for us, and what is answered

struct question {
    bool call; // a connection to the agent's port begins; else: who has our address?
    struct address who;
    uint8_t mac[6]; // of who asks for an address
};
// Of a frame without its link's header, of Ethernet type `protocol`, that
// frames_program(FRAMES_HEARD) let pass. False: no question.
bool question_parse(uint16_t protocol, const uint8_t *frame, size_t len,
                    struct question *ret);
#define QUESTION_FRAME_MAX 96
// The Ethernet frame that says that `own` is at `mac`; `from` is who the frame itself is
// from.
size_t question_answer(const struct question *q, const struct address *own,
                       const uint8_t mac[static 6], const uint8_t from[static 6],
                       uint8_t ret[static QUESTION_FRAME_MAX]);
// Asks who has an address, saying nothing of ours.
size_t question_probe(const struct address *whose, const uint8_t from[static 6],
                      uint8_t ret[static QUESTION_FRAME_MAX]);
// A frame that says who has an address, and which.
bool question_claims(uint16_t protocol, const uint8_t *frame, size_t len,
                     struct address *ret);
// Past the filters.
void question_send(const struct net_card *card, const uint8_t *frame, size_t len);
// Does nobody else answer for `own`, while `witness` (may be NULL) answers for its own?
// Takes half a second a probe. Where that cannot be said: false.
bool question_alone(const struct address *own, const struct address *witness,
                    const uint8_t from[static 6], unsigned n_probes);

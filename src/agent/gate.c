// SPDX-License-Identifier: Apache-2.0
// A fenced server is silent: its copy has its address and its MAC, and one frame of ours
// leads what is meant for the copy to us. But godwit has to get in again, to roll back.
//
//     shut ──► the peer calls the agent's port twice in 5 s, ──► open ──► 15 s without a
//      ▲       and nobody else answers for our address                    call, or godwit
//      └───────────────────────────────────────────────────────────────── has hung up
//
// Open is what isolation is before the commit: the peer, and ARP and NDP for us. Who is
// not answered asks again, so one frame is none: a copy that runs has answered by then,
// if only that nobody listens there. Whether there is somebody else is asked by hand
// (question_alone), with a sender of the moment, which leads nothing to us.
//
// A peer that has forgotten our MAC does not call, it (or the router on its side) asks
// for our address first. The third question in 5 s is answered in the same way; if that
// is not heard (switches may refuse strange senders), the answers after that are from our
// own MAC. Only questions to all count: one to our MAC alone has a copy that never sent
// anything stay unheard, until its asker gives up on it and asks all.
//
// An agent that dials cannot be called. It goes to godwit once a minute, if nobody else
// answers for our address while the router, or godwit itself on the same link, answers
// for its own: without that silence proves nothing. In vain: it is shut at once.
#include "agent/source.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define TICK_MS 200
#define OPEN_MS 15000
#define WITHIN_MS 5000 // questions that belong together
#define APART_MS 300   // less: one frame that came by two ways
#define QUESTIONS 3    // until one is answered
#define CALLS 2        // until there is a way in
#define BORROWED_MAX 2 // answers from a sender of the moment
#ifndef DIAL_EVERY_MS  // tests build agents with less patience
#define DIAL_EVERY_MS 60000
#endif
#define PROBES_TO_ANSWER 1 // the asker waits for a second
#define PROBES_TO_DIAL 3

struct asked {
    uint64_t at[QUESTIONS]; // the last ones, newest first; 0: none
    uint64_t last_ms;
    unsigned n_answers; // since it was quiet
};
struct gate {
    int epoll, links, hear, timer;
    bool guards, open, served;
    struct fence fence;
    struct address peer, own, gateway;
    struct asked calls, by_peer, by_gateway;
    uint64_t open_until_ms, next_dial_ms;
    uint8_t borrowed[6]; // the sender of the moment
};

static int listen_to(struct gate *g, int fd, const char *what, struct err *e)
{
    struct epoll_event event = {.events = EPOLLIN};
    if (fd < 0 || epoll_ctl(g->epoll, EPOLL_CTL_ADD, fd, &event))
        return err_errno(e, errno, "cannot listen to %s", what);
    return 0;
}

int gate_new(struct gate **ret, struct err *e)
{
    AUTO(gate_free) struct gate *g = xcalloc(1, sizeof(*g));
    struct sockaddr_nl links = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    g->hear = -1;
    g->epoll = epoll_create1(EPOLL_CLOEXEC);
    g->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    g->links = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (g->links >= 0 && bind(g->links, (struct sockaddr *)&links, sizeof(links)))
        return err_errno(e, errno, "cannot listen to the network's cards");
    if (listen_to(g, g->timer, "a timer", e) ||
        listen_to(g, g->links, "the network's cards", e))
        return -1;
    // Locally administered, of no group.
    if (RAND_bytes(g->borrowed, sizeof(g->borrowed)) != 1) // works below Linux 3.17 too
        return err_set(e, ERR_FAILED, "no random numbers");
    g->borrowed[0] = (uint8_t)((g->borrowed[0] & 0xfe) | 0x02);
    *ret = steal(g);
    return 0;
}

void gate_free(struct gate *g)
{
    if (!g)
        return;
    fd_close(g->hear);
    fd_close(g->links);
    fd_close(g->timer);
    fd_close(g->epoll);
    free(g);
}

int gate_fd(const struct gate *g)
{
    return g->epoll;
}

// --- open and shut

static struct isolation passes(const struct gate *g)
{
    return g->open ? fence_isolation(&g->fence) : (struct isolation){0};
}

static void apply(struct gate *g)
{
    struct isolation keep = passes(g);
    struct err e;
    AUTO(str_free) char *gap = NULL;
    if (isolate_begin(&keep, &gap, &e))
        log_line(LOG_ERROR, "%s", e.text);
    else if (gap && !g->open)
        log_line(LOG_WARN, "%s", gap);
}

static void let_in(struct gate *g)
{
    g->open = true;
    g->served = false;
    g->open_until_ms = clock_ms() + OPEN_MS;
    apply(g);
}

static void shut(struct gate *g)
{
    g->open = false;
    g->calls = g->by_peer = g->by_gateway = (struct asked){0};
    apply(g);
}

static int open_ear(struct gate *g, struct err *e)
{
    struct frames f;
    struct isolation keep = fence_isolation(&g->fence);
    AUTO(fd_close)
    int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(e, errno, "cannot hear who calls this server");
    frames_program(&g->peer, &g->own, &keep, FRAMES_HEARD, false, &f);
    struct sock_fprog program = {.len = f.n, .filter = f.v};
    struct sockaddr_ll all = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ||
        bind(fd, (struct sockaddr *)&all, sizeof(all)))
        return err_errno(e, errno, "cannot hear who calls this server");
    if (listen_to(g, fd, "who calls", e))
        return -1;
    g->hear = steal_fd(&fd);
    return 0;
}

static void set_timer(struct gate *g, long ms)
{
    struct timespec t = {.tv_nsec = ms * 1000000};
    struct itimerspec every = {.it_interval = t, .it_value = t};
    (void)timerfd_settime(g->timer, 0, &every, NULL); // its descriptor is one
}

int gate_guard(struct gate *g, const struct fence *f, bool open, struct err *e)
{
    gate_lift(g);
    g->fence = *f;
    if (address_parse(f->peer[0] ? f->peer : NULL, &g->peer, e) ||
        address_parse(f->own[0] ? f->own : NULL, &g->own, e) ||
        address_parse(f->gateway[0] ? f->gateway : NULL, &g->gateway, e) ||
        open_ear(g, e))
        return -1;
    g->guards = true;
    g->open = g->served = open;
    g->open_until_ms = clock_ms() + OPEN_MS;
    g->next_dial_ms = clock_ms() + DIAL_EVERY_MS;
    g->calls = g->by_peer = g->by_gateway = (struct asked){0};
    set_timer(g, TICK_MS);
    return 0;
}

void gate_lift(struct gate *g)
{
    set_timer(g, 0);
    fd_close(g->hear);
    g->hear = -1;
    g->guards = g->open = false;
}

void gate_called(struct gate *g)
{
    g->open_until_ms = clock_ms() + OPEN_MS;
}

void source_guard(struct source *s, bool open)
{
    struct err e;
    if (gate_guard(s->gate, &s->fence, open, &e))
        log_line(LOG_ERROR, "%s", e.text);
}

// --- who asks

// True: it was asked `n` times in the last seconds, and nobody else answers.
static bool count(struct gate *g, struct asked *a, unsigned n)
{
    uint64_t now = clock_ms();
    if (now - a->last_ms < APART_MS)
        return false;
    if (now - a->last_ms > 2 * WITHIN_MS)
        a->n_answers = 0;
    a->last_ms = now;
    memmove(&a->at[1], &a->at[0], (QUESTIONS - 1) * sizeof(a->at[0]));
    a->at[0] = now;
    if (!a->at[n - 1] || now - a->at[n - 1] > WITHIN_MS)
        return false;
    memset(a->at, 0, sizeof(a->at));
    return question_alone(&g->own, NULL, g->borrowed, PROBES_TO_ANSWER);
}

static void answer(struct gate *g, struct asked *a, const struct question *q)
{
    struct net_card card;
    uint8_t frame[QUESTION_FRAME_MAX];
    if (!net_card_with(&g->own, &card) || !card.ethernet)
        return;
    bool borrowed = a->n_answers++ < BORROWED_MAX;
    size_t len =
        question_answer(q, &g->own, card.mac, borrowed ? g->borrowed : card.mac, frame);
    question_send(&card, frame, len);
}

// A router of IPv6 asks from an address of the link (RFC 4861, 7.2.2), whichever of its
// addresses the way leads over. Hosts do so only for what they send from there.
static bool is_gateway(const struct gate *g, const struct address *who)
{
    bool link_local = who->family == AF_INET6 && who->bytes[0] == 0xfe &&
                      (who->bytes[1] & 0xc0) == 0x80;
    return address_is(who, &g->gateway) || (link_local && g->gateway.family == AF_INET6);
}

static void heard(struct gate *g, const struct sockaddr_ll *from, const uint8_t *frame,
                  size_t len)
{
    struct question q;
    if (from->sll_pkttype == PACKET_OUTGOING ||
        !question_parse(ntohs(from->sll_protocol), frame, len, &q) || g->open)
        return;
    if (q.call) {
        if (address_is(&q.who, &g->peer) && count(g, &g->calls, CALLS))
            let_in(g);
        return;
    }
    bool to_all =
        from->sll_pkttype == PACKET_BROADCAST || from->sll_pkttype == PACKET_MULTICAST;
    bool by_peer = address_is(&q.who, &g->peer);
    struct asked *a = by_peer ? &g->by_peer : &g->by_gateway;
    if (!to_all || from->sll_halen != sizeof(q.mac) ||
        (!by_peer && !is_gateway(g, &q.who)) || !count(g, a, QUESTIONS))
        return;
    memcpy(q.mac, from->sll_addr, sizeof(q.mac));
    answer(g, a, &q);
}

static void hear(struct gate *g)
{
    uint8_t frame[256]; // what we look at is at the start
    struct sockaddr_ll from = {0};
    socklen_t from_len = sizeof(from);
    ssize_t n;
    while (g->hear >= 0 && (n = recvfrom(g->hear, frame, sizeof(frame), 0,
                                         (struct sockaddr *)&from, &from_len)) >= 0) {
        heard(g, &from, frame, (size_t)n);
        from_len = sizeof(from);
    }
}

// --- cards that come

static void look_after_cards(struct source *s)
{
    struct gate *g = s->gate;
    uint8_t event[4096];
    bool any = false;
    struct err e;
    while (recv(g->links, event, sizeof(event), 0) >= 0 || errno == ENOBUFS)
        any = true;
    // Before the commit the lease takes all away at the deadline, and nothing may be put
    // there by us afterwards.
    if (!any || !s->token[0] || (!s->fenced && clock_ms() >= s->deadline_ms))
        return;
    struct isolation keep = g->guards ? passes(g) : fence_isolation(&s->fence);
    if (filter_begin(&keep, NULL, &e))
        log_line(LOG_ERROR, "%s", e.text);
    if (!s->fenced && clock_ms() >= s->deadline_ms && isolate_end(&e))
        log_line(LOG_ERROR, "%s", e.text);
}

// --- in time

void gate_run(struct source *s)
{
    struct gate *g = s->gate;
    uint64_t ticks;
    while (read(g->timer, &ticks, sizeof(ticks)) > 0)
        continue;
    look_after_cards(s);
    if (!g->guards)
        return;
    if (!fence_there(s->o->state_dir)) { // lifted on the console
        s->fenced = false;
        s->token[0] = '\0';
        gate_lift(g);
        return;
    }
    hear(g);
    g->served = g->served || s->n_connections;
    bool hung_up = g->served && !s->n_connections;
    if (g->open && (hung_up || clock_ms() >= g->open_until_ms))
        shut(g);
}

// --- an agent that dials

bool gate_may_dial(struct gate *g)
{
    const struct address *witness = g->gateway.family ? &g->gateway : &g->peer;
    if (!g->guards)
        return true;
    if (g->open || clock_ms() < g->next_dial_ms)
        return false;
    g->next_dial_ms = clock_ms() + DIAL_EVERY_MS;
    if (!question_alone(&g->own, witness, g->borrowed, PROBES_TO_DIAL))
        return false;
    let_in(g);
    return true;
}

void gate_dialled_in_vain(struct gate *g)
{
    if (g->guards && g->open && !g->served)
        shut(g);
}

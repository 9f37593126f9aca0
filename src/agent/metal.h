// SPDX-License-Identifier: Apache-2.0
// A real machine booted from our image: its consoles, its network cards, and the agent as
// a child of process 1. Inside agent/ only.
#pragma once

#include "agent/agent.h"

// --- terminals.c: screen and serial consoles, all alike

#define TERMINALS_MAX 8
#define LINE_MAX_LEN 256

struct terminal {
    int fd;
    char name[32];
    size_t n;
    char line[LINE_MAX_LEN]; // typed so far
};
struct terminals {
    struct terminal v[TERMINALS_MAX];
    size_t n;
    const char *question; // stands below everything that is printed; NULL: none
};
void terminals_open(struct terminals *t);
void terminals_print(struct terminals *t, const char *text);
// secret: what is typed is not shown.
void terminals_ask(struct terminals *t, const char *question, bool secret);
// Waits for a line on any of them, for `also` to be readable (-1: nothing), or for
// timeout_ms. True: `out` has the line.
bool terminals_wait(struct terminals *t, int also, int timeout_ms,
                    char out[static LINE_MAX_LEN]);

// --- cards.c: network cards, up as they appear; DHCP, or the address of godwit.ip=

struct card {
    char name[16];
    struct proc *dhcp;
};
struct cards {
    struct card *v;
    size_t n, cap;
    bool fixed, applied; // there is a godwit.ip=, and a card has it
    char address[64], gateway[64], wanted[32];
    char problem[256]; // why the fixed address could not be given, "" if none
};
void cards_open(struct cards *c);
void cards_update(struct cards *c);
bool cards_ready(void); // is there any address that others can reach?
void cards_show(const struct cards *c, struct buf *out);

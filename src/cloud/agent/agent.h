// SPDX-License-Identifier: Apache-2.0
// agent://NAME or agent://ADDRESS:PORT: a server that runs, through the agent on it.
// Inside cloud/ only.
#pragma once

#include "cloud/cloud.h"
#include "net/net.h"

extern const struct cloud_ops agent_cloud;

// --- link.c: connections to one agent

struct link;
struct link_options {
    const char *state_dir;
    const struct agent_row *row; // borrowed while it is opened
};
int link_open(const struct link_options *options, struct link **ret, struct err *e);
void link_close(struct link *l);
DEFINE_AUTO(link_close, struct link *)
// What passes all wires that are opened from now on; borrowed.
void link_limit(struct link *l, struct rate *rate);
uint64_t link_bytes(const struct link *l); // on the network, so far
// A control call, over a connection that is made anew when it was lost. As all calls may
// be repeated, a lost answer is asked for again until patience_ms are over (ERR_RETRY).
int link_call(struct link *l, const char *method, const char *path, const json_t *body,
              uint64_t patience_ms, json_t **ret, struct err *e);
// nbd_options.connect and worth; context: struct link.
int link_data(void *link, int *ret_fd, struct err *e);
unsigned link_worth(void *link);
const char *link_name(const struct link *l); // for messages
bool link_dials(const struct link *l);       // we the agent; false: it us

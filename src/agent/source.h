// SPDX-License-Identifier: Apache-2.0
// The agent on a server that runs: its control calls, its exports, who may ask.
//
//     main thread: poll loop (listener, or dialling out; one idle control connection)
//       ├─ control connection: http_serve() with source_calls, one at a time, in a thread
//       └─ data connection:    serve_connection() with the exports, a thread each
//
// What they share is struct source; its mutex guards all of it but the disks' contents.
// Exports: DISK (truthful), DISK.used, DISK.hash; metadata context "godwit:changed:ID".
#pragma once

#include "agent/agent.h"
#include "agent/track.h"
#include "agent/volumes.h"
#include "map/map.h"

#define AGENT_DIR "/etc/godwit-agent" // key, certificates, config.json
#define AGENT_RUN "/run/godwit-agent"
#define AGENT_STATE "/var/lib/godwit-agent" // fenced, after a commit
#define AGENT_PORT "7443"
#define AGENT_PROTOCOL 1 // of the control calls; godwit says which it speaks

extern const struct call source_calls[];
extern const size_t n_source_calls;

struct source;
struct source_options {
    const char *dir, *run_dir, *state_dir; // the above, or a test's
    const char *tracker;                   // by name, NULL: the best that works
    struct strings disks; // by name, tests: these alone (loop devices); else all
    const char
        *plain_address; // a second port with STARTTLS for stock clients; NULL: none
};
int source_new(const struct source_options *options, struct source **ret, struct err *e);
void source_free(struct source *s);
DEFINE_AUTO(source_free, struct source *)
// Serves until cancelled.
int source_run(struct source *s, struct err *e);

// --- inventory.c: the server as a machine (machine.h's JSON) with facts about it

int inventory(const struct block_disks *d, const struct volume_mounts *m, json_t **ret,
              struct err *e);

// --- enroll.c: a certificate for a one-time token

// Dials `address` (or listens on it), proves the token both ways, sends a request for a
// certificate with a key made here, keeps what comes back.
int enroll(const char *dir, const char *address, bool listen, const char *token,
           struct err *e);

// --- install.c: unit or init script, and taking everything away again

int install(const char *root, const char *dir, struct err *e);
int uninstall(const char *root, bool force, struct err *e);

// --- fence.c: what a commit leaves behind

// Written to state_dir; applied again at boot by `godwit-agent fence`.
int fence_write(const char *state_dir, const char *token, struct err *e);
int fence_apply(const char *state_dir, struct err *e); // no fence there: nothing
int fence_lift(const char *state_dir, struct err *e);

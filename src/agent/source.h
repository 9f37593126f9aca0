// SPDX-License-Identifier: Apache-2.0
// The agent on a server that runs: its control calls, its exports, who may ask.
//
//     main thread     listens, or dials out and keeps one idle connection there
//       ├─ control    calls_serve() with source_calls, a thread a connection
//       └─ data       serve_connection() with the exports, a thread a connection
//
// What they share is struct source; its mutex guards all of it but the disks' contents.
// Exports: DISK (truthful), DISK.used, DISK.hash; metadata context "godwit:changed:ID".
#pragma once

#include "agent/agent.h"
#include "agent/isolate.h"
#include "agent/track.h"
#include "agent/volumes.h"
#include "map/map.h"

#include <pthread.h>

#define AGENT_DIR "/etc/godwit-agent" // key, certificates, config.json, hooks.d
#define AGENT_RUN "/run/godwit-agent"
#define AGENT_STATE "/var/lib/godwit-agent" // fenced, after a commit
#ifndef AGENT_PROTOCOL                      // tests build other agents
#define AGENT_PROTOCOL 1 // of the control calls; godwit says which it speaks
#endif
#define AGENT_TOKEN_MAX 64

// --- config.c: DIR/config.json

struct agent_config {
    char *name;   // as enrolled
    char *listen; // "0.0.0.0:7443", NULL: dials
    char *dial;   // where godwit listens
    char *plain;  // a second port with STARTTLS for stock clients, NULL: none
};
int config_read(const char *dir, struct agent_config *ret, struct err *e);
int config_write(const char *dir, const struct agent_config *c, struct err *e);
void config_done(struct agent_config *c);
__attribute__((unused)) static inline void auto_config_done(struct agent_config *c)
{
    config_done(c);
}

// --- source.c: connections

struct source;
struct fence { // STATE/fenced; empty: not known
    char token[AGENT_TOKEN_MAX + 1];
    char peer[64], own[64], gateway[64];
    uint16_t peer_port, own_port;
};
struct source_options {
    const char *dir, *run_dir, *state_dir; // the above, or a test's
    const char *tracker;                   // by name, NULL: the best that works
    const struct strings *disks; // by name: these alone (tests: loop devices); else all
    bool offline; // booted from our image: nobody uses the disks, which are read-only
};
int source_new(const struct source_options *options, struct source **ret, struct err *e);
void source_free(struct source *s);
DEFINE_AUTO(source_free, struct source *)
// Serves until cancelled. *ret_ready, when not NULL, is called once it can be reached.
int source_run(struct source *s, struct err *e);

// --- the rest is for the agent's own files

// What of the disks was in use when they were last settled; connections keep the one that
// they began with.
struct used_set {
    struct allocation allocation;
    unsigned users;   // under source.lock
    uint64_t harvest; // the last one then
};
#define STRANGERS_MAX 16 // connections that have not shown a certificate yet
struct source {
    const struct source_options *o;
    struct agent_config config;
    struct tls *tls;
    int listener, plain_listener; // -1: none
    pthread_mutex_t lock;         // for all below
    struct block_disks disks;
    struct track_disk *tracked; // as disks, for the tracker
    struct {
        char *disk;
        struct pace *pace;
    } paces[64]; // of every disk that was ever found: connections use them
    size_t n_paces;
    struct tracking *tracking; // NULL: nothing is tracked
    uint64_t harvested_ms;     // when it last was, 0: not yet
    struct used_set *used;     // NULL: not armed
    uint64_t job;              // 0: none
    char *owner;
    char token[AGENT_TOKEN_MAX + 1]; // of the quiesce that holds, or the fence
    bool fenced;
    struct fence fence; // who may pass
    struct gate *gate;
    struct freeze *freeze;
    struct lease *lease;
    uint64_t frozen_at_ms, deadline_ms; // clock_ms()
    bool hooks_resumed;                 // one that failed: those that ran know it already
    unsigned n_connections, n_plain;
    int strangers[STRANGERS_MAX]; // sockets of their own, the oldest first
    size_t n_strangers;
    unsigned n_dials; // asked for and not yet made
};
// Who asks: the handlers' context.
struct caller {
    struct source *source;
    char address[64], own[64];    // numeric: theirs, ours
    uint16_t peer_port, own_port; // what to keep open while isolated; 0: any
};

// arm.c. With the lock held, but for used_take and used_put.
int source_find_disks(struct source *s, struct err *e);
int source_arm(struct source *s, uint64_t job, const char *owner, struct err *e);
int source_settle(struct source *s, struct err *e);       // s->used anew
int source_settle_again(struct source *s, struct err *e); // if it is of another harvest
int source_harvest(struct source *s, uint64_t id, uint64_t acked, json_t **ret,
                   struct err *e);
// The tracker of this name is not used again for this job; another one is: nothing.
int source_distrust(struct source *s, const char *tracker, const char *why,
                    struct err *e);
// The harvest's reply. lost: why a disk's changes are not all there, NULL for those whose
// are; NULL: as it stands.
json_t *source_state(struct source *s, uint64_t id, char *const *lost);
void source_forget(struct source *s);
// After a start: the job that an earlier process had.
int source_recall(struct source *s, struct err *e);
struct pace *source_pace(struct source *s, const char *disk);
void source_pace_off(struct source *s, bool off);
struct used_set *used_take(struct source *s);
void used_put(struct source *s, struct used_set *u);

// exports.c
struct serve_options source_exports(struct source *s);

// calls of the source role (docs/live.md)
extern const struct call source_calls[];
extern const size_t n_source_calls;

// quiesce.c: hooks, isolation, freeze, fence; with the lock held
bool source_is_frozen(const struct source *s); // and the watchdog has not thawed
int quiesce_begin(struct source *s, const struct caller *c, const char *token,
                  uint64_t deadline_ms, json_t **ret, struct err *e);
int quiesce_commit(struct source *s, const struct caller *c, const char *token,
                   struct err *e);
int quiesce_release(struct source *s, const char *token, uint64_t *ret_frozen_ms,
                    struct err *e);
// Ends what an earlier process left quiesced, or what was at its deadline; nothing where
// there is a fence.
void quiesce_recover(struct source *s);

// lease.c: a process of its own that lifts the isolation at the deadline, or when we die
struct lease;
int lease_begin(const struct source_options *o, uint64_t deadline_ms, struct lease **ret,
                struct err *e);
bool lease_commit(struct lease *l);         // no deadline any more; false: it has come
void lease_end(struct lease *l, bool keep); // keep: the isolation stays

// pace.c: reading that gives way to the server's own I/O on a disk
struct pace *pace_new(const char *disk); // its name in /sys/class/block
void pace_free(struct pace *p);
void pace_off(struct pace *p, bool off); // nothing else is going on: as fast as it goes
// Whatever the others suffer: rounds that read more slowly would never end.
void pace_least(struct pace *p, uint64_t bytes_per_second);
uint64_t pace_held_ms(struct pace *p); // for how long nothing was read so as to give way
struct disk *paced_new(struct disk *next /* taken */, struct pace *pace /* borrowed */);

// hooks.c: DIR/hooks.d/*, run as HOOK quiesce | HOOK resume
int hooks_run(const char *dir, const char *what, uint64_t timeout_ms, struct err *e);

// inventory.c: the server as a machine (machine.h's JSON) with facts about it
// offline: how the machine was booted says nothing about how its system boots.
int inventory(const struct block_disks *d, bool offline, json_t **ret, struct err *e);

// enroll.c: a certificate for a one-time token. Dials or listens, proves the token both
// ways, keeps what comes back for a key that was made here.
struct enroll_options {
    const char *dir, *token;
    const char *dial, *listen; // one of both: ADDRESS:PORT
    const char *plain;         // for config.json, may be NULL
};
int enroll(const struct enroll_options *options, struct err *e);

// install.c: program, units or init script; and taking everything away again
int agent_install(const char *root, struct err *e);
int agent_uninstall(const char *root, bool force, struct err *e);

// fence.c: what a commit leaves on the disk; before it, who may pass
struct isolation fence_isolation(const struct fence *f); // points into f
int fence_write(const char *state_dir, const struct fence *f, struct err *e);
int fence_sync(const char *state_dir, struct err *e);
bool fence_there(const char *state_dir);
// ret->token empty: no fence. When there is one nobody is let through from then on.
int fence_apply(const char *state_dir, struct fence *ret, struct err *e);
int fence_lift(const char *state_dir, struct err *e);

// gate.c: while this server is fenced nobody is let through, until godwit is heard to
// call; and cards that come while it is cut off are cut off too. With the lock held.
struct gate;
int gate_new(struct gate **ret, struct err *e);
void gate_free(struct gate *g);
DEFINE_AUTO(gate_free, struct gate *)
int gate_fd(const struct gate *g); // readable: there is something to do for gate_run
void gate_run(struct source *s);
void source_guard(struct source *s, bool open); // gate_guard; that it fails is told
// From now on. open: godwit is connected.
int gate_guard(struct gate *g, const struct fence *f, bool open, struct err *e);
void gate_lift(struct gate *g);
void gate_called(struct gate *g); // by godwit, and answered
// Of an agent that dials; takes seconds now and then.
bool gate_may_dial(struct gate *g);
void gate_dialled_in_vain(struct gate *g);

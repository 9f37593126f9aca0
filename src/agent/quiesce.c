// SPDX-License-Identifier: Apache-2.0
// The last seconds of a source (DESIGN.md section 7), each step undone by itself at the
// deadline:
//
//     hooks ─► isolate ─► sync, freeze ─► … harvests … ─► commit ─► fenced, thawed
//       │         │            │
//       └─────────┴────────────┴── release, the deadline, or our death: all undone
//
// Freeze and isolation end by themselves, by processes of their own; the hooks are told
// by us, or by the next agent. RUN/quiesced says that they have to be.
//
// A commit takes the deadline away first; from then on only a release with its token, or
// somebody on the console, lets this server be reached again.
#include "agent/source.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define HOOK_MS 30000

static char *marker(const struct source *s)
{
    return path_join(s->o->run_dir, "quiesced");
}

static void add_step(json_t *steps, const char *name, uint64_t *since)
{
    uint64_t now = clock_ns();
    json_array_append_new(
        steps, json_pack("{s:s, s:f}", "name", name, "ms", (double)(now - *since) / 1e6));
    *since = now;
}

bool source_is_frozen(const struct source *s)
{
    return s->freeze && freeze_holds(s->freeze);
}

// Everything back as it was before quiesce_begin; the first error counts.
static int undo(struct source *s, uint64_t *ret_frozen_ms, struct err *e)
{
    AUTO(str_free) char *path = marker(s);
    struct err later;
    int status = 0;
    *ret_frozen_ms = 0;
    if (s->freeze)
        status = freeze_end(s->freeze, ret_frozen_ms, e);
    s->freeze = NULL;
    lease_end(s->lease, false);
    s->lease = NULL;
    munlockall();
    source_pace_off(s, false);
    if (isolate_end(status ? &later : e))
        status = -1;
    if (!s->hooks_resumed)
        (void)hooks_run(s->o->dir, "resume", HOOK_MS, &later); // says itself what failed
    if (file_remove(path, status ? &later : e))
        status = -1;
    if (!s->fenced)
        s->token[0] = '\0';
    return status;
}

// Who may pass from now on; asked before there are rules that would have to be got round,
// or with them.
static void let_pass(struct source *s, const struct caller *c)
{
    struct fence *f = &s->fence;
    struct address gateway;
    *f = (struct fence){.peer_port = c->peer_port, .own_port = c->own_port};
    snprintf(f->token, sizeof(f->token), "%s", s->token);
    snprintf(f->peer, sizeof(f->peer), "%s", c->address);
    snprintf(f->own, sizeof(f->own), "%s", c->own);
    struct isolation to = fence_isolation(f);
    address_gateway(&to, &gateway);
    if (gateway.family)
        inet_ntop(gateway.family, gateway.bytes, f->gateway, sizeof(f->gateway));
}

static int isolate(struct source *s, const struct caller *c, uint64_t deadline_ms,
                   char **ret_gap, struct err *e)
{
    let_pass(s, c);
    struct isolation keep = fence_isolation(&s->fence);
    if (lease_begin(s->o, deadline_ms, &s->lease, e))
        return -1;
    return isolate_begin(&keep, ret_gap, e);
}

static int freeze(struct source *s, uint64_t end_ms, struct err *e)
{
    struct volume_mounts mounts = {0};
    if (mounts_list(&s->disks, &mounts, e))
        return -1;
    // Page faults of ours on a frozen file system would wait for the thaw. Refused (no
    // right, no memory): the agent is small and has run already.
    (void)freeze_lock_memory();
    uint64_t now = clock_ms();
    int status = now < end_ms ? freeze_begin(&mounts, end_ms - now, &s->freeze, e)
                              : err_set(e, ERR_RETRY,
                                        "the isolation took all of the time until the "
                                        "deadline");
    mounts_done(&mounts);
    return status;
}

static int take_steps(struct source *s, const struct caller *c, uint64_t deadline_ms,
                      json_t *steps, char **ret_gap, struct err *e)
{
    uint64_t since = clock_ns();
    s->hooks_resumed = hooks_run(s->o->dir, "quiesce", HOOK_MS, e);
    if (s->hooks_resumed)
        return -1;
    add_step(steps, "hooks", &since);
    uint64_t end = clock_ms() + deadline_ms;
    if (isolate(s, c, deadline_ms, ret_gap, e))
        return -1;
    add_step(steps, "isolate", &since);
    s->deadline_ms = end;
    if (freeze(s, end, e))
        return -1;
    s->frozen_at_ms = clock_ms();
    source_pace_off(s, true);
    add_step(steps, "sync and freeze", &since);
    return 0;
}

int quiesce_begin(struct source *s, const struct caller *c, const char *token,
                  uint64_t deadline_ms, json_t **ret, struct err *e)
{
    uint64_t ignored_ms;
    struct err ignored;
    if (s->fenced)
        return err_set(e, ERR_REFUSED, "this server is fenced already: its copy may run");
    if (!s->tracking)
        return err_set(e, ERR_REFUSED, "this server is not armed");
    if (source_is_frozen(s) && strcmp(s->token, token) == 0) { // its answer was lost
        *ret = json_pack("{s:[]}", "steps");
        return 0;
    }
    if (source_is_frozen(s))
        return err_set(e, ERR_REFUSED, "this server is frozen by another call");
    if (s->token[0])
        (void)undo(s, &ignored_ms, &ignored); // what a deadline left
    AUTO(str_free) char *path = marker(s);
    if (file_write(path, token, strlen(token), 0600, e))
        return -1;
    snprintf(s->token, sizeof(s->token), "%s", token);
    json_t *steps = json_array();
    AUTO(str_free) char *gap = NULL;
    if (take_steps(s, c, deadline_ms, steps, &gap, e)) {
        json_decref(steps);
        (void)undo(s, &ignored_ms, &ignored); // the first error counts
        return -1;
    }
    *ret = json_pack("{s:o, s:s*}", "steps", steps, "passes", gap);
    return 0;
}

// Cut off while all is frozen: between thaw and fence nothing is acknowledged that the
// copy does not have. The lease may have come to its end in this very moment.
static int stay_isolated(struct source *s, const struct caller *c, struct err *e)
{
    bool in_time = lease_commit(s->lease) && isolate_holds();
    let_pass(s, c);
    struct isolation keep = fence_isolation(&s->fence);
    return in_time ? 0 : isolate_begin(&keep, NULL, e);
}

// Behind the thaw: it may lie on a file system that was frozen. Asked again it does what
// is left of it. Until it is written our death lifts the isolation.
static int write_fence(struct source *s, struct err *e)
{
    const char *dir = s->o->state_dir;
    if (fence_there(dir) ? fence_sync(dir, e) : fence_write(dir, &s->fence, e))
        return -1;
    lease_end(s->lease, true);
    s->lease = NULL;
    source_guard(s, true);
    return 0;
}

int quiesce_commit(struct source *s, const struct caller *c, const char *token,
                   struct err *e)
{
    uint64_t ignored_ms;
    struct err later;
    if (strcmp(s->token, token) != 0)
        return err_set(e, ERR_REFUSED,
                       "this server is not frozen for this cutover (any more)");
    if (s->fenced)
        return write_fence(s, e);
    if (!source_is_frozen(s) || freeze_commit(s->freeze, e))
        return err_set(e, ERR_REFUSED,
                       "the deadline has come first: this server is serving again");
    int status = stay_isolated(s, c, e);
    // A file system that was not frozen all the time may have more than its copy.
    if (!status) {
        status = freeze_end(s->freeze, &ignored_ms, e);
        s->freeze = NULL;
    }
    if (status) {
        (void)undo(s, &ignored_ms, &later); // the first error counts
        e->code = ERR_REFUSED;
        return err_wrap(e, "not committed, this server is serving again");
    }
    s->fenced = true;
    munlockall();
    source_pace_off(s, false);
    return write_fence(s, e);
}

int quiesce_release(struct source *s, const char *token, uint64_t *ret_frozen_ms,
                    struct err *e)
{
    *ret_frozen_ms = 0;
    if (!s->token[0])
        return 0;
    if (strcmp(s->token, token) != 0)
        return err_set(e, ERR_REFUSED, "another cutover holds this server");
    if (s->fenced && fence_lift(s->o->state_dir, e))
        return -1;
    gate_lift(s->gate);
    s->fenced = false;
    return undo(s, ret_frozen_ms, e);
}

void quiesce_recover(struct source *s)
{
    AUTO(str_free) char *path = marker(s);
    uint64_t ignored;
    struct err e;
    bool holds = source_is_frozen(s) && clock_ms() < s->deadline_ms;
    if (s->fenced || holds || access(path, F_OK))
        return;
    if (undo(s, &ignored, &e))
        log_line(LOG_ERROR, "%s", e.text);
}

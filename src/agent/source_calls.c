// SPDX-License-Identifier: Apache-2.0
// The control calls of a running server (docs/live.md), each with the lock held: a server
// does one thing at a time.
#include "agent/source.h"

#include <stdio.h>
#include <sys/utsname.h>

#define OWNER_MAX 200
#define DEADLINE_MAX_MS (UINT64_C(10) * 60 * 1000)
#define DIALS_MAX 16

struct ask { // every field that any call takes
    uint64_t job, id, acked, deadline_ms, n;
    char *owner, *token, *tracker, *why;
    bool forget;
};
static const struct json_field ask_fields[] = {
    {"job", JSON_FIELD_U64, offsetof(struct ask, job), false},
    {"id", JSON_FIELD_U64, offsetof(struct ask, id), false},
    {"acked", JSON_FIELD_U64, offsetof(struct ask, acked), false},
    {"deadline_ms", JSON_FIELD_U64, offsetof(struct ask, deadline_ms), false},
    {"n", JSON_FIELD_U64, offsetof(struct ask, n), false},
    {"owner", JSON_FIELD_STRING, offsetof(struct ask, owner), false},
    {"token", JSON_FIELD_STRING, offsetof(struct ask, token), false},
    {"tracker", JSON_FIELD_STRING, offsetof(struct ask, tracker), false},
    {"why", JSON_FIELD_STRING, offsetof(struct ask, why), false},
    {"forget", JSON_FIELD_BOOL, offsetof(struct ask, forget), false},
};

static void ask_done(struct ask *a)
{
    free(a->owner);
    free(a->token);
    free(a->tracker);
    free(a->why);
}
__attribute__((unused)) static inline void auto_ask_done(struct ask *a)
{
    ask_done(a);
}

static int read_ask(const json_t *request, struct ask *ret, struct err *e)
{
    struct ask a = {0};
    if (!json_is_object(request))
        return err_set(e, ERR_USAGE, "this call takes an object");
    if (json_read(request, ask_fields, ARRAY_LEN(ask_fields), &a, "the request", e)) {
        ask_done(&a);
        return -1;
    }
    *ret = a;
    return 0;
}

static int check_job(const struct source *s, const struct ask *a, struct err *e)
{
    if (s->job && s->job == a->job && a->owner && strcmp(a->owner, s->owner) == 0)
        return 0;
    if (!s->job)
        return err_set(e, ERR_REFUSED, "no job has armed this server");
    return err_set(e, ERR_REFUSED, "this server belongs to job %llu of %s",
                   (unsigned long long)s->job, s->owner);
}

static int check_token(const struct ask *a, struct err *e)
{
    size_t len = a->token ? strlen(a->token) : 0;
    if (len >= 16 && len <= AGENT_TOKEN_MAX)
        return 0;
    return err_set(e, ERR_USAGE, "a token has 16 to %d characters", AGENT_TOKEN_MAX);
}

static void read_word(const char *path, char *out, size_t size)
{
    AUTO(buf_done) struct buf b = BUF_INIT(4 * KIB);
    struct err ignored; // not every kernel has it
    out[0] = '\0';
    if (!file_read(path, &b, &ignored) && b.data)
        snprintf(out, size, "%s", str_trim(b.data));
}

static int hello(struct caller *c, const struct ask *a, json_t **ret, struct err *e)
{
    struct source *s = c->source;
    struct utsname u;
    char boot[64];
    (void)a;
    uname(&u);
    read_word("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
    *ret = json_pack(
        "{s:s, s:i, s:s, s:s, s:s, s:I, s:s*, s:I, s:s*, s:s*}", "agent", GODWIT_VERSION,
        "protocol", AGENT_PROTOCOL, "role", "source", "kernel", u.release, "boot_id",
        boot, "up_ms", (json_int_t)clock_ms(), "tracker",
        s->tracking ? tracking_name(s->tracking) : NULL, "job", (json_int_t)s->job,
        "owner", s->job ? s->owner : NULL, "fenced", s->fenced ? s->token : NULL);
    return *ret ? 0 : err_set(e, ERR_FAILED, "a name on this server is not text");
}

// A port of the agent's own is no service of this server: its copy does not have it.
static void leave_out(json_t *ports, const char *ours)
{
    const char *colon = ours ? strrchr(ours, ':') : NULL;
    for (size_t i = json_array_size(ports); colon && i-- > 0;) {
        char port[24];
        snprintf(port, sizeof(port), "%lld",
                 (long long)json_integer_value(json_array_get(ports, i)));
        if (strcmp(colon + 1, port) == 0)
            json_array_remove(ports, i);
    }
}

static int look(struct caller *c, const struct ask *a, json_t **ret, struct err *e)
{
    struct source *s = c->source;
    (void)a;
    if (!s->tracking && source_find_disks(s, e))
        return -1;
    if (inventory(&s->disks, s->o->offline, ret, e))
        return -1;
    leave_out(json_object_get(*ret, "listening"), s->config.listen);
    leave_out(json_object_get(*ret, "listening"), s->config.plain);
    return 0;
}

static int arm(struct caller *c, const struct ask *a, json_t **ret, struct err *e)
{
    struct source *s = c->source;
    if (!a->job || !a->owner || !*a->owner || strlen(a->owner) > OWNER_MAX)
        return err_set(e, ERR_USAGE, "arm takes a job's number and its owner");
    if (source_arm(s, a->job, a->owner, e))
        return -1;
    *ret = source_state(s, tracking_last(s->tracking), NULL);
    return 0;
}

static int harvest(struct caller *c, const struct ask *a, json_t **ret, struct err *e)
{
    if (check_job(c->source, a, e))
        return -1;
    if (!a->id)
        return err_set(e, ERR_USAGE, "harvests count from 1");
    return source_harvest(c->source, a->id, a->acked, ret, e);
}

static int distrust(struct caller *c, const struct ask *a, json_t **ret, struct err *e)
{
    struct source *s = c->source;
    if (check_job(s, a, e))
        return -1;
    if (!a->tracker || !a->why)
        return err_set(e, ERR_USAGE, "which tracker, and why?");
    if (source_distrust(s, a->tracker, a->why, e))
        return -1;
    *ret = json_pack("{s:s}", "tracker", tracking_name(s->tracking));
    return 0;
}

static int quiesce(struct caller *c, const struct ask *a, json_t **ret, struct err *e)
{
    if (check_job(c->source, a, e) || check_token(a, e))
        return -1;
    if (a->deadline_ms < 1000 || a->deadline_ms > DEADLINE_MAX_MS)
        return err_set(e, ERR_USAGE, "a deadline is between 1 s and %llu s",
                       (unsigned long long)(DEADLINE_MAX_MS / 1000));
    return quiesce_begin(c->source, c, a->token, a->deadline_ms, ret, e);
}

static int commit(struct caller *c, const struct ask *a, json_t **ret, struct err *e)
{
    (void)ret; // nothing to say
    if (check_job(c->source, a, e) || check_token(a, e))
        return -1;
    return quiesce_commit(c->source, c, a->token, e);
}

static int release(struct caller *c, const struct ask *a, json_t **ret, struct err *e)
{
    struct source *s = c->source;
    uint64_t frozen_ms = 0;
    if (!s->job && !s->token[0]) { // asked again
        *ret = json_pack("{s:i}", "frozen_ms", 0);
        return 0;
    }
    if ((s->job && check_job(s, a, e)) ||
        (a->token && quiesce_release(s, a->token, &frozen_ms, e)))
        return -1;
    if (a->forget && s->token[0])
        return err_set(e, ERR_REFUSED, "this server is %s: release it by its token first",
                       s->fenced ? "fenced" : "frozen");
    if (a->forget)
        source_forget(s);
    *ret = json_pack("{s:I}", "frozen_ms", (json_int_t)frozen_ms);
    return 0;
}

static int dial(struct caller *c, const struct ask *a, json_t **ret, struct err *e)
{
    (void)ret; // nothing to say
    if (!c->source->config.dial)
        return err_set(e, ERR_REFUSED, "this agent listens: connect to it");
    if (a->n < 1 || a->n > DIALS_MAX)
        return err_set(e, ERR_USAGE, "between 1 and %d connections", DIALS_MAX);
    c->source->n_dials += (unsigned)a->n;
    return 0;
}

// Every handler by its call: the request read, the lock held.
static int with_lock(void *context, const json_t *request, json_t **ret,
                     int (*handle)(struct caller *c, const struct ask *a, json_t **ret,
                                   struct err *e),
                     struct err *e)
{
    struct caller *c = context;
    AUTO(ask_done) struct ask a = {0};
    if (request && read_ask(request, &a, e))
        return -1;
    pthread_mutex_lock(&c->source->lock);
    gate_called(c->source->gate);
    int status = handle(c, &a, ret, e);
    gate_called(c->source->gate);
    pthread_mutex_unlock(&c->source->lock);
    if (!status && !*ret)
        *ret = json_object();
    return status;
}

#define HANDLER(name)                                                            \
    static int handle_##name(void *context, const json_t *request, json_t **ret, \
                             struct err *e)                                      \
    {                                                                            \
        return with_lock(context, request, ret, name, e);                        \
    }
HANDLER(hello)
HANDLER(look)
HANDLER(arm)
HANDLER(harvest)
HANDLER(distrust)
HANDLER(quiesce)
HANDLER(commit)
HANDLER(release)
HANDLER(dial)

#define HARVEST_REPLY                                                                 \
    "id, tracker, frozen, frozen_ms, deadline_ms, held_ms, disks: [{name, identity, " \
    "size, known, why, epoch, changed, rewritten}]"

const struct call source_calls[] = {
    {{"GET", "/v1/hello", handle_hello},
     "Says that the agent is up, and whose this server is",
     "none",
     "agent, protocol, role, kernel, boot_id, up_ms, tracker, job, owner, fenced"},
    {{"GET", "/v1/inventory", handle_look},
     "What this server is",
     "none",
     "machine (as `godwit info --json`), disks, volumes, system, addresses, listening"},
    {{"POST", "/v1/arm", handle_arm},
     "Tracks changes, settles the file systems, reads what is in use; again: goes on",
     "job, owner",
     "a harvest, see below"},
    {{"POST", "/v1/harvest", handle_harvest},
     "What changed since harvest `acked`, which the target has",
     "job, owner, id, acked",
     HARVEST_REPLY},
    {{"POST", "/v1/distrust", handle_distrust},
     "`tracker` missed a write: another one, or none, till the job ends; no disk is "
     "known",
     "job, owner, tracker, why",
     "tracker"},
    {{"POST", "/v1/quiesce", handle_quiesce},
     "Hooks; isolation, sync and freeze, until the deadline",
     "job, owner, token, deadline_ms",
     "steps: [{name, ms}], passes: what is not held back"},
    {{"POST", "/v1/commit", handle_commit},
     "The freeze becomes a fence: the target may be started",
     "job, owner, token",
     "empty"},
    {{"POST", "/v1/release", handle_release},
     "Lifts freeze, isolation and fence; `forget`: the job is over",
     "job, owner, token, forget",
     "frozen_ms"},
    {{"POST", "/v1/dial", handle_dial},
     "An agent that dials makes n more connections",
     "n",
     "empty"},
};
const size_t n_source_calls = ARRAY_LEN(source_calls);

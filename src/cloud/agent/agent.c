// SPDX-License-Identifier: Apache-2.0
// A server that runs, as a source: control calls and NBD views of its agent
// (docs/live.md).
#include "cloud/agent/agent.h"

#include <assert.h>
#include <stdio.h>

#define PATIENCE_MS 60000
#define QUICK_MS 5000 // inside the freeze: its deadline is near
// Fenced it answers when it was called twice, or dials once a minute (agent/gate.c).
#define RELEASE_MS 20000
#define RELEASE_DIALLED_MS 90000
#define CONNECTIONS 8

struct agent {
    struct cloud cloud;
    struct link *link;
    uint64_t job;
    char *owner;
    char **disks; // names, in the order of every reply
    size_t n_disks;
};
static_assert(offsetof(struct agent, cloud) == 0, "handed out as struct cloud");

static void drop_disks(struct agent *a)
{
    for (size_t i = 0; i < a->n_disks; i++)
        free(a->disks[i]);
    free(a->disks);
    a->disks = NULL;
    a->n_disks = 0;
}

static void agent_close(struct cloud *c)
{
    struct agent *a = (struct agent *)c;
    link_close(a->link);
    drop_disks(a);
    free(a->owner);
    free(a);
}

static int agent_open(const char *address, const char *state_dir, struct cloud **ret,
                      struct err *e)
{
    const char *word = address + strlen(agent_cloud.scheme);
    struct agent_row row = {0};
    if (!*word)
        return err_set(e, ERR_USAGE, "'%s' names no agent: agent://NAME", address);
    if (!state_dir)
        return err_set(e, ERR_USAGE, "%s cannot be used here", address);
    if (agent_row_find(state_dir, word, &row, e))
        return -1;
    struct agent *a = xcalloc(1, sizeof(*a));
    a->cloud.ops = &agent_cloud;
    struct link_options o = {.state_dir = state_dir, .row = &row};
    int status = link_open(&o, &a->link, e);
    agent_row_done(&row);
    if (status) {
        agent_close(&a->cloud);
        return -1;
    }
    *ret = &a->cloud;
    return 0;
}

static int agent_describe(struct cloud *c, struct machine **ret, struct err *e)
{
    struct agent *a = (struct agent *)c;
    AUTO(json_free) json_t *reply = NULL;
    AUTO(json_free) json_t *hello = NULL;
    if (link_call(a->link, "GET", "/v1/inventory", NULL, PATIENCE_MS, &reply, e))
        return -1;
    if (machine_from_json(json_object_get(reply, "machine"), ret, e))
        return err_wrap(e, "what agent %s says of its server", link_name(a->link));
    if (link_call(a->link, "GET", "/v1/hello", NULL, PATIENCE_MS, &hello, e)) {
        machine_free(steal(*ret));
        return -1;
    }
    json_object_del(reply, "machine");
    json_object_set(reply, "agent", hello);
    json_decref((*ret)->guest);
    (*ret)->guest = steal(reply);
    return 0;
}

// --- harvests

void cloud_harvest_done(struct cloud_harvest *h)
{
    for (size_t i = 0; i < h->n_disks; i++) {
        free(h->disks[i].identity);
        free(h->disks[i].why);
    }
    free(h->disks);
    free(h->tracker);
    *h = (struct cloud_harvest){0};
}

struct disk_reply {
    char *name, *identity, *why;
    uint64_t size, epoch, changed, rewritten;
    bool known;
};
static const struct json_field disk_fields[] = {
    {"name", JSON_FIELD_STRING, offsetof(struct disk_reply, name), true},
    {"identity", JSON_FIELD_STRING, offsetof(struct disk_reply, identity), true},
    {"size", JSON_FIELD_U64, offsetof(struct disk_reply, size), true},
    {"known", JSON_FIELD_BOOL, offsetof(struct disk_reply, known), true},
    {"why", JSON_FIELD_STRING, offsetof(struct disk_reply, why), false},
    {"epoch", JSON_FIELD_U64, offsetof(struct disk_reply, epoch), true},
    {"changed", JSON_FIELD_U64, offsetof(struct disk_reply, changed), true},
    {"rewritten", JSON_FIELD_U64, offsetof(struct disk_reply, rewritten), true},
};
static const struct json_field harvest_fields[] = {
    {"id", JSON_FIELD_U64, offsetof(struct cloud_harvest, id), true},
    {"tracker", JSON_FIELD_STRING, offsetof(struct cloud_harvest, tracker), true},
    {"frozen", JSON_FIELD_BOOL, offsetof(struct cloud_harvest, frozen), true},
    {"frozen_ms", JSON_FIELD_U64, offsetof(struct cloud_harvest, frozen_ms), true},
    {"deadline_ms", JSON_FIELD_U64, offsetof(struct cloud_harvest, deadline_ms), true},
    {"held_ms", JSON_FIELD_U64, offsetof(struct cloud_harvest, held_ms), true},
};

static int read_disk(struct agent *a, size_t i, const json_t *j, bool first,
                     struct cloud_live_disk *ret, struct err *e)
{
    struct disk_reply r = {0};
    int status = json_read(j, disk_fields, ARRAY_LEN(disk_fields), &r, "a disk", e);
    if (!status && first)
        a->disks[i] = xstrdup(r.name);
    else if (!status && strcmp(a->disks[i], r.name) != 0)
        status = err_set(e, ERR_FAILED, "disk %zu was called %s and is %s now", i,
                         a->disks[i], r.name);
    if (!status)
        *ret = (struct cloud_live_disk){.identity = steal(r.identity),
                                        .size = r.size,
                                        .known = r.known,
                                        .why = steal(r.why),
                                        .epoch = r.epoch,
                                        .changed = r.changed,
                                        .rewritten = r.rewritten};
    free(r.name);
    free(r.identity);
    free(r.why);
    return status;
}

static int read_harvest(struct agent *a, const json_t *j, struct cloud_harvest *ret,
                        struct err *e)
{
    const json_t *disks = json_object_get(j, "disks");
    size_t n = json_array_size(disks);
    bool first = !a->disks;
    struct cloud_harvest h = {0};
    int status = json_read(j, harvest_fields, ARRAY_LEN(harvest_fields), &h,
                           "a harvest's reply", e);
    if (!status && (n == 0 || n > MACHINE_DISKS_MAX || (!first && n != a->n_disks)))
        status = err_set(e, ERR_FAILED, "a harvest's reply with %zu disks", n);
    if (!status) {
        h.disks = xcalloc(n, sizeof(*h.disks));
        h.n_disks = n;
    }
    if (!status && first) {
        a->disks = xcalloc(n, sizeof(*a->disks));
        a->n_disks = n;
    }
    for (size_t i = 0; i < n && !status; i++)
        status = read_disk(a, i, json_array_get(disks, i), first, &h.disks[i], e);
    if (status) {
        cloud_harvest_done(&h);
        return err_wrap(e, "agent %s", link_name(a->link));
    }
    *ret = h;
    return 0;
}

static json_t *request(const struct agent *a)
{
    return json_pack("{s:I, s:s}", "job", (json_int_t)a->job, "owner", a->owner);
}

static int agent_arm(struct cloud *c, const struct cloud_live *live,
                     struct cloud_harvest *ret, struct err *e)
{
    struct agent *a = (struct agent *)c;
    AUTO(json_free) json_t *reply = NULL;
    a->job = live->job;
    free(a->owner);
    a->owner = xstrdup(live->owner);
    drop_disks(a);
    AUTO(json_free) json_t *ask = request(a);
    if (!ask)
        return err_set(e, ERR_USAGE, "the job's owner is not text");
    if (link_call(a->link, "POST", "/v1/arm", ask, PATIENCE_MS, &reply, e))
        return -1;
    return read_harvest(a, reply, ret, e);
}

static int agent_harvest(struct cloud *c, uint64_t id, uint64_t acked,
                         struct cloud_harvest *ret, struct err *e)
{
    struct agent *a = (struct agent *)c;
    AUTO(json_free) json_t *reply = NULL;
    AUTO(json_free) json_t *ask = request(a);
    json_object_set_new(ask, "id", json_integer((json_int_t)id));
    json_object_set_new(ask, "acked", json_integer((json_int_t)acked));
    if (link_call(a->link, "POST", "/v1/harvest", ask, PATIENCE_MS, &reply, e))
        return -1;
    return read_harvest(a, reply, ret, e);
}

static int agent_view(struct cloud *c, size_t disk, enum cloud_view view, uint64_t id,
                      struct disk **ret, struct err *e)
{
    static const char *const suffixes[] = {[CLOUD_EXACT] = "",
                                           [CLOUD_USED] = ".used",
                                           [CLOUD_HASH] = ".hash",
                                           [CLOUD_CHANGED] = ""};
    struct agent *a = (struct agent *)c;
    if (disk >= a->n_disks)
        return err_set(e, ERR_FAILED, "agent %s has no disk %zu", link_name(a->link),
                       disk);
    AUTO(str_free) char *name = xasprintf("%s%s", a->disks[disk], suffixes[view]);
    AUTO(str_free) char *meta = xasprintf("godwit:changed:%llu", (unsigned long long)id);
    struct nbd_options o = {.export_name = name,
                            .connections = CONNECTIONS,
                            .connect = link_data,
                            .worth = link_worth,
                            .context = a->link,
                            .peer = link_name(a->link),
                            .meta_context = view == CLOUD_CHANGED ? meta : NULL};
    return nbd_open(&o, ret, e);
}

static int agent_distrust(struct cloud *c, const char *tracker, const char *why,
                          char **ret_tracker, struct err *e)
{
    struct agent *a = (struct agent *)c;
    AUTO(json_free) json_t *reply = NULL;
    AUTO(json_free) json_t *ask = request(a);
    json_object_set_new(ask, "tracker", json_string(tracker));
    json_object_set_new(ask, "why", json_string(why));
    if (link_call(a->link, "POST", "/v1/distrust", ask, PATIENCE_MS, &reply, e))
        return -1;
    const char *name = json_string_value(json_object_get(reply, "tracker"));
    if (!name)
        return err_set(e, ERR_FAILED, "agent %s names no tracker", link_name(a->link));
    *ret_tracker = xstrdup(name);
    return 0;
}

// --- the last seconds

static int with_token(struct agent *a, const char *path, json_t *ask /* taken */,
                      const char *token, uint64_t patience_ms,
                      json_t **ret_reply /* may be NULL */, struct err *e)
{
    AUTO(json_free) json_t *owned = ask;
    AUTO(json_free) json_t *reply = NULL;
    if (token)
        json_object_set_new(ask, "token", json_string(token));
    if (link_call(a->link, "POST", path, ask, patience_ms, &reply, e))
        return -1;
    if (ret_reply)
        *ret_reply = steal(reply);
    return 0;
}

static int agent_quiesce(struct cloud *c, const char *token, uint64_t deadline_ms,
                         json_t **ret_steps, struct err *e)
{
    struct agent *a = (struct agent *)c;
    AUTO(json_free) json_t *reply = NULL;
    json_t *ask = request(a);
    json_object_set_new(ask, "deadline_ms", json_integer((json_int_t)deadline_ms));
    if (with_token(a, "/v1/quiesce", ask, token, QUICK_MS, &reply, e))
        return -1;
    *ret_steps = json_incref(json_object_get(reply, "steps"));
    return 0;
}

static int agent_commit(struct cloud *c, const char *token, struct err *e)
{
    struct agent *a = (struct agent *)c;
    return with_token(a, "/v1/commit", request(a), token, PATIENCE_MS, NULL, e);
}

static int agent_release(struct cloud *c, const char *token, bool forget, struct err *e)
{
    struct agent *a = (struct agent *)c;
    json_t *ask = request(a);
    json_object_set_new(ask, "forget", json_boolean(forget));
    return with_token(a, "/v1/release", ask, token,
                      link_dials(a->link) ? RELEASE_MS : RELEASE_DIALLED_MS, NULL, e);
}

static void agent_limit(struct cloud *c, struct rate *rate, uint64_t *ret_bytes)
{
    struct agent *a = (struct agent *)c;
    if (rate)
        link_limit(a->link, rate);
    *ret_bytes = link_bytes(a->link);
}

const struct cloud_ops agent_cloud = {
    .scheme = "agent://",
    .what = "a server that runs, by its agent",
    .open = agent_open,
    .close = agent_close,
    .describe = agent_describe,
    .arm = agent_arm,
    .view = agent_view,
    .harvest = agent_harvest,
    .distrust = agent_distrust,
    .quiesce = agent_quiesce,
    .commit = agent_commit,
    .release = agent_release,
    .limit = agent_limit,
};

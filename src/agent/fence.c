// SPDX-License-Identifier: Apache-2.0
// The fence: after a commit the target may run, so this server stays cut off, also after
// a reboot, until godwit takes the job back or somebody says so on the console
// (`godwit-agent unfence --force`). STATE/fenced: {"token", "peer", "own", "gateway",
// "peer_port", "own_port"}: who may call, and who asks on its behalf.
#include "agent/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

struct record {
    char *token, *peer, *own, *gateway;
    uint64_t peer_port, own_port;
};
static const struct json_field fields[] = {
    {"token", JSON_FIELD_STRING, offsetof(struct record, token), true},
    {"peer", JSON_FIELD_STRING, offsetof(struct record, peer), true},
    {"own", JSON_FIELD_STRING, offsetof(struct record, own), false},
    {"gateway", JSON_FIELD_STRING, offsetof(struct record, gateway), false},
    {"peer_port", JSON_FIELD_U64, offsetof(struct record, peer_port), false},
    {"own_port", JSON_FIELD_U64, offsetof(struct record, own_port), false},
};

struct isolation fence_isolation(const struct fence *f)
{
    return (struct isolation){.peer = f->peer[0] ? f->peer : NULL,
                              .own = f->own[0] ? f->own : NULL,
                              .peer_port = f->peer_port,
                              .own_port = f->own_port};
}

int fence_write(const char *state_dir, const struct fence *f, struct err *e)
{
    AUTO(str_free) char *path = path_join(state_dir, "fenced");
    AUTO(json_free)
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "token", f->token, "peer",
                          f->peer, "own", f->own, "gateway", f->gateway, "peer_port",
                          f->peer_port, "own_port", f->own_port);
    if (!j)
        return err_set(e, ERR_FAILED, "the fence's token is not text");
    return dir_make(state_dir, 0700, e) || json_file_write(path, j, e) ? -1 : 0;
}

// What was made or taken away there outlives a power cut.
int fence_sync(const char *state_dir, struct err *e)
{
    AUTO(fd_close) int fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        return err_errno(e, errno, "sync folder %s", state_dir);
    return 0;
}

bool fence_there(const char *state_dir)
{
    AUTO(str_free) char *path = path_join(state_dir, "fenced");
    return !access(path, F_OK);
}

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "");
}

// One that cannot be read is a fence all the same: the target may be running.
static void read_record(const char *state_dir, struct fence *ret, struct err *e)
{
    AUTO(str_free) char *path = path_join(state_dir, "fenced");
    AUTO(json_free) json_t *j = NULL;
    struct record r = {0};
    *ret = (struct fence){.token = "unreadable"};
    if (!json_file_read(path, 4 * KIB, &j, e) &&
        !json_read(j, fields, ARRAY_LEN(fields), &r, path, e)) {
        copy(ret->token, sizeof(ret->token), r.token);
        copy(ret->peer, sizeof(ret->peer), r.peer);
        copy(ret->own, sizeof(ret->own), r.own);
        copy(ret->gateway, sizeof(ret->gateway), r.gateway);
        ret->peer_port = (uint16_t)r.peer_port;
        ret->own_port = (uint16_t)r.own_port;
    }
    free(r.token);
    free(r.peer);
    free(r.own);
    free(r.gateway);
}

int fence_apply(const char *state_dir, struct fence *ret, struct err *e)
{
    struct isolation nobody = {.peer = NULL};
    AUTO(str_free) char *gap = NULL;
    *ret = (struct fence){.token = ""};
    if (!fence_there(state_dir))
        return 0;
    read_record(state_dir, ret, e);
    if (isolate_begin(&nobody, &gap, e))
        return -1;
    if (gap)
        log_line(LOG_WARN, "%s", gap);
    return 0;
}

// The file last: whoever is killed before that finds a fence the next time, and nobody is
// left cut off without one. But as long as it is there an agent may isolate anew.
int fence_lift(const char *state_dir, struct err *e)
{
    AUTO(str_free) char *path = path_join(state_dir, "fenced");
    if (isolate_end(e))
        return -1;
    if (!fence_there(state_dir))
        return 0;
    return file_remove(path, e) || fence_sync(state_dir, e) || isolate_end(e) ? -1 : 0;
}

// SPDX-License-Identifier: Apache-2.0
// The fence: after a commit the target may run, so this server stays cut off, also after
// a reboot, until godwit takes the job back or somebody says so on the console
// (`godwit-agent unfence --force`). STATE/fenced: {"token", "peer", "peer_port",
// "own_port"}.
#include "agent/source.h"

#include <stdio.h>
#include <unistd.h>

struct fence {
    char *token, *peer;
    uint64_t peer_port, own_port;
};
static const struct json_field fields[] = {
    {"token", JSON_FIELD_STRING, offsetof(struct fence, token), true},
    {"peer", JSON_FIELD_STRING, offsetof(struct fence, peer), true},
    {"peer_port", JSON_FIELD_U64, offsetof(struct fence, peer_port), false},
    {"own_port", JSON_FIELD_U64, offsetof(struct fence, own_port), false},
};

int fence_write(const char *state_dir, const char *token, const struct caller *keep,
                struct err *e)
{
    AUTO(str_free) char *path = path_join(state_dir, "fenced");
    AUTO(json_free)
    json_t *j = json_pack("{s:s, s:s, s:i, s:i}", "token", token, "peer", keep->address,
                          "peer_port", keep->peer_port, "own_port", keep->own_port);
    if (!j)
        return err_set(e, ERR_FAILED, "the fence's token is not text");
    return dir_make(state_dir, 0700, e) || json_file_write(path, j, e) ? -1 : 0;
}

int fence_apply(const char *state_dir, char ret_token[static AGENT_TOKEN_MAX + 1],
                struct err *e)
{
    AUTO(str_free) char *path = path_join(state_dir, "fenced");
    AUTO(json_free) json_t *j = NULL;
    struct fence f = {0};
    ret_token[0] = '\0';
    if (access(path, F_OK))
        return 0;
    // A fence that cannot be read is one all the same: the target may be running.
    struct isolation keep = {.peer = NULL};
    if (!json_file_read(path, 4 * KIB, &j, e) &&
        !json_read(j, fields, ARRAY_LEN(fields), &f, path, e))
        keep = (struct isolation){.peer = f.peer,
                                  .peer_port = (uint16_t)f.peer_port,
                                  .own_port = (uint16_t)f.own_port};
    snprintf(ret_token, AGENT_TOKEN_MAX + 1, "%s", f.token ? f.token : "unreadable");
    int status = isolate_begin(&keep, e);
    free(f.token);
    free(f.peer);
    return status;
}

int fence_lift(const char *state_dir, struct err *e)
{
    AUTO(str_free) char *path = path_join(state_dir, "fenced");
    return file_remove(path, e) || isolate_end(e) ? -1 : 0;
}

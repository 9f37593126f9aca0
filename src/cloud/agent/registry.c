// SPDX-License-Identifier: Apache-2.0
// The agents that godwit knows: STATE/agents/NAME.json with the address and the key's
// hash. Written when one is enrolled, gone when it is removed.
#include "cloud/agent/agent.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define AGENTS_MAX 100000

struct stored {
    char *name, *address, *listen, *pin;
    uint64_t enrolled;
};
static const struct json_field fields[] = {
    {"name", JSON_FIELD_STRING, offsetof(struct stored, name), true},
    {"address", JSON_FIELD_STRING, offsetof(struct stored, address), false},
    {"listen", JSON_FIELD_STRING, offsetof(struct stored, listen), false},
    {"pin", JSON_FIELD_STRING, offsetof(struct stored, pin), true},
    {"enrolled", JSON_FIELD_U64, offsetof(struct stored, enrolled), false},
};

void agent_row_done(struct agent_row *row)
{
    free(row->name);
    free(row->address);
    free(row->listen);
    *row = (struct agent_row){0};
}

static char *path_of(const char *state_dir, const char *name)
{
    return xasprintf("%s/agents/%s.json", state_dir, name);
}

static int read_pin(const char *hex, uint8_t ret[static PIN_LEN])
{
    for (size_t i = 0; i < PIN_LEN; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            return -1;
        ret[i] = (uint8_t)byte;
    }
    return 0;
}

static int read_row(const char *path, struct agent_row *ret, struct err *e)
{
    AUTO(json_free) json_t *j = NULL;
    struct stored s = {0};
    if (json_file_read(path, 64 * KIB, &j, e))
        return -1;
    int status = json_read(j, fields, ARRAY_LEN(fields), &s, path, e);
    struct agent_row row = {
        .name = s.name, .address = s.address, .listen = s.listen, .enrolled = s.enrolled};
    if (!status && (strlen(s.pin) != 2 * PIN_LEN || read_pin(s.pin, row.pin) ||
                    !row.address == !row.listen))
        status = err_set(e, ERR_FAILED, "%s is damaged: enroll the agent again", path);
    free(s.pin);
    if (status)
        agent_row_done(&row);
    else
        *ret = row;
    return status;
}

int agent_row_write(const char *state_dir, const struct agent_row *row, struct err *e)
{
    char pin[2 * PIN_LEN + 1];
    AUTO(str_free) char *path = path_of(state_dir, row->name);
    AUTO(str_free) char *dir = path_dir(path);
    for (size_t i = 0; i < PIN_LEN; i++)
        snprintf(pin + 2 * i, 3, "%02x", row->pin[i]);
    AUTO(json_free)
    json_t *j = json_pack("{s:s, s:s*, s:s*, s:s, s:I}", "name", row->name, "address",
                          row->address, "listen", row->listen, "pin", pin, "enrolled",
                          (json_int_t)row->enrolled);
    if (!j)
        return err_set(e, ERR_USAGE, "the agent's address is not text");
    return dir_make(dir, 0700, e) || json_file_write(path, j, e) ? -1 : 0;
}

int agent_row_remove(const char *state_dir, const char *name, struct err *e)
{
    AUTO(str_free) char *path = path_of(state_dir, name);
    if (machine_check_name(name, e))
        return -1;
    if (access(path, F_OK))
        return err_set(e, ERR_USAGE, "no agent is called %s (see `godwit agent list`)",
                       name);
    return file_remove(path, e);
}

static int is_row(const struct dirent *d)
{
    return d->d_name[0] != '.' && str_ends(d->d_name, ".json");
}

int agent_rows(const char *state_dir, agent_row_visitor *visit, void *context,
               struct err *e)
{
    AUTO(str_free) char *dir = path_join(state_dir, "agents");
    struct dirent **names = NULL;
    int n = scandir(dir, &names, is_row, alphasort), status = 0;
    if (n < 0)
        return errno == ENOENT ? 0 : err_errno(e, errno, "reading %s", dir);
    for (int i = 0; i < n; i++) {
        AUTO(str_free) char *path = path_join(dir, names[i]->d_name);
        struct agent_row row = {0};
        if (!status && i < AGENTS_MAX)
            status = read_row(path, &row, e);
        if (!status)
            status = visit(context, &row, e);
        agent_row_done(&row);
        free(names[i]);
    }
    free(names);
    return status;
}

struct search {
    const char *word;
    struct agent_row *ret;
    bool found;
};

static int match(void *context, const struct agent_row *row, struct err *e)
{
    struct search *s = context;
    (void)e; // cannot fail
    if (s->found || (strcmp(row->name, s->word) != 0 &&
                     (!row->address || strcmp(row->address, s->word) != 0)))
        return 0;
    *s->ret = *row;
    s->ret->name = xstrdup(row->name);
    s->ret->address = row->address ? xstrdup(row->address) : NULL;
    s->ret->listen = row->listen ? xstrdup(row->listen) : NULL;
    s->found = true;
    return 0;
}

int agent_row_find(const char *state_dir, const char *word, struct agent_row *ret,
                   struct err *e)
{
    struct search s = {.word = word, .ret = ret};
    if (agent_rows(state_dir, match, &s, e))
        return -1;
    if (!s.found)
        return err_set(e, ERR_REFUSED,
                       "no agent %s is enrolled: `godwit agent enroll NAME` says how, "
                       "`godwit agent list` shows those that are",
                       word);
    return 0;
}

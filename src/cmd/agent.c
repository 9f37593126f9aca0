// SPDX-License-Identifier: Apache-2.0
// godwit agent enroll|list|remove: the servers that run and are enrolled.
#include "cmd/session.h"

#include <stdio.h>

#define TIMEOUT_MS (UINT64_C(30) * 60 * 1000)

struct agent_options {
    const char *at, *listen;
    uint64_t timeout_ms;
};
static const struct opt options[] = {
    {.name = "at",
     .type = OPT_STRING,
     .arg = "ADDRESS:PORT",
     .help = "enroll: the agent waits there, and godwit connects to it from now on",
     .offset = offsetof(struct agent_options, at)},
    {.name = "listen",
     .type = OPT_STRING,
     .arg = "ADDRESS:PORT",
     .help = "enroll: godwit waits here, and the agent dials it from now on",
     .offset = offsetof(struct agent_options, listen)},
    {.name = "timeout",
     .type = OPT_MS,
     .arg = "TIME",
     .help = "enroll: how long to wait for the agent; default: 30m",
     .offset = offsetof(struct agent_options, timeout_ms)},
    {0},
};

static int enroll(const char *state_dir, const struct agent_options *o, const char *name,
                  struct err *e)
{
    char token[AGENT_TOKEN_LEN + 1];
    if (!name || machine_check_name(name, e))
        return name ? -1 : err_set(e, ERR_USAGE, "agent enroll takes a NAME");
    if (!o->at == !o->listen)
        return err_set(e, ERR_USAGE,
                       "agent enroll takes --at, where the agent will wait, or --listen, "
                       "where godwit does");
    agent_token(token);
    const char *colon = o->at ? strrchr(o->at, ':') : NULL;
    AUTO(buf_done) struct buf out = BUF_INIT(4 * KIB);
    // On a server without IPv6 [::] would be refused.
    const char *way = !o->at            ? "--dial "
                      : o->at[0] == '[' ? "--listen [::]"
                                        : "--listen 0.0.0.0";
    // The token goes through a pipe: nobody sees it in the list of processes.
    buf_printf(&out, "echo %s | godwit-agent enroll %s%s && godwit-agent install\n",
               token, way, o->at ? colon ? colon : "" : o->listen);
    print_buf(&out);
    log_line(LOG_INFO,
             "run that line as root on %s, once; waiting until it is done (Ctrl-C gives "
             "up)",
             name);
    struct agent_enrolment n = {.state_dir = state_dir,
                                .name = name,
                                .token = token,
                                .address = o->at,
                                .listen = o->listen,
                                .timeout_ms = o->timeout_ms ? o->timeout_ms : TIMEOUT_MS};
    if (agent_enroll(&n, e))
        return -1;
    log_line(LOG_INFO, "%s is enrolled: agent://%s", name, name);
    return 0;
}

struct listing {
    json_t *array;
    struct table table;
};

static int add(void *context, const struct agent_row *row, struct err *e)
{
    struct listing *l = context;
    char when[24];
    (void)e; // cannot fail
    clock_iso(row->enrolled, when);
    json_array_append_new(l->array, json_pack("{s:s, s:s*, s:s*, s:s}", "name", row->name,
                                              "address", row->address, "dials",
                                              row->listen, "enrolled", when));
    table_cell(&l->table, row->name);
    table_cell(&l->table, row->address ? row->address : "dials");
    table_cell(&l->table, row->listen);
    table_cell(&l->table, when);
    return 0;
}

static int list(const struct globals *g, const char *state_dir, struct err *e)
{
    static const char *const head[] = {"agent", "address", "to", "enrolled"};
    struct listing l = {.array = json_array(), .table = {.n_columns = ARRAY_LEN(head)}};
    AUTO(buf_done) struct buf out = BUF_INIT(16 * MIB);
    for (size_t i = 0; i < ARRAY_LEN(head); i++)
        table_cell(&l.table, head[i]);
    int status = agent_rows(state_dir, add, &l, e);
    if (!status && g->json)
        print_json(json_incref(l.array));
    else if (!status)
        table_print(&l.table, &out);
    print_buf(&out);
    table_done(&l.table);
    json_decref(l.array);
    return status;
}

static int run(const struct globals *g, void *values, const struct strings *args,
               struct err *e)
{
    AUTO(str_free) char *state_dir = session_state_dir(g);
    const char *verb = args->v[0], *name = args->n > 1 ? args->v[1] : NULL;
    if (strcmp(verb, "enroll") == 0)
        return enroll(state_dir, values, name, e);
    if (strcmp(verb, "list") == 0)
        return list(g, state_dir, e);
    if (strcmp(verb, "remove") == 0 && name)
        return agent_row_remove(state_dir, name, e);
    return err_set(e, ERR_USAGE, "agent takes enroll NAME, list, or remove NAME");
}

const struct command command_agent = {
    .name = "agent",
    .args = "enroll|list|remove [NAME]",
    .summary = "servers that run: enroll their agents, list and remove them",
    .help =
        "enroll prints one line to be run as root on the server, where godwit-agent is "
        "the only thing that is needed, and waits until the agent has its certificate. "
        "The server's key is made there and stays there; the token in the line works "
        "once.\n\n"
        "With --at godwit connects to the agent, with --listen the agent dials godwit: "
        "for servers that cannot be reached from here.",
    .examples = "godwit agent enroll crm01 --at 192.0.2.21:7443\n"
                "godwit agent enroll crm01 --listen 192.0.2.9:7443\n"
                "godwit migrate agent://crm01 dir:out\n",
    .options = options,
    .options_size = sizeof(struct agent_options),
    .min_args = 1,
    .max_args = 2,
    .run = run,
};
